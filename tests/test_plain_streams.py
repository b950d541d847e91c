"""What the plain connection mends of aioquic: the life of a stream, and who may open how many.

Where aioquic as it is behaves otherwise, the test shows it on `stock`, under a comment that begins
with "Stock:". So it fails on aioquic alone, and says when a release of aioquic makes it needless.
"""

import os
from typing import Any

import pytest
import views
from aioquic.quic.packet import QuicErrorCode
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
    stream_frame,
    written,
)
from pair import stock as make_stock

from rawquic.config import Config
from rawquic.connection.interface import Event
from rawquic.errors import (
    ClosedByPeer,
    IdleTimeout,
    StreamFinished,
    StreamReset,
    StreamStopped,
)

pytestmark = pytest.mark.usefixtures("backend")

KIB = 1024


# -- stream limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("unidirectional", [False, True])
def test_stream_limits_follow_the_configuration(unidirectional: bool) -> None:
    config = Config(max_concurrent_bidi_streams=3, max_concurrent_uni_streams=5)
    pair = our_pair(server=config).handshake()
    allowed = 5 if unidirectional else 3
    ids = [opened(pair.client, unidirectional) for _ in range(allowed)]
    assert ids == [4 * i + 2 * unidirectional for i in range(allowed)]
    assert pair.client.streams.open_stream(unidirectional) is None
    assert pair.client.streams.open_stream(not unidirectional) is not None

    # Stock: 128, whatever one would like.
    pair = make("ours", "stock").handshake()
    assert views.stream_limit(pair.client, False) == views.stream_limit(pair.client) == 128


def test_stream_credit_is_given_when_the_application_has_seen_the_end() -> None:
    pair = our_pair(server=Config(max_concurrent_uni_streams=2)).handshake()
    ids = [opened(pair.client) for _ in range(2)]
    for stream_id in ids:
        pair.client.streams.write(stream_id, b"hello", 0)
        pair.client.streams.finish(stream_id)
    assert pair.client.streams.open_stream(True) is None
    pair.flush()
    pair.run(5.0)
    assert views.stream_limit(pair.client) == 2
    assert pair.server.streams.read(ids[0], 100) == b"hello"
    pair.flush()
    pair.run(0.1)
    assert views.stream_limit(pair.client) == 2  # the end is not seen yet
    assert pair.server.streams.read(ids[0], 100) == b""
    assert pair.server.wants_flush()
    pair.flush()
    pair.run(0.1)
    assert views.stream_limit(pair.client) == 3
    assert 1 in happened(pair, pair.client, Event.STREAMS_AVAILABLE)
    assert opened(pair.client) == 10
    assert pair.client.streams.open_stream(True) is None

    # Stock: a stream counts no more as soon as its end has come in.
    pair = our_client().handshake()
    deaf(pair.server)
    for _ in range(100):
        Writer(pair, pair.client, b"hello")
    pair.run(1.0)
    assert views.stream_limit(pair.client) > 128


def test_stopping_a_stream_gives_its_stream_credit_back() -> None:
    pair = our_pair(server=Config(max_concurrent_uni_streams=1)).handshake()
    stream_id = written(pair, b"hello")
    pair.server.streams.stop(stream_id, 3)
    pair.flush()
    pair.run(0.2)
    assert views.stream_limit(pair.client) == 2
    assert stream_id not in views.streams(pair.server)


def test_set_max_streams_up() -> None:
    pair = our_pair(server=Config(max_concurrent_bidi_streams=0)).handshake()
    assert pair.client.streams.open_stream(False) is None
    pair.server.set_max_streams(False, 7)
    assert pair.server.wants_flush()
    pair.flush()
    pair.run(0.1)
    assert views.stream_limit(pair.client, False) == 7
    assert 0 in happened(pair, pair.client, Event.STREAMS_AVAILABLE)
    assert opened(pair.client, False) == 0


@pytest.mark.parametrize("count", [1, 7, 16])
def test_a_peer_that_never_says_it_is_blocked_gets_all_its_streams(count: int) -> None:
    """STREAMS_BLOCKED is no more than a hint (RFC 9000 §4.6), and quinn never sends it."""
    pair = our_pair(server=Config(max_concurrent_uni_streams=count)).handshake()
    reader = Reader(pair, pair.server)
    for _ in range(count):
        writer = Writer(pair, pair.client, b"x")
        pair.run_until(lambda w=writer: w.stream_id in reader.ended)  # type: ignore[misc]
    pair.run(0.2)
    for _ in range(count):  # these stay open
        pair.client.streams.write(opened(pair.client), b"x", 0)
        pair.flush()
        pair.run(0.2)


