"""Direct placement against a peer that makes guesses wrong, and Python that runs in between."""

import hashlib
import random
from collections.abc import Callable

import pytest

pytest.importorskip("rawquic._fastpath")

from data_peer import PING, TAG, DataPeer, frame, stream

HEADER = 13  # of DataPeer's packets
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

    def payload(self, id_size: int = 1, room: int = ROOM, whole: bool = False) -> bytes:
        """The next frame. `whole`: it says no length, and ends with its packet."""
        head = (b"\x0c" if whole else b"\x0e") + wide(self.stream_id, id_size) + wide(self.at, 4)
        size = room - len(head) - (0 if whole else 2)
        self.at += size
        return head + (b"" if whole else wide(size, 2)) + self.source[self.at - size : self.at]

    def give(self, payloads: list[bytes]) -> None:
        packets = [self.peer.packet(each) for each in payloads]
        self.peer.plane.receive(b"".join(packets), self.peer.now, 0, len(packets[0]))

    def read(self) -> bytes:
        parts = []
        while part := self.peer.plane.read(self.stream_id, 1 << 20):
            parts.append(part)
        return b"".join(parts)


def across_a_chunk(transfer: Transfer, whole: bool, odd: Callable[[], bytes]) -> None:
    """Packets in sequence but for what `odd` makes of the one across the bounds of a chunk."""
    transfer.give([transfer.payload(8, whole=whole) for _ in range(10)])
    payloads = []
    while transfer.at < 20000:
        across = transfer.at < 16384 < transfer.at + ROOM
        payloads.append(odd() if across else transfer.payload(8, whole=whole))
    transfer.give(payloads)
    assert transfer.peer.plane.inspect()["placed"] > 0


@pytest.mark.parametrize("whole", [False, True])
def test_a_shorter_head_across_the_bounds_of_a_chunk(whole: bool) -> None:
    """It has more data than was expected, which must not be written over the next packet's."""
    transfer = Transfer(DataPeer())
    across_a_chunk(transfer, whole, lambda: transfer.payload(1, whole=whole))
    assert transfer.read() == transfer.source[: transfer.at]


def test_a_hole_before_the_bounds_of_a_chunk() -> None:
    transfer = Transfer(DataPeer())

    def behind_a_hole() -> bytes:
        transfer.at += 100
        return transfer.payload(8)

    across_a_chunk(transfer, False, behind_a_hole)
    got = transfer.read()
    hole = len(got)
    transfer.peer.send(stream(0, hole, transfer.source[hole : hole + 100]))
    assert got + transfer.read() == transfer.source[: transfer.at]


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


