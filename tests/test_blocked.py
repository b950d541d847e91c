"""rawquic.endpoint over a socket that takes no more: what was held leaves later, nothing is lost.

What the server sends waits in the kernel while its cable is cut, and is charged to its small socket
buffer.
"""

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from cable import Cable
from loopback import Certificate, error_of, until, waiting, within
from namespaces import CannotIsolate

import rawquic
from rawquic import ClosedByPeer, Config, IdleTimeout

pytestmark = pytest.mark.timeout(60)

FEW, TRAIN, MANY, LARGE = 32 << 10, 48 << 10, 128 << 10, 2 << 20  # bytes
# Without GSO already the first flight of a connection is more than the socket takes.
CONFIG = Config(socket_send_buffer=4 << 10, enable_gso=False)

# Each in a packet larger than the one before: a batch of them is a train for each.
DATAGRAMS = [bytes([i]) * (700 + 50 * i) for i in range(8)]


async def upload(session: rawquic.RawQuicSession, data: bytes) -> None:
    async with await session.open_uni() as send:
        await send.write(data)


async def digest(session: rawquic.RawQuicSession) -> bytes:
    return hashlib.sha256(await (await session.accept_uni()).read_to_end(LARGE)).digest()


class Ends:
    """A server behind the cable, and the two ends of its sessions."""

    def __init__(self, cable: Cable, server: rawquic.Server) -> None:
        self._cable = cable
        self.server = server
        self.clients: list[rawquic.RawQuicSession] = []
        self.peers: list[rawquic.RawQuicSession] = []
        self.writing: asyncio.Future[None] = asyncio.Future()

    @property
    def blocked(self) -> bool:
        endpoint = self.peers[0]._link.endpoint
        reactor = endpoint._io.reactor
        return bool(endpoint.turn.held or (reactor is not None and reactor.blocked))

    async def block(self) -> "asyncio.Future[Any]":
        """Cut the cable, and send to the first client until the socket takes no more.

        Returns what the client reads.
        """
        self._cable.cut()
        self.peers[0].send_datagrams(DATAGRAMS)
        self.writing = asyncio.ensure_future(upload(self.peers[0], bytes(MANY)))
        await until(lambda: self.blocked)
        return asyncio.ensure_future(digest(self.clients[0]))


@contextlib.asynccontextmanager
async def ends(
    cable: Cable, certificate: Certificate, count: int, config: Config = CONFIG
) -> AsyncIterator[Ends]:
    over = asyncio.Event()

    async def handle(session: rawquic.RawQuicSession) -> None:
        made.peers.append(session)
        await over.wait()

    server = await rawquic.serve(
        handle, sock=cable.server_socket, config=config, **certificate.server
    )
    made = Ends(cable, server)
    try:
        for _ in range(count):
            client = await within(
                rawquic.connect(
                    *server.local_address,
                    server_name="localhost",
                    config=Config(max_idle_timeout=config.max_idle_timeout),
                    **certificate.client,
                )
            )
            made.clients.append(client)
            await within(client.connection.ping())  # the handshake is confirmed
        yield made
    finally:
        made.writing.cancel()
        for client in made.clients:
            client.close()
            await client.wait_closed()
        over.set()
        server.close()
        await within(server.wait_closed())


@pytest.mark.parametrize("gso", [True, False])
async def test_nothing_is_lost(cable: Cable, certificate: Certificate, gso: bool) -> None:
    """Every byte arrives, of every connection of the socket, block after block."""
    async with ends(cable, certificate, 3, replace(CONFIG, enable_gso=gso)) as end:
        for _ in range(5):
            cable.cut()
            data = [secrets.token_bytes(MANY) for _ in end.peers]
            writing = [
                asyncio.ensure_future(upload(peer, part))
                for peer, part in zip(end.peers, data, strict=True)
            ]
            await until(lambda: end.blocked)
            # Those that wait for the socket hear the peer all the same.
            for client, peer in zip(end.clients, end.peers, strict=True):
                client.send_datagram(b"heard")
                assert await within(peer.read_datagram()) == b"heard"
            assert end.blocked
            cable.mend()
            digests = await within(asyncio.gather(*map(digest, end.clients)))
            assert digests == [hashlib.sha256(part).digest() for part in data]
            await within(asyncio.gather(*writing))
        stats = end.server.stats().socket
        assert stats["send_would_block"] >= 5
        # QUIC makes up for packets that were lost or spoilt here: so they are counted.
        built = sum(peer.connection.stats().udp_datagrams_sent for peer in end.peers)
        assert stats["send_datagrams"] == built
        assert [peer.connection.stats().packets_lost for peer in end.peers] == [0, 0, 0]
        assert stats["send_errors"] == stats["send_too_large"] == 0


