"""1-RTT packets of a connection in memory: built, read, put in order, acknowledged; per backend.

Run with `pytest bench/micro/test_packets.py`. The time divided by the number of packets is that of
one; encryption is in it. The group names the work, so that the backends stand beside each other.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import pair as memory

from rawquic.config import Config

try:
    from rawquic import _fastpath
except ImportError:
    _fastpath = None  # type: ignore[assignment]

PACKETS = 40
BODY = 1400  # bytes of stream data in a packet, about
WARM_UP, ROUNDS = 3, 40
SIZE = 4 << 20
CONFIG = Config(
    initial_mtu=1452,
    mtu_upper_bound=1452,
    cipher_suites=["TLS_AES_128_GCM_SHA256"],
    receive_window=SIZE,
    stream_receive_window=SIZE,
    send_window=SIZE,
)


class Ends:
    """A client that sends on one stream, and a server that reads it."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        memory.use(backend)
        self.pair = memory.our_pair(CONFIG, CONFIG, latency=0.001).handshake()
        self.client, self.server = self.pair.client, self.pair.server
        memory.transfer(self.pair, self.client, bytes(2 << 20))  # opens the congestion window
        self.stream_id = memory.opened(self.client)

    def write(self) -> None:
        """Data for so many packets waits; earlier data has arrived and was read."""
        self.pair.run(0.1)
        while self.server.streams.read(self.stream_id, SIZE):
            pass
        self.pair.run(0.1)  # credit
        data = bytes(PACKETS * BODY)
        assert self.client.streams.write(self.stream_id, data, 0) == len(data)

    def build(self) -> list[bytes]:
        return [data for data, _ in self.client.datagrams_to_send(self.pair.now)]

    def built(self) -> list[bytes]:
        self.write()
        packets = self.build()
        assert len(packets) >= PACKETS
        return packets

    def receive(self, packets: list[bytes]) -> None:
        for data in packets:
            self.server.receive(data, memory.CLIENT, self.pair.now)

    def receive_and_read(self, packets: list[bytes]) -> None:
        self.receive(packets)
        while self.server.streams.read(self.stream_id, 65536):
            pass

    def acknowledgement(self) -> list[bytes]:
        """What the server answers when every other packet came."""
        packets = self.built()
        for data in packets[::2]:
            self.server.receive(data, memory.CLIENT, self.pair.now)
        answers = [data for data, _ in self.server.datagrams_to_send(self.pair.now)]
        assert answers
        return answers

    def acknowledge(self, answers: list[bytes]) -> None:
        for data in answers:
            self.client.receive(data, memory.SERVER, self.pair.now)


@pytest.fixture(params=["compiled", "python"])
def ends(request: pytest.FixtureRequest) -> Ends:
    if request.param == "compiled" and _fastpath is None:
        pytest.skip("the extension is not there")
    return Ends("fast" if request.param == "compiled" else "plain")


def measure(benchmark: Any, group: str, target: Any, setup: Any, rounds: int = ROUNDS) -> None:
    benchmark.group = f"{group}, {PACKETS} packets"
    benchmark.extra_info["packets"] = PACKETS
    benchmark.pedantic(target, setup=setup, rounds=rounds, warmup_rounds=WARM_UP)


def test_build(benchmark: Any, ends: Ends) -> None:
    last: list[bytes] = []

    def setup() -> None:
        ends.receive(last)
        ends.write()

    def build() -> None:
        last[:] = ends.build()

    measure(benchmark, "build", build, setup)
    assert len(last) >= PACKETS


def test_read_in_order(benchmark: Any, ends: Ends) -> None:
    measure(benchmark, "parse", ends.receive, lambda: ((ends.built(),), {}))


def test_read_out_of_order(benchmark: Any, ends: Ends) -> None:
    setup = lambda: ((ends.built()[::-1],), {})  # noqa: E731
    measure(benchmark, "reassemble and read, last packet first", ends.receive_and_read, setup)


def test_acknowledgement_with_ranges(benchmark: Any, ends: Ends) -> None:
    def setup() -> tuple[tuple[Ends, list[bytes]], dict[str, Any]]:
        fresh = Ends(ends.backend)  # what is lost closes the window
        return (fresh, fresh.acknowledgement()), {}

    group = "ACK with a range for every other packet"
    measure(benchmark, group, Ends.acknowledge, setup, rounds=10)
