"""What the plain connection mends of aioquic: streams, credit, buffers and datagrams.

Where aioquic as it is behaves otherwise, the test shows it on `stock`, under a comment that begins
with "Stock:". So it fails on aioquic alone, and says when a release of aioquic makes it needless.
"""

import os

import pytest
from aioquic.quic import events as aioquic_events
from pair import (
    Pair,
    Reader,
    Writer,
    frame,
    make,
    plain,
    plain_client,
    plain_pair,
    plain_server,
    seal,
)
from pair import stock as make_stock

from rawquic.config import Config
from rawquic.connection.interface import Event
from rawquic.connection.plain import PlainConnection
from rawquic.errors import (
    ClosedByPeer,
    DatagramTooLarge,
    DatagramUnsupported,
    IdleTimeout,
    StreamFinished,
    StreamReset,
    StreamStopped,
)

KIB = 1024


def happened(pair: Pair, connection: PlainConnection, kind: Event) -> list[int]:
    return [value for each, value in pair.events[connection] if each is kind]


def opened(connection: PlainConnection, unidirectional: bool = True) -> int:
    stream_id = connection.open_stream(unidirectional)
    assert stream_id is not None
    return stream_id


def written(pair: Pair, data: bytes, *, fin: bool = False, bidi: bool = False) -> int:
    """A stream of the client's with this data, all of it delivered."""
    stream_id = opened(pair.client, not bidi)
    assert pair.client.write(stream_id, data, 0) == len(data)
    if fin:
        pair.client.finish(stream_id)
    pair.flush()
    pair.run(0.5)
    return stream_id


def deaf(connection: object) -> None:
    """The application of a stock connection takes nothing out of it."""
    connection.next_event = lambda: None  # type: ignore[attr-defined]


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
        credit = self.sender._remote_max_data
        assert credit <= read + self.config.receive_window
        self.most = max(self.most, credit)
        for stream_id, stream in self.sender._streams.items():
            read_here = len(data.get(stream_id, b""))
            assert stream.max_stream_data_remote <= read_here + self.config.stream_receive_window


@pytest.mark.parametrize("other", ["plain", "stock"])
def test_credit_never_exceeds_what_was_read_and_the_window(other: str) -> None:
    config = Config(receive_window=64 * KIB, stream_receive_window=24 * KIB)
    client = plain(True) if other == "plain" else make_stock(True)
    server = plain(False, config, odcid=client.original_destination_connection_id)
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
    pair = plain_client(max_data=64 * KIB, max_stream_data=64 * KIB).handshake()
    deaf(pair.server)
    Writer(pair, pair.client, bytes(300 * KIB))
    pair.run(3.0)
    # Stock: nothing was read, yet the credit is a multiple of the window.
    assert pair.client._remote_max_data > 4 * 64 * KIB


def test_one_unread_stream_does_not_take_the_credit_of_others() -> None:
    config = Config(receive_window=64 * KIB, stream_receive_window=16 * KIB)
    pair = plain_pair(server=config).handshake()
    stuck = opened(pair.client)
    pair.client.write(stuck, bytes(16 * KIB), 0)
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
    pair = plain_pair(server=config).handshake()
    pair.server.set_receive_window(256 * KIB)
    pair.flush()
    pair.run(0.1)
    assert pair.client._remote_max_data == 256 * KIB
    pair.server.set_receive_window(8 * KIB)
    data = os.urandom(400 * KIB)
    reader = Reader(pair, pair.server)
    writer = Writer(pair, pair.client, data)
    pair.run_until(lambda: writer.stream_id in reader.ended)
    assert bytes(reader.data[writer.stream_id]) == data
    # What was given stays given (RFC 9000 §4.1); from there on the small window counts.
    assert pair.client._remote_max_data <= max(256 * KIB, len(data) + 8 * KIB)


# -- the send buffer -------------------------------------------------------------------------------


