"""The control plane: parameters, time-outs, keys, connection IDs, paths, closes, bounds.

Where aioquic as it is behaves otherwise, the test shows it on `stock`, under a comment that begins
with "Stock:".
"""

import math
from typing import Any

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.quic import events as aioquic_events
from aioquic.quic.connection import QuicConnectionState
from aioquic.quic.packet import QuicErrorCode, QuicTransportParameters
from aioquic.tls import Epoch
from pair import (
    CLIENT,
    SERVER,
    Pair,
    certificate,
    frame,
    is_open,
    make,
    plain,
    plain_client,
    plain_pair,
    plain_server,
    seal,
    stock,
    stream_frame,
    transfer,
)

from rawquic.certificates import fingerprint, load_identity
from rawquic.config import Config
from rawquic.connection import parameters
from rawquic.connection.control import GLITCH_BURST, GLITCH_RATE
from rawquic.connection.interface import Event
from rawquic.endpoint.routing import Routes
from rawquic.errors import (
    CertificateInvalid,
    ClosedByPeer,
    ClosedLocally,
    ConnectionRefused,
    HandshakeFailed,
    HandshakeTimeout,
    IdleTimeout,
    ProtocolViolation,
    SessionError,
    StatelessReset,
)
from rawquic.selfsigned import self_signed

KIB = 1024
ELSEWHERE = ("203.0.113.9", 555)


def both(client: Any, server: Any, **network: Any) -> Pair:
    """The plain server with this client; both done with the handshake."""
    return Pair(client, server, **network).handshake()


def pair_of(kind: str, **network: Any) -> Pair:
    """A stock client, and a server of this kind."""
    return make("stock", kind, **network).handshake()


def stock_code(connection: Any) -> int | None:
    """The error code that a stock connection ended with."""
    event = connection._close_event
    return None if event is None else event.error_code


# -- bounds on the peer ----------------------------------------------------------------------------


def test_an_acknowledgement_of_a_packet_that_was_never_sent() -> None:
    """RFC 9000 §13.1."""
    pair = pair_of("plain")
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
    pair = pair_of("plain")
    pair.inject(pair.client, frame(0x02, pair.server._packet_number - 1, 0, 0, 0))
    pair.inject(pair.client, frame(0x03, pair.server._packet_number - 1, 0, 0, 0, 1, 2, 3))
    assert pair.server.close_reason is None


@pytest.mark.parametrize("offset", [70_000, 1 << 40, (1 << 62) - 1])
def test_crypto_data_far_ahead(offset: int) -> None:
    pair = pair_of("plain")
    pair.inject(pair.client, frame(0x06, offset, 1, b"x"))
    assert pair.server.close_reason.code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED

    if offset == 70_000:  # Stock: up to half a megabyte waits.
        pair = pair_of("stock")
        pair.inject(pair.client, frame(0x06, offset, 1, b"x"))
        assert pair.server._close_event is None


def test_a_crypto_flood_during_the_handshake() -> None:
    client = stock(True)
    server = plain(False, odcid=client.original_destination_connection_id)
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
    pair = pair_of("plain")
    assert flood_with_one_message(pair) <= 64 * KIB
    assert pair.server.close_reason.code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED

    # Stock: it collects.
    pair = pair_of("stock")
    assert flood_with_one_message(pair) == 300_000
    assert len(pair.server.tls._receive_buffer) == 300_000


def test_too_many_holes_in_a_stream() -> None:
    """Ranges are bounded; packets beyond are dropped unacknowledged, a thousand of them close."""
    pair = pair_of("plain")
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
    receiver = server._streams[2].receiver
    assert len(receiver._ranges) == most
    assert server.close_reason is None
    for dropped in range(1001):
        assert server.close_reason is None, dropped
        before = server._spaces[Epoch.ONE_RTT].largest_received_packet
        pair.inject(pair.client, stream_frame(2, 2 + 2 * (most + dropped), b"x"))
        assert len(receiver._ranges) == most
        assert server._spaces[Epoch.ONE_RTT].largest_received_packet == before
    reason = server.close_reason
    assert isinstance(reason, ProtocolViolation)
    assert reason.code == QuicErrorCode.PROTOCOL_VIOLATION and "holes" in reason.reason
    assert pair.server.read(2, 10) == b"a"


