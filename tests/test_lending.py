"""Trains that leave by reference to their pages: what becomes of their blocks."""

import asyncio
import hashlib
import secrets
import time

import pytest
from loopback import Certificate, Pair, pair, until, within

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


async def test_no_block_is_kept_for_a_lost_packet(certificate: Certificate) -> None:
    """It is remembered for long, since its ACK may still come; its pages are not."""
    async with pair(certificate) as end:
        await download(end, MANY)
        before = by_reference(end)
        plane = end.peer._link.connection.plane
        plane.keep_alive()
        assert plane.build(time.monotonic())  # and it goes nowhere
        await download(end, FEW)
        await until(lambda: plane.inspect()["eliciting_in_flight"] == 0)
        assert by_reference(end) > before
        assert end.peer.connection.stats().packets_lost == 1
        assert plane.inspect()["ring"] > 100  # from the lost packet on
        assert plane.inspect()["blocks_lent"] == 0
