"""The seam between aioquic's control plane and the compiled data plane: a test per rule.

docs/architecture.md has the rules; the sections below carry their numbers. Parameters (9) are in
test_parameters, paths and amplification (8, 10) in test_fast_paths, the loss of each control frame
(13) in test_lost_frames.
"""

import os
import random
import socket
from types import SimpleNamespace
from typing import Any

import pytest
import views
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import Epoch
from pair import (
    CLIENT,
    ELSEWHERE,
    Pair,
    Writer,
    fast,
    frame,
    make,
    opened,
    our_client,
    our_pair,
    our_server,
    seal,
    stock_code,
    stream_frame,
    transfer,
)
from wiretap import Wiretap, pair_with_tap_on, tapped

from rawquic.connection.coalesced import split_datagram
from rawquic.connection.control import ACTIVE_IDS
from rawquic.connection.frame_sink import FrameSink
from rawquic.connection.seam import MAX_EARLY_PACKETS
from rawquic.errors import ProtocolViolation

pytestmark = pytest.mark.usefixtures("fast_only")

KIB = 1024
CE = 3  # an ECN codepoint
PADDING = bytes(1200)


# -- 1: birth --------------------------------------------------------------------------------------


def watch(connection: Any) -> None:
    """After every call, aioquic has seen no application packet."""

    def watched(name: str) -> None:
        call = getattr(connection, name)

        def around(*arguments: Any) -> Any:
            result = call(*arguments)
            if hasattr(connection, "tls") and connection._spaces:
                space = connection._spaces[Epoch.ONE_RTT]
                assert space.ack_at is None and space.largest_received_packet == -1
                assert not space.sent_packets
            assert not connection._streams
            return result

        setattr(connection, name, around)

    for name in ("receive", "handle_timer", "datagrams_to_send", "close_session"):
        watched(name)


@pytest.mark.parametrize("seed", range(4))
def test_aioquic_never_sees_an_application_packet(seed: int) -> None:
    pair = make(seed=seed, loss=0.1, reorder=0.3, duplicate=0.1, corrupt=0.02)
    watch(pair.client)
    watch(pair.server)
    pair.handshake()
    data = os.urandom(50 * KIB)
    for sender in (pair.client, pair.server):
        sender.update_keys()
        sender.send_datagrams([b"x"])
        assert transfer(pair, sender, data) == data
    pair.loss = pair.corrupt = 0.0  # here nobody repeats a close that got lost
    pair.client.streams.reset(opened(pair.client), 1)
    pair.client.close_session(1, b"")
    pair.flush()
    pair.run(1.0)
    assert pair.server.close_reason is not None


def halfway() -> tuple[Pair, list[bytes]]:
    """The client's handshake is complete; its last flight has not reached the server."""
    pair = our_server()
    held: list[bytes] = []
    pair.start()
    pair.run_until(lambda: bool(pair.server._network_paths))
    send = pair.client.datagrams_to_send

    def hold(now: float) -> list[Any]:
        held.extend(data for data, _ in send(now))
        return []

    pair.client.datagrams_to_send = hold
    pair.run_until(lambda: pair.client._handshake_complete)
    pair.run(0.05)
    pair.client.datagrams_to_send = send
    assert held and not pair.server.handshake_done
    return pair, held


def long_packets(pair: Pair, data: bytes) -> bytes:
    """The datagram without the short-header packet at its end."""
    return data[: len(data) - len(split_datagram(data)[1])]


def test_packets_that_come_before_their_keys_wait() -> None:
    pair, held = halfway()
    for number in range(MAX_EARLY_PACKETS + 5):
        packet = seal(pair.client, stream_frame(2, number, bytes([number])))
        pair.deliver(pair.server, packet, codepoint=CE)
    assert not pair.server.handshake_done and not views.streams(pair.server)
    for data in held:
        pair.deliver(pair.server, data)
    assert pair.server.handshake_done
    assert pair.server.streams.read(2, 100) == bytes(range(MAX_EARLY_PACKETS))
    assert pair.server.plane.inspect()["ecn_received"] == (0, 0, MAX_EARLY_PACKETS)


