"""Frame payloads behind decryption, into a `DataPlane`: mutated frames, in mutated packets.

What has to hold: nothing but a connection error comes of it, and the plane still closes cleanly.
"""

import random

from data_peer import DataPeer, frame, stream
from fuzz.mutation import mutated, varint

KINDS = [0x00, 0x01, 0x02, 0x03, *range(0x04, 0x1F), 0x20, 0x30, 0x31, 1 << 20]


def one_frame(rng: random.Random, sent: int) -> bytes:
    """A frame that is likely to be well formed, with numbers near the limits."""
    kind = rng.choice(KINDS)
    stream_id = rng.randrange(24)
    if kind == 0x00:
        return bytes(rng.randrange(1, 4))
    if kind in (0x02, 0x03):
        high = rng.randrange(sent + 1)
        first = rng.randrange(high + 1)
        low, values, count = high - first, [], 0
        while low > 3 and count < 20 and rng.random() < 0.7:
            gap = rng.randrange(min(low - 1, 50))
            length = rng.randrange(min(low - gap - 1, 50))
            values += [gap, length]
            low, count = low - gap - 2 - length, count + 1
        tail = [rng.randrange(100) for _ in range(3)] if kind == 0x03 else []
        return frame(kind, high, varint(rng), count, first, *values, *tail)
    if 0x08 <= kind <= 0x0F:
        data = rng.randbytes(rng.choice((0, 1, 7, 100, 1000)))
        offset = rng.choice((0, rng.randrange(200), rng.randrange(70_000), varint(rng)))
        if kind & 2:
            return stream(stream_id, min(offset, (1 << 62) - 1), data, fin=bool(kind & 1))
        return frame(kind, stream_id, *([offset] if kind & 4 else []), data)
    if kind in (0x30, 0x31):
        data = rng.randbytes(rng.randrange(50))
        return frame(kind, *([len(data)] if kind & 1 else []), data)
    if kind == 0x18:
        return frame(kind, rng.randrange(8), rng.randrange(4), b"\x08", rng.randbytes(24))
    if kind in (0x1A, 0x1B):
        return frame(kind, rng.randbytes(8))
    numbers = [rng.choice((stream_id, rng.randrange(5000), varint(rng))) for _ in range(3)]
    count = {0x04: 3, 0x05: 2, 0x11: 2, 0x15: 2, 0x1E: 0}.get(kind, 1)
    return frame(kind, *numbers[:count])


def drive(peer: DataPeer, rng: random.Random) -> None:
    """What the application and time do in between."""
    plane = peer.plane
    choice = rng.randrange(12)
    stream_id = rng.randrange(24)
    if choice == 0:
        plane.open_stream(bool(rng.randrange(2)))
    elif choice == 1:
        plane.write(stream_id, rng.randbytes(rng.choice((1, 500, 5000))), 0)
    elif choice == 2:
        plane.finish(stream_id)
    elif choice == 3:
        plane.reset(stream_id, 7)
    elif choice == 4:
        plane.stop(stream_id, 7)
    elif choice in (5, 6):
        plane.read(stream_id, rng.choice((1, 100, 65536)))
    elif choice == 7:
        plane.ping(1)
    elif choice == 8:
        plane.control_queue(b"\x1e", (None, ()))
    elif choice == 9:
        plane.request_key_update()
    elif choice == 10 and plane.max_datagram_size():
        plane.send_datagram(rng.randbytes(rng.randrange(1000)))
    else:
        plane.take_events()
        plane.read_datagrams(10)
        due = plane.timer()
        peer.now = max(peer.now, due or 0.0)
        plane.on_timer(peer.now)


def run(rng: random.Random, corpus: list[bytes]) -> None:
    """One connection, until it is closed or has had enough."""
    peer = DataPeer(is_client=bool(rng.randrange(2)))
    pool = list(corpus)
    for _ in range(rng.randrange(1, 200)):
        peer.now += rng.choice((0.0, 1e-4, 0.01, 0.3))
        sent = peer.plane.statistics()["packets_sent"]
        payload = b"".join(one_frame(rng, sent) for _ in range(rng.randrange(1, 6)))
        if pool and rng.random() < 0.05:
            payload = rng.choice(pool)
        if rng.random() < 0.05:
            payload = mutated(rng, payload)
        number = peer.number + rng.choice((0, 0, 0, 0, 0, 1, 5, 9000))
        packet = peer.packet(payload[:1300], number=number, phase=peer.phase)
        if rng.random() < 0.02:
            packet = mutated(rng, packet)
        if packet:
            peer.plane.receive(packet, peer.now)
        if rng.random() < 0.5:
            drive(peer, rng)
        if rng.random() < 0.3:
            peer.plane.build(peer.now)
        if peer.plane.closing:
            peer.plane.build_single(b"\x1c\x00\x00\x00", b"peercid1", peer.now, 0)
            break
    if rng.random() < 0.5:
        peer.plane.discard()
        peer.plane.read(0, 100)
