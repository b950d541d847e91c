"""Datagrams and GSO trains of any sizes over loopback sockets, into a `Reactor` with one plane.

What has to hold: what is for Python arrives whole and in order, and nothing else gets there.
"""

import random
import socket
import struct

from data_peer import HOST_CID, PING, DataPeer

UDP_SEGMENT = 103


def run(rng: random.Random, corpus: list[bytes]) -> None:
    from rawquic._fastpath import Reactor, UdpSocket

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
    ):
        ours.bind(("127.0.0.1", 0))
        theirs.bind(("127.0.0.1", 0))
        others: list[bytes] = []
        udp = UdpSocket(ours, gro=bool(rng.randrange(4)))
        reactor = Reactor(
            udp, lambda batch, planes: others.extend(data for data, *_ in batch), lambda: None
        )
        peer = DataPeer()
        reactor.route(HOST_CID, peer.plane)
        reactor.attach(peer.plane, theirs.getsockname(), None)
        for _ in range(20):
            size = rng.choice((1, 2, 9, 28, 29, 30, 60, 1200))
            count = rng.randrange(1, 40)
            segments = [segment(rng, peer, size) for _ in range(count)]
            segments[-1] = segments[-1][: rng.randrange(1, size + 1)]
            others.clear()
            control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", size))]
            try:
                theirs.sendmsg([b"".join(segments)], control, 0, ours.getsockname())
            except OSError:
                for each in segments:
                    theirs.sendto(each, ours.getsockname())
            reactor.on_readable()
            assert others == [each for each in segments if not routed(each)]
        reactor.unroute(HOST_CID)
        reactor.close()


def routed(data: bytes) -> bool:
    return len(data) >= 29 and not data[0] & 0x80 and data[1:9] == HOST_CID


def segment(rng: random.Random, peer: DataPeer, size: int) -> bytes:
    if size >= 60 and rng.random() < 0.4:
        return peer.packet(PING + bytes(size - 1 - 13 - 16))
    data = bytearray(rng.randbytes(size))
    if rng.random() < 0.5:
        data[0] &= 0x7F
        data[1:9] = HOST_CID[: len(data[1:9])]
    return bytes(data)
