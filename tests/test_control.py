"""The control plane: time-outs, connection IDs and reset tokens, paths, statistics.

Where aioquic as it is behaves otherwise, the test shows it on `stock`, under a comment that begins
with "Stock:". So it fails on aioquic alone, and says when a release of aioquic makes it needless.
"""

import math
from typing import Any

import pytest
import views
from aioquic.buffer import Buffer
from aioquic.quic import events as aioquic_events
from aioquic.quic.connection import QuicConnectionState, QuicNetworkPath, QuicReceiveContext
from aioquic.quic.packet import QuicPacketType, QuicTransportParameters, pull_quic_header
from aioquic.tls import Epoch
from pair import (
    CLIENT,
    ELSEWHERE,
    SERVER,
    Pair,
    frame,
    is_open,
    make,
    opened,
    our_pair,
    our_server,
    ours,
    pair_of,
    seal,
    stock,
    stream_frame,
    transfer,
)

from rawquic.config import Config
from rawquic.connection.control import ACTIVE_IDS
from rawquic.connection.interface import Event
from rawquic.endpoint.routing import Routes
from rawquic.errors import (
    HandshakeTimeout,
    IdleTimeout,
    StatelessReset,
)

pytestmark = pytest.mark.usefixtures("backend")

KIB = 1024


# -- frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [b"", b"\0", b"\1", b"\0\0\1\0", bytes(1000) + b"\x1c\0"])
def test_padding_ends_where_aioquics_ends(rest: bytes) -> None:
    context = QuicReceiveContext(Epoch.INITIAL, b"", QuicNetworkPath(CLIENT), None, 0.0, 1)
    places = []
    for connection in (our_server().server, stock(True)):
        buffer = Buffer(data=b"\0" + rest)
        assert buffer.pull_uint_var() == 0
        connection._handle_padding_frame(context, 0, buffer)
        places.append(buffer.tell())
    assert places[0] == places[1]


# -- idle time-out and keep-alive ------------------------------------------------------------------


def idle_until_closed(pair: Pair, connection: Any) -> float:
    """Seconds from now until `connection` ends, nothing being sent."""
    begin = pair.now
    pair.run_until(lambda: connection.close_reason is not None, 10_000)
    assert isinstance(connection.close_reason, IdleTimeout)
    return pair.now - begin


def test_no_idle_timeout_on_either_side() -> None:
    pair = our_pair(Config(max_idle_timeout=None), Config(max_idle_timeout=None)).handshake()
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
        return our_pair(
            Config(max_idle_timeout=client), Config(max_idle_timeout=server)
        ).handshake()

    one, two = pair(), pair()
    assert idle_until_closed(one, one.client) == pytest.approx(expected, abs=0.2)
    assert idle_until_closed(two, two.server) == pytest.approx(expected, abs=0.2)


def test_an_idle_timeout_of_0_is_no_limit() -> None:
    """RFC 9000 §10.1."""

    def edit(sent: QuicTransportParameters) -> None:
        sent.max_idle_timeout = 0

    pair = our_server(Config(max_idle_timeout=40.0), edit=edit, idle_timeout=100.0).handshake()
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
    pair = our_pair(config, config, latency=0.200)
    pair.start()
    pair.run_until(lambda: pair.client.handshake_done)
    assert pair.client._idle_timeout() == pytest.approx(3 * pair.client.probe_timeout())


@pytest.mark.parametrize("side", ["client", "server"])
def test_keep_alive(side: str) -> None:
    idle, alive = Config(max_idle_timeout=5.0), Config(max_idle_timeout=5.0, keep_alive_interval=2)
    configs = (alive, idle) if side == "client" else (idle, alive)
    pair = our_pair(*configs).handshake()
    pair.run(60.0)
    assert is_open(pair.client) and is_open(pair.server)
    before = pair.sent[getattr(pair, side)]
    pair.run(20.0)
    assert 9 <= pair.sent[getattr(pair, side)] - before <= 11
    assert not any(kind is Event.PING_ACKED for kind, _ in pair.events[getattr(pair, side)])


