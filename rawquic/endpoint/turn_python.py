"""One turn of an endpoint's loop: the tasks that a batch woke, and what is queued to leave.

A plain future hands the task that awaits it to the loop, which runs it in its next turn. What comes
in a batch is for a task most of the time; so tasks that a batch wakes run at the end of that batch,
and what they write leaves right behind them. `fastpath/turn.pxi` and `fastpath/waiters.pxi` are the
same, compiled.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from contextvars import Context
from threading import get_ident
from typing import Any

from .busy_poll import BusyPoll
from .link import Link

# Connections of one turn of the loop: what has arrived for others may make their deadlines void,
# and it must be read before the buffer is full.
AT_ONCE = 32
FORKED = "this endpoint was inherited through fork(); make a new one"
OTHER_THREAD = (
    "rawquic objects belong to their event loop's thread; "
    "use loop.call_soon_threadsafe, or asyncio.run_coroutine_threadsafe for what is awaited"
)

# Links to ask for packets, and links that have something to tell.
OnFlush = Callable[[list[Link], list[Link]], None]


class Turn:
    """What is to happen before the loop sleeps.

    `flush(links, news)`, of the endpoint, gets the links that are to be asked for packets, and
    those that the compiled loop has sent for and that have something to tell since.

    Attributes:
        loop: the loop that all this belongs to.
        dirty: links that have something to send.
        wanted: `flush` is to be called, also without any link.
        held: nothing leaves now: links stay in `dirty`.
        dead: inherited by fork(): it would repeat packet numbers under our keys.
        busy_poll: how to look for packets in place of sleeping, where that is on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, flush: OnFlush) -> None:
        self.loop = loop
        self.dirty: dict[Link, None] = {}
        self.wanted = self.held = self.dead = False
        self.busy_poll: BusyPoll | None = None
        self._flush = flush
        self._thread = get_ident()
        self._woken: list[Waiter] | None = None  # by the batch that goes on; None: there is none
        self._looking = False  # a task looks for packets: it cannot run another one
        self._scheduled = False  # a flush stands in the loop's queue
        self._is_next = False  # a flush comes behind the tasks that run now
        self._at_once = False  # what is written leaves at once: nothing has in this batch
        # Callbacks that wait for the next turn, where the loop shows them (uvloop does not).
        self._ready = getattr(loop, "_ready", True)

    def check(self) -> None:
        """RuntimeError from another thread than the loop's, and in a forked child."""
        if self.dead:
            raise RuntimeError(FORKED)
        if get_ident() != self._thread:
            raise RuntimeError(OTHER_THREAD)

    # -- in ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A batch begins: whom it wakes runs at its end."""
        if not self._looking:
            self._woken = []

    def end(self, more_may_come: bool) -> None:
        """Run whom the batch woke, then flush; later where `more_may_come` and it woke nobody."""
        if self._looking:
            self.schedule()
            return
        woken, self._woken = self._woken, None
        if woken:
            self._is_next = self._at_once = True
            try:
                self._run(woken)
            except BaseException:
                self._is_next = False
                self.schedule()  # the loop may go on
                raise
            finally:
                self._is_next = self._at_once = False
        elif more_may_come:
            self.schedule()
            return
        self.flush()
        if self._ready:
            # Behind the tasks that are to run: what they write leaves in the same turn.
            self.schedule()

    def _run(self, woken: "list[Waiter]") -> None:
        """Run those tasks. What one raises is its own, but for what ends the loop: that comes out.

        What the first of them writes leaves before the others run, so that the peer begins with it
        meanwhile: with four messages under way to and fro that is more than twice as many a second.
        """
        for i, waiter in enumerate(woken):
            try:
                waiter._run()
                if self._at_once and self.dirty:
                    self._at_once = False
                    self.flush()
            except BaseException:
                for later in woken[i + 1 :]:
                    later._run_soon()
                raise

    def look_for_packets(self) -> bool:
        """For a task that is about to wait: True when it is to look again.

        With `Config.busy_poll`, because packets came.
        """
        busy_poll = self.busy_poll
        if busy_poll is not None and not busy_poll.active:
            busy_poll = None
        if self.dirty and (busy_poll is not None or self._at_once):
            # Nothing comes back before what was written has left.
            self._at_once = False
            if self.flush():
                return True  # that may have told of something
        if busy_poll is None:
            return False
        self._looking = True
        try:
            return busy_poll.look(self._scheduled)
        finally:
            self._looking = False

    # -- out -----------------------------------------------------------------------------------

    def flush_soon(self, link: Link) -> None:
        """Ask `link`'s connection for packets once this turn of the loop is over."""
        self.dirty[link] = None
        if not (self._scheduled or self._is_next):
            self.schedule()

    def flush_complete(self, link: Link) -> None:
        """As `flush_soon`, but at once where nothing has left in this batch: its peer waits."""
        if self._at_once and not self.held:
            self._at_once = False
            self.dirty.pop(link, None)
            self._flush([link], [])
        else:
            self.flush_soon(link)

    def schedule(self) -> None:
        """Flush in the next turn, if not before."""
        if not (self._scheduled or self._is_next or self.held):
            self._scheduled = True
            self.loop.call_soon(self._on_turn)

    def is_scheduled(self) -> bool:
        return self._scheduled

    def _on_turn(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> bool:
        """Send now what is queued: at most `AT_ONCE` links of it, the others in the next turn.

        True when `flush` of the endpoint was called.
        """
        if self.held:
            return False
        links = list(self.dirty)
        self.dirty = dict.fromkeys(itertools.islice(links, AT_ONCE, None))
        called = bool(links) or self.wanted
        if called:
            self.wanted = False
            self._flush(links[:AT_ONCE], [])
        if self.dirty:
            self.schedule()
        return called


class Waiter(asyncio.Future[None]):
    """A future that one task awaits, and which can run that task itself."""

    _wakeup: tuple[Callable[["Waiter"], object], Context | None] | None = None
    _among: "list[Waiter] | None" = None  # those who wait for the same

    def __init__(self, turn: Turn) -> None:
        super().__init__(loop=turn.loop)  # looking for it is a system call
        self._turn = turn

    def add_done_callback(
        self, fn: Callable[["Waiter"], object], /, *, context: Context | None = None
    ) -> None:
        self._wakeup = fn, context  # by the task: what makes it go on

    def wake(self) -> None:
        """Let the task go on: at the end of the batch, or in the next turn of the loop."""
        if not self.done():
            self.set_result(None)
            if self._turn._woken is None:
                self._run_soon()
            else:
                self._turn._woken.append(self)

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            if self._among is not None:
                self._among.remove(self)
            self._run_soon()
        return cancelled

    def _run(self) -> None:
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
            self._turn.loop.call_soon(self._run)


class Waiters:
    """Wakes those that wait; each looks again whether what it waits for has come."""

    __slots__ = ("_turn", "_waiting")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._waiting: list[Waiter] = []

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def wait(self) -> Waiter:
        """To be awaited at once, by one task."""
        waiter = Waiter(self._turn)
        waiter._among = self._waiting
        self._waiting.append(waiter)
        return waiter

    def wake_one(self) -> None:
        """Wake who waits longest, for what only one can have."""
        if self._waiting:
            waiter = self._waiting.pop(0)
            waiter._among = None
            waiter.wake()

    def wake(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter._among = None
                waiter.wake()


class StreamTasks:
    """The tasks of a session that wait for what its streams bring, and what all streams share.

    Attributes:
        link, connection, turn, streams: where those streams are.
        readers: who waits for data, by stream.
        arrived: the streams that the peer opened and nobody has accepted: bidirectional,
            unidirectional.
        acceptors: who waits for one of those.
        sending: the sending halves of streams that have not ended.
        acked: who waits until such have.
    """

    def __init__(self, link: "Link") -> None:
        self.link, self.connection = link, link.connection
        self.streams = link.connection.streams
        self.turn = turn = link.endpoint.turn
        self.readers: dict[int, Waiter] = {}
        self.arrived: tuple[deque[int], deque[int]] = (deque(), deque())
        self.acceptors = (Waiters(turn), Waiters(turn))
        self.sending: dict[int, Any] = {}  # SendStreams
        self.acked = Waiters(turn)

    def readable(self, stream_id: int) -> None:
        """Data has come, or the end: wake the stream's reader."""
        reader = self.readers.pop(stream_id, None)
        if reader is not None:
            reader.wake()

    def opened(self, stream_id: int) -> None:
        """The peer opened a stream (RFC 9000 §2.1): wake one who accepts such."""
        uni = (stream_id >> 1) & 1
        self.arrived[uni].append(stream_id)
        self.acceptors[uni].wake_one()

    def ended(self, stream_id: int) -> bool:
        """A sending half ended (RFC 9000 §3.1); False when nobody has it."""
        stream = self.sending.pop(stream_id, None)
        if stream is not None:
            stream._on_ended()
        self.acked.wake()
        return stream is not None
