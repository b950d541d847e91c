"""TLS 1.3 over TCP on asyncio's transports: no QUIC stack, but what people use today.

It has no streams and no half-close, so its requests carry both sizes: one byte for what, then two
64-bit numbers, the bytes wanted back and the bytes that follow. A request is answered in order, on
a connection that stays open: "requests" are pipelined exchanges on one connection, one at a time.
Transports and protocols are used, not the stream classes above them: it is TCP at its best here.
"""

import asyncio
import hashlib
import json
import os
import platform
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from rawquic.perf import Options, Result, percentiles
from rawquic.perf.measure import own_usage
from rawquic.perf.verify import Corrupted

from . import SUITES, Settings

ASK, ECHO, DIGEST, RANDOM, REPORT = range(5)
HEAD = 17
CHUNK = 65536
BLOCK = os.urandom(CHUNK)
FIRST_SIZE = 1 << 20
LARGEST_SIZE = 1 << 32
WORKS = ("download", "upload", "both", "ping-pong", "handshakes", "idle")


def versions() -> dict[str, str]:
    loop = asyncio.get_running_loop()
    kind = f"{type(loop).__module__}.{type(loop).__name__}"
    if kind.startswith("uvloop"):
        import uvloop

        kind = f"uvloop {uvloop.__version__}"
    else:
        kind = "asyncio"
    return {"python": platform.python_version(), "loop": kind, "openssl": ssl.OPENSSL_VERSION}


