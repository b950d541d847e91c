"""Packet protection of rawquic._fastpath: published vectors, an independent implementation,
the providers against each other, and what a forged packet may leave behind (nothing).
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if importlib.util.find_spec("rawquic._fastpath") is None:
    pytest.skip("the compiled data plane was not built", allow_module_level=True)

from rawquic import _fastpath
from rawquic._fastpath import PacketKey

TAG = 16
HEADER = bytes(range(0x40, 0x4C))
KEY_LENGTH = {"aes-128-gcm": 16, "aes-256-gcm": 32, "chacha20-poly1305": 32}
COMBINATIONS = [
    ("openssl", "aes-128-gcm"),
    ("openssl", "aes-256-gcm"),
    ("openssl", "chacha20-poly1305"),
    ("ipsec-mb", "aes-128-gcm"),
    ("ipsec-mb", "aes-256-gcm"),
]
VECTORS = json.loads((Path(__file__).parent / "data" / "aead_vectors.json").read_text())
relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def need(provider: str) -> None:
    if provider not in _fastpath.aead_providers():
        pytest.skip(f"provider {provider} is not compiled in or this processor lacks it")


@pytest.fixture(scope="module", params=["openssl", "ipsec-mb"])
def provider(request: pytest.FixtureRequest) -> str:
    need(request.param)
    return str(request.param)


@pytest.fixture(scope="module", params=COMBINATIONS, ids=["/".join(c) for c in COMBINATIONS])
def suite(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Provider and cipher."""
    need(request.param[0])
    provider, cipher = request.param
    return provider, cipher


def make_key(suite: tuple[str, str], seed: int = 1) -> PacketKey:
    provider, cipher = suite
    return PacketKey(cipher, *secrets_of(cipher, seed), provider=provider)


def secrets_of(cipher: str, seed: int) -> tuple[bytes, bytes, bytes]:
    """Key, IV and header-protection key."""
    source = random.Random(seed)
    length = KEY_LENGTH[cipher]
    return source.randbytes(length), source.randbytes(12), source.randbytes(length)


def reference(cipher: str, seed: int) -> tuple[AESGCM | ChaCha20Poly1305, bytes]:
    """The AEAD of `cryptography`, and the IV."""
    key, iv, _ = secrets_of(cipher, seed)
    return (ChaCha20Poly1305(key) if cipher == "chacha20-poly1305" else AESGCM(key)), iv


def nonce(iv: bytes, packet_number: int) -> bytes:
    return (int.from_bytes(iv, "big") ^ packet_number).to_bytes(12, "big")


def applies(provider: str, vector: dict[str, Any]) -> bool:
    return provider == "openssl" or str(vector["cipher"]).startswith("aes")


# Published vectors


@pytest.mark.parametrize("vector", VECTORS["aead"], ids=lambda v: v["name"])
def test_aead_vector(provider: str, vector: dict[str, Any]) -> None:
    if not applies(provider, vector):
        pytest.skip("ipsec-mb is not used for ChaCha20-Poly1305")
    raw = {n: bytes.fromhex(vector[n]) for n in vector if n not in ("name", "cipher")}
    key = PacketKey(
        vector["cipher"], raw["key"], raw["iv"], bytes(len(raw["key"])), provider=provider
    )
    sealed = raw["aad"] + raw["ciphertext"] + raw["tag"]
    assert key.seal(raw["aad"], 0, raw["plaintext"]).hex() == sealed.hex()
    assert key.open(sealed, len(raw["aad"]), 0) == raw["plaintext"]


