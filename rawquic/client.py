"""`connect` and `Endpoint`: open sessions to servers, alone or many on one UDP socket."""

import asyncio
import os
import socket as sockets
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aioquic.quic.configuration import QuicConfiguration

from .arguments import check_local_address, check_port, check_seconds, checked_config
from .certificates import PathOrPem, load_identity, load_trust_anchors, parse_pins
from .config import Config
from .connection.chosen import make_connection
from .connection.interface import Address, Event, EventTuple, address_text
from .endpoint.io import look_up, normalize
from .endpoint.udp_endpoint import UdpEndpoint
from .errors import ClosedLocally, ConfigError, HandshakeFailed, HandshakeTimeout, SessionError
from .opening import Opening
from .server import Server, ServerOptions, bind
from .session import RawQuicSession
from .tls import client_configuration

ATTEMPT_DELAY = 0.25  # seconds between addresses (RFC 8305 §5)


@dataclass(frozen=True)
class _Target:
    """Whom to connect to, and how to know that it is them."""

    host: str
    port: int
    server_name: str
    configuration: QuicConfiguration
    pins: frozenset[bytes]
    timeout: float


def _target(
    config: Config,
    host: str,
    port: int,
    *,
    server_name: str | None,
    alpn: Iterable[str],
    cafile: str | os.PathLike[str] | None,
    capath: str | os.PathLike[str] | None,
    cadata: str | bytes | None,
    verify: bool,
    pinned_sha256: Iterable[str | bytes] | str | bytes,
    certfile: PathOrPem | None,
    keyfile: PathOrPem | None,
    password: str | bytes | None,
    session_cache: Any,
    timeout: float,
) -> _Target:
    if session_cache is not None:
        raise NotImplementedError("session_cache is not there yet")
    if not isinstance(host, str) or not host:
        raise ConfigError(f"host={host!r}: it must be a name or an IP address")
    check_port(port, least=1)
    check_seconds("timeout", timeout, zero=False)
    if certfile is None and (keyfile is not None or password is not None):
        raise ConfigError("keyfile and password are of use with a certfile only")
    pins = parse_pins(pinned_sha256)
    identity = None if certfile is None else load_identity(certfile, keyfile, password)
    name = _ascii_name(server_name or host.partition("%")[0])
    configuration = client_configuration(
        config,
        alpn,
        server_name=name,
        anchors=load_trust_anchors(cafile, capath, cadata),
        verify=verify and not pins,  # a pin stands in place of a chain
        identity=identity,
    )
    return _Target(host, port, name, configuration, pins, timeout)


def _ascii_name(name: str) -> str:
    """The name as TLS and certificates have it: the form in ASCII of an international one."""
    if not isinstance(name, str):
        raise ConfigError(f"server_name={name!r}: it must be a host name, or None")
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError as error:
        raise ConfigError(f"server_name={name!r} is no host name: {error}") from error


