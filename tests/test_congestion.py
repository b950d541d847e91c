"""Congestion control: RFC 9002 §7, RFC 9438 and RFC 9406 by hand, on random input, and over a
bottleneck in virtual time.
"""

import math

import pytest
from fastpath_parts.bottleneck import SIZE, Bottleneck, reno_segments, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

pytest_plugins = ["fastpath_parts.build"]

BETA = {"newreno": 0.5, "cubic": 0.7}
both = pytest.mark.parametrize("algorithm", ["newreno", "cubic"])
INFINITE_THRESHOLD = 2**64 - 1


class Flow:
    """A controller with its path: packet numbers, time and round trips of a given length."""

    def __init__(self, parts, algorithm, round_trip=0.1, size=SIZE, **options):
        self.control = parts.PathCongestion(algorithm, size, **options)
        self.rtt = parts.PathRtt()
        self.size, self.round_trip = size, round_trip
        self.now = 1.0
        self.number = 0

    def send(self, count):
        for _ in range(count):
            self.control.sent(self.size, self.number)
            self.number += 1

    def ack(self, size, sent_at, used=True, latest=None):
        self.rtt.sample(latest or self.now - sent_at, now=self.now)
        self.control.acked(self.rtt, size, self.number - 1, sent_at, used, self.now)

    def round(self, used=True, keep=0):
        """Fill the window and have all but `keep` bytes acknowledged a round trip later."""
        sent_at = self.now
        self.control.sent(self.control.room(), self.number)
        self.number += 1
        self.now += self.round_trip
        self.ack(self.control.bytes_in_flight - keep, sent_at, used)

    def lose(self, count=1):
        """Send `count` packets and lose them a round trip later."""
        self.send(count)
        sent_at = self.now
        self.now += self.round_trip
        self.control.lost(self.size * count, sent_at, self.now)
        self.now += 1e-6  # what is sent from now on is behind the start of recovery

    def grow_to(self, window):
        while self.control.window < window:
            sent_at = self.now
            size = min(self.control.window, window - self.control.window)
            self.control.sent(size, self.number)
            self.number += 1
            self.now += self.round_trip
            self.ack(size, sent_at)
        assert self.control.window == window


# RFC 9002 §7


@both
@pytest.mark.parametrize(
    ("size", "window"),
    [(1200, 12000), (1452, 14520), (1472, 14720), (1500, 14720), (7360, 14720), (9000, 18000)],
)
def test_initial_window(parts, algorithm, size, window):
    control = parts.PathCongestion(algorithm, size)
    assert control.window == window
    assert control.ssthresh == INFINITE_THRESHOLD
    assert control.in_slow_start()
    assert control.room() == window


@both
def test_bytes_in_flight_come_and_go(parts, algorithm):
    flow = Flow(parts, algorithm)
    flow.send(8)
    assert flow.control.bytes_in_flight == 9600
    assert flow.control.room() == 2400
    flow.now += 0.1
    flow.ack(3600, 1.0)
    assert flow.control.bytes_in_flight == 6000
    flow.control.lost(1200, 1.0, flow.now)
    assert flow.control.bytes_in_flight == 4800
    flow.control.discarded(2400)
    assert flow.control.bytes_in_flight == 2400
    flow.control.discarded(9999)
    assert flow.control.bytes_in_flight == 0


@both
def test_slow_start_grows_by_what_is_acknowledged(parts, algorithm):
    flow = Flow(parts, algorithm)
    flow.send(10)
    flow.now += 0.1
    flow.ack(3 * SIZE, 1.0)
    assert flow.control.window == 13 * SIZE
    flow.ack(7 * SIZE, 1.0)
    assert flow.control.window == 20 * SIZE


