"""Path MTU discovery: the search by hand and on any path, black holes and false alarms."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest_plugins = ["fastpath_parts.build"]


class Path:
    """Drives an Mtu over a path that carries `limit` bytes; number and time run by themselves.

    `refuses`: the system says so itself, before a packet leaves.
    """

    def __init__(self, mtu, limit, now=0.0, *, refuses=False):
        self.mtu, self.limit, self.now, self.refuses = mtu, limit, now, refuses
        self.number = 0
        self.probes = []

    def step(self):
        """Let 50 ms pass and send a probe where one is due; True where one was."""
        self.now += 0.05
        size = self.mtu.probe_size(self.now)
        if size == 0:
            return False
        self.number += 1
        self.probes.append(size)
        self.mtu.probe_sent(self.number, self.now)
        if size <= self.limit:
            assert self.mtu.probe_acked(self.number)
            assert self.mtu.current == size
        elif self.refuses:
            assert self.mtu.refused(size, self.now)
            assert not self.mtu.probe_lost(self.number)
        else:
            assert self.mtu.probe_lost(self.number)
        return True

    def search(self, seconds=30.0):
        until = self.now + seconds
        while self.now < until:
            self.step()


def test_the_bound_is_tried_first_and_found_with_one_probe(parts):
    mtu = parts.PathMtu(1200, 1452)
    path = Path(mtu, 1452)
    path.search()
    assert mtu.current == 1452
    assert path.probes == [1452]


def test_the_search_by_hand(parts):
    """1452 fails three times; then half-way between what works and what may work."""
    mtu = parts.PathMtu(1200, 1452)
    path = Path(mtu, 1400)
    path.search()
    # 1200..1451: 1326 works; ..1451: 1389 works; ..1451: 1420 fails; ..1419: 1404 fails; 14 left
    assert path.probes == [1452] * 3 + [1326, 1389] + [1420] * 3 + [1404] * 3
    assert mtu.current == 1389


def test_a_bound_nearer_than_a_step_gets_three_probes_too(parts):
    mtu = parts.PathMtu(1440, 1452)
    path = Path(mtu, 1440)
    path.search()
    assert path.probes == [1452] * 3


def test_one_probe_is_in_flight_at_a_time(parts):
    mtu = parts.PathMtu(1200, 1452)
    assert mtu.probe_size(1.0) == 1452
    assert mtu.probe_size(1.0) == 1452  # asking twice is not sending twice
    mtu.probe_sent(9, 1.0)
    assert mtu.probed == 1452
    assert mtu.probe_size(2.0) == 0


def test_lost_probes_are_repeated_after_a_pause_and_not_a_fourth_time(parts):
    mtu = parts.PathMtu(1200, 1452)
    now = 1.0
    for number, pause in ((1, 0.1), (2, 0.2)):
        assert mtu.probe_size(now) == 1452
        mtu.probe_sent(number, now)
        assert mtu.probe_lost(number)
        assert mtu.probe_size(now + pause - 0.01) == 0
        now += pause + 0.01
    assert mtu.probe_size(now) == 1452
    mtu.probe_sent(3, now)
    mtu.probe_lost(3)
    assert mtu.probe_size(now + 0.31) == 1326


def test_an_acknowledged_probe_forgives_the_lost_ones(parts):
    mtu = parts.PathMtu(1200, 1300)
    for number in (1, 2):
        mtu.probe_size(float(number))
        mtu.probe_sent(number, float(number))
        mtu.probe_lost(number)
    mtu.probe_size(3.0)
    mtu.probe_sent(3, 3.0)
    assert mtu.probe_acked(3)
    assert (mtu.current, mtu.lost_probes) == (1300, 0)


def test_a_probe_without_an_answer_is_lost_after_twenty_seconds(parts):
    mtu = parts.PathMtu(1200, 1452)
    mtu.probe_size(1.0)
    mtu.probe_sent(1, 1.0)
    assert mtu.probe_size(20.9) == 0
    assert mtu.probe_size(21.1) == 1452
    assert mtu.lost_probes == 1
    assert not mtu.probe_acked(1)  # too late
    assert mtu.current == 1200


def test_only_the_probe_counts(parts):
    mtu = parts.PathMtu(1200, 1452)
    assert not mtu.probe_acked(0)
    assert not mtu.probe_lost(0)
    mtu.probe_size(1.0)
    mtu.probe_sent(5, 1.0)
    assert not mtu.probe_acked(4)
    assert not mtu.probe_lost(6)
    assert mtu.probe_acked(5)
    assert not mtu.probe_acked(5)


def test_the_search_is_repeated_after_ten_minutes(parts):
    mtu = parts.PathMtu(1200, 1452)
    path = Path(mtu, 1400)
    path.search(30.0)
    assert mtu.current == 1389
    found = len(path.probes)
    path.search(560.0)
    assert len(path.probes) == found
    path.limit = 9000
    path.search(30.0)
    assert path.probes[found:] == [1452]
    assert mtu.current == 1452
    path.search(1300.0)  # at the bound there is nothing to repeat
    assert len(path.probes) == found + 1


@pytest.mark.parametrize(
    ("initial", "bound", "current", "probe"),
    [
        (1200, 1452, 1200, 1452),
        (1400, 1452, 1400, 1452),
        (1440, 1452, 1440, 1452),  # nearer than a step, but one probe settles it
        (1452, 1452, 1452, 0),
        (1500, 1452, 1452, 0),
        (0, 1000, 1200, 0),  # RFC 9000 §14: 1,200 is what every path carries
        (1200, 65527, 1200, 65527),
    ],
)
def test_where_it_begins(parts, initial, bound, current, probe):
    mtu = parts.PathMtu(initial, bound)
    assert mtu.current == current
    assert mtu.probe_size(0.0) == probe


@settings(deadline=None, derandomize=True)
@given(st.integers(1200, 65527), st.integers(1200, 65527))
def test_any_path_is_found_within_a_step(parts, limit, bound):
    mtu = parts.PathMtu(1200, bound)
    path = Path(mtu, limit)
    path.search(25.0)
    best = min(limit, bound)
    assert best - 20 < mtu.current <= best
    # The bound, then at most 12 halvings of 64 kB down to a step, three probes each at worst.
    assert len(path.probes) <= 3 + 3 * 12


# What the system refuses


def test_a_refused_size_is_probed_once(parts):
    mtu = parts.PathMtu(1200, 1452)
    path = Path(mtu, 1372, refuses=True)
    path.search()
    # 1200..1451: 1326 works; ..1451: 1389 is refused; ..1388: 1357 works, 1373 is refused; 15 left
    assert path.probes == [1452, 1326, 1389, 1357, 1373]
    assert mtu.current == 1357
    path.search(560.0)
    assert len(path.probes) == 5
    path.limit = 1452
    path.search(30.0)  # another link, ten minutes later
    assert mtu.current == 1452


@settings(deadline=None, derandomize=True)
@given(st.integers(1200, 65527), st.integers(1200, 65527))
def test_any_link_is_found_within_a_step(parts, limit, bound):
    mtu = parts.PathMtu(1200, bound)
    path = Path(mtu, limit, refuses=True)
    path.search(25.0)
    best = min(limit, bound)
    assert best - 20 < mtu.current <= best
    assert len(path.probes) <= 1 + 12


def test_where_the_present_size_is_refused_the_search_begins_anew_below_it(parts):
    mtu = found(parts)
    assert mtu.refused(1452, 50.0)
    assert mtu.current == 1200
    assert not mtu.refused(1452, 50.0)  # the rest of the flight
    path = Path(mtu, 1372, now=50.0, refuses=True)
    path.search()
    assert path.probes == [1326, 1389, 1357, 1373]
    assert mtu.current == 1357


def test_a_smaller_packet_than_the_present_size_is_refused(parts):
    mtu = found(parts)
    assert mtu.refused(1290, 50.0)
    assert mtu.current == 1200
    assert mtu.refused(1250, 50.0)  # one that was sent with it
    assert mtu.probe_size(50.0) == 1225


def test_where_nothing_is_left_to_find_the_search_waits(parts):
    mtu = found(parts)
    assert mtu.refused(1210, 5000.0)
    assert mtu.current == 1200
    assert mtu.probe_size(5599.0) == 0
    assert mtu.probe_size(5601.0) == 1452


def test_a_size_that_another_connection_was_refused_bounds_the_search_alone(parts):
    mtu = parts.PathMtu(1300, 1452)
    assert mtu.probe_size(1.0) == 1452
    assert mtu.refused(1401, 1.0)
    assert mtu.current == 1300
    assert mtu.probe_size(1.0) == 1350
    assert not mtu.refused(1452, 1.0)
    assert mtu.probe_size(1.0) == 1350


def test_the_base_size_is_kept_whatever_is_refused(parts):
    mtu = found(parts)
    for size in (1200, 500, 0):
        assert not mtu.refused(size, 1.0)
    assert mtu.current == 1452
    assert mtu.refused(1201, 1.0)
    assert not mtu.refused(1200, 1.0)
    assert mtu.current == 1200


def test_lost_packets_of_a_refused_size_are_no_black_hole(parts):
    mtu = found(parts)
    assert mtu.refused(1452, 50.0)
    path = Path(mtu, 1372, now=50.0, refuses=True)
    path.search()
    for number in (10, 20, 30):
        assert not mtu.packet_lost(1452, number, number + 9)
    assert (mtu.current, mtu.black_holes, mtu.suspicions) == (1357, 0, 0)


# Black holes


def found(parts, size=1452):
    mtu = parts.PathMtu(1200, size)
    Path(mtu, size).search(1.0)
    assert mtu.current == size
    return mtu


def test_three_flights_without_a_large_packet_are_a_black_hole(parts):
    mtu = found(parts)
    assert not mtu.packet_lost(1452, 10, 19)
    assert not mtu.packet_lost(1452, 20, 29)
    mtu.packet_acked(1200, 25)  # small ones say nothing
    assert mtu.packet_lost(1452, 30, 39)
    assert mtu.current == 1200
    assert mtu.black_holes == 1


def test_one_flight_counts_once(parts):
    """A queue that overflows takes the whole end of a flight; that is no black hole."""
    mtu = found(parts)
    for number in range(100, 200):
        assert not mtu.packet_lost(1452, number, 250)
    assert mtu.current == 1452
    assert mtu.suspicions == 1


def test_a_later_large_packet_that_arrived_is_an_alibi(parts):
    mtu = found(parts)
    mtu.packet_acked(1452, 500)
    for number in range(100, 500, 10):
        assert not mtu.packet_lost(1452, number, number + 5)
    assert mtu.suspicions == 0


def test_an_earlier_large_packet_is_not(parts):
    """The path shrank at packet 10: what arrived before says nothing about now."""
    mtu = found(parts)
    assert not mtu.packet_lost(1452, 10, 19)
    mtu.packet_acked(1452, 9)
    assert not mtu.packet_lost(1452, 20, 29)
    assert mtu.packet_lost(1452, 30, 39)


def test_an_arrival_between_the_losses_clears_the_suspicion(parts):
    mtu = found(parts)
    mtu.packet_lost(1452, 10, 19)
    mtu.packet_lost(1452, 20, 29)
    mtu.packet_acked(1452, 25)
    assert mtu.suspicions == 0
    assert not mtu.packet_lost(1452, 30, 39)
    assert mtu.current == 1452


def test_an_arrival_smaller_than_what_is_lost_clears_nothing(parts):
    mtu = found(parts)
    mtu.packet_lost(1452, 10, 19)
    mtu.packet_acked(1300, 15)
    mtu.packet_lost(1452, 20, 29)
    assert mtu.packet_lost(1452, 30, 39)


def test_of_several_sizes_lost_the_largest_has_to_arrive(parts):
    for size, cleared in ((1350, False), (1452, True)):
        mtu = found(parts)
        mtu.packet_lost(1300, 10, 19)
        mtu.packet_lost(1452, 20, 29)
        mtu.packet_acked(size, 25)
        assert mtu.packet_lost(1452, 30, 39) != cleared


def test_a_smaller_packet_is_no_alibi(parts):
    mtu = found(parts)
    mtu.packet_acked(1300, 500)
    mtu.packet_lost(1452, 100, 500)
    assert mtu.suspicions == 1


def test_a_larger_probe_that_arrived_clears_the_suspicion(parts):
    mtu = parts.PathMtu(1400, 1452)
    mtu.packet_lost(1400, 10, 19)
    mtu.packet_lost(1400, 20, 29)
    mtu.probe_size(1.0)
    mtu.probe_sent(30, 1.0)
    assert mtu.probe_acked(30)
    assert not mtu.packet_lost(1452, 31, 39)


def test_small_packets_are_no_evidence(parts):
    mtu = found(parts)
    for number in range(10, 100, 10):
        assert not mtu.packet_lost(1200, number, number + 9)
    assert mtu.current == 1452
    assert mtu.suspicions == 0
    base = parts.PathMtu(1200, 1452)
    for number in range(10, 100, 10):
        assert not base.packet_lost(1452, number, number + 9)


def test_after_a_black_hole_the_search_waits_a_minute_and_finds_what_fits(parts):
    mtu = found(parts)
    for number in (10, 20, 30):
        mtu.packet_lost(1452, number, number + 9)
    assert mtu.current == 1200
    path = Path(mtu, 1400, now=1000.0)
    path.search(59.0)
    assert path.probes == []
    path.search(30.0)
    assert path.probes[0] == 1452
    assert mtu.current == 1389


def test_a_lossy_path_keeps_its_mtu(parts):
    """Random loss: every flight loses a large packet, and others of it arrive."""
    mtu = found(parts)
    for start in range(100, 10_000, 10):
        mtu.packet_acked(1452, start + 9)
        assert not mtu.packet_lost(1452, start, start + 9)
        assert not mtu.packet_lost(1452, start + 5, start + 9)


# Limits


def test_a_limit_lowers_current_and_bound_for_good(parts):
    mtu = found(parts)
    assert mtu.limit(1400)
    assert (mtu.current, mtu.bound) == (1400, 1400)
    assert not mtu.limit(1400)
    assert not mtu.limit(1500)
    assert mtu.bound == 1400
    assert mtu.probe_size(5000.0) == 0


def test_a_limit_above_current_lowers_the_search_only(parts):
    mtu = parts.PathMtu(1200, 9000)
    assert not mtu.limit(1452)
    assert mtu.current == 1200
    assert mtu.probe_size(0.0) == 1452


def test_a_limit_below_1200_is_1200(parts):
    mtu = found(parts)
    assert mtu.limit(500)
    assert (mtu.current, mtu.bound) == (1200, 1200)


def test_a_probe_above_the_limit_is_forgotten(parts):
    """Before and after it was noted as sent."""
    mtu = parts.PathMtu(1200, 9000)
    assert mtu.probe_size(1.0) == 9000
    mtu.limit(8999)
    mtu.probe_sent(1, 1.0)
    assert not mtu.probe_acked(1)
    assert mtu.current == 1200
    assert mtu.probe_size(2.0) == 8999
    mtu.probe_sent(2, 2.0)
    mtu.limit(1452)
    assert mtu.probed == 0
    assert not mtu.probe_acked(2)
    assert mtu.probe_size(3.0) == 1452


operations = st.lists(
    st.one_of(
        st.tuples(st.just("probe"), st.booleans()),
        st.tuples(st.just("lost"), st.integers(0, 65527)),
        st.tuples(st.just("acked"), st.integers(0, 65527)),
        st.tuples(st.just("limit"), st.integers(0, 65535)),
        st.tuples(st.just("refused"), st.integers(0, 65535)),
        st.tuples(st.just("wait"), st.sampled_from([0.05, 1.0, 21.0, 61.0, 601.0])),
    ),
    max_size=120,
)


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 65535), st.integers(0, 65535), operations)
def test_sizes_stay_between_base_and_bound(parts, initial, bound, done):
    mtu = parts.PathMtu(initial, bound)
    now = 0.0
    for number, (kind, value) in enumerate(done):
        before = mtu.current
        if kind == "probe":
            size = mtu.probe_size(now)
            if size:
                assert before < size <= mtu.bound
                mtu.probe_sent(number, now)
                answered = mtu.probe_acked(number) if value else mtu.probe_lost(number)
                assert answered
                assert mtu.current == (size if value else before)
        elif kind == "lost":
            if mtu.packet_lost(min(value, before), number, number):
                assert mtu.current == 1200 < before
            else:
                assert mtu.current == before
        elif kind == "acked":
            mtu.packet_acked(min(value, before), number)
            assert mtu.current == before
        elif kind == "limit":
            assert mtu.limit(value) == (mtu.current < before)
        elif kind == "refused":
            if mtu.refused(value, now) and value <= before:
                assert mtu.current == 1200
            else:
                assert mtu.current == before
            assert mtu.current < value or value <= 1200
        else:
            now += value
        assert 1200 <= mtu.current <= mtu.bound <= max(bound, 1200)
        assert mtu.current <= mtu.ceiling <= mtu.bound
