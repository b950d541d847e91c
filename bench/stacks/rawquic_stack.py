"""rawquic as it is in this tree, through its public API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import rawquic
from rawquic.perf import ALPN, serve_perf
from rawquic.perf.interface import Connect

from . import SUITES, Settings

BATCHES = True


def versions() -> dict[str, str]:
    info = rawquic.backend_info()
    return {
        "rawquic": str(info["version"]),
        "backend": str(info["backend"]),
        "aioquic": str(info["aioquic"]),
        "openssl": str(info["openssl"]),
        "aead": ",".join(map(str, info["aead"])) if info["aead"] else "none",
    }


def config(settings: Settings) -> rawquic.Config:
    return rawquic.Config(
        max_concurrent_bidi_streams=settings.max_streams,
        max_concurrent_uni_streams=settings.max_streams,
        stream_receive_window=settings.stream_window,
        receive_window=settings.window,
        send_window=settings.send_buffer,
        initial_mtu=settings.udp_payload,
        mtu_upper_bound=settings.mtu_upper_bound or settings.udp_payload,
        congestion_control=settings.congestion or "cubic",
        enable_gso=settings.gso,
        enable_gro=settings.gro,
        socket_receive_buffer=settings.socket_buffer,
        socket_send_buffer=settings.socket_buffer,
        cipher_suites=(SUITES[settings.cipher],),
        aead=settings.aead,
        busy_poll=settings.busy_poll,
    )


async def serve(settings: Settings) -> int:
    server = await rawquic.serve(
        serve_perf,
        settings.host,
        0,
        certfile=settings.certfile,
        keyfile=settings.keyfile,
        alpn=(ALPN,),
        config=config(settings),
    )
    KEPT.append(server)
    return server.local_address[1]


KEPT: list[rawquic.Server] = []


@asynccontextmanager
async def connecting(host: str, port: int, settings: Settings) -> AsyncIterator[Connect]:
    """All connections of one work share a socket."""
    local = ("::", 0) if ":" in host else ("0.0.0.0", 0)
    async with rawquic.Endpoint(local, config=config(settings)) as endpoint:

        async def connect() -> rawquic.RawQuicSession:
            return await endpoint.connect(
                host,
                port,
                server_name="localhost",
                alpn=(settings.alpn,),
                cafile=settings.cafile,
                verify=not settings.insecure,
            )

        yield connect