def test_set_max_streams_down_and_up_again() -> None:
    pair = our_pair(server=Config(max_concurrent_uni_streams=4)).handshake()
    pair.server.set_max_streams(True, 1)
    reader = Reader(pair, pair.server)

    def send(count: int) -> None:
        writers = [Writer(pair, pair.client, b"x") for _ in range(count)]
        pair.run_until(lambda: all(w.stream_id in reader.ended for w in writers))
        pair.run(0.2)

    send(3)  # what was given cannot be taken back; ended streams give nothing
    assert views.stream_limit(pair.client) == 4
    send(1)
    assert views.stream_limit(pair.client) == 5
    assert opened(pair.client) is not None
    assert pair.client.streams.open_stream(True) is None  # one at a time now
    pair.server.set_max_streams(True, 4)
    pair.flush()
    pair.run(0.1)
    assert views.stream_limit(pair.client) == 8
    pair.server.set_max_streams(True, 20)
    pair.flush()
    pair.run(0.1)
    assert views.stream_limit(pair.client) == 24


def test_the_peer_is_held_to_the_limit_that_it_was_told() -> None:
    """RFC 9000 §4.6: streams that ended give credit when the frame says so, not before."""

    def ended_and_next(kind: str) -> Any:
        client = make_stock(True)
        odcid = client.original_destination_connection_id
        if kind == "ours":
            server: Any = ours(False, Config(max_concurrent_uni_streams=128), odcid=odcid)
        else:
            server = make_stock(False, odcid=odcid)
        pair = Pair(client, server).handshake()
        for number in range(3):
            pair.inject(client, stream_frame(4 * number + 2, 0, b"x", fin=True))
            if kind == "ours":
                assert server.streams.read(4 * number + 2, 9) == b"x"
                assert server.streams.read(4 * number + 2, 9) == b""
        pair.flush()
        pair.run(0.5)
        assert views.stream_limit(client) == 128  # three are too few for a frame
        pair.inject(client, stream_frame(4 * 128 + 2, 0, b"x"))
        return server

    assert ended_and_next("ours").close_reason.code == QuicErrorCode.STREAM_LIMIT_ERROR
    # Stock: it takes three more than it told.
    assert ended_and_next("stock")._close_event is None


def test_lost_credit_frames_are_sent_again() -> None:
    config = Config(
        max_concurrent_uni_streams=2, receive_window=8 * KIB, stream_receive_window=4 * KIB
    )
    pair = our_pair(server=config, loss=0.3, seed=11).handshake()
    reader = Reader(pair, pair.server)
    ids: list[int] = []

    def open_one() -> bool:
        stream_id = pair.client.streams.open_stream(True)
        ids.extend(() if stream_id is None else (stream_id,))
        return stream_id is not None

    for _ in range(12):
        pair.run_until(open_one)
        stream_id = ids[-1]
        writer = Writer.on(pair, pair.client, os.urandom(10 * KIB), stream_id)
        pair.run_until(lambda w=writer: w.stream_id in reader.ended)  # type: ignore[misc]
        assert bytes(reader.data[stream_id]) == writer.data


def test_a_thousand_streams() -> None:
    config = Config(max_concurrent_bidi_streams=1000)
    pair = our_pair(config, config, loss=0.01, seed=5).handshake()
    reader = Reader(pair, pair.server)
    sent = {}
    for number in range(1000):
        stream_id = opened(pair.client, False)
        sent[stream_id] = b"%d" % number * 20
        assert pair.client.streams.write(stream_id, sent[stream_id], 0) == len(sent[stream_id])
        pair.client.streams.finish(stream_id)
    assert pair.client.streams.open_stream(False) is None
    pair.flush()
    pair.run_until(lambda: len(reader.ended) == 1000)
    assert {key: bytes(value) for key, value in reader.data.items()} == sent
    assert happened(pair, pair.server, Event.STREAM_OPENED) == sorted(sent)
    for stream_id in sent:
        pair.server.streams.finish(stream_id)
    pair.flush()
    pair.run(2.0)
    assert all(pair.client.streams.read(stream_id, 10) == b"" for stream_id in sent)
    pair.flush()
    pair.run(2.0)
    assert not views.streams(pair.client) and not views.streams(pair.server)
    assert views.stream_limit(pair.client, False) > 1500  # given in batches


