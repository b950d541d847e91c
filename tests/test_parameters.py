"""Transport parameters: ours arrive as configured, the peer's count.

Where aioquic as it is behaves otherwise, the test shows it on `stock`, under a comment that begins
with "Stock:". So it fails on aioquic alone, and says when a release of aioquic makes it needless.
"""

import importlib.util
from typing import Any

import pytest
import views
from aioquic.buffer import Buffer, encode_uint_var
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicTransportParameters,
    pull_quic_transport_parameters,
)
from pair import (
    CLIENT,
    ELSEWHERE,
    Pair,
    frame,
    is_open,
    our_client,
    our_server,
    ours,
    stock,
    stock_code,
    transfer,
)

from rawquic.config import Config
from rawquic.connection import parameters
from rawquic.connection.control import ACTIVE_IDS
from rawquic.errors import (
    HandshakeFailed,
)

pytestmark = pytest.mark.usefixtures("backend")

KIB = 1024


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
    "active_connection_id_limit": (Config(), ACTIVE_IDS),
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
    pair = our_client(config) if is_client else our_server(config)
    pair.handshake()
    peer = pair.server if is_client else pair.client
    (data,) = (value for kind, value in peer.tls.received_extensions if kind == 0x39)
    return pull_quic_transport_parameters(Buffer(data=data))


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
        server = (ours if kind == "ours" else stock)(
            False, odcid=client.original_destination_connection_id
        )
        pair = Pair(client, server).handshake()
        if kind == "ours":
            server.ping(1)
        else:
            server.send_ping(1)
        pair.keep = lambda source, data: source is server
        pair.flush()
        pair.now += 0.500  # the peer says that it held the ACK back for 480 ms of them
        number = server._packet_number - 1
        pair.inject(client, frame(0x02, number, 480_000 >> 10, 0, 0))
        latest: float = views.latest_rtt(server)
        return latest

    assert smoothed_after_late_ack("ours") == pytest.approx(0.02, abs=0.005)
    # Stock: it takes every exponent for 3, so that the delay is in the round trip.
    assert smoothed_after_late_ack("stock") > 0.4


def test_the_peers_max_ack_delay_counts() -> None:
    def edit(sent: QuicTransportParameters) -> None:
        sent.max_ack_delay = 900

    pair = our_server(edit=edit).handshake()
    usual = our_server().handshake()
    assert pair.server.probe_timeout() - usual.server.probe_timeout() == pytest.approx(0.875, 0.01)


def test_the_peers_max_udp_payload_size_is_kept() -> None:
    def edit(sent: QuicTransportParameters) -> None:
        sent.max_udp_payload_size = 1250

    def largest(kind: str) -> int:
        client = stock(True)
        client.edit = edit
        odcid = client.original_destination_connection_id
        if kind == "ours":
            server: Any = ours(False, Config(initial_mtu=1400), odcid=odcid)
        else:
            server = stock(False, odcid=odcid, max_datagram_size=1400)
        pair = Pair(client, server).handshake()
        for place in (CLIENT, ELSEWHERE):  # it holds on every path
            pair.addresses[client] = place
            assert transfer(pair, client, b"here") == b"here"
            assert transfer(pair, server, bytes(50 * KIB)) == bytes(50 * KIB)
        return pair.largest[server]

    assert largest("ours") == 1250
    assert largest("stock") == 1400  # Stock: it forgets the parameter.


def test_a_duplicate_parameter_is_an_error() -> None:
    """RFC 9000 §7.4."""

    def twice(data: bytes) -> bytes:
        return data + bytes([0x01, 0x01, 0x05])

    pair = our_server(rewrite=twice)
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
    assert is_open(our_server(rewrite=lambda data: data + grease).handshake().server)


def test_values_and_duplicates() -> None:
    one, two = bytes([1, 1, 5]), bytes([0x40, 0x21, 1, 5])
    both = [parameters.values]
    if importlib.util.find_spec("rawquic._fastpath") is not None:
        from rawquic import _fastpath

        both.append(_fastpath.transport_parameters)
    for values in both:
        assert values(b"") == {}
        assert values(one + two) == {1: 5, 0x21: b"\5"}
        for again in (one, bytes([0x40, 1, 1, 6])):  # the same number, spelt longer
            with pytest.raises(ValueError, match="twice"):
                values(one + two + again)
        for cut in (bytes([1]), bytes([1, 2, 5]), bytes([1, 0])):
            with pytest.raises(ValueError):
                values(cut)