@pytest.mark.parametrize("vector", VECTORS["packets"], ids=lambda v: v["name"])
def test_protected_packet_vector(provider: str, vector: dict[str, Any]) -> None:
    """RFC 9001 appendix A: sealing, the mask, and the whole protected packet."""
    if not applies(provider, vector):
        pytest.skip("ipsec-mb is not used for ChaCha20-Poly1305")
    raw = {
        name: bytes.fromhex(vector[name])
        for name in ("key", "iv", "hp", "header", "plaintext", "sample", "mask", "packet")
    }
    number, number_length = vector["packet_number"], vector["packet_number_length"]
    key = PacketKey(vector["cipher"], raw["key"], raw["iv"], raw["hp"], provider=provider)
    number_at = len(raw["header"]) - number_length
    packet = bytearray(key.seal(raw["header"], number, raw["plaintext"]))
    # RFC 9001 §5.4.2: the sample is where it would be if the packet number had 4 bytes.
    assert packet[number_at + 4 : number_at + 20] == raw["sample"]
    mask = key.masks(raw["sample"])
    assert mask == raw["mask"]
    # RFC 9001 §5.4.1
    packet[0] ^= mask[0] & (0x0F if packet[0] & 0x80 else 0x1F)
    for i in range(number_length):
        packet[number_at + i] ^= mask[1 + i]
    assert packet.hex() == raw["packet"].hex()
    received = raw["header"] + raw["packet"][len(raw["header"]) :]
    assert key.open(received, len(raw["header"]), number) == raw["plaintext"]


# An independent implementation, and the providers against each other


@relaxed
@given(
    seed=st.integers(0, 2**32),
    length=st.one_of(st.integers(0, 9000), st.integers(0, 70)),
    header_length=st.integers(0, 70),
    packet_number=st.integers(0, 2**62 - 1),
)
def test_same_as_cryptography(
    suite: tuple[str, str], seed: int, length: int, header_length: int, packet_number: int
) -> None:
    source = random.Random(seed)
    plaintext, header = source.randbytes(length), source.randbytes(header_length)
    aead, iv = reference(suite[1], seed)
    sealed = header + aead.encrypt(nonce(iv, packet_number), plaintext, header)
    key = make_key(suite, seed)
    assert key.seal(header, packet_number, plaintext) == sealed
    assert key.seal(header, packet_number, plaintext, source.randint(0, length)) == sealed
    assert key.open(sealed, header_length, packet_number) == plaintext


@relaxed
@given(seed=st.integers(0, 2**32), length=st.integers(0, 9000), number=st.integers(0, 2**62 - 1))
@pytest.mark.parametrize("cipher", ["aes-128-gcm", "aes-256-gcm"])
def test_providers_agree(cipher: str, seed: int, length: int, number: int) -> None:
    need("ipsec-mb")
    source = random.Random(seed)
    plaintext, header = source.randbytes(length), source.randbytes(source.randint(0, 40))
    one, other = (make_key((name, cipher), seed) for name in ("openssl", "ipsec-mb"))
    sealed = one.seal(header, number, plaintext)
    assert other.seal(header, number, plaintext) == sealed
    assert other.open(sealed, len(header), number) == plaintext
    samples = source.randbytes(16 * 7)
    assert one.masks(samples) == other.masks(samples)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33, 48, 64, 127, 128, 129])
def test_two_part_seal_equals_one_part_at_every_split(suite: tuple[str, str], length: int) -> None:
    key, plaintext = make_key(suite), random.Random(length).randbytes(length)
    whole = key.seal(HEADER, 7, plaintext)
    for split in range(length + 1):
        assert key.seal(HEADER, 7, plaintext, split) == whole, split


@pytest.mark.parametrize("length", [1424, 2048, 2049, 8872])
def test_two_part_seal_of_full_packets(suite: tuple[str, str], length: int) -> None:
    key, plaintext = make_key(suite), random.Random(length).randbytes(length)
    whole = key.seal(HEADER, 7, plaintext)
    near = [*range(40), *range(240, 275), *range(length - 40, length + 1)]
    for split in near + list(range(0, length, 61)):
        assert key.seal(HEADER, 7, plaintext, split) == whole, split


# Forgeries


def train_of(key: PacketKey, packets: list[bytes], header: bytes, number: int) -> bytearray:
    return bytearray(b"".join(key.seal(header, number + i, p) for i, p in enumerate(packets)))


