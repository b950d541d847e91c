"""When busy polling looks at the socket, on a loop that a test turns by hand."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from rawquic.endpoint import busy_poll
from rawquic.endpoint.busy_poll import SPIN, WITHOUT_A_TURN, BusyPoll


class Loop:
    """A queue of callbacks, as asyncio's loops have one."""

    def __init__(self) -> None:
        self._ready: deque[Callable[[], None]] = deque()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._ready.append(callback)

    def turn(self) -> None:
        for _ in range(len(self._ready)):
            self._ready.popleft()()


class Socket:
    """Has packets after so many looks; a look takes a microsecond."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.looks = 0
        self.comes_at: set[int] = set()
        monkeypatch.setattr(busy_poll.time, "monotonic", lambda: self.now)

    def read_until(self, end: float) -> bool:
        while True:
            self.looks += 1
            self.now += 1e-6
            if self.looks in self.comes_at:
                return True
            if self.now >= end:
                return False


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def socket(monkeypatch: pytest.MonkeyPatch) -> Socket:
    return Socket(monkeypatch)


def polling(loop: Any, socket: Socket, seconds: float = 0.01) -> BusyPoll:
    poll = BusyPoll(loop, socket.read_until, seconds)
    poll.found()
    loop.turn()
    socket.looks = 0
    return poll


def test_a_waiting_task_finds_what_comes_while_it_looks(loop: Loop, socket: Socket) -> None:
    poll = polling(loop, socket)
    socket.comes_at = {20}
    assert poll.look(0)
    assert socket.looks == 20
    assert not poll.look(0)
    assert socket.looks == pytest.approx(20 + SPIN * 1e6, abs=2)


def test_nobody_looks_while_another_task_is_ready(loop: Loop, socket: Socket) -> None:
    poll = polling(loop, socket)
    socket.comes_at = {1}
    loop.call_soon(lambda: None)
    assert not poll.look(0)
    assert socket.looks == 0
    assert poll.look(1)  # that one was the endpoint's own


def test_the_loop_has_a_turn_within_a_millisecond(loop: Loop, socket: Socket) -> None:
    poll = polling(loop, socket)
    socket.comes_at = set(range(1 << 20))
    began = socket.now
    while poll.look(0):
        socket.now += 1e-5
    assert socket.now - began <= WITHOUT_A_TURN + SPIN + 2e-5
    loop.turn()
    assert poll.look(0)


def test_it_ends_when_nothing_has_come_for_the_time_given(loop: Loop, socket: Socket) -> None:
    poll = polling(loop, socket, seconds=0.001)
    began = socket.now
    while poll.active:
        loop.turn()
    assert 0.001 <= socket.now - began <= 0.001 + 2 * SPIN
    assert not loop._ready
    assert not poll.look(0)


def test_a_loop_that_does_not_show_its_queue_is_polled_once_a_turn(
    socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opaque:
        def __init__(self) -> None:
            self.queue: deque[Callable[[], None]] = deque()
            self.call_soon = self.queue.append

        def turn(self) -> None:
            self.queue.popleft()()

    loop = Opaque()
    yields: list[int] = []
    monkeypatch.setattr(busy_poll, "yield_core", lambda: yields.append(socket.looks))
    poll = polling(loop, socket)
    assert not poll.look(0)
    yields.clear()
    socket.comes_at = {2}
    for _ in range(3):
        loop.turn()
    assert socket.looks == 3
    assert yields == [1, 3]  # another program may have the core where nothing came


def test_it_begins_anew_behind_an_error(loop: Loop, socket: Socket) -> None:
    poll = polling(loop, socket)

    def broken(end: float) -> bool:
        raise KeyboardInterrupt

    poll.read_until = broken
    with pytest.raises(KeyboardInterrupt):
        loop.turn()
    assert not poll.active and not loop._ready
    poll.read_until = socket.read_until
    poll.found()
    loop.turn()
    assert poll.active and socket.looks


def test_a_closed_one_is_silent(loop: Loop, socket: Socket) -> None:
    poll = polling(loop, socket)
    poll.close()
    loop.turn()
    assert socket.looks == 0
    assert not poll.look(0)
    assert not loop._ready