def test_write_takes_only_what_the_send_buffer_holds_and_wakes_at_half() -> None:
    config = Config(send_window=64 * KIB)
    pair = plain_pair(config).handshake()
    client = pair.client
    stream_id = opened(client)
    assert client.write(stream_id, bytes(100 * KIB), 0) == 64 * KIB
    assert client.write(stream_id, bytes(100 * KIB), 64 * KIB) == 0
    other = opened(client)
    assert client.write(other, b"x", 0) == 0  # the bound is the connection's
    woken: list[int] = []

    def look() -> None:
        buffered = sum(stream.sender.buffered for stream in client._streams.values())
        assert buffered <= 64 * KIB
        if happened(pair, client, Event.WRITABLE) and not woken:
            woken.append(buffered)

    pair.checks.append(look)
    pair.flush()
    pair.run_until(lambda: bool(woken))
    assert 0 < woken[0] <= 32 * KIB
    assert sorted(set(happened(pair, client, Event.WRITABLE))) == [stream_id, other]

    # Stock: whatever is given is taken.
    stock = make("stock", "plain").handshake().client
    stock.send_stream_data(0, bytes(10_000 * KIB))
    assert len(stock._streams[0].sender._buffer) == 10_000 * KIB


def test_the_send_window_can_be_set() -> None:
    pair = plain_pair(Config(send_window=2 * KIB)).handshake()
    stream_id = opened(pair.client)
    assert pair.client.write(stream_id, bytes(10 * KIB), 0) == 2 * KIB
    pair.client.set_send_window(6 * KIB)
    assert pair.client.events() == [(Event.WRITABLE, stream_id)]
    assert pair.client.write(stream_id, bytes(10 * KIB), 2 * KIB) == 4 * KIB
    assert pair.client.unacknowledged(stream_id) == 6 * KIB
    pair.flush()
    pair.run(1.0)
    assert pair.client.unacknowledged(stream_id) == 0


def test_write_stops_at_the_peers_credit_and_goes_on_with_it() -> None:
    config = Config(stream_receive_window=8 * KIB)
    pair = plain_pair(server=config).handshake()
    stream_id = opened(pair.client)
    assert pair.client.write(stream_id, bytes(20 * KIB), 0) == 8 * KIB
    pair.flush()
    pair.run(1.0)
    assert pair.client.write(stream_id, bytes(20 * KIB), 8 * KIB) == 0
    pair.events[pair.client].clear()
    assert pair.server.read(stream_id, 4 * KIB) == bytes(4 * KIB)
    assert pair.server.wants_flush()
    pair.flush()
    pair.run(0.1)
    assert happened(pair, pair.client, Event.WRITABLE) == [stream_id]
    assert pair.client.write(stream_id, bytes(20 * KIB), 8 * KIB) == 4 * KIB


# -- datagrams -------------------------------------------------------------------------------------


def test_an_oversize_datagram_is_refused_at_the_call_and_blocks_nothing() -> None:
    pair = make().handshake()
    limit = pair.client.max_datagram_size()
    assert 1100 < limit < 1200
    with pytest.raises(DatagramTooLarge) as caught:
        pair.client.send_datagram(bytes(limit + 1))
    assert (caught.value.size, caught.value.limit) == (limit + 1, limit)
    pair.client.send_datagram(bytes(limit))
    pair.client.send_datagram(b"after it")
    pair.flush()
    pair.run(0.1)
    assert pair.server.read_datagrams(10) == [bytes(limit), b"after it"]
    assert pair.largest[pair.client] <= 1200

    # Stock: the oversize one stays at the front of the queue, and nothing passes it.
    pair = make("stock", "plain").handshake()
    pair.client.send_datagram_frame(bytes(limit + 1))
    pair.client.send_datagram_frame(b"after it")
    pair.flush()
    pair.run(5.0)
    assert pair.server.read_datagrams(10) == []


def test_datagrams_that_a_smaller_packet_size_strands_are_dropped_wherever_they_wait() -> None:
    pair = plain_pair(Config(initial_mtu=1400)).handshake()
    big = bytes(pair.client.max_datagram_size())
    for data in (b"first", big, b"second", big, b"third"):
        pair.client.send_datagram(data)
    pair.client.limit_packet_size(1200)
    pair.flush()
    pair.run(0.0105)  # one way: what left in that flush
    assert pair.server.read_datagrams(10) == [b"first", b"second", b"third"]
    assert pair.client.statistics().frames_dropped_mtu == 2
    assert pair.client.statistics().mtu == 1200

    # Stock: it has no way to lower the size, and with it lowered the queue stands still.
    pair = Pair(
        one := make_stock(True, max_datagram_size=1400),
        plain(False, odcid=one.original_destination_connection_id),
    ).handshake()
    one.send_datagram_frame(big)
    one.send_datagram_frame(b"second")
    one._max_datagram_size = 1200
    pair.flush()
    pair.run(5.0)
    assert pair.server.read_datagrams(10) == []


