"""Bounds on what a peer may make the plain connection do or keep.

Where aioquic as it is behaves otherwise, the test shows it on `stock`, under a comment that begins
with "Stock:". So it fails on aioquic alone, and says when a release of aioquic makes it needless.
"""

import pytest
import views
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import Epoch
from pair import (
    Pair,
    frame,
    our_server,
    ours,
    pair_of,
    seal,
    stock,
    stock_code,
    stream_frame,
)

from rawquic.config import Config
from rawquic.connection.control import GLITCH_BURST, GLITCH_RATE
from rawquic.errors import (
    HandshakeFailed,
    ProtocolViolation,
)

pytestmark = pytest.mark.usefixtures("backend")

KIB = 1024


def test_an_acknowledgement_of_a_packet_that_was_never_sent() -> None:
    """RFC 9000 §13.1."""
    pair = pair_of("ours")
    pair.inject(pair.client, frame(0x02, 5000, 0, 0, 0))
    reason = pair.server.close_reason
    assert isinstance(reason, ProtocolViolation)
    assert (reason.code, reason.frame_type) == (QuicErrorCode.PROTOCOL_VIOLATION, 0x02)
    assert "never sent" in reason.reason
    pair.flush()
    pair.run(0.1)
    assert stock_code(pair.client) == QuicErrorCode.PROTOCOL_VIOLATION

    # Stock: it is believed.
    pair = pair_of("stock")
    pair.inject(pair.client, frame(0x02, 5000, 0, 0, 0))
    assert pair.server._close_event is None
    assert pair.server._spaces[Epoch.ONE_RTT].largest_acked_packet == 5000


def test_an_acknowledgement_of_what_was_sent_is_fine() -> None:
    pair = pair_of("ours")
    pair.inject(pair.client, frame(0x02, views.next_number(pair.server) - 1, 0, 0, 0))
    pair.inject(pair.client, frame(0x03, views.next_number(pair.server) - 1, 0, 0, 0, 1, 2, 3))
    assert pair.server.close_reason is None


@pytest.mark.parametrize("offset", [70_000, 1 << 40, (1 << 62) - 1])
def test_crypto_data_far_ahead(offset: int) -> None:
    pair = pair_of("ours")
    pair.inject(pair.client, frame(0x06, offset, 1, b"x"))
    assert pair.server.close_reason.code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED

    if offset == 70_000:  # Stock: up to half a megabyte waits.
        pair = pair_of("stock")
        pair.inject(pair.client, frame(0x06, offset, 1, b"x"))
        assert pair.server._close_event is None


def test_a_crypto_flood_during_the_handshake() -> None:
    client = stock(True)
    server = ours(False, odcid=client.original_destination_connection_id)
    pair = Pair(client, server)
    pair.start()
    pair.run_until(lambda: bool(server._network_paths))
    for number in range(80):
        data = frame(0x06, 3000 + 1000 * number, 1000, bytes(1000))
        pair.deliver(server, seal(client, data + bytes(200), Epoch.INITIAL))
    assert isinstance(server.close_reason, HandshakeFailed)
    assert server.close_reason.code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
    assert len(server._crypto_streams[Epoch.INITIAL].receiver._buffer) <= 64 * KIB


def flood_with_one_message(pair: Pair) -> int:
    """Bytes of one TLS message without end that were taken, in order."""
    header = bytes([1]) + (1 << 24 - 1).to_bytes(3, "big")
    sent, data = 0, header + bytes(996)
    for _ in range(300):
        pair.inject(pair.client, frame(0x06, sent, 1000, data))
        if pair.server._close_event is not None:
            break
        sent, data = sent + 1000, bytes(1000)
    return sent


def test_a_tls_message_without_end() -> None:
    """In order, so that nothing of it counts as a gap: TLS would collect up to 16 MiB."""
    pair = pair_of("ours")
    assert flood_with_one_message(pair) <= 64 * KIB
    assert pair.server.close_reason.code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED

    # Stock: it collects.
    pair = pair_of("stock")
    assert flood_with_one_message(pair) == 300_000
    assert len(pair.server.tls._receive_buffer) == 300_000