def test_holes_at_the_bound_can_be_filled() -> None:
    pair = plain_server(Config(stream_receive_window=4 * KIB)).handshake()
    for number in range(0, 1024, 128):
        frames = [stream_frame(2, 1 + 2 * i, b"x") for i in range(number, number + 128)]
        pair.inject(pair.client, *frames)
    assert len(pair.server._streams[2].receiver._ranges) == 1024
    pair.inject(pair.client, stream_frame(2, 2049, b"over"))
    pair.inject(pair.client, stream_frame(2, 0, b"y"))
    pair.inject(pair.client, stream_frame(2, 2, b"y"))
    assert pair.server.read(2, 100) == b"yxyx"
    pair.inject(pair.client, stream_frame(2, 2049, b"again"))
    assert len(pair.server._streams[2].receiver._ranges) == 1023
    assert pair.server.close_reason is None

    # Stock: ranges without bound.
    pair = pair_of("stock")
    for number in range(0, 2000, 100):
        frames = [stream_frame(2, 1 + 2 * i, b"x") for i in range(number, number + 100)]
        pair.inject(pair.client, *frames)
    assert len(pair.server._streams[2].receiver._ranges) == 2000


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
    pair = pair_of("plain")
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
    pair = pair_of("plain")
    for _ in range(9):
        pair.inject(pair.client, frame(0x01) * 1000)
    left = pair.server._glitches
    pair.run(3.0)
    pair.inject(pair.client, frame(0x01))
    assert pair.server._glitches == pytest.approx(left + 3 * GLITCH_RATE - 1, abs=2)
    pair.run(26.0)
    pair.inject(pair.client, frame(0x01))
    assert pair.server._glitches == GLITCH_BURST - 1  # never more than the burst
    assert pair.server.close_reason is None


def test_new_connection_id_that_retires_later_ones() -> None:
    """RFC 9000 §19.15: FRAME_ENCODING_ERROR."""
    bad = frame(0x18, 8, 9, bytes([8]), bytes(8), bytes(16))
    pair = pair_of("plain")
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
    pair = pair_of("plain")
    retire_everything(pair)
    assert isinstance(pair.server.close_reason, ProtocolViolation)
    assert pair.server.close_reason.code == QuicErrorCode.PROTOCOL_VIOLATION

    # Stock: it fails.
    pair = pair_of("stock")
    with pytest.raises(IndexError):
        retire_everything(pair)


# -- transport parameters: ours --------------------------------------------------------------------

UNUSUAL = {
    "max_idle_timeout": (Config(max_idle_timeout=17.25), 17_250),
    "initial_max_data": (Config(receive_window=123_456), 123_456),
    "initial_max_stream_data_bidi_local": (Config(stream_receive_window=54_321), 54_321),
    "initial_max_stream_data_bidi_remote": (Config(stream_receive_window=54_321), 54_321),
    "initial_max_stream_data_uni": (Config(stream_receive_window=54_321), 54_321),
    "initial_max_streams_bidi": (Config(max_concurrent_bidi_streams=7), 7),
    "initial_max_streams_uni": (Config(max_concurrent_uni_streams=9), 9),
    "max_ack_delay": (Config(max_ack_delay=0.003), 3),
    "max_udp_payload_size": (Config(), 65527),
    "max_datagram_frame_size": (Config(datagram_receive_buffer_size=None), None),
    "active_connection_id_limit": (Config(), 8),
    "ack_delay_exponent": (Config(), 3),
}


@pytest.mark.parametrize("is_client", [False, True])
@pytest.mark.parametrize("name", UNUSUAL)
def test_our_parameters_arrive(name: str, is_client: bool) -> None:
    config, expected = UNUSUAL[name]
    received = received_by_stock(config, is_client)
    assert getattr(received, name) == expected


def received_by_stock(config: Config, is_client: bool) -> QuicTransportParameters:
    """What a stock peer got from a plain connection."""
    pair = plain_client(config) if is_client else plain_server(config)
    pair.handshake()
    peer = pair.server if is_client else pair.client
    (data,) = (value for kind, value in peer.tls.received_extensions if kind == 0x39)
    return parameters.decode(data)


@pytest.mark.parametrize("is_client", [False, True])
def test_no_idle_timeout_is_no_parameter(is_client: bool) -> None:
    assert received_by_stock(Config(max_idle_timeout=None), is_client).max_idle_timeout is None


def test_a_server_that_does_not_follow_says_so() -> None:
    assert received_by_stock(Config(allow_migration=False), False).disable_active_migration is True
    assert not received_by_stock(Config(allow_migration=True), False).disable_active_migration
    assert not received_by_stock(Config(allow_migration=False), True).disable_active_migration


@pytest.mark.parametrize("is_client", [False, True])
def test_only_a_server_gives_a_reset_token(is_client: bool) -> None:
    token = received_by_stock(Config(), is_client).stateless_reset_token
    assert (token is None) if is_client else len(token) == 16


