"""qh3: aioquic's shape over a core in Rust, with its own GSO/GRO transport for asyncio."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from qh3.asyncio.client import connect as qh3_connect
from qh3.asyncio.protocol import QuicConnectionProtocol
from qh3.asyncio.server import serve as qh3_serve
from qh3.quic.configuration import QuicConfiguration
from qh3.tls import CipherSuite

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
OVERHEAD = 48


def versions() -> dict[str, str]:
    return {"qh3": metadata.version("qh3")}


class Session(EventSession):
    def datagram_limit(self) -> int | None:
        return int(self.quic.configuration.max_datagram_size) - OVERHEAD

    def backlog(self, stream_id: int) -> int:
        return int(self.quic.get_send_buffer_size(stream_id))

    async def take(self, stream_id: int) -> None:
        while True:
            try:
                return await super().take(stream_id)
            except ValueError:
                # The peer's limit, for which its own interface does not wait. The number is taken
                # all the same: the next one would be beyond the limit for ever.
                await self.next_batch()


class Protocol(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        is_client = self._quic.configuration.is_client
        self.session = Session(self, self._quic, is_client=is_client)
        if not is_client:
            self.task = asyncio.create_task(serve_perf(self.session))

    def quic_event_received(self, event: Any) -> None:
        self.session.handle(event)

    def transmit(self) -> None:
        super().transmit()
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
        server_name="localhost" if is_client else None,
    )
    if not is_client:
        result.load_cert_chain(settings.certfile, settings.keyfile)
    elif settings.insecure:
        result.verify_mode = ssl.CERT_NONE
    else:
        result.load_verify_locations(settings.cafile)
    return result


async def serve(settings: Settings) -> int:
    server = await qh3_serve(
        settings.host,
        0,
        configuration=configuration(settings, is_client=False),
        create_protocol=Protocol,
    )
    KEPT.append(server)
    port: int = server._transport.get_extra_info("sockname")[1]
    return port


KEPT: list[Any] = []


@asynccontextmanager
async def connecting(host: str, port: int, settings: Settings) -> AsyncIterator[Connect]:
    async def connect() -> Session:
        connection = qh3_connect(
            host,
            port,
            configuration=configuration(settings, is_client=True),
            create_protocol=Protocol,
        )
        protocol: Any = await connection.__aenter__()
        session: Session = protocol.session

        async def aclose() -> None:
            await connection.__aexit__(None, None, None)

        session.aclose = aclose  # type: ignore[method-assign]
        return session

    yield connect