@pytest.mark.parametrize("length", [0, 1, 37, 150])
def test_a_changed_byte_anywhere_is_rejected(suite: tuple[str, str], length: int) -> None:
    key, plaintext = make_key(suite), random.Random(length).randbytes(length)
    packet = key.seal(HEADER, 9, plaintext)
    for at in range(len(packet)):
        forged = bytearray(packet)
        forged[at] ^= 1 << (at % 8)
        with pytest.raises(ValueError, match=r"^authentication failed$"):
            key.open(bytes(forged), len(HEADER), 9)
    assert key.failed_opens == len(packet)
    assert key.open(packet, len(HEADER), 9) == plaintext


def test_another_number_header_length_or_key_is_rejected(suite: tuple[str, str]) -> None:
    key = make_key(suite)
    packet = key.seal(HEADER, 9, bytes(100))
    for header_length, number in ((len(HEADER), 8), (len(HEADER) - 1, 9), (len(HEADER) + 1, 9)):
        with pytest.raises(ValueError, match="authentication failed"):
            key.open(packet, header_length, number)
    for shorter in (packet[:-1], packet[:40], packet + b"\0"):
        with pytest.raises(ValueError, match="authentication failed"):
            key.open(shorter, len(HEADER), 9)
    with pytest.raises(ValueError, match="authentication failed"):
        make_key(suite, seed=2).open(packet, len(HEADER), 9)


@pytest.mark.parametrize(
    "at", [0, 11, 12, 27, 28, 700, 1435, 1436, 1451], ids=lambda at: f"byte {at}"
)
def test_a_forged_packet_leaves_no_plaintext(suite: tuple[str, str], at: int) -> None:
    """Byte `at` of the middle one of three packets is changed: header, ciphertext or tag."""
    key, source = make_key(suite), random.Random(at)
    texts = [source.randbytes(1424) for _ in range(3)]
    buffer = train_of(key, texts, HEADER, 50)
    buffer[1452 + at] ^= 0x10
    tag = bytes(buffer[2 * 1452 - TAG : 2 * 1452])
    assert key.open_train(buffer, 1452, len(HEADER), 50, 3) == 1
    assert key.failed_opens == 1
    first, forged, last = (buffer[i * 1452 : (i + 1) * 1452] for i in range(3))
    assert first[12:-TAG] == texts[0]
    assert last[12:-TAG] == texts[2]
    assert forged[12:-TAG] == bytes(1424)
    assert forged[-TAG:] == tag, "the last 16 bytes may be a stateless reset token"


# Trains and masks


@pytest.mark.parametrize("count", [1, 2, 44, 64, 65, 150])
@pytest.mark.parametrize("short", [0, 1, 1000])
def test_a_train_equals_its_packets(suite: tuple[str, str], count: int, short: int) -> None:
    key, source = make_key(suite), random.Random(count)
    segment, number = 1200, 2**33
    plain = bytearray(source.randbytes(count * segment - short))
    train = bytearray(plain)
    assert key.seal_train(train, segment, len(HEADER), number, count) is None  # type: ignore[func-returns-value]
    assert key.sealed == count
    for i in range(count):
        packet = plain[i * segment : (i + 1) * segment]
        single = key.seal(bytes(packet[:12]), number + i, bytes(packet[12:-TAG]))
        assert train[i * segment : (i + 1) * segment] == single
    assert key.open_train(train, segment, len(HEADER), number, count) == 0
    for i in range(count):
        one = slice(i * segment, min((i + 1) * segment, len(train)) - TAG)
        assert train[one] == plain[one]


