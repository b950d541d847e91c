"""Busy polling (`Config.busy_poll`): look at the socket in place of sleeping.

To wake a sleeping core costs 20 µs and more, a turn of asyncio's loop about 10: for packets that
come back sooner than that, both are most of the time that a round trip takes.
"""

import asyncio
import os
import time
from collections.abc import Callable

SPIN = 50e-6  # seconds that one look may last, while no other task is ready to run
WITHOUT_A_TURN = 1e-3  # seconds that a reader may go on without a turn of the loop
yield_core: Callable[[], None] = getattr(os, "sched_yield", lambda: None)  # not on Windows


class BusyPoll:
    """Calls `read_until` again and again until nothing has come for `seconds`.

    `read_until` takes what waits on the socket; where nothing does, it looks again until something
    has come or the monotonic clock shows the time given. It returns False when nothing came.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        read_until: Callable[[float], bool],
        seconds: float,
    ) -> None:
        self._loop = loop
        self.read_until = read_until
        self._seconds = seconds
        self._until = 0.0
        self._turn = 0.0  # when the loop had its last turn
        self._closed = False
        # What waits to be run, where the loop shows it (uvloop does not; its turns are short).
        self._ready = getattr(loop, "_ready", None)
        self._queued = False  # the next poll stands in the loop's queue
        self.active = False  # True: polled once per turn; False: the loop waits for the socket

    def found(self) -> None:
        """Something came: do not sleep for a while."""
        self._until = time.monotonic() + self._seconds
        if not self.active:
            self.active = True
            self._poll_soon()

    def look(self, own: int) -> bool:
        """A look by a task that is about to wait; True when something came meanwhile.

        `own`: callbacks in the loop's queue that are the endpoint's and can wait.
        """
        now = time.monotonic()
        if (
            not self.active
            or now - self._turn >= WITHOUT_A_TURN
            or self._ready is None
            or len(self._ready) > own + self._queued
            or not self.read_until(now + SPIN)
        ):
            return False
        self._until = time.monotonic() + self._seconds
        return True

    def close(self) -> None:
        self._closed = True
        self.active = False

    def _poll_soon(self) -> None:
        self._queued = True
        self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        self._queued = False
        if self._closed:
            return
        self._turn = now = time.monotonic()
        try:
            idle = self._ready is not None and not self._ready
            if self.read_until(now + SPIN if idle else now):
                self._until = time.monotonic() + self._seconds
            elif self._ready is None:
                yield_core()  # that was all there is between two turns
        except BaseException:
            self.active = False  # the loop may go on: what comes next begins it anew
            raise
        if self._closed:
            return
        if now < self._until:
            self._poll_soon()
        else:
            self.active = False
