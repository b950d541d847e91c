"""The rest of a train (bulk_out) is what packet_out would have built.

Two data planes send the same stream to peers that do the same. One has another stream besides, of a
lower priority, with a byte that waits: so it asks for every packet what else there is to send.
"""

import random
from collections.abc import Iterator

import pytest

pytest.importorskip("rawquic._fastpath")

from data_peer import DataPeer, ack, frame
from wiretap import parse

STREAM, OTHER = 3, 7  # a server's first unidirectional ones
SIZE = 1200


class Sender:
    def __init__(self, *, beside: bool, **parameters: int) -> None:
        given = {"max_stream_data_uni": 1 << 20, **parameters}
        self.peer = DataPeer(
            parameters=given, initial_mtu=SIZE, mtu_upper_bound=SIZE, send_window=1 << 22
        )
        self.plane = self.peer.plane
        assert self.plane.open_stream(True) == STREAM
        if beside:
            assert self.plane.open_stream(True) == OTHER
            self.plane.set_priority(OTHER, -1)
            self.plane.write(OTHER, b"x", 0)
        self.frames: dict[int, tuple[int, int, bool]] = {}  # offset, length, end, by packet
        self.sent: list[tuple[int, int, bool]] = []
        self.taken = bytearray(1 << 21)

    def send(self) -> list[tuple[int, int, bool]]:
        """The STREAM frames that leave now."""
        found = []
        for number, text in self.peer.collect():
            for offset, data, fin in stream_frames(text):
                self.taken[offset : offset + len(data)] = data
                self.frames[number] = (offset, len(data), fin)
                found.append((offset, len(data), fin))
        self.sent += found
        return found

    def settle(self, lost: set[int]) -> None:
        """Acknowledge what is under way, but for frames at these offsets."""
        acked = sorted(n for n, (offset, *_) in self.frames.items() if offset not in lost)
        self.frames = {n: each for n, each in self.frames.items() if n not in acked}
        ranges: list[tuple[int, int]] = []
        for number in acked:
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1] = (ranges[-1][0], number)
            else:
                ranges.append((number, number))
        if ranges:
            self.peer.send(ack(*reversed(ranges[-20:])))


def stream_frames(text: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """(offset, data, end) of STREAM; there may be PING and ACK besides."""
    for kind, *fields in parse(text):
        if kind & 0xF8 == 8:
            stream_id, offset, data, fin = fields
            if stream_id == STREAM:
                yield offset, data, fin
        else:
            assert kind in (1, 2), f"frame {kind:#x}"


def pieces(rng: random.Random, source: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(source):
        size = rng.choice((1, 700, 1170, 5_000, 65_536, 200_000))
        yield source[at : at + size]
        at += size


def after(sender: Sender, lost: set[int]) -> None:
    """A round trip later."""
    sender.settle(lost)
    sender.peer.now += 0.05
    timer = sender.plane.timer()
    if timer is not None and timer <= sender.peer.now:
        sender.plane.on_timer(sender.peer.now)


@pytest.mark.parametrize("seed", range(40))
def test_both_ways_send_the_same(seed: int) -> None:
    rng = random.Random(seed)
    both = [Sender(beside=beside) for beside in (False, True)]
    source = rng.randbytes(rng.randrange(50_000, 1 << 20))
    for piece in pieces(rng, source):
        for sender in both:
            assert sender.plane.write(STREAM, piece, 0) == len(piece)
    for sender in both:
        sender.plane.finish(STREAM)
    for sender in both:
        while not sender.peer.control.failures and not any(fin for *_, fin in sender.sent):
            sender.send()
            after(sender, set())
    # When each leaves depends on packet numbers, some of which are left out by chance.
    assert both[0].sent == both[1].sent
    assert all(sender.taken[: len(source)] == source for sender in both)


def test_numbers_are_left_out_in_the_middle_of_trains() -> None:
    sender = Sender(beside=False)
    sender.plane.write(STREAM, bytes(1 << 20), 0)
    numbers: set[int] = set()
    while max(numbers, default=0) < 600:
        assert sender.send()
        numbers |= set(sender.frames)
        after(sender, set())
    skipped = sender.plane.inspect()["skipped"]
    assert len(skipped) >= 2
    assert not numbers & set(skipped)


def test_the_end_goes_with_a_last_packet_that_it_fills() -> None:
    probe = Sender(beside=False)
    probe.plane.write(STREAM, bytes(1 << 18), 0)
    offset, length, _ = probe.send()[6]
    sender = Sender(beside=False)
    sender.plane.write(STREAM, bytes(offset + length), 0)
    sender.plane.finish(STREAM)
    assert sender.send()[6:] == [(offset, length, True)]


@pytest.mark.parametrize("seed", range(20))
def test_credit_and_the_end_are_kept_with_loss(seed: int) -> None:
    """What is sent never passes the peer's credit, and the end is where it is."""
    rng = random.Random(seed)
    credit = rng.randrange(2_000, 100_000)
    sender = Sender(beside=False, max_stream_data_uni=credit)
    source = rng.randbytes(rng.randrange(credit, 1 << 19))
    waiting, ends = list(pieces(rng, source)), set()
    for _ in range(2000):
        while waiting and rng.random() < 0.7:
            taken = sender.plane.write(STREAM, waiting[0], 0)
            waiting[0] = waiting[0][taken:]
            if waiting[0]:
                break
            del waiting[0]
            if not waiting:
                sender.plane.finish(STREAM)
        found = sender.send()
        for offset, length, fin in found:
            assert offset + length <= credit
            if fin:
                ends.add(offset + length)
        if ends and sender.taken[: len(source)] == source:
            break
        offsets = [offset for offset, *_ in found]
        after(sender, set(rng.sample(offsets, min(len(offsets), rng.choice((0, 0, 0, 1, 3))))))
        if rng.random() < 0.5:
            credit += rng.randrange(1, 50_000)
            sender.peer.send(frame(0x11, STREAM, credit))
    assert ends == {len(source)}
    assert sender.taken[: len(source)] == source


def test_what_is_outside_of_the_data_is_not_sent() -> None:
    sender = Sender(beside=False)
    for offset in (-1, 6, -(1 << 62)):
        with pytest.raises(ValueError, match="from 0 to 5"):
            sender.plane.write(STREAM, b"hello", offset)
    assert sender.plane.write(STREAM, b"hello", 5) == 0
    assert sender.plane.write(STREAM, b"hello", 4) == 1
    assert sender.send() == [(0, 1, False)]
