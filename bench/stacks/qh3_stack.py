"""qh3: aioquic's shape over a core in Rust, with its own GSO/GRO transport for asyncio."""

from importlib import metadata
from typing import Any

from qh3.asyncio.client import connect as qh3_connect
from qh3.asyncio.protocol import QuicConnectionProtocol
from qh3.asyncio.server import serve as qh3_serve
from qh3.quic.configuration import QuicConfiguration
from qh3.tls import CipherSuite

from . import Settings
from .ends import Ends, PerfProtocol, configured
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


class Protocol(PerfProtocol, QuicConnectionProtocol):
    session_class = Session

    def transmit(self) -> None:
        super().transmit()
        self.session.wake_writers()


def configuration(settings: Settings, *, is_client: bool) -> Any:
    return configured(
        QuicConfiguration,
        settings,
        is_client=is_client,
        max_datagram_frame_size=FRAME,
        max_datagram_size=settings.udp_payload,
        cipher_suites=[SUITES[settings.cipher]],
    )


ENDS = Ends(qh3_serve, qh3_connect, Protocol, configuration)
serve, connecting = ENDS.serve, ENDS.connecting
