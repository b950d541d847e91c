"""Two ends on the loopback interface, and a relay between them that loses what a test tells it."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import rawquic
from rawquic import Config, RawQuicSession, Server

DEADLINE = 10.0  # seconds that anything which must happen may take


class Certificate(NamedTuple):
    """A certificate and its key, PEM; the arguments of `serve` and `connect` that use it."""

    cert: bytes
    key: bytes

    @property
    def server(self) -> dict[str, Any]:
        return {"certfile": self.cert, "keyfile": self.key}

    @property
    def client(self) -> dict[str, Any]:
        return {"cadata": self.cert}


class Pair(NamedTuple):
    """Both ends of one session, and the server behind `peer`."""

    client: RawQuicSession
    peer: RawQuicSession
    server: Server


@contextlib.asynccontextmanager
async def pair(
    certificate: Certificate,
    *,
    config: Config | None = None,
    server_config: Config | None = None,
    relay: "Relay | None" = None,
    host: str = "127.0.0.1",
    to: str | None = None,
    sock: socket.socket | None = None,
    **connect: Any,
) -> AsyncIterator[Pair]:
    """A client's session and the server's end of it, through `relay` if there is one.

    The server listens on `host`, or has `sock`; the client goes `to` another address of it.
    """
    accepted = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def handle(session: RawQuicSession) -> None:
        accepted.set_result(session)
        await over.wait()

    server = await rawquic.serve(
        handle, host, 0, config=server_config, sock=sock, **certificate.server
    )
    client: RawQuicSession | None = None
    try:
        address = server.local_address
        if relay is not None:
            await relay.start(address)
            address = relay.address
        elif to is not None:
            address = to, address[1]
        options = {**certificate.client, **connect}
        client = await rawquic.connect(*address, config=config, **options)
        yield Pair(client, await within(accepted), server)
    finally:
        if client is not None:
            client.close()
            await client.wait_closed()
        server.close()
        over.set()
        await server.wait_closed()
        if relay is not None:
            relay.close()


async def echo(session: RawQuicSession) -> None:
    """Echo the peer's streams and datagrams; what comes on a one-way stream goes back on one."""

    async def bidirectional(send: rawquic.SendStream, recv: rawquic.RecvStream) -> None:
        with contextlib.suppress(rawquic.RawQuicError):
            async with send:
                async for chunk in recv:
                    await send.write(chunk)

    async def unidirectional(recv: rawquic.RecvStream) -> None:
        with contextlib.suppress(rawquic.RawQuicError):
            async with await session.open_uni() as send:
                async for chunk in recv:
                    await send.write(chunk)

    async def accept_uni() -> None:
        with contextlib.suppress(rawquic.SessionError):
            async for recv in session.uni_streams():
                tasks.create_task(unidirectional(recv))

    async def datagrams() -> None:
        with contextlib.suppress(rawquic.SessionError):
            while True:
                session.send_datagrams(await session.read_datagrams())

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(accept_uni())
        tasks.create_task(datagrams())
        with contextlib.suppress(rawquic.SessionError):
            async for send, recv in session.bi_streams():
                tasks.create_task(bidirectional(send, recv))


async def within(awaitable: Awaitable[Any], seconds: float = DEADLINE) -> Any:
    """The result, or TimeoutError."""
    async with asyncio.timeout(seconds):
        return await awaitable


async def until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Return once `condition()` holds; for what no event tells of."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        await asyncio.sleep(0.002)