def test_newreno_adds_a_datagram_for_each_window_acknowledged(parts):
    flow = Flow(parts, "newreno")
    flow.grow_to(40 * SIZE)
    flow.lose()
    assert flow.control.window == 20 * SIZE
    flow.send(20)
    sent_at, flow.now = flow.now, flow.now + 0.1
    for _ in range(19):
        flow.ack(SIZE, sent_at)
    assert flow.control.window == 20 * SIZE
    flow.ack(SIZE, sent_at)
    assert flow.control.window == 21 * SIZE
    for rounds in range(1, 30):
        flow.round()
        assert flow.control.window == (21 + rounds) * SIZE


def test_slow_start_ends_at_the_threshold_within_one_ack(parts):
    """What is acknowledged beyond the threshold counts for congestion avoidance."""
    flow = Flow(parts, "newreno")
    flow.grow_to(40 * SIZE)
    flow.lose()
    flow.control.persistent()
    assert (flow.control.window, flow.control.ssthresh) == (2 * SIZE, 20 * SIZE)
    flow.grow_to(16 * SIZE)
    flow.send(16)
    sent_at, flow.now = flow.now, flow.now + 0.1
    flow.ack(16 * SIZE, sent_at)
    assert flow.control.window == 20 * SIZE
    assert flow.control.credit == 12 * SIZE


@both
def test_a_loss_reduces_the_window_once_per_round_trip(parts, algorithm):
    flow = Flow(parts, algorithm)
    flow.grow_to(100 * SIZE)
    flow.send(50)
    sent_at = flow.now
    flow.now += 0.1
    reduced = int(100 * SIZE * BETA[algorithm])
    assert flow.control.lost(SIZE, sent_at, flow.now)
    assert flow.control.window == flow.control.ssthresh == reduced
    assert flow.control.events == 1
    assert not flow.control.in_slow_start()
    # §7.3.2: losses and ACKs of what was sent before recovery began change nothing.
    assert not flow.control.lost(5 * SIZE, flow.now, flow.now + 0.01)
    assert (flow.control.window, flow.control.events) == (reduced, 1)
    flow.ack(20 * SIZE, sent_at)
    assert flow.control.window == reduced
    # Behind it, both count again.
    later = flow.now + 1e-6
    assert flow.control.lost(SIZE, later, flow.now + 0.1)
    assert flow.control.window == int(reduced * BETA[algorithm])
    assert flow.control.events == 2


@both
def test_the_window_never_falls_below_two_datagrams(parts, algorithm):
    flow = Flow(parts, algorithm)
    for _ in range(20):
        flow.lose()
    assert flow.control.events == 20
    assert flow.control.window == 2 * SIZE


@both
def test_ce_counts_as_a_loss_and_is_never_undone(parts, algorithm):
    flow = Flow(parts, algorithm)
    flow.send(10)
    flow.control.ce(1.0, 1.1)
    reduced = int(12000 * BETA[algorithm])
    assert (flow.control.window, flow.control.events) == (reduced, 1)
    assert flow.control.bytes_in_flight == 12000
    flow.control.ce(1.05, 1.12)
    assert (flow.control.window, flow.control.events) == (reduced, 1)
    flow.control.spurious()
    assert (flow.control.window, flow.control.undone) == (reduced, 0)


@both
def test_ce_in_the_same_round_trip_confirms_a_loss(parts, algorithm):
    flow = Flow(parts, algorithm)
    flow.lose()
    reduced = flow.control.window
    flow.control.ce(1.0, flow.now)
    flow.control.spurious()
    assert flow.control.window == reduced


@both
def test_nothing_lost_is_no_event(parts, algorithm):
    flow = Flow(parts, algorithm)
    flow.send(1)
    assert not flow.control.lost(0, 1.0, 1.1)
    assert (flow.control.events, flow.control.window) == (0, 12000)


@both
def test_the_window_has_an_end(parts, algorithm):
    flow = Flow(parts, algorithm)
    for _ in range(20):
        flow.round()
    assert flow.control.window == 1 << 30


