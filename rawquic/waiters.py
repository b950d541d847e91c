"""Tasks that wait for a change which an event will announce."""

import asyncio


class Waiters:
    """Wakes all that wait; each looks again whether what it waits for has come."""

    __slots__ = ("_futures", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._futures: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        future = self._loop.create_future()
        self._futures.append(future)
        try:
            await future
        finally:
            # Woken ones were taken off; this is for a cancelled one.
            if future in self._futures:
                self._futures.remove(future)

    def wake(self) -> None:
        if self._futures:
            futures, self._futures = self._futures, []
            for future in futures:
                if not future.done():
                    future.set_result(None)
