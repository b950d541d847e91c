"""The compiled loop of an endpoint, called as an event loop does, between two sockets."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from data_peer import PING, DataPeer
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


def test_it_reads_until_something_comes_or_the_time_is_over(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    from rawquic._fastpath import Reactor

    ours, theirs = sockets
    seen: list[bytes] = []
    reactor = Reactor(
        compiled()(ours), lambda others, planes: seen.extend(o[0] for o in others), lambda: None
    )
    try:
        assert not reactor.read_until(time.monotonic() - 1)
        end = time.monotonic() + 0.02
        assert not reactor.read_until(end)
        assert time.monotonic() >= end
        later = threading.Timer(0.02, theirs.sendto, (b"hello", ours.getsockname()))
        later.start()
        assert reactor.read_until(time.monotonic() + 30)
        later.join()
        assert seen == [b"hello"]
        theirs.sendto(b"again", ours.getsockname())
        assert reactor.read_until(0.0)  # it looks once in any case
    finally:
        reactor.close()
    assert not reactor.read_until(time.monotonic() + 30)


def test_only_an_authentic_packet_says_where_to_answer_from() -> None:
    """Anybody may send to another address of this host, in the peer's name."""
    from rawquic._fastpath import Reactor

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
    ):
        ours.bind(("0.0.0.0", 0))
        theirs.bind(("127.0.0.1", 0))
        there = compiled()(theirs)
        peer = DataPeer()
        reactor = Reactor(compiled()(ours), lambda others, planes: None, lambda: None)
        reactor.attach(peer.plane, theirs.getsockname(), None)
        reactor.route(b"hostcid0", peer.plane)

        def answered_from(host: str, packet: bytes) -> list[str]:
            """Where all comes from that is sent after this one went to `host`."""
            theirs.sendto(packet, (host, ours.getsockname()[1]))
            assert reactor.on_readable()
            peer.plane.ping(1)
            reactor.flush(peer.plane)
            sources = {source[0] for _, source, *_ in there.receive()}
            return sorted(sources)

        try:
            packet = peer.packet(PING)
            assert answered_from("127.0.0.2", packet) == ["127.0.0.2"]
            forged = bytearray(peer.packet(PING))
            forged[-1] ^= 1
            assert answered_from("127.0.0.3", bytes(forged)) == ["127.0.0.2"]
            assert answered_from("127.0.0.3", packet) == ["127.0.0.2"]  # a replay
            assert answered_from("127.0.0.3", peer.packet(PING)) == ["127.0.0.3"]
        finally:
            reactor.close()


class Owner:
    """As much of a link as a turn asks for."""

    def __init__(self, plane: Any) -> None:
        self.connection = SimpleNamespace(plane=plane)


async def test_a_connection_that_cannot_send_breaks_alone(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    """An error out of the flush is that connection's; the endpoint hears of it with the others."""
    from rawquic._fastpath import Reactor, Turn

    flushed: list[tuple[list[Any], list[Any]]] = []
    turn = Turn(asyncio.get_running_loop(), lambda links, news: flushed.append((links, news)))
    ours, theirs = sockets
    reactor = Reactor(compiled()(ours), lambda others, planes: None, lambda: None, turn)
    try:
        peers = [DataPeer(), DataPeer()]
        broken: list[Exception] = []
        links = [Owner(peer.plane) for peer in peers]
        for peer, link in zip(peers, links, strict=True):
            reactor.attach(peer.plane, theirs.getsockname(), None)
            peer.plane.owner = link
            peer.plane.control_dirty = peer.plane.control_sends = False
            peer.plane.ping(0)
        peers[0].control.broke = broken.append
        ours.close()
        turn.flush_soon(links[0])
        turn.flush()
        assert [type(error) for error in broken] == [OSError]
        assert peers[0].plane.closing and not peers[1].plane.closing
        assert flushed == [([], [links[0]])]
        assert list(turn.dirty) == [links[0]]  # the close
    finally:
        reactor.close()