@both
def test_persistent_congestion(parts, algorithm):
    """§7.6.2: the minimum window, and the next loss is a new event."""
    flow = Flow(parts, algorithm)
    flow.grow_to(100 * SIZE)
    flow.lose(3)
    threshold = flow.control.ssthresh
    flow.control.persistent()
    assert flow.control.window == 2 * SIZE
    assert flow.control.ssthresh == threshold
    assert flow.control.in_slow_start()
    flow.control.lost(SIZE, 0.5, flow.now)
    assert flow.control.events == 2


@both
def test_what_is_acknowledged_while_the_window_is_not_in_use_does_not_grow_it(parts, algorithm):
    flow = Flow(parts, algorithm)
    flow.round(used=False)
    assert flow.control.window == 12000
    flow.lose()
    window = flow.control.window
    for _ in range(50):
        flow.round(used=False)
    assert flow.control.window == window


@both
def test_the_datagram_size_moves_the_initial_and_the_minimum_window(parts, algorithm):
    control = parts.PathCongestion(algorithm, 1200)
    control.set_datagram_size(1452)
    assert control.window == 14520
    flow = Flow(parts, algorithm)
    flow.grow_to(20000)
    flow.control.set_datagram_size(1452)
    assert flow.control.window == 20000
    flow.control.set_datagram_size(15000)
    assert flow.control.window == 30000
    flow = Flow(parts, "newreno")
    flow.grow_to(24000)
    flow.lose()
    flow.control.set_datagram_size(1452)
    assert flow.control.window == 12000  # as large as the initial window, but not that


@both
def test_a_new_path_starts_afresh(parts, algorithm):
    flow = Flow(parts, algorithm, soft_ceiling=200_000)
    fresh = snapshot(parts.PathCongestion(algorithm, 1452)) | {"cubic": flow.control.cubic}
    flow.grow_to(100 * SIZE)
    flow.lose(3)
    flow.round()
    flow.send(4)
    flow.control.path_changed(1452)
    assert snapshot(flow.control) | {"cubic": flow.control.cubic} == fresh
    assert flow.control.bytes_in_flight == 0
    assert (flow.control.events, flow.control.soft_ceiling) == (1, 200_000)
    flow.control.spurious()  # an event of the old path
    assert flow.control.window == 14520


# Spurious loss


@both
def test_a_spurious_loss_leaves_no_trace(parts, algorithm):
    flow = Flow(parts, algorithm)
    flow.grow_to(100 * SIZE)
    flow.lose()
    for _ in range(7):
        flow.round()
    flow.send(8)
    sent_at, flow.now = flow.now, flow.now + 0.1
    flow.ack(5 * SIZE, sent_at)
    before, cubic = snapshot(flow.control), flow.control.cubic
    assert (before["credit"] > 0) == (algorithm == "newreno")
    flow.lose(4)
    assert flow.control.window < before["window"]
    assert flow.control.credit == 0
    assert flow.control.recovery_start > before["recovery_start"]
    flow.control.spurious()
    assert snapshot(flow.control) == before
    assert flow.control.cubic == cubic
    assert (flow.control.events, flow.control.undone) == (2, 1)


@both
def test_slow_start_goes_on_after_a_spurious_loss(parts, algorithm):
    flow = Flow(parts, algorithm)
    flow.grow_to(50 * SIZE)
    flow.lose()
    flow.control.spurious()
    assert flow.control.in_slow_start()
    flow.round()
    assert flow.control.window == 100 * SIZE


@both
def test_an_event_is_undone_once_and_only_the_last(parts, algorithm):
    flow = Flow(parts, algorithm)
    flow.grow_to(100 * SIZE)
    flow.lose()
    first = flow.control.window
    flow.lose()
    flow.control.spurious()
    assert flow.control.window == first
    flow.control.spurious()
    assert flow.control.window == first
    assert flow.control.undone == 1


@both
def test_undoing_never_shrinks_the_window(parts, algorithm):
    flow = Flow(parts, algorithm)
    flow.grow_to(10 * SIZE)
    flow.lose()
    for _ in range(100):
        flow.round()
    grown = flow.control.window
    assert grown > 10 * SIZE
    flow.control.spurious()
    assert flow.control.window == grown