def test_a_packet_behind_the_handshake_packet_in_its_datagram() -> None:
    pair, held = halfway()
    behind = seal(pair.client, stream_frame(2, 0, b"behind") + PADDING)
    for data in held:
        pair.deliver(pair.server, long_packets(pair, data) + behind, codepoint=CE)
    assert pair.server.handshake_done
    assert pair.server.streams.read(2, 100) == b"behind"
    assert pair.server.plane.inspect()["ecn_received"] == (0, 0, 1)
    assert views.largest_received(pair.server) >= 0


def test_one_behind_it_for_another_connection_is_dropped() -> None:
    """RFC 9000 §12.2."""
    pair, held = halfway()
    pair.client._peer_cid.cid, kept = b"stranger", pair.client._peer_cid.cid
    behind = seal(pair.client, stream_frame(2, 0, b"behind") + PADDING)
    pair.client._peer_cid.cid = kept
    for data in held:
        pair.deliver(pair.server, long_packets(pair, data) + behind)
    assert pair.server.handshake_done and not views.streams(pair.server)
    assert pair.server.host_cid != b"stranger"


def test_a_0_rtt_packet_hides_nothing_behind_it() -> None:
    pair, held = halfway()
    version = pair.client._version.to_bytes(4, "big")
    cids = b"".join(
        bytes([len(cid)]) + cid for cid in (pair.client._peer_cid.cid, pair.client.host_cid)
    )
    early = bytes([0xD0]) + version + cids + bytes([0x40, 40]) + bytes(40)
    for data in held:
        pair.deliver(pair.server, early + data)
    assert pair.server.handshake_done


