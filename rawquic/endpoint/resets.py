"""Stateless resets (RFC 9000 §10.3): what answers a packet of a connection that is forgotten."""

import secrets

BURST, RATE = 50, 50.0  # resets: at once, and per second
LEAST, MOST = 21, 42  # bytes of a reset
TOKEN_LENGTH = 16


class StatelessResets:
    """Writes them, few enough.

    Attributes:
        sent: how many.
    """

    def __init__(self) -> None:
        self.sent = 0
        self._allowed = float(BURST)
        self._time = 0.0

    @staticmethod
    def token_of(packet: bytes) -> bytes | None:
        """The token that `packet` ends with, were it a reset; None where it is too short."""
        return packet[-TOKEN_LENGTH:] if len(packet) >= LEAST else None

    def is_allowed(self, packet: bytes, now: float) -> bool:
        """May `packet`, of no connection, be answered?"""
        self._allowed = min(BURST, self._allowed + (now - self._time) * RATE)
        self._time = now
        return len(packet) > LEAST and self._allowed >= 1

    def answer(self, packet: bytes, token: bytes) -> bytes:
        """The reset that answers `packet`: noise that looks like a short header, and the token.

        It is smaller than `packet`, so that two endpoints that answer each other come to an end;
        by one byte up to 43 bytes, as keep-alives and small requests have (§10.3.3).
        """
        self._allowed -= 1
        self.sent += 1
        noise = bytearray(secrets.token_bytes(min(len(packet) - 1, MOST) - TOKEN_LENGTH))
        noise[0] = 0x40 | noise[0] & 0x3F
        return bytes(noise) + token
