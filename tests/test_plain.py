"""What the plain connection mends of aioquic: credit, buffers, datagrams, priorities, events.

Where aioquic as it is behaves otherwise, the test shows it on `stock`, under a comment that begins
with "Stock:". So it fails on aioquic alone, and says when a release of aioquic makes it needless.
"""

import os

import pytest
import views
from aioquic.quic import events as aioquic_events
from aioquic.quic.recovery import QuicPacketPacer
from pair import (
    Pair,
    Reader,
    Writer,
    deaf,
    frame,
    happened,
    make,
    opened,
    our_client,
    our_pair,
    our_server,
    ours,
    seal,
)
from pair import stock as make_stock

from rawquic.config import Config
from rawquic.connection.interface import Event
from rawquic.connection.mended import PACING_BURST
from rawquic.connection.plain import PlainConnection
from rawquic.errors import (
    DatagramTooLarge,
    DatagramUnsupported,
)

pytestmark = pytest.mark.usefixtures("backend")

KIB = 1024


# -- credit ----------------------------------------------------------------------------------------


class CreditSpy:
    """Holds what the peer was told against what the application has read."""

    def __init__(self, pair: Pair, receiver: PlainConnection, config: Config) -> None:
        self.receiver, self.sender, self.config = receiver, pair.other(receiver), config
        self.reader: Reader | None = None
        self.most = 0
        pair.checks.append(self)

    def __call__(self) -> None:
        data = {} if self.reader is None else self.reader.data
        read = sum(map(len, data.values()))
        credit = views.data_credit(self.sender)
        assert credit <= read + self.config.receive_window
        self.most = max(self.most, credit)
        for stream_id in views.streams(self.sender):
            read_here = len(data.get(stream_id, b""))
            most = read_here + self.config.stream_receive_window
            assert views.stream_credit(self.sender, stream_id) <= most


@pytest.mark.parametrize("other", ["ours", "stock"])
def test_credit_never_exceeds_what_was_read_and_the_window(other: str) -> None:
    config = Config(receive_window=64 * KIB, stream_receive_window=24 * KIB)
    client = ours(True) if other == "ours" else make_stock(True)
    server = ours(False, config, odcid=client.original_destination_connection_id)
    pair = Pair(client, server, loss=0.02, reorder=0.2, seed=3).handshake()
    spy = CreditSpy(pair, server, config)
    data = [os.urandom(120 * KIB) for _ in range(4)]
    writers = [Writer(pair, client, each) for each in data]
    pair.run(2.0)
    assert spy.most == config.receive_window  # nothing was read: not one byte more
    reader = spy.reader = Reader(pair, server)
    reader()
    pair.run_until(lambda: len(reader.ended) == 4)
    assert [bytes(reader.data[writer.stream_id]) for writer in writers] == data
    assert spy.most > config.receive_window


def test_stock_gives_credit_for_bytes_that_nobody_read() -> None:
    pair = our_client(max_data=64 * KIB, max_stream_data=64 * KIB).handshake()
    deaf(pair.server)
    Writer(pair, pair.client, bytes(300 * KIB))
    pair.run(3.0)
    # Stock: nothing was read, yet the credit is a multiple of the window.
    assert views.data_credit(pair.client) > 4 * 64 * KIB


def test_one_unread_stream_does_not_take_the_credit_of_others() -> None:
    config = Config(receive_window=64 * KIB, stream_receive_window=16 * KIB)
    pair = our_pair(server=config).handshake()
    stuck = opened(pair.client)
    pair.client.streams.write(stuck, bytes(16 * KIB), 0)
    pair.flush()
    pair.run(0.5)
    pair.events[pair.server].clear()
    reader = Reader(pair, pair.server)
    data = os.urandom(500 * KIB)
    writer = Writer(pair, pair.client, data)
    pair.run_until(lambda: writer.stream_id in reader.ended)
    assert bytes(reader.data[writer.stream_id]) == data


