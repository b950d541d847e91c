"""`OneRttKeys`: the data plane's packet keys, derived one key phase ahead of need (RFC 9001 §6.1).

It keeps the secrets of the next phase. When a phase begins is the data plane's to say.
"""

from typing import Any

from aioquic.quic.crypto import derive_key_iv_hp
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite, cipher_suite_hash, hkdf_expand_label

from .. import _fastpath

CIPHERS = {
    CipherSuite.AES_128_GCM_SHA256: "aes-128-gcm",
    CipherSuite.AES_256_GCM_SHA384: "aes-256-gcm",
    CipherSuite.CHACHA20_POLY1305_SHA256: "chacha20-poly1305",
}


class OneRttKeys:
    """The keys of both directions; `provider` is `Config.aead`."""

    def __init__(self, plane: _fastpath.DataPlane, provider: str) -> None:
        self._plane = plane
        self._provider = provider
        # By direction, True is sending: suite, secret, version, header protection key.
        self._secrets: dict[bool, tuple[Any, bytes, int, bytes]] = {}

    def begin(self, is_send: bool, suite: Any, secret: bytes, version: int) -> None:
        """TLS has the first secret of a direction."""
        key, iv, hp = derive_key_iv_hp(cipher_suite=suite, secret=secret, version=version)
        current = self._packet_key(suite, key, iv, hp)
        self._secrets[is_send] = (suite, secret, version, hp)
        following = self._next(is_send)
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
        label = b"quicv2 ku" if version == QuicProtocolVersion.VERSION_2 else b"quic ku"
        algorithm = cipher_suite_hash(suite)
        secret = hkdf_expand_label(algorithm, secret, label, b"", algorithm.digest_size)
        self._secrets[is_send] = (suite, secret, version, hp)
        key, iv, _ = derive_key_iv_hp(cipher_suite=suite, secret=secret, version=version)
        return self._packet_key(suite, key, iv, hp)

    def _packet_key(self, suite: Any, key: bytes, iv: bytes, hp: bytes) -> _fastpath.PacketKey:
        provider = self._provider
        if suite is CipherSuite.CHACHA20_POLY1305_SHA256:
            provider = "auto"  # ipsec-mb is for AES-GCM
        return _fastpath.PacketKey(CIPHERS[suite], key, iv, hp, provider=provider)
