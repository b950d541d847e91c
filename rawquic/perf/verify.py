"""Proof that a stack moves the right bytes: random data, compared by SHA-256, both ways."""

import asyncio
import contextlib
import hashlib
import os

from .interface import Receiving, Sending, Session
from .protocol import BOUNCE, DIGEST, ECHO, RANDOM, word

DIGEST_SIZE = 32
DATAGRAMS = 64
DATAGRAM_PATIENCE = 2.0
CHUNK = 65536


class Corrupted(Exception):
    """Bytes came that are not those that were sent."""


async def verify(session: Session, size: int = 1 << 20) -> dict[str, str]:
    """Move `size` random bytes up, down and around; the SHA-256 of each in hex.

    Raises Corrupted. Datagrams are compared too where the session takes them: a lost one is no
    fault, a changed one is.
    """
    proved = {
        "upload": await _upload(session, os.urandom(size)),
        "download": await _download(session, size),
        "echo": await _echo(session, os.urandom(size)),
    }
    if session.max_datagram_size is not None:
        proved["datagrams"] = await _datagrams(session)
    return proved


async def _write(send: Sending, data: bytes) -> None:
    for start in range(0, len(data), CHUNK):
        await send.write(data[start : start + CHUNK])
    send.finish()


async def _read(recv: Receiving) -> bytes:
    data = bytearray()
    while part := await recv.read(CHUNK):
        data += part
    return bytes(data)


def _same(what: str, sent: bytes, received: bytes) -> str:
    if sent != received:
        raise Corrupted(f"{what}: SHA-256 {sent.hex()} was sent, {received.hex()} came")
    return sent.hex()


async def _upload(session: Session, data: bytes) -> str:
    send, recv = await session.open_bi()
    await _write(send, word(DIGEST) + data)
    return _same("upload", hashlib.sha256(data).digest(), await _read(recv))


async def _download(session: Session, size: int) -> str:
    send, recv = await session.open_bi()
    await _write(send, word(RANDOM) + word(size))
    answer = await _read(recv)
    if len(answer) != size + DIGEST_SIZE:
        raise Corrupted(f"download: {len(answer)} bytes came in place of {size + DIGEST_SIZE}")
    return _same("download", answer[size:], hashlib.sha256(answer[:size]).digest())


async def _echo(session: Session, data: bytes) -> str:
    send, recv = await session.open_bi()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_write(send, word(ECHO) + data))
        answer = tasks.create_task(_read(recv))
    sent, received = hashlib.sha256(data).digest(), hashlib.sha256(answer.result()).digest()
    return _same("echo", sent, received)


async def _datagrams(session: Session) -> str:
    size = min(1000, session.max_datagram_size or 0)
    waiting = {BOUNCE.to_bytes() + os.urandom(size - 1) for _ in range(DATAGRAMS)}
    digest = hashlib.sha256(b"".join(sorted(waiting))).hexdigest()
    session.send_datagrams(list(waiting))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DATAGRAM_PATIENCE):
            while waiting:
                for data in await session.read_datagrams():
                    if data not in waiting:
                        raise Corrupted("datagrams: one came back changed, or twice")
                    waiting.discard(data)
    if len(waiting) == DATAGRAMS:
        raise Corrupted("datagrams: none came back")
    return digest
