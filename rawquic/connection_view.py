"""`Connection`: what a session's QUIC connection is, counts, and can be set to.

It holds nothing of its own. No streams and no datagrams: those are the session's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from cryptography import x509

from .config import MAX_STREAMS
from .stats import ConnectionStats

if TYPE_CHECKING:
    from .session import RawQuicSession


class Connection:
    """What there is to know and to set about a session's QUIC connection."""

    def __init__(self, session: RawQuicSession) -> None:
        self._session = session
        self._connection = session._connection
        self._link = session._link

    @property
    def side(self) -> Literal["client", "server"]:
        """Which of the two this end is."""
        return "client" if self._link.is_client else "server"

    @property
    def id(self) -> str:
        """The client's first destination connection ID in hex: names the connection in logs."""
        return self._connection.connection_id().hex()

    @property
    def backend(self) -> str:
        """What carries this connection's packets: "compiled" or "python"."""
        return self._connection.backend

    @property
    def alpn(self) -> str | None:
        """The application protocol that was negotiated (RFC 7301)."""
        return self._connection.alpn()

    @property
    def server_name(self) -> str | None:
        """The name that the client asked for; None on the server side."""
        return self._session._server_name

    @property
    def peer_certificates(self) -> list[x509.Certificate]:
        """The peer's certificate and its chain; empty where it showed none."""
        return self._connection.peer_certificates()

    @property
    def rtt(self) -> float:
        """The smoothed round-trip time, seconds (RFC 9002 §5.3)."""
        return self._connection.statistics().rtt

    def stats(self) -> ConnectionStats:
        """Counters since the start of the connection."""
        endpoint = self._link.endpoint
        socket = endpoint.socket_stats()
        return ConnectionStats(
            **vars(self._connection.statistics()),
            bytes_given_up=self._session._bytes_given_up,
            socket_receive_calls=socket["receive_calls"],
            socket_send_calls=socket["send_calls"],
            socket_datagrams_received=socket["receive_datagrams"],
            socket_datagrams_sent=socket["send_datagrams"],
            socket_receive_buffer=endpoint.receive_buffer,
            socket_send_buffer=endpoint.send_buffer,
        )

    async def ping(self) -> float:
        """Send a PING (RFC 9000 §19.2); the time to its acknowledgement, seconds.

        Raises SessionError.
        """
        session = self._session
        session._link.endpoint.turn.check()
        session._raise_if_closed()
        session._ping_number += 1
        number = session._ping_number
        future = session._pings[number] = session._loop.create_future()
        started = time.monotonic()  # a loop's own clock may tick in milliseconds only (uvloop)
        self._connection.ping(number)
        self._link.flush_soon()
        try:
            await future
        finally:
            session._pings.pop(number, None)
        session._raise_if_closed()
        return time.monotonic() - started

    def request_key_update(self) -> None:
        """Change to the next packet protection keys, as soon as RFC 9001 §6.1 allows it.

        Raises SessionError.
        """
        self._usable()
        self._connection.update_keys()
        self._link.flush_soon()

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        """Not there yet."""
        raise NotImplementedError("export_keying_material is not there yet")

    def set_max_concurrent_bidi_streams(self, count: int) -> None:
        """How many bidirectional streams the peer may have open at once, 0 .. 65,536.

        Credit that was given cannot be taken back (RFC 9000 §4.6): a lower number is reached as
        streams end. Raises ValueError, SessionError.
        """
        self._set_max_streams(False, count)

    def set_max_concurrent_uni_streams(self, count: int) -> None:
        """The same for unidirectional streams."""
        self._set_max_streams(True, count)

    def set_receive_window(self, size: int) -> None:
        """Unread bytes that the connection may hold, 1 KiB .. 1 GiB (RFC 9000 §4.1).

        It holds at once. Credit that the peer has been given stays given. Raises ValueError,
        SessionError.
        """
        self._usable()
        self._connection.set_receive_window(_window(size))
        self._link.flush_soon()

    def set_send_window(self, size: int) -> None:
        """Written and not acknowledged bytes that the connection may hold, 1 KiB .. 1 GiB.

        Raises ValueError, SessionError.
        """
        self._usable()
        self._connection.set_send_window(_window(size))
        self._link.flush_soon()

    def _set_max_streams(self, unidirectional: bool, count: int) -> None:
        self._usable()
        whole = isinstance(count, int) and not isinstance(count, bool)
        if not whole or not 0 <= count <= MAX_STREAMS:
            raise ValueError(f"{count!r} streams: it must be an integer from 0 to {MAX_STREAMS:,}")
        self._connection.set_max_streams(unidirectional, count)
        self._link.flush_soon()

    def _usable(self) -> None:
        self._link.endpoint.turn.check()
        self._session._raise_if_closed()


def _window(size: Any) -> int:
    if not isinstance(size, int) or not 1024 <= size <= 1 << 30:
        raise ValueError(f"a window of {size!r} bytes: it must be an integer from 1 KiB to 1 GiB")
    return size