async def waiting(awaitable: Awaitable[Any]) -> "asyncio.Future[Any]":
    """A task for `awaitable` that has run up to where it waits."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done(), task
    return task


async def blocked_one(call: Callable[[], Awaitable[Any]]) -> "asyncio.Future[Any]":
    """Call it until one of the calls has to wait, and goes on waiting: that one."""
    while True:
        task = asyncio.ensure_future(call())
        done, _ = await asyncio.wait([task], timeout=0.1)
        if not done:
            return task
        await task


async def every_wait(session: RawQuicSession) -> dict[str, "asyncio.Future[Any]"]:
    """Every call that can wait, waiting; the peer reads nothing and answers nothing."""
    full = await session.open_uni()
    buffer = bytearray(10)
    blocked = await session.open_uni()
    streams = {name: (await session.open_bi())[1] for name in ("n", "all", "exact", "end", "into")}
    iterated = (await session.open_bi())[1]
    full.finish()

    async def iterate() -> None:
        async for _ in iterated:
            pass

    async def iterate_streams(streams: Any) -> None:
        async for _ in streams:
            pass

    calls: dict[str, Awaitable[Any]] = {
        "open_uni": await blocked_one(session.open_uni),
        "open_bi": await blocked_one(session.open_bi),
        "accept_bi": session.accept_bi(),
        "accept_uni": session.accept_uni(),
        "write": blocked.write(bytes(20_000_000)),
        "wait_acked": blocked.wait_acked(),
        "stopped": blocked.stopped(),
        "read": streams["n"].read(),
        "read_all": streams["all"].read(-1),
        "readexactly": streams["exact"].readexactly(5),
        "read_to_end": streams["end"].read_to_end(5),
        "readinto": streams["into"].readinto(buffer),
        "iteration": iterate(),
        "read_datagram": session.read_datagram(),
        "read_datagrams": session.read_datagrams(),
        "wait_closed": session.wait_closed(),
        "bi_streams": iterate_streams(session.bi_streams()),
        "uni_streams": iterate_streams(session.uni_streams()),
        "datagrams": iterate_streams(session.datagrams()),
    }
    return {name: await waiting(call) for name, call in calls.items()}


async def error_of(awaitable: Awaitable[Any], seconds: float = DEADLINE) -> BaseException:
    """The exception that `awaitable` ends with."""
    try:
        result = await within(awaitable, seconds)
    except Exception as error:
        return error
    raise AssertionError(f"no exception, but {result!r}")


@dataclass
class Relay:
    """Carries datagrams between one client and a server.

    Attributes:
        drop: called with each datagram and True on its way to the server; True loses it.
        to_server, to_client: what was carried.
        lost: what was dropped.
    """

    drop: Callable[[bytes, bool], bool] = lambda data, to_server: False
    to_server: list[bytes] = field(default_factory=list)
    to_client: list[bytes] = field(default_factory=list)
    lost: list[bytes] = field(default_factory=list)
    _client: Any = None
    _near: Any = None
    _far: Any = None
    _server: Any = None

    async def start(self, server: tuple[str, int]) -> None:
        self._server = server
        loop = asyncio.get_running_loop()
        self._near, _ = await loop.create_datagram_endpoint(
            lambda: _Side(self._from_client), local_addr=("127.0.0.1", 0)
        )
        await self.rebind()

    async def rebind(self) -> None:
        """From now on the client comes from another port, as behind a NAT that forgot it."""
        old = self._far
        self._far, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Side(self._from_server), local_addr=("127.0.0.1", 0)
        )
        if old is not None:
            old.abort()

    @property
    def address(self) -> tuple[str, int]:
        """Where a client finds the server."""
        return self._near.get_extra_info("sockname")

    @property
    def far_address(self) -> tuple[str, int]:
        """Where the server sees the client."""
        return self._far.get_extra_info("sockname")

    def inject_to_client(self, data: bytes) -> None:
        self._near.sendto(data, self._client)

    def inject_to_server(self, data: bytes) -> None:
        self._far.sendto(data, self._server)

    def _from_client(self, data: bytes, address: tuple[str, int]) -> None:
        self._client = address
        if self.drop(data, True):
            self.lost.append(data)
        else:
            self.to_server.append(data)
            self._far.sendto(data, self._server)

    def _from_server(self, data: bytes, address: tuple[str, int]) -> None:
        if self.drop(data, False):
            self.lost.append(data)
        else:
            self.to_client.append(data)
            self._near.sendto(data, self._client)

    def close(self) -> None:
        for side in (self._near, self._far):
            if side is not None:
                side.abort()


class _Side(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, tuple[str, int]], None]) -> None:
        self.received = received

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received(data, addr)