def test_the_receive_window_can_grow_and_shrink() -> None:
    config = Config(receive_window=64 * KIB, stream_receive_window=1024 * KIB)
    pair = our_pair(server=config).handshake()
    pair.server.set_receive_window(256 * KIB)
    pair.flush()
    pair.run(0.1)
    assert views.data_credit(pair.client) == 256 * KIB
    pair.server.set_receive_window(8 * KIB)
    data = os.urandom(400 * KIB)
    reader = Reader(pair, pair.server)
    writer = Writer(pair, pair.client, data)
    pair.run_until(lambda: writer.stream_id in reader.ended)
    assert bytes(reader.data[writer.stream_id]) == data
    # What was given stays given (RFC 9000 §4.1); from there on the small window counts.
    assert views.data_credit(pair.client) <= max(256 * KIB, len(data) + 8 * KIB)


# -- the send buffer -------------------------------------------------------------------------------


def test_write_takes_only_what_the_send_buffer_holds_and_wakes_at_half() -> None:
    config = Config(send_window=64 * KIB)
    pair = our_pair(config).handshake()
    client = pair.client
    stream_id = opened(client)
    assert client.streams.write(stream_id, bytes(100 * KIB), 0) == 64 * KIB
    assert client.streams.write(stream_id, bytes(100 * KIB), 64 * KIB) == 0
    other = opened(client)
    assert client.streams.write(other, b"x", 0) == 0  # the bound is the connection's
    woken: list[int] = []

    def look() -> None:
        buffered = views.buffered(client)
        assert buffered <= 64 * KIB
        if happened(pair, client, Event.WRITABLE) and not woken:
            woken.append(buffered)

    pair.checks.append(look)
    pair.flush()
    pair.run_until(lambda: bool(woken))
    assert 0 < woken[0] <= 32 * KIB
    assert sorted(set(happened(pair, client, Event.WRITABLE))) == [stream_id, other]

    # Stock: whatever is given is taken.
    stock = make("stock", "ours").handshake().client
    stock.send_stream_data(0, bytes(10_000 * KIB))
    assert len(stock._streams[0].sender._buffer) == 10_000 * KIB


def test_the_send_window_can_be_set() -> None:
    pair = our_pair(Config(send_window=2 * KIB)).handshake()
    stream_id = opened(pair.client)
    assert pair.client.streams.write(stream_id, bytes(10 * KIB), 0) == 2 * KIB
    pair.client.set_send_window(6 * KIB)
    assert pair.client.events() == [(Event.WRITABLE, stream_id)]
    assert pair.client.streams.write(stream_id, bytes(10 * KIB), 2 * KIB) == 4 * KIB
    assert pair.client.streams.unacknowledged(stream_id) == 6 * KIB
    pair.flush()
    pair.run(1.0)
    assert pair.client.streams.unacknowledged(stream_id) == 0


def test_write_stops_at_the_peers_credit_and_goes_on_with_it() -> None:
    config = Config(stream_receive_window=8 * KIB)
    pair = our_pair(server=config).handshake()
    stream_id = opened(pair.client)
    assert pair.client.streams.write(stream_id, bytes(20 * KIB), 0) == 8 * KIB
    pair.flush()
    pair.run(1.0)
    assert pair.client.streams.write(stream_id, bytes(20 * KIB), 8 * KIB) == 0
    pair.events[pair.client].clear()
    assert pair.server.streams.read(stream_id, 4 * KIB) == bytes(4 * KIB)
    assert pair.server.wants_flush()
    pair.flush()
    pair.run(0.1)
    assert happened(pair, pair.client, Event.WRITABLE) == [stream_id]
    assert pair.client.streams.write(stream_id, bytes(20 * KIB), 8 * KIB) == 4 * KIB


# -- datagrams -------------------------------------------------------------------------------------


