"""Pages that the kernel has while their packets are acknowledged, declared lost, or ended.

What is not read from a socket the kernel keeps by reference. Data planes send to two sockets, so
that packets wait there while later ones, which went the other way, are acknowledged. Whenever they
are read, they are what was sealed.
"""

import contextlib
import random
import socket
import time
from typing import Any

import pytest
from data_peer import DataPeer, ack
from udp_sockets import copies

pytestmark = pytest.mark.skipif(copies() is not None, reason=copies() or "all there")

MIB = 1 << 20
STREAM = 3  # the first one of a server's that goes one way


class Unread:
    """The data planes, and the sockets, which are read when chance has it."""

    def __init__(self, seed: int, ours: socket.socket, theirs: list[socket.socket]) -> None:
        from rawquic._fastpath import Reactor, UdpSocket

        self.random = random.Random(seed)
        for sock in (ours, *theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
            sock.bind(("127.0.0.1", 0))
        self.addresses = [sock.getsockname() for sock in theirs]
        self.udp = UdpSocket(ours)
        self.receivers = [UdpSocket(sock) for sock in theirs]
        self.reactor = Reactor(self.udp, lambda others, planes: None, lambda: None)
        self.peers: dict[bytes, DataPeer] = {}  # by connection ID, also those that have ended
        self.arrived: dict[bytes, set[int]] = {}
        self.senders: list[bytes] = []
        for _ in range(2):
            self.begin()

    def begin(self) -> None:
        peer = DataPeer(ecn=False)
        cid = b"peer%04d" % len(self.peers)
        peer.plane.set_peer_cid(cid)
        assert peer.plane.open_stream(True) == STREAM
        self.reactor.attach(peer.plane, self.random.choice(self.addresses), None)
        self.peers[cid], self.arrived[cid] = peer, set()
        self.senders.append(cid)

    def one(self) -> tuple[bytes, DataPeer]:
        cid = self.random.choice(self.senders)
        self.peers[cid].now = time.monotonic()
        return cid, self.peers[cid]

    def send(self) -> None:
        _, peer = self.one()
        peer.plane.write(STREAM, bytes(self.random.randrange(300_000)), 0)
        if peer.plane.timer() is not None:
            peer.plane.on_timer(peer.now)
        self.reactor.flush(peer.plane)

    def move(self) -> None:
        _, peer = self.one()
        self.reactor.attach(peer.plane, self.random.choice(self.addresses), None)

    def end(self) -> None:
        cid, peer = self.one()
        peer.plane.discard()
        self.senders.remove(cid)
        self.begin()

    def read(self) -> None:
        self.take(self.random.choice(self.receivers).receive(self.random.choice((50, 500))))

    def take(self, packets: list[Any]) -> None:
        for packet, *_ in packets:
            cid = packet[1:9]
            number, _ = self.peers[cid].opened(packet)
            assert number not in self.arrived[cid], "a packet came twice, in place of another"
            self.arrived[cid].add(number)

    def acknowledge(self) -> None:
        cid, peer = self.one()
        ranges: list[tuple[int, int]] = []
        for number in sorted(self.arrived[cid], reverse=True):
            if ranges and ranges[-1][0] == number + 1:
                ranges[-1] = number, ranges[-1][1]
            else:
                ranges.append((number, number))
        if ranges:
            peer.send(ack(*ranges))
            assert peer.failure() is None

    def lost(self) -> int:
        return sum(peer.plane.statistics()["packets_lost"] for peer in self.peers.values())

    def run(self) -> None:
        operations = [self.send, self.read, self.acknowledge, self.move, self.end]
        steps = 0
        while steps < 600 or (steps < 6000 and not self.lost()):
            self.random.choices(operations, (30, 25, 30, 15, 1))[0]()
            steps += 1
        for receiver in self.receivers:
            while packets := receiver.receive():
                self.take(packets)


@pytest.mark.parametrize("seed", range(6))
def test_packets_that_are_late_are_what_was_sealed(seed: int) -> None:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)
        ]
        unread = Unread(seed, sockets[0], sockets[1:])
        stack.callback(unread.reactor.close)
        unread.run()
        sent = unread.udp.stats()["send_by_reference"]
        print(f"seed {seed}: {sent} trains by reference, {unread.lost()} packets lost")
        assert sent > 0 and unread.lost() > 0
