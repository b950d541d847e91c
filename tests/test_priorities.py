"""Which stream goes next: the queue of those that wait, against a list that is walked whole."""

import random

import pytest

pytest.importorskip("rawquic._fastpath")

from data_peer import DataPeer, ack
from wiretap import parse

STREAM_FRAMES = range(0x08, 0x10)


class Model:
    """Streams in the order of their turns, and how much of each waits."""

    def __init__(self) -> None:
        self.queue: list[int] = []
        self.priority: dict[int, int] = {}
        self.waiting: dict[int, int] = {}

    def add(self, stream: int) -> None:
        if stream in self.queue:
            return
        ranks = [self.priority[each] >= self.priority[stream] for each in self.queue]
        self.queue.insert(sum(ranks), stream)

    def write(self, stream: int, size: int) -> None:
        self.waiting[stream] = self.waiting.get(stream, 0) + size
        self.add(stream)

    def set_priority(self, stream: int, priority: int) -> None:
        waits = stream in self.queue
        if waits:
            self.queue.remove(stream)
        self.priority[stream] = priority
        if waits:
            self.add(stream)

    def reset(self, stream: int) -> None:
        if stream in self.queue:
            self.queue.remove(stream)

    def sent(self, stream: int, size: int) -> None:
        assert self.queue[0] == stream
        self.waiting[stream] -= size
        self.queue.remove(stream)
        if self.waiting[stream]:
            self.add(stream)


@pytest.mark.parametrize("levels", [1, 2, 5, 20])
@pytest.mark.parametrize("seed", range(5))
def test_streams_take_turns_as_in_the_model(seed: int, levels: int) -> None:
    rng = random.Random(seed)
    peer = DataPeer(bidi_streams=0, send_window=1 << 30)
    model = Model()
    streams = [peer.plane.open_stream(True) for _ in range(20)]
    model.priority = dict.fromkeys(streams, 0)
    frames = 0
    for _ in range(600):
        stream = rng.choice(streams)
        match rng.choices(("write", "priority", "reset", "send"), (6, 3, 0.2, 1))[0]:
            case "write":
                size = rng.choice((1, 100, 5000))
                assert peer.plane.write(stream, bytes(size), 0) == size
                model.write(stream, size)
            case "priority":
                priority = rng.randrange(levels)
                peer.plane.set_priority(stream, priority)
                model.set_priority(stream, priority)
            case "reset" if len(streams) > 5:
                peer.plane.reset(stream, 0)
                model.reset(stream)
                streams.remove(stream)
            case "send":
                for number, text in peer.collect():
                    for kind, *fields in parse(text):
                        if kind in STREAM_FRAMES:
                            model.sent(fields[0], len(fields[2]))
                            frames += 1
                    peer.now += 0.001
                    peer.send(ack((number, number)))
    assert frames > 200
