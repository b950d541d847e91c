"""Sessions and streams over a connection of aioquic's shape: events come, methods send.

aioquic, qh3 and aiopquic share that shape. A subclass of `EventSession` says how bytes and
datagrams go out and when a stream's backlog is too long.
"""

import asyncio
from collections import deque
from typing import Any

from rawquic.errors import (
    ClosedByPeer,
    ClosedLocally,
    SessionError,
    StreamReset,
    StreamStopped,
)

HIGH, LOW = 4 << 20, 2 << 20  # bytes of backlog at which a writer waits, and goes on


class Stream:
    """Both halves of a stream."""

    def __init__(self, session: "EventSession", stream_id: int) -> None:
        self.session, self.id = session, stream_id
        self.parts: deque[Any] = deque()
        self.ended = False
        self.error: Exception | None = None
        self.stopped: StreamStopped | None = None
        self.waiter: asyncio.Future[None] | None = None

    async def read(self, n: int = 65536) -> Any:
        while not self.parts:
            if self.error is not None:
                raise self.error
            if self.ended:
                return b""
            self.session.check()
            self.waiter = self.session.loop.create_future()
            await self.waiter
        return self.parts.popleft()

    def wake(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def write(self, data: bytes) -> None:
        if self.stopped is not None:
            raise self.stopped
        self.session.check()
        await self.session.send(self, data)

    def finish(self) -> None:
        if self.stopped is not None:
            raise self.stopped
        self.session.check()
        self.session.send_end(self.id)

    def reset(self, code: int = 0) -> None:
        self.session.reset(self.id, code)

    def stop(self, code: int = 0) -> None:
        self.ended = True
        self.session.stop(self.id, code)


class Queue:
    """What arrived, and who waits for it: each item wakes one."""

    def __init__(self, session: "EventSession") -> None:
        self.session = session
        self.items: deque[Any] = deque()
        self.waiters: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        while not self.items:
            self.session.check()
            waiter = self.session.loop.create_future()
            self.waiters.append(waiter)
            await waiter

    def put(self, item: Any) -> None:
        self.items.append(item)
        self.wake_one()

    def wake_one(self) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def wake_all(self) -> None:
        while self.waiters:
            self.wake_one()


class EventSession:
    def __init__(self, protocol: Any, quic: Any, *, is_client: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.protocol, self.quic = protocol, quic
        self.own = 0 if is_client else 1
        self.streams: dict[int, Stream] = {}
        self.arrived = (Queue(self), Queue(self))
        self.datagrams = Queue(self)
        self.writers: list[tuple[Stream, asyncio.Future[None]]] = []
        self.closed: SessionError | None = None
        self.alpn: str | None = None
        self.batch_waiters: list[asyncio.Future[None]] = []

    # What a subclass says

    def datagram_limit(self) -> int | None:
        raise NotImplementedError

    def transmit_soon(self) -> None:
        self.protocol._transmit_soon()

    def backlog(self, stream_id: int) -> int:
        raise NotImplementedError

    async def aclose(self) -> None:
        """What opened it closes it: see `ends.Ends`."""
        raise NotImplementedError

    # In

    def check(self) -> None:
        if self.closed is not None:
            raise self.closed

    def handle(self, event: Any) -> None:
        kind = type(event).__name__
        if kind == "StreamDataReceived":
            self.on_data(event.stream_id, event.data, event.end_stream)
        elif kind == "DatagramFrameReceived":
            self.datagrams.put(bytes(event.data))
        elif kind == "StreamReset":
            stream = self.stream(event.stream_id)
            stream.error = StreamReset(event.error_code)
            stream.wake()
        elif kind == "StopSendingReceived":
            stream = self.stream(event.stream_id)
            stream.stopped = StreamStopped(event.error_code)
            self.wake_writers()
        elif kind == "HandshakeCompleted":
            self.alpn = event.alpn_protocol
        elif kind == "ConnectionTerminated":
            reason = event.reason_phrase.encode()
            self.on_closed(ClosedByPeer(event.error_code, reason, event.frame_type is None))

    def stream(self, stream_id: int) -> Stream:
        stream = self.streams.get(stream_id)
        if stream is None:
            stream = self.streams[stream_id] = Stream(self, stream_id)
            if stream_id & 1 != self.own:
                self.arrived[(stream_id >> 1) & 1].put(stream)
        return stream

    def on_data(self, stream_id: int, data: Any, end: bool) -> None:
        stream = self.stream(stream_id)
        if len(data):
            stream.parts.append(data)
        if end:
            stream.ended = True
            del self.streams[stream_id]
        stream.wake()

    def on_closed(self, error: SessionError) -> None:
        if self.closed is None:
            self.closed = error
        for stream in self.streams.values():
            stream.wake()
        for queue in (*self.arrived, self.datagrams):
            queue.wake_all()
        self.wake_writers()

    def wake_writers(self) -> None:
        """After a batch came in: those whose backlog went down go on."""
        batch_waiters, self.batch_waiters = self.batch_waiters, []
        for future in batch_waiters:
            if not future.done():
                future.set_result(None)
        if not self.writers:
            return
        waiting, self.writers = self.writers, []
        for stream, future in waiting:
            if self.closed is None and not stream.stopped and self.backlog(stream.id) > LOW:
                self.writers.append((stream, future))
            elif not future.done():
                future.set_result(None)

    async def next_batch(self) -> None:
        """Wait until something came in."""
        future = self.loop.create_future()
        self.batch_waiters.append(future)
        await future
        self.check()

    # Out

    async def send(self, stream: Stream, data: bytes) -> None:
        self.quic.send_stream_data(stream.id, data)
        self.transmit_soon()
        if self.backlog(stream.id) > HIGH:
            future = self.loop.create_future()
            self.writers.append((stream, future))
            await future
            if stream.stopped is not None:
                raise stream.stopped
            self.check()

    def send_end(self, stream_id: int) -> None:
        self.quic.send_stream_data(stream_id, b"", end_stream=True)
        self.transmit_soon()

    def reset(self, stream_id: int, code: int) -> None:
        self.quic.reset_stream(stream_id, code)
        self.transmit_soon()

    def stop(self, stream_id: int, code: int) -> None:
        self.quic.stop_stream(stream_id, code)
        self.transmit_soon()

    def next_stream_id(self, uni: bool) -> int:
        return int(self.quic.get_next_available_stream_id(is_unidirectional=uni))

    def close(self, code: int = 0) -> None:
        self.quic.close(error_code=code)
        self.transmit_soon()
        self.on_closed(ClosedLocally(code))

    def request_key_update(self) -> None:
        self.quic.request_key_update()
        self.transmit_soon()

    async def take(self, stream_id: int) -> None:
        """Without this the next stream would get the same number."""
        self.quic.send_stream_data(stream_id, b"")

    async def open_bi(self) -> tuple[Stream, Stream]:
        self.check()
        stream = self.stream(self.next_stream_id(False))
        await self.take(stream.id)
        return stream, stream

    async def open_uni(self) -> Stream:
        self.check()
        stream = Stream(self, self.next_stream_id(True))
        await self.take(stream.id)
        return stream

    async def accept_bi(self) -> tuple[Stream, Stream]:
        await self.arrived[0].wait()
        stream = self.arrived[0].items.popleft()
        return stream, stream

    async def accept_uni(self) -> Stream:
        await self.arrived[1].wait()
        stream: Stream = self.arrived[1].items.popleft()
        return stream

    @property
    def max_datagram_size(self) -> int | None:
        return self.datagram_limit()

    def send_datagram(self, data: bytes) -> None:
        self.check()
        self.quic.send_datagram_frame(data)
        self.transmit_soon()

    def send_datagrams(self, datagrams: list[bytes]) -> None:
        self.check()
        for data in datagrams:
            self.quic.send_datagram_frame(data)
        self.transmit_soon()

    async def send_datagram_wait(self, data: bytes) -> None:
        self.send_datagram(data)
        await asyncio.sleep(0)

    async def read_datagram(self) -> bytes:
        await self.datagrams.wait()
        data: bytes = self.datagrams.items.popleft()
        return data

    async def read_datagrams(self) -> list[bytes]:
        await self.datagrams.wait()
        received = list(self.datagrams.items)
        self.datagrams.items.clear()
        return received
