"""Loss recovery of the data plane (RFC 9002), where the peer acknowledges what a test wants."""

import pytest
from data_peer import DataPeer, ack

from rawquic.backend import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "compiled", reason="of the compiled data plane")


def window(peer: DataPeer) -> int:
    size: int = peer.plane.statistics()["congestion_window"]
    return size


def acknowledge(peer: DataPeer, numbers: list[int]) -> None:
    """An ACK of these and of no others: some numbers are left out on purpose."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers, reverse=True):
        if runs and runs[-1][0] == number + 1:
            runs[-1] = (number, runs[-1][1])
        else:
            runs.append((number, number))
    peer.send(ack(*runs))


# -- losses that were none -------------------------------------------------------------------------


def sender() -> DataPeer:
    """A plane in congestion avoidance, or close to it, that has much to send."""
    peer = DataPeer()
    stream_id = peer.plane.open_stream(True)
    assert peer.plane.write(stream_id, bytes(1 << 20), 0) == 1 << 20
    for _ in range(3):
        acknowledge(peer, flight(peer))
    return peer


def flight(peer: DataPeer) -> list[int]:
    """The packets of a round trip, when their acknowledgement is due."""
    numbers = []
    for _ in range(10):  # it paces them
        peer.now += 0.005
        numbers += [number for number, _ in peer.collect()]
    peer.now += 0.05
    assert len(numbers) >= 10
    return numbers


def lose(peer: DataPeer, count: int) -> list[int]:
    """A congestion event: so many packets of a flight do not arrive in time; which."""
    numbers, events = flight(peer), peer.plane.statistics()["congestion_events"]
    acknowledge(peer, numbers[count:])
    assert peer.plane.statistics()["congestion_events"] == events + 1
    return numbers[:count]


def test_late_acks_of_an_earlier_event_undo_nothing() -> None:
    peer = sender()
    earlier = lose(peer, 5)
    before = window(peer)
    lose(peer, 3)
    reduced = window(peer)
    assert reduced < before
    acknowledge(peer, earlier[:3])
    acknowledge(peer, earlier[3:])
    assert peer.plane.inspect()["spurious"] == 5
    assert window(peer) == reduced


def test_an_event_is_undone_once_all_of_its_losses_and_no_earlier_ones_arrived() -> None:
    peer = sender()
    lose(peer, 5)  # for good
    before = window(peer)
    late = lose(peer, 3)
    reduced = window(peer)
    for number in late[:2]:
        acknowledge(peer, [number])
        assert window(peer) == reduced
    acknowledge(peer, late[2:])
    assert window(peer) >= before


def test_what_is_lost_later_in_an_event_belongs_to_it() -> None:
    """RFC 9002 §7.3.2: it was sent before recovery began."""
    peer = sender()
    before = window(peer)
    numbers = flight(peer)
    acknowledge(peer, numbers[3:6])
    acknowledge(peer, numbers[8:])
    assert peer.plane.statistics()["packets_lost"] == 5
    assert peer.plane.statistics()["congestion_events"] == 1
    reduced = window(peer)
    acknowledge(peer, numbers[:3])
    assert window(peer) == reduced < before
    acknowledge(peer, numbers[6:8])
    assert window(peer) >= before


# -- persistent congestion -------------------------------------------------------------------------


@pytest.mark.parametrize("arrived", [None, 0, 1, 2, 3, 4])
def test_an_ack_in_between_breaks_persistent_congestion(arrived: int | None) -> None:
    """RFC 9002 §7.6.2: none of the packets sent between the first and the last loss arrived."""
    peer = DataPeer()
    sent = []
    for number in range(5 + 3):  # the last three show what is lost
        peer.now += 0.2
        peer.plane.ping(number)
        sent += [number for number, _ in peer.collect()]
    peer.now += 0.05
    acknowledge(peer, sent[5:] if arrived is None else [sent[arrived], *sent[5:]])
    assert peer.plane.statistics()["packets_lost"] == (5 if arrived is None else 4)
    # They span 0.8 s; without the first or the last, 0.6 s; else two runs, none above 0.4 s.
    assert 0.4 < 3 * peer.plane.pto() < 0.6
    assert window(peer) == (6000 if arrived in (1, 2, 3) else 2400)


# -- probe timeouts --------------------------------------------------------------------------------


@pytest.mark.parametrize("allowance", [0, 1, 40, 63, 64, 100, 1200, -1])
def test_a_probe_timeout_is_armed_where_a_probe_may_leave(allowance: int) -> None:
    """RFC 9002 §6.2.2.1: not while the anti-amplification limit holds everything back."""
    peer = DataPeer()
    stream_id = peer.plane.open_stream(True)
    peer.plane.write(stream_id, bytes(1000), 0)
    assert len(peer.collect()) == 1
    peer.plane.allowance = allowance
    armed = peer.plane.timer() is not None
    peer.now += 20.0
    peer.plane.on_timer(peer.now)
    assert peer.plane.inspect()["ptos"] == armed
    assert bool(peer.collect()) == armed == (not 0 <= allowance < 64)


def test_a_probe_timeout_is_armed_again_when_the_limit_is_lifted() -> None:
    """RFC 9002 §6.2.2.1: and goes off at once, if its time has passed."""
    peer = DataPeer()
    peer.plane.ping(1)
    peer.collect()
    due = peer.plane.timer()
    peer.plane.allowance = 63
    assert peer.plane.timer() is None
    peer.plane.allowance = 3 * 64
    assert peer.plane.timer() == due
    peer.now += 20.0
    peer.plane.on_timer(peer.now)
    assert peer.collect()
