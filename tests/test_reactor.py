"""The compiled loop of an endpoint, called as an event loop does, between two sockets."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from data_peer import DataPeer
from udp_sockets import compiled, to

import rawquic

pytestmark = pytest.mark.skipif(
    rawquic.backend_info()["backend"] != "compiled", reason="the python backend has no reactor"
)

SIZE = 1100
MIB = 1 << 20


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    with contextlib.ExitStack() as stack:
        pair = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)
        ]
        for sock in pair:
            sock.bind(("127.0.0.1", 0))
        yield pair[0], pair[1]


def acknowledgements(ours: socket.socket, theirs: socket.socket, packets: int) -> list[Any]:
    """What a plane sends that finds so many packets when it reads."""
    from rawquic._fastpath import Reactor

    peer = DataPeer()
    there = compiled()(theirs)
    reactor = Reactor(compiled()(ours), lambda others, planes: None, lambda: None)
    try:
        reactor.attach(peer.plane, theirs.getsockname(), None)
        reactor.route(b"hostcid0", peer.plane)
        frame = b"\x0a\x02\x44\x00" + bytes(0x400)
        datagrams = [peer.packet(frame + bytes(SIZE - len(frame))) for _ in range(packets)]
        assert there.send(to(ours.getsockname(), datagrams)) == packets
        assert reactor.on_readable()
        assert peer.plane.statistics()["udp_datagrams_received"] == packets
        return [item[0] for item in there.receive()]
    finally:
        reactor.close()


def test_what_comes_at_once_gets_one_acknowledgement(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = sockets
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
    assert len(acknowledgements(ours, theirs, 100)) == 1


def test_a_small_buffer_is_acknowledged_piece_by_piece(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = sockets
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 150_000)
    assert len(acknowledgements(ours, theirs, 230)) >= 2
