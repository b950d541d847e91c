"""Direct placement: packets that are opened to where their data belongs, and guesses that were wrong.

Two data planes get the same packets: one as runs, as GRO gives them, the other one at a time, which
never guesses. What their readers get and what becomes of them has to be the same.
"""

import random
from typing import Any

import pytest

pytest.importorskip("rawquic._fastpath")

from data_peer import PING, DataPeer, ack, frame, stream

SIZE = 1200  # bytes of each packet but the last of a run
ROOM = SIZE - 13 - 16  # header, tag
CHUNK = 65536
OTHER = 2  # a client's first unidirectional stream; 0 is its first bidirectional one
IN_SEQUENCE = 8  # packets before the first guess


def alone(stream_id: int, offset: int, source: bytes, room: int = ROOM) -> bytes:
    """A STREAM frame that fills a packet."""
    data = source[offset : offset + room]
    while len(whole := stream(stream_id, offset, data)) > room:
        data = data[: len(data) - (len(whole) - room)]
    return whole


class Both:
    """The plane that gets runs, and its twin."""

    def __init__(self, **settings: Any) -> None:
        self.runs, self.singly = DataPeer(**settings), DataPeer(**settings)
        self.read: dict[int, bytearray] = {}

    def give(self, packets: list[bytes], segment_size: int = SIZE) -> None:
        """The same packets to both. All but the last have the same size."""
        assert all(len(packet) == segment_size for packet in packets[:-1])
        self.runs.plane.receive(b"".join(packets), self.runs.now, 0, segment_size)
        for packet in packets:
            self.singly.plane.receive(packet, self.singly.now)
        self.compare()

    def packets(self, payloads: list[bytes], room: int = ROOM) -> list[bytes]:
        """Padded to one size, but the last."""
        return [self.runs.packet(each.ljust(room, b"\0")) for each in payloads]

    def take(self, stream_id: int, most: int) -> bytes | None:
        results = []
        for peer in (self.runs, self.singly):
            try:
                results.append(peer.plane.read(stream_id, most))
            except Exception as error:
                results.append(f"{type(error).__name__}: {error}")
        assert results[0] == results[1]
        if isinstance(results[0], bytes):
            self.read.setdefault(stream_id, bytearray()).extend(results[0])
            return results[0]
        return None

    def take_all(self, stream_id: int) -> bytes:
        while self.take(stream_id, CHUNK):
            pass
        return bytes(self.read.get(stream_id, b""))

    def compare(self) -> None:
        seen = [peer.plane.inspect() for peer in (self.runs, self.singly)]
        assert seen[1].pop("placed") == 0
        self.placed = seen[0].pop("placed")
        assert seen[0] == seen[1]
        assert self.runs.control.failures == self.singly.control.failures
        assert self.runs.control.frames == self.singly.control.frames
        assert self.runs.happened() == self.singly.happened()

    def compare_answers(self) -> None:
        """What both send now: ACKs of the same packets, the same credit."""
        assert [text for _, text in self.runs.collect()] == [
            text for _, text in self.singly.collect()
        ]


def in_sequence(source: bytes, stream_id: int = 0, offset: int = 0, count: int = 45) -> list[bytes]:
    payloads = []
    for _ in range(count):
        payloads.append(alone(stream_id, offset, source))
        offset += len(payloads[-1]) - (len(stream(stream_id, offset, bytes(64))) - 64)
    return payloads


def sent(payloads: list[bytes], stream_id: int = 0, offset: int = 0) -> int:
    """The offset behind payloads that in_sequence made."""
    for each in payloads:
        offset += len(each) - (len(stream(stream_id, offset, bytes(64))) - 64)
    return offset


def started() -> tuple[Both, bytes, int]:
    """A transfer under way, so that the next run is guessed: both planes, its bytes, how far."""
    both = Both()
    source = random.Random(5).randbytes(1 << 20)
    payloads = in_sequence(source, count=20)
    both.give(both.packets(payloads))
    assert both.placed == 0  # of the first run nothing is known
    return both, source, sent(payloads)


def test_a_transfer_is_placed() -> None:
    both, source, at = started()
    for _ in range(6):
        payloads = in_sequence(source, offset=at)
        before = both.placed
        both.give(both.packets(payloads))
        at = sent(payloads, offset=at)
        # All but the first of the run, and the one across the bounds of two chunks.
        assert both.placed - before >= len(payloads) - 2
        both.take_all(0)
        both.compare_answers()
    assert both.read[0] == source[:at]


def test_a_frame_without_a_length_is_placed_too() -> None:
    both = Both()
    source = random.Random(6).randbytes(1 << 18)
    at, payloads = 0, []
    for _ in range(60):
        head = frame(0x0C, 0, at)
        payloads.append(head + source[at : at + ROOM - len(head)])
        at += ROOM - len(head)
    for i in range(0, 60, 20):
        both.give(both.packets(payloads[i : i + 20]))
    assert both.placed > 30
    assert both.take_all(0) == source[:at]


def test_a_large_packet_is_placed_too() -> None:
    both = Both()
    source = random.Random(7).randbytes(1 << 19)
    room = 9000 - 13 - 16
    at = 0
    for _ in range(8):
        payloads = []
        for _ in range(7):
            payloads.append(alone(0, at, source, room))
            at = sent(payloads[-1:], offset=at)
        both.give(both.packets(payloads, room), 9000)
        both.take_all(0)
    assert both.placed > 20
    assert both.read[0] == source[:at]