def test_keep_alive_ends_with_the_connection() -> None:
    pair = our_pair(Config(keep_alive_interval=0.5)).handshake()
    pair.client.close_session(0, b"")
    pair.flush()
    pair.run(100.0)  # a timer that stayed in the past would never let it end
    assert pair.client.timer() is None


def test_keep_alive_that_cannot_be_sent_does_not_spin() -> None:
    """A full congestion window holds a PING back: its timer must move on all the same."""
    config = Config(keep_alive_interval=0.010, max_idle_timeout=2.0)
    pair = our_pair(config).handshake()
    stream_id = pair.client.streams.open_stream(True)
    pair.client.streams.write(stream_id, bytes(500 * KIB), 0)
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
    pair = our_pair(Config(max_idle_timeout=3.0))
    pair.keep = lambda source, data: False
    pair.start()
    pair.run(60.0)
    assert isinstance(pair.client.close_reason, HandshakeTimeout)
    assert pair.client.is_gone() and pair.client.timer() is None
    assert pair.client.alpn() is None and pair.client.peer_certificates() == []


# -- connection IDs and reset tokens ---------------------------------------------------------------


def test_a_client_hello_is_padded_inside_its_packet() -> None:
    """RFC 9000 §14.1 allows an invalid packet as padding; qh3's server stumbles over it."""

    def first_datagram(client: Any) -> tuple[int, int]:
        """Its size, and that of its first packet."""
        client.connect(SERVER, 0.0)
        ((data, _),) = client.datagrams_to_send(0.0)
        header = pull_quic_header(Buffer(data=data), host_cid_length=8)
        assert header.packet_type is QuicPacketType.INITIAL
        return len(data), header.packet_length

    size, packet = first_datagram(ours(True))
    assert size == packet >= 1200

    # Stock: zeros behind the packet.
    size, packet = first_datagram(stock(True))
    assert size >= 1200 > packet


def test_connection_ids_come_from_the_endpoint_and_are_told() -> None:
    routes = Routes(b"k" * 32)
    client = stock(True)
    server = ours(False, odcid=client.original_destination_connection_id, routes=routes)
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

    pair = our_server(edit=edit).handshake()
    assert [added for _, added in pair.server.take_id_changes()] == [True, True]


def test_reset_tokens_of_the_peer_are_recognised() -> None:
    routes = Routes(b"k" * 32)
    client = ours(True)
    server = ours(False, odcid=client.original_destination_connection_id, routes=routes)
    Pair(client, server).handshake()
    ids = [cid for cid, _ in server.take_id_changes()]
    assert len(ids) == ACTIVE_IDS
    assert all(client.is_reset_token(routes.reset_token(cid)) for cid in ids)
    assert not client.is_reset_token(bytes(16))
    assert not client.is_reset_token(routes.reset_token(ids[0])[:15])
    assert not client.is_reset_token(b"")
    # A client gives none for its first ID.
    assert not server.is_reset_token(server._reset_token(client.host_cid))


def test_a_token_of_a_connection_id_that_was_retired_counts_no_more() -> None:
    pair = make("ours", "stock").handshake()
    old = pair.client._peer_cid.stateless_reset_token
    assert pair.client.is_reset_token(old)
    pair.client.change_connection_id()
    assert not pair.client.is_reset_token(old)


def test_the_token_of_an_id_kept_for_another_path_is_recognised() -> None:
    """RFC 9000 §10.3.1: any token of an ID that the datagram's sender may use."""
    pair = make("stock", "ours").handshake()
    tokens = [each.stateless_reset_token for each in pair.server._peer_cid_available]
    pair.deliver(pair.server, seal(pair.client, frame(0x1A, bytes(8)) + bytes(1100)), ELSEWHERE)
    pair.server.datagrams_to_send(pair.now + 0.001)
    assert pair.server._network_paths[1].peer_cid is not None
    assert all(pair.server.is_reset_token(token) for token in tokens)


def test_a_stateless_reset_ends_it_and_nothing_more_is_sent() -> None:
    """RFC 9000 §10.3.1: it MUST NOT send any further packets."""
    pair = make().handshake()
    stream_id = pair.client.streams.open_stream(True)
    pair.client.streams.write(stream_id, bytes(100 * KIB), 0)
    pair.client.stateless_reset()
    assert isinstance(pair.client.close_reason, StatelessReset)
    assert pair.client.datagrams_to_send(pair.now + 1) == []
    assert pair.client.timer() is None
    assert pair.client.events() == [(Event.CLOSED, 0)]
    assert pair.client.is_gone() and pair.client.is_ending()