def test_the_curve_stands_still_between_a_spurious_loss_and_its_undoing(parts):
    plain, undone = (cubic_after_loss(parts, 100, 0.1) for _ in range(2))
    for flow in (plain, undone):
        flow.send(3)  # never acknowledged, so that the flight is not empty
        for _ in range(10):
            flow.round(keep=3 * SIZE)
    undone.lose()
    undone.now += 30.0
    undone.control.spurious()
    for flow in (plain, undone):
        flow.round(keep=3 * SIZE)
    assert undone.control.window == pytest.approx(plain.control.window, abs=SIZE / 2)


# CUBIC, RFC 9438


def cubic_after_loss(parts, packets, round_trip):
    flow = Flow(parts, "cubic", round_trip)
    flow.grow_to(packets * SIZE)
    flow.lose()
    assert flow.control.window == int(packets * SIZE * 0.7)
    return flow


def test_cubic_steps_by_hand(parts):
    """W_max 100 segments, window 70, C = 0.4: K = cbrt(30 / 0.4) = 4.21716 s."""
    flow = cubic_after_loss(parts, 100, 0.1)
    flow.send(40)
    sent_at, flow.now = flow.now, flow.now + 0.1
    flow.ack(7 * SIZE, sent_at, latest=0.1)
    assert flow.control.cubic["k"] == pytest.approx(4.21716)
    # t = 0: the curve is at 70, Reno's estimate at 70 + 9 / 17 * 7 / 70 segments, and it wins.
    assert flow.control.window == int((70 + 9 / 170) * SIZE)
    # t = 0.5: the curve is at 0.4 * (0.5 - K)^3 + 100 = 79.46 and wins. It aims at where it is a
    # round trip later, 0.4 * (0.6 - K)^3 + 100 = 81.069; 7 of 70.0525 segments are acknowledged.
    sent_at, flow.now = flow.now, flow.now + 0.5
    flow.ack(7 * SIZE, sent_at, latest=0.1)
    step = (81.069 - 70.0525) * 7 / 70.0525
    assert flow.control.window == pytest.approx((70.0525 + step) * SIZE, abs=2)


def test_cubic_follows_its_curve(parts):
    flow = cubic_after_loss(parts, 400, 0.1)
    flow.round()
    begun = flow.now
    k = math.cbrt(120 / 0.4)
    seen = {}
    while flow.now < begun + 2 * k:
        flow.round()
        t = flow.now - begun
        # The window after the ACK at t is aimed at W(t + RTT).
        curve = 400 + 0.4 * (t + 0.1 - k) ** 3
        assert flow.control.window == pytest.approx(curve * SIZE, rel=2e-3)
        seen[t] = flow.control.window
    # Concave up to the plateau, then convex (§4.4, §4.5): at K the old window, at 2 K as far
    # above as it began below.
    assert seen[min(seen, key=lambda t: abs(t - k))] == pytest.approx(400 * SIZE, rel=1e-3)
    assert seen[max(seen)] == pytest.approx(520 * SIZE, rel=0.02)


def test_cubic_is_no_slower_than_reno_on_a_short_path(parts):
    """§4.3: alpha = 3 * 0.3 / 1.7 segments a round trip up to the old window, then 1."""
    flow = cubic_after_loss(parts, 30, 0.01)
    assert flow.control.window == 21 * SIZE
    reno = 21.0
    for _ in range(40):
        acked = min(1.0, flow.control.window / SIZE / reno)
        flow.round()
        reno += (9 / 17 if reno < 30 else 1.0) * acked
        assert flow.control.window / SIZE == pytest.approx(reno, rel=0.01)
    assert flow.control.window > 50 * SIZE