def test_long_headers_behind_the_confirmation_cost_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RFC 9001 §4.9: there are no keys for them any more. What stands behind them is read."""
    pair, held = halfway()
    for data in held:
        pair.deliver(pair.server, data)
    assert pair.server._handshake_confirmed
    monkeypatch.setattr(pair.server, "receive_datagram", None)
    received = pair.server.statistics()
    behind = seal(pair.client, stream_frame(2, 0, b"behind") + PADDING)
    (long,) = {long_packets(pair, data) for data in held} - {b""}
    pair.deliver(pair.server, long)
    pair.deliver(pair.server, long + behind)
    assert pair.server.streams.read(2, 100) == b"behind"
    now = pair.server.statistics()
    assert now.udp_bytes_received - received.udp_bytes_received == 2 * len(long) + len(behind)


def test_a_close_before_the_confirmation_is_one_datagram() -> None:
    """RFC 9000 §10.2.3: in a Handshake packet and in a 1-RTT packet, since either may be read."""
    pair = our_client()
    pair.start()
    pair.run_until(lambda: pair.client.handshake_done)
    assert not pair.client._handshake_confirmed
    pair.client.datagrams_to_send(pair.now)
    sent = pair.client.statistics().udp_datagrams_sent
    pair.client.close_session(5, b"reason")
    ((data, _),) = pair.client.datagrams_to_send(pair.now)
    handshake, tail = split_datagram(data)
    assert len(handshake) == len(data) <= 1200 and handshake.rstrip(b"\0") and tail
    assert data.endswith(tail)
    assert pair.client.statistics().udp_datagrams_sent == sent + 1


# -- 2: in -----------------------------------------------------------------------------------------

TO_SERVER = {
    "CRYPTO": frame(0x06, 0, 0),
    "NEW_CONNECTION_ID": frame(0x18, ACTIVE_IDS, 1, bytes([8]), b"new id..", bytes(16)),
    "RETIRE_CONNECTION_ID": frame(0x19, 3),
    "PATH_CHALLENGE": frame(0x1A, b"question"),
    "PATH_RESPONSE": frame(0x1B, b"no such."),
}
TO_CLIENT = {
    "CRYPTO": frame(0x06, 0, 0),
    "NEW_TOKEN": frame(0x07, 5, b"token"),
    "NEW_CONNECTION_ID": frame(0x18, ACTIVE_IDS, 1, bytes([8]), b"new id..", bytes(16)),
    "RETIRE_CONNECTION_ID": frame(0x19, 3),
    "PATH_CHALLENGE": frame(0x1A, b"question"),
    "HANDSHAKE_DONE": frame(0x1E),
}
ROWS = [("server", name) for name in TO_SERVER] + [("client", name) for name in TO_CLIENT]


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(("side", "name"), ROWS)
def test_a_control_frame_anywhere_in_a_packet(side: str, name: str, place: int) -> None:
    pair = (our_server if side == "server" else our_client)().handshake()
    us, peer = getattr(pair, side), pair.other(getattr(pair, side))
    before = views.largest_received(us)
    sent = views.next_number(us) - 1
    stream_id = 2 if side == "server" else 3
    others = [
        frame(0x02, sent, 0, 0, 0),
        stream_frame(stream_id, 0, b"data", fin=True),
        frame(0x31, 4, b"gram"),
    ]
    others.insert(place, (TO_SERVER if side == "server" else TO_CLIENT)[name])
    pair.inject(peer, *others)
    assert us.close_reason is None
    assert us.streams.read(stream_id, 10) == b"data" and us.streams.read(stream_id, 10) == b""
    assert us.read_datagrams(3) == [b"gram"]
    assert views.largest_received(us) > before
    if name == "RETIRE_CONNECTION_ID":  # the peer's own books know nothing of it
        assert all(each.sequence_number != 3 for each in us._host_cids)
        assert len(us._host_cids) == 8  # as many as stock aioquic takes
        return
    pair.flush()
    pair.run(1.0)
    if name == "PATH_CHALLENGE":
        assert us.plane.inspect()["control_frames"] == 0
    if name == "NEW_CONNECTION_ID":
        assert us._peer_cid.sequence_number >= 1
    assert us.close_reason is None and peer._close_event is None


@pytest.mark.parametrize("kind", [0x1C, 0x1D])
def test_frames_behind_a_close_do_not_count(kind: int) -> None:
    pair = our_server().handshake()
    close = frame(kind, 9, *((0,) if kind == 0x1C else ()), 3, b"bye")
    pair.inject(
        pair.client,
        stream_frame(2, 0, b"before"),
        close,
        stream_frame(6, 0, b"behind"),
        frame(0x20),
    )
    assert pair.server.close_reason.code == 9
    assert pair.server.streams.read(2, 10) == b"before"
    assert views.streams(pair.server) == {2}


@pytest.mark.parametrize("name", [*TO_SERVER, "ACK", "STREAM", "close", "MAX_DATA", "RESET_STREAM"])
def test_every_frame_cut_anywhere(name: str) -> None:
    """FRAME_ENCODING_ERROR, whichever byte is the last (RFC 9000 §12.4)."""
    whole = {
        **TO_SERVER,
        "ACK": frame(0x03, 0, 0, 0, 0, 1, 2, 3),
        "STREAM": stream_frame(2, 1, b"abc"),
        "close": frame(0x1C, 1, 2, 3, b"abc"),
        "MAX_DATA": frame(0x10, 100_000),
        "RESET_STREAM": frame(0x04, 2, 70_000, 5),
    }[name]
    for size in range(1, len(whole)):
        probe = our_server().handshake()
        probe.inject(probe.client, whole[:size])
        assert probe.server.close_reason is not None, size
        assert probe.server.close_reason.code == QuicErrorCode.FRAME_ENCODING_ERROR, size


# -- 3: out ---------------------------------------------------------------------------------------


def test_each_control_frame_is_settled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make(loss=0.2, seed=3)
    settled: dict[int, int] = {}
    queued: list[Any] = []
    for connection in (pair.client, pair.server):

        def delivered(token: Any, acked: bool, told: Any = connection.delivered) -> None:
            settled[id(token)] = settled.get(id(token), 0) + 1
            told(token, acked)

        connection.delivered = delivered
    take = FrameSink.take

    def taking(sink: FrameSink) -> Any:
        frames = take(sink)
        queued.extend(token for _, token in frames)  # held, so that their ids are their own
        return frames

    monkeypatch.setattr(FrameSink, "take", taking)
    pair.handshake()
    for _ in range(5):
        pair.client.change_connection_id()
        pair.client.plane.control_dirty = True
        pair.flush()
        pair.run(3.0)
    assert len(queued) >= 14
    counts = [settled.get(id(token), 0) for token in queued]
    assert counts == [1] * len(queued)


def test_aioquic_is_asked_only_when_something_changed() -> None:
    pair, _ = tapped()
    pair.run(1.0)
    asked = 0
    write = pair.client._write_control

    def count(now: float) -> None:
        nonlocal asked
        asked += 1
        write(now)

    pair.client._write_control = count
    assert transfer(pair, pair.client, bytes(300 * KIB)) == bytes(300 * KIB)
    timers = asked
    assert timers < 60  # far fewer than the packets, which are hundreds; timers ask


# -- 4, 5: one counter of packet numbers, and keys -------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_packet_number_is_never_used_twice_under_one_key(seed: int) -> None:
    """The tap asserts it of every packet: data, probes of paths, key updates, the close."""
    pair = our_pair(seed=seed, loss=0.05, reorder=0.2)
    taps = [Wiretap(pair, pair.client), Wiretap(pair, pair.server)]
    pair.handshake()
    for place in (ELSEWHERE, CLIENT, ("203.0.113.77", 9)):
        pair.addresses[pair.client] = place
        pair.client.update_keys()
        pair.server.update_keys()
        for sender in (pair.client, pair.server):
            assert transfer(pair, sender, bytes(30 * KIB)) == bytes(30 * KIB)
    pair.client.close_session(0, b"")
    pair.flush()
    for tap in taps:
        assert tap.generation >= 3 and len(tap.packets) > 40
    assert taps[0].packets[-1].has(0x1D)


@pytest.mark.parametrize("closing", ["fast", "stock"])
def test_a_close_two_key_phases_later_is_read(closing: str) -> None:
    pair, _ = tapped("fast", "stock")
    for _ in range(2):
        pair.client.update_keys()
        pair.flush()
        pair.run(0.3)
    assert pair.client.statistics().key_updates == 2
    if closing == "fast":
        pair.client.close_session(77, b"")
        pair.flush()
        pair.run(0.1)
        assert stock_code(pair.server) == 77
    else:
        pair.server.close(error_code=78)
        pair.flush()
        pair.run(0.1)
        assert pair.client.close_reason.code == 78


def test_a_forged_key_phase_bit_changes_nothing() -> None:
    pair = our_server().handshake()
    packet = seal(pair.client, stream_frame(2, 0, b"hello"))
    before = pair.server.plane.inspect()["phases"]
    for _ in range(3):
        pair.deliver(pair.server, bytes([packet[0] ^ 4]) + packet[1:])
    assert pair.server.plane.inspect()["phases"] == before
    assert not views.streams(pair.server)
    pair.deliver(pair.server, packet)
    assert pair.server.streams.read(2, 9) == b"hello"


def test_a_key_update_before_the_last_was_confirmed() -> None:
    """RFC 9001 §6.2."""
    pair = our_server().handshake()
    crypto = pair.client._cryptos[Epoch.ONE_RTT]
    codes = []
    for _ in range(3):
        crypto.update_key()
        crypto._update_key("local_update")
        crypto._update_key_requested = False
        pair.inject(pair.client, frame(0x01))
        codes.append(None if (r := pair.server.close_reason) is None else r.code)
    assert codes[0] is None and codes[1] == QuicErrorCode.KEY_UPDATE_ERROR


def test_packets_of_the_phase_before_are_still_read() -> None:
    pair = our_server().handshake()
    late = [seal(pair.client, stream_frame(2, i, b"%d" % i)) for i in range(3)]
    very_late = seal(pair.client, stream_frame(2, 4, b"4"))
    crypto = pair.client._cryptos[Epoch.ONE_RTT]
    crypto._update_key("local_update")
    pair.inject(pair.client, stream_frame(2, 3, b"3"))
    assert views.key_phase(pair.server) == 1
    timeout = pair.server.probe_timeout()
    pair.now += 2.9 * timeout
    for packet in reversed(late):
        pair.deliver(pair.server, packet)
    assert pair.server.streams.read(2, 9) == b"0123"
    # RFC 9001 §6.5: three probe timeouts after the update the keys are gone.
    pair.now += 0.2 * timeout
    pair.deliver(pair.server, very_late)
    assert pair.server.streams.read(2, 9) is None
    assert pair.server.close_reason is None


def test_aioquics_own_key_update_is_out_of_reach() -> None:
    pair = make().handshake()
    with pytest.raises(AssertionError):
        pair.client._cryptos[Epoch.ONE_RTT].update_key()
    with pytest.raises(Exception, match="data plane"):
        pair.client._cryptos[Epoch.ONE_RTT].decrypt_packet(b"", 0, 0)


# -- 6: close --------------------------------------------------------------------------------------


def test_a_closing_period_lasts_three_probe_timeouts() -> None:
    pair, tap = tapped()
    pair.client.close_session(1, b"")
    pair.flush()
    begin = pair.now
    period = pair.client.timer() - begin
    assert period == pytest.approx(3 * pair.client.probe_timeout(), rel=0.5)
    pair.run(period + 0.1)
    assert pair.client.is_gone()
    assert [each.has(0x1D) for each in tap.since(begin - 1e-3)] == [True]


def test_after_the_close_nothing_is_processed() -> None:
    pair = our_server().handshake()
    pair.server.close_session(1, b"")
    pair.flush()
    pair.inject(pair.client, stream_frame(2, 0, b"late"))
    assert not views.streams(pair.server)
    assert pair.server.datagrams_to_send(pair.now + 1e-3) == []


# -- 7: recovery that both planes share ------------------------------------------------------------


def test_the_handshakes_round_trip_is_where_the_data_plane_begins() -> None:
    pair = make("fast", "stock", latency=0.1)
    pair.start()
    pair.run_until(lambda: pair.client.handshake_done)
    assert pair.client.statistics().rtt == pytest.approx(0.2, rel=0.1)


def test_the_handshakes_packets_share_the_window() -> None:
    """RFC 9002 §7: until its keys are gone, both planes' bytes in flight count."""
    pair = make("fast", "stock")
    pair.start()
    pair.run_until(lambda: pair.client.handshake_done)
    pair.keep = lambda source, data: False
    assert pair.client.plane.handshake_in_flight > 0
    pair.client._loss._cc._inner.bytes_in_flight += 5000  # as if its certificate were on its way
    pair.client.streams.write(opened(pair.client), bytes(100 * KIB), 0)
    pair.flush()
    seen, handshake = pair.client.statistics(), pair.client.plane.handshake_in_flight
    assert handshake > 5000 and not pair.client._handshake_confirmed
    room = seen.congestion_window - seen.bytes_in_flight - handshake
    assert 0 <= room < 1200
    loss = pair.client._loss  # what aioquic sends by
    assert loss.congestion_window - loss.bytes_in_flight == room
    pair.client._loss._cc._inner.bytes_in_flight -= 5000
    pair.keep = None
    pair.run_until(lambda: pair.client._handshake_confirmed)
    assert pair.client.plane.handshake_in_flight == 0
    pair.run(5.0)
    assert pair.client.statistics().bytes_in_flight == 0


