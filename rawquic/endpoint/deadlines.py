"""One timer of the event loop for the deadlines of all connections of an endpoint."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from .turn_python import AT_ONCE

SLACK = 0.0001  # seconds; the loop may call a timer that much early
FEW = 64  # forgotten entries that are not worth to be swept


Owner = TypeVar("Owner", bound=Hashable)


class Deadlines(Generic[Owner]):
    """Calls on_due(owner, now) once a deadline of an owner has passed; one deadline for each.

    A deadline that is replaced or forgotten keeps nothing of its owner alive: that of a connection
    that has ended would be its idle timeout.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_due: Callable[[Owner, float], None]
    ) -> None:
        self._loop = loop
        self._on_due = on_due
        self._heap: list[tuple[float, int, list[Owner]]] = []  # the list is empty once forgotten
        self._entries: dict[Owner, tuple[float, int, list[Owner]]] = {}
        self._order = itertools.count()
        self.changed = False  # since the timer was armed last
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closed = False

    def set(self, owner: Owner, deadline: float) -> None:
        """Call for `owner` at `deadline`, and at no other time; `arm` starts the timer."""
        self.forget(owner)
        self.changed = True
        entry = (deadline, next(self._order), [owner])
        self._entries[owner] = entry
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self._entries) + FEW:
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)

    def forget(self, owner: Owner) -> None:
        entry = self._entries.pop(owner, None)
        if entry is not None:
            entry[2].clear()

    def arm(self) -> None:
        """Have the loop call at the earliest deadline, if that is earlier than what it has."""
        self.changed = False
        while self._heap and not self._heap[0][2]:
            heapq.heappop(self._heap)
        if self._closed or not self._heap:
            return
        deadline = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._on_timer)

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self) -> None:
        self._timer = None
        now = time.monotonic() + SLACK
        called = 0
        while not self._closed and self._heap and self._heap[0][0] <= now and called < AT_ONCE:
            _, _, owners = heapq.heappop(self._heap)
            if owners:
                called += 1
                del self._entries[owners[0]]
                self._on_due(owners[0], now)
        self.arm()
