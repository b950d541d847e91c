"""`OneRttGate`: what aioquic finds in place of its 1-RTT keys.

It takes the secrets that aioquic's TLS installs and gives them to the data plane. aioquic itself
can neither open nor seal a 1-RTT packet with it: a packet number used twice under one key would
repeat an AEAD nonce.
"""

from collections.abc import Callable
from typing import Any

from aioquic.quic.crypto import KeyUnavailableError

OnSecret = Callable[[bool, Any, bytes, int], None]


class _Direction:
    """The `CryptoContext` of one direction."""

    key_phase = 0

    def __init__(self, is_send: bool, on_secret: OnSecret) -> None:
        self._is_send = is_send
        self._on_secret = on_secret
        self.writing_frames = False

    def setup(self, *, cipher_suite: Any, secret: bytes, version: int) -> None:
        self._on_secret(self._is_send, cipher_suite, secret, version)

    def is_valid(self) -> bool:
        """True only while aioquic writes frames into a sink."""
        return self.writing_frames

    def teardown(self) -> None:
        self._on_secret = lambda *_: None


class OneRttGate:
    """The `CryptoPair` of the 1-RTT space."""

    aead_tag_size = 16
    key_phase = 0

    def __init__(self, on_secret: OnSecret) -> None:
        self.send = _Direction(True, on_secret)
        self.recv = _Direction(False, on_secret)

    def decrypt_packet(self, *arguments: Any) -> Any:
        raise KeyUnavailableError("1-RTT packets are the data plane's")

    def update_key(self) -> None:
        raise AssertionError("key updates are the data plane's")

    def teardown(self) -> None:
        self.send.teardown()
        self.recv.teardown()
