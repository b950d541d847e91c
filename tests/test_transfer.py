"""Every byte arrives, once and in order, over networks of all kinds and to any other end."""

import hashlib
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pair import KINDS, Pair, Reader, Writer, make, our_pair, stock, transfer

from rawquic.config import Config

pytestmark = pytest.mark.usefixtures("backend")

ENDS = [("ours", "ours"), ("ours", "other"), ("ours", "stock"), ("stock", "ours")]
KIB = 1024

NETWORKS: dict[str, dict[str, Any]] = {
    "clean": {},
    "loss 1 %": {"loss": 0.01},
    "loss 5 %": {"loss": 0.05},
    "loss 20 %": {"loss": 0.20},
    "reordering": {"reorder": 0.5},
    "duplication": {"duplicate": 0.3},
    "corruption": {"corrupt": 0.03},
    "MTU 1200": {"mtu": 1200},
    "MTU 1300": {"mtu": 1300, "loss": 0.02},
    "long": {"latency": 0.3, "loss": 0.02},
    "everything": {"loss": 0.05, "reorder": 0.2, "duplicate": 0.1, "corrupt": 0.02},
}


def random_bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def assert_same(received: bytes, sent: bytes) -> None:
    assert hashlib.sha256(received).hexdigest() == hashlib.sha256(sent).hexdigest()


@pytest.mark.parametrize("ends", ENDS, ids="-".join)
@pytest.mark.parametrize("network", NETWORKS)
def test_both_ways(ends: tuple[str, str], network: str) -> None:
    pair = make(*ends, seed=21, **NETWORKS[network]).handshake()
    data = random_bytes(200 * KIB, 1), random_bytes(150 * KIB, 2)
    assert_same(transfer(pair, pair.client, data[0]), data[0])
    assert_same(transfer(pair, pair.server, data[1]), data[1])
    for connection in (pair.client, pair.server):
        # Only the fast connection looks for a larger packet size.
        most = 1200 if getattr(connection, "plane", None) is None else 1452
        assert pair.largest[connection] <= most


@pytest.mark.parametrize("ends", ENDS, ids="-".join)
def test_many_streams_both_ways_at_once(ends: tuple[str, str]) -> None:
    pair = make(*ends, seed=22, loss=0.03, reorder=0.1).handshake()
    readers = Reader(pair, pair.client), Reader(pair, pair.server)
    sent: list[tuple[Reader, Writer, bytes]] = []
    for number in range(10):
        for reader, sender in ((readers[1], pair.client), (readers[0], pair.server)):
            data = random_bytes(20 * KIB + number, number)
            sent.append((reader, Writer(pair, sender, data), data))
    pair.run_until(lambda: all(w.stream_id in reader.ended for reader, w, _ in sent))
    for reader, writer, data in sent:
        assert_same(bytes(reader.data[writer.stream_id]), data)


@pytest.mark.parametrize("ends", ENDS, ids="-".join)
def test_tiny_windows(ends: tuple[str, str]) -> None:
    config = Config(receive_window=2 * KIB, stream_receive_window=KIB, send_window=KIB)
    client = stock(True) if ends[0] == "stock" else KINDS[ends[0]](True, config)
    odcid = client.original_destination_connection_id
    if ends[1] == "stock":
        server = stock(False, odcid=odcid)
    else:
        server = KINDS[ends[1]](False, config, odcid=odcid)
    pair = Pair(client, server, seed=23, loss=0.05).handshake()
    data = random_bytes(30 * KIB, 3)
    assert_same(transfer(pair, client, data), data)
    assert_same(transfer(pair, server, data), data)


def test_larger_packets() -> None:
    config = Config(initial_mtu=9000)
    pair = our_pair(config, config, seed=24, loss=0.01).handshake()
    data = random_bytes(500 * KIB, 4)
    assert_same(transfer(pair, pair.client, data), data)
    assert pair.largest[pair.client] == 9000


@pytest.mark.parametrize("size", [16_383, 30_000, 65_507])
def test_packets_that_are_larger_than_those_of_a_handshake(size: int) -> None:
    """aioquic's have lengths of two bytes; on the python backend, so have all."""
    config = Config(initial_mtu=size)
    pair = our_pair(config, config, seed=24, loss=0.01).handshake()
    data = random_bytes(500 * KIB, 4)
    assert_same(transfer(pair, pair.client, data), data)
    compiled = pair.client.plane is not None
    assert pair.largest[pair.client] == (size if compiled else 16_383)


@pytest.mark.parametrize("congestion_control", ["cubic", "newreno"])
def test_congestion_controllers(congestion_control: str) -> None:
    config = Config(congestion_control=congestion_control)
    pair = our_pair(config, config, seed=25, loss=0.02).handshake()
    data = random_bytes(300 * KIB, 5)
    assert_same(transfer(pair, pair.client, data), data)
    assert pair.client.statistics().congestion_events > 0


@pytest.mark.parametrize("versions", [(1,), (2,), (1, 2), (2, 1)])
def test_quic_versions(versions: tuple[int, ...]) -> None:
    pair = our_pair(Config(versions=versions), Config(versions=(1, 2)), seed=26).handshake()
    data = random_bytes(20 * KIB, 6)
    assert_same(transfer(pair, pair.client, data), data)
    assert_same(transfer(pair, pair.server, data), data)


@pytest.mark.parametrize(
    "suite", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
)
def test_cipher_suites(suite: str) -> None:
    pair = our_pair(Config(cipher_suites=[suite]), seed=27).handshake()
    assert pair.client.tls.key_schedule.cipher_suite.name == suite.removeprefix("TLS_")
    data = random_bytes(20 * KIB, 7)
    assert_same(transfer(pair, pair.client, data), data)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0, 0.3),
    reorder=st.floats(0, 1),
    duplicate=st.floats(0, 0.5),
    latency=st.floats(0.0001, 0.5),
    sizes=st.lists(st.integers(0, 40 * KIB), min_size=1, max_size=4),
    window=st.integers(KIB, 64 * KIB),
)
def test_any_network(
    seed: int,
    loss: float,
    reorder: float,
    duplicate: float,
    latency: float,
    sizes: list[int],
    window: int,
) -> None:
    config = Config(receive_window=window, stream_receive_window=window, max_idle_timeout=600.0)
    pair = our_pair(
        config,
        config,
        seed=seed,
        loss=loss,
        reorder=reorder,
        duplicate=duplicate,
        latency=latency,
    ).handshake()
    reader = Reader(pair, pair.server)
    sent = [random_bytes(size, number) for number, size in enumerate(sizes)]
    writers = [Writer(pair, pair.client, data) for data in sent]
    pair.run_until(lambda: len(reader.ended) == len(sent), 3000.0)
    for writer, data in zip(writers, sent, strict=True):
        assert_same(bytes(reader.data[writer.stream_id]), data)
