"""Turn, Waiter, Waiters: which tasks run when, in a batch and outside of it; what leaves when."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from rawquic.backend import Turn, Waiter, Waiters
from rawquic.endpoint.turn_python import AT_ONCE

pytestmark = pytest.mark.timeout(60)


class Endpoint:
    """As much of one as makes a turn: `batch` collects, then runs; `flushed` has each flush."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.flushed: list[list[Any]] = []
        self.turn = Turn(loop, self._flush)

    def _flush(self, links: list[Any], news: list[Any]) -> None:
        assert not news  # that is the compiled loop's, which there is none of here
        self.flushed.append(links)

    def batch(self, wake: Callable[[], None]) -> None:
        self.turn.begin()
        wake()
        self.turn.end(False)


class PlainLink:
    """A link whose connection the endpoint asks for packets."""

    connection = SimpleNamespace(plane=None)


def error_in_a_thread(call: Callable[[], object]) -> BaseException | None:
    """What `call` raises in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).exception()


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
    log = Log(Waiters(endpoint.turn))
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
    log = Log(Waiters(endpoint.turn))
    task = asyncio.create_task(log.wait("a"))
    await turn()
    log.waiters.wake()
    log.lines.append("woken")
    await task
    assert log.lines == ["woken", "a"]


async def test_who_is_cancelled_while_it_waits_hears_it(endpoint: Endpoint) -> None:
    log = Log(Waiters(endpoint.turn))
    task = asyncio.create_task(log.wait("a"))
    await turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.lines == ["a cancelled"]
    await in_the_loop(lambda: endpoint.batch(log.waiters.wake))
    assert log.lines == ["a cancelled"]


async def test_who_is_cancelled_by_one_that_ran_before_hears_it(endpoint: Endpoint) -> None:
    log = Log(Waiters(endpoint.turn))

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
    log = Log(Waiters(endpoint.turn))
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
    waiters = Waiters(endpoint.turn)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await waiters.wait()
    assert len(waiters) == 0


async def test_the_error_of_one_is_its_own(endpoint: Endpoint) -> None:
    log = Log(Waiters(endpoint.turn))

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
        log = Log(Waiters(endpoint.turn))
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


def test_what_was_written_before_the_loop_ended_leaves_when_it_goes_on() -> None:
    loop = asyncio.new_event_loop()
    endpoint = Endpoint(loop)
    link = PlainLink()

    async def leave(waiters: Waiters) -> None:
        await waiters.wait()
        endpoint.turn.flush_soon(link)
        raise SystemExit

    async def prepare() -> None:
        waiters = Waiters(endpoint.turn)
        tasks.append(asyncio.create_task(leave(waiters)))
        await turn()
        loop.call_soon(lambda: endpoint.batch(waiters.wake))

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(SystemExit):
        loop.run_until_complete(prepare())
    assert not endpoint.flushed
    loop.stop()
    loop.run_forever()  # one turn
    assert endpoint.flushed == [[link]]
    with pytest.raises(SystemExit):
        tasks[0].result()
    loop.close()


class Polling:
    """`BusyPoll`, with what a look finds; it finds nothing more then."""

    active = True

    def __init__(self, find: Callable[[], None]) -> None:
        self._finds = [find]

    def look(self, own: int) -> bool:
        if not self._finds:
            return False
        self._finds.pop()()
        return True


async def test_a_look_inside_of_a_batch_loses_nobody(endpoint: Endpoint) -> None:
    """A task that begins there at once (asyncio.eager_task_factory) may look for packets."""
    before, found = Log(Waiters(endpoint.turn)), Log(Waiters(endpoint.turn))
    tasks = [asyncio.create_task(log.wait("a")) for log in (before, found)]
    await turn()
    endpoint.turn.busy_poll = Polling(lambda: endpoint.batch(found.waiters.wake))

    def batch() -> None:
        before.waiters.wake()
        assert endpoint.turn.look_for_packets()
        assert not found.lines  # it may not run while another one does

    await in_the_loop(lambda: endpoint.batch(batch))
    assert before.lines == found.lines == ["a"]
    await asyncio.gather(*tasks)


async def test_who_looks_for_packets_hears_what_the_flush_before_told(endpoint: Endpoint) -> None:
    """Such as the end of its session: nobody would wake it again."""
    endpoint.turn.busy_poll = Polling(lambda: None)
    endpoint.turn.flush_soon(PlainLink())
    for _ in range(2):  # the flush, the packets
        assert endpoint.turn.look_for_packets()
    assert len(endpoint.flushed) == 1
    assert not endpoint.turn.look_for_packets()


async def test_each_runs_in_its_own_context(endpoint: Endpoint) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    waiters = Waiters(endpoint.turn)
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


async def test_one_that_is_woken_twice_runs_once(endpoint: Endpoint) -> None:
    waiter = Waiter(endpoint.turn)
    lines: list[str] = []

    async def wait() -> None:
        await waiter
        lines.append("ran")

    task = asyncio.create_task(wait())
    await turn()
    waiter.wake()
    waiter.wake()
    assert not waiter.cancel()  # it is too late
    await task
    assert lines == ["ran"]


async def test_one_that_was_woken_before_does_not_wait(endpoint: Endpoint) -> None:
    waiter = Waiter(endpoint.turn)
    waiter.wake()
    await waiter


async def test_a_cancellation_says_why(endpoint: Endpoint) -> None:
    task = asyncio.create_task(Log(Waiters(endpoint.turn)).wait("a"))
    await turn()
    task.cancel("it is late")
    with pytest.raises(asyncio.CancelledError, match="it is late"):
        await task


async def test_how_many_wait(endpoint: Endpoint) -> None:
    waiters = Waiters(endpoint.turn)
    tasks = [asyncio.create_task(Log(waiters).wait(name)) for name in "abc"]
    await turn()
    assert len(waiters) == 3
    tasks[1].cancel()
    await turn()
    assert len(waiters) == 2
    waiters.wake()
    assert len(waiters) == 0
    await asyncio.wait(tasks)


async def test_another_loop_may_not_wait_for_it(endpoint: Endpoint) -> None:
    """asyncio says so; a wake from here would run a task there in this thread."""

    async def wait() -> None:
        await Waiter(endpoint.turn)

    error = error_in_a_thread(lambda: asyncio.run(wait()))
    assert type(error) is RuntimeError and "attached to a different loop" in str(error)


# -- what leaves -----------------------------------------------------------------------------------


async def test_links_are_flushed_once_in_the_next_turn(endpoint: Endpoint) -> None:
    links = [PlainLink(), PlainLink()]
    for link in (*links, links[0]):
        endpoint.turn.flush_soon(link)
    assert endpoint.turn.is_scheduled() and not endpoint.flushed
    await turn()
    assert endpoint.flushed == [links]
    assert not endpoint.turn.is_scheduled() and not endpoint.turn.dirty
    await turn()
    assert endpoint.flushed == [links]


async def test_what_the_first_woken_task_writes_leaves_before_the_others(
    endpoint: Endpoint,
) -> None:
    waiters = Waiters(endpoint.turn)
    links = [PlainLink() for _ in range(4)]
    at_flush: list[int] = []

    async def write(link: Any) -> None:
        await waiters.wait()
        endpoint.turn.flush_soon(link)
        at_flush.append(len(endpoint.flushed))

    tasks = [asyncio.create_task(write(link)) for link in links]
    await turn()
    await in_the_loop(lambda: endpoint.batch(waiters.wake))
    assert at_flush == [0, 1, 1, 1]
    assert endpoint.flushed == [links[:1], links[1:]]
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("count", [1, 2])
async def test_what_is_complete_first_leaves_at_once(endpoint: Endpoint, count: int) -> None:
    """Once in a batch: who completes many would send each in a packet of its own."""
    waiters = Waiters(endpoint.turn)
    link = PlainLink()
    seen: list[int] = []

    async def complete() -> None:
        await waiters.wait()
        for _ in range(2):
            endpoint.turn.flush_soon(link)
            assert list(endpoint.turn.dirty) == [link]
            endpoint.turn.flush_complete(link)
            seen.append(len(endpoint.flushed))

    for batches in (1, 2):
        tasks = [asyncio.create_task(complete()) for _ in range(count)]
        await turn()
        await in_the_loop(lambda: endpoint.batch(waiters.wake))
        await asyncio.gather(*tasks)
        assert seen == [2 * batches - 1] * 2 * count
        assert endpoint.flushed == [[link]] * 2 * batches
        seen.clear()


async def test_what_a_task_wrote_leaves_before_it_waits(endpoint: Endpoint) -> None:
    """And it looks again, since the endpoint may have told it of something meanwhile."""
    waiters = Waiters(endpoint.turn)
    link = PlainLink()
    seen: list[tuple[bool, int]] = []

    async def write_and_wait() -> None:
        await waiters.wait()
        for _ in range(2):
            endpoint.turn.flush_soon(link)
            seen.append((endpoint.turn.look_for_packets(), len(endpoint.flushed)))

    task = asyncio.create_task(write_and_wait())
    await turn()
    await in_the_loop(lambda: endpoint.batch(waiters.wake))
    await task
    assert seen == [(True, 1), (False, 1)]  # once in a batch
    assert endpoint.flushed == [[link], [link]]
    endpoint.turn.flush_soon(link)
    assert not endpoint.turn.look_for_packets()  # outside of a batch it leaves with the turn
    assert len(endpoint.flushed) == 2


async def test_what_is_complete_outside_of_a_batch_leaves_with_the_turn(endpoint: Endpoint) -> None:
    link = PlainLink()
    endpoint.turn.flush_complete(link)
    assert not endpoint.flushed
    await turn()
    assert endpoint.flushed == [[link]]


async def test_what_is_complete_is_held_as_all_is(endpoint: Endpoint) -> None:
    waiters = Waiters(endpoint.turn)
    link = PlainLink()

    async def complete() -> None:
        await waiters.wait()
        endpoint.turn.flush_complete(link)

    task = asyncio.create_task(complete())
    await turn()
    endpoint.turn.held = True
    await in_the_loop(lambda: endpoint.batch(waiters.wake))
    await task
    assert not endpoint.flushed and list(endpoint.turn.dirty) == [link]


async def test_a_batch_that_wakes_nobody_may_wait_for_more(endpoint: Endpoint) -> None:
    link = PlainLink()

    def batch() -> None:
        endpoint.turn.begin()
        endpoint.turn.flush_soon(link)
        endpoint.turn.end(True)
        assert not endpoint.flushed

    await in_the_loop(batch)
    await turn()
    assert endpoint.flushed == [[link]]


async def test_only_so_many_links_in_one_turn(endpoint: Endpoint) -> None:
    links = [PlainLink() for _ in range(2 * AT_ONCE + 1)]
    for link in links:
        endpoint.turn.flush_soon(link)
    for _ in range(3):
        await turn()
    assert endpoint.flushed == [links[:AT_ONCE], links[AT_ONCE : 2 * AT_ONCE], links[-1:]]


async def test_while_it_is_held_nothing_leaves(endpoint: Endpoint) -> None:
    link = PlainLink()
    endpoint.turn.held = True
    endpoint.turn.flush_soon(link)
    await turn()
    endpoint.turn.flush()
    assert not endpoint.flushed and list(endpoint.turn.dirty) == [link]
    endpoint.turn.held = False
    endpoint.turn.flush()
    assert endpoint.flushed == [[link]]


async def test_a_flush_that_is_wanted_needs_no_link(endpoint: Endpoint) -> None:
    endpoint.turn.flush()
    assert not endpoint.flushed
    endpoint.turn.wanted = True
    endpoint.turn.flush()
    assert endpoint.flushed == [[]] and not endpoint.turn.wanted


async def test_the_error_of_a_batch_does_not_lose_whom_it_woke(endpoint: Endpoint) -> None:
    log = Log(Waiters(endpoint.turn))
    task = asyncio.create_task(log.wait("a"))
    await turn()
    endpoint.turn.begin()
    log.waiters.wake()
    await in_the_loop(lambda: endpoint.turn.end(False))
    await task
    log.waiters.wake()  # outside of a batch again
    assert log.lines == ["a"]


# -- who may call ----------------------------------------------------------------------------------


async def test_only_the_thread_of_the_loop(endpoint: Endpoint) -> None:
    endpoint.turn.check()
    error = error_in_a_thread(endpoint.turn.check)
    assert type(error) is RuntimeError and "call_soon_threadsafe" in str(error)


async def test_not_in_a_forked_child(endpoint: Endpoint) -> None:
    endpoint.turn.dead = True
    with pytest.raises(RuntimeError, match="fork"):
        endpoint.turn.check()
