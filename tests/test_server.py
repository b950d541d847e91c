"""rawquic.server: handlers, decisions on clients, limits, and the three ways to end."""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from loopback import Certificate, echo, error_of, pair, until, waiting, within

import rawquic
from rawquic import (
    ClosedByPeer,
    ClosedLocally,
    Config,
    ConfigError,
    ConnectionRefused,
    HandshakeTimeout,
    Incoming,
    RawQuicSession,
    Server,
)

pytestmark = pytest.mark.timeout(30)


async def started(
    certificate: Certificate, handler: Callable[[RawQuicSession], Awaitable[None]], **options: Any
) -> Server:
    host, port = options.pop("host", "127.0.0.1"), options.pop("port", 0)
    return await rawquic.serve(handler, host, port, **{**certificate.server, **options})


async def connected(certificate: Certificate, server: Server, **options: Any) -> RawQuicSession:
    return await within(
        rawquic.connect(*server.local_address, **certificate.client, **options)  # type: ignore[arg-type]
    )


async def wait_for_ever(session: RawQuicSession) -> None:
    await asyncio.get_running_loop().create_future()


async def until_closed(session: RawQuicSession) -> None:
    await session.wait_closed()


def half_open(server: Server, count: int) -> list[socket.socket]:
    """Clients that send their first packet and never another."""
    made = []
    for _ in range(count):
        client = QuicConnection(
            configuration=QuicConfiguration(alpn_protocols=["h3"], server_name="localhost")
        )
        client.connect(server.local_address, now=time.monotonic())
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for data, address in client.datagrams_to_send(now=time.monotonic()):
            sock.sendto(data, address)
        made.append(sock)
    return made


# -- handlers --------------------------------------------------------------------------------------


async def test_serve_is_a_context_manager_or_awaited(certificate: Certificate) -> None:
    async with rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server:
        host, port = server.local_address
        assert host == "127.0.0.1" and port > 0
        assert server.is_serving() and server.sessions == []
    assert not server.is_serving()
    server = await rawquic.serve(echo, "127.0.0.1", port, **certificate.server)  # it is free again
    async with server as same:
        assert same is server and server.local_address == (host, port)
    await within(server.wait_closed())
    await within(server.wait_closed())


async def test_a_handler_that_returns_ends_its_session(certificate: Certificate) -> None:
    async def answer(session: RawQuicSession) -> None:
        send, recv = await session.accept_bi()
        async with send:
            await send.write(await recv.read(-1) * 1000)

    async with await started(certificate, answer) as server:
        client = await connected(certificate, server)
        send, recv = await client.open_bi()
        await send.write(b"data" * 100)
        send.finish()
        # The handler has returned by the time most of this is read: it all comes.
        assert await within(recv.read(-1)) == b"data" * 100_000
        await within(client.wait_closed())
        assert isinstance(client.close_reason, ClosedByPeer)
        assert client.close_reason.code == 0
        await until(lambda: not server.sessions)