def test_opening_a_stream_opens_all_lower_ones() -> None:
    pair = our_server().handshake()
    pair.inject(pair.client, frame(0x0F, 4 * 5 + 2, 0, 1, b"x"))
    assert happened(pair, pair.server, Event.STREAM_OPENED) == [4 * i + 2 for i in range(6)]
    assert pair.server.streams.read(22, 10) == b"x"
    assert pair.server.streams.read(18, 10) is None


# -- RESET_STREAM and STOP_SENDING -----------------------------------------------------------------


def test_a_reset_of_unread_data_reaches_the_reader_and_gives_the_credit_back() -> None:
    config = Config(receive_window=16 * KIB, stream_receive_window=16 * KIB)
    pair = our_pair(server=config).handshake()
    stream_id = written(pair, bytes(16 * KIB))
    assert pair.client.streams.open_stream(True) is not None
    assert views.data_credit(pair.client) == 16 * KIB
    pair.client.streams.reset(stream_id, 77)
    pair.flush()
    pair.run(0.2)
    assert views.data_credit(pair.client) == 32 * KIB  # nobody will read those bytes
    with pytest.raises(StreamReset) as caught:
        pair.server.streams.read(stream_id, 100)
    assert caught.value.code == 77
    assert pair.server.streams.read(stream_id, 100) == b""
    pair.flush()
    pair.run(0.2)
    assert happened(pair, pair.client, Event.SEND_ENDED) == [stream_id]
    assert stream_id not in views.streams(pair.server) and stream_id not in views.streams(
        pair.client
    )
    assert views.buffered(pair.client) == 0 and views.written(pair.client) == 16 * KIB


def test_a_reset_returns_the_credit_of_bytes_that_never_came() -> None:
    """RFC 9000 §4.5: the final size counts for flow control, also where its bytes got lost."""
    config = Config(receive_window=64 * KIB, stream_receive_window=64 * KIB)
    pair = our_pair(server=config).handshake()
    stream_id = opened(pair.client)
    pair.client.streams.write(stream_id, bytes(40 * KIB), 0)
    pair.keep = lambda source, data: source is not pair.client
    pair.flush()
    sent = views.sent_up_to(pair.client, stream_id)
    assert 0 < sent < 40 * KIB
    pair.keep = None
    pair.client.streams.reset(stream_id, 1)
    pair.flush()
    pair.run(0.5)
    assert views.written(pair.client) == sent
    assert views.consumed(pair.server) == sent


def test_a_reset_returns_the_credit_of_bytes_that_were_never_sent() -> None:
    config = Config(receive_window=200 * KIB, stream_receive_window=100 * KIB)
    pair = our_pair(server=config).handshake()
    stream_id = opened(pair.client)
    assert pair.client.streams.write(stream_id, bytes(100 * KIB), 0) == 100 * KIB
    pair.flush()  # the congestion window lets a part of it out
    sent = views.sent_up_to(pair.client, stream_id)
    assert 0 < sent < 50 * KIB
    assert pair.client.statistics().bytes_in_flight > 0
    pair.client.streams.reset(stream_id, 1)
    assert views.written(pair.client) == sent
    assert views.buffered(pair.client) == 0  # the send buffer is free for others at once
    pair.flush()
    pair.run(0.5)
    assert pair.server.close_reason is None
    assert views.received(pair.server) == sent


def test_a_reset_after_the_end_had_come_changes_nothing() -> None:
    pair = our_pair(server=Config()).handshake()
    stream_id = opened(pair.client)
    pair.client.streams.write(stream_id, b"all of it", 0)
    pair.client.streams.finish(stream_id)
    pair.keep = lambda source, data: source is pair.client  # no ACK comes back
    pair.flush()
    pair.run(0.05)
    pair.client.streams.reset(stream_id, 9)
    pair.keep = None
    pair.flush()
    pair.run(1.0)
    assert pair.server.streams.read(stream_id, 100) == b"all of it"
    assert pair.server.streams.read(stream_id, 100) == b""
    assert happened(pair, pair.client, Event.SEND_ENDED) == [stream_id]


def test_reset_after_the_end_was_acknowledged_does_nothing() -> None:
    pair = make().handshake()
    stream_id = written(pair, b"x", fin=True)
    pair.client.streams.reset(stream_id, 9)
    pair.flush()
    pair.run(0.5)
    assert pair.server.streams.read(stream_id, 9) == b"x"
    assert pair.server.streams.read(stream_id, 9) == b""


