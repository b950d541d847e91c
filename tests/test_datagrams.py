"""Unreliable datagrams of a session (RFC 9221): sizes, queues, waiting and dropping."""

import array
import asyncio
import os
import sys
from collections import Counter
from types import FrameType

import pytest
from loopback import Certificate, Relay, blocked_one, error_of, pair, until, waiting, within

import rawquic
from rawquic import (
    ClosedByPeer,
    ClosedLocally,
    Config,
    DatagramTooLarge,
    DatagramUnsupported,
    RawQuicSession,
)

pytestmark = pytest.mark.timeout(30)


async def test_both_ways(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        for near, far in ((client, peer), (peer, client)):
            reading = await waiting(far.read_datagram())
            near.send_datagram(b"one")
            assert await within(reading) == b"one"
            near.send_datagrams([b"two", b"", b"three"])
            await within(near.connection.ping())
            assert await within(far.read_datagrams()) == [b"two", b"", b"three"]


async def test_read_datagrams_takes_at_most_max(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        for bad in (0, -1):
            with pytest.raises(ValueError, match="at least 1"):
                await peer.read_datagrams(max=bad)
        client.send_datagrams([bytes([n]) for n in range(10)])
        await within(client.connection.ping())
        assert await peer.read_datagrams(max=3) == [b"\0", b"\1", b"\2"]
        assert await peer.read_datagram() == b"\3"
        assert await peer.read_datagrams(max=2**64) == [bytes([n]) for n in range(4, 10)]


async def test_bytes_like_objects(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        data = bytearray(b"before")
        client.send_datagram(data)
        data[:] = b"after!"
        client.send_datagram(memoryview(b"view"))
        await client.send_datagram_wait(bytearray(b"waited"))
        await within(client.connection.ping())
        assert await within(peer.read_datagrams()) == [b"before", b"view", b"waited"]


async def test_what_is_not_bytes_is_a_type_error(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        for data, said in ((5, "int"), ("text", "str: encode it"), (None, "None"), ([1], "list")):
            with pytest.raises(TypeError, match=f"bytes-like object is required, not {said}"):
                client.send_datagram(data)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=f"required, not {said}"):
                client.send_datagrams([data])  # type: ignore[list-item]
            with pytest.raises(TypeError, match=f"required, not {said}"):
                await client.send_datagram_wait(data)  # type: ignore[arg-type]
        for one in (b"one", bytearray(b"one"), memoryview(b"one"), "one"):
            with pytest.raises(TypeError, match="a list of datagrams; send_datagram takes one"):
                client.send_datagrams(one)  # type: ignore[arg-type]
        client.send_datagram(b"the first that arrives")
        assert await within(peer.read_datagram()) == b"the first that arrives"


async def test_the_largest_goes_and_one_more_does_not(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        limit = client.max_datagram_size
        assert limit is not None and limit >= 1100
        client.send_datagram(bytes(limit))
        assert await within(peer.read_datagram()) == bytes(limit)
        with pytest.raises(DatagramTooLarge) as error:
            client.send_datagram(bytes(limit + 1))
        assert (error.value.size, error.value.limit) == (limit + 1, limit)
        assert str(limit + 1) in str(error.value) and str(limit) in str(error.value)
        assert type(await error_of(client.send_datagram_wait(bytes(limit + 1)))) is DatagramTooLarge
        with pytest.raises(DatagramTooLarge):
            client.send_datagrams([b"before the bad one", bytes(limit + 1), b"behind it"])
        await within(client.connection.ping())
        assert await within(peer.read_datagrams()) == [b"before the bad one"]


async def test_a_larger_mtu_takes_larger_datagrams(certificate: Certificate) -> None:
    config = Config(initial_mtu=4000)
    async with pair(certificate, config=config, server_config=config) as (client, peer, _):
        limit = client.max_datagram_size
        assert limit is not None and limit > 3900
        client.send_datagram(b"x" * limit)
        assert await within(peer.read_datagram()) == b"x" * limit


async def test_a_peer_that_takes_none(certificate: Certificate) -> None:
    none = Config(datagram_receive_buffer_size=None)
    async with pair(certificate, server_config=none) as (client, peer, _):
        assert client.max_datagram_size is None
        with pytest.raises(DatagramUnsupported, match="RFC 9221"):
            client.send_datagram(b"x")
        with pytest.raises(DatagramUnsupported):
            client.send_datagrams([b"x"])
        with pytest.raises(DatagramUnsupported):
            await within(client.send_datagram_wait(b"x"))
        assert peer.max_datagram_size is not None  # the other way it works
        peer.send_datagram(b"back")
        assert await within(client.read_datagram()) == b"back"


async def test_a_full_send_buffer_drops_the_oldest(certificate: Certificate) -> None:
    config = Config(datagram_send_buffer_size=5000)
    async with pair(certificate, config=config) as (client, peer, _):
        # In one turn of the loop, so that nothing leaves in between.
        for number in range(20):
            client.send_datagram(bytes([number]) * 1000)
        got: list[bytes] = []
        while not got or got[-1][0] != 19:
            got += await within(peer.read_datagrams())
        # Each costs 64 bytes more than it has, so that empty ones are bounded too.
        assert [each[0] for each in got] == [16, 17, 18, 19]
        assert client.connection.stats().datagrams_dropped_send == 16


async def test_a_full_receive_buffer_drops_the_oldest(certificate: Certificate) -> None:
    config = Config(datagram_receive_buffer_size=5000)
    async with pair(certificate, server_config=config) as (client, peer, _):
        for number in range(20):
            await client.send_datagram_wait(bytes([number]) * 1000)
        await until(lambda: peer.connection.stats().datagrams_dropped_receive >= 15)
        for _ in range(2):  # the second one is sent behind all datagrams
            await within(client.connection.ping())
        got = await within(peer.read_datagrams())
        assert [each[0] for each in got] == list(range(20 - len(got), 20))
        assert sum(map(len, got)) <= 5000 and len(got) >= 4
        assert peer.connection.stats().datagrams_dropped_receive == 20 - len(got)


async def test_waiting_for_room_drops_none(certificate: Certificate) -> None:
    config = Config(datagram_send_buffer_size=2500)
    async with pair(certificate, config=config) as (client, peer, _):

        async def send(first: int) -> None:
            for number in range(first, first + 50):
                await client.send_datagram_wait(number.to_bytes(2, "big") * 500)

        sending = asyncio.gather(send(0), send(1000))
        got: list[int] = []
        while len(got) < 100:
            got += [int.from_bytes(d[:2], "big") for d in await within(peer.read_datagrams())]
        await within(sending)
        assert sorted(got) == [*range(50), *range(1000, 1050)]
        assert client.connection.stats().datagrams_dropped_send == 0


async def test_waiting_for_room_waits(certificate: Certificate) -> None:
    relay = Relay()
    config = Config(datagram_send_buffer_size=2000)
    async with pair(certificate, config=config, relay=relay) as (client, _, _):
        relay.drop = lambda data, to_server: True
        # The congestion window fills, for nothing is acknowledged; then the buffer does.
        sending = await blocked_one(lambda: client.send_datagram_wait(bytes(1000)))
        relay.drop = lambda data, to_server: False
        await within(sending)
        relay.drop = lambda data, to_server: True
        sending = await blocked_one(lambda: client.send_datagram_wait(bytes(1000)))
        client.close()
        assert type(await error_of(sending)) is ClosedLocally


async def test_waiting_for_room_goes_by_bytes_not_items(certificate: Certificate) -> None:
    config = Config(datagram_send_buffer_size=1200)
    async with pair(certificate, config=config) as (client, peer, _):
        wide = array.array("I", range(150))
        client.send_datagram(bytes(800))
        await within(client.send_datagram_wait(wide))  # type: ignore[arg-type]
        assert await within(peer.read_datagram()) == bytes(800)
        assert await within(peer.read_datagram()) == wide.tobytes()
        assert client.connection.stats().datagrams_dropped_send == 0


async def test_a_cancelled_read_takes_none(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        reading = await waiting(peer.read_datagram())
        reading.cancel()
        client.send_datagram(b"kept")
        assert await within(peer.read_datagram()) == b"kept"


async def test_several_readers_share(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        readers = [await waiting(peer.read_datagram()) for _ in range(5)]
        client.send_datagrams([bytes([n]) for n in range(5)])
        assert sorted(await within(asyncio.gather(*readers))) == [bytes([n]) for n in range(5)]
        assert client.connection.stats().datagrams_dropped_send == 0


async def test_a_lost_datagram_is_not_sent_again(certificate: Certificate) -> None:
    relay = Relay()
    async with pair(certificate, relay=relay) as (client, peer, _):
        relay.drop = lambda data, to_server: to_server
        client.send_datagram(b"lost")
        pinging = asyncio.ensure_future(client.connection.ping())
        await until(lambda: relay.lost)
        relay.drop = lambda data, to_server: False
        await within(pinging)
        client.send_datagram(b"not lost")
        assert await within(peer.read_datagram()) == b"not lost"


async def test_none_after_the_end(certificate: Certificate) -> None:
    async with pair(certificate) as (client, _, _):
        client.close()
        assert client.max_datagram_size is None
        with pytest.raises(ClosedLocally):
            client.send_datagram(b"x")


# -- iteration -------------------------------------------------------------------------------------


async def collect(session: RawQuicSession) -> list[bytes]:
    return [data async for data in session.datagrams()]


@pytest.mark.parametrize("closer", ["near", "far"])
async def test_iteration_ends_when_the_session_closes_without_error(
    certificate: Certificate, closer: str
) -> None:
    async with pair(certificate) as (client, peer, _):
        collecting = await waiting(collect(peer))
        for data in (b"one", b"", b"three"):
            client.send_datagram(data)
            await within(client.connection.ping())
        (peer if closer == "near" else client).close()
        assert await within(collecting) == [b"one", b"", b"three"]


@pytest.mark.parametrize(("closer", "kind"), [("near", ClosedLocally), ("far", ClosedByPeer)])
async def test_iteration_raises_when_it_closes_with_an_error(
    certificate: Certificate, closer: str, kind: type[Exception]
) -> None:
    async with pair(certificate) as (client, peer, _):
        collecting = await waiting(collect(peer))
        (peer if closer == "near" else client).close(7)
        assert type(await error_of(collecting)) is kind


async def test_iteration_gives_what_had_arrived_before_the_end(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        client.send_datagrams([b"1", b"2"])
        await within(client.connection.ping())
        client.close()
        await within(peer.wait_closed())
        assert await within(collect(peer)) == [b"1", b"2"]


async def test_leaving_an_iteration_loses_none(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        client.send_datagrams([b"1", b"2", b"3"])
        await within(client.connection.ping())
        async for data in peer.datagrams():
            assert data == b"1"
            break
        assert await within(peer.read_datagrams()) == [b"2", b"3"]


@pytest.mark.skipif(
    rawquic.backend_info()["backend"] != "compiled",
    reason="python takes steps for each",
)
async def test_a_batch_takes_no_python_step_for_each_datagram(certificate: Certificate) -> None:
    calls: list[str] = []

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)

    batch = [os.urandom(100) for _ in range(1000)]
    async with pair(certificate) as (client, peer, _):
        await client.connection.ping()
        sys.setprofile(count)
        try:
            client.send_datagrams(batch)
            got: list[bytes] = []
            while len(got) < len(batch):
                got += await within(peer.read_datagrams())
        finally:
            sys.setprofile(None)
        assert got == batch
    assert len(calls) < len(batch) / 2, Counter(calls).most_common(5)
