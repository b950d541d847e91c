"""Stock aioquic: its own asyncio layer, one datagram per system call."""

import asyncio
import socket
from importlib import metadata
from typing import Any

import aioquic.asyncio
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import CipherSuite

from . import Settings
from .ends import Ends, PerfProtocol, configured
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


class Protocol(PerfProtocol, QuicConnectionProtocol):
    session_class = Session

    def datagram_received(self, data: Any, addr: Any) -> None:
        super().datagram_received(data, addr)
        self.session.wake_writers()


def configuration(settings: Settings, *, is_client: bool) -> Any:
    return configured(
        QuicConfiguration,
        settings,
        is_client=is_client,
        max_datagram_frame_size=FRAME,
        max_datagram_size=settings.udp_payload,
        cipher_suites=[SUITES[settings.cipher]],
        congestion_control_algorithm=settings.congestion or "reno",
    )


def enlarge(transport: Any, settings: Settings) -> None:
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, settings.socket_buffer)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.socket_buffer)


ENDS = Ends(
    aioquic.asyncio.serve, aioquic.asyncio.connect, Protocol, configuration, prepare=enlarge
)
serve, connecting = ENDS.serve, ENDS.connecting