class Endpoint:
    """One UDP socket for many connections, and for a server too if wanted.

    Args:
        local_address: (host, port); ("::", 0) takes a free port on both families.
        server: `ServerOptions`; the `Server` is then `endpoint.server`.
        config: for all connections on it.

    As an async context manager it opens the socket; leaving it is `aclose`.

    Raises:
        ConfigError: an argument cannot be used.
    """

    def __init__(
        self,
        local_address: tuple[str, int] = ("::", 0),
        server: ServerOptions | None = None,
        *,
        config: Config | None = None,
    ) -> None:
        check_local_address(local_address)
        self._local = local_address
        self._options = server
        self._config = checked_config(config)
        self._udp: UdpEndpoint | None = None
        self._sessions: weakref.WeakSet[RawQuicSession] = weakref.WeakSet()
        self.server: Server | None = None

    @property
    def local_address(self) -> Address:
        """(host, port) that the socket is bound to."""
        return self._endpoint().local_address

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Bind the socket. OSError when the address is in use, ConfigError for the server's."""
        if self._udp is not None:
            is_now = "is closed; make a new one" if self._udp.closing else "is open already"
            raise RuntimeError(f"the endpoint {is_now}")
        sock = await bind(*self._local, self._config)
        udp = UdpEndpoint(sock, self._config)
        try:
            if self._options is not None:
                self.server = Server(udp, self._options, owns_endpoint=False)
            await udp.start()
        except BaseException:
            udp.abort()
            raise
        self._udp = udp

    async def connect(
        self,
        host: str,
        port: int = 4433,
        *,
        server_name: str | None = None,
        alpn: Iterable[str] = ("h3",),
        cafile: str | os.PathLike[str] | None = None,
        capath: str | os.PathLike[str] | None = None,
        cadata: str | bytes | None = None,
        verify: bool = True,
        pinned_sha256: Iterable[str | bytes] | str | bytes = (),
        certfile: PathOrPem | None = None,
        keyfile: PathOrPem | None = None,
        password: str | bytes | None = None,
        session_cache: Any = None,
        timeout: float = 10.0,
    ) -> RawQuicSession:
        """Open a session from this socket; arguments and errors as those of `connect`."""
        udp = self._endpoint()
        udp.turn.check()
        if udp.closing:
            raise RuntimeError("the endpoint is closed; make a new one")
        target = _target(
            self._config,
            host,
            port,
            server_name=server_name,
            alpn=alpn,
            cafile=cafile,
            capath=capath,
            cadata=cadata,
            verify=verify,
            pinned_sha256=pinned_sha256,
            certfile=certfile,
            keyfile=keyfile,
            password=password,
            session_cache=session_cache,
            timeout=timeout,
        )
        session = await _connect(udp, target)
        self._sessions.add(session)
        return session

    async def aclose(self) -> None:
        """Shut the server down, close what sessions are left, with code 0, then the socket.

        The server's sessions have `ServerOptions.drain_timeout` to end; those that `connect` gave
        have none, see `RawQuicSession.aclose`. When cancelled, it closes all of them at once.
        """
        if self._udp is None:
            return
        try:
            if self.server is not None and self._options is not None:
                await self.server.shutdown(self._options.drain_timeout)
        except asyncio.CancelledError:
            assert self.server is not None
            self.server.close()
            raise
        finally:
            for session in list(self._sessions):
                session.close()
            await self._udp.close()

    def _endpoint(self) -> UdpEndpoint:
        if self._udp is None:
            raise RuntimeError("the endpoint is not open: use `async with`, or await open()")
        return self._udp


def connect(
    host: str,
    port: int = 4433,
    *,
    server_name: str | None = None,
    alpn: Iterable[str] = ("h3",),
    cafile: str | os.PathLike[str] | None = None,
    capath: str | os.PathLike[str] | None = None,
    cadata: str | bytes | None = None,
    verify: bool = True,
    pinned_sha256: Iterable[str | bytes] | str | bytes = (),
    certfile: PathOrPem | None = None,
    keyfile: PathOrPem | None = None,
    password: str | bytes | None = None,
    config: Config | None = None,
    session_cache: Any = None,
    local_address: tuple[str, int] | None = None,
    timeout: float = 10.0,
) -> Opening[RawQuicSession]:
    """Open a session to a server, on a UDP socket of its own.

    Verification is on by default: the server's certificate must chain to a trust anchor (certifi's
    unless cafile, capath or cadata are given), and be for `server_name or host`. All addresses of
    `host` are tried, IPv6 first, the next one a quarter of a second later (RFC 8305).

    Args:
        port: UDP port, 1 .. 65,535.
        server_name: that the certificate must be for, and that the server is asked for (SNI,
            RFC 6066 §3), in place of `host`.
        alpn: application protocols that are offered (RFC 7301).
        cafile, capath: trust anchors as a PEM (or DER) file, or an OpenSSL folder of them.
        cadata: trust anchors as PEM or DER.
        pinned_sha256: accept a certificate by the SHA-256 of its DER form (bytes, or hex with or
            without colons) in place of a chain; its name and dates are not looked at then.
        certfile, keyfile, password: a client certificate, shown when the server asks for one.
        session_cache: not there yet (NotImplementedError).
        local_address: (host, port) to send from.
        timeout: seconds for all of it, more than 0.

    Use it with `async with`, which ends with `aclose(0)`, or `await` it.

    Raises:
        ConfigError: an argument cannot be used.
        CertificateInvalid, ConnectionRefused, HandshakeTimeout, HandshakeFailed.
        OSError: the name does not resolve, or the local address is not free.
    """
    settings = checked_config(config)
    if local_address is not None:
        check_local_address(local_address)
    target = _target(
        settings,
        host,
        port,
        server_name=server_name,
        alpn=alpn,
        cafile=cafile,
        capath=capath,
        cadata=cadata,
        verify=verify,
        pinned_sha256=pinned_sha256,
        certfile=certfile,
        keyfile=keyfile,
        password=password,
        session_cache=session_cache,
        timeout=timeout,
    )

    async def start() -> RawQuicSession:
        sock = await bind(*(local_address or ("::", 0)), settings)
        endpoint = UdpEndpoint(sock, settings)
        try:
            await endpoint.start()
            return await _connect(endpoint, target, release=endpoint.close)
        except BaseException:
            await endpoint.close()
            raise

    return Opening("connect", start)


