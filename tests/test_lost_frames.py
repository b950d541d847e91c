"""The first transmission of each kind of frame is lost, and comes again (RFC 9000 §13.3)."""

import os
from typing import Any

import pytest
import views
from pair import Reader, Writer, opened
from wiretap import pair_with_tap_on

from rawquic.config import Config
from rawquic.connection.control import ACTIVE_IDS
from rawquic.connection.interface import Event

pytestmark = pytest.mark.usefixtures("fast_only")

KIB = 1024
SMALL = Config(
    receive_window=8 * KIB,
    stream_receive_window=4 * KIB,
    max_concurrent_uni_streams=2,
    max_concurrent_bidi_streams=2,
)


def test_the_first_handshake_done_is_lost() -> None:
    pair, tap = pair_with_tap_on("server")
    lost = tap.lose_first(0x1E)
    pair.handshake()
    pair.run(2.0)
    assert lost and pair.client._handshake_confirmed
    assert len(tap.frames(0x1E)) == 2


@pytest.mark.parametrize("side", ["client", "server"])
def test_the_first_new_connection_ids_are_lost(side: str) -> None:
    pair, tap = pair_with_tap_on(side)
    lost = tap.lose_first(0x18)
    pair.handshake()
    pair.run(2.0)
    us = getattr(pair, side)
    assert lost and len(pair.other(us)._peer_cid_available) == ACTIVE_IDS - 1
    assert not any(each.has(0x18) for each in tap.since(pair.now - 1.0))


def test_the_first_retire_connection_id_is_lost() -> None:
    pair, tap = pair_with_tap_on("client")
    pair.handshake()
    lost = tap.lose_first(0x19)
    old = pair.server._host_cids[0].cid
    pair.client.change_connection_id()
    pair.client.plane.control_dirty = True
    pair.flush()
    pair.run(2.0)
    assert lost and all(each.cid != old for each in pair.server._host_cids)
    assert len(pair.client._peer_cid_available) == ACTIVE_IDS - 1


@pytest.mark.parametrize("kind", [0x10, 0x11, 0x13], ids=["MAX_DATA", "MAX_STREAM_DATA", "STREAMS"])
def test_the_first_credit_frame_is_lost(kind: int) -> None:
    pair, tap = pair_with_tap_on("server", SMALL)
    pair.handshake()
    lost = tap.lose_first(kind)
    reader = Reader(pair, pair.server)
    ids: list[int] = []
    for _ in range(6):
        pair.run_until(lambda: _open_into(pair.client, ids))
        data = os.urandom(6 * KIB)
        writer = Writer.on(pair, pair.client, data, ids[-1])
        pair.run_until(lambda w=writer: w.stream_id in reader.ended)  # type: ignore[misc]
        assert bytes(reader.data[writer.stream_id]) == data
    assert lost


def _open_into(connection: Any, ids: list[int]) -> bool:
    stream_id = connection.streams.open_stream(True)
    if stream_id is not None:
        ids.append(stream_id)
    return stream_id is not None


def test_the_first_streams_blocked_is_lost() -> None:
    """The server saw none of the client's streams, so nothing but the frame tells it."""
    config = Config(max_concurrent_uni_streams=8)
    pair, tap = pair_with_tap_on("client", config)
    pair.handshake()
    pair.server.set_max_streams(True, 10)  # two more are too few for a frame of their own
    pair.flush()
    pair.run(0.2)
    lost = tap.lose_first(0x17)
    ids: list[int] = []
    while _open_into(pair.client, ids):
        pass
    pair.flush()
    pair.run(3.0)
    assert lost and len(ids) == 8
    assert Event.STREAMS_AVAILABLE in [kind for kind, _ in pair.events[pair.client]]
    assert opened(pair.client) == 34


def test_the_first_reset_stream_is_lost() -> None:
    pair, tap = pair_with_tap_on("client")
    pair.handshake()
    lost = tap.lose_first(0x04)
    reader = Reader(pair, pair.server)
    stream_id = opened(pair.client)
    pair.client.streams.write(stream_id, b"x", 0)
    pair.flush()
    pair.run(0.2)
    pair.client.streams.reset(stream_id, 7)
    pair.flush()
    pair.run(2.0)
    assert lost and reader.reset == {stream_id: 7}
    assert not views.streams(pair.client) and not views.streams(pair.server)


def test_the_first_stop_sending_is_lost() -> None:
    pair, tap = pair_with_tap_on("server")
    pair.handshake()
    lost = tap.lose_first(0x05)
    stream_id = opened(pair.client)
    pair.client.streams.write(stream_id, b"x", 0)
    pair.flush()
    pair.run(0.2)
    pair.server.streams.stop(stream_id, 9)
    pair.flush()
    pair.run(2.0)
    assert lost and pair.client.streams.stop_code(stream_id) in (9, None)
    assert (Event.STOPPED, stream_id) in pair.events[pair.client]
    assert not views.streams(pair.client) and not views.streams(pair.server)


@pytest.mark.parametrize("empty", [False, True])
def test_the_end_of_a_stream_is_lost(empty: bool) -> None:
    pair, tap = pair_with_tap_on("client")
    pair.handshake()
    lost = tap.lose_first(*range(0x08, 0x10))
    reader = Reader(pair, pair.server)
    writer = Writer(pair, pair.client, b"" if empty else b"data")
    pair.run_until(lambda: writer.stream_id in reader.ended)
    assert lost and bytes(reader.data[writer.stream_id]) == writer.data


def test_a_lost_ping_is_answered_all_the_same() -> None:
    pair, tap = pair_with_tap_on("client")
    pair.handshake()
    lost = tap.lose_first(0x01)
    pair.client.ping(5)
    pair.flush()
    pair.run(2.0)
    assert lost and (Event.PING_ACKED, 5) in pair.events[pair.client]
