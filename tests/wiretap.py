"""Reads what a fast connection sends: its 1-RTT packets, decrypted with the secrets that it got.

Every packet number may be used once under one set of keys; a tap looks at that all the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic.crypto import CryptoContext, apply_key_phase, next_key_phase
from pair import Address, Pair, make, our_pair

from rawquic.config import Config

Frame = tuple[Any, ...]  # type, then its fields


@dataclass
class Packet:
    number: int
    generation: int  # of the keys
    size: int
    address: Address
    sent_at: float
    frames: list[Frame]
    dropped: bool = False

    def has(self, *types: int) -> bool:
        return any(each[0] in types for each in self.frames)

    def of(self, *types: int) -> list[Frame]:
        return [each for each in self.frames if each[0] in types]


class Wiretap:
    """Make it before the handshake. `lose` decides about each packet whether it gets lost."""

    def __init__(self, pair: Pair, connection: Any) -> None:
        self.pair, self.connection = pair, connection
        self.packets: list[Packet] = []
        self.lose: Callable[[Packet], bool] | None = None
        self.generation = 0
        self._keys: CryptoContext | None = None
        self._take_secret, connection._on_secret = connection._on_secret, self._on_secret
        self._build, connection.datagrams_to_send = connection.datagrams_to_send, self._sending
        self._used: set[tuple[int, int]] = set()

    def _on_secret(self, is_send: bool, suite: Any, secret: bytes, version: int) -> None:
        if is_send:
            self._keys = CryptoContext()
            self._keys.setup(cipher_suite=suite, secret=secret, version=version)
        self._take_secret(is_send, suite, secret, version)

    def _sending(self, now: float) -> list[tuple[bytes, Address]]:
        kept = []
        for data, address in self._build(now):
            if not data[0] & 0x80:
                packet = self._open(data, address, now)
                self.packets.append(packet)
                if self.lose is not None and self.lose(packet):
                    packet.dropped = True
                    continue
            kept.append((data, address))
        return kept

    def _open(self, data: bytes, address: Address, now: float) -> Packet:
        assert self._keys is not None
        cid = len(self.pair.other(self.connection).host_cid)
        expected = self.packets[-1].number + 1 if self.packets else 0
        _, payload, number, updated = self._keys.decrypt_packet(data, 1 + cid, expected)
        if updated:
            apply_key_phase(self._keys, next_key_phase(self._keys), "local_update")
            self.generation += 1
        assert (self.generation, number) not in self._used, "a nonce was used twice"
        assert not self.packets or number > self.packets[-1].number, "numbers went back"
        self._used.add((self.generation, number))
        frames = parse(payload)
        return Packet(number, self.generation, len(data), address, now, frames)

    def lose_first(self, *types: int) -> list[Packet]:
        """The first packet with such a frame gets lost; it will be in the list."""
        lost: list[Packet] = []

        def lose(packet: Packet) -> bool:
            if lost or not packet.has(*types):
                return False
            lost.append(packet)
            return True

        self.lose = lose
        return lost

    def frames(self, *types: int) -> list[Frame]:
        return [frame for each in self.packets for frame in each.of(*types)]

    def since(self, time: float) -> list[Packet]:
        return [each for each in self.packets if each.sent_at >= time]


def parse(payload: bytes) -> list[Frame]:
    """Frames of a packet, PADDING left out (RFC 9000 §19, RFC 9221)."""
    buffer = Buffer(data=payload)
    number = buffer.pull_uint_var
    frames: list[Frame] = []
    while not buffer.eof():
        kind = number()
        if kind == 0:
            continue
        fields: list[Any] = []
        if kind in (0x02, 0x03):
            fields = [number(), number()]
            count, first = number(), number()
            ranges = [(fields[0] - first, fields[0])]
            for _ in range(count):
                high = ranges[-1][0] - number() - 2
                ranges.append((high - number(), high))
            fields.append(ranges)
            if kind == 0x03:
                fields.append((number(), number(), number()))
        elif 0x08 <= kind <= 0x0F:
            stream_id, offset = number(), number() if kind & 4 else 0
            size = number() if kind & 2 else buffer.capacity - buffer.tell()
            fields = [stream_id, offset, buffer.pull_bytes(size), bool(kind & 1)]
        elif kind in (0x30, 0x31):
            size = number() if kind & 1 else buffer.capacity - buffer.tell()
            fields = [buffer.pull_bytes(size)]
        elif kind == 0x06:
            fields = [number(), buffer.pull_bytes(number())]
        elif kind == 0x07:
            fields = [buffer.pull_bytes(number())]
        elif kind == 0x18:
            fields = [number(), number(), buffer.pull_bytes(buffer.pull_uint8())]
            fields.append(buffer.pull_bytes(16))
        elif kind in (0x1A, 0x1B):
            fields = [buffer.pull_bytes(8)]
        elif kind in (0x1C, 0x1D):
            fields = [number(), number() if kind == 0x1C else None]
            fields.append(buffer.pull_bytes(number()))
        else:
            count = {0x04: 3, 0x05: 2, 0x11: 2, 0x15: 2}.get(kind, 1)
            count = 0 if kind in (0x01, 0x1E) else count
            fields = [number() for _ in range(count)]
            assert kind <= 0x1E
        frames.append((kind, *fields))
    return frames


def pair_with_tap_on(side: str, config: Config | None = None) -> tuple[Pair, Wiretap]:
    pair = our_pair(config, config)
    return pair, Wiretap(pair, getattr(pair, side))


def tapped(client: str = "fast", server: str = "fast", **network: Any) -> tuple[Pair, Wiretap]:
    """A pair after its handshake, with a tap on its first fast end."""
    pair = make(client, server, **network)
    tap = Wiretap(pair, pair.client if client == "fast" else pair.server)
    return pair.handshake(), tap
