"""Stock aioquic: its own asyncio layer, one datagram per system call."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import aioquic.asyncio
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import CipherSuite

from rawquic.perf import ALPN, serve_perf
from rawquic.perf.interface import Connect

from . import Settings
from .events import EventSession

SUITES = {
    "aes-128-gcm": CipherSuite.AES_128_GCM_SHA256,
    "aes-256-gcm": CipherSuite.AES_256_GCM_SHA384,
    "chacha20-poly1305": CipherSuite.CHACHA20_POLY1305_SHA256,
}
FRAME = 65536
DATAGRAM_BACKLOG = 256
OVERHEAD = 48  # of a packet around a datagram


def versions() -> dict[str, str]:
    return {"aioquic": metadata.version("aioquic")}


class Session(EventSession):
    def datagram_limit(self) -> int | None:
        if self.quic._remote_max_datagram_frame_size is None:
            return None
        return int(self.quic._max_datagram_size) - OVERHEAD

    def backlog(self, stream_id: int) -> int:
        stream = self.quic._streams.get(stream_id)
        return 0 if stream is None else len(stream.sender._buffer)

    async def send_datagram_wait(self, data: bytes) -> None:
        while len(self.quic._datagrams_pending) > DATAGRAM_BACKLOG:
            self.check()
            await asyncio.sleep(0)
        self.send_datagram(data)

    async def aclose(self) -> None:
        self.protocol.close()
        await self.protocol.wait_closed()


class Protocol(QuicConnectionProtocol):
    session: Session
    task: asyncio.Task[None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        is_client = self._quic.configuration.is_client
        self.session = Session(self, self._quic, is_client=is_client)
        if not is_client:
            self.task = asyncio.create_task(serve_perf(self.session))

    def quic_event_received(self, event: Any) -> None:
        self.session.handle(event)

    def datagram_received(self, data: Any, addr: Any) -> None:
        super().datagram_received(data, addr)
        self.session.wake_writers()


def configuration(settings: Settings, *, is_client: bool) -> QuicConfiguration:
    result = QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[settings.alpn if is_client else ALPN],
        max_data=settings.window,
        max_stream_data=settings.stream_window,
        max_datagram_frame_size=FRAME,
        max_datagram_size=settings.udp_payload,
        cipher_suites=[SUITES[settings.cipher]],
        congestion_control_algorithm=settings.congestion or "reno",
        server_name="localhost" if is_client else None,
    )
    if not is_client:
        result.load_cert_chain(settings.certfile, settings.keyfile)
    elif settings.insecure:
        result.verify_mode = ssl.CERT_NONE
    else:
        result.load_verify_locations(settings.cafile)
    return result


def enlarge(transport: Any, size: int) -> None:
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


async def serve(settings: Settings) -> int:
    server = await aioquic.asyncio.serve(
        settings.host,
        0,
        configuration=configuration(settings, is_client=False),
        create_protocol=Protocol,
    )
    enlarge(server._transport, settings.socket_buffer)
    KEPT.append(server)
    port: int = server._transport.get_extra_info("sockname")[1]
    return port


KEPT: list[Any] = []


@asynccontextmanager
async def connecting(host: str, port: int, settings: Settings) -> AsyncIterator[Connect]:
    async def connect() -> Session:
        connection = aioquic.asyncio.connect(
            host,
            port,
            configuration=configuration(settings, is_client=True),
            create_protocol=Protocol,
        )
        protocol: Any = await connection.__aenter__()
        enlarge(protocol._transport, settings.socket_buffer)
        session: Session = protocol.session

        async def aclose() -> None:
            await connection.__aexit__(None, None, None)

        session.aclose = aclose  # type: ignore[method-assign]
        return session

    yield connect
