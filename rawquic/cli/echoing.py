"""Both ends of an echo: what the server does with a session, and how a client checks the answer.

Nothing here prints. A client never takes an answer for right that it has not compared in full.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import rawquic

Advance = Callable[[int], None]

log = logging.getLogger("rawquic.echo")

# So many datagrams are on their way at once; a datagram not back after so many seconds is lost.
DATAGRAM_WINDOW = 64
DATAGRAM_PATIENCE = 1.0
INDEX_BYTES = 8


class EchoError(Exception):
    """What came back is not what was sent, or nothing came back."""


# The server


async def serve_echo(session: rawquic.RawQuicSession) -> None:
    """Send back every byte of every bidirectional stream, and every datagram."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_echo_datagrams(session))
        async for send, recv in session.bi_streams():
            tasks.create_task(_echo_stream(send, recv))


async def _echo_stream(send: rawquic.SendStream, recv: rawquic.RecvStream) -> None:
    try:
        async with send:
            async for chunk in recv:
                await send.write(chunk)
    except rawquic.StreamError as error:
        # The peer gave up this stream, not the session.
        log.info("stream %d ended: %s", recv.id, error)
        recv.stop(1)


async def _echo_datagrams(session: rawquic.RawQuicSession) -> None:
    while True:
        received = await session.read_datagrams()
        limit = session.max_datagram_size or 0
        # A datagram that does not fit is lost, as datagrams may be.
        session.send_datagrams([data for data in received if len(data) <= limit])


# The client


@asynccontextmanager
async def patience(seconds: float, advance: Advance) -> AsyncIterator[Advance]:
    """Raise EchoError when nothing came back for `seconds`; gives the `advance` to report with."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds) as limit:

            def came_back(count: int) -> None:
                limit.reschedule(loop.time() + seconds)
                advance(count)

            yield came_back
    except rawquic.SessionError:
        raise  # an idle timeout is a TimeoutError too
    except TimeoutError:
        raise EchoError(f"nothing came back for {seconds:g} s") from None


async def echo_stream(session: rawquic.RawQuicSession, payload: bytes, advance: Advance) -> bytes:
    """Send `payload` on a new stream while its echo is read.

    `advance` is called with the number of bytes of each part that came back. Returns the whole
    answer, which is not compared yet, so that the time this takes is the network's.
    """
    send, recv = await session.open_bi()
    answer = bytearray(len(payload))
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_send_all(send, payload))
            filled = 0
            with memoryview(answer) as view:
                while count := await recv.readinto(view[filled:]) if filled < len(answer) else 0:
                    filled += count
                    advance(count)
            if extra := await recv.read():
                raise EchoError(f"{len(extra)} bytes or more came back after the end")
    except BaseExceptionGroup as group:
        # The first one is the cause; the others are what it stopped.
        raise group.exceptions[0] from None
    return bytes(answer[:filled])


async def _send_all(send: rawquic.SendStream, payload: bytes) -> None:
    async with send:
        await send.write(payload)


def compare(payload: bytes, answer: bytes) -> str:
    """The SHA-256 of both, in hex; EchoError where they differ."""
    if len(answer) != len(payload):
        raise EchoError(f"sent {len(payload):,} bytes, {len(answer):,} came back")
    sent, received = (hashlib.sha256(data).hexdigest() for data in (payload, answer))
    if sent != received:
        raise EchoError(f"sent SHA-256 {sent}, {received} came back")
    return sent


@dataclass(frozen=True)
class DatagramTally:
    """Datagrams that came back unchanged, and those that did not come back."""

    returned: int
    lost: int


async def echo_datagrams(
    session: rawquic.RawQuicSession, count: int, size: int, advance: Advance
) -> DatagramTally:
    """Send `count` datagrams of `size` random bytes and compare each one that comes back.

    Datagrams may be lost (RFC 9221 §5), which is counted; EchoError is raised for one that
    was changed, came twice, or was never sent.
    """
    waiting: dict[int, bytes] = {}
    given_up: dict[int, bytes] = {}
    sent = returned = 0
    while sent < count or waiting:
        batch = range(sent, min(count, sent + DATAGRAM_WINDOW - len(waiting)))
        fresh = {i: i.to_bytes(INDEX_BYTES) + os.urandom(size - INDEX_BYTES) for i in batch}
        session.send_datagrams(list(fresh.values()))
        waiting |= fresh
        sent += len(fresh)
        try:
            async with asyncio.timeout(DATAGRAM_PATIENCE):
                received = await session.read_datagrams()
        except rawquic.SessionError:
            raise  # an idle timeout is a TimeoutError too
        except TimeoutError:
            given_up |= waiting
            waiting.clear()
            continue
        for data in received:
            index = int.from_bytes(data[:INDEX_BYTES])
            expected = waiting.pop(index, None) or given_up.pop(index, None)
            if data != expected:
                raise EchoError(f"datagram {index} came back changed, or twice")
            returned += 1
            advance(len(data))
    return DatagramTally(returned, count - returned)