def test_too_many_holes_in_a_stream() -> None:
    """Ranges are bounded; packets beyond are dropped unacknowledged, a thousand of them close."""
    pair = pair_of("ours")
    server = pair.server
    most = max(1024, server.config.stream_receive_window // 1024)
    pair.inject(pair.client, stream_frame(2, 0, b"a"))
    number, frames = 0, []
    while number < most:
        frames.append(stream_frame(2, 2 + 2 * number, b"x"))
        number += 1
        if len(frames) == 100 or number == most:
            pair.inject(pair.client, *frames)
            frames.clear()
    assert views.holes(server, 2) == most
    assert server.close_reason is None
    for dropped in range(1001):
        assert server.close_reason is None, dropped
        before = views.largest_received(server)
        pair.inject(pair.client, stream_frame(2, 2 + 2 * (most + dropped), b"x"))
        assert views.holes(server, 2) == most
        assert views.largest_received(server) == before
    reason = server.close_reason
    assert isinstance(reason, ProtocolViolation)
    assert reason.code == QuicErrorCode.PROTOCOL_VIOLATION and "holes" in reason.reason
    assert pair.server.streams.read(2, 10) == b"a"


def test_a_packet_that_is_dropped_for_its_holes_is_not_processed_again() -> None:
    """RFC 9000 §12.3: what comes before the frame that is too much stands, and comes in once."""
    pair = our_server(Config(stream_receive_window=4 * KIB)).handshake()
    for number in range(0, 1024, 128):
        frames = [stream_frame(2, 1 + 2 * i, b"x") for i in range(number, number + 128)]
        pair.inject(pair.client, *frames)
    dropped = seal(pair.client, frame(0x31, 4, b"once") + stream_frame(2, 2049, b"over"))
    for _ in range(3):
        pair.deliver(pair.server, dropped)
    assert pair.server.read_datagrams(10) == [b"once"]
    # It is not acknowledged: what it had comes again under another number.
    before = views.largest_received(pair.server)
    pair.inject(pair.client, stream_frame(2, 0, b"y"))
    assert views.largest_received(pair.server) > before
    pair.inject(pair.client, frame(0x31, 5, b"again") + stream_frame(2, 2049, b"over"))
    assert pair.server.read_datagrams(10) == [b"again"]
    assert pair.server.close_reason is None


def test_holes_at_the_bound_can_be_filled() -> None:
    pair = our_server(Config(stream_receive_window=4 * KIB)).handshake()
    for number in range(0, 1024, 128):
        frames = [stream_frame(2, 1 + 2 * i, b"x") for i in range(number, number + 128)]
        pair.inject(pair.client, *frames)
    assert views.holes(pair.server, 2) == 1024
    pair.inject(pair.client, stream_frame(2, 2049, b"over"))
    pair.inject(pair.client, stream_frame(2, 0, b"y"))
    pair.inject(pair.client, stream_frame(2, 2, b"y"))
    assert pair.server.streams.read(2, 100) == b"yxyx"
    pair.inject(pair.client, stream_frame(2, 2049, b"again"))
    assert views.holes(pair.server, 2) == 1023
    assert pair.server.close_reason is None

    # Stock: ranges without bound.
    pair = pair_of("stock")
    for number in range(0, 2000, 100):
        frames = [stream_frame(2, 1 + 2 * i, b"x") for i in range(number, number + 100)]
        pair.inject(pair.client, *frames)
    assert views.holes(pair.server, 2) == 2000


USELESS = {
    "PING": frame(0x01),
    "STOP_SENDING": frame(0x05, 0, 1),
    "DATA_BLOCKED": frame(0x14, 1),
    "STREAM_DATA_BLOCKED": frame(0x15, 0, 1),
    "STREAMS_BLOCKED": frame(0x16, 1),
    "PATH_CHALLENGE": frame(0x1A, bytes(8)),
    "RESET_STREAM": frame(0x04, 0, 1, 0),
    "empty STREAM": stream_frame(4, 0, b""),
    "RETIRE_CONNECTION_ID": frame(0x19, 0),
    "NEW_CONNECTION_ID": frame(0x18, 1, 0, bytes([8]), bytes(8), bytes(16)),
}


@pytest.mark.parametrize("name", USELESS)
def test_frames_that_carry_nothing_are_limited(name: str) -> None:
    pair = pair_of("ours")
    pair.inject(pair.client, stream_frame(0, 0, b"") + stream_frame(4, 0, b""))
    if name == "RETIRE_CONNECTION_ID":  # the first one retires it, the others do nothing
        pair.client._peer_cid = pair.client._peer_cid_available[0]
    one = USELESS[name]
    per_packet = 1000 // len(one)
    sent = 0
    while pair.server.close_reason is None and sent < 2 * GLITCH_BURST:
        pair.inject(pair.client, one * per_packet)
        sent += per_packet
    assert GLITCH_BURST - 2 <= sent <= GLITCH_BURST + per_packet
    assert pair.server.close_reason.code == QuicErrorCode.PROTOCOL_VIOLATION
    assert "carry nothing" in pair.server.close_reason.reason

    # Stock: no limit. (It has one for PATH_CHALLENGE, and what it answers is bounded.)
    pair = pair_of("stock")
    pair.inject(pair.client, stream_frame(0, 0, b"") + stream_frame(4, 0, b""))
    if name == "RETIRE_CONNECTION_ID":
        pair.client._peer_cid = pair.client._peer_cid_available[0]
    for _ in range(2 * GLITCH_BURST // per_packet):
        pair.inject(pair.client, one * per_packet)
    assert pair.server._close_event is None


def test_the_glitch_bucket_fills_again() -> None:
    pair = pair_of("ours")
    for _ in range(9):
        pair.inject(pair.client, frame(0x01) * 1000)
    left = views.glitches(pair.server)
    pair.run(3.0)
    pair.inject(pair.client, frame(0x01))
    assert views.glitches(pair.server) == pytest.approx(left + 3 * GLITCH_RATE - 1, abs=2)
    pair.run(26.0)
    pair.inject(pair.client, frame(0x01))
    assert views.glitches(pair.server) == GLITCH_BURST - 1  # never more than the burst
    assert pair.server.close_reason is None


def test_new_connection_id_that_retires_later_ones() -> None:
    """RFC 9000 §19.15: FRAME_ENCODING_ERROR."""
    bad = frame(0x18, 8, 9, bytes([8]), bytes(8), bytes(16))
    pair = pair_of("ours")
    pair.inject(pair.client, bad)
    assert pair.server.close_reason.code == QuicErrorCode.FRAME_ENCODING_ERROR

    # Stock: another code.
    pair = pair_of("stock")
    pair.inject(pair.client, bad)
    assert stock_code(pair.server) == QuicErrorCode.PROTOCOL_VIOLATION


def retire_everything(pair: Pair) -> None:
    """Let the server use, and retire, IDs out of order; then retire what is left, giving none."""
    cid = iter(bytes([n]) * 8 for n in range(10, 20))
    server, client = pair.server, pair.client
    server._peer_cid_available.clear()
    for sequence in (30, 29):
        pair.inject(client, frame(0x18, sequence, 0, bytes([8]), next(cid), bytes(16)))
    # The client uses other IDs of the server's, so that the server changes its own: to 30, to 29.
    for number in (1, 2):
        client._peer_cid = client._peer_cid_available[number]
        pair.inject(client, frame(0x01))
    assert server._peer_cid.sequence_number == 29
    pair.inject(client, frame(0x18, 30, 30, bytes([8]), next(cid), bytes(16)))


def test_a_peer_that_retires_all_its_connection_ids() -> None:
    pair = pair_of("ours")
    retire_everything(pair)
    assert isinstance(pair.server.close_reason, ProtocolViolation)
    assert pair.server.close_reason.code == QuicErrorCode.PROTOCOL_VIOLATION

    # Stock: it fails.
    pair = pair_of("stock")
    with pytest.raises(IndexError):
        retire_everything(pair)
