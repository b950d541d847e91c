"""Trains that leave by reference to their pages: which do, and what becomes of their blocks."""

import asyncio
import hashlib
import secrets

import pytest
from loopback import Certificate, Pair, pair, within

import rawquic

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(
        not rawquic.backend_info()["splice"], reason="nothing leaves by reference here"
    ),
]

FEW, MANY = 512 << 10, 4 << 20  # bytes: 8 trains, 64 trains


async def download(end: Pair, size: int) -> None:
    data = secrets.token_bytes(size)

    async def write() -> None:
        async with await end.peer.open_uni() as send:
            await send.write(data)

    async def read() -> bytes:
        return hashlib.sha256(await (await end.client.accept_uni()).read_to_end(size)).digest()

    _, digest = await within(asyncio.gather(write(), read()))
    assert digest == hashlib.sha256(data).digest()


def by_reference(end: Pair) -> int:
    return end.server.stats().socket["send_by_reference"]


async def test_the_first_large_batches_are_copied(certificate: Certificate) -> None:
    """Fresh pages for a few trains would cost more than the copies."""
    async with pair(certificate) as end:
        await download(end, FEW)
        assert by_reference(end) == 0
        await download(end, MANY)
        assert by_reference(end) > 0