def test_connection_ids_of_the_handshake_are_in_the_parameters() -> None:
    received = received_by_stock(Config(), False)
    assert len(received.initial_source_connection_id) == 8
    assert len(received.original_destination_connection_id) == 8
    assert received.retry_source_connection_id is None


# -- transport parameters: the peer's --------------------------------------------------------------


def test_the_peers_ack_delay_exponent_counts() -> None:
    def edit(sent: QuicTransportParameters) -> None:
        sent.ack_delay_exponent, sent.max_ack_delay = 10, 1000

    def smoothed_after_late_ack(kind: str) -> float:
        client = stock(True)
        client.edit = edit
        server = (plain if kind == "plain" else stock)(
            False, odcid=client.original_destination_connection_id
        )
        pair = Pair(client, server).handshake()
        loss = server._loss
        if kind == "plain":
            server.ping(1)
        else:
            server.send_ping(1)
        pair.keep = lambda source, data: source is server
        pair.flush()
        pair.now += 0.500  # the peer says that it held the ACK back for 480 ms of them
        number = server._packet_number - 1
        pair.inject(client, frame(0x02, number, 480_000 >> 10, 0, 0))
        latest: float = loss._rtt_latest
        return latest

    assert smoothed_after_late_ack("plain") == pytest.approx(0.02, abs=0.005)
    # Stock: it takes every exponent for 3, so that the delay is in the round trip.
    assert smoothed_after_late_ack("stock") > 0.4


def test_the_peers_max_ack_delay_counts() -> None:
    def edit(sent: QuicTransportParameters) -> None:
        sent.max_ack_delay = 900

    pair = plain_server(edit=edit).handshake()
    usual = plain_server().handshake()
    assert pair.server.probe_timeout() - usual.server.probe_timeout() == pytest.approx(0.875, 0.01)


def test_the_peers_max_udp_payload_size_is_kept() -> None:
    def edit(sent: QuicTransportParameters) -> None:
        sent.max_udp_payload_size = 1250

    def largest(kind: str) -> int:
        client = stock(True)
        client.edit = edit
        odcid = client.original_destination_connection_id
        if kind == "plain":
            server: Any = plain(False, Config(initial_mtu=1400), odcid=odcid)
        else:
            server = stock(False, odcid=odcid, max_datagram_size=1400)
        pair = Pair(client, server).handshake()
        assert transfer(pair, server, bytes(50 * KIB)) == bytes(50 * KIB)
        return pair.largest[server]

    assert largest("plain") == 1250
    assert largest("stock") == 1400  # Stock: it forgets the parameter.


def test_a_duplicate_parameter_is_an_error() -> None:
    """RFC 9000 §7.4."""

    def twice(data: bytes) -> bytes:
        return data + bytes([0x01, 0x01, 0x05])

    pair = plain_server(rewrite=twice)
    pair.start()
    pair.run(1.0)
    assert isinstance(pair.server.close_reason, HandshakeFailed)
    assert pair.server.close_reason.code == QuicErrorCode.TRANSPORT_PARAMETER_ERROR
    assert stock_code(pair.client) == QuicErrorCode.TRANSPORT_PARAMETER_ERROR

    # Stock: the last one counts.
    client = stock(True)
    client.rewrite = twice
    server = stock(False, odcid=client.original_destination_connection_id)
    Pair(client, server).handshake()
    assert server._remote_max_idle_timeout == 0.005


def test_unknown_parameters_are_ignored() -> None:
    """RFC 9000 §7.4.2."""
    grease = encode_uint_var(27 + 31 * 1000) + bytes([3]) + b"abc"
    assert is_open(plain_server(rewrite=lambda data: data + grease).handshake().server)


def test_has_duplicate() -> None:
    one, two = bytes([1, 1, 5]), bytes([0x40, 0x20, 1, 5])
    assert not parameters.has_duplicate(b"")
    assert not parameters.has_duplicate(one + two)
    assert parameters.has_duplicate(one + two + one)
    assert parameters.has_duplicate(one + bytes([0x40, 1, 1, 6]))  # the same number, spelt longer


# -- idle time-out and keep-alive ------------------------------------------------------------------


def idle_until_closed(pair: Pair, connection: Any) -> float:
    """Seconds from now until `connection` ends, nothing being sent."""
    begin = pair.now
    pair.run_until(lambda: connection.close_reason is not None, 10_000)
    assert isinstance(connection.close_reason, IdleTimeout)
    return pair.now - begin