def test_fast_convergence(parts):
    """§4.7: a flow that loses below its old plateau takes a lower one."""
    flow = cubic_after_loss(parts, 100, 0.1)
    assert flow.control.cubic["w_max"] == 100 * SIZE
    flow.lose()
    assert flow.control.cubic["w_max"] == pytest.approx(70 * SIZE * 0.85)
    assert flow.control.window == int(70 * SIZE * 0.7)
    flow = cubic_after_loss(parts, 100, 0.1)
    while flow.control.window <= 100 * SIZE:
        flow.round()
    window = flow.control.window
    flow.lose()
    assert flow.control.cubic["w_max"] == window


def test_cubic_does_not_run_on_while_the_window_is_not_in_use(parts):
    """§5.8, for an application that sends little, and for one that sends nothing."""
    busy, little, nothing = (cubic_after_loss(parts, 200, 0.1) for _ in range(3))
    busy.send(3)
    little.send(3)  # never acknowledged: this flight is not empty
    for flow, keep in ((busy, 3), (little, 3), (nothing, 0)):
        for _ in range(10):
            flow.round(keep=keep * SIZE)
    for _ in range(300):
        little.round(used=False, keep=3 * SIZE)
    nothing.now += 30.0
    before = busy.control.window
    for flow, keep in ((busy, 3), (little, 3), (nothing, 0)):
        flow.round(keep=keep * SIZE)
    grown = busy.control.window - before
    assert grown > SIZE
    for flow in (little, nothing):
        assert flow.control.window - before == pytest.approx(grown, rel=0.1)


def test_cubic_never_aims_at_more_than_half_again(parts):
    """§4.2: also where the path held a full window back for a minute."""
    flow = cubic_after_loss(parts, 100, 0.1)
    flow.round()
    window = flow.control.window
    flow.round_trip = 60.0
    flow.round()
    assert flow.control.window == pytest.approx(1.5 * window, abs=SIZE)


def test_cubic_counts_a_window_at_most_in_one_ack(parts):
    flow = cubic_after_loss(parts, 30, 0.01)
    flow.send(200)
    sent_at, flow.now = flow.now, flow.now + 0.01
    flow.ack(200 * SIZE, sent_at)
    assert flow.control.window == int((21 + 9 / 17) * SIZE)


def test_another_datagram_size_begins_another_curve(parts):
    flow = cubic_after_loss(parts, 100, 0.1)
    flow.round()
    flow.control.set_datagram_size(2 * SIZE)
    window = flow.control.window
    flow.round()
    segments = (100 * SIZE - window) / (2 * SIZE)
    assert flow.control.cubic["k"] == pytest.approx(math.cbrt(segments / 0.4))


def test_after_persistent_congestion_cubic_forgets_its_plateau(parts):
    """§4.8: K = 0, W_max where congestion avoidance begins."""
    flow = cubic_after_loss(parts, 100, 0.1)
    flow.control.persistent()
    while flow.control.in_slow_start():
        flow.round()
    flow.round()
    assert flow.control.cubic["k"] == 0.0
    assert flow.control.cubic["w_max"] == pytest.approx(70 * SIZE, rel=0.05)


# HyStart++, RFC 9406


class Rounds(Flow):
    """Rounds of ten ACKs with a given round-trip time; the window is in use throughout."""

    def rounds(self, round_trip, count=1, acks=10, samples=True, used=True):
        for _ in range(count):
            self.send(acks)
            sent_at = self.now
            self.now += round_trip
            for at in range(acks):
                if samples:
                    self.rtt.sample(round_trip, now=self.now)
                number = self.number - acks + at
                self.control.acked(self.rtt, self.size, number, sent_at, used, self.now)


@both
def test_a_longer_rtt_slows_slow_start_to_a_quarter(parts, algorithm):
    flow = Rounds(parts, algorithm)
    flow.rounds(0.1, 3)
    window = flow.control.window
    # An eighth of 100 ms is the threshold: 112 ms is not enough, 113 ms is.
    flow.rounds(0.112)
    assert flow.control.window == window + 10 * SIZE
    flow = Rounds(parts, algorithm)
    flow.rounds(0.1, 3)
    flow.rounds(0.113)
    # The eighth sample tells; the eighth to the tenth ACK count a quarter.
    assert flow.control.window == window + 7 * SIZE + 3 * SIZE // 4
    assert flow.control.hystart["conservative"]


