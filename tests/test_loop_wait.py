"""Waiting for packets in the place of asyncio's loop: everything else on that loop has its turn."""

import asyncio
import ctypes
import os
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from udp_sockets import compiled

import rawquic
from rawquic.endpoint.io import is_asyncios_own

pytestmark = pytest.mark.skipif(
    rawquic.backend_info()["backend"] != "compiled", reason="the python backend has no reactor"
)

PATIENCE = 60.0  # seconds


class Waiting:
    """A reactor on asyncio's own loop, and a thread that sends each datagram of ours back.

    For each batch `on_datagram` is called with how many datagrams have come; the next one is sent
    until `most` have.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int = 1000) -> None:
        from rawquic._fastpath import LoopWait, Reactor

        self.loop: Any = loop
        self.most = most
        self.came = 0
        self.turns = 0  # of the loop
        self.done = loop.create_future()
        self.on_datagram: Callable[[int], object] = lambda count: None
        self.ours, self.theirs = (self._socket() for _ in range(2))
        self.theirs.settimeout(PATIENCE)
        self.reactor = Reactor(compiled()(self.ours), self._on_batch, lambda: None)
        self.wait = LoopWait(loop, self.ours.fileno(), self.reactor)
        self.thread = threading.Thread(target=self._echo)
        self._select = self.loop._selector.select
        self.loop._selector.select = self._turn

    @staticmethod
    def _socket() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        return sock

    def _turn(self, timeout: float | None = None) -> Any:
        self.turns += 1
        return self._select(timeout)

    def _echo(self) -> None:
        while (data := self.theirs.recv(100)) != b"end":
            self.theirs.sendto(data, self.ours.getsockname())

    def _on_batch(self, others: list[Any], planes: list[Any]) -> None:
        self.came += len(others)
        self.on_datagram(self.came)
        if self.came < self.most:
            self.send(b"again")
        elif not self.done.done():
            self.done.set_result(None)

    def send(self, data: bytes) -> None:
        self.ours.sendto(data, self.theirs.getsockname())

    async def __aenter__(self) -> "Waiting":
        self.thread.start()
        self.loop.add_reader(self.ours.fileno(), self.wait.on_readable)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.send(b"end")
        self.thread.join()
        self.loop.remove_reader(self.ours.fileno())
        self.reactor.close()
        del self.loop._selector.select
        self.ours.close()
        self.theirs.close()

    async def run(self) -> None:
        self.send(b"first")
        await asyncio.wait_for(self.done, PATIENCE)


@pytest.fixture
def own_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.SelectorEventLoop(selectors.EpollSelector())
    yield loop
    loop.close()


def test_the_loop_has_few_turns_while_it_would_only_wait(
    own_loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        async with Waiting(asyncio.get_running_loop()) as waiting:
            await waiting.run()
            assert waiting.came == 1000
            assert waiting.turns < 500
            assert waiting.turns >= 1000 // 65  # but one now and then all the same

    own_loop.run_until_complete(main())


def test_what_is_queued_runs_before_the_next_batch(own_loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []

        def on_datagram(count: int) -> None:
            if count % 10 == 0:
                loop.call_soon(seen.append, f"queued {count}")
            seen.append(f"batch {count}")

        async with Waiting(loop, most=200) as waiting:
            waiting.on_datagram = on_datagram
            await waiting.run()
        for count in range(10, 200, 10):
            at = seen.index(f"batch {count}")
            assert seen[at + 1] == f"queued {count}"

    own_loop.run_until_complete(main())


def test_timers_run_while_packets_come(own_loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Waiting(loop, most=1 << 62) as waiting:
            waiting.send(b"first")
            for _ in range(5):
                before = waiting.came
                await asyncio.sleep(0.01)
            assert waiting.came > before
            waiting.most = 0

    own_loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))


def test_other_sockets_are_heard_while_packets_come(own_loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()
        read, write = os.pipe()
        loop.add_reader(read, heard.set)
        try:
            async with Waiting(loop, most=1 << 62) as waiting:
                waiting.on_datagram = lambda count: count == 300 and os.write(write, b"x")
                waiting.send(b"first")
                await heard.wait()
                loop.remove_reader(read)
                waiting.most = 0
        finally:
            os.close(read)
            os.close(write)

    own_loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))


def test_another_thread_is_heard_while_nothing_comes(
    own_loop: asyncio.AbstractEventLoop,
) -> None:
    """The wait is behind the only batch; the loop has no timer and nothing else."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        called = loop.create_future()
        async with Waiting(loop, most=1) as waiting:
            waiting.on_datagram = lambda count: threading.Timer(
                0.005, loop.call_soon_threadsafe, (called.set_result, None)
            ).start()
            waiting.send(b"first")
            await called

    own_loop.run_until_complete(main())


