"""Tasks that wait for a change which an event will announce.

A plain future hands the task that awaits it to the loop, which runs it in its next turn. What comes
in a batch is for a task most of the time; so tasks that a batch wakes run at the end of that batch,
in the same turn.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol


class Turn(Protocol):
    """The endpoint.

    Attributes:
        loop: the loop that it belongs to.
        woken: who is to run at the end of the batch; None: there is no batch now.
    """

    loop: asyncio.AbstractEventLoop
    woken: "list[Waiter] | None"


class Waiter(asyncio.Future[None]):
    """A future that one task awaits, and which can run that task itself."""

    _wakeup: tuple[Callable[["Waiter"], object], Context | None] | None = None

    def add_done_callback(
        self, fn: Callable[["Waiter"], object], /, *, context: Context | None = None
    ) -> None:
        self._wakeup = fn, context  # by the task: what makes it go on

    def wake(self, turn: Turn) -> None:
        """Let the task go on: at the end of the batch, or in the next turn of the loop."""
        if not self.done():
            self.set_result(None)
            if turn.woken is None:
                self._run_soon()
            else:
                turn.woken.append(self)

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self._run_soon()
        return cancelled

    def run(self) -> None:
        """Run the task now. Not to be called while a task runs."""
        if self._wakeup is not None:
            fn, context = self._wakeup
            self._wakeup = None
            if context is None:
                fn(self)
            else:
                context.run(fn, self)

    def _run_soon(self) -> None:
        if self._wakeup is not None:
            self.get_loop().call_soon(self.run)


def run_all(woken: list[Waiter]) -> None:
    """Run those tasks. What one raises is its own, but for what ends the loop: that comes out."""
    for i, waiter in enumerate(woken):
        try:
            waiter.run()
        except BaseException:
            for later in woken[i + 1 :]:
                later._run_soon()
            raise


class Waiters:
    """Wakes all that wait; each looks again whether what it waits for has come."""

    __slots__ = ("_turn", "_waiting")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._waiting: list[Waiter] = []

    async def wait(self) -> None:
        waiter = Waiter(loop=self._turn.loop)  # looking for it is a system call
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            # Woken ones were taken off; this is for a cancelled one.
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def wake(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.wake(self._turn)
