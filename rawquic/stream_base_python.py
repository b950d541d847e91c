"""`SendStreamBase` and `RecvStreamBase`: what every message on a stream goes through.

In Python; their compiled twins are in fastpath/stream_base.pxi. What happens once in a stream's
life, or not at all, is in `streams`, whose classes complete these.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from operator import index
from typing import TYPE_CHECKING

from .endpoint.turn_python import Waiter, Waiters
from .errors import StreamError, StreamFinished, StreamReset

if TYPE_CHECKING:
    from .session import RawQuicSession


class SendStreamBase:
    """What `SendStream` writes with; a new one is among the session's that have not ended."""

    # SendStream's own, for both backends.
    _check_open: Callable[[], None]  # raises what a write is to raise on a stream that has ended

    def __init__(self, session: RawQuicSession, stream_id: int) -> None:
        self._session = session
        self._tasks = session._tasks
        self._tasks.sending[stream_id] = self
        self._id = stream_id
        self._bytes_written = 0
        self._finished = False
        self._acked = False
        self._reset_code: int | None = None
        self._stop_code: int | None = None
        self._waiters: Waiters | None = None  # made by the first that waits

    def _put(self, chunk: bytes, offset: int) -> int:
        """Write what fits of chunk[offset:]; how much that was. Errors as those of `write`."""
        tasks = self._tasks
        tasks.turn.check()
        if tasks.connection.close_reason is not None:
            self._check_open()
        try:
            taken = tasks.streams.write(self._id, chunk, offset)
        except StreamError:
            self._check_open()  # which may know better, once the connection has forgotten it
            raise
        if taken:
            self._bytes_written += taken
            tasks.turn.flush_soon(tasks.link)
        return taken

    def _finish(self) -> None:
        tasks = self._tasks
        tasks.turn.check()
        if self._finished:
            return
        if tasks.connection.close_reason is not None:
            self._check_open()
        try:
            tasks.streams.finish(self._id)
        except StreamError:
            self._check_open()  # as in `_put`
            raise
        self._finished = True
        tasks.turn.flush_complete(tasks.link)

    def _waiter(self) -> Waiter:
        """To be awaited at once: for room, or the end."""
        if self._waiters is None:
            self._waiters = Waiters(self._tasks.turn)
        return self._waiters.wait()

    def _wake(self) -> None:
        if self._waiters is not None:
            self._waiters.wake()

    def _on_ended(self) -> None:
        self._acked = self._finished and self._reset_code is None and self._stop_code is None
        self._wake()


class RecvStreamBase:
    """What `RecvStream` reads with."""

    # RecvStream's own, for both backends.
    _end: Callable[[StreamReset | StreamFinished], None]  # nothing more is read, for that reason
    _take_returned: Callable[[int], bytes]  # of what a cancelled read gave back
    _raise_read_by_two: Callable[[], None]

    def __init__(self, session: RawQuicSession, stream_id: int) -> None:
        self._session = session
        self._tasks = session._tasks
        self._id = stream_id
        self._returned: list[bytes] | None = None  # what a cancelled longer read had taken already
        self._reading = False
        self._at_end = False
        self._error: StreamReset | StreamFinished | None = None

    def _take_alone(self, n: int) -> bytes | None:
        """As `_take`, for a reader that may not be the only one."""
        self._tasks.turn.check()
        if self._reading:
            self._raise_read_by_two()
        return self._take(n)

    def _take(self, n: int) -> bytes | None:
        """As `read`, but None when there is nothing yet."""
        n = index(n)
        if self._returned:
            return self._take_returned(n)
        tasks = self._tasks
        try:
            data = tasks.streams.read(self._id, n)
        except StreamReset as error:
            self._end(copy.copy(error))  # the one that is raised holds this frame
            raise
        if data is None:
            if tasks.connection.close_reason is not None:
                self._session._raise_if_closed()
        elif not data:
            if self._error is not None:
                raise copy.copy(self._error)
            self._at_end = True
        return data

    def _look(self) -> bool:
        """True when a reader that is about to wait is to look again: see `Turn`."""
        return self._tasks.turn.look_for_packets()

    def _waiter(self) -> Waiter:
        """To be awaited at once: for data, or the end."""
        waiter = self._tasks.readers[self._id] = Waiter(self._tasks.turn)
        return waiter