def test_a_longer_connection_id_of_the_peer_makes_the_largest_datagram_smaller() -> None:
    pair = plain_server().handshake()
    limit = pair.server.max_datagram_size()
    pair.server.send_datagram(bytes(limit))
    pair.server.send_datagram(b"second")
    # NEW_CONNECTION_ID that retires all others, with an ID of 20 bytes.
    pair.inject(pair.client, frame(0x18, 9, 9, bytes([20]), bytes(range(20)), bytes(16)))
    assert pair.server.max_datagram_size() == limit - 12
    packets = pair.server.datagrams_to_send(pair.now + 0.001)
    assert packets and all(len(data) <= 1200 for data, _ in packets)
    assert pair.server.statistics().frames_dropped_mtu == 1
    assert pair.server.datagram_room(limit) and not pair.server._datagrams_out


def test_the_datagram_send_queue_drops_the_oldest() -> None:
    pair = plain_pair(Config(datagram_send_buffer_size=10_000)).handshake()
    for number in range(100):
        pair.client.send_datagram(bytes([number]) * 1000)
    dropped = pair.client.statistics().frames_dropped_send
    assert 90 <= dropped <= 92
    assert not pair.client.datagram_room(1000)
    pair.flush()
    pair.run(0.5)
    assert happened(pair, pair.client, Event.DATAGRAM_ROOM)
    assert pair.client.datagram_room(1000)
    assert [data[0] for data in pair.server.read_datagrams(200)] == list(range(dropped, 100))

    # Stock: no bound.
    pair = make("stock", "plain").handshake()
    for _ in range(10_000):
        pair.client.send_datagram_frame(bytes(1000))
    assert len(pair.client._datagrams_pending) == 10_000


def test_the_datagram_receive_queue_drops_the_oldest() -> None:
    pair = plain_pair(server=Config(datagram_receive_buffer_size=10_000)).handshake()
    for number in range(100):
        pair.client.send_datagram(bytes([number]) * 1000)
        pair.flush()
        pair.run(0.02)
    dropped = pair.server.statistics().frames_dropped_receive
    assert 90 <= dropped <= 92
    assert pair.server.read_datagrams(3) == [bytes([dropped + i]) * 1000 for i in range(3)]
    assert [d[0] for d in pair.server.read_datagrams(200)] == list(range(dropped + 3, 100))

    # Stock: no bound.
    pair = make("plain", "stock").handshake()
    deaf(pair.server)
    for _ in range(200):
        pair.client.send_datagram(bytes(1000))
        pair.flush()
        pair.run(0.02)
    events = [e for e in pair.server._events if isinstance(e, aioquic_events.DatagramFrameReceived)]
    assert len(events) == 200


def test_empty_datagrams_are_bounded_both_ways() -> None:
    config = Config(datagram_send_buffer_size=6400, datagram_receive_buffer_size=6400)
    pair = plain_pair(config, config).handshake()
    for _ in range(1000):
        pair.client.send_datagram(b"")
    assert len(pair.client._datagrams_out) <= 100
    assert pair.client.statistics().frames_dropped_send >= 900
    pair.inject(pair.client, frame(0x31, 0) * 500)
    assert len(pair.server._datagrams_in) <= 100
    assert pair.server.statistics().frames_dropped_receive >= 400


def test_a_datagram_as_large_as_the_queue_is_still_taken() -> None:
    pair = plain_pair(Config(initial_mtu=1500, datagram_send_buffer_size=1200)).handshake()
    data = os.urandom(pair.client.max_datagram_size())
    assert len(data) > 1200
    pair.client.send_datagram(data)
    pair.flush()
    pair.run(0.1)
    assert pair.server.read_datagrams(1) == [data]


def test_a_peer_that_takes_no_datagrams() -> None:
    pair = plain_pair(server=Config(datagram_receive_buffer_size=None)).handshake()
    assert pair.client.max_datagram_size() is None
    with pytest.raises(DatagramUnsupported):
        pair.client.send_datagram(b"x")
    assert pair.server.max_datagram_size() is not None


