"""Frame payloads behind decryption, into a `DataPlane`: mutated frames, in mutated packets.

What has to hold: nothing but a connection error comes of it, and the plane still closes cleanly.
"""

import contextlib
import random

from data_peer import PING, DataPeer, ack, frame, stream
from fuzz.acknowledgement import runs
from fuzz.mutation import mutated, varint

from rawquic.errors import StreamError

WILD = [*range(0x22), 0x30, 0x31, 1 << 20]
KEY_UPDATE_ERROR = 0xE  # an update that comes too soon
TAME = [0x01, 0x02, 0x03, 0x04, 0x05, *[0x0E, 0x0F] * 5, *range(0x08, 0x1A), 0x30, 0x31]

# How many integers a frame has; others have one.
NUMBERS = {0x01: 0, 0x04: 3, 0x05: 2, 0x11: 2, 0x15: 2, 0x1C: 3, 0x1D: 2, 0x1E: 0}


class Author:
    """Writes frames: mostly such as a peer may send, so that a connection lives long enough."""

    def __init__(self, peer: DataPeer, rng: random.Random, is_client: bool) -> None:
        self.peer, self.rng, self.is_client = peer, rng, is_client
        self.sent: set[int] = set()  # packet numbers of the plane's
        self.opened = [0, 0]  # streams of the plane's
        self.ends: dict[int, int] = {}  # final sizes, to keep to

    def stream_id(self, *, we_send: bool) -> int | None:
        """A stream that the peer may name; `we_send`: one that the plane sends on."""
        uni, local = self.rng.randrange(2), self.rng.randrange(2)
        if (uni and bool(local) is not we_send) or (local and not self.opened[uni]):
            return None
        number = self.rng.randrange(self.opened[uni] if local else 6)
        return number << 2 | uni << 1 | (local ^ (1 if self.is_client else 0) ^ 0)

    def frame(self, wild: bool) -> bytes:
        rng = self.rng
        kind = rng.choice(WILD if wild else TAME)
        if wild:
            return self.wild(kind)
        if kind in (0x02, 0x03):
            if not self.sent:
                return PING
            some = {n for n in self.sent if rng.random() < rng.choice((0.1, 0.9))}
            written = ack(*runs(some or set(list(self.sent)[:1])))
            return written if kind == 2 else b"\x03" + written[1:] + bytes(3)
        if 0x08 <= kind <= 0x0F or kind == 0x04:
            stream_id = self.stream_id(we_send=False)
            if stream_id is None:
                return PING
            return self.data(stream_id, kind)
        if kind in (0x05, 0x11):
            stream_id = self.stream_id(we_send=True)
            if stream_id is None:
                return PING
            return frame(kind, stream_id, varint(rng))
        if kind == 0x15:
            stream_id = self.stream_id(we_send=False)
            return PING if stream_id is None else frame(kind, stream_id, varint(rng))
        if kind in (0x12, 0x13, 0x16, 0x17):
            return frame(kind, rng.randrange(1 << 60))
        return self.wild(kind)

    def data(self, stream_id: int, kind: int) -> bytes:
        rng = self.rng
        end = self.ends.setdefault(stream_id, rng.choice((0, 10, 5000, 9000, 70_000)))
        if kind == 0x04:
            return frame(kind, stream_id, varint(rng), end)
        low = rng.randrange(end + 1) if rng.random() < 0.6 else 0
        high = min(end, low + rng.choice((0, 1, 50, 1000)))
        fin = high == end and rng.random() < 0.5
        return stream(stream_id, low, bytes(high - low), fin)

    def wild(self, kind: int) -> bytes:
        """Any numbers, but in the form that the frame has."""
        rng = self.rng
        stream_id = rng.randrange(24)
        if kind == 0x00:
            return bytes(rng.randrange(1, 4))
        if kind in (0x02, 0x03):
            numbers = [rng.choice((rng.randrange(50), varint(rng))) for _ in range(9)]
            return frame(kind, *numbers[:2], 2, *numbers[2:])
        if 0x08 <= kind <= 0x0F:
            data = rng.randbytes(rng.choice((0, 1, 7, 100, 1000)))
            offset = rng.choice((0, rng.randrange(70_000), varint(rng)))
            if kind & 2:
                return stream(stream_id, offset, data, fin=bool(kind & 1))
            return frame(kind, stream_id, *([offset] if kind & 4 else []), data)
        if kind in (0x30, 0x31):
            data = rng.randbytes(rng.randrange(50))
            return frame(kind, *([len(data)] if kind & 1 else []), data)
        if kind == 0x06:
            return frame(kind, varint(rng), 4, bytes(4))
        if kind == 0x07:
            return frame(kind, 4, bytes(4))
        if kind == 0x18:
            return frame(kind, rng.randrange(8), rng.randrange(4), b"\x08", rng.randbytes(24))
        if kind in (0x1A, 0x1B):
            return frame(kind, rng.randbytes(8))
        numbers = [rng.choice((stream_id, rng.randrange(5000), varint(rng))) for _ in range(3)]
        count = {0x01: 0, 0x04: 3, 0x05: 2, 0x11: 2, 0x15: 2, 0x1C: 3, 0x1D: 2, 0x1E: 0}.get(
            kind, 1
        )
        return frame(kind, *numbers[:count])


