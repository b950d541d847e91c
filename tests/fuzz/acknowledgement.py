"""ACK frames of any ranges, lost and late ones, against a model of what was sent.

What has to hold: no packet number comes twice, ACKs of what was sent are no error, and all bytes of
a stream come again until each was acknowledged, unchanged.
"""

import random

from aioquic.buffer import Buffer
from data_peer import PING, DataPeer, ack


def run(rng: random.Random, corpus: list[bytes]) -> None:
    peer = DataPeer()
    stream_id = peer.plane.open_stream(True)
    data = rng.randbytes(rng.choice((1, 5000, 100_000)))
    loss = rng.choice((0.0, 0.1, 0.5))
    offset, arrived, numbers, unacked = 0, {}, set(), set()
    finished, ended = False, False
    for _ in range(4_000):
        peer.now += rng.choice((1e-4, 0.01))
        if offset < len(data):
            piece = data[offset : offset + rng.choice((1, 50, 3000))]
            offset += peer.plane.write(stream_id, piece, 0)
        elif not finished:
            peer.plane.finish(stream_id)
            finished = True
        due = peer.plane.timer()
        if due is not None and rng.random() < 0.5:
            peer.now = max(peer.now, due)
            peer.plane.on_timer(peer.now)
        for number, payload in peer.collect():
            assert number not in numbers, "a packet number was used twice"
            numbers.add(number)
            if rng.random() >= loss:
                take(payload, arrived)
                unacked.add(number)
        if unacked and rng.random() < 0.4:
            some = {n for n in unacked if rng.random() < 0.9}
            if some:
                peer.send(ack(*runs(some)))
                unacked -= some if rng.random() < 0.7 else set()  # or the same again
        if rng.random() < 0.05:
            peer.send(PING)
        assert peer.failure() is None, peer.control.failures
        ended = ended or any(kind.name == "SEND_ENDED" for kind, _ in peer.happened())
        if ended:
            break
    if ended:
        assert finished
        whole = bytearray(len(data))
        covered = 0
        for start in sorted(arrived):
            assert start <= covered
            whole[start : start + len(arrived[start])] = arrived[start]
            covered = max(covered, start + len(arrived[start]))
        assert covered == len(data)
        assert bytes(whole) == data
        assert peer.plane.unacknowledged(stream_id) == 0
    never = max(numbers, default=0) + 1 + rng.randrange(1000)
    peer.send(ack((never, never)))
    assert peer.failure() is not None


def runs(numbers: set[int]) -> list[tuple[int, int]]:
    """(lowest, highest) of each run, the highest first."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers, reverse=True):
        if found and found[-1][0] == number + 1:
            found[-1] = (number, found[-1][1])
        elif len(found) == 60:
            break
        else:
            found.append((number, number))
    return found


def take(payload: bytes, arrived: dict[int, bytes]) -> None:
    """Note the STREAM frames of a payload; of two at one offset, the longer one."""
    buffer = Buffer(data=payload)
    while not buffer.eof():
        kind = buffer.pull_uint_var()
        if kind & ~7 == 8:
            buffer.pull_uint_var()
            offset = buffer.pull_uint_var() if kind & 4 else 0
            size = buffer.pull_uint_var() if kind & 2 else len(payload) - buffer.tell()
            part = buffer.pull_bytes(size)
            if len(part) >= len(arrived.get(offset, b"")):
                arrived[offset] = part
        elif kind == 0x02:
            numbers = [buffer.pull_uint_var() for _ in range(4)]
            for _ in range(2 * numbers[2]):
                buffer.pull_uint_var()
        else:
            assert kind in (0x00, 0x01), kind