@pytest.mark.parametrize("fin", [False, True])
def test_stop_gives_up_what_waits_and_tells_the_writer(fin: bool) -> None:
    config = Config(receive_window=16 * KIB, stream_receive_window=16 * KIB)
    pair = our_pair(server=config).handshake()
    stream_id = written(pair, bytes(16 * KIB), fin=fin)
    pair.server.streams.stop(stream_id, 55)
    pair.server.streams.stop(stream_id, 56)  # only the first counts
    pair.flush()
    pair.run(0.5)
    assert views.data_credit(pair.client) == 32 * KIB
    assert pair.server.streams.read(stream_id, 10) == b""
    if fin:
        # The end had come: there is nobody to tell (RFC 9000 §3.5).
        assert happened(pair, pair.client, Event.STOPPED) == []
    else:
        assert happened(pair, pair.client, Event.STOPPED) == [stream_id]
        assert happened(pair, pair.client, Event.SEND_ENDED) == [stream_id]
    assert stream_id not in views.streams(pair.server)


def test_a_stopped_writer_is_told_the_code() -> None:
    pair = make().handshake()
    stream_id = written(pair, b"x", bidi=True)
    pair.server.streams.stop(stream_id, 55)
    pair.flush()
    pair.run(0.2)
    assert pair.client.streams.stop_code(stream_id) == 55
    with pytest.raises(StreamStopped) as caught:
        pair.client.streams.write(stream_id, b"more", 0)
    assert caught.value.code == 55
    with pytest.raises(StreamStopped):
        pair.client.streams.finish(stream_id)
    assert pair.client.streams.read(stream_id, 10) is None  # the other half goes on
    pair.server.streams.write(stream_id, b"back", 0)
    pair.flush()
    pair.run(0.2)
    assert pair.client.streams.read(stream_id, 10) == b"back"

    # Stock: a RuntimeError that does not say why, and no code to ask for.
    pair = make("stock", "ours").handshake()
    pair.client.send_stream_data(0, b"x")
    pair.flush()
    pair.run(0.2)
    pair.server.streams.stop(0, 55)
    pair.flush()
    pair.run(0.2)
    with pytest.raises(RuntimeError, match="after the stream was reset"):
        pair.client.send_stream_data(0, b"more")


def test_the_first_stop_counts() -> None:
    pair = our_server().handshake()
    stream_id = opened(pair.server)
    pair.server.streams.write(stream_id, b"x", 0)
    pair.inject(pair.client, frame(0x05, stream_id, 7))
    pair.inject(pair.client, frame(0x05, stream_id, 8))
    assert pair.server.streams.stop_code(stream_id) == 7
    assert happened(pair, pair.server, Event.STOPPED) == [stream_id]


@pytest.mark.parametrize("opener", ["client", "server"])
def test_both_halves_of_a_stream_end_on_their_own(opener: str) -> None:
    pair = make().handshake()
    near = getattr(pair, opener)
    far = pair.other(near)
    reset, stopped = opened(near, False), opened(near, False)
    for stream_id in (reset, stopped):
        near.streams.write(stream_id, b"there", 0)
    pair.flush()
    pair.run(0.1)
    for stream_id in (reset, stopped):
        far.streams.write(stream_id, b"back", 0)
    pair.flush()
    pair.run(0.1)
    far.streams.reset(reset, 21)  # the opener's receiving half
    near.streams.stop(stopped, 22)
    pair.flush()
    pair.run(0.2)
    with pytest.raises(StreamReset) as caught:
        near.streams.read(reset, 10)
    assert caught.value.code == 21
    assert far.streams.stop_code(stopped) == 22 and happened(pair, far, Event.STOPPED) == [stopped]
    assert happened(pair, far, Event.SEND_ENDED) == [reset, stopped]
    for stream_id in (reset, stopped):  # the other half knows nothing of it
        assert near.streams.write(stream_id, b" again", 0) == 6
        near.streams.finish(stream_id)
    pair.flush()
    pair.run(0.2)
    for stream_id in (reset, stopped):
        assert (
            far.streams.read(stream_id, 100) == b"there again"
            and far.streams.read(stream_id, 100) == b""
        )
    pair.flush()
    pair.run(0.2)
    assert not views.streams(near) and not views.streams(far)
    assert near.close_reason is None and far.close_reason is None