def test_a_train_leaves_the_rest_of_the_buffer_alone(suite: tuple[str, str]) -> None:
    key, rest = make_key(suite), bytes(range(200))
    train = bytearray(3 * 100) + rest
    key.seal_train(train, 100, 10, 0, 3)
    assert train[300:] == rest


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 8, 44, 64, 1000])
def test_masks_of_a_train_equal_single_masks(suite: tuple[str, str], count: int) -> None:
    key = make_key(suite)
    hp = secrets_of(suite[1], 1)[2]
    samples = random.Random(count).randbytes(16 * count)
    masks = key.masks(samples)
    assert len(masks) == 5 * count
    for i in range(count):
        sample, mask = samples[16 * i : 16 * i + 16], masks[5 * i : 5 * i + 5]
        assert key.masks(sample) == mask
        if suite[1] == "chacha20-poly1305":
            independent = Cipher(algorithms.ChaCha20(hp, sample), None).encryptor()
            assert independent.update(bytes(5)) == mask
        else:
            independent = Cipher(algorithms.AES(hp), modes.ECB()).encryptor()
            assert independent.update(sample)[:5] == mask


def test_the_next_key_phase_keeps_the_header_protection_key(suite: tuple[str, str]) -> None:
    provider, cipher = suite
    key, iv, hp = secrets_of(cipher, 1)
    next_key, next_iv, _ = secrets_of(cipher, 2)
    now = PacketKey(cipher, key, iv, hp, provider=provider)
    then = PacketKey(cipher, next_key, next_iv, hp, provider=provider)
    assert now.masks(bytes(16)) == then.masks(bytes(16))
    assert now.seal(HEADER, 1, b"text") != then.seal(HEADER, 1, b"text")


def test_sealing_and_opening_in_turn(suite: tuple[str, str]) -> None:
    """One key object serves both directions in these tests; neither spoils the other."""
    key = make_key(suite)
    packet = key.seal(HEADER, 1, b"one")
    for number in range(2, 6):
        assert key.open(packet, 12, 1) == b"one"
        with pytest.raises(ValueError, match="authentication failed"):
            key.open(packet[:-1] + bytes([packet[-1] ^ 1]), 12, 1)
        assert key.open(key.seal(HEADER, number, b"two"), 12, number) == b"two"
    assert (key.sealed, key.failed_opens) == (5, 4)


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("aes-192-gcm", 16, 12, 16), "cipher is 'aes-192-gcm'; allowed are 'aes-128-gcm', "),
        (("aes-128-gcm", 32, 12, 16), "key has 32 bytes; aes-128-gcm takes 16"),
        (("aes-256-gcm", 16, 12, 32), "key has 16 bytes; aes-256-gcm takes 32"),
        (("chacha20-poly1305", 0, 12, 32), "key has 0 bytes; chacha20-poly1305 takes 32"),
        (("aes-128-gcm", 16, 8, 16), "iv has 8 bytes; aes-128-gcm takes 12"),
        (("aes-128-gcm", 16, 12, 32), "hp has 32 bytes; aes-128-gcm takes 16"),
    ],
)
def test_wrong_lengths(arguments: tuple[str, int, int, int], message: str) -> None:
    cipher, *lengths = arguments
    key, iv, hp = (bytes(n) for n in lengths)
    with pytest.raises(ValueError, match=message):
        PacketKey(cipher, key, iv, hp)


def test_wrong_provider() -> None:
    with pytest.raises(ValueError, match="provider is 'nss'; allowed are 'auto', 'openssl' and"):
        PacketKey("aes-128-gcm", bytes(16), bytes(12), bytes(16), provider="nss")
    with pytest.raises(ValueError, match="'ipsec-mb' is for AES-GCM; use 'openssl' for ChaCha20"):
        PacketKey("chacha20-poly1305", bytes(32), bytes(12), bytes(32), provider="ipsec-mb")


def test_absent_provider() -> None:
    if "ipsec-mb" in _fastpath.aead_providers():
        pytest.skip("provider ipsec-mb is present")
    with pytest.raises(ValueError, match="'ipsec-mb' is not available; see aead_providers"):
        PacketKey("aes-128-gcm", bytes(16), bytes(12), bytes(16), provider="ipsec-mb")