def test_an_oversize_datagram_is_refused_at_the_call_and_blocks_nothing() -> None:
    pair = make().handshake()
    limit = pair.client.max_datagram_size()
    mtu = pair.client.statistics().mtu
    assert mtu - 100 < limit < mtu
    with pytest.raises(DatagramTooLarge) as caught:
        pair.client.send_datagrams([bytes(limit + 1)])
    assert (caught.value.size, caught.value.limit) == (limit + 1, limit)
    pair.client.send_datagrams([bytes(limit)])
    pair.client.send_datagrams([b"after it"])
    pair.flush()
    pair.run(0.1)
    assert pair.server.read_datagrams(10) == [bytes(limit), b"after it"]
    assert pair.largest[pair.client] <= mtu

    # Stock: the oversize one stays at the front of the queue, and nothing passes it.
    pair = make("stock", "ours").handshake()
    pair.client.send_datagram_frame(bytes(limit + 1))
    pair.client.send_datagram_frame(b"after it")
    pair.flush()
    pair.run(5.0)
    assert pair.server.read_datagrams(10) == []


def test_datagrams_that_a_smaller_packet_size_strands_are_dropped_wherever_they_wait() -> None:
    pair = our_pair(Config(initial_mtu=1400)).handshake()
    big = bytes(pair.client.max_datagram_size())
    for data in (b"first", big, b"second", big, b"third"):
        pair.client.send_datagrams([data])
    size = pair.client.statistics().mtu
    assert not pair.client.packet_refused(size + 1, pair.now)
    assert pair.client.statistics().mtu == size
    assert pair.client.packet_refused(1350, pair.now)
    assert not pair.client.packet_refused(1350, pair.now)
    pair.flush()
    pair.run(0.0105)  # one way: what left in that flush
    assert pair.server.read_datagrams(10) == [b"first", b"second", b"third"]
    assert pair.client.statistics().datagrams_dropped_mtu == 2
    assert pair.client.statistics().mtu == 1200

    # Stock: it has no way to lower the size, and with it lowered the queue stands still.
    pair = Pair(
        one := make_stock(True, max_datagram_size=1400),
        ours(False, odcid=one.original_destination_connection_id),
    ).handshake()
    one.send_datagram_frame(big)
    one.send_datagram_frame(b"second")
    one._max_datagram_size = 1200
    pair.flush()
    pair.run(5.0)
    assert pair.server.read_datagrams(10) == []


def test_a_longer_connection_id_of_the_peer_makes_the_largest_datagram_smaller() -> None:
    pair = our_server().handshake()
    limit = pair.server.max_datagram_size()
    pair.server.send_datagrams([bytes(limit)])
    pair.server.send_datagrams([b"second"])
    # NEW_CONNECTION_ID that retires all others, with an ID of 20 bytes.
    pair.inject(pair.client, frame(0x18, 9, 9, bytes([20]), bytes(range(20)), bytes(16)))
    assert pair.server.max_datagram_size() == limit - 12
    packets = pair.server.datagrams_to_send(pair.now + 0.001)
    assert packets and all(len(data) <= 1200 for data, _ in packets)
    assert pair.server.statistics().datagrams_dropped_mtu == 1
    assert pair.server.datagram_room(limit) and views.datagrams_waiting(pair.server) == (0, 0)


def test_the_datagram_send_queue_drops_the_oldest() -> None:
    pair = our_pair(Config(datagram_send_buffer_size=10_000)).handshake()
    for number in range(100):
        pair.client.send_datagrams([bytes([number]) * 1000])
    dropped = pair.client.statistics().datagrams_dropped_send
    assert 90 <= dropped <= 92
    assert not pair.client.datagram_room(1000)
    pair.flush()
    pair.run(0.5)
    assert happened(pair, pair.client, Event.DATAGRAM_ROOM)
    assert pair.client.datagram_room(1000)
    assert [data[0] for data in pair.server.read_datagrams(200)] == list(range(dropped, 100))

    # Stock: no bound.
    pair = make("stock", "ours").handshake()
    for _ in range(10_000):
        pair.client.send_datagram_frame(bytes(1000))
    assert len(pair.client._datagrams_pending) == 10_000


