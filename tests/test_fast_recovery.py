"""Recovery of the fast connection (RFC 9002), acknowledgements (RFC 9000 §13), DPLPMTUD (RFC 8899).

What it sends is read with a tap; what a peer would send is forged with a stock peer's keys.
"""

import itertools
from typing import Any

import pytest
import views
from aioquic.quic.packet import QuicErrorCode
from pair import (
    Pair,
    Reader,
    Writer,
    frame,
    make,
    opened,
    our_server,
    seal,
    stream_frame,
    transfer,
)
from wiretap import Packet, Wiretap

from rawquic.config import Config
from rawquic.connection.interface import Event

pytestmark = pytest.mark.usefixtures("fast_only")

KIB = 1024
STREAM = tuple(range(0x08, 0x10))


def tapped(config: Config | None = None, **network: Any) -> tuple[Pair, Wiretap]:
    """A stock client and our server, which is tapped, after the handshake."""
    pair = our_server(config, network=network)
    tap = Wiretap(pair, pair.server)
    pair.handshake()
    return pair, tap


# -- acknowledgements in ---------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, -1], ids=["newest", "oldest"])
def test_acknowledgement_of_a_number_that_was_left_out(which: int) -> None:
    """RFC 9000 §21.4: an optimistic acknowledgement."""
    pair, tap = tapped()
    assert transfer(pair, pair.server, bytes(600 * KIB)) == bytes(600 * KIB)
    skipped = pair.server.plane.inspect()["skipped"]
    assert skipped and not {each.number for each in tap.packets} & set(skipped)
    assert skipped == sorted(skipped, reverse=True)
    assert pair.server.close_reason is None  # the peer's honest ACKs are fine
    number = skipped[which]
    pair.inject(pair.client, frame(0x02, number, 0, 0, 0))
    assert pair.server.close_reason.code == QuicErrorCode.PROTOCOL_VIOLATION


def test_numbers_that_were_left_out_are_remembered_for_as_long_as_packets_are() -> None:
    """They grow rarer, each distance twice the last: a ring never holds more than ten."""
    pair, _ = tapped()
    transfer(pair, pair.server, bytes(10 * 1024 * KIB))
    skipped = pair.server.plane.inspect()["skipped"]
    assert len(skipped) > 4 and skipped[-1] <= 256


def test_a_number_is_left_out_within_the_first_256() -> None:
    for _ in range(3):
        pair, _ = tapped()
        assert transfer(pair, pair.server, bytes(500 * KIB)) == bytes(500 * KIB)
        assert min(pair.server.plane.inspect()["skipped"]) <= 256


@pytest.mark.parametrize("kind", [0x02, 0x03])
def test_acknowledgement_of_a_packet_that_was_never_sent(kind: int) -> None:
    pair, _ = tapped()
    number = views.next_number(pair.server)
    pair.inject(pair.client, frame(kind, number, 0, 0, 0, *((0, 0, 0) if kind == 3 else ())))
    assert pair.server.close_reason.code == QuicErrorCode.PROTOCOL_VIOLATION


def test_a_replayed_packet_changes_nothing() -> None:
    pair, _ = tapped()
    packet = seal(pair.client, stream_frame(2, 0, b"once"))
    for _ in range(5):
        pair.deliver(pair.server, packet)
    assert pair.server.streams.read(2, 100) == b"once"
    assert pair.server.plane.inspect()["received"] == 4


def test_a_replayed_datagram_arrives_once() -> None:
    pair, _ = tapped()
    packet = seal(pair.client, frame(0x31, 4, b"once"))
    for number in range(9000):
        pair.deliver(pair.server, packet)
        if number < 3:
            pair.inject(pair.client, frame(0x01))
    assert pair.server.read_datagrams(10) == [b"once"]


def test_numbers_below_the_window_are_dropped() -> None:
    pair, _ = tapped()
    old = seal(pair.client, frame(0x31, 3, b"old"))
    pair.client._packet_number += 9000
    pair.inject(pair.client, frame(0x01))
    pair.deliver(pair.server, old)
    assert pair.server.read_datagrams(10) == []