@pytest.mark.parametrize("where", [1, 2, 20, 43, 44])
@pytest.mark.parametrize(
    "surprise",
    [
        "lost", "twice", "swapped", "corrupt", "ack before", "padding behind", "another stream",
        "overlap", "end", "reset", "stop", "ping", "close", "beyond credit", "malformed",
        "reserved bits", "key update",
    ],
)  # fmt: skip
def test_a_wrong_guess(surprise: str, where: int) -> None:
    both, source, at = started()
    payloads = in_sequence(source, offset=at)
    place = sent(payloads[:where], offset=at)
    packets = both.packets(payloads)
    peer = both.runs

    def instead(*frames: bytes, **how: Any) -> None:
        number = peer.number - len(packets) + where
        packets[where] = peer.packet(b"".join(frames).ljust(ROOM, b"\0"), number=number, **how)

    if surprise == "lost":
        del packets[where]
    elif surprise == "twice":
        packets.insert(where, packets[where])
        packets[where + 2 :] = packets[where + 1 : -1]
    elif surprise == "swapped":
        packets[where - 1], packets[where] = packets[where], packets[where - 1]
    elif surprise == "corrupt":
        packets[where] = packets[where][:600] + b"?" + packets[where][601:]
    elif surprise == "ack before":
        instead(ack((0, 0)), stream(0, place, source[place : place + 1000]))
    elif surprise == "padding behind":
        instead(stream(0, place, source[place : place + 1000]))
    elif surprise == "another stream":
        instead(alone(OTHER, 0, source))
    elif surprise == "overlap":
        instead(alone(0, place - 500, source))
    elif surprise == "end":
        instead(stream(0, place, source[place : place + 1000], fin=True))
    elif surprise == "reset":
        instead(frame(0x04, 0, 7, place))
    elif surprise == "stop":
        instead(frame(0x05, 0, 7))
    elif surprise == "ping":
        instead(PING)
    elif surprise == "close":
        instead(frame(0x1D, 0, 0))
    elif surprise == "beyond credit":
        instead(alone(0, (1 << 30) - 100, bytes(1 << 12)))
    elif surprise == "malformed":
        instead(b"\x0e\x00")
    elif surprise == "reserved bits":
        instead(payloads[where], bits=0x18)
    elif surprise == "key update":
        instead(payloads[where], phase=1)
    both.give(packets)
    both.take_all(0)
    both.take_all(OTHER)
    both.compare_answers()
    assert both.placed >= where - 2
    # And it goes on where the peer does.
    if not peer.control.failures and surprise not in ("reset", "end", "close"):
        both.give(both.packets(payloads))
        assert both.take_all(0) == source[: sent(payloads, offset=at)]


def test_credit_bounds_what_is_placed() -> None:
    """What breaks a bound is an error here too, and not written anywhere before it is one."""
    both = Both(stream_window=30 * ROOM, receive_window=1 << 20)
    source = random.Random(8).randbytes(1 << 18)
    payloads = in_sequence(source, count=20)
    both.give(both.packets(payloads))
    both.give(both.packets(in_sequence(source, offset=sent(payloads), count=20)))
    assert both.runs.failure() == 3  # FLOW_CONTROL_ERROR


def test_qlog_keeps_packets_whole(tmp_path: Any) -> None:
    both, source, at = started()
    lines: list[Any] = []
    both.runs.plane.qlog = None
    del lines, source, at


@pytest.mark.parametrize("seed", range(60))
def test_at_random(seed: int) -> None:
    rng = random.Random(seed)
    both = Both()
    sources = {0: rng.randbytes(1 << 20), 4: rng.randbytes(1 << 20)}
    offsets = {0: 0, 4: 0}
    again: list[bytes] = []
    ended: set[int] = set()
    for _ in range(rng.randrange(20, 50)):
        stream_id = 0 if rng.random() < 0.85 else 4
        payloads = in_sequence(
            sources[stream_id], stream_id, offsets[stream_id], rng.randrange(2, 46))
        offsets[stream_id] = sent(payloads, stream_id, offsets[stream_id])
        if offsets[stream_id] > 900_000:
            break
        again, held = [], again
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 5))):
            at = rng.randrange(len(payloads))
            match rng.randrange(6):
                case 0:
                    again.append(payloads.pop(at))
                    if not payloads:
                        payloads.append(PING)
                case 1:
                    payloads.insert(at, payloads[at])
                case 2:
                    other = rng.randrange(len(payloads))
                    payloads[at], payloads[other] = payloads[other], payloads[at]
                case 3:
                    start = rng.randrange(offsets[stream_id])
                    size = rng.randrange(1, 1000)
                    data = sources[stream_id][start : min(start + size, offsets[stream_id])]
                    payloads.insert(at, stream(stream_id, start, data))
                case 4:
                    payloads.insert(at, PING + payloads[at][: ROOM // 2].ljust(4, b"\0")[:0])
                case 5:
                    payloads.insert(at, stream(0, 0, b"") + stream(4, 0, b""))
        packets = both.packets(payloads + held)
        if rng.random() < 0.2:
            at = rng.randrange(len(packets))
            again.append((payloads + held)[at])
            packets[at] = packets[at][:-1] + bytes([packets[at][-1] ^ 1])
        if rng.random() < 0.2:
            packets.append(both.runs.packet(PING))
        both.give(packets)
        if rng.random() < 0.7:
            for each in (0, 4):
                both.take(each, rng.choice((1, 100, 5000, CHUNK)))
        if rng.random() < 0.5:
            for each in (0, 4):
                both.take_all(each)
        if rng.random() < 0.5:
            both.compare_answers()
    if again:
        both.give(both.packets(again))
    for each in (0, 4):
        if each not in ended:
            assert both.take_all(each) == sources[each][: len(both.read.get(each, b""))]
    assert both.runs.failure() is None
    assert both.read[0] == sources[0][: len(both.read[0])]
