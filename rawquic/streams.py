"""`SendStream` and `RecvStream`: the two halves of QUIC streams (RFC 9000 §2, §3).

They hold no data of their own (but for what a cancelled read gives back) and know no packets: the
connection's pull interface does the work, the session passes its events on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .backend import RecvStreamBase, SendStreamBase
from .buffers import copied
from .config import MAX_VARINT
from .errors import StreamFinished, StreamReset, StreamStopped, StreamTooLong

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

CHUNK = 65536  # bytes


def check_code(code: int) -> int:
    """An application error code (RFC 9000 §20.2), or ValueError."""
    if not isinstance(code, int) or not 0 <= code <= MAX_VARINT:
        raise ValueError(f"error code {code!r}: it must be an integer from 0 to 2^62-1")
    return code


def _integer(call: str, n: int, allowed: str) -> int:
    try:
        return index(n)
    except TypeError:
        kind = type(n).__name__
        raise TypeError(f"{call}: it must be an integer, {allowed}, not {kind}") from None


class SendStream(SendStreamBase):
    """The sending half of a stream; `async with` finishes it, or resets it on an exception."""

    _priority = 0

    @property
    def id(self) -> int:
        """The stream ID (RFC 9000 §2.1)."""
        return self._id

    @property
    def bytes_written(self) -> int:
        """How many bytes `write` has taken so far."""
        return self._bytes_written

    @property
    def priority(self) -> int:
        """Streams with a higher number send first; 0 unless set. Any int."""
        return self._priority

    @priority.setter
    def priority(self, value: int) -> None:
        self._tasks.turn.check()
        self._priority = int(value)
        self._tasks.connection.set_priority(self._id, self._priority)

    async def write(self, data: Buffer) -> None:
        """Put all of `data` (bytes-like) into the send buffer, waiting while that is full.

        When cancelled, a prefix may have been taken: `bytes_written` says how much. Of two tasks
        that write at once, each one's data is in order, in pieces between the other's.

        Raises:
            TypeError: `data` is not bytes-like; a str is to be encoded first.
            StreamStopped: the peer reads no more. StreamFinished: after `finish` or `reset`.
            SessionError: the session is over.
        """
        chunk = data if type(data) is bytes else copied(data)  # as_bytes, without the call
        offset = self._put(chunk, 0)
        while offset < len(chunk):
            await self._waiter()
            offset += self._put(chunk, offset)

    def finish(self) -> None:
        """No more data: the end goes out behind what was written (FIN). Twice is once.

        Raises:
            StreamStopped, StreamFinished (after `reset`), SessionError.
        """
        self._finish()

    async def wait_acked(self) -> None:
        """Wait until the peer has acknowledged all data and the end.

        Raises:
            StreamStopped: the peer stopped the stream. StreamFinished: it was reset here.
            SessionError: the session ended first.
        """
        self._tasks.turn.check()
        while True:
            if self._stop_code is not None:
                raise StreamStopped(self._stop_code)
            if self._reset_code is not None:
                raise StreamFinished(f"stream {self._id} was reset with code {self._reset_code}")
            if self._acked:
                return
            self._session._raise_if_closed()
            await self._waiter()

    def reset(self, code: int = 0) -> None:
        """Give up sending (RESET_STREAM, RFC 9000 §3.1): what is not delivered yet may never be.

        Also after `finish`, until the peer has acknowledged all of it: it may see StreamReset in
        place of the data. So this is no clean-up; behind `async with send` none is needed.

        `code`: 0 .. 2^62-1. Nothing happens once all was acknowledged, after another reset, and
        when the peer has stopped the stream.
        """
        self._tasks.turn.check()
        check_code(code)
        if self._reset_code is None and not self._acked and self._stop_code is None:
            self._reset_code = code
            self._tasks.streams.reset(self._id, code)
            self._tasks.turn.flush_soon(self._tasks.link)
            self._wake()

    async def stopped(self) -> int | None:
        """Wait for STOP_SENDING (RFC 9000 §3.5): its code; None when this half ended without one.

        Raises SessionError when the session ended first.
        """
        self._tasks.turn.check()
        while True:
            if self._stop_code is not None:
                return self._stop_code
            if self._acked or self._reset_code is not None:
                return None
            self._session._raise_if_closed()
            await self._waiter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.reset(1)
        elif self._stop_code is None and self._reset_code is None and not self._session.closed:
            self.finish()

    def __repr__(self) -> str:
        return f"<SendStream {self._id}: {self._bytes_written} bytes written>"

    @property
    def _open(self) -> bool:
        return not (self._finished or self._acked) and self._reset_code is None

    def _check_open(self) -> None:
        if self._stop_code is not None:
            raise StreamStopped(self._stop_code)
        if self._finished:
            raise StreamFinished(f"stream {self._id} takes no more data: it was finished")
        if self._reset_code is not None:
            raise StreamFinished(f"stream {self._id} was reset with code {self._reset_code}")
        self._session._raise_if_closed()

    def _on_stopped(self) -> None:
        self._stop_code = self._tasks.streams.stop_code(self._id)
        self._wake()


class RecvStream(RecvStreamBase):
    """The receiving half of a stream. One task at a time may read it."""

    @property
    def id(self) -> int:
        """The stream ID (RFC 9000 §2.1)."""
        return self._id

    async def read(self, n: int = CHUNK) -> bytes:
        """1..n bytes as soon as there are any, b"" at the end; n=-1: all, up to the end.

        A cancelled read loses nothing. What n=-1 takes is the peer's to decide: `read_to_end`
        has a limit.

        Raises:
            ValueError: n is 0 (b"" means the end) or less than -1. TypeError: it is no integer.
            StreamReset: the peer gave up. StreamFinished: after `stop`.
            SessionError: the session ended before the end of the stream.
            RuntimeError: another task is reading.
        """
        try:
            if n <= 0:
                if n == -1:
                    return await self._read_all(None)
                raise ValueError(f"read({n}): n must be at least 1, or -1 for all")
            data = self._take_alone(n)
        except TypeError:
            _integer("read(n)", n, "at least 1, or -1 for all")
            raise
        if data is None:
            self._reading = True
            try:
                while data is None:
                    if not self._look():
                        await self._waiter()
                    data = self._take(n)
            finally:
                self._reading = False
        return data

    async def readexactly(self, n: int) -> bytes:
        """Exactly `n` bytes, 0 or more; asyncio.IncompleteReadError when the stream ends before.

        Other errors as in `read`; what was taken before one, also before a cancellation, can
        still be read, unless the stream was stopped.
        """
        n = _integer("readexactly(n)", n, "0 or more")
        if n < 0:
            raise ValueError(f"readexactly({n}): n must not be negative")
        self._begin()
        parts: list[bytes] = []
        missing = n
        try:
            while missing:
                part = await self._read_some(missing)
                if not part:
                    partial = b"".join(parts)
                    parts.clear()
                    raise asyncio.IncompleteReadError(partial, n)
                parts.append(part)
                missing -= len(part)
        except BaseException:
            self._give_back(parts)
            raise
        finally:
            self._reading = False
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read_to_end(self, limit: int) -> bytes:
        """All bytes up to the end.

        Raises StreamTooLong, and stops the stream with code 0 (RFC 9000 §3.5), when there are more
        than `limit` bytes. Other errors as in `read`.
        """
        limit = _integer("read_to_end(limit)", limit, "0 or more")
        if limit < 0:
            raise ValueError(f"read_to_end({limit}): limit must not be negative")
        return await self._read_all(limit)

    async def readinto(self, buffer: Buffer) -> int:
        """Copy into a writable bytes-like object; the number of bytes, 0 at the end.

        Raises ValueError for an empty buffer, TypeError for one that cannot be written; other
        errors as in `read`.
        """
        with memoryview(buffer) as view, view.cast("B") as target:
            if target.readonly:
                raise TypeError("readinto: the buffer is read-only")
            if not len(target):
                raise ValueError("readinto: the buffer is empty, and 0 means the end")
            data = await self.read(min(len(target), CHUNK))
            target[: len(data)] = data
            return len(data)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks as the data comes, until the end; errors as in `read`."""
        while data := await self.read():
            yield data

    def stop(self, code: int = 0) -> None:
        """Tell the peer that no more is read (STOP_SENDING, RFC 9000 §3.5); what waits is dropped.

        `code`: 0 .. 2^62-1. Nothing happens when this half has ended already.
        """
        self._tasks.turn.check()
        check_code(code)
        if self._at_end or self._error is not None:
            return
        self._end(StreamFinished(f"reading of stream {self._id} was stopped here"))
        self._tasks.streams.stop(self._id, code)
        self._tasks.turn.flush_soon(self._tasks.link)
        self._wake()

    def __repr__(self) -> str:
        return f"<RecvStream {self._id}>"

    def _begin(self) -> None:
        self._tasks.turn.check()
        if self._reading:
            self._raise_read_by_two()
        self._reading = True

    def _raise_read_by_two(self) -> None:
        raise RuntimeError(f"another task is already reading stream {self._id}")

    async def _read_some(self, n: int) -> bytes:
        while (data := self._take(n)) is None:
            if not self._look():
                await self._waiter()
        return data

    def _take_returned(self, n: int) -> bytes:
        assert self._returned is not None
        first = self._returned.pop(0)
        if len(first) > n:
            self._returned.insert(0, first[n:])
        return first[:n]

    async def _read_all(self, limit: int | None) -> bytes:
        self._begin()
        parts: list[bytes] = []
        size = 0
        try:
            while part := await self._read_some(CHUNK):
                parts.append(part)
                size += len(part)
                if limit is not None and size > limit:
                    parts.clear()
                    self.stop()
                    raise StreamTooLong(limit)
        except BaseException:
            self._give_back(parts)
            raise
        finally:
            self._reading = False
        return b"".join(parts)

    def _give_back(self, parts: list[bytes]) -> None:
        """What a longer read had taken when it failed: the next one gets it, unless stopped."""
        if not isinstance(self._error, StreamFinished):
            self._returned = parts + (self._returned or [])

    def _end(self, error: StreamReset | StreamFinished) -> None:
        self._error = error
        self._returned = None
        self._tasks.link.flush_if_wanted()

    def _wake(self) -> None:
        waiter = self._tasks.readers.pop(self._id, None)
        if waiter is not None:
            waiter.wake()