@both
@pytest.mark.parametrize(("base", "threshold"), [(0.01, 0.004), (0.064, 0.008), (0.4, 0.016)])
def test_the_threshold_is_an_eighth_between_4_and_16_ms(parts, algorithm, base, threshold):
    for increase, conservative in ((threshold * 0.99, False), (threshold * 1.01, True)):
        flow = Rounds(parts, algorithm)
        flow.rounds(base, 2)
        flow.rounds(base + increase)
        assert flow.control.hystart["conservative"] == conservative


@both
def test_slow_start_ends_after_five_conservative_rounds(parts, algorithm):
    flow = Rounds(parts, algorithm)
    flow.rounds(0.1, 2)
    flow.rounds(0.12, 5)
    assert flow.control.ssthresh == INFINITE_THRESHOLD
    window = flow.control.window
    flow.rounds(0.12)  # its first ACK ends the fifth round
    assert flow.control.ssthresh == window
    assert flow.control.events == 0
    assert flow.control.window - window < SIZE
    flow.rounds(0.12, 10)
    assert SIZE < flow.control.window - window < 10 * SIZE


@both
def test_slow_start_resumes_where_the_delay_passes(parts, algorithm):
    flow = Rounds(parts, algorithm)
    flow.rounds(0.1, 2)
    flow.rounds(0.12, 2)
    assert flow.control.hystart["conservative"]
    flow.rounds(0.1)
    assert not flow.control.hystart["conservative"]
    window = flow.control.window
    flow.rounds(0.1)
    assert flow.control.window == window + 10 * SIZE


@both
def test_the_five_rounds_are_counted_anew(parts, algorithm):
    flow = Rounds(parts, algorithm)
    flow.rounds(0.1, 2)
    flow.rounds(0.12, 4)
    flow.rounds(0.1, 2)
    flow.rounds(0.12, 5)
    assert flow.control.ssthresh == INFINITE_THRESHOLD
    flow.rounds(0.12)
    assert flow.control.ssthresh < INFINITE_THRESHOLD


@both
def test_a_loss_ends_the_conservative_phase(parts, algorithm):
    """RFC 9406 §4.3: HyStart++ is for the first slow start; later ones know their threshold."""
    flow = Rounds(parts, algorithm)
    flow.rounds(0.1, 2)
    flow.rounds(0.12)
    assert flow.control.hystart["conservative"]
    flow.lose()
    flow.control.persistent()
    flow.round()
    assert flow.control.window == 4 * SIZE


@both
def test_a_few_samples_and_old_ones_prove_nothing(parts, algorithm):
    flow = Rounds(parts, algorithm)
    flow.rounds(0.1, 2)
    flow.rounds(0.2, acks=7)
    assert not flow.control.hystart["conservative"]
    flow = Rounds(parts, algorithm)
    flow.rounds(0.1, 2)
    flow.rtt.sample(0.2)
    flow.rounds(0.2, samples=False)
    assert not flow.control.hystart["conservative"]


@both
def test_rounds_without_use_of_the_window_do_not_end_slow_start(parts, algorithm):
    flow = Rounds(parts, algorithm)
    flow.rounds(0.1, 2)
    flow.rounds(0.12, 20, used=False)
    assert flow.control.in_slow_start()
    assert flow.control.ssthresh == INFINITE_THRESHOLD


@both
def test_delay_does_not_end_slow_start_on_a_local_path(parts, algorithm):
    """There the round trip is that of two event loops, and says nothing about a queue."""
    flow = Rounds(parts, algorithm)
    flow.rounds(1e-4, 2)
    window = flow.control.window
    flow.rounds(0.01, 20)
    assert flow.control.window == window + 200 * SIZE


# The soft ceiling of a small receive buffer


