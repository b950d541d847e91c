"""Links that take less than an end tries: what it may send is found, and nothing waits for ever."""

import asyncio
import os

import pytest
from cable import Cable, across
from loopback import Certificate, pair, until, within

import rawquic
from rawquic import Config, RawQuicSession

pytestmark = pytest.mark.timeout(60)

compiled_only = pytest.mark.skipif(
    rawquic.backend_info()["backend"] != "compiled", reason="the python backend searches no MTU"
)


def mtu(session: RawQuicSession) -> int:
    return session.connection.stats().mtu


def told(session: RawQuicSession) -> int:
    """How often its system has refused a packet as too large."""
    return session._link.endpoint.socket_stats()["send_too_large"]


async def find_mtu(session: RawQuicSession, least: int) -> int:
    """What it has found once that is `least`; probes leave with other packets."""
    async with asyncio.timeout(30):
        while mtu(session) < least:
            await session.connection.ping()
            await asyncio.sleep(0.01)
    return mtu(session)


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
    async with pair(certificate, **across(cable)) as (client, peer, _):
        assert await find_mtu(client, 1376 - 19) <= 1376
        await transfer(client, peer, 1 << 20)
        stats = client._link.endpoint.socket_stats()
        assert stats["send_would_block"] == stats["send_too_large"] == 0


@compiled_only
@pytest.mark.parametrize(
    ("link", "bound", "fits"), [(1400, 1452, 1372), (1500, 9000, 1472)], ids=["1400", "1500"]
)
async def test_what_the_system_refuses_bounds_the_search(
    cable: Cable, certificate: Certificate, link: int, bound: int, fits: int
) -> None:
    cable.narrow(link, both=True)
    config = Config(mtu_upper_bound=bound)
    both = {"config": config, "server_config": config}
    async with pair(certificate, **both, **across(cable)) as (client, peer, _):
        for end in (client, peer):
            assert await find_mtu(end, fits - 19) <= fits
            assert 0 < told(end) <= 10  # one for each size that does not fit


async def test_a_link_that_becomes_narrow(cable: Cable, certificate: Certificate) -> None:
    """What is refused then is lost, and no more: smaller packets leave at once."""
    searches = rawquic.backend_info()["backend"] == "compiled"
    config = Config(initial_mtu=1200 if searches else 1452)
    both = {"config": config, "server_config": config}
    async with pair(certificate, **both, **across(cable)) as (client, peer, _):
        for end in (client, peer):
            assert await find_mtu(end, 1452) == 1452
        cable.narrow(1400, both=True)
        for end, other in ((client, peer), (peer, client)):
            await end.connection.ping()  # its timer runs: no other reason to look at it
            transferring = asyncio.ensure_future(transfer(end, other, 1 << 20))
            await until(lambda end=end: told(end))
            assert mtu(end) < 1452  # nothing has come since
            await transferring
            if searches:
                assert await find_mtu(end, 1372 - 19) <= 1372
                assert end._link.connection.plane.inspect()["black_holes"] == 0
            else:
                assert mtu(end) == 1200


async def test_all_connections_at_an_address(cable: Cable, certificate: Certificate) -> None:
    """They share the link; the one that has not sent for long finds what fits there as well."""
    searches = rawquic.backend_info()["backend"] == "compiled"
    config = Config(initial_mtu=1200 if searches else 1452)
    peers: list[RawQuicSession] = []
    over = asyncio.Event()

    async def handle(session: RawQuicSession) -> None:
        peers.append(session)
        await over.wait()

    async with (
        rawquic.serve(handle, sock=cable.server_socket, config=config, **certificate.server) as to,
        rawquic.Endpoint(config=config) as endpoint,
    ):
        clients = [
            await endpoint.connect(*to.local_address, server_name="localhost", **certificate.client)
            for _ in range(2)
        ]
        for session in clients:
            await session.connection.ping()
        for session in peers:
            assert await find_mtu(session, 1452) == 1452
        cable.narrow(1400)
        await transfer(peers[0], clients[0], 1 << 20)
        await transfer(peers[1], clients[1], 1 << 20)
        for session in peers:
            if searches:
                assert await find_mtu(session, 1372 - 19) <= 1372
            else:
                assert mtu(session) == 1200
        over.set()


async def test_a_first_size_that_does_not_fit(cable: Cable, certificate: Certificate) -> None:
    """The handshake goes on with packets of 1,200 bytes."""
    cable.narrow(1400, both=True)
    config = Config(initial_mtu=1452)
    both = {"config": config, "server_config": config}
    async with pair(certificate, **both, **across(cable)) as (client, peer, _):
        await transfer(client, peer, 1 << 20)
        await transfer(peer, client, 1 << 20)
        for end in (client, peer):
            assert told(end) > 0
            assert mtu(end) <= 1372