class Flow(asyncio.Protocol):
    """Writing with back-pressure, the same on both ends."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.room = asyncio.Event()
        self.room.set()
        self.gone = asyncio.get_running_loop().create_future()
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport.set_write_buffer_limits(4 << 20, 1 << 20)

    def pause_writing(self) -> None:
        self.room.clear()

    def resume_writing(self) -> None:
        self.room.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.room.set()
        if not self.gone.done():
            self.gone.set_result(None)

    async def pour(self, size: int) -> None:
        for _ in range(size // CHUNK):
            self.transport.write(BLOCK)
            if not self.room.is_set():
                await self.room.wait()
        if rest := size % CHUNK:
            self.transport.write(BLOCK[:rest])


class ServerEnd(Flow):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.head = b""
        self.what, self.wanted, self.left = -1, 0, 0
        self.digest = hashlib.sha256()
        self.tasks: set[asyncio.Task[None]] = set()

    def data_received(self, data: bytes) -> None:
        while data:
            if self.what == -1:
                self.head += data
                if len(self.head) < HEAD:
                    return
                data, head = self.head[HEAD:], self.head[:HEAD]
                self.head = b""
                self.what = head[0]
                self.wanted, self.left = int.from_bytes(head[1:9]), int.from_bytes(head[9:])
                self.digest = hashlib.sha256()
            taken = data[: self.left] if len(data) > self.left else data
            self.left -= len(taken)
            if self.what == ECHO:
                self.transport.write(taken)
            elif self.what == DIGEST:
                self.digest.update(taken)
            data = data[len(taken) :]
            if not self.left:
                self.answer()
                self.what = -1

    def answer(self) -> None:
        if self.what == ASK and self.wanted <= CHUNK:
            self.transport.write(BLOCK[: self.wanted])
        elif self.what == ASK:
            task = asyncio.ensure_future(self.pour(self.wanted))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif self.what == DIGEST:
            self.transport.write(self.digest.digest())
        elif self.what == RANDOM:
            data = os.urandom(self.wanted)
            self.transport.write(data + hashlib.sha256(data).digest())
        elif self.what == REPORT:
            self.transport.write(json.dumps(asdict(own_usage())).encode().ljust(CHUNK))


class ClientEnd(Flow):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.left = 0
        self.kept: list[bytes] | None = None
        self.done: asyncio.Future[None] | None = None  # while an answer is awaited

    def data_received(self, data: bytes) -> None:
        self.left -= len(data)
        if self.kept is not None:
            self.kept.append(data)
        if self.left <= 0 and self.done is not None and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self.done is not None and not self.done.done():
            self.done.set_exception(ConnectionError("the connection was lost"))

    async def ask(
        self, what: int, wanted: int, data: bytes | int = b"", answer: int | None = None
    ) -> None:
        """`data` bytes, or that many of no matter which; wait for the whole answer."""
        self.left = wanted if answer is None else answer
        self.done = asyncio.get_running_loop().create_future()
        size = data if isinstance(data, int) else len(data)
        head = bytes([what]) + wanted.to_bytes(8) + size.to_bytes(8)
        if isinstance(data, int):
            self.transport.write(head)
            await self.pour(data)
        else:
            self.transport.write(head + data)
        await self.done
        self.done = None
        if self.left:
            raise Corrupted(f"{-self.left} bytes too many came")

    async def asked(
        self, what: int, wanted: int, data: bytes = b"", answer: int | None = None
    ) -> bytes:
        self.kept = []
        await self.ask(what, wanted, data, answer)
        kept, self.kept = self.kept, None
        return b"".join(kept)

    async def aclose(self) -> None:
        self.transport.close()
        await self.gone


def context(settings: Settings, *, is_client: bool) -> ssl.SSLContext:
    purpose = ssl.PROTOCOL_TLS_CLIENT if is_client else ssl.PROTOCOL_TLS_SERVER
    result = ssl.SSLContext(purpose)
    result.minimum_version = ssl.TLSVersion.TLSv1_3
    if is_client and settings.insecure:
        result.check_hostname, result.verify_mode = False, ssl.CERT_NONE
    elif is_client:
        result.load_verify_locations(settings.cafile)
    else:
        result.load_cert_chain(settings.certfile, settings.keyfile)
        result.num_tickets = 0
    restrict(result, SUITES[settings.cipher])
    return result


def restrict(context: ssl.SSLContext, suite: str) -> None:
    """Python < 3.15 cannot choose TLS 1.3 suites: ask OpenSSL, through the context's pointer.

    PyObject head, then SSL_CTX *: true of CPython 3.11 to 3.13; elsewhere, or where OpenSSL's
    library is not to be found, the default (AES-256-GCM) runs, which the versions show.
    """
    if suite == SUITES["aes-256-gcm"]:
        return  # OpenSSL's first choice
    import ctypes

    library = ctypes.PyDLL(ssl._ssl.__file__)  # type: ignore[attr-defined]
    set_suites = library.SSL_CTX_set_ciphersuites
    set_suites.argtypes, set_suites.restype = [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_int
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    if set_suites(pointer, suite.encode()) != 1:
        raise RuntimeError(f"OpenSSL refuses {suite}")


async def serve(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        ServerEnd, settings.host, 0, ssl=context(settings, is_client=False), backlog=1024
    )
    KEPT.append(server)
    port: int = server.sockets[0].getsockname()[1]
    return port


KEPT: list[Any] = []
Connect = Callable[[], Awaitable[ClientEnd]]


@asynccontextmanager
async def connecting(host: str, port: int, settings: Settings) -> AsyncIterator[Connect]:
    tls = context(settings, is_client=True)

    async def connect() -> ClientEnd:
        loop = asyncio.get_running_loop()
        _, end = await loop.create_connection(
            ClientEnd, host, port, ssl=tls, server_hostname="localhost"
        )
        cipher = end.transport.get_extra_info("cipher")[0]
        if cipher != SUITES[settings.cipher]:
            raise RuntimeError(f"{cipher} was negotiated, {SUITES[settings.cipher]} was wanted")
        return end

    yield connect


async def verify(end: ClientEnd, size: int) -> dict[str, str]:
    data = os.urandom(size)
    digest = hashlib.sha256(data).digest()
    if await end.asked(DIGEST, 0, data, answer=32) != digest:
        raise Corrupted("upload")
    answer = await end.asked(RANDOM, size, answer=size + 32)
    if hashlib.sha256(answer[:size]).digest() != answer[size:]:
        raise Corrupted("download")
    if await end.asked(ECHO, 0, data, answer=size) != data:
        raise Corrupted("echo")
    return {"upload": digest.hex(), "download": answer[size:].hex(), "echo": digest.hex()}


async def report(end: ClientEnd) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await end.asked(REPORT, 0, answer=CHUNK))
    return answer


async def run(work: str, connect: Connect, options: Options) -> Result:
    if work not in WORKS:
        raise ValueError(f"TLS over TCP has no {work}")
    control = await connect()
    ends = [control]
    try:
        if work in ("download", "upload", "both"):
            if work == "both":
                ends.append(await connect())
            result = await transfer(work, ends, options)
        elif work == "ping-pong":
            result = await ping_pong(control, options)
        elif work == "handshakes":
            result = await handshakes(control, connect, options)
        else:
            result = await idle(ends, connect, options)
        result.work, result.options = work, asdict(options)
        return result
    finally:
        for end in ends:
            await end.aclose()


async def measured(control: ClientEnd, result: Result, job: Awaitable[float]) -> Result:
    before, cpu = await report(control), own_usage().cpu
    result.seconds = await job
    result.client_cpu = own_usage().cpu - cpu
    after = await report(control)
    result.server_cpu = sum(after[k] - before[k] for k in ("cpu_user", "cpu_system"))
    return result


async def transfer(work: str, ends: list[ClientEnd], options: Options) -> Result:
    async def move(size: int) -> float:
        started = time.perf_counter()
        if work == "download":
            await ends[0].ask(ASK, size)
        elif work == "upload":
            await ends[0].ask(ASK, 1, size)
        else:
            await asyncio.gather(ends[0].ask(ASK, size), ends[1].ask(ASK, 1, size))
        return time.perf_counter() - started

    size = min(FIRST_SIZE, options.size or FIRST_SIZE)
    seconds = await move(size)
    while options.size is None and seconds < options.duration / 4 and size < LARGEST_SIZE:
        size = min(LARGEST_SIZE, size * 4)
        seconds = await move(size)
    size = min(LARGEST_SIZE, options.size or int(size / seconds * options.duration))
    moved = size * (2 if work == "both" else 1)
    return await measured(ends[0], Result("", bytes=moved, count=1), move(size))


def until(options: Options) -> Callable[[int, float], bool]:
    end = time.perf_counter() + options.duration
    return lambda done, now: now < end if options.count is None else done < options.count


async def ping_pong(end: ClientEnd, options: Options) -> Result:
    latencies: list[float] = []
    message = bytes(options.request_size)

    async def go() -> float:
        more = until(options)
        started = now = time.perf_counter()
        while more(len(latencies), now):
            await end.ask(ECHO, 0, message, answer=len(message))
            then, now = now, time.perf_counter()
            latencies.append(now - then)
        return now - started

    result = await measured(end, Result(""), go())
    result.count, result.latency = len(latencies), percentiles(latencies)
    result.bytes = 2 * result.count * len(message)
    return result


async def handshakes(control: ClientEnd, connect: Connect, options: Options) -> Result:
    latencies: list[float] = []

    async def shake(more: Callable[[int, float], bool]) -> None:
        now = time.perf_counter()
        while more(len(latencies), now):
            then = now
            end = await connect()
            latencies.append(time.perf_counter() - then)
            await end.aclose()
            now = time.perf_counter()

    async def go() -> float:
        more, started = until(options), time.perf_counter()
        await asyncio.gather(*(shake(more) for _ in range(options.at_once)))
        return time.perf_counter() - started

    result = await measured(control, Result(""), go())
    result.count, result.latency = len(latencies), percentiles(latencies)
    return result


async def idle(ends: list[ClientEnd], connect: Connect, options: Options) -> Result:
    control = ends[0]
    ends += [await connect() for _ in range(8)]
    before = await report(control)
    started = time.perf_counter()
    for _ in range(options.connections):
        ends.append(await connect())
    seconds = time.perf_counter() - started
    after = await report(control)
    result = Result("", seconds=seconds, count=options.connections)
    result.server_rss_per_session = (after["rss"] - before["rss"]) // options.connections
    return result
