"""Round-trip time: RFC 9002 §5 and §6 by hand, and what no sample may do to the estimate."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest_plugins = ["fastpath_parts.build"]


def test_before_a_sample_the_initial_rtt_stands(parts):
    rtt = parts.PathRtt(initial=0.333, max_ack_delay=0.025)
    assert not rtt.valid
    assert rtt.smoothed == 0.333
    assert rtt.variance == pytest.approx(0.1665)
    # RFC 9002 §6.2.1: 0.333 + 4 * 0.1665 + 0.025
    assert rtt.pto() == pytest.approx(1.024)
    assert rtt.loss_delay() == pytest.approx(0.333 * 9 / 8)
    assert not rtt.is_local()


def test_the_first_sample_replaces_the_guess(parts):
    rtt = parts.PathRtt()
    rtt.sample(0.1, ack_delay=0.02, now=7.5)
    assert (rtt.latest, rtt.smoothed, rtt.variance, rtt.minimum) == (0.1, 0.1, 0.05, 0.1)
    assert rtt.first_sample_at == 7.5
    rtt.sample(0.1, now=8.5)
    assert rtt.first_sample_at == 7.5


def test_a_second_sample_by_hand(parts):
    rtt = parts.PathRtt(max_ack_delay=0.025)
    rtt.sample(0.1)
    rtt.sample(0.18, ack_delay=0.02)
    # adjusted 0.16; variance 3/4 * 0.05 + 1/4 * |0.1 - 0.16|; smoothed 7/8 * 0.1 + 1/8 * 0.16
    assert rtt.variance == pytest.approx(0.0525)
    assert rtt.smoothed == pytest.approx(0.1075)
    assert rtt.pto() == pytest.approx(0.1075 + 4 * 0.0525 + 0.025)
    assert rtt.loss_delay() == pytest.approx(9 / 8 * 0.18)  # the latest is the longer one


def test_ack_delay_is_capped_once_the_handshake_is_confirmed(parts):
    early, late = parts.PathRtt(max_ack_delay=0.025), parts.PathRtt(max_ack_delay=0.025)
    for rtt, confirmed in ((early, False), (late, True)):
        rtt.sample(0.1)
        rtt.sample(0.2, ack_delay=0.08, confirmed=confirmed)
    assert early.smoothed == pytest.approx(0.0875 + 0.12 / 8)
    assert late.smoothed == pytest.approx(0.0875 + 0.175 / 8)


def test_ack_delay_never_takes_a_sample_below_the_minimum(parts):
    rtt = parts.PathRtt(max_ack_delay=0.025)
    rtt.sample(0.1)
    rtt.sample(0.11, ack_delay=0.02)  # 0.09 would be less than 0.1: taken as it is
    assert rtt.smoothed == pytest.approx(0.0875 + 0.11 / 8)
    assert rtt.minimum == 0.1


def test_the_minimum_ignores_ack_delay_and_can_be_forgotten(parts):
    rtt = parts.PathRtt()
    rtt.sample(0.1)
    rtt.sample(0.05, ack_delay=0.02)
    assert rtt.minimum == 0.05
    rtt.forget_minimum()
    rtt.sample(0.3)
    assert rtt.minimum == 0.3


def test_loopback_has_no_floor_of_a_millisecond(parts):
    rtt = parts.PathRtt(max_ack_delay=0.0)
    for _ in range(100):
        rtt.sample(80e-6)
    assert rtt.smoothed == pytest.approx(80e-6)
    assert rtt.is_local()
    # Only the timeouts have the granularity of timers (RFC 9002 §6.1.2, §6.2.1).
    assert rtt.pto() == pytest.approx(1.08e-3)
    assert rtt.loss_delay() == 1e-3


def test_a_path_is_local_below_two_milliseconds(parts):
    for latest, local in ((1.9e-3, True), (2.1e-3, False)):
        rtt = parts.PathRtt()
        rtt.sample(latest)
        assert rtt.is_local() == local
    rtt.sample(1e-4)
    rtt.sample(1.0)  # an event loop that was busy does not move the path
    assert rtt.is_local()


@pytest.mark.parametrize("latest", [0.0, -1.0, math.nan])
def test_a_clock_that_stood_still_gives_a_positive_sample(parts, latest):
    rtt = parts.PathRtt()
    rtt.sample(latest)
    assert rtt.smoothed == rtt.minimum == rtt.latest == 1e-6


samples = st.lists(
    st.tuples(
        st.one_of(st.floats(-1.0, 100.0), st.floats(0.0, 1e-3), st.just(math.nan)),
        st.one_of(st.floats(0.0, 20.0), st.sampled_from([-1.0, math.nan, math.inf])),
        st.booleans(),
    ),
    min_size=1,
    max_size=60,
)


@settings(deadline=None, derandomize=True)
@given(samples)
def test_the_estimate_stays_within_the_samples(parts, taken):
    rtt = parts.PathRtt(max_ack_delay=0.025)
    seen = []
    for latest, ack_delay, confirmed in taken:
        rtt.sample(latest, ack_delay=ack_delay, confirmed=confirmed)
        seen.append(latest if latest > 1e-6 else 1e-6)
        assert rtt.minimum == min(seen)
        slack = 1e-9 * max(seen)
        assert min(seen) - slack <= rtt.smoothed <= max(seen) + slack
        assert 0.0 <= rtt.variance <= max(seen)
        assert rtt.pto() >= rtt.smoothed + 1e-3
        assert rtt.loss_delay() >= max(1e-3, 9 / 8 * rtt.latest)