def test_aioquic_uses_the_data_planes_probe_timeout() -> None:
    pair = make().handshake()
    for connection in (pair.client, pair.server):
        assert connection._loss.get_probe_timeout() == connection.plane.pto()
        assert connection._loss.peer_completed_address_validation


def test_no_probe_timeout_before_the_handshake_is_confirmed() -> None:
    """RFC 9002 §6.2.1."""
    pair, tap = pair_with_tap_on("client")
    Wiretap(pair, pair.server).lose = lambda packet: True
    pair.start()
    pair.run_until(lambda: pair.client.handshake_done)
    pair.client.ping(1)
    pair.flush()
    pair.run(3.0)
    assert not pair.client._handshake_confirmed
    assert pair.client.plane.inspect()["ptos"] == 0
    assert len(tap.frames(0x01)) == 1


def test_the_idle_timeout_restarts_with_the_first_packet_sent_since() -> None:
    """RFC 9000 §10.1."""
    pair = make().handshake()
    pair.run(5.0)
    pair.keep = lambda source, data: False
    pair.client.ping(1)
    sent_at = pair.now
    pair.flush()
    pair.run_until(lambda: pair.client.close_reason is not None)
    assert pair.now - sent_at == pytest.approx(30.0, abs=0.1)


# -- 11: 0-RTT -------------------------------------------------------------------------------------


