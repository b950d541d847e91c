"""Direct placement against a peer that makes guesses wrong, and an application that runs in between."""

import random
from typing import Any

import pytest

pytest.importorskip("rawquic._fastpath")

from data_peer import DataPeer, frame

HEADER, TAG = 13, 16  # of DataPeer's packets
SIZE = 1200
ROOM = SIZE - HEADER - TAG


def wide(value: int, size: int) -> bytes:
    """A variable-length integer in `size` bytes, more than it takes perhaps."""
    return (value | {1: 0, 2: 1, 4: 2, 8: 3}[size] << (8 * size - 2)).to_bytes(size, "big")


class Transfer:
    """Bytes of one stream, in packets that are full."""

    def __init__(self, peer: DataPeer, stream_id: int = 0, seed: int = 1) -> None:
        self.peer, self.stream_id = peer, stream_id
        self.source = random.Random(seed).randbytes(1 << 20)
        self.at = 0

    def payload(self, id_size: int = 1, room: int = ROOM) -> bytes:
        head = b"\x0e" + wide(self.stream_id, id_size) + wide(self.at, 4)
        size = room - len(head) - 2
        self.at += size
        return head + wide(size, 2) + self.source[self.at - size : self.at]

    def give(self, payloads: list[bytes]) -> None:
        packets = [self.peer.packet(each) for each in payloads]
        self.peer.plane.receive(b"".join(packets), self.peer.now, 0, len(packets[0]))

    def read(self) -> bytes:
        parts = []
        while part := self.peer.plane.read(self.stream_id, 1 << 20):
            parts.append(part)
        return b"".join(parts)


def test_a_shorter_head_across_the_bounds_of_a_chunk() -> None:
    """It has more data than was expected, which must not be written over the next packet's."""
    peer = DataPeer()
    transfer = Transfer(peer)
    transfer.give([transfer.payload(8) for _ in range(10)])
    payloads = []
    while transfer.at < 20000:
        across = transfer.at < 16384 < transfer.at + ROOM
        payloads.append(transfer.payload(1 if across else 8))
    transfer.give(payloads)
    assert peer.plane.inspect()["placed"] > 0
    assert transfer.read() == transfer.source[: transfer.at]


@pytest.mark.parametrize("where", [1, 9])
def test_python_runs_before_a_packet_of_a_run(where: int) -> None:
    """It may free what the run was opened to, so that nothing is left there then."""
    peer = DataPeer()
    transfer = Transfer(peer)
    transfer.give([transfer.payload() for _ in range(10)])
    transfer.give([transfer.payload() for _ in range(10)])
    before = peer.plane.inspect()["placed"]
    stopped: list[bytes] = []

    def stop(cid: bytes, number: int) -> None:
        stopped.append(cid)
        peer.plane.stop(0, 0)

    peer.control.host_cid_changed = stop  # type: ignore[method-assign]
    packets = [peer.packet(transfer.payload()) for _ in range(where)]
    packets += [peer.packet(transfer.payload(), cid=b"another!") for _ in range(20)]
    peer.plane.receive(b"".join(packets), peer.now, 0, SIZE)
    assert stopped == [b"another!"]
    assert peer.plane.inspect()["placed"] == before + where - 1
    assert peer.plane.largest_received == peer.number - 1
    assert peer.failure() is None


def test_wrong_guesses_make_later_ones_rare() -> None:
    """A peer whose packets are never what was expected must not cost a copy of each."""
    peer = DataPeer()
    transfer = Transfer(peer)

    def run(wrong: bool) -> int:
        before: int = peer.plane.inspect()["placed"]
        room = 200 - HEADER - TAG
        transfer.give([transfer.payload(8 if wrong and i == 1 else 1, room) for i in range(20)])
        transfer.read()
        peer.collect()
        return peer.plane.inspect()["placed"] - before

    run(False)
    assert run(False) > 10
    assert sum(run(True) for _ in range(40)) == 0
    assert sum(run(False) for _ in range(5)) == 0
    assert sum(run(False) for _ in range(50)) > 100  # it is forgiven
