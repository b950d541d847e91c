"""What two stacks have to get right with each other: the cases, run at the client's end.

The server speaks the perf protocol (`rawquic/perf/protocol.py`), which sends everything back that
this end does: bytes, ends, the codes of resets and stops. So every case proves both directions.
They use the interface of `rawquic/perf/interface.py` alone, which all stacks have; quinn's client
has its own of the same names (`bench/peers/quinn/src/cases.rs`). A case returns, or raises.
"""

import asyncio
import contextlib
import hashlib
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rawquic.errors import ClosedByPeer, StreamReset, StreamStopped
from rawquic.perf.interface import Connect, Receiving, Sending, Session
from rawquic.perf.measure import counters, read_all, report
from rawquic.perf.protocol import BOUNCE, CLOSE, DIGEST, ECHO, RANDOM, UPDATE, word
from rawquic.perf.server import request_key_update

SIZES = (1, 2, 8, 1199, 1200, 1453, 4096, 65_537, 300_000)
AT_ONCE = (100, 80)  # quinn keeps back less than an eighth of what ended streams made free
DATAGRAMS = 64
DATAGRAM_SIZE = 1100  # the most; every stack's packets hold that many bytes
PATIENCE = 0.5  # seconds, after which datagrams that did not come back are sent again
CODES = (0, 42, (1 << 62) - 1)
CODE_BITS = (14, 30, 62)  # in two, four and eight bytes
UPDATES = 3
PAUSE = 0.01
NO_APPLICATION_PROTOCOL = 0x100 + 120
CHUNK = 65536
DIGEST_SIZE = 32


class Wrong(Exception):
    """The other stack did something else than it should have."""


@dataclass(frozen=True)
class Client:
    """How a case gets its sessions.

    Attributes:
        connect: opens a session. connect_other: tries to, with an ALPN that no server has.
        alpn: what `connect` offers. size: bytes of a transfer.
        refusal: the code with which the server refuses `connect_other`.
    """

    connect: Connect
    connect_other: Connect
    alpn: str
    size: int = 1 << 20
    refusal: int = NO_APPLICATION_PROTOCOL


def same(what: str, sent: bytes, got: bytes) -> None:
    if hashlib.sha256(sent).digest() != hashlib.sha256(got).digest():
        raise Wrong(f"{what}: {len(sent)} bytes were sent, {len(got)} others came")


def code_of(error: StreamReset | StreamStopped | ClosedByPeer, code: int) -> None:
    if error.code != code:
        raise Wrong(f"code {error.code} came in place of {code}")


async def write(send: Sending, data: bytes) -> None:
    for start in range(0, len(data), CHUNK):
        await send.write(data[start : start + CHUNK])


async def ask(session: Session, request: bytes, limit: int = CHUNK) -> bytes:
    """The whole answer to a request that ends there."""
    send, recv = await session.open_bi()
    await write(send, request)
    send.finish()
    return await read_all(recv, limit)


async def echoed(session: Session, size: int) -> None:
    """A stream of its own for `size` random bytes, which come back."""
    data = os.urandom(size)
    send, recv = await session.open_bi()

    async def ask() -> None:
        await write(send, word(ECHO) + data)
        send.finish()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask())
        answer = tasks.create_task(read_all(recv, size + CHUNK))
    same("echo", data, answer.result())


async def open_echo(session: Session) -> tuple[Sending, Receiving]:
    """A stream that is sent back, and of which both ends know."""
    send, recv = await session.open_bi()
    await send.write(word(ECHO))
    await exchange(send, recv, 1)
    return send, recv


async def exchange(send: Sending, recv: Receiving, size: int) -> None:
    data, got = os.urandom(size), bytearray()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write(send, data))
        while len(got) < size:
            part = await recv.read(size - len(got))
            if not part:
                raise Wrong("the echo ended by itself")
            got += part
    same("echo", data, got)


# The cases


async def handshake(client: Client) -> None:
    """The ALPN that was negotiated is the one that was offered; another one is refused."""
    session = await client.connect()
    alpn = getattr(session, "connection", session).alpn
    if alpn != client.alpn:
        raise Wrong(f"ALPN {alpn!r} in place of {client.alpn!r}")
    await echoed(session, 1)
    await session.aclose()
    try:
        await client.connect_other()
    except TimeoutError:
        raise Wrong("another ALPN was not refused, but left without an answer") from None
    except ConnectionError as error:
        code = getattr(error, "code", client.refusal)  # not every stack tells it
        if code != client.refusal:
            raise Wrong(f"another ALPN was refused with code {code:#x}") from error
    else:
        raise Wrong("a session with another ALPN was taken")


async def echo(client: Client) -> None:
    """Bidirectional streams of set sizes, one after the other, then of random ones at once."""
    session = await client.connect()
    for size in SIZES:
        await echoed(session, size)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(echoed(session, random.randint(1, 1 << 17)))
    await session.aclose()


async def uni(client: Client) -> None:
    """Unidirectional streams, answered with their SHA-256 on unidirectional streams."""
    session = await client.connect()
    expected, answers = [], []
    for size in SIZES:
        data = os.urandom(size)
        send = await session.open_uni()
        await write(send, word(DIGEST) + data)
        send.finish()
        expected.append(hashlib.sha256(data).digest())
    for _ in SIZES:
        answers.append(await read_all(await session.accept_uni()))
    if sorted(answers) != sorted(expected):
        raise Wrong("other digests came")
    await session.aclose()