@pytest.mark.parametrize(
    ("frame_size", "limit"), [(1, None), (2, 0), (65, 63), (66, 63), (67, 64), (100, 97)]
)
def test_the_peers_datagram_frame_size_is_kept(frame_size: int, limit: int | None) -> None:
    pair = plain_client(max_datagram_frame_size=frame_size).handshake()
    assert pair.client.max_datagram_size() == limit
    if limit is not None:
        pair.client.send_datagram(bytes(limit))
        pair.flush()
        pair.run(0.2)
        assert len(pair.server.of(aioquic_events.DatagramFrameReceived)) == 1
    assert pair.client.close_reason is None


# -- stream limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("unidirectional", [False, True])
def test_stream_limits_follow_the_configuration(unidirectional: bool) -> None:
    config = Config(max_concurrent_bidi_streams=3, max_concurrent_uni_streams=5)
    pair = plain_pair(server=config).handshake()
    allowed = 5 if unidirectional else 3
    ids = [opened(pair.client, unidirectional) for _ in range(allowed)]
    assert ids == [4 * i + 2 * unidirectional for i in range(allowed)]
    assert pair.client.open_stream(unidirectional) is None
    assert pair.client.open_stream(not unidirectional) is not None

    # Stock: 128, whatever one would like.
    pair = make("plain", "stock").handshake()
    assert pair.client._remote_max_streams_bidi == pair.client._remote_max_streams_uni == 128


def test_stream_credit_is_given_when_the_application_has_seen_the_end() -> None:
    pair = plain_pair(server=Config(max_concurrent_uni_streams=2)).handshake()
    ids = [opened(pair.client) for _ in range(2)]
    for stream_id in ids:
        pair.client.write(stream_id, b"hello", 0)
        pair.client.finish(stream_id)
    assert pair.client.open_stream(True) is None
    pair.flush()
    pair.run(5.0)
    assert pair.client._remote_max_streams_uni == 2
    assert pair.server.read(ids[0], 100) == b"hello"
    pair.flush()
    pair.run(0.1)
    assert pair.client._remote_max_streams_uni == 2  # the end is not seen yet
    assert pair.server.read(ids[0], 100) == b""
    assert pair.server.wants_flush()
    pair.flush()
    pair.run(0.1)
    assert pair.client._remote_max_streams_uni == 3
    assert 1 in happened(pair, pair.client, Event.STREAMS_AVAILABLE)
    assert opened(pair.client) == 10
    assert pair.client.open_stream(True) is None

    # Stock: a stream counts no more as soon as its end has come in.
    pair = plain_client().handshake()
    deaf(pair.server)
    for _ in range(100):
        Writer(pair, pair.client, b"hello")
    pair.run(1.0)
    assert pair.client._remote_max_streams_uni > 128


def test_stopping_a_stream_gives_its_stream_credit_back() -> None:
    pair = plain_pair(server=Config(max_concurrent_uni_streams=1)).handshake()
    stream_id = written(pair, b"hello")
    pair.server.stop(stream_id, 3)
    pair.flush()
    pair.run(0.2)
    assert pair.client._remote_max_streams_uni == 2
    assert stream_id not in pair.server._streams


def test_set_max_streams_up() -> None:
    pair = plain_pair(server=Config(max_concurrent_bidi_streams=0)).handshake()
    assert pair.client.open_stream(False) is None
    pair.server.set_max_streams(False, 7)
    assert pair.server.wants_flush()
    pair.flush()
    pair.run(0.1)
    assert pair.client._remote_max_streams_bidi == 7
    assert 0 in happened(pair, pair.client, Event.STREAMS_AVAILABLE)
    assert opened(pair.client, False) == 0


def test_set_max_streams_down_and_up_again() -> None:
    pair = plain_pair(server=Config(max_concurrent_uni_streams=4)).handshake()
    pair.server.set_max_streams(True, 1)
    reader = Reader(pair, pair.server)

    def send(count: int) -> None:
        writers = [Writer(pair, pair.client, b"x") for _ in range(count)]
        pair.run_until(lambda: all(w.stream_id in reader.ended for w in writers))
        pair.run(0.2)

    send(3)  # what was given cannot be taken back; ended streams give nothing
    assert pair.client._remote_max_streams_uni == 4
    send(1)
    assert pair.client._remote_max_streams_uni == 5
    assert opened(pair.client) is not None
    assert pair.client.open_stream(True) is None  # one at a time now
    pair.server.set_max_streams(True, 4)
    pair.flush()
    pair.run(0.1)
    assert pair.client._remote_max_streams_uni == 8
    pair.server.set_max_streams(True, 20)
    pair.flush()
    pair.run(0.1)
    assert pair.client._remote_max_streams_uni == 24