class _Attempt:
    """A handshake with one address."""

    def __init__(self, endpoint: UdpEndpoint, address: Address, target: _Target) -> None:
        connection = make_connection(
            config=endpoint.config,
            configuration=target.configuration,
            new_connection_id=endpoint.routes.new_connection_id,
            reset_token=endpoint.routes.reset_token,
            pins=target.pins,
        )
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        connection.connect(address, time.monotonic())
        self.link = endpoint.adopt(connection, address, is_client=True)
        self.link.on_events = self._on_events
        self.kept: list[EventTuple] = []
        self.link.flush_soon()

    def _on_events(self, events: list[EventTuple]) -> None:
        self.kept += events  # whoever takes the link over gets them
        reason = self.link.connection.close_reason
        if self.done.done():
            return
        if reason is not None:
            self.done.set_exception(reason)
        elif (Event.CONNECTED, 0) in events:
            self.done.set_result(None)

    def give_up(self) -> None:
        if not self.done.cancel() and not self.done.cancelled():
            self.done.exception()  # seen, so that asyncio does not report it
        if self.link.connection.close_reason is None:
            self.link.connection.close_session(0, b"")
            self.link.flush_soon()


async def _connect(
    endpoint: UdpEndpoint, target: _Target, release: Callable[[], Awaitable[None]] | None = None
) -> RawQuicSession:
    """A session of the first attempt, one an address, whose handshake completes."""
    started = time.monotonic()
    tried: list[Address] = []
    try:
        async with asyncio.timeout(target.timeout):
            addresses = await _resolve(endpoint, target.host, target.port)
            attempt = await _race(endpoint, target, addresses, tried)
    except TimeoutError:
        where = ", ".join(map(address_text, tried)) or target.host
        elapsed = time.monotonic() - started
        raise HandshakeTimeout(f"no answer from {where} in {elapsed:.1f} s") from None
    session = RawQuicSession(attempt.link, server_name=target.server_name, release=release)
    session._on_events(attempt.kept)
    return session


async def _resolve(endpoint: UdpEndpoint, host: str, port: int) -> list[Address]:
    infos = await look_up(host, port, f"cannot resolve {host!r}")
    only_ipv4 = ":" not in endpoint.local_address[0]
    families: dict[int, list[Address]] = {}
    for family, _, _, _, address in infos:
        if family == sockets.AF_INET or (family == sockets.AF_INET6 and not only_ipv4):
            families.setdefault(family, []).append(normalize(address))
    # RFC 8305 §4: the families in turn, in the order of the resolver.
    queues = [list(dict.fromkeys(queue)) for queue in families.values()]
    ordered = []
    while any(queues):
        ordered += [queue.pop(0) for queue in queues if queue]
    if not ordered:
        raise OSError(f"{host!r} has no address that {endpoint.local_address[0]} can reach")
    return ordered


async def _race(
    endpoint: UdpEndpoint, target: _Target, addresses: list[Address], tried: list[Address]
) -> _Attempt:
    attempts: list[_Attempt] = []
    pending: set[asyncio.Future[None]] = set()
    winner: _Attempt | None = None
    failure: SessionError | None = None
    waiting = list(addresses)
    try:
        while winner is None:
            if endpoint.closing:
                raise ClosedLocally
            if waiting:
                address = waiting.pop(0)
                tried.append(address)
                attempts.append(_Attempt(endpoint, address, target))
                pending.add(attempts[-1].done)
            if not pending:
                break
            done, pending = await asyncio.wait(
                pending,
                timeout=ATTEMPT_DELAY if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in attempts:
                if attempt.done in done:
                    error = attempt.done.exception()
                    if error is None:
                        winner = winner or attempt
                    elif isinstance(error, SessionError):
                        failure = failure or error
        if winner is not None:
            return winner
        raise failure or HandshakeFailed("no address was tried")
    finally:
        for attempt in attempts:
            if attempt is not winner:
                attempt.give_up()