async def test_what_is_held_is_not_lent(cable: Cable, certificate: Certificate) -> None:
    """A train that left from where packets are held is whole, whatever is held there next."""
    if not rawquic.backend_info()["splice"]:
        pytest.skip("nothing leaves by reference here")
    async with ends(cable, certificate, 3, replace(CONFIG, enable_gso=True)) as end:
        for size in (LARGE, TRAIN, TRAIN):  # the windows open, and batches grow to whole trains
            writing = [asyncio.ensure_future(upload(peer, bytes(size))) for peer in end.peers]
            await within(asyncio.gather(*map(digest, end.clients), *writing))
        cable.cut()
        data = [secrets.token_bytes(TRAIN) for _ in end.peers]
        writing = [
            asyncio.ensure_future(upload(peer, part))
            for peer, part in zip(end.peers, data, strict=True)
        ]
        await until(lambda: end.blocked)  # the second train is held, the third waits
        cable.mend()  # what the kernel has arrives, and the socket takes more:
        cable.cut()  # the second train, which the kernel keeps, while the third is held
        reactor = end.peers[0]._link.endpoint._io.reactor
        reactor.on_writable()
        assert reactor.blocked
        cable.mend()
        digests = await within(asyncio.gather(*map(digest, end.clients)))
        assert digests == [hashlib.sha256(part).digest() for part in data]
        await within(asyncio.gather(*writing))
        assert end.server.stats().socket["send_by_reference"]
        assert [peer.connection.stats().packets_lost for peer in end.peers] == [0, 0, 0]


@contextlib.asynccontextmanager
async def lending(cable: Cable, certificate: Certificate) -> AsyncIterator[Ends]:
    """One client, to which large trains have left by reference."""
    if not rawquic.backend_info()["splice"]:
        pytest.skip("nothing leaves by reference here")
    config = replace(CONFIG, enable_gso=True, socket_send_buffer=1 << 20)
    async with ends(cable, certificate, 1, config) as end:
        for size in (LARGE, TRAIN):
            writing = asyncio.ensure_future(upload(end.peers[0], bytes(size)))
            await within(asyncio.gather(*map(digest, end.clients), writing))
        yield end


async def test_a_block_with_a_train_that_was_refused(
    cable: Cable, certificate: Certificate
) -> None:
    """Parts of it may have left: it stays as it is until its packets are acknowledged or lost."""
    async with lending(cable, certificate) as end:
        plane = end.peers[0]._link.connection.plane
        by_reference = end.server.stats().socket["send_by_reference"]
        assert by_reference and plane.inspect()["blocks_lent"] == 0
        cable.narrow(1000)
        writing = asyncio.ensure_future(upload(end.peers[0], bytes(TRAIN)))
        await until(lambda: end.server.stats().socket["send_too_large"])
        assert end.server.stats().socket["send_by_reference"] == by_reference
        assert plane.inspect()["blocks_lent"] == 1
        cable.narrow(1500)
        await within(asyncio.gather(*map(digest, end.clients), writing))
        await until(lambda: plane.inspect()["blocks_lent"] == 0)


async def test_a_block_with_a_train_that_was_dropped(
    cable: Cable, certificate: Certificate
) -> None:
    """It is not sent again, nor copied: some of it may have left, and the rest is lost."""
    async with lending(cable, certificate) as end:
        (peer,) = end.peers
        plane = peer._link.connection.plane
        data = secrets.token_bytes(TRAIN)
        try:
            cable.clog()
        except CannotIsolate as reason:
            pytest.skip(str(reason))
        before, sent = end.server.stats().socket, peer.connection.stats().udp_datagrams_sent
        async with await peer.open_uni() as stream:
            await stream.write(data)
            peer._link.endpoint.flush_now(peer._link)
            after, built = end.server.stats().socket, peer.connection.stats().udp_datagrams_sent
            assert after["send_errors"] - before["send_errors"] == built - sent > 30
            assert after["send_calls"] - before["send_calls"] == 3  # one by reference
            assert plane.inspect()["blocks_lent"] == 1
            cable.unclog()
        assert await within(digest(end.clients[0])) == hashlib.sha256(data).digest()
        await until(lambda: plane.inspect()["blocks_lent"] == 0)
        assert end.server.stats().socket["send_would_block"] == 0
        assert end.clients[0]._link.connection.plane.inspect()["failed_opens"] == 0