def test_no_idle_timeout_on_either_side() -> None:
    pair = plain_pair(Config(max_idle_timeout=None), Config(max_idle_timeout=None)).handshake()
    assert pair.due() is None
    pair.now += 1e6
    assert transfer(pair, pair.client, b"still there") == b"still there"
    assert pair.server._idle_timeout() == math.inf


@pytest.mark.parametrize(
    ("client", "server", "expected"), [(None, 4.0, 4.0), (4.0, None, 4.0), (9.0, 5.0, 5.0)]
)
def test_the_lower_idle_timeout_counts_on_both_sides(
    client: float | None, server: float | None, expected: float
) -> None:
    def pair() -> Pair:
        return plain_pair(
            Config(max_idle_timeout=client), Config(max_idle_timeout=server)
        ).handshake()

    one, two = pair(), pair()
    assert idle_until_closed(one, one.client) == pytest.approx(expected, abs=0.2)
    assert idle_until_closed(two, two.server) == pytest.approx(expected, abs=0.2)


def test_an_idle_timeout_of_0_is_no_limit() -> None:
    """RFC 9000 §10.1."""

    def edit(sent: QuicTransportParameters) -> None:
        sent.max_idle_timeout = 0

    pair = plain_server(Config(max_idle_timeout=40.0), edit=edit, idle_timeout=100.0).handshake()
    assert idle_until_closed(pair, pair.server) == pytest.approx(40.0, abs=0.2)

    # Stock: it takes 0 for no time at all.
    client = stock(True, idle_timeout=100.0)
    client.edit = edit
    server = stock(False, odcid=client.original_destination_connection_id, idle_timeout=40.0)
    pair = Pair(client, server).handshake()
    begin = pair.now
    pair.run_until(lambda: server._state is QuicConnectionState.TERMINATED)
    assert pair.now - begin < 2.0


def test_an_idle_timeout_is_at_least_three_probe_timeouts() -> None:
    config = Config(max_idle_timeout=0.001)
    pair = plain_pair(config, config, latency=0.200)
    pair.start()
    pair.run_until(lambda: pair.client.handshake_done)
    assert pair.client._idle_timeout() == pytest.approx(3 * pair.client.probe_timeout())


@pytest.mark.parametrize("side", ["client", "server"])
def test_keep_alive(side: str) -> None:
    idle, alive = Config(max_idle_timeout=5.0), Config(max_idle_timeout=5.0, keep_alive_interval=2)
    configs = (alive, idle) if side == "client" else (idle, alive)
    pair = plain_pair(*configs).handshake()
    pair.run(60.0)
    assert is_open(pair.client) and is_open(pair.server)
    before = pair.sent[getattr(pair, side)]
    pair.run(20.0)
    assert 9 <= pair.sent[getattr(pair, side)] - before <= 11
    assert not any(kind is Event.PING_ACKED for kind, _ in pair.events[getattr(pair, side)])


def test_keep_alive_ends_with_the_connection() -> None:
    pair = plain_pair(Config(keep_alive_interval=0.5)).handshake()
    pair.client.close_session(0, b"")
    pair.flush()
    pair.run(100.0)  # a timer that stayed in the past would never let it end
    assert pair.client.timer() is None


def test_keep_alive_that_cannot_be_sent_does_not_spin() -> None:
    """A full congestion window holds a PING back: its timer must move on all the same."""
    config = Config(keep_alive_interval=0.010, max_idle_timeout=2.0)
    pair = plain_pair(config).handshake()
    stream_id = pair.client.open_stream(True)
    pair.client.write(stream_id, bytes(500 * KIB), 0)
    pair.keep = lambda source, data: False
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    pair.checks.append(count)
    pair.flush()
    pair.run(1.9)
    assert steps < 500


def test_the_handshake_times_out() -> None:
    pair = plain_pair(Config(max_idle_timeout=3.0))
    pair.keep = lambda source, data: False
    pair.start()
    pair.run(60.0)
    assert isinstance(pair.client.close_reason, HandshakeTimeout)
    assert pair.client.is_gone() and pair.client.timer() is None
    assert pair.client.alpn() is None and pair.client.peer_certificates() == []


# -- PING and keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_ping(loss: float) -> None:
    pair = make(loss=loss, seed=8).handshake()
    pair.client.ping(41)
    assert pair.client.wants_flush()
    pair.flush()
    pair.run_until(lambda: (Event.PING_ACKED, 41) in pair.events[pair.client], 10.0)
    pair.server.ping(42)
    pair.flush()
    pair.run_until(lambda: (Event.PING_ACKED, 42) in pair.events[pair.server], 10.0)


def phase(connection: Any) -> int:
    result: int = connection._cryptos[Epoch.ONE_RTT].recv.key_phase
    return result