def drive(peer: DataPeer, rng: random.Random, author: Author) -> None:
    """What the application and time do in between."""
    with contextlib.suppress(StreamError):
        act(peer, rng, author)


def act(peer: DataPeer, rng: random.Random, author: Author) -> None:
    plane = peer.plane
    choice = rng.randrange(12)
    stream_id = rng.randrange(24)
    if choice == 0:
        uni = rng.randrange(2)
        author.opened[uni] += plane.open_stream(bool(uni)) is not None
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
        plane.send_datagrams([rng.randbytes(rng.randrange(1000))])
    else:
        plane.take_events()
        plane.read_datagrams(10)
        due = plane.timer()
        peer.now = max(peer.now, due or 0.0)
        plane.on_timer(peer.now)


def run(rng: random.Random, corpus: list[bytes]) -> None:
    """One connection, until it is closed or has had enough."""
    is_client = bool(rng.randrange(2))
    peer = DataPeer(is_client=is_client)
    author = Author(peer, rng, is_client)
    wild = rng.choice((0.0, 0.001, 0.01, 0.3))
    for _ in range(rng.randrange(1, 400)):
        peer.now += rng.choice((0.0, 1e-4, 0.01, 0.3))
        payload = b"".join(author.frame(rng.random() < wild) for _ in range(rng.randrange(1, 6)))
        if corpus and rng.random() < wild:
            payload = rng.choice(corpus)
        if rng.random() < wild:
            payload = mutated(rng, payload)
        number = peer.number + rng.choice((0, 0, 0, 0, 0, 0, 0, 1, 5, 9000))
        packet = peer.packet(payload, number=number, phase=peer.phase)
        if rng.random() < wild:
            packet = mutated(rng, packet)
        if packet:
            peer.plane.receive(packet, peer.now)
        if rng.random() < 0.7:
            drive(peer, rng, author)
        if rng.random() < 0.3:
            author.sent |= {number for number, _ in peer.collect()}
            # RFC 9001 §6: an update of the peer's, or its answer to one of the plane's.
            peer.phase = peer.control.phase if rng.random() < 0.2 else peer.phase
        if peer.plane.closing:
            peer.plane.build_single(b"\x1c\x00\x00\x00", b"peercid1", peer.now, 0)
            break
    if not wild:
        assert peer.failure() in (None, KEY_UPDATE_ERROR), peer.control.failures
    if rng.random() < 0.5:
        peer.plane.discard()
        with contextlib.suppress(StreamError):
            peer.plane.read(0, 100)
