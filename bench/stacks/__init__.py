"""The stacks that are compared: each gives a server for the perf protocol and a way to connect.

A module here has
    versions() -> dict[str, str]               what runs, as printed in every report
    serve(settings) -> port                    async; runs until the process ends
    connecting(host, port, settings)           async context manager; gives `connect`
    BATCHES                                    whether it has calls for many datagrams at once
and, where it is no QUIC stack, `run` and `verify` of its own. It must not import another stack.
"""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How every stack is set up, as far as it lets itself be.

    Attributes:
        certfile, keyfile, cafile: PEM files; the client verifies the chain against `cafile`.
        udp_payload: bytes of UDP payload. windows: flow control, bytes.
        mtu_upper_bound: up to which rawquic's MTU discovery tries; 0: it tries nothing.
        send_buffer: written and not acknowledged bytes. socket_buffer: asked of the kernel.
        cipher: "aes-128-gcm", "aes-256-gcm" or "chacha20-poly1305".
        loop: "asyncio" or "uvloop".
        congestion: "" is the stack's own default.
        alpn: of the client.
        key_update_interval: packets after which aiopquic changes its keys; 0: its default.
        aead: of rawquic's compiled data plane. gso, gro: of rawquic and quinn.
    """

    certfile: str
    keyfile: str
    cafile: str
    host: str = "127.0.0.1"
    udp_payload: int = 1452
    mtu_upper_bound: int = 0
    stream_window: int = 4 << 20
    window: int = 8 << 20
    send_buffer: int = 4 << 20
    socket_buffer: int = 4 << 20
    max_streams: int = 10_000
    cipher: str = "aes-128-gcm"
    loop: str = "asyncio"
    congestion: str = ""
    aead: str = "auto"
    busy_poll: float = 0.0
    gso: bool = True
    gro: bool = True
    insecure: bool = False
    alpn: str = "perf"
    key_update_interval: int = 0

    def dump(self) -> str:
        return json.dumps(asdict(self))


MODULES = {
    "rawquic": "stacks.rawquic_stack",
    "aioquic": "stacks.aioquic_stack",
    "qh3": "stacks.qh3_stack",
    "aiopquic": "stacks.aiopquic_stack",
    "tls": "stacks.tls_stack",
}
SUITES = {
    "aes-128-gcm": "TLS_AES_128_GCM_SHA256",
    "aes-256-gcm": "TLS_AES_256_GCM_SHA384",
    "chacha20-poly1305": "TLS_CHACHA20_POLY1305_SHA256",
}
