"""Two connections in memory: a virtual clock, a network that can be bad, hostile packets.

No sockets and no real time. Either end is a connection of ours, plain or fast, or aioquic as it is
(`Stock`), in either role. "Ours" is of the backend that `use` chose, which the fixture `backend`
does. The random numbers of the network come from a seed, which is printed, so that pytest shows it
with a failure.
"""

import functools
import heapq
import importlib.util
import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

from aioquic.buffer import Buffer, encode_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import END_STATES, QuicConnection
from aioquic.quic.packet import (
    QuicPacketType,
    QuicTransportParameters,
    encode_long_header_first_byte,
    pull_quic_transport_parameters,
    push_quic_transport_parameters,
)
from aioquic.tls import Epoch

from rawquic.certificates import Identity, load_identity, load_trust_anchors
from rawquic.config import Config
from rawquic.connection.control import ControlPlane
from rawquic.connection.interface import Event
from rawquic.connection.plain import PlainConnection
from rawquic.endpoint.routing import Routes
from rawquic.errors import StreamReset
from rawquic.selfsigned import self_signed
from rawquic.tls import client_configuration, server_configuration

CLIENT, SERVER = ("192.0.2.1", 1000), ("198.51.100.7", 4433)
ELSEWHERE = ("203.0.113.9", 555)
TICK = 1e-6  # seconds that pass between a receipt and the answer
MAX_STEPS = 200_000  # of one run; a timer that never moves on would need more

Address = tuple[str, int]
Either = Any  # PlainConnection, FastConnection or Stock


@functools.cache
def certificate() -> tuple[bytes, Identity]:
    """One certificate for all tests: its PEM, and the identity."""
    pem, key = self_signed(["localhost"])
    return pem, load_identity(pem, key)


_backend = "plain"


def use(backend: str) -> None:
    """What `ours` makes from here on: "plain" or "fast"."""
    global _backend
    _backend = backend


def connection_class(backend: str) -> Any:
    if backend == "plain":
        return PlainConnection
    from rawquic.connection.fast import FastConnection  # not there where it was not built

    return FastConnection


def ours(
    is_client: bool,
    config: Config | None = None,
    *,
    odcid: bytes | None = None,
    alpn: Iterable[str] = ("h3",),
    pins: frozenset[bytes] = frozenset(),
    verify: bool = True,
    identity: Identity | None = None,
    routes: Routes | None = None,
    backend: str | None = None,
) -> Any:
    """A connection of ours: of the backend in use, or of the one that is named."""
    config = config or Config()
    routes = routes or Routes(None)
    pem, own = certificate()
    if is_client:
        configuration = client_configuration(
            config,
            alpn,
            server_name="localhost",
            anchors=load_trust_anchors(None, None, pem),
            verify=verify,
            identity=None,
        )
    else:
        configuration = server_configuration(config, identity or own, alpn)
    return connection_class(backend or _backend)(
        config=config,
        configuration=configuration,
        new_connection_id=routes.new_connection_id,
        reset_token=routes.reset_token,
        original_destination_connection_id=odcid,
        pins=pins,
    )


def plain(is_client: bool, config: Config | None = None, **arguments: Any) -> PlainConnection:
    connection: PlainConnection = ours(is_client, config, backend="plain", **arguments)
    return connection


def fast(is_client: bool, config: Config | None = None, **arguments: Any) -> Any:
    return ours(is_client, config, backend="fast", **arguments)


class Stock(QuicConnection):
    """aioquic as it is, with a way to lie in the handshake.

    Attributes:
        edit: changes its transport parameters before they are sent.
        rewrite: changes their encoding.
        seen: the events that it gave out.
    """

    edit: Callable[[QuicTransportParameters], None] | None = None
    rewrite: Callable[[bytes], bytes] | None = None
    without_parameters = False

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.seen: list[Any] = []

    def _serialize_transport_parameters(self) -> bytes:
        data = super()._serialize_transport_parameters()
        if self.edit is not None:
            parameters = pull_quic_transport_parameters(Buffer(data=data))
            self.edit(parameters)
            buffer = Buffer(capacity=4096)
            push_quic_transport_parameters(buffer, parameters)
            data = buffer.data
        return data if self.rewrite is None else self.rewrite(data)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self.without_parameters:
            self.tls.handshake_extensions = []

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]


