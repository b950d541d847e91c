"""Direct placement: packets that are opened to where their data belongs, and wrong guesses.

Two data planes get the same packets: one as runs, as GRO gives them, the other one at a time, which
never guesses. What their readers get and what becomes of them has to be the same.
"""

import random
from typing import Any
from unittest.mock import Mock

import pytest

pytest.importorskip("rawquic._fastpath")

from data_peer import PING, TAG, DataPeer, ack, frame, stream

SIZE = 1200  # bytes of each packet but the last of a run
HEADER = 13  # of DataPeer's packets
ROOM = SIZE - HEADER - TAG
CHUNK = 65536
OTHER = 2  # a client's first unidirectional stream; 0 is its first bidirectional one
ACROSS = 36  # the packet of the run behind `started` that has data of two chunks


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
        for each in seen:
            for chance in ("longest_chain", "skipped", "next_number", "ring"):
                del each[chance]
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
        offset = sent(payloads[-1:], stream_id, offset)
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
    room = 9000 - HEADER - TAG
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


@pytest.mark.parametrize("where", [1, 2, 20, ACROSS, 43, 44])
@pytest.mark.parametrize(
    "surprise",
    [
        "lost", "twice", "swapped", "corrupt", "ack before", "padding behind", "another stream",
        "overlap", "end", "end of a full one", "without a length", "reset", "stop", "ping",
        "close", "beyond credit", "malformed", "reserved bits", "key update",
    ],
)  # fmt: skip
def test_a_wrong_guess(surprise: str, where: int) -> None:
    both, source, at = started()
    payloads = in_sequence(source, offset=at)
    place = sent(payloads[:where], offset=at)
    if where == ACROSS:
        assert place < CHUNK < sent(payloads[: where + 1], offset=at)
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
    elif surprise == "end of a full one":
        instead(stream(0, place, source[place:][: ROOM - 9], fin=True)[:ROOM])
    elif surprise == "without a length":
        instead(frame(0x0C, 0, place, source[place:][: ROOM - 6]))
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
        peer.phase = 1
    both.give(packets)
    both.take_all(0)
    both.take_all(OTHER)
    both.compare_answers()
    assert both.placed >= where - 3  # but the first, one across two chunks, and a swapped one
    # And it goes on where the peer does.
    if not peer.control.failures and surprise not in ("reset", "end", "end of a full one", "close"):
        both.give(both.packets(payloads))
        got = both.take_all(0)
        assert len(got) >= sent(payloads, offset=at)
        assert got == source[: len(got)]


def test_data_that_came_ahead_is_not_written_over() -> None:
    """A hole is filled in order, as a transfer would; what follows is not where it would be."""
    both, source, at = started()
    payloads = in_sequence(source, offset=at)
    packets = both.packets(payloads)
    both.give([*packets[:10], *packets[25:]])
    beyond = in_sequence(source, offset=sent(payloads, offset=at))
    both.give(both.packets(payloads[10:21]))
    both.give(both.packets([*payloads[21:23], *beyond, *payloads[23:25]]))
    assert both.take_all(0) == source[: sent(beyond, offset=sent(payloads, offset=at))]


def test_nothing_is_placed_before_a_chunk() -> None:
    """A packet whose data begins a chunk is opened in place: its head would lie before it."""
    both = Both()
    source = random.Random(9).randbytes(CHUNK + 1024)
    packets = [
        both.runs.packet(stream(0, at, source[at : at + 1024]))
        for at in range(0, len(source), 1024)
    ]
    for packet in packets[:44]:
        both.give([packet], len(packet))
    assert both.placed == 0  # who gives them one at a time
    both.give(packets[44:], len(packets[-1]))
    assert both.placed == len(packets) - 44 - 2  # but the first of the run, and the last
    assert both.take_all(0) == source


def test_credit_bounds_what_is_placed() -> None:
    both = Both(stream_window=30 * ROOM, receive_window=1 << 20)
    source = random.Random(8).randbytes(1 << 18)
    payloads = in_sequence(source, count=20)
    both.give(both.packets(payloads))
    both.give(both.packets(in_sequence(source, offset=sent(payloads), count=20)))
    assert both.runs.failure() == 3  # FLOW_CONTROL_ERROR


def test_qlog_sees_whole_packets() -> None:
    both, source, at = started()
    both.runs.plane.qlog = Mock()
    both.give(both.packets(in_sequence(source, offset=at)))
    assert both.placed == 0


@pytest.mark.parametrize("seed", range(60))
def test_at_random(seed: int) -> None:
    rng = random.Random(seed)
    both = Both()
    sources = {0: rng.randbytes(1 << 20), 4: rng.randbytes(1 << 20)}
    offsets = {0: 0, 4: 0}
    lost: list[bytes] = []
    for _ in range(rng.randrange(20, 50)):
        stream_id = 0 if rng.random() < 0.85 else 4
        payloads = in_sequence(
            sources[stream_id], stream_id, offsets[stream_id], rng.randrange(2, 46)
        )
        offsets[stream_id] = sent(payloads, stream_id, offsets[stream_id])
        if offsets[stream_id] > 900_000:
            break
        again, lost = lost, []
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 5))):
            at = rng.randrange(len(payloads))
            match rng.randrange(5):
                case 0:
                    lost.append(payloads[at])
                    payloads[at] = PING
                case 1:
                    payloads.insert(at, payloads[at])
                case 2:
                    other = rng.randrange(len(payloads))
                    payloads[at], payloads[other] = payloads[other], payloads[at]
                case 3:
                    start = rng.randrange(offsets[stream_id])
                    stop = min(start + rng.randrange(1, 1000), offsets[stream_id])
                    payloads.insert(at, stream(stream_id, start, sources[stream_id][start:stop]))
                case 4:
                    payloads.insert(at, stream(0, 0, b"") + stream(4, 0, b""))
        payloads += again
        packets = both.packets(payloads)
        if rng.random() < 0.2:
            at = rng.randrange(len(packets))
            lost.append(payloads[at])
            packets[at] = packets[at][:-1] + bytes([packets[at][-1] ^ 1])
        if rng.random() < 0.2:
            packets.append(both.runs.packet(PING))
        both.give(packets)
        for each in (0, 4):
            if rng.random() < 0.7:
                both.take(each, rng.choice((1, 100, 5000, CHUNK)))
            if rng.random() < 0.5:
                both.take_all(each)
        if rng.random() < 0.5:
            both.compare_answers()
    both.give(both.packets([*lost, PING]))
    for each in (0, 4):
        assert both.take_all(each) == sources[each][: offsets[each]] or offsets[each] > 900_000
        assert both.read.get(each, b"") == sources[each][: len(both.read.get(each, b""))]
    assert both.runs.failure() is None