@pytest.mark.parametrize(("client", "server"), [("plain", "plain"), ("plain", "stock")])
def test_key_update_by_the_plain_connection(client: str, server: str) -> None:
    pair = make(client, server).handshake()
    for number in range(1, 6):
        pair.client.update_keys()
        pair.flush()
        pair.run(0.2)
        assert phase(pair.client) == phase(pair.server) == number % 2
        assert pair.client.statistics().key_updates == number
        data = bytes([number]) * 5000
        assert transfer(pair, pair.client, data) == data
        assert transfer(pair, pair.server, data) == data


def test_key_update_by_a_stock_peer() -> None:
    pair = make("stock", "plain").handshake()
    for number in range(1, 4):
        pair.client.request_key_update()
        pair.client.send_ping(number)
        pair.flush()
        pair.run(0.2)
        assert phase(pair.server) == number % 2
        assert transfer(pair, pair.server, b"x" * 5000) == b"x" * 5000


def test_key_updates_from_both_sides_at_once() -> None:
    pair = make().handshake()
    pair.client.update_keys()
    pair.server.update_keys()
    pair.flush()
    pair.run(0.5)
    assert phase(pair.client) == phase(pair.server) == 1
    assert transfer(pair, pair.client, b"x" * 5000) == b"x" * 5000


def two_updates_in_a_row(pair: Pair, update: Any) -> None:
    """The packet that would tell of the first is lost; the second comes before it is confirmed."""
    pair.keep = lambda source, data: source is not pair.client
    update()
    pair.flush()
    pair.run(0.005)
    update()
    pair.flush()
    pair.keep = None
    pair.run(10.0)


def test_a_key_update_waits_for_the_one_before() -> None:
    """RFC 9001 §6.1: not before a packet under the present keys was acknowledged."""
    pair = make().handshake()
    two_updates_in_a_row(pair, pair.client.update_keys)
    assert pair.client.statistics().key_updates == 2
    assert phase(pair.client) == phase(pair.server) == 0
    assert transfer(pair, pair.client, b"x" * 5000) == b"x" * 5000

    # Stock: the peer can never decrypt again.
    pair = make("stock", "plain").handshake()

    def update() -> None:
        pair.client.request_key_update()
        pair.client.send_ping(1)

    two_updates_in_a_row(pair, update)
    assert not pair.client.of(aioquic_events.PingAcknowledged)
    assert pair.server.timer() is not None  # it waits for its idle time-out


def test_a_key_update_behind_the_peers_waits_until_that_is_confirmed() -> None:
    pair = make("stock", "plain").handshake()
    pair.client.request_key_update()
    pair.client.send_ping(1)
    for data, _ in pair.client.datagrams_to_send(pair.now + 0.001):
        pair.deliver(pair.server, data)
    pair.server.update_keys()
    pair.flush()
    assert phase(pair.server) == 1  # the peer's, which a PING under it confirms first
    assert pair.server.statistics().key_updates == 0
    pair.run(1.0)
    assert phase(pair.server) == phase(pair.client) == 0
    assert pair.server.statistics().key_updates == 1
    assert transfer(pair, pair.server, b"x" * 5000) == b"x" * 5000


def test_many_key_updates_asked_for_at_once_are_one() -> None:
    pair = make().handshake()
    for _ in range(5):
        pair.client.update_keys()
    pair.flush()
    pair.run(1.0)
    assert pair.client.statistics().key_updates == 1
    assert phase(pair.client) == phase(pair.server) == 1


def test_key_update_before_the_handshake_is_confirmed() -> None:
    pair = make()
    pair.start()
    pair.run_until(lambda: pair.client.handshake_done)
    assert not pair.client._handshake_confirmed
    pair.client.update_keys()
    pair.flush()
    pair.run(1.0)
    assert phase(pair.client) == phase(pair.server) == 1
    assert pair.client.statistics().key_updates == 1


# -- connection IDs and reset tokens ---------------------------------------------------------------