# -- paths -----------------------------------------------------------------------------------------


def moved(allow: bool) -> Pair:
    """A stock client that goes on from another address."""
    pair = our_server(Config(allow_migration=allow)).handshake()
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
    pair = our_server(Config(allow_migration=False))
    pair.start()
    pair.run_until(lambda: bool(pair.server._network_paths))
    pair.addresses[pair.client] = ELSEWHERE
    pair.run(0.5)
    assert not pair.server.handshake_done
    assert pair.server.peer_address() == CLIENT
    pair.addresses[pair.client] = CLIENT
    pair.run_until(lambda: pair.server.handshake_done)


def test_a_spoofed_address_gets_no_more_than_three_times_what_came() -> None:
    pair = our_server().handshake()
    stream_id = pair.server.streams.open_stream(True)
    pair.server.streams.write(stream_id, bytes(100 * KIB), 0)
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


def probe_sizes(probe: bytes, address: tuple[str, int], sent_before: int) -> tuple[int, list[int]]:
    """What the server's window had left, and the sizes of its datagrams with path probes.

    The server hears `probe` after it sent so many bytes, none of which is acknowledged.
    """
    pair = our_server().handshake()
    pair.server.streams.write(opened(pair.server), bytes(sent_before), 0)
    pair.keep = lambda source, data: source is pair.client
    pair.flush()
    pair.run(0.03)
    seen = pair.server.statistics()
    pair.server.streams.write(opened(pair.server), b"behind the probe", 0)
    sizes: list[int] = []
    handlers = pair.client._QuicConnection__frame_handlers
    for kind in (0x1A, 0x1B):
        handle, epochs = handlers[kind]

        def noted(*arguments: Any, handle: Any = handle) -> None:
            sizes.append(size)
            handle(*arguments)

        handlers[kind] = (noted, epochs)
    pair.addresses[pair.client] = address
    for _ in range(2):
        pair.deliver(pair.server, seal(pair.client, probe + bytes(1150)), address)
    pair.now += 0.001
    for data, _ in pair.server.datagrams_to_send(pair.now):
        size = len(data)
        pair.deliver(pair.client, data)
    return seen.congestion_window - seen.bytes_in_flight, sizes


@pytest.mark.parametrize(
    ("probe", "address"),
    [(frame(0x1A, b"question"), CLIENT), (frame(0x01), ELSEWHERE)],
    ids=["response", "challenge"],
)
def test_path_probes_are_expanded_however_little_the_window_has_left(
    probe: bytes, address: tuple[str, int]
) -> None:
    """RFC 9000 §8.2.1, §8.2.2: PATH_RESPONSE and PATH_CHALLENGE, to 1,200 bytes."""
    left = []
    for sent_before in range(11_000, 15_000, 150):
        room, sizes = probe_sizes(probe, address, sent_before)
        left.append(room)
        assert sizes and all(size >= 1200 for size in sizes), (room, sizes)
    assert min(left) < 100 and any(100 < room < 1000 for room in left)


def test_a_client_drops_packets_from_an_unknown_address() -> None:
    pair = make().handshake()
    packet = seal(pair.server, stream_frame(3, 0, b"x"))
    pair.deliver(pair.client, packet, ELSEWHERE)
    assert not views.streams(pair.client)
    pair.deliver(pair.client, packet, SERVER)
    assert pair.client.streams.read(3, 10) == b"x"


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
    assert seen.udp_datagrams_sent == pair.sent[pair.client]
    assert seen.udp_bytes_sent > len(data)
    assert pair.server.statistics().udp_bytes_received > len(data)
    assert pair.server.statistics().udp_datagrams_received < seen.udp_datagrams_sent
    assert pair.client.connection_id() == pair.server.connection_id()
    assert pair.client.alpn() == "h3"


def test_statistics_before_the_first_round_trip() -> None:
    client = ours(True, Config(initial_rtt=0.7))
    assert client.statistics().rtt == client.statistics().rtt_min == 0.7