async def test_a_connection_that_waits(cable: Cable, certificate: Certificate) -> None:
    """Nothing of it is on the way, so that no timer and no packet reminds of it."""
    async with ends(cable, certificate, 2) as end:
        for _ in range(2):
            reading = await end.block()
            sent = end.server.stats().socket["send_datagrams"]
            data = secrets.token_bytes(FEW)
            await within(upload(end.peers[1], data))
            answer = await waiting(end.peers[1].connection.ping())
            assert end.blocked
            assert end.server.stats().socket["send_datagrams"] == sent
            cable.mend()
            assert await within(digest(end.clients[1])) == hashlib.sha256(data).digest()
            await within(answer)
            await within(end.writing)
            got: list[bytes] = []
            while len(got) < len(DATAGRAMS):
                got += await within(end.clients[0].read_datagrams())
            assert got == DATAGRAMS
            assert await within(reading) == hashlib.sha256(bytes(MANY)).digest()


@pytest.mark.parametrize("idle", [30.0, None])
async def test_the_loop_sleeps_meanwhile(
    cable: Cable, certificate: Certificate, idle: float | None
) -> None:
    """What waits for the socket asks for no flush, also where it has an earlier deadline."""
    async with ends(cable, certificate, 2, replace(CONFIG, max_idle_timeout=idle)) as end:
        links = [peer._link for peer in end.peers]
        soon = time.monotonic() + 5
        await until(lambda: all(link.armed is None or link.armed > soon for link in links))
        reading = await end.block()
        await within(upload(end.peers[1], b"waits"))
        turn = end.peers[0]._link.endpoint.turn
        await until(lambda: not turn.is_scheduled())
        assert end.blocked
        cable.mend()
        assert await within(digest(end.clients[1])) == hashlib.sha256(b"waits").digest()
        assert await within(reading) == hashlib.sha256(bytes(MANY)).digest()
        await within(end.writing)


async def test_a_session_that_closes_meanwhile(cable: Cable, certificate: Certificate) -> None:
    """One that was sending, and one that waits its turn; the third goes on."""
    async with ends(cable, certificate, 3) as end:
        reading = await end.block()
        data = secrets.token_bytes(FEW)
        for peer in end.peers[1:]:
            await within(upload(peer, data))
        end.clients[2].send_datagram(b"heard")
        assert await within(end.peers[2].read_datagram()) == b"heard"
        end.peers[0].close(1)
        end.peers[1].close(2)
        for peer in end.peers[:2]:
            await within(peer.wait_closed())
        assert end.blocked
        cable.mend()
        assert await within(digest(end.clients[2])) == hashlib.sha256(data).digest()
        for client, code in zip(end.clients, (1, 2), strict=False):
            await within(client.wait_closed())
            reason = client.close_reason
            assert isinstance(reason, ClosedByPeer) and reason.code == code
        assert isinstance(await error_of(reading), ClosedByPeer)
        assert not end.blocked


async def test_a_server_that_closes_meanwhile(cable: Cable, certificate: Certificate) -> None:
    """The cable stays cut: nothing waits for it, and the loop keeps no watch on the socket."""
    async with ends(cable, certificate, 2, replace(CONFIG, max_idle_timeout=2.0)) as end:
        reading = await end.block()
        watched = end.peers[0]._link.endpoint._io._socket.fileno()
        end.server.close()
        await within(end.server.wait_closed())
        loop: Any = asyncio.get_running_loop()
        assert not loop.remove_writer(watched) and not loop.remove_reader(watched)
        for client in end.clients:
            await within(client.wait_closed())
            assert type(client.close_reason) is IdleTimeout
        assert type(await error_of(reading)) is IdleTimeout