def test_wrong_arguments_of_a_call(suite: tuple[str, str]) -> None:
    key, train = make_key(suite), bytearray(300)
    for call, message in [
        (lambda: key.seal(b"", -1, b""), "packet_number is -1; 0 to 4611686018427387903 are"),
        (lambda: key.seal(b"", 2**62, b""), "packet_number is 4611686018427387904; 0 to"),
        (lambda: key.seal(b"", 0, b"abc", 4), "split is 4; 0 to 3 are allowed"),
        (lambda: key.seal(b"", 0, b"abc", -1), "split is -1; 0 to 3 are allowed"),
        (lambda: key.seal(b"", 0, bytes(65520)), "packet length is 65536; 16 to 65535 are"),
        (lambda: key.open(bytes(15), 0, 0), "packet length is 15; 16 to 65535 are allowed"),
        (lambda: key.open(bytes(20), 5, 0), "header_length is 5; 0 to 4 are allowed"),
        (lambda: key.open(bytes(20), -1, 0), "header_length is -1; 0 to 4 are allowed"),
        (lambda: key.masks(bytes(17)), "samples has 17 bytes; a multiple of 16 is allowed"),
        (lambda: key.seal_train(train, 100, 10, 0, 0), "count is 0; 1 to 300 are allowed"),
        (lambda: key.seal_train(train, 15, 0, 0, 1), "segment is 15; 16 to 65535 are allowed"),
        (lambda: key.seal_train(train, 100, 85, 0, 3), "header_length is 85; 0 to 84 are"),
        (lambda: key.seal_train(train, 100, 10, 0, 4), "buffer has 300 bytes; 4 packets of 100"),
        (lambda: key.seal_train(train, 142, 1, 0, 3), "header_length is 1; 0 to 0 are allowed"),
        (lambda: key.open_train(train, 100, 10, 2**62 - 2, 3), "first_packet_number is "),
    ]:
        with pytest.raises(ValueError, match=message):
            call()  # type: ignore[no-untyped-call]
    assert train == bytes(300)
    assert (key.sealed, key.failed_opens) == (0, 0)


def test_the_key_is_made_once(suite: tuple[str, str]) -> None:
    key = make_key(suite)
    with pytest.raises(TypeError, match="made once"):
        key.__init__("aes-128-gcm", bytes(16), bytes(12), bytes(16))
    key.wipe()
    with pytest.raises(TypeError, match="made once"):
        key.__init__("aes-128-gcm", bytes(16), bytes(12), bytes(16))
    with pytest.raises(ValueError, match="wiped"):
        PacketKey.__new__(PacketKey).masks(bytes(16))


# Wiping, forks, threads


def assert_unusable(key: PacketKey, packet: bytes) -> None:
    for call in (
        lambda: key.seal(HEADER, 2, b"text"),
        lambda: key.open(packet, len(HEADER), 1),
        lambda: key.masks(bytes(16)),
        lambda: key.seal_train(bytearray(100), 100, 10, 0, 1),
        lambda: key.open_train(bytearray(100), 100, 10, 0, 1),
        lambda: key.provider,
    ):
        with pytest.raises(ValueError, match="this packet key was wiped"):
            call()


def test_a_wiped_key_is_unusable(suite: tuple[str, str]) -> None:
    key = make_key(suite)
    packet = key.seal(HEADER, 1, b"text")
    key.wipe()
    assert_unusable(key, packet)
    key.wipe()
    assert (key.sealed, key.failed_opens, key.cipher) == (1, 0, suite[1])


def test_wiping_in_a_forked_child_leaves_the_parent(suite: tuple[str, str]) -> None:
    key = make_key(suite)
    packet = key.seal(HEADER, 1, b"text")
    child = os.fork()
    if child == 0:
        try:
            key.wipe()
            assert_unusable(key, packet)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert key.open(packet, len(HEADER), 1) == b"text"