def test_lost_credit_frames_are_sent_again() -> None:
    config = Config(
        max_concurrent_uni_streams=2, receive_window=8 * KIB, stream_receive_window=4 * KIB
    )
    pair = plain_pair(server=config, loss=0.3, seed=11).handshake()
    reader = Reader(pair, pair.server)
    for _ in range(12):
        pair.run_until(lambda: pair.client.open_stream(True) is not None)
        stream_id = pair.client._local_next_stream_id_uni - 4
        writer = _writer_on(pair, stream_id, os.urandom(10 * KIB))
        pair.run_until(lambda w=writer: w.stream_id in reader.ended)  # type: ignore[misc]
        assert bytes(reader.data[stream_id]) == writer.data


def _writer_on(pair: Pair, stream_id: int, data: bytes) -> Writer:
    writer = Writer.__new__(Writer)
    writer.pair, writer.connection, writer.data = pair, pair.client, data
    writer.offset, writer.finished, writer.stream_id = 0, False, stream_id
    pair.checks.append(writer)
    writer()
    return writer


def test_a_thousand_streams() -> None:
    config = Config(max_concurrent_bidi_streams=1000)
    pair = plain_pair(config, config, loss=0.01, seed=5).handshake()
    reader = Reader(pair, pair.server)
    sent = {}
    for number in range(1000):
        stream_id = opened(pair.client, False)
        sent[stream_id] = b"%d" % number * 20
        assert pair.client.write(stream_id, sent[stream_id], 0) == len(sent[stream_id])
        pair.client.finish(stream_id)
    assert pair.client.open_stream(False) is None
    pair.flush()
    pair.run_until(lambda: len(reader.ended) == 1000)
    assert {key: bytes(value) for key, value in reader.data.items()} == sent
    assert happened(pair, pair.server, Event.STREAM_OPENED) == sorted(sent)
    for stream_id in sent:
        pair.server.finish(stream_id)
    pair.flush()
    pair.run(2.0)
    assert all(pair.client.read(stream_id, 10) == b"" for stream_id in sent)
    pair.flush()
    pair.run(2.0)
    assert not pair.client._streams and not pair.server._streams
    assert pair.client._remote_max_streams_bidi == 2000


def test_opening_a_stream_opens_all_lower_ones() -> None:
    pair = plain_server().handshake()
    pair.inject(pair.client, frame(0x0F, 4 * 5 + 2, 0, 1, b"x"))
    assert happened(pair, pair.server, Event.STREAM_OPENED) == [4 * i + 2 for i in range(6)]
    assert pair.server.read(22, 10) == b"x"
    assert pair.server.read(18, 10) is None


# -- RESET_STREAM and STOP_SENDING -----------------------------------------------------------------


def test_a_reset_of_unread_data_reaches_the_reader_and_gives_the_credit_back() -> None:
    config = Config(receive_window=16 * KIB, stream_receive_window=16 * KIB)
    pair = plain_pair(server=config).handshake()
    stream_id = written(pair, bytes(16 * KIB))
    assert pair.client.open_stream(True) is not None
    assert pair.client._remote_max_data == 16 * KIB
    pair.client.reset(stream_id, 77)
    pair.flush()
    pair.run(0.2)
    assert pair.client._remote_max_data == 32 * KIB  # nobody will read those bytes
    with pytest.raises(StreamReset) as caught:
        pair.server.read(stream_id, 100)
    assert caught.value.code == 77
    assert pair.server.read(stream_id, 100) == b""
    pair.flush()
    pair.run(0.2)
    assert happened(pair, pair.client, Event.SEND_ENDED) == [stream_id]
    assert stream_id not in pair.server._streams and stream_id not in pair.client._streams
    assert pair.client._buffered == 0 and pair.client._written == 16 * KIB