@both
def test_slow_start_ends_at_the_ceiling_on_a_local_path(parts, algorithm):
    flow = Flow(parts, algorithm, 1e-4, soft_ceiling=100_000)
    for _ in range(4):
        flow.round()
    # In the fourth round 96 kB are acknowledged, of which 4 kB lead to the ceiling.
    assert 100_000 <= flow.control.window <= 100_000 + SIZE
    before = flow.control.window
    for _ in range(20):
        flow.round()
    assert before + 18 * SIZE <= flow.control.window <= before + 21 * SIZE


@both
def test_the_ceiling_is_hard_once_something_was_lost(parts, algorithm):
    flow = Flow(parts, algorithm, 1e-4, soft_ceiling=100_000)
    for _ in range(20):
        flow.round()
    grown = flow.control.window
    assert grown > 110_000
    flow.lose()
    assert flow.control.window == int(grown * BETA[algorithm])
    for _ in range(1000):
        flow.round()
        assert flow.control.window <= 100_000
    assert flow.control.window == 100_000
    flow.control.spurious()
    assert flow.control.window == grown
    for _ in range(3):
        flow.round()
    assert flow.control.window > grown


@both
def test_a_loss_far_above_the_ceiling_leads_to_the_ceiling(parts, algorithm):
    flow = Flow(parts, algorithm, 1e-4, soft_ceiling=100_000)
    for _ in range(150):
        flow.round()
    assert flow.control.window > 240_000
    flow.lose()
    assert flow.control.window == flow.control.ssthresh == 100_000


@both
def test_a_hard_ceiling_takes_nothing_away(parts, algorithm):
    """A path that turns out to be local when its window is larger already."""
    flow = Flow(parts, algorithm, 0.02, soft_ceiling=100_000)
    flow.grow_to(400_000)
    flow.lose()
    window = flow.control.window
    assert window > 100_000
    flow.round_trip = 1e-4
    for _ in range(20):
        flow.round()
    assert flow.control.window == window


@both
def test_the_ceiling_is_for_local_paths_only(parts, algorithm):
    flow = Flow(parts, algorithm, 0.02, soft_ceiling=100_000)
    for _ in range(4):
        flow.round()
    assert flow.control.window == 192_000


# On anything


COMMON = ["sent", "acked", "idle"]
RARE = ["lost", "ce", "spurious", "persistent", "discarded", "size", "path"]
histories = st.lists(
    st.tuples(
        st.sampled_from(4 * COMMON + RARE),
        st.integers(0, 1 << 22),
        st.floats(1e-6, 5.0),
        st.booleans(),
    ),
    max_size=150,
)


@both
@settings(deadline=None, derandomize=True, max_examples=120)
@given(
    history=histories,
    ceiling=st.sampled_from([0, 1, 50_000, 10_000_000]),
    size=st.integers(1200, 65527),
)
def test_invariants(parts, algorithm, history, ceiling, size):
    control = parts.PathCongestion(algorithm, size, soft_ceiling=ceiling)
    rtt = parts.PathRtt()
    now, number, flight, events = 0.0, 0, 0, 0
    for what, amount, seconds, flag in history:
        before = control.window
        if what == "sent":
            control.sent(amount, number)
            number += 1
            flight += amount
        elif what == "acked":
            if flag:
                rtt.sample(seconds, now=now)
            control.acked(rtt, amount, number, now - seconds / 4, seconds > 1e-3, now)
            flight -= min(amount, flight)
            assert control.window >= before
        elif what == "lost":
            control.lost(amount, now - seconds / 4, now)
            flight -= min(amount, flight)
            assert control.window <= before
        elif what == "ce":
            control.ce(now - seconds / 4, now)
            assert control.window <= before
        elif what == "spurious":
            control.spurious()
            assert control.window >= before
        elif what == "persistent":
            control.persistent()
            assert control.window == 2 * size
        elif what == "discarded":
            control.discarded(amount)
            flight -= min(amount, flight)
        elif what == "size":
            size = 1200 + amount % 8000
            control.set_datagram_size(size)
        elif what == "path":
            size = 1200 + amount % 8000
            control.path_changed(size)
            flight = 0
        else:
            now += seconds
        assert control.bytes_in_flight == flight
        assert control.room() == max(0, control.window - flight)
        assert 2 * size <= control.window <= 1 << 30
        assert events <= control.events <= events + 1
        events = control.events
        cubic = control.cubic
        assert all(math.isfinite(cubic[name]) for name in ("w_max", "k", "prior", "w_est"))
        assert cubic["k"] >= 0.0