def test_no_ticket_is_given_and_no_early_data_is_sent() -> None:
    tickets: list[Any] = []
    pair = our_server()
    tap = Wiretap(pair, pair.server)
    pair.client._session_ticket_handler = tickets.append
    pair.handshake()
    pair.run(1.0)
    assert not tickets and not tap.frames(0x06)


# -- 12: timers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_one_deadline_that_always_moves_on(seed: int) -> None:
    pair = our_pair(seed=seed, loss=0.1).handshake()
    random_ = random.Random(seed)

    def check() -> None:
        for connection in (pair.client, pair.server):
            deadline, plane = connection.timer(), connection.plane.timer()
            assert plane is None or (deadline is not None and deadline <= plane)

    pair.checks.append(check)
    for _ in range(20):
        sender = random_.choice([pair.client, pair.server])
        writer = Writer(pair, sender, bytes(random_.randrange(20 * KIB)))
        del writer
        pair.run(random_.random())
    assert pair.client.close_reason is None


def test_an_error_inside_names_the_violation_to_the_peer() -> None:
    pair = our_server().handshake()
    pair.inject(pair.client, frame(0x20))
    assert isinstance(pair.server.close_reason, ProtocolViolation)
    pair.flush()
    pair.run(0.1)
    assert stock_code(pair.client) == QuicErrorCode.FRAME_ENCODING_ERROR


# -- the socket ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granted", "grouped", "ceiling"),
    [
        (425_984, True, 319_488),  # what Linux grants by default
        (425_984, False, 159_744),
        ((2 << 20) - 1, True, 1_572_863),
        (2 << 20, True, 0),
        (2 << 20, False, 0),
    ],
)
def test_bursts_fit_three_quarters_of_a_small_socket_buffer(
    granted: int, grouped: bool, ceiling: int
) -> None:
    connection = fast(True)
    endpoint = SimpleNamespace(receive_buffer=granted)
    connection.attach(SimpleNamespace(grouped=grouped), SimpleNamespace(endpoint=endpoint))
    assert connection.plane.inspect()["window_ceiling"] == ceiling


@pytest.mark.parametrize("gso", [False, True])
@pytest.mark.parametrize("gro", [False, True])
def test_trains_pass_whole_where_both_offloads_are_in_use(gso: bool, gro: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        from rawquic import _fastpath  # not there where it was not built

        udp = _fastpath.UdpSocket(sock, gso=gso, gro=gro)
        reactor = _fastpath.Reactor(udp, lambda others, planes: None, lambda: None)
        assert reactor.grouped == (udp.gso and udp.gro)
        assert not reactor.grouped or (gso and gro)