def test_a_reset_returns_the_credit_of_bytes_that_never_came() -> None:
    """RFC 9000 §4.5: the final size counts for flow control, also where its bytes got lost."""
    config = Config(receive_window=16 * KIB, stream_receive_window=16 * KIB)
    pair = plain_pair(server=config).handshake()
    stream_id = opened(pair.client)
    pair.client.write(stream_id, bytes(12 * KIB), 0)
    pair.keep = lambda source, data: source is not pair.client
    pair.flush()
    sent = pair.client._remote_max_data_used
    assert 0 < sent < 12 * KIB
    pair.keep = None
    pair.client.reset(stream_id, 1)
    pair.flush()
    pair.run(0.5)
    assert pair.client._written == sent
    assert pair.server._consumed == sent


def test_a_reset_returns_the_credit_of_bytes_that_were_never_sent() -> None:
    config = Config(receive_window=200 * KIB, stream_receive_window=100 * KIB)
    pair = plain_pair(server=config).handshake()
    stream_id = opened(pair.client)
    assert pair.client.write(stream_id, bytes(100 * KIB), 0) == 100 * KIB
    pair.flush()  # the congestion window lets a part of it out
    sent = pair.client._remote_max_data_used
    assert 0 < sent < 50 * KIB
    pair.client.reset(stream_id, 1)
    assert pair.client._written == sent
    pair.flush()
    pair.run(0.5)
    assert pair.server.close_reason is None
    assert pair.server._local_max_data.used == sent


def test_a_reset_after_the_end_had_come_changes_nothing() -> None:
    pair = plain_pair(server=Config()).handshake()
    stream_id = opened(pair.client)
    pair.client.write(stream_id, b"all of it", 0)
    pair.client.finish(stream_id)
    pair.keep = lambda source, data: source is pair.client  # no ACK comes back
    pair.flush()
    pair.run(0.05)
    pair.client.reset(stream_id, 9)
    pair.keep = None
    pair.flush()
    pair.run(1.0)
    assert pair.server.read(stream_id, 100) == b"all of it"
    assert pair.server.read(stream_id, 100) == b""
    assert happened(pair, pair.client, Event.SEND_ENDED) == [stream_id]


def test_reset_after_the_end_was_acknowledged_does_nothing() -> None:
    pair = make().handshake()
    stream_id = written(pair, b"x", fin=True)
    pair.client.reset(stream_id, 9)
    pair.flush()
    pair.run(0.5)
    assert pair.server.read(stream_id, 9) == b"x"
    assert pair.server.read(stream_id, 9) == b""


@pytest.mark.parametrize("fin", [False, True])
def test_stop_gives_up_what_waits_and_tells_the_writer(fin: bool) -> None:
    config = Config(receive_window=16 * KIB, stream_receive_window=16 * KIB)
    pair = plain_pair(server=config).handshake()
    stream_id = written(pair, bytes(16 * KIB), fin=fin)
    pair.server.stop(stream_id, 55)
    pair.server.stop(stream_id, 56)  # only the first counts
    pair.flush()
    pair.run(0.5)
    assert pair.client._remote_max_data == 32 * KIB
    assert pair.server.read(stream_id, 10) == b""
    if fin:
        # The end had come: there is nobody to tell (RFC 9000 §3.5).
        assert happened(pair, pair.client, Event.STOPPED) == []
    else:
        assert happened(pair, pair.client, Event.STOPPED) == [stream_id]
        assert happened(pair, pair.client, Event.SEND_ENDED) == [stream_id]
    assert stream_id not in pair.server._streams


def test_a_stopped_writer_is_told_the_code() -> None:
    pair = make().handshake()
    stream_id = written(pair, b"x", bidi=True)
    pair.server.stop(stream_id, 55)
    pair.flush()
    pair.run(0.2)
    assert pair.client.stop_code(stream_id) == 55
    with pytest.raises(StreamStopped) as caught:
        pair.client.write(stream_id, b"more", 0)
    assert caught.value.code == 55
    with pytest.raises(StreamStopped):
        pair.client.finish(stream_id)
    assert pair.client.read(stream_id, 10) is None  # the other half goes on
    pair.server.write(stream_id, b"back", 0)
    pair.flush()
    pair.run(0.2)
    assert pair.client.read(stream_id, 10) == b"back"

    # Stock: a RuntimeError that does not say why, and no code to ask for.
    pair = make("stock", "plain").handshake()
    pair.client.send_stream_data(0, b"x")
    pair.flush()
    pair.run(0.2)
    pair.server.stop(0, 55)
    pair.flush()
    pair.run(0.2)
    with pytest.raises(RuntimeError, match="after the stream was reset"):
        pair.client.send_stream_data(0, b"more")