def late_flight() -> tuple[Pair, Any, int, int, int]:
    """A flight that does not arrive: (pair, statistics before, first and last number, stream)."""
    while True:
        pair, _ = tapped()
        assert transfer(pair, pair.server, bytes(100 * KIB)) == bytes(100 * KIB)
        before = pair.server.statistics()
        pair.run(0.5)
        first = views.next_number(pair.server)
        stream_id = opened(pair.server)
        pair.server.streams.write(stream_id, bytes(8 * KIB), 0)
        pair.keep = lambda source, data: False
        pair.flush()
        last = views.next_number(pair.server) - 1
        assert last - first >= 4
        if not any(first <= number <= last for number in pair.server.plane.inspect()["skipped"]):
            return pair, before, first, last, stream_id


def test_spurious_loss_is_noticed_and_the_window_restored() -> None:
    """RFC 9002 leaves it open; the packets were late, not lost."""
    pair, before, first, last, stream_id = late_flight()
    server = pair.server
    pair.run(0.02)
    pair.inject(pair.client, frame(0x02, last, 0, 0, 0))
    assert server.statistics().packets_lost > before.packets_lost
    assert server.statistics().congestion_window < before.congestion_window
    pair.inject(pair.client, frame(0x02, last, 0, 0, last - first))
    assert server.plane.inspect()["spurious"] > 0
    assert server.statistics().congestion_window >= before.congestion_window
    assert server.streams.unacknowledged(stream_id) == 0


# -- probe timeouts --------------------------------------------------------------------------------


def black_out(pair: Pair) -> None:
    pair.keep = lambda source, data: False


def test_probes_carry_data_and_are_small_from_the_second_on() -> None:
    """RFC 9002 §6.2.4."""
    pair, tap = tapped()
    pair.run(1.0)
    assert pair.server.statistics().mtu == 1452
    stream_id = opened(pair.server)
    pair.server.streams.write(stream_id, bytes(range(256)) * 40, 0)
    black_out(pair)
    pair.flush()
    begin = pair.now
    pair.run(3.0)
    probes = [each for each in tap.since(begin + 1e-3) if not each.has(0x02) or each.has(*STREAM)]
    times = sorted({round(each.sent_at, 6) for each in probes})
    assert len(times) >= 4
    for number, time in enumerate(times):
        now = [each for each in probes if round(each.sent_at, 6) == time]
        assert 1 <= len(now) <= 2
        assert all(each.has(*STREAM) for each in now), number
        assert all(each.size <= (1452 if number == 0 else 1200) for each in now)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert all(b == pytest.approx(2 * a, rel=0.05) for a, b in itertools.pairwise(gaps))
    pair.keep = None
    reader = Reader(pair, pair.client)
    pair.run_until(lambda: pair.server.streams.unacknowledged(stream_id) == 0)
    assert bytes(reader.data[stream_id]) == bytes(range(256)) * 40


def time_to_the_first_probe(size: int) -> tuple[float, Pair]:
    """Until the server probes where what it wrote arrives and every acknowledgement gets lost."""
    pair, _ = tapped()
    assert transfer(pair, pair.server, bytes(300 * KIB)) == bytes(300 * KIB)  # a steady RTT
    pair.run(1.0)
    pair.keep = lambda source, data: source is pair.server
    Writer(pair, pair.server, bytes(size))
    begin, before = pair.now, pair.server.plane.inspect()["ptos"]
    pair.run_until(lambda: pair.server.plane.inspect()["ptos"] > before)
    return pair.now - begin, pair


def test_where_an_acknowledgement_is_due_at_once_the_first_probe_comes_soon() -> None:
    """RFC 9000 §13.2.2: a lost ACK of a whole window must not cost the peer's max_ack_delay."""
    time, pair = time_to_the_first_probe(5 * KIB)
    assert time < pair.server.probe_timeout() - 0.020
    assert time > pair.server.statistics().rtt_min + 0.004
    begin, probes = pair.now, pair.server.plane.inspect()["ptos"]
    pair.run_until(lambda: pair.server.plane.inspect()["ptos"] > probes)  # RFC 9002 §6.2.1
    assert pair.now - begin == pytest.approx(2 * pair.server.probe_timeout(), rel=0.01)


