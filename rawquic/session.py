"""`RawQuicSession`: one QUIC connection as asyncio objects.

It passes the connection's readiness events to the tasks that wait for them. No packets, no
sockets: those are below `Link`.
"""

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar

from .backend import StreamTasks, Waiters
from .buffers import as_bytes
from .connection.interface import Address, Event, EventTuple, address_text
from .connection_view import Connection
from .endpoint.link import Link
from .errors import ClosedByPeer, ClosedLocally, SessionError
from .streams import RecvStream, SendStream, check_code

logger = logging.getLogger("rawquic")

T = TypeVar("T")

BIDI, UNI = 0, 1
# An enum's members are slow to look up.
READABLE, WRITABLE = Event.READABLE, Event.WRITABLE
STREAM_OPENED, SEND_ENDED, STOPPED = Event.STREAM_OPENED, Event.SEND_ENDED, Event.STOPPED
DATAGRAMS, DATAGRAM_ROOM = Event.DATAGRAMS, Event.DATAGRAM_ROOM
STREAMS_AVAILABLE, PING_ACKED = Event.STREAMS_AVAILABLE, Event.PING_ACKED
CLOSED = Event.CLOSED
SHOWN_STREAMS = 10  # how many stream IDs a log line names


class RawQuicSession:
    """A QUIC connection: streams both ways, and unreliable datagrams (RFC 9221).

    Raw QUIC: there is no HTTP/3 and no W3C WebTransport in it. Several tasks may use one session.
    As an async context manager it closes itself: `aclose(0)`, or `close(1)` after an exception.
    """

    def __init__(
        self,
        link: Link,
        *,
        server_name: str | None = None,
        release: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._link = link
        self._connection = link.connection
        self._streams = link.connection.streams
        self._config = link.endpoint.config
        self._turn = turn = link.endpoint.turn
        self._loop = asyncio.get_running_loop()
        self._server_name = server_name
        self._release = release  # of an endpoint that is this session's alone
        self._release_task: asyncio.Future[None] | None = None
        self._tasks = StreamTasks(link)
        self._readers, self._sending = self._tasks.readers, self._tasks.sending
        self._ended_before: set[int] = set()  # not accepted yet, and our half has ended already
        self._open_waiters = (Waiters(turn), Waiters(turn))
        self._datagram_waiters = Waiters(turn)
        self._datagram_room_waiters = Waiters(turn)
        self._closed_waiters = Waiters(turn)
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._ping_number = 0
        self._bytes_given_up = 0
        self._over = False
        link.on_events, link.tasks = self._on_events, self._tasks
        logger.info("%s opened, %s side", self._name(), self.connection.side)

    # -- who -----------------------------------------------------------------------------------

    @property
    def remote_address(self) -> Address:
        """The peer's (host, port); it can change when the peer migrates (RFC 9000 §9)."""
        return self._connection.peer_address()

    @property
    def local_address(self) -> Address:
        """This end's (host, port); the host is the one that the peer sends to, if it is known."""
        host, port = self._link.endpoint.local_address
        return (self._link.local or host, port)

    @property
    def connection(self) -> Connection:
        """ALPN, certificates, statistics, limits."""
        return Connection(self)

    # -- streams -------------------------------------------------------------------------------

    async def open_bi(self) -> tuple[SendStream, RecvStream]:
        """Open a bidirectional stream, waiting for the peer's credit (RFC 9000 §4.6).

        The peer hears of it with the first data, or the end. Raises SessionError.
        """
        while (stream_id := self._open(BIDI)) is None:
            await self._open_waiters[BIDI].wait()
        return SendStream(self, stream_id), RecvStream(self, stream_id)

    async def open_uni(self) -> SendStream:
        """Open a stream that only this end sends on; otherwise as `open_bi`."""
        while (stream_id := self._open(UNI)) is None:
            await self._open_waiters[UNI].wait()
        return SendStream(self, stream_id)

    async def accept_bi(self) -> tuple[SendStream, RecvStream]:
        """The next bidirectional stream of the peer's, in order.

        Those that have arrived are still given when the session is over; then it raises
        SessionError.
        """
        stream_id = await self._accept(BIDI)
        return self._accepted(stream_id), RecvStream(self, stream_id)

    async def accept_uni(self) -> RecvStream:
        """The next unidirectional stream of the peer's; otherwise as `accept_bi`."""
        return RecvStream(self, await self._accept(UNI))

    def bi_streams(self) -> AsyncIterator[tuple[SendStream, RecvStream]]:
        """The peer's bidirectional streams; ends when the session closes without error.

        Without error: closed here or by the peer with code 0. Else it raises the SessionError.
        """
        return _until_closed(self.accept_bi)

    def uni_streams(self) -> AsyncIterator[RecvStream]:
        """The peer's unidirectional streams; ends as `bi_streams` does."""
        return _until_closed(self.accept_uni)

    def _open(self, kind: int) -> int | None:
        """A new stream's ID; None when the peer gives no credit for it yet."""
        self._turn.check()
        self._raise_if_closed()
        stream_id = self._streams.open_stream(kind == UNI)
        if stream_id is None:
            self._link.flush_if_wanted()
        return stream_id

    async def _accept(self, kind: int) -> int:
        self._turn.check()
        arrived, acceptors = self._tasks.arrived[kind], self._tasks.acceptors[kind]
        while not arrived:
            self._raise_if_closed()
            if not self._turn.look_for_packets():
                try:
                    await acceptors.wait()
                except asyncio.CancelledError:
                    if arrived:  # which this task was woken for
                        acceptors.wake_one()
                    raise
        return arrived.popleft()

    def _accepted(self, stream_id: int) -> SendStream:
        """The sending half of a stream of the peer's, to which things may have happened before."""
        stream = SendStream(self, stream_id)
        stream._stop_code = self._streams.stop_code(stream_id)
        if stream_id in self._ended_before:
            self._ended_before.discard(stream_id)
            del self._sending[stream_id]
            stream._on_ended()
        elif self._over:
            del self._sending[stream_id]  # as in `_on_closed`
        return stream

    def _is_to_be_accepted(self, stream_id: int) -> bool:
        """True for a bidirectional stream of the peer's that waits; they come in order."""
        arrived = self._tasks.arrived[BIDI]
        return bool(arrived) and stream_id >= arrived[0] and stream_id % 4 == arrived[0] % 4

    # -- datagrams -----------------------------------------------------------------------------

    @property
    def max_datagram_size(self) -> int | None:
        """The most bytes of one datagram, now; None when the peer takes none (RFC 9221 §3)."""
        return self._connection.max_datagram_size()

    def send_datagram(self, data: bytes) -> None:
        """Queue a datagram at once. In a full send buffer the oldest is dropped and counted.

        Datagrams are unreliable (RFC 9221 §5): one that gets lost is not sent again.

        Raises:
            TypeError: `data` is not bytes-like; a str is to be encoded first.
            DatagramTooLarge: above `max_datagram_size`. DatagramUnsupported: the peer takes none.
            SessionError: the session is over.
        """
        self._turn.check()
        self._raise_if_closed()
        self._connection.send_datagrams((data,))
        self._link.flush_soon()

    def send_datagrams(self, datagrams: Iterable[bytes]) -> None:
        """Queue several, as `send_datagram` does one; those before a bad one are queued."""
        self._turn.check()
        if isinstance(datagrams, str | bytes | bytearray | memoryview):
            raise TypeError("send_datagrams takes a list of datagrams; send_datagram takes one")
        self._raise_if_closed()
        try:
            self._connection.send_datagrams(datagrams)
        finally:
            self._link.flush_soon()

    async def send_datagram_wait(self, data: bytes) -> None:
        """Queue a datagram, waiting for room in the send buffer in place of dropping.

        Errors as those of `send_datagram`.
        """
        self._turn.check()
        datagram = as_bytes(data)
        while not self._connection.datagram_room(len(datagram)):
            self._raise_if_closed()
            await self._datagram_room_waiters.wait()
        self.send_datagram(datagram)

    async def read_datagram(self) -> bytes:
        """The next datagram that arrived; otherwise as `read_datagrams`."""
        return (await self.read_datagrams(1))[0]

    async def read_datagrams(self, max: int = 4096) -> list[bytes]:
        """All that wait, at least one and at most `max`, in the order of their arrival.

        Those that have arrived are still given when the session is over; then it raises
        SessionError. ValueError: `max` is less than 1.
        """
        if max < 1:
            raise ValueError(f"read_datagrams(max={max}): max must be at least 1")
        self._turn.check()
        while True:
            datagrams = self._connection.read_datagrams(max)
            if datagrams:
                return datagrams
            self._raise_if_closed()
            if not self._turn.look_for_packets():
                await self._datagram_waiters.wait()

    def datagrams(self) -> AsyncIterator[bytes]:
        """The datagrams that arrive, one by one; ends as `bi_streams` does.

        Leaving the loop loses none: what waits can still be read. `read_datagrams` takes many at
        once, and is faster.
        """
        return _until_closed(self.read_datagram)

    # -- the end -------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """True once the session is over, for whatever reason."""
        return self._connection.close_reason is not None

    @property
    def close_reason(self) -> SessionError | None:
        """Why the session is over; None while it is not."""
        return self._connection.close_reason

    def close(self, code: int = 0, reason: bytes | str = b"") -> None:
        """Close at once (RFC 9000 §10.2); data that is not acknowledged yet is lost.

        Args:
            code: application error code, 0 .. 2^62-1.
            reason: bytes, or str as UTF-8; the first 900 bytes are sent.

        Of several closes the first one counts.
        """
        self._turn.check()
        check_code(code)
        raw = reason.encode() if isinstance(reason, str) else as_bytes(reason)
        if not self.closed:
            self._connection.close_session(code, raw)
            self._link.flush_soon()
            self._on_closed()

    async def aclose(
        self, code: int = 0, reason: bytes | str = b"", timeout: float | None = None
    ) -> None:
        """Close, after the peer has acknowledged the streams that were finished.

        Streams that were not finished are reset with code 1, and named in a warning in the log:
        who goes on writing to one gets ClosedLocally. Bytes given up are counted in
        `connection.stats()`. When cancelled, it closes at once. Of several closes the first one
        that comes to its end counts.

        Args:
            code, reason: as those of `close`.
            timeout: wait for acknowledgements at most so many seconds, 0 or more, where that is
                less than `Config.close_timeout`.
        """
        self._turn.check()
        check_code(code)
        raw = reason.encode() if isinstance(reason, str) else as_bytes(reason)
        limit = self._config.close_timeout
        if timeout is not None:
            if not timeout >= 0:
                raise ValueError(f"timeout={timeout!r}: it must be seconds, 0 or more, or None")
            limit = min(limit, timeout)
        try:
            if not self.closed:
                await self._finished_acked(limit)
        finally:
            if not self.closed:
                self._give_up_streams()
                self.close(code, raw)
        await self._released()

    async def wait_closed(self) -> None:
        """Wait until the session is over; `close_reason` then says why."""
        self._turn.check()
        while not self.closed:
            await self._closed_waiters.wait()
        await self._released()

    async def _finished_acked(self, limit: float) -> None:
        try:
            async with asyncio.timeout(limit):
                while not self.closed and any(
                    stream._finished and not stream._acked and stream._stop_code is None
                    for stream in self._sending.values()
                ):
                    await self._tasks.acked.wait()
        except TimeoutError:
            pass

    def _give_up_streams(self) -> None:
        """Reset what was not finished, and count what the peer may not have got."""
        unfinished = []
        lost = 0
        for stream in self._sending.values():
            size = self._streams.unacknowledged(stream.id)
            self._bytes_given_up += size
            if stream._open and stream._stop_code is None:
                # Not by `stream.reset`: that would tell a writer of a reset it did not ask for.
                self._streams.reset(stream.id, 1)
                unfinished.append(stream.id)
                lost += size
        self._link.endpoint.flush_now(self._link)
        if unfinished:
            shown = ", ".join(map(str, unfinished[:SHOWN_STREAMS]))
            more = ", ..." if len(unfinished) > SHOWN_STREAMS else ""
            logger.warning(
                "%s: aclose() reset unfinished streams (%d): %s%s; %d bytes of them were not "
                "acknowledged; finish() them before, or write inside `async with send`",
                self._name(),
                len(unfinished),
                shown,
                more,
                lost,
            )

    async def _released(self) -> None:
        if self._release_task is not None:
            await asyncio.shield(self._release_task)

    def _raise_if_closed(self) -> None:
        reason = self._connection.close_reason
        if reason is not None:
            raise copy.copy(reason)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.aclose(0)
        else:
            self.close(1)
            await self._released()

    def _name(self) -> str:
        """What the log calls it: the connection's ID and the peer's address."""
        return f"session {self.connection.id} with {address_text(self.remote_address)}"

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        peer = address_text(self.remote_address)
        return f"<RawQuicSession {self.connection.side} of {peer}, {state}>"

    # -- events --------------------------------------------------------------------------------

    def _on_events(self, events: list[EventTuple]) -> None:
        for kind, value in events:
            if kind is READABLE:
                self._tasks.readable(value)
            elif kind is STREAM_OPENED:
                self._tasks.opened(value)
            elif kind is SEND_ENDED:
                if not self._tasks.ended(value) and self._is_to_be_accepted(value):
                    self._ended_before.add(value)
            elif kind is WRITABLE:
                sending = self._sending.get(value)
                if sending is not None:
                    sending._wake()
            elif kind is STOPPED:
                sending = self._sending.get(value)
                if sending is not None:
                    sending._on_stopped()
                self._tasks.acked.wake()
            elif kind is DATAGRAMS:
                self._datagram_waiters.wake()
            elif kind is DATAGRAM_ROOM:
                self._datagram_room_waiters.wake()
            elif kind is STREAMS_AVAILABLE:
                self._open_waiters[value].wake()
            elif kind is PING_ACKED:
                ping = self._pings.pop(value, None)
                if ping is not None and not ping.done():
                    ping.set_result(None)
            elif kind is CLOSED:
                self._on_closed()

    def _on_closed(self) -> None:
        if self._over:
            return
        self._over = True
        logger.info("%s closed: %s", self._name(), self.close_reason)
        for sending in self._sending.values():
            sending._wake()
        for reader in self._readers.values():
            reader.wake()
        # They refer to the session: it would wait for the garbage collector.
        self._sending.clear()
        self._readers.clear()
        for waiters in (
            *self._tasks.acceptors,
            *self._open_waiters,
            self._datagram_waiters,
            self._datagram_room_waiters,
            self._tasks.acked,
            self._closed_waiters,
        ):
            waiters.wake()
        for ping in self._pings.values():
            if not ping.done():
                ping.set_result(None)
        self._pings.clear()
        if self._release is not None and self._release_task is None:
            self._release_task = asyncio.ensure_future(self._release())
            # The loop may end, and cancel the task, before it has run at all.
            self._release_task.add_done_callback(lambda _: self._link.endpoint.abort())


async def _until_closed(take: Callable[[], Awaitable[T]]) -> AsyncIterator[T]:
    """What `take` gives, one after the other, until the session closes with code 0."""
    while True:
        try:
            taken = await take()
        except (ClosedByPeer, ClosedLocally) as error:
            if error.code == 0:
                return
            raise
        yield taken
