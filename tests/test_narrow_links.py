"""Links that take less than an end tries: what it may send is found, and nothing waits for ever."""

import asyncio
import os

import pytest
from cable import Cable
from loopback import Certificate, pair, within

import rawquic
from rawquic import RawQuicSession

pytestmark = pytest.mark.timeout(60)

compiled_only = pytest.mark.skipif(
    rawquic.backend_info()["backend"] != "compiled", reason="the python backend searches no MTU"
)


async def find_mtu(session: RawQuicSession, least: int) -> int:
    """What it has found once that is `least`; probes leave with other packets."""
    async with asyncio.timeout(30):
        while session.connection.stats().mtu < least:
            await session.connection.ping()
            await asyncio.sleep(0.01)
    return session.connection.stats().mtu


async def transfer(sender: RawQuicSession, receiver: RawQuicSession, size: int) -> None:
    data = os.urandom(size)

    async def send() -> None:
        async with await sender.open_uni() as stream:
            await stream.write(data)

    async def read() -> bytes:
        return await (await receiver.accept_uni()).read_to_end(size)

    got, _ = await within(asyncio.gather(read(), send()), 30)
    assert got == data


@compiled_only
async def test_what_the_device_drops_is_lost(cable: Cable, certificate: Certificate) -> None:
    """The other end of the client's cable takes less, which the client is told of each packet."""
    cable.narrow(1400)  # with the room for a VLAN tag, 1,376 bytes of UDP pass
    async with pair(certificate, sock=cable.server_socket, server_name="localhost") as ends:
        client, peer, _ = ends
        assert await find_mtu(client, 1376 - 19) <= 1376
        await transfer(client, peer, 1 << 20)
        stats = client._link.endpoint.socket_stats()
        assert stats["send_would_block"] == stats["send_too_large"] == 0
