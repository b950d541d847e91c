"""`HandshakeKeys`: the `CryptoPair` of the Initial and Handshake spaces, on compiled packet keys.

Initial keys are derived when they are first used: aioquic sets up a pair for each QUIC version,
of which a connection uses one. It takes no packet numbers; those are aioquic's.
"""

from collections.abc import Callable
from typing import Any

from aioquic.quic.crypto import (
    INITIAL_CIPHER_SUITE,
    INITIAL_SALT_VERSION_1,
    INITIAL_SALT_VERSION_2,
    CryptoError,
    KeyUnavailableError,
    NoCallback,
)
from aioquic.quic.packet import QuicProtocolVersion

from .. import _fastpath
from .one_rtt_keys import CIPHERS, key_labels

Callback = Callable[[str], None]


class _Direction:
    """The `CryptoContext` of one direction."""

    __slots__ = ("_initial", "_key", "_setup_cb", "_teardown_cb")

    key_phase = 0

    def __init__(self, setup_cb: Callback, teardown_cb: Callback) -> None:
        self._setup_cb, self._teardown_cb = setup_cb, teardown_cb
        self._key: _fastpath.PacketKey | None = None
        self._initial: tuple[bytes, bytes, int] | None = None  # not derived yet

    def is_valid(self) -> bool:
        return self._key is not None or self._initial is not None

    def setup(self, *, cipher_suite: Any, secret: bytes, version: int) -> None:
        self._key = _fastpath.derive_packet_key(
            CIPHERS[cipher_suite], secret, key_labels(version), provider="openssl"
        )
        self._setup_cb("tls")

    def setup_initial(self, cid: bytes, label: bytes, version: int) -> None:
        self._initial = (cid, label, version)
        self._setup_cb("tls")

    def teardown(self) -> None:
        self._key = self._initial = None
        self._teardown_cb("tls")

    def key(self) -> _fastpath.PacketKey | None:
        if self._initial is not None:
            (cid, label, version), self._initial = self._initial, None
            second = version == QuicProtocolVersion.VERSION_2
            salt = INITIAL_SALT_VERSION_2 if second else INITIAL_SALT_VERSION_1
            secret = _fastpath.hkdf_extract("sha256", salt, cid)  # RFC 9001 §5.2
            self._key = _fastpath.derive_packet_key(
                CIPHERS[INITIAL_CIPHER_SUITE],
                _fastpath.hkdf_expand_label("sha256", secret, label, b"", 32),
                key_labels(version),
                provider="openssl",
            )
        return self._key


class HandshakeKeys:
    """Both directions."""

    __slots__ = ("recv", "send")

    aead_tag_size = 16
    key_phase = 0

    def __init__(
        self,
        recv_setup_cb: Callback = NoCallback,
        recv_teardown_cb: Callback = NoCallback,
        send_setup_cb: Callback = NoCallback,
        send_teardown_cb: Callback = NoCallback,
    ) -> None:
        self.recv = _Direction(recv_setup_cb, recv_teardown_cb)
        self.send = _Direction(send_setup_cb, send_teardown_cb)

    def setup_initial(self, cid: bytes, is_client: bool, version: int) -> None:
        labels = (b"server in", b"client in") if is_client else (b"client in", b"server in")
        self.recv.setup_initial(cid, labels[0], version)
        self.send.setup_initial(cid, labels[1], version)

    def decrypt_packet(
        self, packet: bytes, encrypted_offset: int, expected_packet_number: int
    ) -> tuple[bytes, bytes, int]:
        key = self.recv.key()
        if key is None:
            raise KeyUnavailableError("Decryption key is not available")
        try:
            return _fastpath.unprotect_packet(key, packet, encrypted_offset, expected_packet_number)
        except ValueError as error:
            raise CryptoError(str(error)) from None

    def encrypt_packet(self, plain_header: bytes, plain_payload: bytes, number: int) -> bytes:
        key = self.send.key()
        assert key is not None, "Encryption key is not available"
        return _fastpath.protect_packet(key, plain_header, plain_payload, number)

    def teardown(self) -> None:
        self.recv.teardown()
        self.send.teardown()
