"""The key log opens what a connection sent: with aioquic's cryptography, and with tshark.

tshark reads a capture that the test writes itself, so that no right to capture is needed.
"""

import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.crypto import CryptoContext
from aioquic.tls import CipherSuite
from pair import CLIENT, SERVER, Pair, our_pair, transfer

from rawquic import tls
from rawquic.config import Config

DATA = b"what goes over the wire, and what comes out of it" * 100
SUITES = {
    "TLS_AES_128_GCM_SHA256": CipherSuite.AES_128_GCM_SHA256,
    "TLS_AES_256_GCM_SHA384": CipherSuite.AES_256_GCM_SHA384,
    "TLS_CHACHA20_POLY1305_SHA256": CipherSuite.CHACHA20_POLY1305_SHA256,
}

Captured = list[tuple[bool, float, bytes]]  # from the client, when, the UDP payload


@pytest.fixture
def keylog(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "keys.txt"
    for path in [each for each in tls._keylogs if each.startswith(str(tmp_path))]:
        tls._keylogs.pop(path).close()


def session(keylog: Path, suite: str) -> tuple[Pair, Captured]:
    """A session with one stream each way; all of its packets."""
    pair = our_pair(Config(keylog_file=keylog, cipher_suites=[suite]))
    captured: Captured = []

    def tap(source: Any, data: bytes) -> bool:
        captured.append((source is pair.client, pair.now, data))
        return True

    pair.keep = tap
    pair.handshake()
    assert transfer(pair, pair.client, DATA) == DATA
    assert transfer(pair, pair.server, DATA) == DATA
    return pair, captured


def secrets(keylog: Path) -> dict[str, bytes]:
    """By label; all lines are of one client."""
    lines = [line.split() for line in keylog.read_text().splitlines()]
    assert len({random for _, random, _ in lines}) == 1
    return {label: bytes.fromhex(secret) for label, _, secret in lines}


@pytest.mark.parametrize("suite", SUITES)
def test_the_secrets_open_the_packets(backend: str, keylog: Path, suite: str) -> None:
    _, captured = session(keylog, suite)
    logged = secrets(keylog)
    assert logged.keys() == {
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
    }
    for from_client, end in ((True, "CLIENT"), (False, "SERVER")):
        keys, secret = CryptoContext(), logged[f"{end}_TRAFFIC_SECRET_0"]
        keys.setup(cipher_suite=SUITES[suite], secret=secret, version=1)
        opened, number = b"", 0
        for sender, _, data in captured:
            if sender is from_client and not data[0] & 0x80:
                _, payload, number, _ = keys.decrypt_packet(data, 9, number + 1)
                opened += payload
        assert DATA[:500] in opened


def pcap(path: Path, captured: Captured) -> None:
    """UDP over IPv4 as they are (link type 101)."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
        for from_client, at, data in captured:
            ends = (CLIENT, SERVER) if from_client else (SERVER, CLIENT)
            (source, source_port), (target, target_port) = ends
            packet = struct.pack(
                "!BBHHHBBH4s4sHHHH",
                *(0x45, 0, 28 + len(data), 0, 0, 64, 17, 0),
                *(bytes(map(int, each.split("."))) for each in (source, target)),
                *(source_port, target_port, 8 + len(data), 0),
            )
            size = len(packet) + len(data)
            file.write(struct.pack("<IIII", int(at), int(at % 1 * 1e6), size, size))
            file.write(packet + data)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("suite", SUITES)
def test_tshark_reads_the_session(backend: str, keylog: Path, tmp_path: Path, suite: str) -> None:
    _, captured = session(keylog, suite)
    pcap(tmp_path / "capture.pcap", captured)
    command = ["tshark", "-n", "-r", str(tmp_path / "capture.pcap"), "-T", "fields"]
    command += ["-d", f"udp.port=={SERVER[1]},quic", "-o", f"tls.keylog_file:{keylog}"]
    command += ["-e", "quic.stream_data", "-e", "quic.decryption_failed"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    rows = [line.split("\t") for line in shown.splitlines()]
    assert len(rows) == len(captured)
    assert not any(failed for _, failed in rows)
    data = bytes.fromhex("".join(stream.replace(",", "") for stream, _ in rows))
    assert data == DATA + DATA
