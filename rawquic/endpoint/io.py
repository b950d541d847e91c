"""How a UDP socket meets the event loop.

`ReaderIO` registers the socket with `add_reader` and reads it in batches: asyncio's selector loops
and uvloop. `TransportIO` is the portable path, for loops without `add_reader`.
"""

import asyncio
import contextlib
import errno
import selectors
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..backend import BACKEND, Turn, UdpSocket
from ..config import Config
from ..connection.interface import Address, address_text
from .busy_poll import BusyPoll, yield_core

if TYPE_CHECKING or BACKEND == "python":
    Reactor: Any = None
    LoopWait: Any = None
else:
    from .._fastpath import LoopWait, Reactor

Incoming = tuple[bytes, Address, str | None, int]
Outgoing = tuple[bytes, Address, str | None, int]

BATCH = 64  # datagrams per read: what aioquic handles in about 3 ms
MAX_UNSENT = 1 << 20  # bytes in a transport's buffer before the endpoint waits


# Datagrams, and the connections that the compiled loop has news of.
OnBatch = Callable[[list[Incoming], Sequence[Any]], None]


class SocketIO(Protocol):
    """What the endpoint needs of its socket."""

    reactor: Any

    async def start(self, on_batch: OnBatch) -> None: ...
    def read_more(self) -> list[Incoming]: ...
    def send(self, datagrams: Sequence[Outgoing]) -> int: ...
    def call_when_writable(self, callback: Callable[[], None]) -> None: ...
    def has_notes(self) -> bool: ...
    def take_errors(self) -> list[tuple[int, Address | None]]: ...
    def take_too_large(self) -> list[tuple[Address, int]]: ...
    def stats(self) -> dict[str, int]: ...
    def close(self) -> None: ...


async def look_up(host: str, port: int, failure: str, flags: int = 0) -> list[Any]:
    """socket.getaddrinfo() for UDP: at once for an address, for a name in a thread of the loop.

    Raises OSError: `failure`, and why.
    """
    kind = socket.SOCK_DGRAM
    try:
        try:
            return socket.getaddrinfo(host, port, type=kind, flags=flags | socket.AI_NUMERICHOST)
        except socket.gaierror:
            loop = asyncio.get_running_loop()
            return await loop.getaddrinfo(host, port, type=kind, flags=flags)
    except socket.gaierror as error:
        raise OSError(f"{failure}: {error.strerror}") from error
    except UnicodeError as error:
        raise OSError(f"{failure}: {error}") from error


def open_socket(
    address: tuple[Any, ...], family: int, config: Config, *, reuse_port: bool = False
) -> socket.socket:
    """A UDP socket bound to a resolved `address`; an IPv6 one takes IPv4 as well.

    Raises OSError that names the address.
    """
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if reuse_port:
            if not hasattr(socket, "SO_REUSEPORT"):
                raise OSError(errno.ENOPROTOOPT, "reuse_port is not available on this platform")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            sock.bind(address)
        except OSError as error:
            where = address_text(address[:2])
            raise OSError(error.errno, f"cannot bind UDP {where}: {error.strerror}") from error
        set_buffers(sock, config)
    except BaseException:
        sock.close()
        raise
    return sock


def set_buffers(sock: socket.socket, config: Config) -> None:
    """Ask for the socket buffers of `config`; the kernel grants what it allows."""
    for option, size in (
        (socket.SO_RCVBUF, config.socket_receive_buffer),
        (socket.SO_SNDBUF, config.socket_send_buffer),
    ):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, size)