def test_connection_ids_come_from_the_endpoint_and_are_told() -> None:
    routes = Routes(b"k" * 32)
    client = stock(True)
    server = plain(False, odcid=client.original_destination_connection_id, routes=routes)
    first = server.take_id_changes()
    assert first == [(server.host_cid, True)]
    pair = Pair(client, server).handshake()
    more = server.take_id_changes()
    assert len(more) == 7 and all(added for _, added in more)  # aioquic's limit is 8
    assert server.take_id_changes() == []
    given = [client._peer_cid, *client._peer_cid_available]
    assert {each.cid for each in given} == {cid for cid, _ in first + more}
    for each in given:
        assert each.stateless_reset_token == routes.reset_token(each.cid)

    # The client retires one: it is told, and replaced.
    client.change_connection_id()
    pair.flush()
    pair.run(0.2)
    changes = server.take_id_changes()
    assert (first[0][0], False) in changes
    assert [added for _, added in changes].count(True) == 1
    assert len(server._host_cids) == 8

    # Stock: IDs and tokens are drawn at random, so no endpoint can recompute them.
    pair = pair_of("stock")
    cid = pair.client._peer_cid
    assert cid.stateless_reset_token != routes.reset_token(cid.cid)


def test_a_peer_that_takes_two_connection_ids_gets_two() -> None:
    def edit(sent: QuicTransportParameters) -> None:
        sent.active_connection_id_limit = 2

    pair = plain_server(edit=edit).handshake()
    assert [added for _, added in pair.server.take_id_changes()] == [True, True]


def test_reset_tokens_of_the_peer_are_recognised() -> None:
    routes = Routes(b"k" * 32)
    client = plain(True)
    server = plain(False, odcid=client.original_destination_connection_id, routes=routes)
    Pair(client, server).handshake()
    ids = [cid for cid, _ in server.take_id_changes()]
    assert len(ids) == 8
    assert all(client.is_reset_token(routes.reset_token(cid)) for cid in ids)
    assert not client.is_reset_token(bytes(16))
    assert not client.is_reset_token(routes.reset_token(ids[0])[:15])
    assert not client.is_reset_token(b"")
    # A client gives none for its first ID.
    assert not server.is_reset_token(server._reset_token(client.host_cid))


def test_a_token_of_a_connection_id_that_was_retired_counts_no_more() -> None:
    pair = make("plain", "stock").handshake()
    old = pair.client._peer_cid.stateless_reset_token
    assert pair.client.is_reset_token(old)
    pair.client.change_connection_id()
    assert not pair.client.is_reset_token(old)


def test_the_token_of_an_id_kept_for_another_path_is_recognised() -> None:
    """RFC 9000 §10.3.1: any token of an ID that the datagram's sender may use."""
    pair = make("stock", "plain").handshake()
    tokens = [each.stateless_reset_token for each in pair.server._peer_cid_available]
    pair.deliver(pair.server, seal(pair.client, frame(0x1A, bytes(8)) + bytes(1100)), ELSEWHERE)
    pair.server.datagrams_to_send(pair.now + 0.001)
    assert pair.server._network_paths[1].peer_cid is not None
    assert all(pair.server.is_reset_token(token) for token in tokens)


def test_a_stateless_reset_ends_it_and_nothing_more_is_sent() -> None:
    """RFC 9000 §10.3.1: it MUST NOT send any further packets."""
    pair = make().handshake()
    stream_id = pair.client.open_stream(True)
    pair.client.write(stream_id, bytes(100 * KIB), 0)
    pair.client.stateless_reset()
    assert isinstance(pair.client.close_reason, StatelessReset)
    assert pair.client.datagrams_to_send(pair.now + 1) == []
    assert pair.client.timer() is None
    assert pair.client.events() == [(Event.CLOSED, 0)]
    assert pair.client.is_gone() and pair.client.is_ending()


# -- paths -----------------------------------------------------------------------------------------


def moved(allow: bool) -> Pair:
    """A stock client that goes on from another address."""
    pair = plain_server(Config(allow_migration=allow)).handshake()
    pair.addresses[pair.client] = ELSEWHERE
    pair.client.send_ping(1)
    pair.flush()
    pair.run(2.0)
    return pair


def test_migration_is_followed_and_the_path_validated() -> None:
    pair = moved(True)
    assert pair.server.peer_address() == ELSEWHERE
    assert pair.server._network_paths[0].is_validated
    assert transfer(pair, pair.server, b"x" * 5000) == b"x" * 5000
    assert pair.client.of(aioquic_events.PingAcknowledged)


def test_migration_is_not_followed_where_it_is_off() -> None:
    pair = moved(False)
    assert pair.server.peer_address() == CLIENT
    assert len(pair.server._network_paths) == 1
    assert not pair.client.of(aioquic_events.PingAcknowledged)
    pair.addresses[pair.client] = CLIENT
    assert transfer(pair, pair.client, b"x" * 5000) == b"x" * 5000


