"""Against stock aioquic's own asyncio client and server, in both roles."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

import aioquic.asyncio
import pytest
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    DatagramFrameReceived,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from loopback import Certificate, error_of, until, within

import rawquic
from rawquic import ClosedByPeer, StreamStopped

pytestmark = pytest.mark.timeout(40)
MB = 1_000_000


class Stock(QuicConnectionProtocol):
    """aioquic's protocol, which keeps what it hears."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.heard: list[QuicEvent] = []
        self.data: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.echo = False

    def quic_event_received(self, event: QuicEvent) -> None:
        self.heard.append(event)
        if isinstance(event, StreamDataReceived):
            self.data.setdefault(event.stream_id, bytearray()).extend(event.data)
            if event.end_stream:
                self.ended.add(event.stream_id)
            if self.echo and not event.stream_id & 2:
                self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, DatagramFrameReceived) and self.echo:
            self._quic.send_datagram_frame(event.data)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.heard if isinstance(event, kind)]

    def send(self, stream_id: int, data: bytes, end: bool = False) -> None:
        self._quic.send_stream_data(stream_id, data, end)
        self.transmit()


@contextlib.asynccontextmanager
async def our_server(
    certificate: Certificate, **config: Any
) -> AsyncIterator[tuple[rawquic.RawQuicSession, Stock]]:
    """Our end of the session, and their client."""
    accepted = asyncio.get_running_loop().create_future()

    async def handle(session: rawquic.RawQuicSession) -> None:
        accepted.set_result(session)
        await session.wait_closed()

    server = await rawquic.serve(
        handle, "127.0.0.1", 0, config=rawquic.Config(**config), **certificate.server
    )
    try:
        configuration = QuicConfiguration(
            alpn_protocols=["h3"],
            is_client=True,
            server_name="localhost",
            max_datagram_frame_size=65535,
            cadata=certificate.cert,
        )
        async with aioquic.asyncio.connect(
            *server.local_address, configuration=configuration, create_protocol=Stock
        ) as stock:
            yield await within(accepted), stock  # type: ignore[misc]
    finally:
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def our_client(
    certificate: Certificate, **config: Any
) -> AsyncIterator[tuple[rawquic.RawQuicSession, Stock]]:
    """Our end of the session, and their server's."""
    configuration = QuicConfiguration(
        alpn_protocols=["h3"], is_client=False, max_datagram_frame_size=65535
    )
    configuration.certificate = x509.load_pem_x509_certificate(certificate.cert)
    configuration.private_key = load_pem_private_key(certificate.key, None)
    made: list[Stock] = []

    def create(*args: Any, **options: Any) -> Stock:
        made.append(Stock(*args, **options))
        return made[-1]

    server = await aioquic.asyncio.serve(
        "127.0.0.1", 0, configuration=configuration, create_protocol=create
    )
    try:
        address = server._transport.get_extra_info("sockname")
        async with rawquic.connect(
            *address, config=rawquic.Config(**config), **certificate.client
        ) as session:
            await until(lambda: made and made[0].of(HandshakeCompleted))
            yield session, made[0]
    finally:
        server.close()


ROLES = {"client": our_client, "server": our_server}
BY_ROLE = pytest.mark.parametrize("role", ROLES)


@BY_ROLE
async def test_streams_of_ours(certificate: Certificate, role: str) -> None:
    async with ROLES[role](certificate) as (session, stock):
        stock.echo = True
        send, recv = await session.open_bi()
        await send.write(b"both ways")
        send.finish()
        assert await within(recv.read(-1)) == b"both ways"
        await within(send.wait_acked())
        one_way = await session.open_uni()
        await one_way.write(b"one way")
        one_way.finish()
        await until(lambda: one_way.id in stock.ended)
        assert stock.data[one_way.id] == b"one way"


