"""STREAM frames in any order, against a model of reassembly in Python.

What has to hold: a reader gets the bytes that were sent, each once and in order, and nothing before
all below it has come; and its end, or its reset.
"""

import random

from data_peer import DataPeer, frame, stream

from rawquic.errors import StreamReset


def run(rng: random.Random, corpus: list[bytes]) -> None:
    size = rng.choice((0, 1, 100, 4097, 20_000, 70_000, 200_000))
    data = rng.randbytes(size)
    window = rng.choice((1 << 14, 1 << 19))
    peer = DataPeer(stream_window=window, receive_window=4 * window)
    peer.send(stream(0, 0, b""))
    # RFC 9000 §4.1: the credit is the bound of what may be sent.
    credit, read, ended = window, bytearray(), False
    have = bytearray(size)
    first_missing, fin_sent, reset = 0, False, False
    for _ in range(5_000):
        low = rng.choice((first_missing, rng.randrange(size + 1)))
        high = min(low + rng.choice((0, 1, 10, 1000, 1000, 1000)), size, credit)
        if low <= high:
            fin = high == size and rng.random() < 0.9
            fin_sent = fin_sent or fin
            assert peer.send(stream(0, low, data[low:high], fin)), peer.control.failures
            have[low:high] = b"\1" * (high - low)
            first_missing = have.find(0, first_missing)
            first_missing = size if first_missing < 0 else first_missing
        if fin_sent and rng.random() < 0.0005:
            peer.send(frame(0x04, 0, 5, size))
            reset = True
        if rng.random() < 0.7:
            try:
                got = peer.plane.read(0, rng.choice((1, 77, 5000, 65536)))
            except StreamReset as error:
                assert reset and error.code == 5
                return
            if got is None:
                assert len(read) == first_missing
            elif got == b"":
                assert fin_sent and len(read) == size
                ended = True
            else:
                read += got
                assert len(read) <= first_missing
                assert read[-len(got) :] == data[len(read) - len(got) : len(read)]
        for _, payload in peer.collect():
            credit = max(credit, granted(payload, credit))
        assert credit <= len(read) + window  # RFC 9000 §4.1, and no more
        if ended:
            assert peer.failure() is None
            return


def granted(payload: bytes, credit: int) -> int:
    """The stream's credit by the MAX_STREAM_DATA frames in a payload."""
    from aioquic.buffer import Buffer

    buffer = Buffer(data=payload)
    while not buffer.eof():
        kind = buffer.pull_uint_var()
        if kind == 0x11:
            buffer.pull_uint_var()
            credit = max(credit, buffer.pull_uint_var())
        elif kind == 0x02:
            numbers = [buffer.pull_uint_var() for _ in range(4)]
            for _ in range(2 * numbers[2]):
                buffer.pull_uint_var()
        else:
            for _ in range({0x00: 0, 0x01: 0, 0x10: 1, 0x12: 1, 0x13: 1}[kind]):
                buffer.pull_uint_var()
    return credit