def test_the_datagram_receive_queue_drops_the_oldest() -> None:
    pair = our_pair(server=Config(datagram_receive_buffer_size=10_000)).handshake()
    for number in range(100):
        pair.client.send_datagrams([bytes([number]) * 1000])
        pair.flush()
        pair.run(0.02)
    dropped = pair.server.statistics().datagrams_dropped_receive
    assert 90 <= dropped <= 92
    assert pair.server.read_datagrams(3) == [bytes([dropped + i]) * 1000 for i in range(3)]
    assert [d[0] for d in pair.server.read_datagrams(200)] == list(range(dropped + 3, 100))

    # Stock: no bound.
    pair = make("ours", "stock").handshake()
    deaf(pair.server)
    for _ in range(200):
        pair.client.send_datagrams([bytes(1000)])
        pair.flush()
        pair.run(0.02)
    events = [e for e in pair.server._events if isinstance(e, aioquic_events.DatagramFrameReceived)]
    assert len(events) == 200


def test_empty_datagrams_are_bounded_both_ways() -> None:
    config = Config(datagram_send_buffer_size=6400, datagram_receive_buffer_size=6400)
    pair = our_pair(config, config).handshake()
    for _ in range(1000):
        pair.client.send_datagrams([b""])
    assert views.datagrams_waiting(pair.client)[0] <= 100
    assert pair.client.statistics().datagrams_dropped_send >= 900
    pair.inject(pair.client, frame(0x31, 0) * 500)
    assert views.datagrams_waiting(pair.server)[1] <= 100
    assert pair.server.statistics().datagrams_dropped_receive >= 400


def test_a_datagram_as_large_as_the_queue_is_still_taken() -> None:
    pair = our_pair(Config(initial_mtu=1500, datagram_send_buffer_size=1200)).handshake()
    data = os.urandom(pair.client.max_datagram_size())
    assert len(data) > 1200
    pair.client.send_datagrams([data])
    pair.flush()
    pair.run(0.1)
    assert pair.server.read_datagrams(1) == [data]


def test_a_peer_that_takes_no_datagrams() -> None:
    pair = our_pair(server=Config(datagram_receive_buffer_size=None)).handshake()
    assert pair.client.max_datagram_size() is None
    with pytest.raises(DatagramUnsupported):
        pair.client.send_datagrams([b"x"])
    assert pair.server.max_datagram_size() is not None


@pytest.mark.parametrize(
    ("frame_size", "limit"), [(1, None), (2, 0), (65, 63), (66, 63), (67, 64), (100, 97)]
)
def test_the_peers_datagram_frame_size_is_kept(frame_size: int, limit: int | None) -> None:
    pair = our_client(max_datagram_frame_size=frame_size).handshake()
    assert pair.client.max_datagram_size() == limit
    if limit is not None:
        pair.client.send_datagrams([bytes(limit)])
        pair.flush()
        pair.run(0.2)
        assert len(pair.server.of(aioquic_events.DatagramFrameReceived)) == 1
    assert pair.client.close_reason is None


# -- priorities ------------------------------------------------------------------------------------


def test_streams_of_higher_priority_are_sent_first() -> None:
    pair = make().handshake()
    low, high = opened(pair.client), opened(pair.client)
    for stream_id in (low, high):
        assert pair.client.streams.write(stream_id, bytes(200 * KIB), 0) == 200 * KIB
    pair.client.set_priority(high, 5)
    seen = 0

    def look() -> None:
        nonlocal seen
        if views.sent_up_to(pair.client, high) < 200 * KIB:
            seen = max(seen, views.sent_up_to(pair.client, low))

    pair.checks.append(look)
    pair.flush()
    pair.run_until(lambda: pair.client.streams.unacknowledged(high) == 0)
    assert seen == 0  # not one byte of the other before the last of this
    pair.run_until(lambda: pair.client.streams.unacknowledged(low) == 0)

    # Stock: every stream in turn.
    pair = make("stock", "ours").handshake()
    pair.client.send_stream_data(2, bytes(200 * KIB))
    pair.client.send_stream_data(6, bytes(200 * KIB))
    pair.flush()
    pair.run(0.1)
    offsets = [views.sent_up_to(pair.client, i) for i in (2, 6)]
    assert abs(offsets[0] - offsets[1]) < 3000 < offsets[0]


