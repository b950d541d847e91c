"""`Config`: every knob of a connection and its endpoint, checked once, then frozen."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from .errors import ConfigError

MAX_VARINT = (1 << 62) - 1
MAX_STREAMS = 1 << 16  # one STREAM frame opens all lower-numbered streams too (RFC 9000 §2.1)
MIN_MTU, MAX_MTU = 1200, 65527
VERSIONS = {1: 0x00000001, 2: 0x6B3343CF}
CIPHER_SUITES = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the connections of one endpoint; names and meaning after quinn's TransportConfig.

    Times are seconds, sizes are bytes. A value out of its range raises `ConfigError`, which names
    the field and the range.

    Attributes:
        max_idle_timeout: close silently after so long without a packet (RFC 9000 §10.1); the lower
            of both ends' values counts; None: no limit. More than 0.
        keep_alive_interval: send a PING after so long without a packet sent; None: never.
        max_concurrent_bidi_streams, max_concurrent_uni_streams: streams that the peer may have
            open at once. A stream counts until this end has read it to its end (or stopped it) and
            its own half has ended. 0 .. 65,536: the peer can open them all with one small packet
            (RFC 9000 §2.1), and each takes memory here: about 0.5 KB, on the python backend 3 KB.
        stream_receive_window: the most unread bytes that one stream may hold. 1 KiB .. 1 GiB. The
            compiled backend begins with at most 512 KiB, which doubles while the application reads
            fast for the path; the python backend gives all of it from the start.
        receive_window: the same for all streams of the connection together. Streams that nobody
            reads can take all of it, and then no other stream receives (RFC 9000 §4.1).
        send_window: written and not yet acknowledged bytes of the connection; above it `write`
            waits.
        datagram_receive_buffer_size: bytes of datagrams that wait to be read, the oldest are
            dropped; None: this end takes no datagrams (RFC 9221 §3). Each counts as 64 bytes more
            than it has, so that empty ones are bounded too.
        datagram_send_buffer_size: the same for datagrams that wait to be sent.
        initial_mtu: UDP payload of packets until more is known to pass. 1,200 .. 65,527.
        mtu_upper_bound: the largest UDP payload that path MTU discovery (RFC 8899) tries. The
            python backend has no such discovery and keeps to `initial_mtu`, at most 16,383, which
            on both backends is also the most of a handshake's datagrams.
        congestion_control: "cubic" (RFC 9438) or "newreno" (RFC 9002 §7).
        initial_rtt: assumed until the first measurement (RFC 9002 §6.2.2).
        max_ack_delay: the longest time that this end holds an acknowledgement back; below 16.384.
        enable_gso, enable_gro: batches of packets to and from the kernel, where it has them.
        enable_ecn: mark packets as ECT(0) while the path lets marks through (RFC 9000 §13.4), so
            that routers can mark in place of dropping. The python backend marks nothing.
        socket_receive_buffer, socket_send_buffer: asked of the kernel; what it granted is in
            `stats()`.
        handshake_timeout: a server gives a client so long to finish its handshake.
        max_handshakes: connections in their handshake at once; above half of it new clients
            get a Retry (RFC 9000 §8.1.2), above it they are dropped.
        accept_backlog: sessions whose handler has not started yet.
        close_timeout: the longest that `aclose` waits for acknowledgements.
        stateless_reset_key: at least 16 bytes; the same key after a restart lets the server tell
            old clients that their connections are gone (RFC 9000 §10.3). None: random.
        busy_poll: for so long after the last packet the endpoint looks at its socket once per turn
            of the loop, in place of sleeping; other tasks run in between. A task that is about to
            wait for data looks for up to 50 µs itself, while no other task is ready, and for 1 ms
            at most without a turn of the loop (not on uvloop). Latency for a busy core, which other
            programs may have between two looks. 0: never. At most 1. Without effect on loops that
            have no `add_reader`.
        aead: who seals and opens packets on the compiled backend: "openssl", "ipsec-mb" (AES-GCM
            on x86-64; ChaCha20 stays OpenSSL's), or "auto": the faster one that is there. The
            python backend uses `cryptography`, and takes "auto" only.
        allow_migration: follow a client to another address (RFC 9000 §9).
        versions: QUIC versions, the preferred one first: 1 (RFC 9000) and 2 (RFC 9369).
        cipher_suites: TLS 1.3 suites, the preferred one first.
        keylog_file: append TLS secrets for Wireshark; default: the variable SSLKEYLOGFILE.
        qlog_dir: a folder for one qlog file per connection, for debugging: it slows transfers down
            (docs/debugging.md); default: the variable QLOGDIR.
    """

    max_idle_timeout: float | None = 30.0
    keep_alive_interval: float | None = None
    max_concurrent_bidi_streams: int = 100
    max_concurrent_uni_streams: int = 100
    stream_receive_window: int = 4 * MIB
    receive_window: int = 8 * MIB
    send_window: int = 4 * MIB
    datagram_receive_buffer_size: int | None = MIB
    datagram_send_buffer_size: int = MIB
    initial_mtu: int = 1200
    mtu_upper_bound: int = 1452
    congestion_control: str = "cubic"
    initial_rtt: float = 0.333
    max_ack_delay: float = 0.025
    enable_gso: bool = True
    enable_gro: bool = True
    enable_ecn: bool = True
    socket_receive_buffer: int = 4 * MIB
    socket_send_buffer: int = 4 * MIB
    handshake_timeout: float = 10.0
    max_handshakes: int = 1000
    accept_backlog: int = 1024
    close_timeout: float = 5.0
    stateless_reset_key: bytes | None = field(default=None, repr=False)  # a secret
    busy_poll: float = 0.0
    aead: str = "auto"
    allow_migration: bool = True
    versions: Sequence[int] = (1, 2)
    cipher_suites: Sequence[str] = CIPHER_SUITES
    keylog_file: str | os.PathLike[str] | None = None
    qlog_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        self._seconds("max_idle_timeout", optional=True)
        self._seconds("keep_alive_interval", optional=True)
        for name in ("max_concurrent_bidi_streams", "max_concurrent_uni_streams"):
            self._integer(name, 0, MAX_STREAMS)
        for name in ("stream_receive_window", "receive_window", "send_window"):
            self._integer(name, KIB, 1 << 30)
        self._integer("datagram_receive_buffer_size", MIN_MTU, 1 << 30, optional=True)
        self._integer("datagram_send_buffer_size", MIN_MTU, 1 << 30)
        self._integer("initial_mtu", MIN_MTU, MAX_MTU)
        self._integer("mtu_upper_bound", MIN_MTU, MAX_MTU)
        if self.congestion_control == "bbr":
            raise NotImplementedError('congestion_control="bbr" is not there yet; "cubic" is')
        self._choice("congestion_control", ("cubic", "newreno"))
        self._seconds("initial_rtt", most=60.0)
        self._seconds("max_ack_delay", most=16.383)
        for name in ("enable_gso", "enable_gro", "enable_ecn", "allow_migration"):
            if not isinstance(getattr(self, name), bool):
                raise self._bad(name, "True or False")
        for name in ("socket_receive_buffer", "socket_send_buffer"):
            self._integer(name, 4 * KIB, 1 << 30)
        self._seconds("handshake_timeout")
        self._integer("max_handshakes", 1, 1 << 20)
        self._integer("accept_backlog", 1, 1 << 20)
        self._seconds("close_timeout", least=0.0)
        key = self.stateless_reset_key
        if key is not None and not (isinstance(key, bytes) and len(key) >= 16):
            raise ConfigError("Config.stateless_reset_key must be at least 16 bytes, or None")
        self._seconds("busy_poll", least=0.0, most=1.0)
        self._choice("aead", ("auto", "openssl", "ipsec-mb"))
        self._subset("versions", tuple(VERSIONS))
        self._subset("cipher_suites", CIPHER_SUITES)
        for name in ("keylog_file", "qlog_dir"):
            if not isinstance(getattr(self, name), str | os.PathLike | None):
                raise self._bad(name, "a path, or None")

    def _bad(self, name: str, allowed: str) -> ConfigError:
        return ConfigError(f"Config.{name}={getattr(self, name)!r}: it must be {allowed}")

    def _seconds(
        self, name: str, *, least: float | None = None, most: float = 1e9, optional: bool = False
    ) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        number = isinstance(value, int | float) and not isinstance(value, bool)
        low = value > 0 if number and least is None else number and value >= (least or 0.0)
        if not number or not math.isfinite(value) or not low or value > most:
            bound = "more than 0" if least is None else f"at least {least:g}"
            none = ", or None" if optional else ""
            raise self._bad(name, f"seconds, {bound} and at most {most:g}{none}")

    def _integer(self, name: str, least: int, most: int, *, optional: bool = False) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            none = ", or None" if optional else ""
            raise self._bad(name, f"an integer from {least:,} to {most:,}{none}")

    def _choice(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise self._bad(name, "one of " + ", ".join(map(repr, allowed)))

    def _subset(self, name: str, allowed: tuple[object, ...]) -> None:
        values = getattr(self, name)
        kind = type(allowed[0])  # True is no version 1
        good = isinstance(values, list | tuple) and bool(values)
        good = good and all(type(v) is kind and v in allowed for v in values)
        if not good or len(set(values)) != len(values):
            raise self._bad(name, f"a sequence without repeats out of {allowed}")
        object.__setattr__(self, name, tuple(values))


FIELD_NAMES = tuple(field.name for field in fields(Config))