def test_a_stopped_loop_stops(own_loop: asyncio.AbstractEventLoop) -> None:
    waiting = Waiting(own_loop, most=1 << 62)
    own_loop.run_until_complete(waiting.__aenter__())
    waiting.on_datagram = lambda count: count == 20 and own_loop.stop()
    waiting.send(b"first")
    own_loop.run_forever()
    assert waiting.came == 20
    waiting.most = 0
    waiting.close()


def test_a_closed_reactor_is_not_waited_for(own_loop: asyncio.AbstractEventLoop) -> None:
    """Its descriptor may be somebody else's by now."""

    async def main() -> None:
        async with Waiting(asyncio.get_running_loop(), most=1000) as waiting:

            def on_datagram(count: int) -> None:
                if count == 20:
                    waiting.reactor.close()
                    waiting.done.set_result(None)

            waiting.on_datagram = on_datagram
            await waiting.run()
            assert waiting.came == 20

    own_loop.run_until_complete(main())


def test_a_signal_is_handled(own_loop: asyncio.AbstractEventLoop) -> None:
    """A handler of Python's, which no descriptor tells the loop of."""

    def on_alarm(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    waiting = Waiting(own_loop, most=1 << 62)
    own_loop.run_until_complete(waiting.__aenter__())
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        own_loop.call_soon(waiting.send, b"first")
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            own_loop.run_until_complete(asyncio.sleep(PATIENCE))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        waiting.most = 0
        waiting.close()


def test_what_a_handler_of_a_signal_queues_runs_before_the_next_batch(
    own_loop: asyncio.AbstractEventLoop,
) -> None:
    """The signal is there at the end of a batch, and no Python runs that would see it."""
    from rawquic._fastpath import LoopWait, Reactor

    class Signal:
        @classmethod
        def from_param(cls, _: object) -> ctypes.c_int:
            return ctypes.c_int(signal.SIGUSR1)

    def on_signal(number: int, frame: object) -> None:
        handled.append(number)
        own_loop.call_soon(handled.clear)
        theirs.sendto(b"second", ours.getsockname())

    on_batch = ctypes.PYFUNCTYPE(None, Signal, Signal)(("PyErr_SetInterruptEx", ctypes.pythonapi))
    handled: list[int] = []
    ours, theirs = (Waiting._socket() for _ in range(2))
    wait = LoopWait(own_loop, ours.fileno(), Reactor(compiled()(ours), on_batch, lambda: None))
    own_loop.add_reader(ours.fileno(), wait.on_readable)
    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        theirs.sendto(b"first", ours.getsockname())
        wait.on_readable()
        assert len(handled) == 1
        assert ours.recv(100) == b"second"
    finally:
        signal.signal(signal.SIGUSR1, before)
        own_loop.remove_reader(ours.fileno())
        ours.close()
        theirs.close()


def test_in_debug_mode_each_batch_has_its_turn(own_loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        async with Waiting(loop, most=200) as waiting:
            await waiting.run()
            assert waiting.turns >= waiting.came

    own_loop.run_until_complete(main())


def test_only_asyncios_own_loop_is_stood_in_for(own_loop: asyncio.AbstractEventLoop) -> None:
    class Changed(asyncio.SelectorEventLoop):
        pass

    assert is_asyncios_own(own_loop)
    for other in (Changed(), asyncio.SelectorEventLoop(selectors.SelectSelector())):
        assert not is_asyncios_own(other)
        other.close()
