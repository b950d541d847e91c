"""Both ends of a stack with aioquic's shape: configuration, protocol, server, client.

aioquic, qh3 and aiopquic have the same names for them. A stack says what differs.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from rawquic.perf import ALPN, serve_perf
from rawquic.perf.interface import Connect

from . import Settings
from .events import EventSession


def configured(kind: Any, settings: Settings, *, is_client: bool, **more: Any) -> Any:
    """A QuicConfiguration of class `kind`: what all have, and `more`."""
    result = kind(
        is_client=is_client,
        alpn_protocols=[settings.alpn if is_client else ALPN],
        max_data=settings.window,
        max_stream_data=settings.stream_window,
        server_name="localhost" if is_client else None,
        **more,
    )
    if not is_client:
        result.load_cert_chain(settings.certfile, settings.keyfile)
    elif settings.insecure:
        result.verify_mode = ssl.CERT_NONE
    else:
        result.load_verify_locations(settings.cafile)
    return result


class PerfProtocol:
    """Stands before a QuicConnectionProtocol: one session for each connection."""

    session_class: type[EventSession]

    def __init__(self, quic: Any, *args: Any, **more: Any) -> None:
        super().__init__(quic, *args, **more)
        is_client = quic.configuration.is_client
        self.session = self.session_class(self, quic, is_client=is_client)
        if not is_client:
            self.task = asyncio.create_task(serve_perf(self.session))

    def quic_event_received(self, event: Any) -> None:
        self.session.handle(event)


class Ends:
    """`serve` and `connecting`, as each module of this package has them.

    configuration  makes one of settings and `is_client`
    port           where the server listens, where it does not say which port it took
    prepare        does something to the transport of either end
    """

    def __init__(
        self,
        start: Callable[..., Any],
        connect: Callable[..., Any],
        protocol: type,
        configuration: Callable[..., Any],
        *,
        port: Callable[[], int] | None = None,
        prepare: Callable[[Any, Settings], None] | None = None,
    ) -> None:
        self._start, self._connect, self._protocol = start, connect, protocol
        self._configuration, self._port, self._prepare = configuration, port, prepare
        self._kept: list[Any] = []

    async def serve(self, settings: Settings) -> int:
        port = self._port() if self._port else 0
        server = await self._start(
            settings.host,
            port,
            configuration=self._configuration(settings, is_client=False),
            create_protocol=self._protocol,
        )
        self._kept.append(server)
        if self._prepare:
            self._prepare(server._transport, settings)
        return port or int(server._transport.get_extra_info("sockname")[1])

    @asynccontextmanager
    async def connecting(self, host: str, port: int, settings: Settings) -> AsyncIterator[Connect]:
        async def connect() -> EventSession:
            connection = self._connect(
                host,
                port,
                configuration=self._configuration(settings, is_client=True),
                create_protocol=self._protocol,
            )
            protocol = await connection.__aenter__()
            if self._prepare:
                self._prepare(protocol._transport, settings)
            session: EventSession = protocol.session

            async def aclose() -> None:
                await connection.__aexit__(None, None, None)

            session.aclose = aclose  # type: ignore[method-assign]
            return session

        yield connect