def test_a_single_packet_may_be_acknowledged_late() -> None:
    """RFC 9002 §6.2.1: with the peer's max_ack_delay."""
    time, pair = time_to_the_first_probe(100)
    assert time == pytest.approx(pair.server.probe_timeout(), rel=0.01)


def test_a_tail_loss_is_repaired_by_a_probe() -> None:
    pair, tap = tapped()
    tap.lose_first(*STREAM)
    begin = pair.now
    reader = Reader(pair, pair.client)
    writer = Writer(pair, pair.server, b"tail")
    pair.run_until(lambda: writer.stream_id in reader.ended)
    assert pair.now - begin < 3 * pair.server.probe_timeout()


def test_persistent_congestion_collapses_the_window() -> None:
    """RFC 9002 §7.6."""
    pair, _ = tapped()
    assert transfer(pair, pair.server, bytes(300 * KIB)) == bytes(300 * KIB)
    before = pair.server.statistics().congestion_window
    pair.run(0.5)
    reader = Reader(pair, pair.client)
    writer = Writer(pair, pair.server, bytes(100 * KIB))
    black_out(pair)
    pair.run(4.0)
    pair.keep = None
    least = before

    def look() -> None:
        nonlocal least
        least = min(least, pair.server.statistics().congestion_window)

    pair.checks.append(look)
    pair.run_until(lambda: writer.stream_id in reader.ended)
    assert least <= 2 * 1452


# -- acknowledgements out --------------------------------------------------------------------------


def acks(tap: Wiretap, begin: float) -> list[Packet]:
    return [each for each in tap.since(begin) if each.has(0x02, 0x03)]


def test_one_packet_is_acknowledged_within_max_ack_delay() -> None:
    """RFC 9000 §13.2.1."""
    pair, tap = tapped(Config(max_ack_delay=0.015))
    pair.run(1.0)
    begin = pair.now
    pair.inject(pair.client, stream_frame(2, 0, b"x"))
    pair.flush()
    pair.run(1.0)
    times = [each.sent_at - begin for each in acks(tap, begin)]
    assert len(times) == 1 and times[0] <= 0.0155


@pytest.mark.parametrize("what", ["two", "gap", "ping"])
def test_what_is_acknowledged_at_once(what: str) -> None:
    pair, tap = tapped()
    pair.run(1.0)
    begin = pair.now
    if what == "gap":
        pair.client._packet_number += 1
    for number in range(2 if what == "two" else 1):
        pair.inject(pair.client, frame(0x01) if what == "ping" else stream_frame(2, number, b"x"))
    pair.flush()
    assert len(acks(tap, begin)) == 1


def test_packets_that_elicit_nothing_get_no_acknowledgement_of_their_own() -> None:
    pair, tap = tapped()
    pair.run(1.0)
    begin = pair.now
    number = views.next_number(pair.server) - 1
    for _ in range(10):
        pair.inject(pair.client, frame(0x02, number, 0, 0, 0), bytes(10))
    pair.flush()
    pair.run(2.0)
    assert not tap.since(begin)


def test_one_acknowledgement_for_a_batch() -> None:
    pair, tap = tapped()
    pair.run(1.0)
    begin = pair.now
    for number in range(20):
        pair.inject(pair.client, stream_frame(2, number, b"x"))
    pair.flush()
    (packet,) = acks(tap, begin)
    (ack,) = packet.of(0x02)
    last = pair.client._packet_number - 1
    assert ack[3][0][1] == last and ack[3][0][0] <= last - 19


def test_holes_are_reported_and_at_most_64_ranges() -> None:
    pair, tap = tapped()
    pair.run(1.0)
    for _ in range(200):
        pair.client._packet_number += 1
        pair.inject(pair.client, frame(0x01))
    begin = pair.now
    pair.flush()
    (packet,) = acks(tap, begin)
    (ack,) = packet.of(0x02)
    assert len(ack[3]) == 64
    assert [high - low for low, high in ack[3][:60]] == [0] * 60
    assert packet.size <= 1452


