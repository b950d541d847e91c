"""`OneRttKeys`: the data plane's packet keys, derived one key phase ahead of need (RFC 9001 §6.1).

It keeps the secrets of the next phase. When a phase begins is the data plane's to say.
"""

from typing import Any

from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite

from .. import _fastpath

CIPHERS = {
    CipherSuite.AES_128_GCM_SHA256: "aes-128-gcm",
    CipherSuite.AES_256_GCM_SHA384: "aes-256-gcm",
    CipherSuite.CHACHA20_POLY1305_SHA256: "chacha20-poly1305",
}
HASHES = {
    CipherSuite.AES_128_GCM_SHA256: ("sha256", 32),
    CipherSuite.AES_256_GCM_SHA384: ("sha384", 48),
    CipherSuite.CHACHA20_POLY1305_SHA256: ("sha256", 32),
}


def key_labels(version: int) -> bytes:
    """What the labels of a QUIC version begin with (RFC 9001 §5.1, RFC 9369 §3.3.2)."""
    return b"quicv2 " if version == QuicProtocolVersion.VERSION_2 else b"quic "


class OneRttKeys:
    """The keys of both directions; `provider` is `Config.aead`."""

    def __init__(self, plane: _fastpath.DataPlane, provider: str) -> None:
        self._plane = plane
        self._provider = provider
        # By direction, True is sending: suite, secret, version, header protection key.
        self._secrets: dict[bool, tuple[Any, bytes, int, bytes]] = {}

    def begin(self, is_send: bool, suite: Any, secret: bytes, version: int) -> None:
        """TLS has the first secret of a direction."""
        hash_name, _ = HASHES[suite]
        length = 16 if suite is CipherSuite.AES_128_GCM_SHA256 else 32
        label = key_labels(version) + b"hp"
        hp = _fastpath.hkdf_expand_label(hash_name, secret, label, b"", length)
        self._secrets[is_send] = (suite, secret, version, hp)
        current, following = self._packet_key(is_send), self._next(is_send)
        if is_send:
            self._plane.set_seal_key(current, following)
        else:
            self._plane.set_open_key(current, following)

    def follow(self) -> None:
        """The data plane went on to the next phase: derive the one behind it."""
        self._plane.set_next_keys(self._next(True), self._next(False))

    def _next(self, is_send: bool) -> _fastpath.PacketKey:
        """The packet key of the next phase; header protection keeps its key."""
        suite, secret, version, hp = self._secrets[is_send]
        hash_name, length = HASHES[suite]
        label = key_labels(version) + b"ku"
        secret = _fastpath.hkdf_expand_label(hash_name, secret, label, b"", length)
        self._secrets[is_send] = (suite, secret, version, hp)
        return self._packet_key(is_send)

    def _packet_key(self, is_send: bool) -> _fastpath.PacketKey:
        suite, secret, version, hp = self._secrets[is_send]
        provider = self._provider
        if suite is CipherSuite.CHACHA20_POLY1305_SHA256:
            provider = "auto"  # ipsec-mb is for AES-GCM
        return _fastpath.derive_packet_key(
            CIPHERS[suite], secret, key_labels(version), hp, provider=provider
        )
