"""Batches of datagrams out and in over a pair of loopback sockets, per backend.

Run with `pytest bench/micro/test_udp.py`. The time divided by the batch is that of a datagram; the
group names the shape, so that the backends stand beside each other.
"""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from rawquic.endpoint import udp_python

try:
    from rawquic import _fastpath
except ImportError:
    _fastpath = None  # type: ignore[assignment]

BUFFER = 4 << 20
WARM_UP = 5
ROUNDS = 200
SHAPES = [(batch, size) for size in (64, 1200, 1452, 8900) for batch in (1, 8, 44, 256)]
IDS = [f"{batch}x{size}" for batch, size in SHAPES]


def bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.fixture(params=["compiled", "compiled, no offload", "python"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any, tuple[str, int]]]:
    """A socket that sends, one that receives, and the address of the second."""
    if request.param.startswith("compiled") and _fastpath is None:
        pytest.skip("the extension is not there")
    kind = udp_python.UdpSocket if request.param == "python" else _fastpath.UdpSocket
    offload = {"gso": False, "gro": False} if "no offload" in request.param else {}
    with bound() as here, bound() as there:
        yield kind(here, **offload), kind(there, **offload), there.getsockname()


def take(receiver: Any, count: int) -> None:
    left = count
    while left:
        left -= len(receiver.receive())


@pytest.mark.parametrize(("batch", "size"), SHAPES, ids=IDS)
def test_out_and_in(benchmark: Any, ends: Any, batch: int, size: int) -> None:
    sender, receiver, address = ends
    datagrams = [(bytes(size), address, None, 0)] * batch

    def move() -> None:
        sent = 0
        while sent < batch:
            sent += sender.send(datagrams[sent:])
        take(receiver, batch)

    benchmark.group = f"udp out and in, {batch} x {size} B"
    benchmark.pedantic(move, rounds=ROUNDS, warmup_rounds=WARM_UP)
    benchmark.extra_info["ns_per_datagram"] = round(benchmark.stats.stats.median / batch * 1e9)
    assert sender.stats()["send_datagrams"] >= batch


@pytest.mark.parametrize(("batch", "size"), SHAPES, ids=IDS)
def test_in(benchmark: Any, ends: Any, batch: int, size: int) -> None:
    sender, receiver, address = ends
    datagrams = [(bytes(size), address, None, 0)] * batch

    def fill() -> None:
        assert sender.send(datagrams) == batch

    benchmark.group = f"udp in, {batch} x {size} B"
    benchmark.pedantic(take, setup=lambda: (fill(), ((receiver, batch), {}))[1], rounds=ROUNDS)
    benchmark.extra_info["ns_per_datagram"] = round(benchmark.stats.stats.median / batch * 1e9)
