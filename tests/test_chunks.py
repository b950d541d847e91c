"""Large chunks are used again once their reader has dropped them, and never before.

The memory is that of the `bytes` that `read` gave, so a mistake would change bytes in somebody's
hands.
"""

import random
from typing import Any

import pytest
from data_peer import DataPeer, stream

pytestmark = pytest.mark.usefixtures("fast_only")

CHUNK = 65536
PIECE = 1200


class Flow:
    """A stream that delivers the same random bytes to the plane and to the test."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.peer = DataPeer(receive_window=1 << 24, stream_window=1 << 24)
        self.offset = 0
        self.next_chunk()  # the first 64 KiB come in smaller ones
        while self.peer.plane.read(0, CHUNK):
            pass

    def next_chunk(self) -> bytes:
        data = self.rng.randbytes(CHUNK)
        for at in range(0, CHUNK, PIECE):
            self.peer.send(stream(0, self.offset + at, data[at : at + PIECE]))
        self.offset += CHUNK
        self.peer.plane.build(self.peer.now)
        return data

    def read(self, most: int = CHUNK) -> Any:
        return self.peer.plane.read(0, most)


@pytest.fixture
def flow() -> Flow:
    return Flow(random.Random(1))


def test_a_chunk_that_was_dropped_is_used_again(flow: Flow) -> None:
    places = set()
    for _ in range(100):
        data = flow.next_chunk()
        got = flow.read()
        assert got == data
        places.add(id(got))
        del got
    assert len(places) < 40  # the pool's room, and what the allocator gave for it


def test_a_chunk_that_is_held_never_changes(flow: Flow) -> None:
    held: list[tuple[Any, bytes]] = []
    for turn in range(400):
        data = flow.next_chunk()
        got = flow.read()
        if turn % 3 == 0:
            held.append((got, data))
        elif turn % 3 == 1:  # only a view of it is kept
            held.append((memoryview(got)[100:200], data[100:200]))
        del got
        if flow.rng.random() < 0.3:
            held.pop(flow.rng.randrange(len(held)))
    assert len(held) > 50
    assert all(bytes(got) == data for got, data in held)


def test_a_chunk_that_is_used_again_has_its_own_hash(flow: Flow) -> None:
    for _ in range(100):
        data = flow.next_chunk()
        got = flow.read()
        assert hash(got) == hash(data) and {got: 1}[data] == 1
        del got


def test_chunks_read_in_pieces_are_used_again_as_well(flow: Flow) -> None:
    pieces = []
    for _ in range(60):
        data = flow.next_chunk()
        got = []
        while part := flow.read(20_000):
            got.append(part)
        assert b"".join(got) == data
        pieces.append((got[1], data[20_000:40_000]))
    assert all(got == data for got, data in pieces)
