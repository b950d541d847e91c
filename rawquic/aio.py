"""A QUIC stream as asyncio's StreamReader and StreamWriter, for protocols written for those."""

import asyncio
import contextlib
from typing import Any

from .buffers import as_bytes
from .errors import RawQuicError, StreamStopped
from .session import RawQuicSession
from .streams import RecvStream, SendStream

LIMIT = 65536  # bytes: asyncio's default for StreamReader
HIGH_WATER = 65536  # bytes in the writer's buffer above which drain() waits


async def open_stream(
    session: RawQuicSession, *, limit: int = LIMIT
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a bidirectional stream as an asyncio reader and writer."""
    return wrap(*await session.open_bi(), limit=limit)


def wrap(
    send: SendStream, recv: RecvStream, *, limit: int = LIMIT
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An asyncio reader and writer over the two halves of a stream.

    `drain()` waits while the stream takes no more; `write_eof()` finishes the stream; `close()`
    sends what was written, finishes, and stops reading; `transport.abort()` resets. Errors of the
    stream or the session come out of `drain()` and the reads.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport = _StreamTransport(loop, send, recv, protocol)
    protocol.connection_made(transport)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    return reader, writer


class _StreamTransport(asyncio.Transport):
    """Two pumps between a QUIC stream and an asyncio protocol."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        send: SendStream,
        recv: RecvStream,
        protocol: asyncio.StreamReaderProtocol,
    ) -> None:
        session = send._session
        super().__init__({"peername": session.remote_address, "sockname": session.local_address})
        self._send = send
        self._recv = recv
        self._protocol = protocol
        self._buffer = bytearray()
        self._eof = False
        self._closing = False
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        self._paused_writing = False
        self._more_to_write = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._error: BaseException | None = None
        self._writer_task = loop.create_task(self._pump_out())
        self._reader_task = loop.create_task(self._pump_in())
        self._writer_task.add_done_callback(self._on_pump_done)
        self._reader_task.add_done_callback(self._on_pump_done)

    # -- in ------------------------------------------------------------------------------------

    async def _pump_in(self) -> None:
        while True:
            await self._may_read.wait()
            data = await self._recv.read()
            if not data:
                self._protocol.eof_received()
                return
            self._protocol.data_received(data)

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def is_reading(self) -> bool:
        return self._may_read.is_set()

    # -- out -----------------------------------------------------------------------------------

    async def _pump_out(self) -> None:
        while True:
            if self._buffer:
                chunk = bytes(self._buffer)
                self._buffer.clear()
                await self._send.write(chunk)
                if self._paused_writing and len(self._buffer) <= self._low:
                    self._paused_writing = False
                    self._protocol.resume_writing()
            elif self._eof:
                # A peer that has closed reads no more, and nothing was left to be read.
                with contextlib.suppress(StreamStopped):
                    self._send.finish()
                return
            else:
                self._more_to_write.clear()
                await self._more_to_write.wait()

    def write(self, data: Any) -> None:
        if self._error is not None:
            return  # drain() raises it
        if self._eof or self._closing:
            raise RuntimeError("the stream takes no more data: write_eof() or close() was called")
        self._buffer += as_bytes(data)
        self._more_to_write.set()
        if len(self._buffer) > self._high and not self._paused_writing:
            self._paused_writing = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._eof = True
        self._more_to_write.set()

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high={high!r} must be at least low={low!r}, and that at least 0")
        self._high, self._low = high, low

    # -- the end -------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._reader_task.cancel()
            self.write_eof()

    def abort(self) -> None:
        self._closing = True
        self._send.reset(1)
        self._writer_task.cancel()
        self._reader_task.cancel()

    def _on_pump_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self._error is None:
            self._error = error
            self._closing = True
            self._writer_task.cancel()
            self._reader_task.cancel()
        if self._writer_task.done() and self._reader_task.done():
            failure = self._error
            with contextlib.suppress(RawQuicError):
                self._recv.stop()
                if failure is not None:  # one half failed: the other must not stay open
                    self._send.reset(1)
            self._protocol.connection_lost(failure if isinstance(failure, Exception) else None)