def stock(
    is_client: bool,
    *,
    odcid: bytes | None = None,
    alpn: Iterable[str] = ("h3",),
    **settings: Any,
) -> Stock:
    pem, identity = certificate()
    settings = {"max_datagram_frame_size": 65535, "alpn_protocols": list(alpn)} | settings
    if is_client:
        settings |= {"server_name": "localhost", "cadata": pem}
    else:
        settings |= {
            "certificate": identity.certificate,
            "private_key": identity.private_key,
        }
    return Stock(
        configuration=QuicConfiguration(is_client=is_client, **settings),
        original_destination_connection_id=odcid,
    )


def is_open(connection: Either) -> bool:
    """Handshake done and nothing closed."""
    if isinstance(connection, ControlPlane):
        return connection.handshake_done and connection.close_reason is None
    return connection._handshake_complete and connection._close_event is None


class Pair:
    """A client and a server, and the network between them.

    `loss`, `reorder`, `duplicate` and `corrupt` are probabilities for each datagram; `latency` is
    one way, in seconds. An end's own system refuses what is larger than `sends`; `refused` are the
    sizes. `keep`, when set, decides which datagrams the network takes at all, and
    `remark` what ECN codepoint one that has this codepoint arrives with;
    `checks` are called after every step.
    """

    def __init__(
        self,
        client: Either,
        server: Either,
        *,
        seed: int = 1,
        latency: float = 0.010,
        loss: float = 0.0,
        reorder: float = 0.0,
        duplicate: float = 0.0,
        corrupt: float = 0.0,
        mtu: int = 65535,
    ) -> None:
        print(f"pair: seed {seed}")
        self.client, self.server = client, server
        self.seed = seed
        self.random = random.Random(seed)
        self.latency, self.loss, self.reorder = latency, loss, reorder
        self.duplicate, self.corrupt, self.mtu = duplicate, corrupt, mtu
        self.sends = 65535
        self.refused: list[int] = []
        self.now = 0.0
        self.addresses: dict[Either, Address] = {client: CLIENT, server: SERVER}
        self.keep: Callable[[Either, bytes], bool] | None = None
        self.remark: Callable[[Either, int], int] = lambda source, codepoint: codepoint
        self.checks: list[Callable[[], None]] = []
        self.events: dict[Either, list[tuple[Event, int]]] = {client: [], server: []}
        self.sent: dict[Either, int] = {client: 0, server: 0}
        self.largest: dict[Either, int] = {client: 0, server: 0}
        self._flight: list[tuple[float, int, Either, bytes, Address, int]] = []
        self.codepoints: dict[Either, list[int]] = {client: [], server: []}  # of what was sent
        self._order = itertools.count()
        for connection in (client, server):
            if getattr(connection, "plane", None) is not None:
                connection.plane.marks = {}

    def other(self, connection: Either) -> Either:
        return self.server if connection is self.client else self.client

    # -- time ----------------------------------------------------------------------------------

    def handshake(self) -> "Pair":
        self.start()
        self.run_until(lambda: is_open(self.client) and is_open(self.server))
        self.run(0.2)
        return self

    def start(self) -> None:
        self.client.connect(SERVER, self.now)
        self.flush()

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        for _ in range(MAX_STEPS):
            due = self.due()
            if due is None or due > end:
                self.now = max(self.now, end)
                return
            self.step()
        raise AssertionError(f"a timer does not move on, at {self.now:.6f} s; seed {self.seed}")

    def run_until(self, condition: Callable[[], bool], limit: float = 120.0) -> None:
        """Until `condition()`; AssertionError after `limit` seconds, or when nothing goes on."""
        end = self.now + limit
        for _ in range(MAX_STEPS):
            if condition():
                return
            due = self.due()
            if due is None or due > end:
                break
            self.step()
        assert condition(), f"it did not come true until {self.now:.3f} s; seed {self.seed}"

    def due(self) -> float | None:
        """When the next thing happens."""
        times = [time for c in (self.client, self.server) if (time := _timer(c)) is not None]
        if self._flight:
            times.append(self._flight[0][0])
        return min(times, default=None)

    def step(self) -> None:
        due = self.due()
        assert due is not None
        self.now = max(self.now + TICK, due)
        while self._flight and self._flight[0][0] <= self.now:
            _, _, target, data, source, codepoint = heapq.heappop(self._flight)
            self.deliver(target, data, source, codepoint)
        for connection in (self.client, self.server):
            timer = _timer(connection)
            if timer is not None and timer <= self.now:
                connection.handle_timer(self.now)
                self._drain(connection)
        self.flush()
        for check in self.checks:
            check()

    # -- packets -------------------------------------------------------------------------------

    def flush(self) -> None:
        self.now += TICK
        for connection in (self.client, self.server):
            if connection._network_paths:
                for data, address in connection.datagrams_to_send(self.now):
                    self._transmit(connection, data, address)
            self._drain(connection)

    def deliver(
        self, target: Either, data: bytes, source: Address | None = None, codepoint: int = 0
    ) -> None:
        """Hand a datagram to `target` now."""
        if source is None:
            source = self.addresses[self.other(target)]
        if isinstance(target, ControlPlane):
            target.receive(data, source, self.now, codepoint)
        else:
            target.receive_datagram(data, source, self.now)
        self._drain(target)

    def inject(
        self, sender: Either, *frames: bytes, epoch: Epoch = Epoch.ONE_RTT, bits: int = 0
    ) -> None:
        """Deliver one packet of `sender`'s with these frames, well encrypted, at once."""
        self.deliver(self.other(sender), seal(sender, b"".join(frames), epoch, bits))

    def _transmit(self, source: Either, data: bytes, address: Address) -> None:
        self.sent[source] += 1
        self.largest[source] = max(self.largest[source], len(data))
        target, chance = self.other(source), self.random.random
        plane = getattr(source, "plane", None)
        codepoint = 0 if plane is None else plane.marks.get(data, 0)
        self.codepoints[source].append(codepoint)
        codepoint = self.remark(source, codepoint)
        if len(data) > self.sends:
            self.refused.append(len(data))
            source.packet_refused(len(data), self.now)
            return
        if self.keep is not None and not self.keep(source, data):
            return
        if len(data) > self.mtu or chance() < self.loss:
            return
        if self.addresses[target] != address:
            return
        copies = 2 if chance() < self.duplicate else 1
        for _ in range(copies):
            delay = self.latency
            if chance() < self.reorder:
                delay *= 1 + 3 * chance()
            carried = data
            if chance() < self.corrupt:
                at = self.random.randrange(len(data))
                wrong = data[at] ^ (1 << self.random.randrange(8))
                carried = data[:at] + bytes([wrong]) + data[at + 1 :]
            item = (self.now + delay, next(self._order), target, carried, self.addresses[source])
            heapq.heappush(self._flight, (*item, codepoint))

    def _drain(self, connection: Either) -> None:
        if isinstance(connection, ControlPlane):
            self.events[connection] += connection.events()
        else:
            while (event := connection.next_event()) is not None:
                connection.seen.append(event)