def test_migration_that_is_off_is_off_during_the_handshake() -> None:
    pair = plain_server(Config(allow_migration=False))
    pair.start()
    pair.run_until(lambda: bool(pair.server._network_paths))
    pair.addresses[pair.client] = ELSEWHERE
    pair.run(0.5)
    assert not pair.server.handshake_done
    assert pair.server.peer_address() == CLIENT
    pair.addresses[pair.client] = CLIENT
    pair.run_until(lambda: pair.server.handshake_done)


def test_a_spoofed_address_gets_no_more_than_three_times_what_came() -> None:
    pair = plain_server().handshake()
    stream_id = pair.server.open_stream(True)
    pair.server.write(stream_id, bytes(100 * KIB), 0)
    spoofed = seal(pair.client, frame(0x01) + bytes(60))
    pair.deliver(pair.server, spoofed, ELSEWHERE)
    sent = 0
    for _ in range(50):
        pair.now += 0.05
        for data, address in pair.server.datagrams_to_send(pair.now):
            sent += len(data) if address == ELSEWHERE else 0
        timer = pair.server.timer()
        if timer is not None and timer <= pair.now:
            pair.server.handle_timer(pair.now)
    assert 0 < sent <= 3 * len(spoofed)


def test_a_client_drops_packets_from_an_unknown_address() -> None:
    pair = make().handshake()
    packet = seal(pair.server, stream_frame(3, 0, b"x"))
    pair.deliver(pair.client, packet, ELSEWHERE)
    assert not pair.client._streams
    pair.deliver(pair.client, packet, SERVER)
    assert pair.client.read(3, 10) == b"x"


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("code", [0, 5, 0x12A, (1 << 62) - 1])
def test_close_tells_code_and_reason(side: str, code: int) -> None:
    pair = make().handshake()
    closing = getattr(pair, side)
    closing.close_session(code, b"good \xff bye")
    assert isinstance(closing.close_reason, ClosedLocally)
    assert (closing.close_reason.code, closing.close_reason.reason) == (code, b"good \xff bye")
    pair.flush()
    pair.run(0.05)
    reason = pair.other(closing).close_reason
    assert isinstance(reason, ClosedByPeer)
    assert (reason.code, reason.reason, reason.is_application) == (code, b"good \xff bye", True)
    for connection in (pair.client, pair.server):
        assert pair.events[connection].count((Event.CLOSED, 0)) == 1
        assert connection.is_ending() and not connection.is_gone()
        assert connection.max_datagram_size() is None


def test_a_reason_that_is_not_utf8_is_lost_on_stock() -> None:
    pair = make("plain", "stock").handshake()
    pair.client.close_session(5, b"good \xff bye")
    pair.flush()
    pair.run(0.05)
    # Stock: the reason is dropped as a whole.
    (event,) = pair.server.of(aioquic_events.ConnectionTerminated) or [pair.server._close_event]
    assert (event.error_code, event.reason_phrase) == (5, "")


def test_a_long_reason_is_cut() -> None:
    pair = make().handshake()
    pair.client.close_session(1, b"r" * 5000)
    pair.flush()
    pair.run(0.05)
    assert pair.server.close_reason.reason == b"r" * 900
    assert pair.client.close_reason.reason == b"r" * 5000


def test_a_transport_close_is_told_apart() -> None:
    pair = make().handshake()
    pair.client.close_with_transport_error(0x0A, "enough", SessionError("why"))
    pair.flush()
    pair.run(0.05)
    reason = pair.server.close_reason
    assert isinstance(reason, ClosedByPeer)
    assert (reason.code, reason.reason, reason.is_application) == (0x0A, b"enough", False)
    assert str(pair.client.close_reason) == "why"


def test_the_first_close_counts() -> None:
    pair = make().handshake()
    pair.client.close_session(1, b"one")
    pair.client.close_session(2, b"two")
    pair.client.close_with_transport_error(3, "three", SessionError("three"))
    pair.client.fail(SessionError("four"))
    assert pair.client.close_reason.code == 1


def test_a_close_during_the_handshake_does_not_tell_the_application_code() -> None:
    """RFC 9000 §10.2.3: APPLICATION_ERROR stands for it in Initial and Handshake packets."""
    pair = make()
    pair.keep = lambda source, data: source is pair.client
    pair.start()
    pair.run_until(lambda: bool(pair.server._network_paths))
    pair.keep = None
    pair.server.close_session(77, b"secret")
    pair.flush()
    pair.run(0.5)
    reason = pair.client.close_reason
    assert isinstance(reason, HandshakeFailed) and reason.by_peer
    assert reason.code == QuicErrorCode.APPLICATION_ERROR
    assert "secret" not in str(reason)