def test_data_behind_a_stop_is_dropped_and_its_credit_returned() -> None:
    config = Config(receive_window=16 * KIB, stream_receive_window=16 * KIB)
    pair = plain_server(config).handshake()
    pair.inject(pair.client, frame(0x0E, 2, 0, 2, b"ab"))
    pair.server.stop(2, 1)
    pair.inject(pair.client, frame(0x0E, 2, 2, 1000, bytes(1000)))
    assert pair.server._consumed == 1002
    assert pair.server._streams[2].receiver.waiting == 0
    pair.inject(pair.client, frame(0x04, 2, 1, 5000))  # the RESET_STREAM that answers it
    assert pair.server._consumed == 5000
    pair.flush()
    pair.run(0.1)
    assert pair.server.close_reason is None and 2 not in pair.server._streams


def test_stop_of_a_stream_that_is_gone_does_nothing() -> None:
    pair = make().handshake()
    stream_id = written(pair, b"x", fin=True)
    assert pair.server.read(stream_id, 9) == b"x"
    assert pair.server.read(stream_id, 9) == b""
    pair.flush()
    pair.run(0.2)
    pair.server.stop(stream_id, 1)
    assert not pair.server.wants_flush()

    # Stock: ValueError.
    pair = make("plain", "stock").handshake()
    stream_id = written(pair, b"x", fin=True)
    with pytest.raises(ValueError, match="unknown stream"):
        pair.server.stop_stream(stream_id, 1)


def test_a_stream_that_was_finished_or_reset_takes_no_more() -> None:
    pair = make().handshake()
    one, two = opened(pair.client), opened(pair.client)
    pair.client.finish(one)
    pair.client.reset(two, 0)
    for stream_id in (one, two):
        with pytest.raises(StreamFinished, match=f"stream {stream_id} takes no more"):
            pair.client.write(stream_id, b"x", 0)
        with pytest.raises(StreamFinished):
            pair.client.finish(stream_id)


# -- priorities ------------------------------------------------------------------------------------


def test_streams_of_higher_priority_are_sent_first() -> None:
    pair = make().handshake()
    low, high = opened(pair.client), opened(pair.client)
    for stream_id in (low, high):
        assert pair.client.write(stream_id, bytes(200 * KIB), 0) == 200 * KIB
    pair.client.set_priority(high, 5)
    seen = 0

    def look() -> None:
        nonlocal seen
        streams = pair.client._streams
        if high in streams and streams[high].sender.highest_offset < 200 * KIB:
            seen = max(seen, streams[low].sender.highest_offset)

    pair.checks.append(look)
    pair.flush()
    pair.run_until(lambda: pair.client.unacknowledged(high) == 0)
    assert seen == 0  # not one byte of the other before the last of this
    pair.run_until(lambda: pair.client.unacknowledged(low) == 0)

    # Stock: every stream in turn.
    pair = make("stock", "plain").handshake()
    pair.client.send_stream_data(2, bytes(200 * KIB))
    pair.client.send_stream_data(6, bytes(200 * KIB))
    pair.flush()
    pair.run(0.1)
    offsets = [pair.client._streams[i].sender.highest_offset for i in (2, 6)]
    assert abs(offsets[0] - offsets[1]) < 3000 < offsets[0]


def test_priority_changes_while_streams_wait() -> None:
    pair = make().handshake()
    ids = [opened(pair.client) for _ in range(3)]
    for stream_id in ids:
        pair.client.write(stream_id, bytes(100 * KIB), 0)
    pair.client.set_priority(ids[0], -1)
    pair.client.set_priority(ids[2], 1)
    pair.flush()
    pair.client.set_priority(ids[1], 2)
    pair.client.set_priority(99_999, 2)  # a stream that is gone: nothing happens
    finished: list[int] = []

    def look() -> None:
        for stream_id in ids:
            if pair.client.unacknowledged(stream_id) == 0 and stream_id not in finished:
                finished.append(stream_id)

    pair.checks.append(look)
    pair.run_until(lambda: len(finished) == 3)
    assert finished == [ids[1], ids[2], ids[0]]


