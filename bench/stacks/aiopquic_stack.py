"""aiopquic: picoquic on a thread of its own, behind an interface of aioquic's shape."""

import asyncio
import socket
from importlib import metadata
from typing import Any

from aiopquic.asyncio import connect as aiopquic_connect
from aiopquic.asyncio import serve as aiopquic_serve
from aiopquic.asyncio.protocol import QuicConnectionProtocol
from aiopquic.quic.configuration import QuicConfiguration

from . import Settings
from .ends import Ends, PerfProtocol, configured
from .events import EventSession, Stream

SUITES = {"aes-128-gcm": 0x1301, "aes-256-gcm": 0x1302, "chacha20-poly1305": 0x1303}
DATAGRAM_RING = 1 << 20
SMALL = 4096


def versions() -> dict[str, str]:
    return {"aiopquic": metadata.version("aiopquic")}


class Session(EventSession):
    def datagram_limit(self) -> int | None:
        return int(self.quic.max_datagram_payload()) or None

    def transmit_soon(self) -> None:
        """Its own thread sends."""

    def request_key_update(self) -> None:
        """It cannot be asked; `Settings.key_update_interval` makes it do so by itself."""

    def backlog(self, stream_id: int) -> int:
        return 0

    async def open_bi(self) -> tuple[Stream, Stream]:
        self.check()
        stream = self.stream(self.next_stream_id(False))
        return stream, stream

    async def open_uni(self) -> Stream:
        self.check()
        return Stream(self, self.next_stream_id(True))

    async def send(self, stream: Stream, data: Any) -> None:
        data = data if type(data) is bytes else bytes(data)
        await self.quic.send_stream_data_drained(stream.id, data)
        if stream.stopped is not None:
            raise stream.stopped
        self.check()

    def send_end(self, stream_id: int) -> None:
        try:
            self.quic.send_stream_data(stream_id, b"", end_stream=True)
        except BufferError:
            drained = self.quic.send_stream_data_drained(stream_id, b"", end_stream=True)
            self.late = asyncio.ensure_future(drained)

    async def send_datagram_wait(self, data: bytes) -> None:
        self.check()
        while not self.quic.send_datagram_frame(data):
            await self.quic.get_datagram_tx_drain_event().wait()
            self.check()

    def on_data(self, stream_id: int, data: Any, end: bool) -> None:
        # Small ones are copied as anyone would; large ones stay views of its buffer.
        super().on_data(stream_id, bytes(data) if len(data) < SMALL else data, end)


class Protocol(PerfProtocol, QuicConnectionProtocol):
    session_class = Session


def configuration(settings: Settings, *, is_client: bool) -> Any:
    more = {"congestion_control_algorithm": settings.congestion} if settings.congestion else {}
    return configured(
        QuicConfiguration,
        settings,
        is_client=is_client,
        max_streams_bidi=settings.max_streams,
        max_streams_uni=settings.max_streams,
        max_connections=4096,
        stream_ring_cap=settings.send_buffer,
        socket_buffer_size=settings.socket_buffer,
        datagram_ring_bytes=DATAGRAM_RING,
        cipher_suite=SUITES[settings.cipher],
        key_update_interval=settings.key_update_interval or None,
        ip_family=socket.AF_INET,
        **more,
    )


def free_port() -> int:
    """Its server does not say which port it took."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


ENDS = Ends(aiopquic_serve, aiopquic_connect, Protocol, configuration, port=free_port)
serve, connecting = ENDS.serve, ENDS.connecting