def test_an_end_that_only_acknowledges_goes_on_for_ever() -> None:
    """Its ring of sent packets is reused, and the peer is asked which ACKs it has (§13.2.4)."""
    pair, tap = tapped()
    pair.run(1.0)
    plane = pair.server.plane
    for number in range(3000):
        pair.inject(pair.client, frame(0x31, 1, b"d"), frame(0x01))
        tap.packets.clear()
        pair.server.datagrams_to_send(pair.now + number * 1e-6)
    assert plane.inspect()["ring"] < 200
    assert pair.server.close_reason is None


def test_ranges_that_the_peer_knows_are_not_told_again() -> None:
    pair, tap = tapped()
    pair.run(1.0)
    for _ in range(20):
        pair.client._packet_number += 1
        pair.inject(pair.client, frame(0x01))
    pair.flush()  # with a PING, as there are many ranges
    pair.run(1.0)
    begin = pair.now
    pair.inject(pair.client, frame(0x01))
    pair.flush()
    (packet,) = acks(tap, begin)
    (ack,) = packet.of(0x02)
    assert len(ack[3]) <= 2


# -- packet size -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mtu", "least"), [(65535, 1452), (1452, 1452), (1300, 1280), (1200, 1200)]
)
def test_the_packet_size_is_searched_for(mtu: int, least: int) -> None:
    pair, tap = tapped(mtu=mtu)
    for _ in range(60):  # probes leave when something is sent
        assert transfer(pair, pair.server, bytes(9000)) == bytes(9000)
        pair.run(0.5)
    data = bytes(200 * KIB)
    assert transfer(pair, pair.server, data) == data
    found = pair.server.statistics().mtu
    assert least <= found <= min(mtu, 1452)
    assert max(each.size for each in tap.packets if each.has(*STREAM)) == found
    # RFC 9000 §14.4: lost probes are no congestion.
    assert pair.server.statistics().congestion_events == 0


def test_a_black_hole_is_found() -> None:
    """RFC 8899 §4.3."""
    pair, _ = tapped()
    pair.run(1.0)
    assert pair.server.statistics().mtu == 1452
    pair.mtu = 1250
    data = bytes(100 * KIB)
    assert transfer(pair, pair.server, data) == data
    assert pair.server.plane.inspect()["black_holes"] == 1
    assert pair.server.statistics().mtu == 1200
    pair.mtu = 65535
    pair.run(1.0)
    assert pair.server.statistics().mtu == 1200  # it waits for a minute


def test_the_system_says_how_much_fits() -> None:
    """EMSGSIZE of our own send."""
    pair, _ = tapped()
    pair.run(1.0)
    assert pair.server.statistics().mtu == 1452
    pair.sends = 1280
    for _ in range(20):  # probes leave when something is sent
        assert transfer(pair, pair.server, bytes(50 * KIB)) == bytes(50 * KIB)
        pair.run(0.5)
    assert 1260 < pair.server.statistics().mtu <= 1280
    assert pair.server.plane.inspect()["black_holes"] == 0
    # The flight of full packets that was under way, and a probe for each size.
    assert pair.refused.count(1452) > 3
    probes = [size for size in pair.refused if size != 1452]
    assert probes == sorted(set(probes), reverse=True)


def test_what_is_refused_to_another_connection_costs_no_smaller_size() -> None:
    pair, _ = tapped(Config(initial_mtu=1300, mtu_upper_bound=1300))
    assert not pair.server.packet_refused(1452, pair.now)
    assert not pair.server.packet_refused(1301, pair.now)
    assert pair.server.statistics().mtu == 1300
    assert pair.server.packet_refused(1300, pair.now)
    assert pair.server.statistics().mtu == 1200
    assert not pair.server.packet_refused(1200, pair.now)  # never below what every path carries