def test_connection_refused() -> None:
    pair = make()
    pair.keep = lambda source, data: source is pair.client
    pair.start()
    pair.run_until(lambda: bool(pair.server._network_paths))
    pair.keep = None
    pair.server.close_with_transport_error(0x02, "", SessionError("full"))
    pair.flush()
    pair.run(0.5)
    assert isinstance(pair.client.close_reason, ConnectionRefused)
    assert pair.client.close_reason.by_peer


def test_fail_tells_the_peer_nothing() -> None:
    pair = make().handshake()
    stream_id = pair.client.open_stream(True)
    pair.client.write(stream_id, b"x", 0)
    pair.client.fail(SessionError("gone"))
    sent = pair.sent[pair.client]
    pair.flush()
    pair.run(100.0)
    assert pair.sent[pair.client] == sent
    assert isinstance(pair.server.close_reason, IdleTimeout)


def test_packets_after_the_end_are_ignored() -> None:
    pair = make().handshake()
    late = seal(pair.server, stream_frame(3, 0, b"x"))
    pair.client.fail(SessionError("gone"))
    pair.deliver(pair.client, late)
    assert not pair.client._streams
    assert pair.events[pair.client][-1] == (Event.CLOSED, 0)


def test_alpn_that_nobody_serves() -> None:
    client = plain(True, alpn=["other"])
    server = plain(False, odcid=client.original_destination_connection_id)
    pair = Pair(client, server)
    pair.start()
    pair.run(1.0)
    assert isinstance(client.close_reason, HandshakeFailed)
    assert client.close_reason.code == 0x178 and "ALPN" in str(client.close_reason)
    assert server.close_reason.code == 0x178


# -- certificates ----------------------------------------------------------------------------------


def test_a_pinned_certificate_is_accepted_and_another_is_not() -> None:
    _, identity = certificate()
    good = frozenset({fingerprint(identity.certificate), bytes(32)})
    for pins, accepted in ((good, True), (frozenset({bytes(32)}), False)):
        client = plain(True, pins=pins, verify=False)
        server = plain(False, odcid=client.original_destination_connection_id)
        pair = Pair(client, server)
        pair.start()
        pair.run(1.0)
        assert is_open(client) is accepted
        if accepted:
            assert client.peer_certificates()[0] == identity.certificate
        else:
            assert isinstance(client.close_reason, CertificateInvalid)
            assert (Event.CONNECTED, 0) not in pair.events[client]
            assert isinstance(server.close_reason, ClosedByPeer | HandshakeFailed)
            assert server.close_reason.code == 0x12A


def test_an_untrusted_certificate() -> None:
    other = load_identity(*self_signed(["localhost"]))
    client = plain(True)
    server = plain(False, odcid=client.original_destination_connection_id, identity=other)
    pair = Pair(client, server)
    pair.start()
    pair.run(1.0)
    assert isinstance(client.close_reason, CertificateInvalid)


def test_a_certificate_with_many_names_does_not_break_the_close() -> None:
    """Its names are in the reason phrase, which must fit a datagram all the same."""
    names = [f"host-{number}.example" for number in range(200)]
    identity = load_identity(*self_signed(names))
    client = plain(True)
    server = plain(False, odcid=client.original_destination_connection_id, identity=identity)
    pair = Pair(client, server)
    pair.start()
    pair.run(1.0)
    assert isinstance(client.close_reason, CertificateInvalid)
    assert isinstance(server.close_reason, HandshakeFailed)
    assert server.close_reason.code == 0x12A


# -- statistics ------------------------------------------------------------------------------------


def test_statistics_count() -> None:
    pair = make(loss=0.1, seed=6).handshake()
    data = bytes(200 * KIB)
    assert transfer(pair, pair.client, data) == data
    pair.run(1.0)
    seen = pair.client.statistics()
    assert seen.rtt == pytest.approx(0.020, abs=0.015)
    assert 0.019 < seen.rtt_min < 0.025
    assert seen.packets_lost > 5 and seen.congestion_events > 0
    assert seen.bytes_retransmitted > 5000
    assert seen.packets_acked + seen.packets_lost <= seen.packets_sent
    assert seen.bytes_in_flight == 0
    assert seen.datagrams_sent == pair.sent[pair.client]
    assert seen.bytes_sent > len(data)
    assert pair.server.statistics().bytes_received > len(data)
    assert pair.server.statistics().datagrams_received < seen.datagrams_sent
    assert pair.client.connection_id() == pair.server.connection_id()
    assert pair.client.alpn() == "h3"


def test_statistics_before_the_first_round_trip() -> None:
    client = plain(True, Config(initial_rtt=0.7))
    assert client.statistics().rtt == client.statistics().rtt_min == 0.7