def test_streams_may_be_opened_from_both_ends_while_priorities_are_set() -> None:
    pair = make().handshake()
    low = opened(pair.client, False)
    pair.client.write(low, bytes(200 * KIB), 0)
    pair.client.set_priority(low, -1)
    pair.flush()
    later = opened(pair.client)
    pair.client.write(later, bytes(50 * KIB), 0)
    for _ in range(5):
        opened(pair.server, False)
    pair.server.write(17, b"the fifth", 0)  # opens the four below it as well
    pair.flush()
    pair.run_until(lambda: pair.client.unacknowledged(later) == 0)
    assert pair.client.unacknowledged(low) > 50 * KIB
    assert happened(pair, pair.client, Event.STREAM_OPENED) == [1, 5, 9, 13, 17]
    assert pair.client.read(17, 100) == b"the fifth"


def test_streams_of_equal_priority_share() -> None:
    pair = make().handshake()
    ids = [opened(pair.client) for _ in range(3)]
    for stream_id in ids:
        pair.client.set_priority(stream_id, 1)
        pair.client.write(stream_id, bytes(100 * KIB), 0)
    pair.flush()
    pair.run(0.05)
    offsets = [pair.client._streams[i].sender.highest_offset for i in ids]
    assert max(offsets) - min(offsets) < 3000 < min(offsets)


# -- reading ---------------------------------------------------------------------------------------


def test_read_gives_bytes_then_nothing_yet_then_the_end() -> None:
    pair = make().handshake()
    stream_id = written(pair, b"abcdef")
    server = pair.server
    assert happened(pair, server, Event.STREAM_OPENED) == [stream_id]
    assert happened(pair, server, Event.READABLE) == [stream_id]
    assert server.read(stream_id, 4) == b"abcd"
    assert server.read(stream_id, 4) == b"ef"
    assert server.read(stream_id, 4) is None
    pair.client.finish(stream_id)
    pair.flush()
    pair.run(0.1)
    assert happened(pair, server, Event.READABLE) == [stream_id] * 2
    assert server.read(stream_id, 4) == b""
    assert server.read(stream_id, 4) == b""


def test_read_joins_chunks_up_to_the_limit() -> None:
    pair = plain_server().handshake()
    for number in range(5):
        pair.inject(pair.client, frame(0x0E, 2, 3 * number, 3, b"%d%d%d" % ((number,) * 3)))
    assert pair.server.read(2, 2) == b"00"
    assert pair.server.read(2, 6) == b"011122"
    assert pair.server.read(2, 1) == b"2"
    assert pair.server.read(2, 100) == b"333444"
    assert pair.server.read(2, 100) is None


def test_reading_goes_on_after_the_connection_is_lost() -> None:
    pair = make().handshake()
    stream_id = written(pair, b"before the end")
    finished = written(pair, b"whole", fin=True)
    pair.client.send_datagram(b"datagram")
    pair.flush()
    pair.run(0.1)
    pair.client.close_session(4, b"")
    pair.flush()
    pair.run(0.1)
    assert isinstance(pair.server.close_reason, ClosedByPeer)
    assert pair.server.read(stream_id, 6) == b"before"
    assert pair.server.read(stream_id, 100) == b" the end"
    assert pair.server.read(stream_id, 100) is None  # not b"": it did not end
    assert pair.server.read(finished, 100) == b"whole"
    assert pair.server.read(finished, 100) == b""
    assert pair.server.read_datagrams(5) == [b"datagram"]
    assert pair.events[pair.server][-1] == (Event.CLOSED, 0)


def test_reading_goes_on_after_an_idle_timeout() -> None:
    pair = make().handshake()
    stream_id = written(pair, b"x")
    pair.keep = lambda source, data: False
    pair.run(100.0)
    assert isinstance(pair.server.close_reason, IdleTimeout)
    assert pair.server.read(stream_id, 9) == b"x"
    assert pair.server.read(stream_id, 9) is None


def test_a_local_one_way_stream_reads_as_ended() -> None:
    pair = make().handshake()
    assert pair.client.read(opened(pair.client), 10) == b""


# -- readiness events ------------------------------------------------------------------------------


def test_one_event_per_change_and_batch() -> None:
    pair = plain_server().handshake()
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
