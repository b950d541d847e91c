"""rawquic.waiters: which tasks run when, in an endpoint's batch and outside of it."""

import asyncio
import contextvars
from collections.abc import Callable

import pytest

from rawquic.waiters import Waiter, Waiters, run_all


class Endpoint:
    """What a `Turn` is: `batch` collects, then runs, as an endpoint does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.woken: list[Waiter] | None = None

    def batch(self, wake: Callable[[], None]) -> None:
        self.woken = woken = []
        wake()
        self.woken = None
        run_all(woken)


async def turn() -> None:
    await asyncio.sleep(0)


async def in_the_loop(call: Callable[[], None]) -> None:
    """Run `call` as the loop runs a reader: in no task."""
    done = asyncio.get_running_loop().create_future()

    def run() -> None:
        try:
            call()
        finally:
            done.set_result(None)

    asyncio.get_running_loop().call_soon(run)
    await done


class Log:
    def __init__(self, waiters: Waiters) -> None:
        self.waiters = waiters
        self.lines: list[str] = []

    async def wait(self, name: str) -> None:
        try:
            await self.waiters.wait()
        except asyncio.CancelledError:
            self.lines.append(f"{name} cancelled")
            raise
        self.lines.append(name)


@pytest.fixture
async def endpoint() -> Endpoint:
    return Endpoint(asyncio.get_running_loop())


async def test_a_batch_runs_whom_it_woke_at_its_end(endpoint: Endpoint) -> None:
    log = Log(Waiters(endpoint))
    tasks = [asyncio.create_task(log.wait(name)) for name in "ab"]
    await turn()

    def batch() -> None:
        def wake() -> None:
            log.waiters.wake()
            log.lines.append("woken")

        endpoint.batch(wake)
        log.lines.append("over")

    await in_the_loop(batch)
    assert log.lines == ["woken", "a", "b", "over"]
    await asyncio.gather(*tasks)


async def test_outside_of_a_batch_they_run_in_the_next_turn(endpoint: Endpoint) -> None:
    log = Log(Waiters(endpoint))
    task = asyncio.create_task(log.wait("a"))
    await turn()
    log.waiters.wake()
    log.lines.append("woken")
    await task
    assert log.lines == ["woken", "a"]


async def test_who_is_cancelled_while_it_waits_hears_it(endpoint: Endpoint) -> None:
    log = Log(Waiters(endpoint))
    task = asyncio.create_task(log.wait("a"))
    await turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.lines == ["a cancelled"]
    await in_the_loop(lambda: endpoint.batch(log.waiters.wake))
    assert log.lines == ["a cancelled"]


async def test_who_is_cancelled_by_one_that_ran_before_hears_it(endpoint: Endpoint) -> None:
    log = Log(Waiters(endpoint))

    async def first() -> None:
        await log.waiters.wait()
        second.cancel()

    one = asyncio.create_task(first())
    await turn()
    second = asyncio.create_task(log.wait("b"))
    await turn()
    await in_the_loop(lambda: endpoint.batch(log.waiters.wake))
    await one
    with pytest.raises(asyncio.CancelledError):
        await second
    assert log.lines == ["b cancelled"]


async def test_who_is_cancelled_and_woken_before_it_ran(endpoint: Endpoint) -> None:
    log = Log(Waiters(endpoint))
    task = asyncio.create_task(log.wait("a"))
    await turn()

    def batch() -> None:
        task.cancel()
        endpoint.batch(log.waiters.wake)

    await in_the_loop(batch)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.lines == ["a cancelled"]


async def test_a_timeout_ends_a_wait(endpoint: Endpoint) -> None:
    waiters = Waiters(endpoint)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await waiters.wait()
    assert not waiters._waiting


async def test_the_error_of_one_is_its_own(endpoint: Endpoint) -> None:
    log = Log(Waiters(endpoint))

    async def fail() -> None:
        await log.waiters.wait()
        raise ValueError("its own")

    failing = asyncio.create_task(fail())
    await turn()
    task = asyncio.create_task(log.wait("b"))
    await turn()
    await in_the_loop(lambda: endpoint.batch(log.waiters.wake))
    assert log.lines == ["b"]
    await task
    with pytest.raises(ValueError, match="its own"):
        await failing


def test_what_ends_the_loop_leaves_the_others_for_later() -> None:
    loop = asyncio.new_event_loop()
    endpoint = Endpoint(loop)
    lines: list[str] = []

    async def prepare() -> None:
        log = Log(Waiters(endpoint))
        log.lines = lines

        async def leave() -> None:
            await log.waiters.wait()
            raise SystemExit

        tasks.append(asyncio.create_task(leave()))
        await turn()
        tasks.append(asyncio.create_task(log.wait("b")))
        await turn()
        loop.call_soon(lambda: endpoint.batch(log.waiters.wake))

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(SystemExit):
        loop.run_until_complete(prepare())
    assert lines == []
    loop.run_until_complete(tasks[1])
    assert lines == ["b"]
    with pytest.raises(SystemExit):
        tasks[0].result()
    loop.close()


async def test_each_runs_in_its_own_context(endpoint: Endpoint) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    waiters = Waiters(endpoint)
    seen: list[str] = []

    async def wait(value: str) -> None:
        variable.set(value)
        await waiters.wait()
        seen.append(variable.get())

    tasks = [asyncio.create_task(wait(value)) for value in "ab"]
    await turn()
    await in_the_loop(lambda: endpoint.batch(waiters.wake))
    assert seen == ["a", "b"]
    await asyncio.gather(*tasks)
