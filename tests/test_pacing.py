"""Pacing: the rate by hand, bursts for coarse timers and whole trains, no debt for ever."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest_plugins = ["fastpath_parts.build"]

MTU = 1200
TRAIN = 65536


def path(parts, round_trip):
    """An estimate that has settled on `round_trip`."""
    rtt = parts.PathRtt()
    rtt.sample(round_trip)
    return rtt


def test_the_initial_window_leaves_at_once(parts):
    """RFC 9002 §7.7: a burst of the initial window is allowed, before any sample too."""
    pacer = parts.PathPacer()
    rtt = parts.PathRtt()
    assert pacer.allowance(rtt, 10 * MTU, True, MTU, 100.0) == 10 * MTU
    pacer.sent(10 * MTU)
    assert pacer.allowance(rtt, 10 * MTU, True, MTU, 100.0) == 0


@pytest.mark.parametrize(("slow_start", "gain"), [(False, 1.25), (True, 2.0)])
def test_tokens_come_at_the_gain_times_window_over_rtt(parts, slow_start, gain):
    pacer, rtt = parts.PathPacer(), path(parts, 0.1)
    window = 100_000
    pacer.allowance(rtt, window, slow_start, MTU, 0.0)
    pacer.sent(pacer.allowance(rtt, window, slow_start, MTU, 0.0))
    rate = gain * window / 0.1
    assert pacer.allowance(rtt, window, slow_start, MTU, 0.004) == pytest.approx(
        rate * 0.004, abs=1
    )


def test_a_burst_covers_two_milliseconds(parts):
    # 1.25 * 8 MB / 50 ms = 200 MB/s: 400 kB in 2 ms
    pacer = parts.PathPacer()
    assert pacer.allowance(path(parts, 0.05), 8_000_000, False, MTU, 1.0) == 400_000


def test_a_burst_is_a_whole_train_where_a_train_is_short(parts):
    # 1.25 * 2 MB / 100 ms = 25 MB/s: 50 kB in 2 ms, but a train lasts 2.6 ms only
    pacer = parts.PathPacer()
    assert pacer.allowance(path(parts, 0.1), 2_000_000, False, MTU, 1.0) == TRAIN


def test_a_burst_is_ten_datagrams_on_a_slow_path(parts):
    # 1.25 * 100 kB / 100 ms = 1.25 MB/s: 2.5 kB in 2 ms; a train would last 52 ms
    pacer = parts.PathPacer()
    assert pacer.allowance(path(parts, 0.1), 100_000, False, MTU, 1.0) == 10 * MTU


def test_a_full_bucket_does_not_grow(parts):
    pacer, rtt = parts.PathPacer(), path(parts, 0.1)
    pacer.allowance(rtt, 100_000, False, MTU, 0.0)
    assert pacer.allowance(rtt, 100_000, False, MTU, 3600.0) == 10 * MTU


def test_less_than_a_datagram_is_nothing(parts):
    pacer, rtt = parts.PathPacer(), path(parts, 0.1)
    pacer.allowance(rtt, 100_000, False, MTU, 0.0)
    pacer.sent(10 * MTU)
    # 1.25 MB/s: a datagram takes 960 µs
    assert pacer.allowance(rtt, 100_000, False, MTU, 0.0009) == 0
    assert pacer.allowance(rtt, 100_000, False, MTU, 0.0010) == 1250


def test_pacing_does_not_bind_on_a_path_shorter_than_a_timer(parts):
    pacer, rtt = parts.PathPacer(), path(parts, 0.0019)
    for _ in range(100):
        assert pacer.allowance(rtt, 12_000, False, MTU, 1.0) == parts.UNLIMITED
        pacer.sent(1_000_000)
    # No debt is left behind for a path that becomes longer.
    longer = path(parts, 0.1)
    pacer.allowance(rtt, 12_000, False, MTU, 1.0)
    assert pacer.allowance(longer, 12_000, False, MTU, 1.0) == 10 * MTU


def test_an_rtt_that_the_event_loop_inflated_does_not_bring_pacing_back(parts):
    pacer, rtt = parts.PathPacer(), path(parts, 1e-4)
    for _ in range(50):
        rtt.sample(0.01)
    assert rtt.smoothed > 0.009
    assert pacer.allowance(rtt, 12_000, False, MTU, 1.0) == parts.UNLIMITED


def test_ready_at_is_when_a_quarter_of_a_burst_may_leave(parts):
    pacer, rtt = parts.PathPacer(), path(parts, 0.1)
    pacer.allowance(rtt, 100_000, False, MTU, 5.0)
    assert pacer.ready_at() == 5.0
    pacer.sent(10 * MTU)
    # 3,000 bytes at 1.25 MB/s
    assert pacer.ready_at() == pytest.approx(5.0024)
    ready = pacer.ready_at() + 1e-9
    assert pacer.allowance(rtt, 100_000, False, MTU, ready) == 3000


def test_debt_is_bounded(parts):
    """Probes leave without asking (RFC 9002 §6.2.4); they cannot stop a path for ever."""
    pacer, rtt = parts.PathPacer(), path(parts, 0.1)
    pacer.allowance(rtt, 100_000, False, MTU, 0.0)
    for _ in range(1000):
        pacer.sent(60_000)
    # One burst of debt, then a quarter of one: 15,000 bytes at 1.25 MB/s
    assert pacer.ready_at() == pytest.approx(0.012)


def test_a_clock_that_steps_back_gives_nothing(parts):
    pacer, rtt = parts.PathPacer(), path(parts, 0.1)
    pacer.allowance(rtt, 100_000, False, MTU, 10.0)
    pacer.sent(8 * MTU)
    assert pacer.allowance(rtt, 100_000, False, MTU, 9.0) == 2 * MTU
    pacer.sent(2 * MTU)
    assert pacer.allowance(rtt, 100_000, False, MTU, 10.004) == pytest.approx(5000, abs=1)


@settings(deadline=None, derandomize=True)
@given(
    round_trip=st.floats(2e-3, 2.0),
    window=st.integers(2 * MTU, 1 << 30),
    slow_start=st.booleans(),
    mtu=st.integers(1200, 65527),
    waits=st.lists(st.floats(0.0, 0.5), min_size=1, max_size=50),
)
def test_no_more_than_rate_and_burst_leave(parts, round_trip, window, slow_start, mtu, waits):
    pacer, rtt = parts.PathPacer(), path(parts, round_trip)
    rate = (2.0 if slow_start else 1.25) * window / round_trip
    burst = max(10 * mtu, rate * 2e-3, TRAIN)
    now = sent = 0
    for wait in waits:
        now += wait
        allowance = pacer.allowance(rtt, window, slow_start, mtu, now)
        assert allowance == 0 or mtu <= allowance <= burst
        pacer.sent(allowance)
        sent += allowance
        assert sent <= burst + rate * now * (1 + 1e-9)
        # Whoever waits until ready_at can send.
        ready = pacer.ready_at()
        assert math.isfinite(ready)
        assert now <= ready <= now + burst / rate
        now = math.nextafter(ready, math.inf) + 1e-9
        assert pacer.allowance(rtt, window, slow_start, mtu, now) >= mtu