async def streams(client: Client) -> None:
    """A hundred streams open at once, which is the limit; when they have ended, others."""
    session = await client.connect()

    async def use(send: Sending, recv: Receiving) -> None:
        await exchange(send, recv, 10_000)
        send.finish()
        if await read_all(recv):
            raise Wrong("more came back than was sent")

    for count in AT_ONCE:
        opened = [await open_echo(session) for _ in range(count)]
        async with asyncio.TaskGroup() as tasks:
            for send, recv in opened:
                tasks.create_task(use(send, recv))
    await session.aclose()


async def datagrams(client: Client) -> None:
    """Datagrams of 10 bytes up to the limit, each of which comes back; lost ones are sent again."""
    session = await client.connect()
    limit = session.max_datagram_size
    if limit is None:
        raise Wrong("the server takes no datagrams")
    span = min(limit, DATAGRAM_SIZE) - 10
    sizes = [10 + span * i // (DATAGRAMS - 1) for i in range(DATAGRAMS)]
    waiting = {BOUNCE.to_bytes() + os.urandom(size - 1) for size in sizes}
    while waiting:
        session.send_datagrams(list(waiting))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while waiting:
                    waiting.difference_update(map(bytes, await session.read_datagrams()))
    await session.aclose()


async def reset(client: Client) -> None:
    """RESET_STREAM, the code of which the server sends back in one of its own."""
    session = await client.connect()
    for code in CODES:
        send, recv = await open_echo(session)
        send.reset(code)
        try:
            got = await recv.read(1)
        except StreamReset as error:
            code_of(error, code)
        else:
            raise Wrong(f"{got!r} came in place of a reset")
    await echoed(session, 1000)
    await session.aclose()


async def stop(client: Client) -> None:
    """STOP_SENDING, the code of which the server sends back in one of its own."""
    session = await client.connect()
    for code in CODES:
        send, recv = await open_echo(session)
        recv.stop(code)
        try:
            while True:
                await send.write(b"x")
                await asyncio.sleep(PAUSE)
        except StreamStopped as error:
            code_of(error, code)
    await echoed(session, 1000)
    await session.aclose()


async def close_client(client: Client) -> None:
    """The client closes with a code; the server tells another session which one it was."""
    witness = await client.connect()
    for bits in CODE_BITS:
        code = random.randrange(1, 1 << bits)  # no other session's
        session = await client.connect()
        await echoed(session, 1)
        session.close(code)
        while True:
            if code in (await report(witness))["closes"]:
                break
            await asyncio.sleep(PAUSE)
        await session.aclose()
    await witness.aclose()


async def close_server(client: Client) -> None:
    """The server closes with the code that it was asked for."""
    for code in CODES:
        session = await client.connect()
        send, recv = await session.open_bi()
        await send.write(word(CLOSE) + word(code))
        send.finish()
        try:
            got = await recv.read(1)
        except ClosedByPeer as error:
            code_of(error, code)
            if not error.is_application:
                raise Wrong("the close is not the application's") from error
        else:
            raise Wrong(f"{got!r} came in place of a close")
        await session.aclose()


async def _keys(client: Client, by_client: bool) -> None:
    session = await client.connect()
    ours = bool(counters(session))  # rawquic counts: at this end, or at the server's
    name = "key_updates" if by_client == ours else "peer_key_updates"

    async def updates() -> int:
        counted = counters(session) or (await report(session))["counters"]
        return int(counted[name])

    send, recv = await open_echo(session)
    before = await updates()
    for wanted in range(1, UPDATES + 1):
        while True:
            if by_client:
                request_key_update(session)
            else:
                await ask(session, word(UPDATE))
            await exchange(send, recv, 100_000)
            if await updates() >= before + wanted:
                break
            await asyncio.sleep(PAUSE)  # a stack may ignore one that comes too early
    await session.aclose()


async def keys_client(client: Client) -> None:
    """The client changes its keys three times; the server follows, and the bytes are right."""
    await _keys(client, True)


async def keys_server(client: Client) -> None:
    """The server changes its keys three times."""
    await _keys(client, False)


async def upload(client: Client) -> None:
    """Random bytes to the server, which answers with their SHA-256."""
    session = await client.connect()
    data = os.urandom(client.size)
    answer = await ask(session, word(DIGEST) + data)
    if answer != hashlib.sha256(data).digest():
        raise Wrong("another SHA-256 came")
    await session.aclose()


async def download(client: Client) -> None:
    """Random bytes from the server, and their SHA-256."""
    session = await client.connect()
    request = word(RANDOM) + word(client.size)
    answer = await ask(session, request, client.size + CHUNK)
    data, digest = answer[: client.size], answer[client.size :]
    if hashlib.sha256(data).digest() != digest:
        raise Wrong(f"{len(answer)} bytes came, with another SHA-256")
    await session.aclose()


CASES: dict[str, Callable[[Client], Awaitable[None]]] = {
    "handshake": handshake,
    "echo": echo,
    "uni": uni,
    "streams": streams,
    "datagrams": datagrams,
    "reset": reset,
    "stop": stop,
    "close-client": close_client,
    "close-server": close_server,
    "keys-client": keys_client,
    "keys-server": keys_server,
    "upload": upload,
    "download": download,
}