@BY_ROLE
async def test_streams_of_theirs(certificate: Certificate, role: str) -> None:
    async with ROLES[role](certificate) as (session, stock):
        bidi = stock._quic.get_next_available_stream_id()
        stock.send(bidi, b"question", end=True)
        send, recv = await within(session.accept_bi())
        assert recv.id == bidi
        assert await within(recv.read(-1)) == b"question"
        await send.write(b"answer")
        send.finish()
        await until(lambda: bidi in stock.ended)
        assert stock.data[bidi] == b"answer"
        uni = stock._quic.get_next_available_stream_id(is_unidirectional=True)
        stock.send(uni, b"one way", end=True)
        one_way = await within(session.accept_uni())
        assert (one_way.id, await within(one_way.read(-1))) == (uni, b"one way")


@BY_ROLE
async def test_more_streams_than_the_limit(certificate: Certificate, role: str) -> None:
    """aioquic allows 128 at once; MAX_STREAMS makes room for more, on both sides."""
    async with ROLES[role](certificate, max_concurrent_bidi_streams=5) as (session, stock):
        stock.echo = True

        async def round_trip(number: int) -> None:
            send, recv = await session.open_bi()
            await send.write(b"%d" % number)
            send.finish()
            assert await recv.read(-1) == b"%d" % number

        await within(asyncio.gather(*(round_trip(n) for n in range(300))), 20)
        stock.echo = False

        async def serve() -> None:
            for _ in range(40):
                send, recv = await session.accept_bi()
                await send.write(await recv.read(-1))
                send.finish()

        serving = asyncio.ensure_future(serve())
        ids = []
        for number in range(40):
            ids.append(stock._quic.get_next_available_stream_id())
            stock.send(ids[-1], b"%d" % number, end=True)
        await until(lambda: stock.ended.issuperset(ids))
        await within(serving)
        assert [bytes(stock.data[each]) for each in ids] == [b"%d" % n for n in range(40)]


@BY_ROLE
async def test_datagrams(certificate: Certificate, role: str) -> None:
    async with ROLES[role](certificate) as (session, stock):
        stock.echo = True
        assert session.max_datagram_size is not None
        # Stock has packets of 1,200 bytes; it could not echo what fits one of ours by now.
        for data in (b"", b"x", bytes(min(session.max_datagram_size, 1150))):
            session.send_datagram(data)
            assert await within(session.read_datagram()) == data
        assert [each.data for each in stock.of(DatagramFrameReceived)][1] == b"x"


@BY_ROLE
async def test_reset_and_stop(certificate: Certificate, role: str) -> None:
    async with ROLES[role](certificate) as (session, stock):
        send, recv = await session.open_bi()
        await send.write(b"x")
        await until(lambda: send.id in stock.data)
        send.reset(21)
        await until(lambda: stock.of(StreamReset))
        assert stock.of(StreamReset)[0].error_code == 21
        recv.stop(22)
        await until(lambda: stock.of(StopSendingReceived))
        assert stock.of(StopSendingReceived)[0].error_code == 22

        send, recv = await session.open_bi()
        await send.write(b"x")
        await until(lambda: send.id in stock.data)
        stock._quic.stop_stream(send.id, 23)
        stock._quic.reset_stream(send.id, 24)
        stock.transmit()
        assert await within(send.stopped()) == 23
        stopped, reset = await error_of(send.write(b"y")), await error_of(recv.read())
        assert isinstance(stopped, StreamStopped) and stopped.code == 23
        assert isinstance(reset, rawquic.StreamReset) and reset.code == 24


@BY_ROLE
async def test_close_by_us(certificate: Certificate, role: str) -> None:
    async with ROLES[role](certificate) as (session, stock):
        session.close(31, "why")
        await until(lambda: stock.of(ConnectionTerminated))
        (event,) = stock.of(ConnectionTerminated)
        assert (event.error_code, event.frame_type, event.reason_phrase) == (31, None, "why")