class ReaderIO:
    """A socket of the chosen backend, registered with the loop's own readiness calls."""

    reactor: Any = None

    def __init__(self, turn: Turn, sock: socket.socket, config: Config) -> None:
        self._turn = turn
        self._loop = loop = turn.loop
        self._socket = sock
        self._udp = UdpSocket(sock, gso=config.enable_gso, gro=config.enable_gro)
        self.has_notes = self._udp.has_notes
        self._on_batch: OnBatch | None = None
        self._writer: Callable[[], None] | None = None
        self._had_errors = False
        seconds = config.busy_poll
        self.busy_poll = BusyPoll(loop, self._read_until, seconds) if seconds else None
        turn.busy_poll = self.busy_poll
        self._closed = False

    async def start(self, on_batch: OnBatch) -> None:
        self._on_batch = on_batch
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        self._have_read(self._read())

    def _have_read(self, found: bool) -> None:
        """Behind a read that the loop asked for; `found`: something waited."""
        had_errors, self._had_errors = self._had_errors, False
        if self._closed:
            return
        if had_errors or not found:
            # libuv stops watching a socket on POLLERR, which one ICMP message causes.
            self._loop.remove_reader(self._socket.fileno())
            self._loop.add_reader(self._socket.fileno(), self._readable)
        if found and self.busy_poll is not None:
            self.busy_poll.found()

    def _read(self) -> bool:
        """Read and hand on what waits; False when nothing did."""
        batch = self._udp.receive(BATCH)
        if self._on_batch is not None:
            self._on_batch(batch, ())
        return bool(batch)

    def _read_until(self, end: float) -> bool:
        """For busy polling, see there. Another program may want this core meanwhile."""
        while not self._read():
            if self._closed or time.monotonic() >= end:
                return False
            yield_core()
        return True

    def read_more(self) -> list[Incoming]:
        return self._udp.receive(BATCH)

    def send(self, datagrams: Sequence[Outgoing]) -> int:
        return self._udp.send(datagrams)

    def call_when_writable(self, callback: Callable[[], None]) -> None:
        self._writer = callback
        self._loop.add_writer(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        self._loop.remove_writer(self._socket.fileno())
        callback, self._writer = self._writer, None
        if callback is not None:
            callback()

    def take_errors(self) -> list[tuple[int, Address | None]]:
        errors = self._udp.take_errors()
        self._had_errors = self._had_errors or bool(errors)
        return errors

    def take_too_large(self) -> list[tuple[Address, int]]:
        return self._udp.take_too_large()

    def stats(self) -> dict[str, int]:
        return self._udp.stats()

    def close(self) -> None:
        self._on_batch = self._writer = None
        self._closed = True
        if self.busy_poll is not None:
            self.busy_poll.close()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()


class ReactorIO(ReaderIO):
    """The same, with the compiled loop in front: Python hears of a batch when it has to."""

    _on_readable: Callable[[], bool]

    async def start(self, on_batch: OnBatch) -> None:
        self._on_batch = on_batch
        self.reactor = Reactor(self._udp, on_batch, self._on_blocked, self._turn)
        self._on_readable = self.reactor.on_readable
        fd = self._socket.fileno()
        if self.busy_poll is not None:
            self.busy_poll.read_until = self.reactor.read_until
        elif is_asyncios_own(self._loop):
            self._on_readable = LoopWait(self._loop, fd, self.reactor).on_readable
        self._loop.add_reader(fd, self._readable)

    def _readable(self) -> None:
        found = self._on_readable()
        if not found or self._had_errors or self.busy_poll is not None:
            self._have_read(found)

    def _read(self) -> bool:
        found: bool = self.reactor.on_readable()
        return found

    def _on_blocked(self) -> None:
        self._loop.add_writer(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        self.reactor.on_writable()
        if not self.reactor.blocked:
            super()._writable()

    def close(self) -> None:
        super().close()
        if self.reactor is not None:
            self.reactor.close()


class TransportIO(asyncio.DatagramProtocol):
    """The same on asyncio's datagram transport: no batches, no packet info, no ECN."""

    reactor: Any = None

    def __init__(self, turn: Turn, sock: socket.socket, config: Config) -> None:
        self._loop = turn.loop
        self._socket = sock
        self._family = sock.family
        self._transport: asyncio.DatagramTransport | None = None
        self._on_batch: OnBatch | None = None
        self._writer: Callable[[], None] | None = None
        self._paused = False
        self._errors: list[tuple[int, Address | None]] = []
        kinds = ("calls", "datagrams", "bytes")
        self._stats = {f"{way}_{kind}": 0 for way in ("receive", "send") for kind in kinds}

    async def start(self, on_batch: OnBatch) -> None:
        self._on_batch = on_batch
        self._socket.setblocking(False)
        await self._loop.create_datagram_endpoint(lambda: self, sock=self._socket)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=MAX_UNSENT)

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._stats["receive_calls"] += 1
        self._stats["receive_datagrams"] += 1
        self._stats["receive_bytes"] += len(data)
        if data and self._on_batch is not None:
            self._on_batch([(data, normalize(address), None, 0)], ())

    def error_received(self, error: Exception) -> None:
        if isinstance(error, OSError) and error.errno is not None and len(self._errors) < 64:
            self._errors.append((error.errno, None))
            # A task may be sending right now, and sendto() itself may have called this.
            self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        if self._errors and self._on_batch is not None:
            self._on_batch([], ())

    def read_more(self) -> list[Incoming]:
        return []

    def send(self, datagrams: Sequence[Outgoing]) -> int:
        if self._transport is None or self._paused:
            return 0
        for data, (host, port), _local, _ecn in datagrams:
            mapped = self._family == socket.AF_INET6 and ":" not in host
            self._transport.sendto(data, (f"::ffff:{host}" if mapped else host, port))
            self._stats["send_calls"] += 1
            self._stats["send_datagrams"] += 1
            self._stats["send_bytes"] += len(data)
        return len(datagrams)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        callback, self._writer = self._writer, None
        if callback is not None:
            callback()

    def call_when_writable(self, callback: Callable[[], None]) -> None:
        self._writer = callback

    def has_notes(self) -> bool:
        return bool(self._errors)

    def take_errors(self) -> list[tuple[int, Address | None]]:
        errors, self._errors = self._errors, []
        return errors

    def take_too_large(self) -> list[tuple[Address, int]]:
        return []

    def stats(self) -> dict[str, int]:
        return dict(self._stats)

    def close(self) -> None:
        self._on_batch = self._writer = None
        if self._transport is not None:
            self._transport.abort()
        else:
            self._socket.close()


def normalize(address: tuple[Any, ...]) -> Address:
    """A socket address as (host, port): IPv4-mapped as IPv4, link-local with its %scope."""
    host, port = str(address[0]), int(address[1])
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    elif len(address) == 4 and address[3] and host.startswith("fe80") and "%" not in host:
        host = f"{host}%{address[3]}"
    return host, port


def open_io(turn: Turn, sock: socket.socket, config: Config) -> SocketIO:
    """The kind that this loop and the chosen backend have."""
    if not has_reader_calls(turn.loop):
        return TransportIO(turn, sock, config)
    return (ReactorIO if BACKEND == "compiled" else ReaderIO)(turn, sock, config)


def is_asyncios_own(loop: asyncio.AbstractEventLoop) -> bool:
    """True for the loop of asyncio.run() on Linux, as it is: `LoopWait` can stand in for that."""
    epoll = getattr(selectors, "EpollSelector", None)
    return (
        type(loop) is asyncio.SelectorEventLoop
        and type(getattr(loop, "_selector", None)) is epoll
        and all(hasattr(loop, name) for name in ("_ready", "_scheduled", "_stopping", "_debug"))
    )


def has_reader_calls(loop: asyncio.AbstractEventLoop) -> bool:
    """True where the loop can watch a socket of ours (not so: Windows' proactor)."""
    left, right = socket.socketpair()
    try:
        left.setblocking(False)
        loop.add_reader(left.fileno(), lambda: None)
        loop.remove_reader(left.fileno())
    except NotImplementedError:
        return False
    else:
        return sys.platform != "win32"
    finally:
        left.close()
        right.close()