def test_a_fixed_packet_size_is_not_searched_for() -> None:
    pair, tap = tapped(Config(initial_mtu=1200, mtu_upper_bound=1200))
    pair.run(5.0)
    assert transfer(pair, pair.server, bytes(50 * KIB)) == bytes(50 * KIB)
    assert max(each.size for each in tap.packets) == 1200


# -- what a packet holds ---------------------------------------------------------------------------


def test_datagrams_share_packets() -> None:
    pair, tap = tapped()
    begin = pair.now
    for number in range(30):
        pair.server.send_datagrams([bytes([number]) * 100])
    pair.flush()
    packets = [each for each in tap.since(begin) if each.has(0x31)]
    assert len(packets) <= 4
    sent = [item[1][0] for each in packets for item in each.of(0x30, 0x31)]
    assert sent == list(range(30))


def test_small_streams_share_packets() -> None:
    pair, tap = tapped()
    begin = pair.now
    for _ in range(20):
        stream_id = opened(pair.server)
        pair.server.streams.write(stream_id, b"x" * 20, 0)
        pair.server.streams.finish(stream_id)
    pair.flush()
    packets = [each for each in tap.since(begin) if each.has(*STREAM)]
    assert len(packets) == 1
    assert all(item[4] for item in packets[0].of(*STREAM))


def test_many_small_writes_are_joined() -> None:
    pair, tap = tapped()
    stream_id = opened(pair.server)
    begin = pair.now
    for number in range(100):
        assert pair.server.streams.write(stream_id, b"%02d" % number, 0) == 2
    pair.flush()
    (packet,) = [each for each in tap.since(begin) if each.has(*STREAM)]
    (item,) = packet.of(*STREAM)
    assert item[3] == b"".join(b"%02d" % number for number in range(100))


@pytest.mark.parametrize("seed", range(3))
def test_nothing_empty_is_sent_after_losses(seed: int) -> None:
    """What was believed lost and then acknowledged leaves no empty frames behind."""
    pair = make(seed=seed, loss=0.1, reorder=0.5)
    tap = Wiretap(pair, pair.client)
    pair.handshake()
    assert transfer(pair, pair.client, bytes(200 * KIB)) == bytes(200 * KIB)
    assert not [item for item in tap.frames(*STREAM) if not item[3] and not item[4]]


def test_a_stream_of_higher_priority_goes_first_also_when_sent_again() -> None:
    pair, tap = tapped()
    low, high = opened(pair.server), opened(pair.server)
    pair.server.set_priority(high, 3)
    for stream_id in (low, high):
        pair.server.streams.write(stream_id, bytes(60 * KIB), 0)
    begin = pair.now
    tap.lose_first(*STREAM)
    pair.flush()
    pair.run_until(lambda: pair.server.streams.unacknowledged(low) == 0)
    order = [item[1] for each in tap.since(begin) for item in each.of(*STREAM)]
    first_low = order.index(low)
    assert len([each for each in order[:first_low] if each == high]) >= 60 * KIB // 1452


def test_a_full_buffer_of_unread_data_stops_nobody_else() -> None:
    pair, _ = tapped(Config(send_window=32 * KIB))
    stream_id = opened(pair.server)
    assert pair.server.streams.write(stream_id, bytes(64 * KIB), 0) == 32 * KIB
    pair.flush()
    pair.run(1.0)
    assert (Event.WRITABLE, stream_id) in pair.events[pair.server]


# -- pacing ----------------------------------------------------------------------------------------


def test_what_is_sent_is_paced() -> None:
    """RFC 9002 §7.7: a window does not leave in one burst."""
    pair, tap = tapped(latency=0.05)
    assert transfer(pair, pair.server, bytes(500 * KIB)) == bytes(500 * KIB)
    pair.run(1.0)
    begin = pair.now
    Writer(pair, pair.server, bytes(500 * KIB))
    pair.run(0.1)
    sizes: dict[float, int] = {}
    for each in tap.since(begin):
        sizes[each.sent_at] = sizes.get(each.sent_at, 0) + each.size
    assert len(sizes) > 5
    assert max(sizes.values()) < pair.server.statistics().congestion_window