@BY_ROLE
async def test_close_by_them(certificate: Certificate, role: str) -> None:
    async with ROLES[role](certificate) as (session, stock):
        stock.close(error_code=32, reason_phrase="because")
        await within(session.wait_closed())
        reason = session.close_reason
        assert isinstance(reason, ClosedByPeer)
        assert (reason.code, reason.reason, reason.is_application) == (32, b"because", True)


@BY_ROLE
async def test_a_megabyte_both_ways(certificate: Certificate, role: str) -> None:
    async with ROLES[role](certificate) as (session, stock):
        stock.echo = True
        data = os.urandom(MB)
        send, recv = await session.open_bi()
        writing = asyncio.ensure_future(send.write(data))
        writing.add_done_callback(lambda _: send.finish())
        got = await within(recv.read(-1), 30)
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        await until(lambda: send.id in stock.ended)
        assert hashlib.sha256(stock.data[send.id]).digest() == hashlib.sha256(data).digest()


@BY_ROLE
async def test_key_updates_and_pings(certificate: Certificate, role: str) -> None:
    async with ROLES[role](certificate) as (session, stock):
        stock.echo = True
        send, recv = await session.open_bi()
        for number in range(4):
            (session.connection if number % 2 else stock._quic).request_key_update()
            await send.write(b"x")
            assert await within(recv.readexactly(1)) == b"x"
            assert 0 < await within(session.connection.ping()) < 5
        await within(stock.ping())


async def test_a_client_of_theirs_changes_its_connection_id(certificate: Certificate) -> None:
    async with our_server(certificate) as (session, stock):
        stock.change_connection_id()
        await within(stock.ping())
        stock.send(0, b"under another ID", end=True)
        _, recv = await within(session.accept_bi())
        assert await within(recv.read(-1)) == b"under another ID"


async def test_their_retry(certificate: Certificate) -> None:
    configuration = QuicConfiguration(alpn_protocols=["h3"], is_client=False)
    configuration.certificate = x509.load_pem_x509_certificate(certificate.cert)
    configuration.private_key = load_pem_private_key(certificate.key, None)
    server = await aioquic.asyncio.serve(
        "127.0.0.1", 0, configuration=configuration, create_protocol=Stock, retry=True
    )
    try:
        address = server._transport.get_extra_info("sockname")
        async with rawquic.connect(*address, **certificate.client) as session:
            assert await within(session.connection.ping()) < 5
            assert session.max_datagram_size is None  # stock aioquic takes none by default
    finally:
        server.close()


async def test_our_retry(certificate: Certificate) -> None:
    async def handle(session: rawquic.RawQuicSession) -> None:
        await session.wait_closed()

    async with rawquic.serve(
        handle, "127.0.0.1", 0, on_incoming=lambda _: "retry", **certificate.server
    ) as server:
        configuration = QuicConfiguration(
            alpn_protocols=["h3"], server_name="localhost", cadata=certificate.cert
        )
        async with aioquic.asyncio.connect(
            *server.local_address, configuration=configuration
        ) as stock:
            await within(stock.ping())
        assert server.stats().retried == 1


async def test_our_refusal_and_their_alpn(certificate: Certificate) -> None:
    async def handle(session: rawquic.RawQuicSession) -> None:
        await session.wait_closed()

    for options, alpn, code in (
        ({"on_incoming": lambda _: "refuse"}, "h3", 2),
        ({}, "other", 0x100 + 120),
    ):
        async with rawquic.serve(handle, "127.0.0.1", 0, **options, **certificate.server) as server:
            configuration = QuicConfiguration(
                alpn_protocols=[alpn], server_name="localhost", cadata=certificate.cert
            )
            async with aioquic.asyncio.connect(
                *server.local_address,
                configuration=configuration,
                create_protocol=Stock,
                wait_connected=False,
            ) as stock:
                stock.transmit()
                await until(lambda each=stock: each.of(ConnectionTerminated))
                assert stock.of(ConnectionTerminated)[0].error_code == code
