"""The deadlines of an endpoint's connections, on a clock that a test sets."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from rawquic.endpoint import deadlines
from rawquic.endpoint.deadlines import AT_ONCE, FEW, Deadlines


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at, self.callback, self.cancelled = at, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """A clock, and the timers that were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []
        monkeypatch.setattr(deadlines.time, "monotonic", lambda: self.now)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + seconds, callback))
        return self.timers[-1]

    def run_until(self, end: float) -> None:
        while due := [t for t in self.timers if not t.cancelled and t.at <= end]:
            timer = min(due, key=lambda t: t.at)
            self.timers.remove(timer)
            self.now = timer.at
            timer.callback()
        self.now = end


class Owner:
    pass


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(monkeypatch)


@pytest.fixture
def called() -> list[tuple[Any, float]]:
    return []


@pytest.fixture
def queue(loop: Any, called: list[tuple[Any, float]]) -> Deadlines[Any]:
    return Deadlines(loop, lambda owner, now: called.append((owner, round(now - 1000, 2))))


def test_each_is_called_once_at_its_last_deadline(
    queue: Deadlines[Any], loop: Loop, called: list[tuple[Any, float]]
) -> None:
    queue.set("a", 1003.0)
    queue.set("b", 1002.0)
    queue.set("a", 1001.0)
    queue.set("c", 1001.5)
    queue.forget("c")
    queue.arm()
    loop.run_until(1010.0)
    assert called == [("a", 1.0), ("b", 2.0)]


def test_an_earlier_deadline_replaces_the_timer(queue: Deadlines[Any], loop: Loop) -> None:
    queue.set("a", 1003.0)
    queue.arm()
    queue.set("b", 1002.0)
    queue.arm()
    queue.set("c", 1009.0)
    queue.arm()
    assert [(t.at, t.cancelled) for t in loop.timers] == [(1003.0, True), (1002.0, False)]


def test_one_that_is_called_may_set_another(loop: Any) -> None:
    times = []

    def again(owner: Any, now: float) -> None:
        times.append(round(now, 2))
        if len(times) < 3:
            queue.set(owner, now + 1)

    queue: Deadlines[Any] = Deadlines(loop, again)
    queue.set("a", 1001.0)
    queue.arm()
    loop.run_until(1010.0)
    assert times == [1001.0, 1002.0, 1003.0]


def test_many_that_are_due_leave_turns_to_others(
    queue: Deadlines[Any], loop: Loop, called: list[tuple[Any, float]]
) -> None:
    for owner in range(AT_ONCE + 1):
        queue.set(owner, 1001.0)
    queue.arm()
    [timer] = loop.timers
    loop.now = 1002.0
    timer.callback()
    assert [owner for owner, _ in called] == list(range(AT_ONCE))
    assert loop.timers[-1].at == loop.now  # the loop reads its sockets before
    loop.run_until(1002.0)
    assert called[-1][0] == AT_ONCE


def test_what_is_forgotten_or_replaced_is_let_go(queue: Deadlines[Any]) -> None:
    """A connection that has ended does not wait in memory for its idle timeout."""
    owner = Owner()
    gone = weakref.ref(owner)
    queue.set(owner, 1030.0)
    queue.set(owner, 1029.0)
    queue.forget(owner)
    del owner
    gc.collect()
    assert gone() is None


def test_forgotten_entries_do_not_pile_up(queue: Deadlines[Any]) -> None:
    for i in range(10_000):
        queue.set("a", 1030.0 - i * 1e-3)
    assert len(queue._heap) <= FEW + 3


def test_a_closed_one_calls_nobody(
    queue: Deadlines[Any], loop: Loop, called: list[tuple[Any, float]]
) -> None:
    queue.set("a", 1001.0)
    queue.arm()
    queue.close()
    queue.set("b", 1002.0)
    queue.arm()
    loop.run_until(1010.0)
    assert called == []