def test_data_behind_a_stop_is_dropped_and_its_credit_returned() -> None:
    config = Config(receive_window=16 * KIB, stream_receive_window=16 * KIB)
    pair = our_server(config).handshake()
    pair.inject(pair.client, frame(0x0E, 2, 0, 2, b"ab"))
    pair.server.streams.stop(2, 1)
    pair.inject(pair.client, frame(0x0E, 2, 2, 1000, bytes(1000)))
    assert views.consumed(pair.server) == 1002
    assert views.waiting(pair.server, 2) == 0
    pair.inject(pair.client, frame(0x04, 2, 1, 5000))  # the RESET_STREAM that answers it
    assert views.consumed(pair.server) == 5000
    pair.flush()
    pair.run(0.1)
    assert pair.server.close_reason is None and 2 not in views.streams(pair.server)


def test_stop_of_a_stream_that_is_gone_does_nothing() -> None:
    pair = make().handshake()
    stream_id = written(pair, b"x", fin=True)
    assert pair.server.streams.read(stream_id, 9) == b"x"
    assert pair.server.streams.read(stream_id, 9) == b""
    pair.flush()
    pair.run(0.2)
    pair.server.streams.stop(stream_id, 1)
    assert not pair.server.wants_flush()

    # Stock: ValueError.
    pair = make("ours", "stock").handshake()
    stream_id = written(pair, b"x", fin=True)
    with pytest.raises(ValueError, match="unknown stream"):
        pair.server.stop_stream(stream_id, 1)


def test_a_stream_that_was_finished_or_reset_takes_no_more() -> None:
    pair = make().handshake()
    one, two = opened(pair.client), opened(pair.client)
    pair.client.streams.finish(one)
    pair.client.streams.reset(two, 0)
    for stream_id in (one, two):
        with pytest.raises(StreamFinished, match=f"stream {stream_id} takes no more"):
            pair.client.streams.write(stream_id, b"x", 0)
        with pytest.raises(StreamFinished):
            pair.client.streams.finish(stream_id)


# -- reading ---------------------------------------------------------------------------------------


def test_read_gives_bytes_then_nothing_yet_then_the_end() -> None:
    pair = make().handshake()
    stream_id = written(pair, b"abcdef")
    server = pair.server
    assert happened(pair, server, Event.STREAM_OPENED) == [stream_id]
    assert happened(pair, server, Event.READABLE) == [stream_id]
    assert server.streams.read(stream_id, 4) == b"abcd"
    assert server.streams.read(stream_id, 4) == b"ef"
    assert server.streams.read(stream_id, 4) is None
    pair.client.streams.finish(stream_id)
    pair.flush()
    pair.run(0.1)
    assert happened(pair, server, Event.READABLE) == [stream_id] * 2
    assert server.streams.read(stream_id, 4) == b""
    assert server.streams.read(stream_id, 4) == b""


def test_read_joins_chunks_up_to_the_limit() -> None:
    pair = our_server().handshake()
    for number in range(5):
        pair.inject(pair.client, frame(0x0E, 2, 3 * number, 3, b"%d%d%d" % ((number,) * 3)))
    assert pair.server.streams.read(2, 2) == b"00"
    assert pair.server.streams.read(2, 6) == b"011122"
    assert pair.server.streams.read(2, 1) == b"2"
    assert pair.server.streams.read(2, 100) == b"333444"
    assert pair.server.streams.read(2, 100) is None


def test_reading_goes_on_after_the_connection_is_lost() -> None:
    pair = make().handshake()
    stream_id = written(pair, b"before the end")
    finished = written(pair, b"whole", fin=True)
    pair.client.send_datagrams([b"datagram"])
    pair.flush()
    pair.run(0.1)
    pair.client.close_session(4, b"")
    pair.flush()
    pair.run(0.1)
    assert isinstance(pair.server.close_reason, ClosedByPeer)
    assert pair.server.streams.read(stream_id, 6) == b"before"
    assert pair.server.streams.read(stream_id, 100) == b" the end"
    assert pair.server.streams.read(stream_id, 100) is None  # not b"": it did not end
    assert pair.server.streams.read(finished, 100) == b"whole"
    assert pair.server.streams.read(finished, 100) == b""
    assert pair.server.read_datagrams(5) == [b"datagram"]
    assert pair.events[pair.server][-1] == (Event.CLOSED, 0)


def test_reading_goes_on_after_an_idle_timeout() -> None:
    pair = make().handshake()
    stream_id = written(pair, b"x")
    pair.keep = lambda source, data: False
    pair.run(100.0)
    assert isinstance(pair.server.close_reason, IdleTimeout)
    assert pair.server.streams.read(stream_id, 9) == b"x"
    assert pair.server.streams.read(stream_id, 9) is None


def test_a_local_one_way_stream_reads_as_ended() -> None:
    pair = make().handshake()
    assert pair.client.streams.read(opened(pair.client), 10) == b""