@pytest.mark.parametrize("shared", [True, False], ids=["one key", "a key each"])
def test_threads(suite: tuple[str, str], shared: bool) -> None:
    """Trains of several threads at once, each opened again, on a key in common and on their own."""
    common, failures = make_key(suite), []
    expected = {}
    for seed in range(4):
        expected[seed] = bytearray(random.Random(seed).randbytes(44 * 1452))
        common.seal_train(expected[seed], 1452, 12, seed * 1000, 44)
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        key = common if shared else make_key(suite)
        start.wait()
        for _ in range(50):
            train = bytearray(random.Random(seed).randbytes(44 * 1452))
            key.seal_train(train, 1452, 12, seed * 1000, 44)
            if train != expected[seed]:
                failures.append(f"thread {seed} sealed wrongly")
            if key.open_train(train, 1452, 12, seed * 1000, 44):
                failures.append(f"thread {seed} could not open")
            if len(key.masks(bytes(16 * 44))) != 5 * 44:
                failures.append(f"thread {seed} has no masks")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_threads_that_come_and_go_keep_no_memory(provider: str) -> None:
    """A thread's ipsec-mb manager goes with it."""
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("the address sanitizer keeps freed memory for a while")
    script = (
        "import resource, threading\n"
        "from pathlib import Path\n"
        "from rawquic._fastpath import PacketKey\n"
        "key = PacketKey('aes-128-gcm', bytes(16), bytes(12), bytes(16), provider=PROVIDER)\n"
        "def resident():\n"
        "    pages = int(Path('/proc/self/statm').read_text().split()[1])\n"
        "    return pages * resource.getpagesize() // 1024\n"
        "def run(n):\n"
        "    for _ in range(n):\n"
        "        t = threading.Thread(target=lambda: key.seal(b'', 0, b'x'))\n"
        "        t.start()\n"
        "        t.join()\n"
        "run(20)\n"
        "before = resident()\n"
        "run(100)\n"
        "print(resident() - before)\n"
    ).replace("PROVIDER", repr(provider))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 4096, f"grew by {result.stdout.strip()} kB"


# What runs


def test_aead_providers() -> None:
    providers = _fastpath.aead_providers()
    assert providers in (("openssl",), ("ipsec-mb", "openssl"))
    for name in providers:
        key = PacketKey("aes-128-gcm", bytes(16), bytes(12), bytes(16), provider=name)
        assert (key.provider, key.cipher) == (name, "aes-128-gcm")


@pytest.mark.parametrize("cipher", KEY_LENGTH)
def test_auto_takes_the_fastest(cipher: str) -> None:
    key = PacketKey(cipher, *secrets_of(cipher, 1))
    fastest = "openssl" if cipher == "chacha20-poly1305" else _fastpath.aead_providers()[0]
    assert (key.provider, key.cipher) == (fastest, cipher)


def test_openssl_version() -> None:
    assert _fastpath.openssl_version().startswith("OpenSSL ")
    assert int(_fastpath.openssl_version().split()[1].split(".")[0]) >= 3


def test_a_cipher_that_openssl_was_configured_not_to_have(tmp_path: Path) -> None:
    """Its configuration decides; the error says so, and the next attempt says it again."""
    config = tmp_path / "openssl.cnf"
    config.write_text(
        "openssl_conf = main\n[main]\nproviders = providers\n[providers]\nnull = null\n"
        "[null]\nactivate = 1\n"
    )
    code = (
        "from rawquic._fastpath import PacketKey\n"
        "for name, key in (('aes-128-gcm', bytes(16)), ('chacha20-poly1305', bytes(32))) * 2:\n"
        "    try:\n"
        "        PacketKey(name, key, bytes(12), key, provider='openssl')\n"
        "    except MemoryError as error:\n"
        "        print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OPENSSL_CONF": str(config)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        result.stdout.splitlines()
        == ["no memory for a packet key, or its cipher is disabled in OpenSSL"] * 4
    )