class Sender:
    """One connection of several: a peer that does all that is allowed, and loses much."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.peer = DataPeer(receive_window=1 << 26, stream_window=1 << 26)
        self.source = {each: rng.randbytes(600_000) for each in (0, 2, 4, 6)}
        self.sent = dict.fromkeys(self.source, 0)
        self.read = dict.fromkeys(self.source, 0)
        self.over: set[int] = set()  # streams that were reset or stopped
        self.ended: set[int] = set()  # those that were reset
        self.lost: list[bytes] = []  # payloads
        self.old: list[bytes] = []  # packets that came
        self.kept: list[tuple[bytes, str]] = []  # what a reader got, and its hash then
        self.peer.control.host_cid_changed = self.cid_changed  # type: ignore[method-assign]
        self.cid = b"hostcid0"

    def cid_changed(self, cid: bytes, number: int) -> None:
        self.look(self.rng.choice(list(self.source)))
        if self.rng.random() < 0.2:
            self.stop()

    def stop(self) -> None:
        each = self.rng.choice((2, 4, 6))
        self.peer.plane.stop(each, 0)
        self.over.add(each)

    def look(self, stream_id: int) -> None:
        """Read something, compare it, and perhaps keep it."""
        most = self.rng.choice((1, 1000, 70000, 1 << 20))
        for _ in range(self.rng.randrange(1, 8)):
            if stream_id in self.over:
                return
            data = self.peer.plane.read(stream_id, most)
            if not data:
                return
            at = self.read[stream_id]
            assert data == self.source[stream_id][at : at + len(data)]
            self.read[stream_id] += len(data)
            if self.rng.random() < 0.3:
                self.kept.append((data, hashlib.sha256(data).hexdigest()))

    def payload(self, stream_id: int, room: int, style: int) -> bytes:
        rng, at = self.rng, self.sent[stream_id]
        kind = 0x0C if style & 4 else 0x0E
        head = wide(kind, 2) if style & 8 and rng.random() < 0.1 else bytes([kind])
        unusual = rng.random() < 0.02
        head += wide(stream_id, (8 if unusual else 1) if style & 1 else (1 if unusual else 8))
        head += wide(at, 8 if style & 2 else 4)
        size = room - len(head) - (2 if kind == 0x0E else 0)
        self.sent[stream_id] += size
        data = self.source[stream_id][at : at + size]
        assert len(data) == size
        return head + (wide(size, 2) if kind == 0x0E else b"") + data

    def run(self) -> None:
        rng, peer = self.rng, self.peer
        size = rng.choice((60, 300, 1200, 1200, 1200, 4000))
        room = size - HEADER - TAG
        stream_id = rng.choice([each for each in (0, 0, 0, 2, 4, 6) if each not in self.ended])
        style = rng.randrange(16)
        count = min(rng.randrange(2, 90), (580_000 - self.sent[stream_id]) // room)
        payloads = [self.payload(stream_id, room, style) for _ in range(count)]
        for _ in range(rng.choice((0, 0, 1, 2, 5))):
            where = rng.randrange(len(payloads) + 1)
            surprise = rng.choice((PING, stream(0, 0, b""), frame(0x10, 0), b"again", b"lost"))
            if surprise == b"again" and self.read[0]:
                at = rng.randrange(self.read[0])
                surprise = stream(0, at, self.source[0][at : min(at + 20, self.sent[0])])
            elif surprise == b"lost" or surprise == b"again":
                if payloads:
                    self.lost.append(payloads.pop(where - 1))
                continue
            payloads.insert(where, surprise.ljust(room, b"\0"))
        again = [each for each in self.lost if len(each) == room]
        if again and rng.random() < 0.5:
            self.lost = [each for each in self.lost if len(each) != room]
            payloads += again
        packets = []
        update = rng.randrange(len(payloads)) if payloads and rng.random() < 0.1 else -1
        if update >= 0:  # the last one has to be acknowledged before
            peer.send(PING, cid=self.cid)
            peer.collect()
        for i, each in enumerate(payloads):
            if i == update and peer.plane.inspect()["phases"][0] == peer.phase & 1:
                peer.phase += 1
            if rng.random() < 0.003:
                self.cid = rng.choice((b"hostcid0", b"another!"))
            packets.append(peer.packet(each, cid=self.cid))
            if rng.random() < 0.005 and i != update:
                self.lost.append(each)
                at = rng.randrange(HEADER, size)
                packets[-1] = (
                    packets[-1][:at] + bytes([packets[-1][at] ^ 1]) + packets[-1][at + 1 :]
                )
            if self.old and rng.random() < 0.01:
                packets.append(rng.choice(self.old + packets))
        packets = [each for each in packets if len(each) == size]
        if packets and rng.random() < 0.1:
            a, b = rng.randrange(len(packets)), rng.randrange(len(packets))
            packets[a], packets[b] = packets[b], packets[a]
        peer.now += 0.01
        peer.plane.receive(b"".join(packets), peer.now, 0, size)
        self.old = (self.old + packets)[-200:]
        if rng.random() < 0.01:
            self.reset()
        if rng.random() < 0.01:
            self.stop()
        peer.collect()
        assert peer.failure() is None, peer.control.failures

    def reset(self) -> None:
        each = self.rng.choice((2, 4, 6))
        if each not in self.over:
            self.peer.send(frame(0x04, each, 7, self.sent[each]), cid=self.cid)
            self.over.add(each)
            self.ended.add(each)

    def finish(self) -> None:
        """What was lost comes after all, and nothing else has changed."""
        for each in self.lost:
            self.peer.send(each, cid=self.cid)
        for stream_id in self.source:
            while self.read[stream_id] < self.sent[stream_id] and stream_id not in self.over:
                before = self.read[stream_id]
                self.look(stream_id)
                assert self.read[stream_id] > before or stream_id in self.over
        for data, digest in self.kept:
            assert hashlib.sha256(data).hexdigest() == digest


@pytest.mark.parametrize("seed", range(20))
def test_several_connections_under_stress(seed: int) -> None:
    """Chunks come from one pool: no byte of a stream may get into another, or change once read."""
    rng = random.Random(seed)
    senders = [Sender(rng) for _ in range(3)]
    for _ in range(60):
        sender = rng.choice(senders)
        sender.run()
        for _ in range(rng.randrange(4)):
            sender.look(rng.choice(list(sender.source)))
        if rng.random() < 0.3:
            del sender.kept[: len(sender.kept) // 2]
    for sender in senders:
        sender.finish()
    assert sum(each.peer.plane.inspect()["placed"] for each in senders) > 0