def test_priority_changes_while_streams_wait() -> None:
    pair = make().handshake()
    ids = [opened(pair.client) for _ in range(3)]
    for stream_id in ids:
        pair.client.streams.write(stream_id, bytes(100 * KIB), 0)
    pair.client.set_priority(ids[0], -1)
    pair.client.set_priority(ids[2], 1)
    pair.flush()
    pair.client.set_priority(ids[1], 2)
    pair.client.set_priority(99_999, 2)  # a stream that is gone: nothing happens
    finished: list[int] = []

    def look() -> None:
        for stream_id in ids:
            if pair.client.streams.unacknowledged(stream_id) == 0 and stream_id not in finished:
                finished.append(stream_id)

    pair.checks.append(look)
    pair.run_until(lambda: len(finished) == 3)
    assert finished == [ids[1], ids[2], ids[0]]


def test_streams_may_be_opened_from_both_ends_while_priorities_are_set() -> None:
    pair = make().handshake()
    low = opened(pair.client, False)
    pair.client.streams.write(low, bytes(200 * KIB), 0)
    pair.client.set_priority(low, -1)
    pair.flush()
    later = opened(pair.client)
    pair.client.streams.write(later, bytes(50 * KIB), 0)
    for _ in range(5):
        opened(pair.server, False)
    pair.server.streams.write(17, b"the fifth", 0)  # opens the four below it as well
    pair.flush()
    pair.run_until(lambda: pair.client.streams.unacknowledged(later) == 0)
    assert pair.client.streams.unacknowledged(low) > 50 * KIB
    assert happened(pair, pair.client, Event.STREAM_OPENED) == [1, 5, 9, 13, 17]
    assert pair.client.streams.read(17, 100) == b"the fifth"


def test_streams_of_equal_priority_share() -> None:
    pair = make().handshake()
    ids = [opened(pair.client) for _ in range(3)]
    for stream_id in ids:
        pair.client.set_priority(stream_id, 1)
        pair.client.streams.write(stream_id, bytes(100 * KIB), 0)
    pair.flush()
    pair.run(0.05)
    offsets = [views.sent_up_to(pair.client, i) for i in ids]
    assert max(offsets) - min(offsets) < 3000 < min(offsets)


# -- readiness events ------------------------------------------------------------------------------


def test_one_event_per_change_and_batch() -> None:
    pair = our_server().handshake()
    pair.events[pair.server].clear()
    for number in range(10):
        data = frame(0x0E, 2, number, 1, b"x") + frame(0x31, 1, b"d")
        pair.server.receive(seal(pair.client, data), ("192.0.2.1", 1000), pair.now)
    assert pair.server.events() == [
        (Event.STREAM_OPENED, 2),
        (Event.READABLE, 2),
        (Event.DATAGRAMS, 0),
    ]
    assert pair.server.events() == []


# -- pacing ----------------------------------------------------------------------------------------


@pytest.mark.plain_only
def test_the_pacers_bucket_holds_what_goes_out_between_two_ticks_of_a_timer() -> None:
    """asyncio's timers are no finer than about 1 ms: what is paced must fit such steps."""

    def bucket(pacer: QuicPacketPacer) -> float:
        pacer.update_rate(congestion_window=10_000_000, smoothed_rtt=0.010)
        return pacer.bucket_max

    assert bucket(ours(True)._loss._pacer) == PACING_BURST >= 0.002
    # Stock: a fraction of it, for windows like this.
    assert bucket(make_stock(True)._loss._pacer) < 0.001