def _timer(connection: Either) -> float | None:
    if isinstance(connection, ControlPlane):
        return connection.timer()
    return connection.get_timer() if connection._close_at is not None else None


def other(is_client: bool, config: Config | None = None, **arguments: Any) -> Any:
    """Of the backend that is not in use; where that was not built, of the one that is."""
    built = importlib.util.find_spec("rawquic._fastpath") is not None
    backend = "fast" if _backend == "plain" and built else "plain"
    return ours(is_client, config, backend=backend, **arguments)


KINDS = {"ours": ours, "other": other, "plain": plain, "fast": fast, "stock": stock}


def make(client: str = "ours", server: str = "ours", **network: Any) -> Pair:
    """A pair by the names of its kinds, the settings of both being the defaults."""
    one = KINDS[client](True)
    two = KINDS[server](False, odcid=one.original_destination_connection_id)
    return Pair(one, two, **network)


def our_pair(client: Config | None = None, server: Config | None = None, **network: Any) -> Pair:
    one = ours(True, client)
    two = ours(False, server, odcid=one.original_destination_connection_id)
    return Pair(one, two, **network)


def our_server(
    config: Config | None = None,
    *,
    edit: Callable[[QuicTransportParameters], None] | None = None,
    rewrite: Callable[[bytes], bytes] | None = None,
    network: dict[str, Any] | None = None,
    **settings: Any,
) -> Pair:
    """Our server with a stock client, which may lie."""
    client = stock(True, **settings)
    client.edit, client.rewrite = edit, rewrite
    server = ours(False, config, odcid=client.original_destination_connection_id)
    return Pair(client, server, **(network or {}))


