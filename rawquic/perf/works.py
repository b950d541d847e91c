"""The client's end: what is measured. One function per work, on any stack that has the interface.

A work runs on connections of its own. What the clock covers starts after the handshake (but in
"handshakes"), and after a first transfer that opens the congestion window; it ends when the peer
has answered, never when a buffer took the last byte.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

from .interface import Connect, Receiving, Sending, Session
from .measure import Meter, Result, own_usage, percentiles, report
from .protocol import BOUNCE, ECHO, RANDOM, SINK, WORD, word
from .verify import DIGEST_SIZE, Corrupted

CHUNK = 65536
BLOCK = bytes(CHUNK)
FIRST_SIZE = 1 << 20  # of the transfers that find out how much fits into the duration
LARGEST_SIZE = 1 << 32
STALL = 0.25  # seconds without a datagram after which those in flight are lost
SETTLE = 0.05
OPENING_AT_ONCE = 32
DATAGRAM_HEAD = 1 + WORD


class PerfError(Exception):
    """The server did not do what was asked of it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much of what; a work looks only at what concerns it.

    Attributes:
        duration: seconds that the measured part is to take, about.
        size: bytes of a transfer; None: as many as fit into `duration`.
        streams: streams of a transfer, each with an equal part of it.
        open_streams: other streams, held open meanwhile, on which nothing moves.
        connections: connections that share a transfer or the requests; how many idle ones.
        count: requests, datagrams or handshakes, all together; None: for `duration`.
        request_size, answer_size: bytes of a request (its first 8 included) and of its answer.
        at_once: requests or handshakes under way at once, on each connection.
        datagram_size: bytes. window: datagrams in flight. batch: use the calls for many.
    """

    duration: float = 2.0
    size: int | None = None
    streams: int = 1
    open_streams: int = 0
    connections: int = 1
    count: int | None = None
    request_size: int = 64
    answer_size: int = 64
    at_once: int = 1
    datagram_size: int = 1100
    window: int = 256
    batch: bool = True


Work = Callable[[Connect, Options], Awaitable[Result]]


async def run(work: str, connect: Connect, options: Options) -> Result:
    """Run one work of `WORKS`. Raises PerfError, SessionError."""
    result = await WORKS[work](connect, options)
    result.work = work
    result.options = asdict(options)
    return result


# Transfers


async def _fetch(session: Session, size: int) -> None:
    send, recv = await session.open_bi()
    await send.write(word(size))
    send.finish()
    got = 0
    while data := await recv.read(CHUNK):
        got += len(data)
    if got != size:
        raise PerfError(f"{size} bytes were asked for, {got} came")


async def _give(session: Session, size: int) -> None:
    send, recv = await session.open_bi()
    await send.write(word(1))
    for _ in range(size // CHUNK):
        await send.write(BLOCK)
    if rest := size % CHUNK:
        await send.write(BLOCK[:rest])
    send.finish()
    answer = await recv.read(CHUNK)
    if len(answer) != 1 or await recv.read(CHUNK):
        raise PerfError("an upload was not answered with one byte")


async def _both(session: Session, size: int) -> None:
    await asyncio.gather(_fetch(session, size), _give(session, size))


async def _hold_open(session: Session, count: int) -> list[tuple[Sending, Receiving]]:
    """Streams that the server would echo; it has heard of each one."""
    held = []
    for _ in range(count):
        send, recv = await session.open_bi()
        held.append((send, recv))
        await send.write(word(ECHO) + b"x")
    for _, recv in held:
        await recv.read(1)
    return held


async def _transfer(
    move: Callable[[Session, int], Awaitable[None]], connect: Connect, options: Options
) -> Result:
    sessions = [await connect() for _ in range(options.connections)]
    parts = options.connections * options.streams

    async def move_all(size: int) -> float:
        started = time.perf_counter()
        jobs = [move(s, max(1, size // parts)) for s in sessions for _ in range(options.streams)]
        await asyncio.gather(*jobs)
        return time.perf_counter() - started

    try:
        held = [await _hold_open(s, options.open_streams) for s in sessions]
        size = min(FIRST_SIZE, options.size or FIRST_SIZE)
        seconds = await move_all(size)
        while options.size is None and seconds < options.duration / 4 and size < LARGEST_SIZE:
            size = min(LARGEST_SIZE, size * 4)
            seconds = await move_all(size)
        wanted = options.size or int(size / seconds * options.duration)
        wanted = min(LARGEST_SIZE, max(wanted, parts))
        meter = Meter(sessions[0])
        await meter.start()
        result = Result("", seconds=await move_all(wanted), bytes=wanted, count=parts)
        meter.stop()
        await meter.fill(result)
        held.clear()
        return result
    finally:
        await _close(sessions)


async def download(connect: Connect, options: Options) -> Result:
    return await _transfer(_fetch, connect, options)


async def upload(connect: Connect, options: Options) -> Result:
    return await _transfer(_give, connect, options)


async def both(connect: Connect, options: Options) -> Result:
    """A download and an upload of the same size at once; `bytes` counts both."""
    result = await _transfer(_both, connect, options)
    result.bytes *= 2
    return result


async def hashed_download(connect: Connect, options: Options) -> Result:
    """`size` random bytes on a fresh connection, hashed at both ends: goodput and the worst stall.

    Nothing opens the congestion window beforehand. Raises Corrupted.
    """
    size = FIRST_SIZE if options.size is None else options.size
    session = await connect()
    try:
        meter = Meter(session)
        await meter.start()
        digest, told, got, stall = hashlib.sha256(), b"", 0, 0.0
        started = progress = time.perf_counter()
        send, recv = await session.open_bi()
        await send.write(word(RANDOM) + word(size))
        send.finish()
        while data := await recv.read(CHUNK):
            now = time.perf_counter()
            stall, progress = max(stall, now - progress), now
            body = data[: size - got]
            digest.update(body)
            told += data[len(body) :]
            got += len(body)
            if len(told) > DIGEST_SIZE:
                break
        seconds = time.perf_counter() - started
        meter.stop()
        if told != digest.digest():
            raise Corrupted(f"{size} random bytes: {got} came, and their SHA-256 is another one")
        result = Result("", seconds=seconds, bytes=size, count=1, stall=stall)
        await meter.fill(result)
        return result
    finally:
        await _close([session])


# Requests


class _Quota:
    """How many are still to be done: a number, or until a moment."""

    def __init__(self, options: Options) -> None:
        self._left = options.count
        self._end = time.perf_counter() + options.duration

    def take(self, now: float) -> bool:
        if self._left is None:
            return now < self._end
        self._left -= 1
        return self._left >= 0


async def _ask(session: Session, request: bytes, answer_size: int) -> None:
    send, recv = await session.open_bi()
    await send.write(request)
    send.finish()
    got = 0
    while data := await recv.read(CHUNK):
        got += len(data)
    if got != answer_size:
        raise PerfError(f"an answer of {answer_size} bytes was asked for, {got} came")


async def requests(connect: Connect, options: Options) -> Result:
    """Each request on a new bidirectional stream, `at_once` of them on each connection."""
    sessions = [await connect() for _ in range(options.connections)]
    request = word(options.answer_size) + bytes(max(0, options.request_size - WORD))
    latencies: list[float] = []

    async def ask(session: Session, quota: _Quota) -> None:
        now = time.perf_counter()
        while quota.take(now):
            await _ask(session, request, options.answer_size)
            then, now = now, time.perf_counter()
            latencies.append(now - then)

    try:
        for session in sessions:
            await _ask(session, request, options.answer_size)
        meter = Meter(sessions[0])
        await meter.start()
        started, quota = time.perf_counter(), _Quota(options)
        jobs = [ask(session, quota) for session in sessions for _ in range(options.at_once)]
        await asyncio.gather(*jobs)
        seconds = time.perf_counter() - started
        meter.stop()
        size = len(latencies) * (len(request) + options.answer_size)
        result = Result("", seconds=seconds, bytes=size, count=len(latencies))
        result.latency = percentiles(latencies)
        await meter.fill(result)
        return result
    finally:
        await _close(sessions)


async def ping_pong(connect: Connect, options: Options) -> Result:
    """`request_size` bytes there and back on one open stream, one at a time."""
    session = await connect()
    latencies: list[float] = []
    message = bytes(options.request_size)
    try:
        send, recv = await session.open_bi()
        await send.write(word(ECHO))
        await _exchange(send, recv, message)
        meter = Meter(session)
        await meter.start()
        started = now = time.perf_counter()
        quota = _Quota(options)
        while quota.take(now):
            await _exchange(send, recv, message)
            then, now = now, time.perf_counter()
            latencies.append(now - then)
        meter.stop()
        count = len(latencies)
        result = Result("", seconds=now - started, bytes=2 * count * len(message), count=count)
        result.latency = percentiles(latencies)
        await meter.fill(result)
        send.finish()
        return result
    finally:
        await _close([session])


async def _exchange(send: Sending, recv: Receiving, message: bytes) -> None:
    await send.write(message)
    left = len(message)
    while left:
        data = await recv.read(left)
        if not data:
            raise PerfError("the server ended a stream that it was to echo")
        left -= len(data)


# Datagrams


def _fitting(session: Session, options: Options) -> int:
    limit = session.max_datagram_size
    if limit is None:
        raise PerfError("the server takes no datagrams")
    return max(DATAGRAM_HEAD, min(options.datagram_size, limit))


async def datagrams(connect: Connect, options: Options) -> Result:
    """One way, as fast as the send buffer has room; what counts is what the server received."""
    session = await connect()
    try:
        size = _fitting(session, options)
        data = SINK.to_bytes() + bytes(size - 1)
        meter = Meter(session)
        await meter.start()
        sent = 0
        quota = _Quota(options)
        many = [data] * 31
        while quota.take(time.perf_counter()):
            await session.send_datagram_wait(data)
            sent += 1
            if options.batch:
                session.send_datagrams(many)
                sent += len(many)
        meter.stop()
        result = Result("", count=sent)
        after = await meter.fill(result)
        if not after:
            raise PerfError("the server does not report how many datagrams it got")
        while after["datagrams"] < sent:
            await asyncio.sleep(SETTLE)
            before, after = after, await report(session)
            if after["datagrams"] == before["datagrams"]:
                break
        result.count, result.bytes = after["datagrams"], after["datagram_bytes"]
        result.seconds = after["datagram_seconds"]
        result.lost = sent - result.count
        return result
    finally:
        await _close([session])


async def datagram_echo(connect: Connect, options: Options) -> Result:
    """`window` datagrams in flight, each one that comes back is followed by a new one."""
    session = await connect()
    try:
        size = _fitting(session, options)
        echo = _DatagramEcho(session, size, options)
        meter = Meter(session)
        await meter.start()
        seconds = await echo.run()
        meter.stop()
        result = Result("", seconds=seconds, bytes=2 * size * echo.returned, count=echo.returned)
        result.lost, result.latency = echo.lost, percentiles(echo.latencies)
        await meter.fill(result)
        return result
    finally:
        await _close([session])


class _DatagramEcho:
    """Each datagram carries the time when it was sent; in batches one of each is looked at."""

    def __init__(self, session: Session, size: int, options: Options) -> None:
        self._session = session
        self._options = options
        self._filler = bytes(size - DATAGRAM_HEAD)
        self.returned = self.lost = 0
        self.latencies: list[float] = []

    def _fresh(self) -> bytes:
        return BOUNCE.to_bytes() + word(time.perf_counter_ns()) + self._filler

    def _took(self, data: bytes) -> None:
        sent = int.from_bytes(data[1:DATAGRAM_HEAD])
        self.latencies.append((time.perf_counter_ns() - sent) * 1e-9)

    def _fill(self) -> None:
        self._session.send_datagrams([self._fresh()] * self._options.window)

    async def run(self) -> float:
        started = time.perf_counter()
        self._fill()
        watch = asyncio.create_task(self._watch())
        try:
            await (self._batches() if self._options.batch else self._singly())
        finally:
            watch.cancel()
        return time.perf_counter() - started

    async def _batches(self) -> None:
        session, quota = self._session, _Quota(self._options)
        while quota.take(time.perf_counter()):
            received = await session.read_datagrams()
            self.returned += len(received)
            self._took(received[0])
            session.send_datagrams([self._fresh()] * len(received))

    async def _singly(self) -> None:
        session, quota = self._session, _Quota(self._options)
        while quota.take(time.perf_counter()):
            data = await session.read_datagram()
            self.returned += 1
            self._took(data)
            session.send_datagram(self._fresh())

    async def _watch(self) -> None:
        """Where nothing comes back any more, what was in flight is lost: send afresh."""
        seen = -1
        while True:
            await asyncio.sleep(STALL)
            if self.returned == seen:
                self.lost += self._options.window
                self._fill()
            seen = self.returned


# Connections


async def handshakes(connect: Connect, options: Options) -> Result:
    """New connections, `at_once` at a time, each closed as soon as it is there."""
    control = await connect()
    latencies: list[float] = []

    async def shake(quota: _Quota) -> None:
        while quota.take(time.perf_counter()):
            then = time.perf_counter()
            session = await connect()
            latencies.append(time.perf_counter() - then)
            await session.aclose()

    try:
        meter = Meter(control)
        await meter.start()
        started, quota = time.perf_counter(), _Quota(options)
        await asyncio.gather(*(shake(quota) for _ in range(options.at_once)))
        seconds = time.perf_counter() - started
        meter.stop()
        result = Result("", seconds=seconds, count=len(latencies), latency=percentiles(latencies))
        await meter.fill(result)
        return result
    finally:
        await _close([control])


async def idle(connect: Connect, options: Options) -> Result:
    """`connections` connections that do nothing: what each costs the server's memory."""
    control = await connect()
    sessions: list[Session] = []
    room = asyncio.Semaphore(OPENING_AT_ONCE)

    async def open_one() -> None:
        async with room:
            sessions.append(await connect())

    try:
        warm = [await connect() for _ in range(8)]  # what the first ones cost once for all
        sessions += warm
        await asyncio.sleep(SETTLE)
        before = await report(control)
        if not before:
            raise PerfError("the server does not report its memory")
        started, cpu = time.perf_counter(), own_usage().cpu
        await asyncio.gather(*(open_one() for _ in range(options.connections)))
        seconds = time.perf_counter() - started
        result = Result("", seconds=seconds, count=options.connections)
        result.client_cpu = own_usage().cpu - cpu
        await asyncio.sleep(4 * SETTLE)
        after = await report(control)
        result.server_rss_per_session = (after["rss"] - before["rss"]) // options.connections
        return result
    finally:
        await _close([*sessions, control])


async def _close(sessions: list[Session]) -> None:
    await asyncio.gather(*(session.aclose() for session in sessions), return_exceptions=True)


WORKS: dict[str, Work] = {
    "download": download,
    "upload": upload,
    "both": both,
    "hashed-download": hashed_download,
    "requests": requests,
    "ping-pong": ping_pong,
    "datagrams": datagrams,
    "datagram-echo": datagram_echo,
    "handshakes": handshakes,
    "idle": idle,
}
