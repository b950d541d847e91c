"""Sealing and opening a train of 44 packets of 1,452 bytes, per provider and cipher.

Run with `pytest bench/micro/test_aead.py`. `extra_info` and the table's group say what ran; the
minimum divided by 44 is the time of a packet. The rows called "cryptography" are the Python twin:
one call per packet, without a train and with a `bytes` object for each.
"""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from rawquic import _fastpath
from rawquic._fastpath import PacketKey

COUNT, SEGMENT, HEADER_LENGTH, TAG_LENGTH = 44, 1452, 12, 16
KEY_LENGTH = {"aes-128-gcm": 16, "aes-256-gcm": 32, "chacha20-poly1305": 32}
COMBINATIONS = [
    (provider, cipher)
    for cipher in KEY_LENGTH
    for provider in ("ipsec-mb", "openssl", "cryptography")
    if (provider, cipher) != ("ipsec-mb", "chacha20-poly1305")
]
each_suite = pytest.mark.parametrize(
    ("provider", "cipher"), COMBINATIONS, ids=["/".join(c) for c in COMBINATIONS]
)


def twin(cipher: str) -> AESGCM | ChaCha20Poly1305:
    key = bytes(KEY_LENGTH[cipher])
    return ChaCha20Poly1305(key) if cipher == "chacha20-poly1305" else AESGCM(key)


def packet_key(provider: str, cipher: str) -> PacketKey:
    if provider not in _fastpath.aead_providers():
        pytest.skip(f"provider {provider} is not there")
    length = KEY_LENGTH[cipher]
    return PacketKey(cipher, bytes(length), bytes(12), bytes(length), provider=provider)


def run(benchmark: Any, name: str, provider: str, call: Callable[..., object], setup: Any) -> None:
    benchmark.group = name
    benchmark.extra_info["provider"] = provider
    benchmark.extra_info["openssl"] = _fastpath.openssl_version()
    benchmark.pedantic(call, setup=setup, rounds=500, warmup_rounds=20)
    nanoseconds = benchmark.stats.stats.min / COUNT * 1e9
    benchmark.extra_info["ns_per_packet"] = round(nanoseconds, 1)
    print(f"\n{name}, {provider}: {nanoseconds:.0f} ns a packet")


@each_suite
def test_seal(benchmark: Any, provider: str, cipher: str) -> None:
    name = f"seal {COUNT} x {SEGMENT} B, {cipher}"
    if provider == "cryptography":
        aead, nonces = twin(cipher), [i.to_bytes(12, "big") for i in range(COUNT)]
        header, text = bytes(HEADER_LENGTH), bytes(SEGMENT - HEADER_LENGTH - TAG_LENGTH)

        def seal_singly() -> None:
            for nonce in nonces:
                aead.encrypt(nonce, text, header)

        run(benchmark, name, provider, seal_singly, None)
        return
    key, train = packet_key(provider, cipher), bytearray(COUNT * SEGMENT)
    run(
        benchmark,
        name,
        provider,
        lambda: key.seal_train(train, SEGMENT, HEADER_LENGTH, 0, COUNT),
        None,
    )


@each_suite
def test_open(benchmark: Any, provider: str, cipher: str) -> None:
    name = f"open {COUNT} x {SEGMENT} B, {cipher}"
    if provider == "cryptography":
        aead, nonces = twin(cipher), [i.to_bytes(12, "big") for i in range(COUNT)]
        header = bytes(HEADER_LENGTH)
        packets = [
            (n, aead.encrypt(n, bytes(SEGMENT - HEADER_LENGTH - TAG_LENGTH), header))
            for n in nonces
        ]

        def open_singly() -> None:
            for nonce, packet in packets:
                aead.decrypt(nonce, packet, header)

        run(benchmark, name, provider, open_singly, None)
        return
    key, sealed = packet_key(provider, cipher), bytearray(COUNT * SEGMENT)
    key.seal_train(sealed, SEGMENT, HEADER_LENGTH, 0, COUNT)
    train = bytearray(len(sealed))

    def receive() -> None:
        train[:] = sealed

    def open_train() -> None:
        assert key.open_train(train, SEGMENT, HEADER_LENGTH, 0, COUNT) == 0

    run(benchmark, name, provider, open_train, receive)