@pytest.mark.parametrize("error", [ValueError("of the handler"), rawquic.StreamReset(3)])
async def test_a_handler_that_raises(
    certificate: Certificate, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(session: RawQuicSession) -> None:
        raise error

    async with await started(certificate, fail) as server:
        client = await connected(certificate, server)
        await within(client.wait_closed())
        assert isinstance(client.close_reason, ClosedByPeer)
        assert (client.close_reason.code, client.close_reason.is_application) == (1, True)
        logged = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert [r.name for r in logged] == ["rawquic"]
        who = f"session {client.connection.id} with 127.0.0.1:{client.local_address[1]}"
        assert logged[0].getMessage() == f"the handler of {who} failed"
        assert logged[0].exc_info is not None and logged[0].exc_info[1] is error
        # The next client is none the worse for it.
        other = await connected(certificate, server)
        await within(other.wait_closed())


async def test_a_handler_that_sees_its_session_end_is_no_error(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    async def read(session: RawQuicSession) -> None:
        await session.read_datagram()

    async with await started(certificate, read) as server:
        client = await connected(certificate, server)
        await until(lambda: server.sessions)
        client.close(3)
        await until(lambda: not server.sessions)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_handler_that_is_cancelled_closes_with_1(certificate: Certificate) -> None:
    async def cancel(session: RawQuicSession) -> None:
        raise asyncio.CancelledError

    async with await started(certificate, cancel) as server:
        client = await connected(certificate, server)
        await within(client.wait_closed())
        assert isinstance(client.close_reason, ClosedByPeer) and client.close_reason.code == 1
        await until(lambda: not server.sessions)


async def test_sessions_is_a_snapshot(certificate: Certificate) -> None:
    async with await started(certificate, until_closed) as server:
        clients = [await connected(certificate, server) for _ in range(3)]
        await until(lambda: len(server.sessions) == 3)
        snapshot = server.sessions
        assert {s.remote_address for s in snapshot} == {c.local_address for c in clients}
        for client in clients:
            client.close()
        await until(lambda: not server.sessions)
        assert len(snapshot) == 3
        stats = server.stats()
        assert (stats.sessions, stats.sessions_total) == (0, 3)
        assert (stats.refused, stats.retried, stats.dropped) == (0, 0, 0)
        assert stats.receive_buffer >= 4096 and stats.send_buffer >= 4096
        assert stats.socket["receive_datagrams"] > 0


async def test_serve_forever(certificate: Certificate) -> None:
    server = await started(certificate, until_closed)
    forever = await waiting(server.serve_forever())
    server.close()
    await within(forever)
    server = await started(certificate, until_closed)
    forever = await waiting(server.serve_forever())
    forever.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(forever)
    assert not server.is_serving()
    await within(server.wait_closed())


# -- addresses and sockets -------------------------------------------------------------------------


async def test_one_server_for_both_families(certificate: Certificate) -> None:
    async with await started(certificate, until_closed, host="::") as server:
        port = server.local_address[1]
        for host in ("127.0.0.1", "::1"):
            async with rawquic.connect(host, port, **certificate.client) as client:
                assert client.remote_address == (host, port)
                await until(lambda: server.sessions)
                (peer,) = server.sessions
                assert peer.remote_address == client.local_address  # IPv4 is not shown mapped
                assert peer.remote_address[0] == host
                assert peer.local_address == (host, port)
            await until(lambda: not server.sessions)


async def test_ipv4_alone_where_ipv6_is_off(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.socket

    class NoIPv6(real):
        def __init__(self, family: int = -1, *rest: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *rest, **options)

    monkeypatch.setattr(socket, "socket", NoIPv6)
    async with await started(certificate, until_closed, host="::") as server:
        assert server.local_address[0] == "0.0.0.0"
        port = server.local_address[1]
        async with rawquic.connect("127.0.0.1", port, **certificate.client) as client:
            assert client.local_address[0] == "127.0.0.1"


async def test_a_wildcard_server_answers_from_the_address_that_was_asked(
    certificate: Certificate,
) -> None:
    """A client drops what comes from another address than it sent to."""
    for host in ("0.0.0.0", "::"):
        async with await started(certificate, echo, host=host) as server:
            client = await within(
                rawquic.connect(
                    "127.0.0.2",
                    server.local_address[1],
                    server_name="localhost",
                    timeout=3,
                    **certificate.client,
                )
            )
            assert client.remote_address[0] == "127.0.0.2"
            await until(lambda: server.sessions)
            assert server.sessions[0].local_address[0] == "127.0.0.2"
            client.send_datagram(b"there")
            assert await within(client.read_datagram()) == b"there"
            await within(client.aclose())


async def test_a_socket_of_the_callers(certificate: Certificate) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    async with await started(certificate, until_closed, sock=sock) as server:
        assert server.local_address == sock.getsockname()
        client = await connected(certificate, server)
        client.close()
        await within(client.wait_closed())
    assert sock.fileno() == -1  # it is closed with the server


async def test_a_socket_that_cannot_serve(certificate: Certificate) -> None:
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with tcp, pytest.raises(ConfigError, match="UDP socket"):
        await started(certificate, until_closed, sock=tcp)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right, pytest.raises(ConfigError, match="UDP socket"):
        await started(certificate, until_closed, sock=left)
    unbound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with unbound, pytest.raises(ConfigError, match="a bound UDP socket"):
        await started(certificate, until_closed, sock=unbound)
    for useless in (unbound, 5):  # it is closed by now
        with pytest.raises(ConfigError, match="UDP socket"):
            await started(certificate, until_closed, sock=useless)


async def test_reuse_port(certificate: Certificate) -> None:
    async with await started(certificate, until_closed, reuse_port=True) as first:
        port = first.local_address[1]
        async with await started(certificate, until_closed, port=port, reuse_port=True) as second:
            assert second.local_address == first.local_address
        with pytest.raises(OSError, match=f"cannot bind UDP 127.0.0.1:{port}"):
            await started(certificate, until_closed, port=port)


async def test_options_that_cannot_be_used(certificate: Certificate) -> None:
    for options, message in (
        ({"max_sessions": 0}, "max_sessions=0"),
        ({"max_sessions": "5"}, "max_sessions='5': it must be an integer from 1"),
        ({"drain_timeout": -1}, "drain_timeout=-1: it must be seconds, 0 or more"),
        ({"drain_timeout": float("nan")}, "drain_timeout=nan"),
        ({"drain_timeout": None}, "drain_timeout=None"),
        ({"port": 65536}, "port=65536: it must be an integer from 0 to 65,535"),
        ({"port": "4433"}, "port='4433'"),
        ({"config": {}}, "config must be a rawquic.Config, not dict"),
        ({"alpn": None}, "alpn=None"),
        ({"alpn": ()}, "alpn"),
        ({"alpn": ("",)}, "alpn"),
        ({"certfile": "no-such-file.pem"}, "no-such-file.pem"),
        ({"keyfile": b"no key"}, "keyfile"),
    ):
        with pytest.raises(ConfigError, match=message):
            await started(certificate, echo, **options)
    with pytest.raises(TypeError, match=r"on_incoming must be .* not str"):
        await started(certificate, echo, on_incoming="accept")
    with pytest.raises(OSError, match="no-such-host"):
        await started(certificate, echo, host="no-such-host.invalid")


def test_options_do_not_show_the_key() -> None:
    options = rawquic.ServerOptions(
        handler=echo, certfile=b"-CERT-", keyfile=b"-KEY-", password="a secret"
    )
    for secret in ("-CERT-", "-KEY-", "a secret"):
        assert secret not in repr(options)


# -- limits and decisions --------------------------------------------------------------------------


async def test_max_sessions(certificate: Certificate) -> None:
    async with await started(certificate, until_closed, max_sessions=2) as server:
        first, second = [await connected(certificate, server) for _ in range(2)]
        error = await error_of(connected(certificate, server))
        assert type(error) is ConnectionRefused
        assert error.by_peer and error.code == 2
        assert server.stats().refused == 1
        first.close()
        await until(lambda: len(server.sessions) == 1)
        third = await connected(certificate, server)
        for session in (second, third):
            session.close()


DECISIONS: dict[str, type[Exception] | None] = {
    "accept": None,
    "retry": None,
    "refuse": ConnectionRefused,
    "ignore": HandshakeTimeout,
    "nonsense": ConnectionRefused,
    "raise": ConnectionRefused,
}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("decision", DECISIONS)
async def test_on_incoming(certificate: Certificate, decision: str, asynchronous: bool) -> None:
    seen: list[Incoming] = []

    def decide(incoming: Incoming) -> Any:
        seen.append(incoming)
        if decision == "raise":
            raise KeyError("of on_incoming")
        return decision

    async def decide_later(incoming: Incoming) -> Any:
        await asyncio.sleep(0.001)
        return decide(incoming)

    on_incoming = decide_later if asynchronous else decide
    async with await started(certificate, until_closed, on_incoming=on_incoming) as server:
        kind = DECISIONS[decision]
        timeout = 0.4 if decision == "ignore" else 10
        if kind is not None:
            assert type(await error_of(connected(certificate, server, timeout=timeout))) is kind
            assert not server.sessions
        else:
            client = await connected(certificate, server)
            await until(lambda: server.sessions)
            address = client.local_address
            client.close()
            assert {each.remote_address for each in seen} == {address}
            validated = [each.remote_address_validated for each in seen]
            assert validated == ([False, True] if decision == "retry" else [False])
            if decision == "retry":
                # The second Initial names the ID of the first one as the original (RFC 9000 §7.3).
                original, again = (each.original_destination_connection_id for each in seen)
                assert original == again
                assert server.stats().retried == 1
        for incoming in seen:
            assert len(incoming.original_destination_connection_id) >= 8
            assert incoming.remote_address[0] == "127.0.0.1"


async def test_a_slow_decision_is_asked_for_once(certificate: Certificate) -> None:
    """The client repeats its Initial packets meanwhile; they are the same client."""
    calls = 0
    decided = asyncio.Event()

    def decide(incoming: Incoming) -> Any:
        nonlocal calls
        calls += 1

        async def wait() -> str:
            await decided.wait()
            return "accept"

        return wait()

    config = Config(initial_rtt=0.01)
    async with await started(certificate, until_closed, on_incoming=decide) as server:
        connecting = asyncio.ensure_future(connected(certificate, server, config=config))
        await until(lambda: server.stats().socket["receive_datagrams"] >= 4)
        decided.set()
        client = await within(connecting)
        assert calls == 1
        client.close()


async def test_a_late_decision_keeps_to_the_limits(certificate: Certificate) -> None:
    decided = asyncio.Event()

    async def decide(incoming: Incoming) -> Any:
        await decided.wait()
        return "accept"

    config = Config(max_handshakes=4)
    async with await started(
        certificate, until_closed, on_incoming=decide, config=config
    ) as server:
        sockets = half_open(server, 8)
        await until(lambda: server.stats().socket["receive_datagrams"] >= 8)
        decided.set()
        await until(lambda: server.stats().retried == 6)  # two handshakes are half of the most
        for sock in sockets:
            sock.close()


async def test_a_decision_that_comes_after_the_end(certificate: Certificate) -> None:
    decided = asyncio.Event()

    async def decide(incoming: Incoming) -> Any:
        await decided.wait()
        return "accept"

    server = await started(certificate, until_closed, on_incoming=decide)
    sockets = half_open(server, 1)
    await until(lambda: server.stats().socket["receive_datagrams"] >= 1)
    server.close()
    decided.set()
    await within(server.wait_closed())
    for sock in sockets:
        sock.close()


async def test_retry_above_half_of_the_handshakes(certificate: Certificate) -> None:
    config = Config(max_handshakes=4)
    async with await started(certificate, until_closed, config=config) as server:
        sockets = half_open(server, 2)
        await until(lambda: server.stats().socket["receive_datagrams"] >= 2)
        client = await connected(certificate, server)  # it answers the Retry
        assert server.stats().retried == 1
        more = half_open(server, 5)  # these do not
        await until(lambda: server.stats().retried == 6)
        assert server.stats().dropped == 0
        client.close()
        for sock in (*sockets, *more):
            sock.close()


async def test_more_handshakes_than_the_most_are_dropped(certificate: Certificate) -> None:
    config = Config(max_handshakes=1, handshake_timeout=0.3)
    async with await started(certificate, until_closed, config=config) as server:
        (only,) = half_open(server, 1)
        await until(lambda: server.stats().socket["receive_datagrams"] >= 1)
        others = half_open(server, 3)
        await until(lambda: server.stats().dropped == 3)
        # Once the handshake has timed out there is room again; the client repeats itself.
        client = await connected(certificate, server)
        client.close()
        for sock in (only, *others):
            sock.close()


async def test_handshake_timeout(certificate: Certificate, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "rawquic")
    config = Config(handshake_timeout=0.2)
    async with await started(certificate, until_closed, config=config, max_sessions=1) as server:
        (sock,) = half_open(server, 1)
        await until(lambda: "no complete handshake in 0.2 s" in caplog.text)
        client = await connected(certificate, server)
        await until(lambda: server.stats().sessions_total == 1)
        client.close()
        sock.close()


async def test_a_session_beyond_the_backlog_is_refused(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawquic")
    async with await started(certificate, until_closed, config=Config(accept_backlog=1)) as server:
        server._not_started = 1  # as in a burst of them
        client = await connected(certificate, server)
        await within(client.wait_closed())
        assert isinstance(client.close_reason, ClosedByPeer)
        assert (client.close_reason.code, client.close_reason.is_application) == (2, False)
        assert server.sessions == [] and server.stats().sessions_total == 0
    # It never was a session of the server's: the log has the client's alone.
    opened = [r.getMessage() for r in caplog.records if "opened" in r.getMessage()]
    assert [message.rpartition(", ")[2] for message in opened] == ["client side"]


async def test_accept_backlog(certificate: Certificate) -> None:
    """Sessions whose handler has not started; in one loop that takes a burst of them."""
    async with await started(certificate, until_closed, config=Config(accept_backlog=1)) as server:
        clients = [await connected(certificate, server) for _ in range(5)]
        await until(lambda: server.stats().sessions_total == 5)
        for client in clients:
            client.close()


# -- shutdown --------------------------------------------------------------------------------------


async def test_shutdown_lets_sessions_finish(certificate: Certificate) -> None:
    async def work(session: RawQuicSession) -> None:
        count = 0
        async for send, recv in session.bi_streams():
            async with send:
                async for chunk in recv:
                    await send.write(chunk)
            count += 1
            if count == 3:
                (await session.open_uni()).finish()
                return

    server = await started(certificate, work)
    client = await connected(certificate, server)
    send, recv = await client.open_bi()
    await send.write(b"before")
    assert await within(recv.readexactly(6)) == b"before"

    draining = await waiting(server.shutdown(20))
    assert not server.is_serving()
    # New connections are refused, at once.
    began = time.monotonic()
    error = await error_of(connected(certificate, server))
    assert type(error) is ConnectionRefused
    assert time.monotonic() - began < 2
    # The stream goes on, both ways; so do new ones, and those that the server opens.
    await send.write(b"after")
    assert await within(recv.readexactly(5)) == b"after"
    send.finish()
    assert await within(recv.read()) == b""
    for _ in range(2):
        assert not draining.done()
        send, recv = await within(client.open_bi())
        await send.write(b"new")
        send.finish()
        assert await within(recv.read(-1)) == b"new"
    assert await within((await within(client.accept_uni())).read()) == b""
    assert await within(draining) == 0
    await within(client.wait_closed())
    assert isinstance(client.close_reason, ClosedByPeer) and client.close_reason.code == 0
    await within(server.wait_closed())
    assert await within(server.shutdown()) == 0  # once more: what the first one said


async def test_shutdown_cuts_off_after_the_timeout(certificate: Certificate) -> None:
    cancelled: list[RawQuicSession] = []

    async def hang(session: RawQuicSession) -> None:
        if await session.read_datagram() == b"stay":
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.append(session)
                raise

    server = await started(certificate, hang)
    clients = [await connected(certificate, server) for _ in range(3)]
    clients[0].send_datagram(b"stay")
    clients[1].send_datagram(b"stay")
    began = time.monotonic()
    draining = await waiting(server.shutdown(0.5))
    clients[2].send_datagram(b"go")
    await within(clients[2].wait_closed())
    assert not draining.done() and not clients[0].closed
    assert await within(draining) == 2
    assert 0.45 < time.monotonic() - began < 5
    assert len(cancelled) == 2
    for client in clients[:2]:
        await within(client.wait_closed())
        reason = client.close_reason
        assert isinstance(reason, ClosedByPeer)
        assert (reason.code, reason.is_application) == (1, True)
        assert b"shutting down" in reason.reason
    assert clients[2].close_reason.code == 0
    assert server.sessions == []


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("-inf")])
async def test_shutdown_with_a_bad_timeout(certificate: Certificate, timeout: float) -> None:
    async with await started(certificate, until_closed) as server:
        with pytest.raises(ValueError, match="drain_timeout"):
            await server.shutdown(timeout)
        assert server.is_serving()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the server logged about its end."""
    ends = ("shutting down", "cutting off")
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith(ends)]


@pytest.mark.parametrize("way", ["context", "await", "serve_forever", "Endpoint"])
async def test_the_drain_timeout_can_be_chosen(
    certificate: Certificate, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Within it a session may end by itself; behind it, it is cut off: 0 says so at once."""
    caplog.set_level(logging.INFO, "rawquic")

    async def end_in(server: Server) -> RawQuicSession:
        client = await connected(certificate, server)
        await until(lambda: server.sessions)
        return client

    options: dict[str, Any] = {**certificate.server, "drain_timeout": 0.0}
    if way == "context":
        async with rawquic.serve(wait_for_ever, "127.0.0.1", 0, **options) as server:
            client = await end_in(server)
    elif way == "await":
        async with await rawquic.serve(wait_for_ever, "127.0.0.1", 0, **options) as server:
            client = await end_in(server)
    elif way == "serve_forever":
        server = await rawquic.serve(wait_for_ever, "127.0.0.1", 0, **options)
        forever = await waiting(server.serve_forever())
        client = await end_in(server)
        forever.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(forever, 5)
    else:
        options = {"handler": wait_for_ever, **options}
        async with rawquic.Endpoint(
            ("127.0.0.1", 0), server=rawquic.ServerOptions(**options)
        ) as endpoint:
            assert endpoint.server is not None
            client = await end_in(endpoint.server)
    await within(client.wait_closed())
    assert isinstance(client.close_reason, ClosedByPeer) and client.close_reason.code == 1
    assert told(caplog) == ["cutting off 1 sessions"]


async def test_a_shutdown_without_sessions_says_nothing(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawquic")
    async with await started(certificate, until_closed) as server:
        client = await connected(certificate, server)
        await until(lambda: server.sessions)
        client.close()
        await until(lambda: not server.sessions)
    assert told(caplog) == []


async def test_a_session_that_ends_in_time_is_not_cut_off(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    server = await started(certificate, until_closed)
    client = await connected(certificate, server)
    await until(lambda: server.sessions)
    draining = await waiting(server.shutdown(20))
    client.close()
    assert await within(draining) == 0
    assert told(caplog) == ["shutting down: waiting for 1 sessions, at most 20 s"]


@pytest.mark.parametrize("way", ["serve_forever", "context", "serve_with_shutdown"])
async def test_ctrl_c_says_what_it_waits_for(
    certificate: Certificate, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By default, without a logger that was set up: it looked like a program that hangs."""
    sessions: list[RawQuicSession] = []

    async def handle(session: RawQuicSession) -> None:
        sessions.append(session)
        await session.wait_closed()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
        options: dict[str, Any] = {**certificate.server, "sock": sock, "drain_timeout": 20}

        async def serve() -> None:
            if way == "serve_with_shutdown":
                never = asyncio.get_running_loop().create_future()
                await rawquic.serve_with_shutdown(handle, "", 0, never, **options)
            else:
                async with rawquic.serve(handle, **options) as server:
                    await (server.serve_forever() if way == "serve_forever" else until_ended())

        async def until_ended() -> None:
            await asyncio.get_running_loop().create_future()

        serving = asyncio.ensure_future(serve())
        client = await within(rawquic.connect(*address, **certificate.client))
        await until(lambda: sessions)
        serving.cancel()
        await until(lambda: told(caplog))
        client.close()
        await within(asyncio.wait([serving]))
    (line,) = told(caplog)
    assert line.startswith("shutting down: waiting for 1 sessions, at most 20 s; another Ctrl-C")


async def test_leaving_the_context_is_shutdown(certificate: Certificate) -> None:
    released = asyncio.Event()

    async def work(session: RawQuicSession) -> None:
        await released.wait()
        session.send_datagram(b"still here")
        await session.connection.ping()

    async with await started(certificate, work) as server:
        client = await connected(certificate, server)
        await until(lambda: server.sessions)
        asyncio.get_running_loop().call_later(0.1, released.set)
    assert await within(client.read_datagram()) == b"still here"
    await within(client.wait_closed())
    assert client.close_reason.code == 0


async def test_close_is_now(certificate: Certificate) -> None:
    server = await started(certificate, wait_for_ever)
    clients = [await connected(certificate, server) for _ in range(2)]
    await until(lambda: len(server.sessions) == 2)
    sessions = server.sessions
    server.close()
    server.close()
    assert not server.is_serving()
    for session in sessions:
        assert isinstance(session.close_reason, ClosedLocally)
    await within(server.wait_closed())
    for client in clients:
        await within(client.wait_closed())
        assert isinstance(client.close_reason, ClosedByPeer) and client.close_reason.code == 1
    assert server.sessions == []


async def test_close_right_after_a_session_came(certificate: Certificate) -> None:
    """Its handler's task is cancelled before it has run at all."""
    handled: list[RawQuicSession] = []

    async def handle(session: RawQuicSession) -> None:
        handled.append(session)

    server = await started(certificate, handle)
    on_connected = server._acceptor._on_connected

    def close_at_once(link: Any) -> None:
        on_connected(link)
        server.close()

    server._acceptor._on_connected = close_at_once
    connecting = asyncio.ensure_future(connected(certificate, server))
    await within(server.wait_closed())
    assert handled == [] and server.sessions == []
    with pytest.raises(rawquic.SessionError):
        client = await within(connecting)
        await within(client.accept_bi())


async def test_close_hastens_a_shutdown(certificate: Certificate) -> None:
    server = await started(certificate, wait_for_ever)
    clients = [await connected(certificate, server) for _ in range(2)]
    await until(lambda: len(server.sessions) == 2)
    draining = await waiting(server.shutdown(1000))
    clients[0].close()
    await within(clients[0].wait_closed())
    server.close()
    assert await within(draining) == 2  # both handlers were cancelled
    await within(clients[1].wait_closed())


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
@pytest.mark.parametrize("first", ["shutdown", "handlers"])
async def test_the_end_of_the_loop_closes_with_1(
    certificate: Certificate, first: str, begun: bool
) -> None:
    """A second Ctrl-C: asyncio.run cancels all tasks, in no certain order."""
    server = await started(certificate, wait_for_ever)
    clients = [await connected(certificate, server) for _ in range(3)]
    await until(lambda: len(server.sessions) == 3)
    shutdown = server._start_drain(1000)
    if begun:
        await waiting(server.wait_closed())
    tasks = [shutdown, *server._sessions.values()]
    for task in tasks if first == "shutdown" else reversed(tasks):
        task.cancel()
    for client in clients:
        await within(client.wait_closed())
        assert isinstance(client.close_reason, ClosedByPeer) and client.close_reason.code == 1
    await within(server.wait_closed())


@pytest.mark.parametrize("draining", [False, True])
async def test_a_handler_is_cancelled_once(
    certificate: Certificate, draining: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What it does to clean up is not interrupted."""
    caplog.set_level(logging.INFO, "rawquic")
    cleaned_up: list[bool] = []
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def tidy(session: RawQuicSession) -> None:
        try:
            has_begun.set()
            await asyncio.get_running_loop().create_future()
        finally:
            await may_end.wait()
            cleaned_up.append(True)

    server = await started(certificate, tidy)
    client = await connected(certificate, server)
    await within(has_begun.wait())
    shutdown = asyncio.ensure_future(server.shutdown(0)) if draining else None
    if shutdown is not None:
        await until(lambda: "cutting off 1 sessions" in told(caplog))
    server.close()
    await within(client.wait_closed())
    server.close()
    await within(asyncio.to_thread(int))  # turns of the loop, in which it was cancelled again
    may_end.set()
    await within(server.wait_closed())
    assert cleaned_up == [True]
    assert told(caplog).count("cutting off 1 sessions") == 1
    if shutdown is not None:
        assert await within(shutdown) == 1


async def test_shutdown_awaited_in_a_handler_ends(certificate: Certificate) -> None:
    server: Server | None = None
    outcome: list[BaseException] = []

    async def end_it(session: RawQuicSession) -> None:
        assert server is not None
        try:
            await server.shutdown(0.05)
        except asyncio.CancelledError as error:
            outcome.append(error)
            raise

    server = await started(certificate, end_it)
    client = await connected(certificate, server)
    await within(server.wait_closed())
    await within(client.wait_closed())
    assert len(outcome) == 1 and client.close_reason.code == 1


async def test_a_handler_that_ignores_cancellation_for_a_while(certificate: Certificate) -> None:
    finished = []

    async def tidy(session: RawQuicSession) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0.05)
            finished.append(session.closed)

    server = await started(certificate, tidy)
    client = await connected(certificate, server)
    await until(lambda: server.sessions)
    assert await within(server.shutdown(0)) == 1
    assert finished == [True]
    await within(client.wait_closed())


async def test_serve_with_shutdown(certificate: Certificate) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    signal = asyncio.Event()
    serving = asyncio.ensure_future(
        rawquic.serve_with_shutdown(
            wait_for_ever, "127.0.0.1", port, signal.wait(), drain_timeout=0.2, **certificate.server
        )
    )
    clients = [
        await within(rawquic.connect("127.0.0.1", port, **certificate.client)) for _ in range(2)
    ]
    assert not serving.done()
    signal.set()
    assert await within(serving) == 2
    for client in clients:
        await within(client.wait_closed())


async def test_serve_with_shutdown_that_cannot_start(certificate: Certificate) -> None:
    signal = asyncio.get_running_loop().create_future()
    with pytest.raises(OSError, match="no-such-host"):
        await rawquic.serve_with_shutdown(
            echo, "no-such-host.invalid", 0, signal, **certificate.server
        )


async def test_serve_with_shutdown_that_cannot_start_drops_its_signal(
    certificate: Certificate,
) -> None:
    signal = asyncio.sleep(0)
    with pytest.raises(ConfigError, match="drain_timeout=-1"):
        await rawquic.serve_with_shutdown(
            echo, "127.0.0.1", 0, signal, drain_timeout=-1, **certificate.server
        )
    with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
        await signal  # closed: Python does not warn that nobody awaited it


async def test_a_signal_that_cannot_be_awaited(certificate: Certificate) -> None:
    with pytest.raises(TypeError, match=r"signal must be an awaitable.*not Event"):
        await rawquic.serve_with_shutdown(
            echo, "127.0.0.1", 0, asyncio.Event(), **certificate.server
        )  # type: ignore[arg-type]


async def test_serve_with_shutdown_whose_signal_fails(certificate: Certificate) -> None:
    async def fail() -> None:
        raise KeyError("of the signal")

    with pytest.raises(KeyError):
        await within(
            rawquic.serve_with_shutdown(echo, "127.0.0.1", 0, fail(), **certificate.server)
        )


async def test_a_session_can_outlast_its_handler_no_longer(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, server):
        assert server.sessions == [peer]
        client.close()
        await within(peer.wait_closed())