def our_client(
    config: Config | None = None,
    *,
    edit: Callable[[QuicTransportParameters], None] | None = None,
    network: dict[str, Any] | None = None,
    **settings: Any,
) -> Pair:
    """Our client with a stock server, which may lie."""
    client = ours(True, config)
    server = stock(False, odcid=client.original_destination_connection_id, **settings)
    server.edit = edit
    return Pair(client, server, **(network or {}))


# -- bytes on the wire -----------------------------------------------------------------------------

_LONG = {
    Epoch.INITIAL: QuicPacketType.INITIAL,
    Epoch.ZERO_RTT: QuicPacketType.ZERO_RTT,
    Epoch.HANDSHAKE: QuicPacketType.HANDSHAKE,
}


def seal(sender: Either, payload: bytes, epoch: Epoch = Epoch.ONE_RTT, bits: int = 0) -> bytes:
    """A packet of `sender`'s with this payload, under its keys, with its next packet number.

    The packet number takes four bytes, so that an empty payload can be sampled too. `bits` are
    set in the first byte.
    """
    if epoch is Epoch.ONE_RTT and getattr(sender, "plane", None) is not None:
        assert not bits
        sealed: bytes = sender.plane.build_single(payload, sender._peer_cid.cid, 0.0, 0)
        return sealed
    crypto, number = sender._cryptos[epoch], sender._packet_number
    sender._packet_number += 1
    peer = sender._peer_cid.cid
    if epoch is Epoch.ONE_RTT:
        header = bytes([0x43 | crypto.key_phase << 2 | bits]) + peer
    else:
        first = encode_long_header_first_byte(sender._version, _LONG[epoch], 3 | bits)
        header = bytes([first]) + sender._version.to_bytes(4, "big")
        for cid in (peer, sender.host_cid):
            header += bytes([len(cid)]) + cid
        if epoch is Epoch.INITIAL:
            header += b"\0"
        header += (0x4000 | 4 + len(payload) + 16).to_bytes(2, "big")
    header += number.to_bytes(4, "big")
    packet: bytes = crypto.encrypt_packet(header, payload, number)
    return packet


def frame(kind: int, *values: int | bytes) -> bytes:
    """A frame: integers as variable-length integers, bytes as they are."""
    parts = [value if isinstance(value, bytes) else encode_uint_var(value) for value in values]
    return encode_uint_var(kind) + b"".join(parts)


def stream_frame(stream_id: int, offset: int, data: bytes, fin: bool = False) -> bytes:
    return frame(0x0E | fin, stream_id, offset, len(data), data)


# -- moving data -----------------------------------------------------------------------------------


