"""The server's end: answers every request of a session until the session is over."""

import asyncio
import hashlib
import json
import logging
import os
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from rawquic.errors import (
    ClosedByPeer,
    SessionError,
    StreamError,
    StreamReset,
    StreamStopped,
)

from .interface import Receiving, Sending, Session
from .measure import counters, own_usage
from .protocol import (
    CLOSE,
    DIGEST,
    ECHO,
    MOST,
    RANDOM,
    REPORT,
    SINK,
    STOP_CODE,
    UNTIL_STOPPED,
    UPDATE,
    WORD,
)

log = logging.getLogger("rawquic.perf")

CHUNK = 65536
BLOCK = os.urandom(CHUNK)  # what downloads consist of
CLOSES_TOLD = 32
SPARE = 2  # tasks that wait for a stream
LARGEST_CODE = (1 << 62) - 1


_closes: deque[int] = deque(maxlen=CLOSES_TOLD)


@dataclass
class DatagramCount:
    """Datagrams for the sink: how many came, and from when to when."""

    datagrams: int = 0
    datagram_bytes: int = 0
    first: float = 0.0
    last: float = 0.0


async def serve_perf(session: Session) -> None:
    """Answer the requests of one session; returns when the session is over."""
    count = DatagramCount()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_take_datagrams(session, count))
            tasks.create_task(_accept_uni(session, tasks))
            await Answering(session, count, tasks).run()
    except* SessionError as errors:
        ended = errors.exceptions[0]
        if isinstance(ended, ClosedByPeer) and ended.is_application:
            _closes.append(ended.code)
        log.debug("a session ended: %s", ended)


class Answering:
    """Takes bidirectional streams: a task that has answered one waits for the next.

    A task for each stream would cost a short request two turns of the loop. So there is always one
    more that waits, and those that nobody needs end.
    """

    def __init__(self, session: Session, count: DatagramCount, tasks: asyncio.TaskGroup) -> None:
        self._session = session
        self._count = count
        self._tasks = tasks
        self._waiting = 0

    async def run(self) -> None:
        """Answer streams, until enough others wait for the next one, or the session is over."""
        while self._waiting < SPARE:
            self._waiting += 1
            try:
                send, recv = await self._session.accept_bi()
            finally:
                self._waiting -= 1
            if not self._waiting:
                self._tasks.create_task(self.run())
            await _answer(self._session, self._count, send, recv)


async def _accept_uni(session: Session, tasks: asyncio.TaskGroup) -> None:
    while True:
        recv = await session.accept_uni()
        tasks.create_task(_answer_uni(session, recv))


async def _answer_uni(session: Session, recv: Receiving) -> None:
    try:
        head = await _head(recv)
        if head is not None:
            wanted, rest = head
            if wanted == DIGEST:
                digest = await _sha256(recv, rest)
                await _send_all(await session.open_uni(), digest)
                return
            await _drain(recv)
            await _send_bytes(await session.open_uni(), wanted)
    except StreamError as error:
        log.debug("a request was given up: %s", error)


async def _answer(session: Session, count: DatagramCount, send: Sending, recv: Receiving) -> None:
    try:
        head = await _head(recv)
        if head is None:
            send.reset(STOP_CODE)
            return
        wanted, rest = head
        if wanted <= MOST or wanted == UNTIL_STOPPED:
            while await recv.read(CHUNK):  # as _drain, without the call
                pass
            await _send_bytes(send, wanted)
        elif wanted == ECHO:
            await _echo(send, recv, rest)
        elif wanted == DIGEST:
            await _send_all(send, await _sha256(recv, rest))
        elif wanted == RANDOM:
            await _random(send, recv, rest)
        elif wanted == REPORT:
            await _drain(recv)
            await _send_all(send, json.dumps(_report(session, count)).encode())
        elif wanted == CLOSE:
            await _close(session, send, recv, rest)
        elif wanted == UPDATE:
            await _drain(recv)
            request_key_update(session)
            send.finish()
        else:
            send.reset(STOP_CODE)
    except StreamError as error:
        log.debug("a request was given up: %s", error)


async def _head(recv: Receiving) -> tuple[int, bytes] | None:
    """The number that a request begins with and what came with it; None for a stump."""
    data = await recv.read(CHUNK)
    while len(data) < WORD:
        more = await recv.read(CHUNK)
        if not more:
            return None
        data += more
    return int.from_bytes(data[:WORD]), data[WORD:]


async def _drain(recv: Receiving) -> None:
    while await recv.read(CHUNK):
        pass


async def _send_bytes(send: Sending, wanted: int) -> None:
    if wanted == UNTIL_STOPPED:
        while True:  # until StreamStopped
            await send.write(BLOCK)
    while wanted > CHUNK:
        await send.write(BLOCK)
        wanted -= CHUNK
    if wanted:
        await send.write(BLOCK[:wanted])
    send.finish()


async def _echo(send: Sending, recv: Receiving, rest: bytes) -> None:
    try:
        data = rest or await recv.read(CHUNK)
        while data:
            await send.write(data)
            data = await recv.read(CHUNK)
        send.finish()
    except StreamReset as error:
        send.reset(error.code)
    except StreamStopped as error:
        recv.stop(error.code)


async def _sha256(recv: Receiving, rest: bytes) -> bytes:
    digest = hashlib.sha256(rest)
    while data := await recv.read(CHUNK):
        digest.update(data)
    return digest.digest()


async def _send_all(send: Sending, data: bytes) -> None:
    await send.write(data)
    send.finish()


async def _random(send: Sending, recv: Receiving, rest: bytes) -> None:
    while len(rest) <= WORD and (more := await recv.read(CHUNK)):
        rest += more
    if len(rest) != WORD:
        send.reset(STOP_CODE)
        return
    left, digest = int.from_bytes(rest), hashlib.sha256()
    while left:
        data = os.urandom(min(CHUNK, left))
        left -= len(data)
        digest.update(data)
        await send.write(data)
    await send.write(digest.digest())
    send.finish()


async def _close(session: Session, send: Sending, recv: Receiving, rest: bytes) -> None:
    while len(rest) <= WORD and (more := await recv.read(CHUNK)):
        rest += more
    code = int.from_bytes(rest)
    if len(rest) != WORD or code > LARGEST_CODE:
        send.reset(STOP_CODE)
    else:
        session.close(code)


def _report(session: Session, count: DatagramCount) -> dict[str, Any]:
    return {
        **asdict(own_usage()),
        "counters": counters(session),
        "datagrams": count.datagrams,
        "datagram_bytes": count.datagram_bytes,
        "datagram_seconds": count.last - count.first,
        "closes": list(_closes),
    }


def request_key_update(session: Session) -> None:
    """Of the session itself, or of its `connection` where it has one, as rawquic's."""
    connection: Any = getattr(session, "connection", session)
    connection.request_key_update()


async def _take_datagrams(session: Session, count: DatagramCount) -> None:
    while True:
        received = await session.read_datagrams()
        if received[0][:1] == SINK.to_bytes():
            now = time.perf_counter()
            if not count.datagrams:
                count.first = now
            count.last = now
            count.datagrams += len(received)
            count.datagram_bytes += sum(map(len, received))
        else:
            session.send_datagrams(received)
