"""`serve` and `Server`: accept sessions, run a handler for each, end gracefully."""

import asyncio
import inspect
import logging
import socket as sockets
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from .arguments import check_port, check_seconds, checked_config
from .certificates import PathOrPem, load_identity
from .config import Config
from .connection.interface import Address
from .endpoint.accept import Acceptor, OnIncoming
from .endpoint.io import look_up, open_socket, set_buffers
from .endpoint.link import Link, ignore
from .endpoint.udp_endpoint import UdpEndpoint
from .errors import ConfigError, ConnectionRefused, SessionError, StreamError
from .handler import Handler, check_awaitable, check_handler
from .opening import Opening
from .session import RawQuicSession
from .stats import ServerStats
from .tls import server_configuration

logger = logging.getLogger("rawquic")

DRAIN_TIMEOUT = 30.0  # seconds
SHUTDOWN_CODE = 1
SHUTDOWN_REASON = b"server is shutting down"
CONNECTION_REFUSED = 0x2


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What makes an endpoint a server; the arguments of `serve` under the same names."""

    handler: Handler
    certfile: PathOrPem = field(repr=False)  # it may be, or have, the key
    keyfile: PathOrPem | None = field(default=None, repr=False)
    password: str | bytes | None = field(default=None, repr=False)
    alpn: Iterable[str] = ("h3",)
    on_incoming: OnIncoming | None = None
    client_cafile: Any = None
    require_client_cert: bool = False
    max_sessions: int | None = None
    drain_timeout: float = DRAIN_TIMEOUT

    def __post_init__(self) -> None:
        check_handler(self.handler)
        if self.on_incoming is not None and not callable(self.on_incoming):
            kind = type(self.on_incoming).__name__
            raise TypeError(f"on_incoming must be a function of an Incoming, or None, not {kind}")
        most = self.max_sessions
        if most is not None and (not isinstance(most, int) or most < 1):
            raise ConfigError(f"max_sessions={most!r}: it must be an integer from 1, or None")
        check_seconds("drain_timeout", self.drain_timeout, zero=True)


class Server:
    """Accepts sessions on one endpoint; made by `serve`.

    Leaving `async with` is `shutdown`, with the `drain_timeout` that `serve` was given.
    """

    def __init__(
        self, endpoint: UdpEndpoint, options: ServerOptions, *, owns_endpoint: bool = True
    ) -> None:
        if options.client_cafile is not None or options.require_client_cert:
            raise NotImplementedError("client certificates are not there yet")
        identity = load_identity(options.certfile, options.keyfile, options.password)
        config = endpoint.config
        self._endpoint = endpoint
        self._owns_endpoint = owns_endpoint
        self._handler = options.handler
        self._drain_timeout = options.drain_timeout
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[RawQuicSession, asyncio.Task[None]] = {}
        self._cut: set[RawQuicSession] = set()  # closed by the end of the server
        self._not_started = 0
        self._total = 0
        self._shutdown: asyncio.Task[int] | None = None
        self._closed = asyncio.Event()
        self._acceptor = Acceptor(
            endpoint,
            config,
            server_configuration(config, identity, options.alpn),
            on_connected=self._on_connected,
            on_incoming=options.on_incoming,
            max_sessions=options.max_sessions,
            session_count=lambda: len(self._sessions),
        )
        endpoint.server = self._acceptor

    # -- what it is ----------------------------------------------------------------------------

    @property
    def local_address(self) -> Address:
        """(host, port) that the socket is bound to."""
        return self._endpoint.local_address

    @property
    def sessions(self) -> list[RawQuicSession]:
        """The sessions whose handlers run now, or whose `aclose` waits behind them; a snapshot."""
        return list(self._sessions)

    def is_serving(self) -> bool:
        """True until `close` or `shutdown`."""
        return self._acceptor.accepting and not self._closed.is_set()

    def stats(self) -> ServerStats:
        """Counters since the server began; sizes are bytes."""
        endpoint, acceptor = self._endpoint, self._acceptor
        return ServerStats(
            sessions=len(self._sessions),
            sessions_total=self._total,
            refused=acceptor.refused,
            retried=acceptor.retried,
            dropped=acceptor.dropped,
            packets_unroutable=endpoint.packets_unroutable,
            resets_sent=endpoint.resets.sent,
            receive_buffer=endpoint.receive_buffer,
            send_buffer=endpoint.send_buffer,
            socket=endpoint.socket_stats(),
        )

    def reload_certificate(self, certfile: PathOrPem, keyfile: PathOrPem | None = None) -> None:
        """Not there yet."""
        raise NotImplementedError("reload_certificate is not there yet")

    # -- running and ending --------------------------------------------------------------------

    async def serve_forever(self) -> None:
        """Wait until the server is closed; when cancelled, it shuts down first.

        Sessions in flight then have the `drain_timeout` that `serve` was given.
        """
        try:
            await self._closed.wait()
        except asyncio.CancelledError:
            self._start_drain(self._drain_timeout, interrupted=True)
            await self.shutdown(self._drain_timeout)
            raise

    def close(self) -> None:
        """Now: refuse new connections, close every session with code 1, cancel the handlers.

        It hastens a `shutdown` that is under way. `wait_closed` waits until all of it has ended.
        """
        self._endpoint.turn.check()
        self._acceptor.accepting = False
        self._cut_off()
        self._start_drain(0.0)

    async def shutdown(self, drain_timeout: float = DRAIN_TIMEOUT) -> int:
        """Accept no more; sessions in flight go on until their handlers return.

        New connections meanwhile are refused with CONNECTION_REFUSED (RFC 9000 §20.1). After
        `drain_timeout` seconds (0 or more) the rest is closed with code 1, their handlers are
        cancelled, and waited for. While one is under way, another waits for the first. A handler
        that awaits it waits for itself, until it is cut off: let it start a task.

        Returns how many sessions were cut off, also by `close` meanwhile.
        """
        self._endpoint.turn.check()
        check_seconds("drain_timeout", drain_timeout, zero=True)
        self._acceptor.accepting = False
        return await asyncio.shield(self._start_drain(drain_timeout))

    async def wait_closed(self) -> None:
        """Wait until `close` or `shutdown` is complete and the socket is closed."""
        await self._closed.wait()

    def _start_drain(
        self, drain_timeout: float, *, interrupted: bool = False
    ) -> "asyncio.Task[int]":
        """`interrupted`: by a cancellation, as Ctrl-C is under `asyncio.run`."""
        if self._shutdown is None:
            self._shutdown = self._loop.create_task(self._drain(drain_timeout, interrupted))
            self._shutdown.add_done_callback(self._drained)
        return self._shutdown

    async def _drain(self, drain_timeout: float, interrupted: bool) -> int:
        try:
            left = len(self._sessions.keys() - self._cut)
            if left and drain_timeout:
                logger.warning(
                    "shutting down: waiting for %d sessions, at most %g s%s",
                    left,
                    drain_timeout,
                    "; another Ctrl-C cuts them off" if interrupted else "",
                )
            if self._sessions:
                await asyncio.wait(list(self._sessions.values()), timeout=drain_timeout)
            self._cut_off()
            if self._sessions:
                await asyncio.wait(list(self._sessions.values()))
            return len(self._cut)
        except asyncio.CancelledError:
            self._close_sessions()
            raise
        finally:
            self._acceptor.close()
            if self._owns_endpoint:
                await self._endpoint.close()

    def _drained(self, task: "asyncio.Task[int]") -> None:
        # Not in the task itself: the loop may end, and cancel it, before it has run at all.
        self._acceptor.close()
        self._endpoint.server = None
        if self._owns_endpoint:
            if not self._endpoint.closed:
                self._close_sessions()
                self._endpoint.flush_all()
            self._endpoint.abort()
        self._closed.set()

    def _close_sessions(self) -> None:
        """The loop ends, as by a second Ctrl-C: it cancels this task and the handlers in any order.

        A handler's turn to close its session may come when the endpoint is closed.
        """
        for session in self._sessions:
            session.close(SHUTDOWN_CODE, SHUTDOWN_REASON)

    def _cut_off(self) -> None:
        """Close all sessions with an error and cancel their handlers, once: they may clean up."""
        rest = {each: task for each, task in self._sessions.items() if each not in self._cut}
        if rest:
            logger.info("cutting off %d sessions", len(rest))
        self._cut.update(rest)
        for session, task in rest.items():
            session.close(SHUTDOWN_CODE, SHUTDOWN_REASON)
            task.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._start_drain(self._drain_timeout, interrupted=True)
        await self.shutdown(self._drain_timeout)

    # -- sessions ------------------------------------------------------------------------------

    def _on_connected(self, link: Link) -> None:
        if (
            not self._acceptor.accepting
            or self._not_started >= self._endpoint.config.accept_backlog
        ):
            link.on_events = ignore
            refused = ConnectionRefused("refused: shutting down, or too many sessions wait")
            link.connection.close_with_transport_error(CONNECTION_REFUSED, "", refused)
            link.flush_soon()
            return
        session = RawQuicSession(link)
        self._total += 1
        self._not_started += 1
        task = self._sessions[session] = self._loop.create_task(self._run(session))
        # Not in the task itself: one that is cancelled before it began would never do it.
        task.add_done_callback(lambda _: self._handled(session))

    def _handled(self, session: RawQuicSession) -> None:
        del self._sessions[session]
        session.close(SHUTDOWN_CODE)

    async def _run(self, session: RawQuicSession) -> None:
        self._not_started -= 1
        try:
            result = self._handler(session)
            check_awaitable(self._handler, result)
            await result
        except asyncio.CancelledError:
            session.close(SHUTDOWN_CODE)
        except Exception as error:
            if not (session.closed and _only_session_errors(error)):
                logger.error("the handler of %s failed", session._name(), exc_info=error)
            session.close(1)
        else:
            await session.aclose(0)


def _only_session_errors(error: Exception) -> bool:
    """True when all that a handler saw is that its session ended, also in a task group."""
    if isinstance(error, ExceptionGroup):
        return error.split((SessionError, StreamError))[1] is None
    return isinstance(error, SessionError | StreamError)


def serve(
    handler: Handler,
    host: str = "::",
    port: int = 4433,
    *,
    certfile: PathOrPem,
    keyfile: PathOrPem | None = None,
    password: str | bytes | None = None,
    alpn: Iterable[str] = ("h3",),
    config: Config | None = None,
    on_incoming: OnIncoming | None = None,
    client_cafile: Any = None,
    require_client_cert: bool = False,
    max_sessions: int | None = None,
    reuse_port: bool = False,
    sock: sockets.socket | None = None,
    drain_timeout: float = DRAIN_TIMEOUT,
) -> Opening[Server]:
    """Listen, and call `handler(session)` for each session, after its handshake.

    When the handler returns, the session ends as with `aclose(0)`; when it raises, the exception
    is logged and the session is closed with code 1; when it is cancelled, likewise.

    Args:
        handler: an async function, or anything else that returns an awaitable when it is called
            with a session. Each session's runs in a task of its own.
        host: "::" listens on IPv6 and IPv4, and on IPv4 alone where IPv6 is off. A name is
            resolved, its first address is used.
        port: UDP port, 0 .. 65,535; 0 for a free one, see `Server.local_address`.
        certfile, keyfile: a path, or PEM as bytes; without keyfile the key is in certfile.
        password: of the key.
        alpn: application protocols (RFC 7301), the preferred one first.
        on_incoming: decides on a connection before any cryptographic work: gets an `Incoming`,
            returns (or awaits) "accept", "retry", "refuse" or "ignore".
        client_cafile, require_client_cert: not there yet (NotImplementedError).
        max_sessions: more, 1 at least, are refused with CONNECTION_REFUSED (RFC 9000 §5.2.2).
        reuse_port: SO_REUSEPORT.
        sock: a bound UDP socket in place of host and port; it is closed with the server. Nothing
            else may send on it, no other process either: that could end up in our packets.
        drain_timeout: seconds, 0 or more, that sessions in flight have to end when `async with` is
            left or `serve_forever` is cancelled, as by Ctrl-C. `shutdown` takes its own.

    Use it with `async with`, which ends with `shutdown(drain_timeout)`, or `await` it.

    Raises:
        TypeError: the handler cannot be called, or is an async generator. What returns no
            awaitable is found out when it is called: the session ends with code 1, the log says so.
        ConfigError: certificate, key or option cannot be used. OSError: the port is in use.
    """
    check_port(port, least=0)
    settings = checked_config(config)
    options = ServerOptions(
        handler=handler,
        certfile=certfile,
        keyfile=keyfile,
        password=password,
        alpn=alpn,
        on_incoming=on_incoming,
        client_cafile=client_cafile,
        require_client_cert=require_client_cert,
        max_sessions=max_sessions,
        drain_timeout=drain_timeout,
    )
    if sock is not None:
        check_socket(sock)

    async def start() -> Server:
        bound = sock
        if bound is None:
            bound = await bind(host, port, settings, reuse_port=reuse_port)
        else:
            set_buffers(bound, settings)
        endpoint = UdpEndpoint(bound, settings)
        try:
            server = Server(endpoint, options)
            await endpoint.start()
        except BaseException:
            endpoint.abort()
            raise
        return server

    return Opening("serve", start)


async def serve_with_shutdown(
    handler: Handler,
    host: str,
    port: int,
    signal: Awaitable[Any],
    *,
    drain_timeout: float = DRAIN_TIMEOUT,
    **options: Any,
) -> int:
    """Serve until the awaitable `signal` completes, then `shutdown(drain_timeout)`.

    It shuts down too when `signal` raises, or when it is cancelled itself. The other arguments
    and the errors are those of `serve`. Returns how many sessions were cut off.
    """
    if not inspect.isawaitable(signal):
        kind = type(signal).__name__
        raise TypeError(f"signal must be an awaitable, as event.wait() of an Event is, not {kind}")
    try:
        server = await serve(handler, host, port, drain_timeout=drain_timeout, **options)
    except BaseException:
        if inspect.iscoroutine(signal):
            signal.close()  # nobody will await it
        raise
    try:
        await signal
    except asyncio.CancelledError:
        server._start_drain(drain_timeout, interrupted=True)
        raise
    finally:
        cut_off = await server.shutdown(drain_timeout)
    return cut_off


async def bind(host: str, port: int, config: Config, *, reuse_port: bool = False) -> sockets.socket:
    """A bound UDP socket; "::" takes both families, IPv4 alone where IPv6 is off."""
    infos = await look_up(host or "::", port, f"cannot bind UDP {host!r}", sockets.AI_PASSIVE)
    family, _, _, _, address = infos[0]
    try:
        return open_socket(address, family, config, reuse_port=reuse_port)
    except OSError:
        if host not in ("::", ""):
            raise
        if _ipv6_works():
            raise
        return open_socket(("0.0.0.0", port), sockets.AF_INET, config, reuse_port=reuse_port)


def check_socket(sock: sockets.socket) -> None:
    """A UDP socket of the caller's, or ConfigError."""
    usable = (
        isinstance(sock, sockets.socket)
        and sock.type == sockets.SOCK_DGRAM
        and sock.family in (sockets.AF_INET, sockets.AF_INET6)
        and sock.fileno() != -1
        and sock.getsockname()[1] != 0  # the port of one that is not bound
    )
    if not usable:
        raise ConfigError(f"sock must be a bound UDP socket of IPv4 or IPv6, not {sock!r}")


def _ipv6_works() -> bool:
    try:
        with sockets.socket(sockets.AF_INET6, sockets.SOCK_DGRAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True