# Over a bottleneck


@both
def test_a_path_with_a_queue_is_used(parts, algorithm):
    """10 Mbit/s, 20 ms, room for 25 packets, which is about the bandwidth-delay product."""
    flow = Bottleneck(parts, algorithm, 1.25e6, 0.02, queue=25).run(30.0)
    assert flow.utilisation >= 0.8
    assert flow.utilisation <= 1.0
    assert flow.congestion.events >= 3  # it did find the end of the queue
    assert flow.lost / flow.sent < 0.02


def test_cubic_under_random_loss_gets_what_reno_would(parts):
    """1 % loss on a short path: Reno-friendly, so about sqrt(1.5 / p) segments a round trip."""
    flow = Bottleneck(parts, "cubic", 1.25e6, 0.02, queue=25, loss=0.01).run(80.0)
    expected = reno_segments(0.01) * SIZE / 0.02
    assert flow.lost / flow.sent == pytest.approx(0.01, rel=0.2)
    assert 0.8 * expected < flow.goodput < 1.35 * expected


def test_cubic_beats_newreno_on_a_long_fast_path_with_loss(parts):
    """What CUBIC is for: 200 Mbit/s, 100 ms, one packet in 10,000 lost."""
    reno, cubic = (
        Bottleneck(parts, algorithm, 25e6, 0.1, queue=500, loss=1e-4).run(15.0).goodput
        for algorithm in ("newreno", "cubic")
    )
    assert cubic > 1.3 * reno


@both
@pytest.mark.parametrize("buffers", [1, 2])
def test_hystart_leaves_slow_start_before_heavy_loss(parts, algorithm, buffers):
    """100 Mbit/s, 100 ms, buffers of one and of two bandwidth-delay products (1,042 packets).

    The delay of a round shows a round later, so that the window at the exit is 2.25 products at
    least; what is left to lose is what the conservative phase adds until the loss is seen.
    """
    blind, flow = (
        Bottleneck(parts, algorithm, 12.5e6, 0.1, queue=1042 * buffers, blind=blind).run(4.0)
        for blind in (True, False)
    )
    assert flow.slow_start_cautious_at < flow.first_loss_at
    assert flow.lost < 0.45 * blind.lost
    assert flow.congestion.ssthresh > 1042 * SIZE
    assert flow.goodput > 0.99 * blind.goodput


@both
def test_loopback_grows_at_once(parts, algorithm):
    """100 µs, 3 GB/s: a bandwidth-delay product of 300 kB is reached in a few round trips."""
    flow = Bottleneck(parts, algorithm, 3e9, 1e-4).run(1.5e-3)
    assert flow.congestion.window > 600_000
    assert flow.lost == 0
    assert flow.congestion.in_slow_start()
    assert flow.utilisation > 0.5


@both
def test_a_small_receive_buffer_overflows_once_under_the_ceiling(parts, algorithm):
    """Loopback whose receiver drops what does not fit into 200 kB; the ceiling is ¾ of it."""
    room = 200_000 / SIZE
    bare = Bottleneck(parts, algorithm, 1e9, 1e-4, queue=room).run(0.06)
    flow = Bottleneck(parts, algorithm, 1e9, 1e-4, queue=room, soft_ceiling=150_000).run(0.03)
    lost = flow.lost
    assert lost < bare.lost / 10
    assert flow.run(0.06).lost == lost
    assert flow.congestion.events == 1 < bare.congestion.events
    assert flow.congestion.window == 150_000
    assert flow.utilisation > 0.95