class Reader:
    """Reads every stream of one end as the data comes; also from aioquic's events."""

    def __init__(self, pair: Pair, connection: Either) -> None:
        self.pair, self.connection = pair, connection
        self.data: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.reset: dict[int, int] = {}
        self._at = 0
        pair.checks.append(self)

    def __call__(self) -> None:
        if isinstance(self.connection, ControlPlane):
            events = self.pair.events[self.connection]
            new, self._at = events[self._at :], len(events)
            for kind, stream_id in new:
                if kind is Event.READABLE:
                    self._read(stream_id)
            if self.connection.wants_flush():
                self.pair.flush()
            return
        events = self.connection.seen
        new, self._at = events[self._at :], len(events)
        for event in new:
            if hasattr(event, "end_stream"):
                self.data.setdefault(event.stream_id, bytearray()).extend(event.data)
                if event.end_stream:
                    self.ended.add(event.stream_id)

    def _read(self, stream_id: int) -> None:
        buffer = self.data.setdefault(stream_id, bytearray())
        try:
            while (data := self.connection.streams.read(stream_id, 65536)) is not None:
                if not data:
                    self.ended.add(stream_id)
                    return
                buffer += data
        except StreamReset as error:
            self.reset[stream_id] = error.code


class Writer:
    """Writes `data` on a new stream of one end, as there is room, and finishes it."""

    def __init__(
        self, pair: Pair, connection: Either, data: bytes, unidirectional: bool = True
    ) -> None:
        self.pair, self.connection, self.data = pair, connection, data
        self.offset = 0
        self.finished = False
        if isinstance(connection, ControlPlane):
            stream_id = connection.streams.open_stream(unidirectional)
            assert stream_id is not None
            self.stream_id = stream_id
            pair.checks.append(self)
            self()
        else:
            self.stream_id = connection.get_next_available_stream_id(unidirectional)
            connection.send_stream_data(self.stream_id, data, end_stream=True)
            pair.flush()

    @classmethod
    def on(cls, pair: Pair, connection: Either, data: bytes, stream_id: int) -> "Writer":
        """A writer on a stream that is open already."""
        writer = cls.__new__(cls)
        writer.pair, writer.connection, writer.data = pair, connection, data
        writer.offset, writer.finished, writer.stream_id = 0, False, stream_id
        pair.checks.append(writer)
        writer()
        return writer

    def __call__(self) -> None:
        if self.finished or self.connection._state in END_STATES:
            return
        taken = self.connection.streams.write(self.stream_id, self.data, self.offset)
        self.offset += taken
        if self.offset == len(self.data):
            self.connection.streams.finish(self.stream_id)
            self.finished = True
        if taken or self.finished:
            self.pair.flush()


def transfer(pair: Pair, sender: Either, data: bytes, limit: float = 600.0) -> bytes:
    """Send `data` on one stream; what the other end read, up to the end of the stream."""
    reader = Reader(pair, pair.other(sender))
    writer = Writer(pair, sender, data)
    pair.run_until(lambda: writer.stream_id in reader.ended, limit)
    pair.checks.clear()
    return bytes(reader.data[writer.stream_id])


# -- short forms for tests -------------------------------------------------------------------------


def happened(pair: Pair, connection: Either, kind: Event) -> list[int]:
    return [value for each, value in pair.events[connection] if each is kind]


def opened(connection: Either, unidirectional: bool = True) -> int:
    stream_id = connection.streams.open_stream(unidirectional)
    assert stream_id is not None
    return stream_id


def written(pair: Pair, data: bytes, *, fin: bool = False, bidi: bool = False) -> int:
    """A stream of the client's with this data, all of it delivered."""
    stream_id = opened(pair.client, not bidi)
    assert pair.client.streams.write(stream_id, data, 0) == len(data)
    if fin:
        pair.client.streams.finish(stream_id)
    pair.flush()
    pair.run(0.5)
    return stream_id


def deaf(connection: object) -> None:
    """The application of a stock connection takes nothing out of it."""
    connection.next_event = lambda: None  # type: ignore[attr-defined]


def pair_of(kind: str, **network: Any) -> Pair:
    """A stock client, and a server of this kind."""
    return make("stock", kind, **network).handshake()


def stock_code(connection: Any) -> int | None:
    """The error code that a stock connection ended with."""
    event = connection._close_event
    return None if event is None else event.error_code
