"""rawquic.endpoint over sockets: paths, resets, closes, versions, other loops, threads, forks."""

import asyncio
import contextlib
import errno
import gc
import json
import os
import secrets
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from loopback import Certificate, Relay, echo, error_of, pair, until, waiting, within
from pair import stock

import rawquic
from rawquic import ClosedByPeer, Config, IdleTimeout, StatelessReset
from rawquic.backend import Turn
from rawquic.endpoint.deadlines import AT_ONCE
from rawquic.endpoint.io import ReaderIO, TransportIO

pytestmark = pytest.mark.timeout(30)


# -- paths -----------------------------------------------------------------------------------------


async def test_a_client_that_moves(certificate: Certificate) -> None:
    """RFC 9000 §9.3: a NAT gave it another port; the streams go on."""
    relay = Relay()
    async with pair(certificate, relay=relay) as (client, peer, _):
        before = relay.far_address
        assert peer.remote_address == before
        send, recv = await client.open_bi()
        await send.write(b"before")
        their_send, their_recv = await within(peer.accept_bi())
        assert await within(their_recv.readexactly(6)) == b"before"
        await relay.rebind()
        assert relay.far_address != before
        await send.write(b"after")
        assert await within(their_recv.readexactly(5)) == b"after"
        await until(lambda: peer.remote_address == relay.far_address)
        await their_send.write(bytes(100_000))
        assert len(await within(recv.readexactly(100_000))) == 100_000
        await within(peer.connection.ping())
        assert not client.closed and not peer.closed


async def test_a_server_that_does_not_follow(certificate: Certificate) -> None:
    relay = Relay()
    config = Config(allow_migration=False, max_idle_timeout=0.5)
    async with pair(certificate, relay=relay, server_config=config) as (client, peer, _):
        before = peer.remote_address
        await within(client.connection.ping())
        await relay.rebind()
        client.send_datagram(b"from elsewhere")
        await within(peer.wait_closed())
        assert peer.remote_address == before
        assert type(peer.close_reason) is IdleTimeout
        assert type(await error_of(peer.read_datagram())) is IdleTimeout


async def test_what_is_not_quic_is_dropped(certificate: Certificate) -> None:
    relay = Relay()
    async with pair(certificate, relay=relay) as (client, peer, server):
        junk = [b"", b"\0", b"\x40", b"\xc0", b"\xff" * 1200, secrets.token_bytes(1200)]
        junk += [bytes([first]) + secrets.token_bytes(50) for first in range(0, 256, 5)]
        # And copies of real packets that were changed or cut on the way.
        for packet in relay.to_server[:5]:
            junk += [packet[: len(packet) // 2], packet[:-1] + bytes([packet[-1] ^ 1]), packet]
        for data in junk:
            relay.inject_to_server(data)
            relay.inject_to_client(data)
        client.send_datagram(b"still here")
        assert await within(peer.read_datagram()) == b"still here"
        assert server.stats().packets_unroutable > 0
        assert not client.closed and not peer.closed


# -- version negotiation ---------------------------------------------------------------------------


def long_header(version: int, size: int = 1200, source: bytes = b"source") -> bytes:
    destination = b"destined"
    head = b"\xc0" + version.to_bytes(4, "big")
    head += bytes([len(destination)]) + destination + bytes([len(source)]) + source
    return head + bytes(size - len(head))


async def answers(server: rawquic.Server, *packets: bytes) -> list[bytes]:
    """What the server sends in return for `packets` and one more, which is always answered."""
    loop = asyncio.get_running_loop()
    got: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        for packet in (*packets, long_header(0x5A5A5A5A, source=b"the last")):
            sock.sendto(packet, server.local_address)
        while not (got and b"the last" in got[-1]):
            got.append(await within(loop.sock_recv(sock, 2000)))
    return got


async def test_version_negotiation(certificate: Certificate) -> None:
    async with rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server:
        (answer,) = await answers(server)
        header = pull_quic_header(Buffer(data=answer))
        assert header.packet_type is QuicPacketType.VERSION_NEGOTIATION
        assert (header.destination_cid, header.source_cid) == (b"the last", b"destined")
        assert header.supported_versions == [1, 0x6B3343CF]
        assert len(answer) < 1200


async def test_what_gets_no_version_negotiation(certificate: Certificate) -> None:
    """RFC 9000 §6.1: not what is smaller than 1,200 bytes, not a Version Negotiation itself."""
    async with rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server:
        for packet in (long_header(0x5A5A5A5A, 1199), long_header(0), b"\xc0\x5a\x5a\x5a\x5a"):
            assert len(await answers(server, packet)) == 1  # to the last one, which is always


async def test_version_2(certificate: Certificate) -> None:
    """RFC 9369."""
    for versions in ((2,), (2, 1)):
        async with pair(certificate, config=Config(versions=versions)) as (client, peer, _):
            client.send_datagram(b"x")
            assert await within(peer.read_datagram()) == b"x"


async def test_no_version_in_common(certificate: Certificate) -> None:
    async with rawquic.serve(
        echo, "127.0.0.1", 0, config=Config(versions=(1,)), **certificate.server
    ) as server:
        error = await error_of(
            rawquic.connect(
                *server.local_address, config=Config(versions=(2,)), **certificate.client
            )
        )
        assert type(error) is rawquic.HandshakeFailed
        assert "version" in str(error)


# -- stateless reset -------------------------------------------------------------------------------


async def restarted(
    certificate: Certificate,
    relay: Relay,
    key: bytes | None,
    other_key: bytes | None,
    config: Config | None = None,
) -> tuple[rawquic.RawQuicSession, rawquic.Server, rawquic.Server]:
    """A session whose server is gone without a word, and another server in its place."""
    first = await rawquic.serve(
        echo, "127.0.0.1", 0, config=Config(stateless_reset_key=key), **certificate.server
    )
    await relay.start(first.local_address)
    client = await within(rawquic.connect(*relay.address, config=config, **certificate.client))
    await within(client.connection.ping())
    second = await rawquic.serve(
        echo, "127.0.0.1", 0, config=Config(stateless_reset_key=other_key), **certificate.server
    )
    relay._server = second.local_address
    return client, first, second


async def end(*servers: rawquic.Server) -> None:
    for server in servers:
        server.close()
        await within(server.wait_closed())


async def test_a_restarted_server_resets_old_sessions(certificate: Certificate) -> None:
    """RFC 9000 §10.3: with the same key its token is the same."""
    relay, key = Relay(), secrets.token_bytes(32)
    client, first, second = await restarted(certificate, relay, key, key)
    send, _ = await client.open_bi()
    reading = await waiting(client.read_datagram())
    await send.write(bytes(2000))
    error = await error_of(reading)
    assert type(error) is StatelessReset
    assert isinstance(error, ConnectionError)
    assert type(client.close_reason) is StatelessReset
    assert second.stats().resets_sent > 0
    # Smaller than what it answers, or two servers could go on for ever (§10.3.3).
    assert len(relay.to_client[-1]) < 1000
    await end(first, second)
    await within(client.wait_closed())
    relay.close()


@pytest.mark.parametrize("what", ["keep-alive", "ping", "request", "datagram"])
async def test_the_smallest_packets_draw_a_reset(certificate: Certificate, what: str) -> None:
    """RFC 9000 §10.3.3: up to 43 bytes, with one that is a byte shorter."""
    relay, key = Relay(), secrets.token_bytes(32)
    config = Config(keep_alive_interval=0.1 if what == "keep-alive" else None)
    client, first, second = await restarted(certificate, relay, key, key, config)
    before = len(relay.to_server)
    relay.drop = lambda data, to_server: to_server and len(data) > 43
    closed = await waiting(client.wait_closed())
    if what == "ping":
        closed.cancel()
        closed = await waiting(client.connection.ping())
    elif what == "request":
        send, _ = await client.open_bi()
        await send.write(b"x")
        send.finish()
    elif what == "datagram":
        client.send_datagram(b"x")
    await within(asyncio.wait([closed]))
    assert type(client.close_reason) is StatelessReset
    (*_, trigger), answer = relay.to_server[before:], relay.to_client[-1]
    assert 22 <= len(trigger) <= 43
    assert len(answer) == len(trigger) - 1
    await end(first, second)
    relay.close()


@pytest.mark.parametrize(
    ("trigger", "reset"), [(22, 21), (29, 28), (30, 29), (43, 42), (44, 42), (1200, 42)]
)
async def test_resets_of_all_sizes_are_recognised(
    certificate: Certificate, trigger: int, reset: int
) -> None:
    """Smaller ones than any packet can be, too: 21 bytes is the least (RFC 9000 §10.3)."""
    relay, key = Relay(), secrets.token_bytes(32)
    client, first, second = await restarted(certificate, relay, key, key)
    cid = relay.to_server[-1][1:9]
    relay.inject_to_server(b"\x40" + cid + bytes(trigger - 9))
    await within(client.wait_closed())
    assert type(client.close_reason) is StatelessReset
    assert len(relay.to_client[-1]) == reset
    await end(first, second)
    relay.close()


async def test_a_reset_with_another_key_is_ignored(certificate: Certificate) -> None:
    relay = Relay()
    client, first, second = await restarted(certificate, relay, None, None)
    send, _ = await client.open_bi()
    await send.write(bytes(2000))
    await until(lambda: second.stats().resets_sent > 0)
    relay._server = first.local_address  # it was there all along
    await within(client.connection.ping())
    assert not client.closed
    client.close()
    await within(client.wait_closed())
    await end(first, second)
    relay.close()


async def test_resets_are_limited(certificate: Certificate) -> None:
    """By size (RFC 9000 §10.3.3: never longer than what it answers) and by rate."""
    async with rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            for _ in range(20):
                sock.sendto(b"\x40" + secrets.token_bytes(20), server.local_address)
            await until(lambda: server.stats().packets_unroutable == 20)
            assert server.stats().resets_sent == 0
            for _ in range(300):
                sock.sendto(b"\x40" + secrets.token_bytes(60), server.local_address)
            await until(lambda: server.stats().packets_unroutable == 320)
            assert 1 <= server.stats().resets_sent < 150
            loop = asyncio.get_running_loop()
            for _ in range(server.stats().resets_sent):
                assert 21 <= len(await within(loop.sock_recv(sock, 2000))) < 61


# -- closes that get lost --------------------------------------------------------------------------


def passed(relay: Relay, near: rawquic.RawQuicSession, to_server: bool) -> bool:
    """Whether all that this end has sent has come through the relay."""
    carried = relay.to_server if to_server else relay.to_client
    return len(carried) == near.connection.stats().udp_datagrams_sent


@pytest.mark.parametrize("closer", ["client", "server"])
async def test_a_lost_close_is_repeated(certificate: Certificate, closer: str) -> None:
    """RFC 9000 §10.2.1. The packet is the same, so that no packet number is used twice."""
    relay = Relay()
    async with (
        rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server,
        rawquic.Endpoint(("127.0.0.1", 0)) as endpoint,
    ):
        await relay.start(server.local_address)
        client = await within(endpoint.connect(*relay.address, **certificate.client))
        await until(lambda: server.sessions)
        (peer,) = server.sessions
        near, far = (client, peer) if closer == "client" else (peer, client)
        from_near = closer == "client"
        # Nothing else is on its way, so that the next datagram that is lost is the close.
        for each in (client, peer, client):
            await within(each.connection.ping())
        await until(lambda: passed(relay, near, from_near))
        relay.drop = lambda data, to_server: to_server == from_near
        near.close(9, b"said more than once")
        await until(lambda: relay.lost)
        first = relay.lost[-1]
        assert not far.closed
        relay.drop = lambda data, to_server: False
        seen = relay.to_server if from_near else relay.to_client
        far.send_datagram(b"is anybody there?")
        await within(far.wait_closed())
        assert isinstance(far.close_reason, ClosedByPeer)
        assert (far.close_reason.code, far.close_reason.reason) == (9, b"said more than once")
        assert first in seen
    relay.close()


async def test_a_close_is_repeated_ever_more_rarely(certificate: Certificate) -> None:
    relay = Relay()
    async with pair(certificate, relay=relay) as (client, peer, _):
        await within(client.connection.ping())
        await within(peer.connection.ping())
        await until(lambda: passed(relay, peer, False))
        packet = relay.to_server[-1]  # a short header: it goes to the connection
        relay.drop = lambda data, to_server: True
        peer.close(9)
        await until(lambda: relay.lost)
        relay.lost.clear()
        for count in range(1, 17):
            relay.inject_to_server(packet)
            expected = count.bit_length()
            await until(lambda n=expected: len(relay.lost) >= n)
        assert len(relay.lost) == 5


async def test_what_is_left_of_a_connection_knows_the_limit_of_its_address(
    certificate: Certificate,
) -> None:
    """RFC 9000 §10.2.1."""
    async with pair(certificate) as (_client, peer, _):
        link = peer._link  # type: ignore[attr-defined]
        path = link.connection._network_paths[0]
        path.is_validated, path.bytes_received, path.bytes_sent = False, 100, 40
        peer.close(9)
        link.endpoint.turn.flush()  # before anything else comes
        (left,) = link.endpoint._lingering
        assert left.address == path.addr
        assert left.room == 300 - 40 - sum(map(len, left.packets))


# -- handshakes ------------------------------------------------------------------------------------


async def test_the_answer_to_a_first_packet_leaves_in_the_same_turn(
    certificate: Certificate,
) -> None:
    """No task has anything to add to it."""
    async with rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server:
        endpoint, client = server._endpoint, stock(True)
        client.connect(server.local_address, 0.0)
        (data, _), *_ = client.datagrams_to_send(0.0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            endpoint._on_batch([(data, sock.getsockname(), None, 0)], ())
            assert endpoint.socket_stats()["send_datagrams"] >= 1


# -- loops without add_reader ----------------------------------------------------------------------


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """As Windows' proactor loop: no readiness calls for sockets of the application's."""

    def add_reader(self, *args: Any) -> None:
        raise NotImplementedError

    add_writer = remove_reader = remove_writer = add_reader


def run_without_readers(main: Any) -> None:
    with asyncio.Runner(loop_factory=LoopWithoutReaders) as runner:
        runner.run(within(main, 20))


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_a_loop_without_readers(certificate: Certificate, host: str) -> None:
    async def main() -> None:
        async with rawquic.serve(echo, host, 0, **certificate.server) as server:
            port = server.local_address[1]
            async with rawquic.connect("127.0.0.1", port, **certificate.client) as session:
                assert isinstance(session._link.endpoint._io, TransportIO)
                data = secrets.token_bytes(500_000)
                send, recv = await session.open_bi()
                writing = asyncio.ensure_future(send.write(data))
                assert await recv.readexactly(len(data)) == data
                await writing
                session.send_datagram(b"d")
                assert await session.read_datagram() == b"d"
                stats = session.connection.stats()
                assert stats.socket_send_calls > 0 < stats.socket_receive_calls
                assert await session.connection.ping() < 5
        assert asyncio.all_tasks() == {asyncio.current_task()}
        # The sockets are closed, not only about to be.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", port))

    run_without_readers(main())


def test_a_loop_without_readers_tells_of_errors_in_a_turn_of_its_own() -> None:
    """sendto() itself may find one, in the middle of a flush, while a task runs."""

    async def main() -> None:
        told: list[Any] = []
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        io = TransportIO(Turn(asyncio.get_running_loop(), lambda *_: None), sock, Config())
        await io.start(lambda batch, planes: told.append(io.take_errors()))
        for _ in range(2):
            io.error_received(OSError(errno.ECONNREFUSED, "refused"))
        assert not told and io.has_notes()
        await asyncio.sleep(0)
        assert told == [[(errno.ECONNREFUSED, None)] * 2]
        io.close()
        await asyncio.sleep(0)

    run_without_readers(main())


def test_a_loop_without_readers_and_nobody_there(certificate: Certificate) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
            hole.bind(("127.0.0.1", 0))
            error = await error_of(
                rawquic.connect(*hole.getsockname(), timeout=0.3, **certificate.client)
            )
        assert type(error) is rawquic.HandshakeTimeout
        with pytest.raises(OSError, match="cannot bind"):
            async with rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server:
                await rawquic.serve(
                    echo, "127.0.0.1", server.local_address[1], **certificate.server
                )

    run_without_readers(main())


async def test_loops_with_readers_use_them(certificate: Certificate) -> None:
    async with pair(certificate) as (client, _, _):
        assert isinstance(client._link.endpoint._io, ReaderIO)


# -- threads and forks -----------------------------------------------------------------------------

Call = Callable[[], Any]


def calls_of(
    session: rawquic.RawQuicSession,
    server: rawquic.Server,
    send: rawquic.SendStream,
    recv: rawquic.RecvStream,
) -> dict[str, Call]:
    connection = session.connection
    return {
        "open_bi": session.open_bi,
        "open_uni": session.open_uni,
        "accept_bi": session.accept_bi,
        "accept_uni": session.accept_uni,
        "read_datagram": session.read_datagram,
        "read_datagrams": session.read_datagrams,
        "send_datagram": lambda: session.send_datagram(b"x"),
        "send_datagrams": lambda: session.send_datagrams([b"x"]),
        "send_datagram_wait": lambda: session.send_datagram_wait(b"x"),
        "close": session.close,
        "aclose": session.aclose,
        "wait_closed": session.wait_closed,
        "ping": connection.ping,
        "request_key_update": connection.request_key_update,
        "set_receive_window": lambda: connection.set_receive_window(4096),
        "set_send_window": lambda: connection.set_send_window(4096),
        "set_bidi": lambda: connection.set_max_concurrent_bidi_streams(4),
        "set_uni": lambda: connection.set_max_concurrent_uni_streams(4),
        "write": lambda: send.write(b"x"),
        "finish": send.finish,
        "reset": send.reset,
        "wait_acked": send.wait_acked,
        "stopped": send.stopped,
        "priority": lambda: setattr(send, "priority", 1),
        "read": recv.read,
        "readexactly": lambda: recv.readexactly(1),
        "read_to_end": lambda: recv.read_to_end(1),
        "readinto": lambda: recv.readinto(bytearray(1)),
        "stop": recv.stop,
        "server.close": server.close,
        "server.shutdown": server.shutdown,
    }


def outcomes(calls: dict[str, Call]) -> dict[str, str]:
    """What each call ends with, run without the loop that its objects belong to."""
    found = {}
    for name, call in calls.items():
        try:
            result = call()
            if asyncio.iscoroutine(result):
                with contextlib.closing(result):
                    result.send(None)  # up to its first wait
            found[name] = "no error"
        except BaseException as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


async def test_another_thread(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, server):
        send, recv = await client.open_bi()
        found: dict[str, str] = {}

        def run() -> None:
            found.update(outcomes(calls_of(client, server, send, recv)))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(10)
        for name, outcome in found.items():
            assert outcome.startswith("RuntimeError: rawquic objects belong to"), (name, outcome)
            assert "loop.call_soon_threadsafe" in outcome
            assert "asyncio.run_coroutine_threadsafe" in outcome
        assert len(found) == len(calls_of(client, server, send, recv))
        # And nothing happened by it.
        assert not client.closed and not peer.closed and server.is_serving()
        await send.write(b"x")
        assert send.bytes_written == 1 and send.priority == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
async def test_a_forked_child(certificate: Certificate) -> None:
    """It would repeat packet numbers under the same keys, so all of it is dead there."""
    async with pair(certificate) as (client, peer, server):
        send, recv = await client.open_bi()
        await send.write(b"x")
        await within(client.connection.ping())
        sent = client.connection.stats().socket_send_calls
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                found = outcomes(calls_of(client, server, send, recv))
                found["sent"] = str(client.connection.stats().socket_send_calls - sent)
                os.write(writer, json.dumps(found).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as answer:  # noqa: ASYNC230, PTH123 - the child ends at once
            found = json.loads(answer.read())
        os.waitpid(pid, 0)  # noqa: ASYNC222
        assert found.pop("sent") == "0"
        assert len(found) == len(calls_of(client, server, send, recv))
        for name, outcome in found.items():
            assert outcome.startswith("RuntimeError: this endpoint was inherited through fork()"), (
                name,
                outcome,
            )
        # The parent's session goes on.
        await send.write(b"y")
        _, their_recv = await within(peer.accept_bi())
        assert await within(their_recv.readexactly(2)) == b"xy"


# -- statistics of the socket ----------------------------------------------------------------------


async def test_buffers_that_were_asked_for(certificate: Certificate) -> None:
    small = Config(socket_receive_buffer=65536, socket_send_buffer=65536)
    async with pair(certificate, config=small) as (client, peer, _):
        stats, other = client.connection.stats(), peer.connection.stats()
        assert stats.socket_receive_buffer < other.socket_receive_buffer
        assert stats.socket_send_buffer < other.socket_send_buffer


async def test_a_connection_that_breaks_takes_no_other_with_it(
    certificate: Certificate, caplog: Any
) -> None:
    """An error inside one connection ends that one, with a log entry."""
    async with (
        rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server,
        rawquic.Endpoint(("127.0.0.1", 0)) as endpoint,
    ):
        first, second = [
            await within(endpoint.connect(*server.local_address, **certificate.client))
            for _ in range(2)
        ]

        breaking = pytest.MonkeyPatch()

        def broken(*_: Any) -> Any:
            breaking.undo()
            raise KeyError("of the connection")

        if first._connection.plane is None:
            breaking.setattr(first._connection, "datagrams_to_send", broken)
        else:  # called by the compiled loop, with the first packet in which the peer follows
            await within(first.connection.ping())
            breaking.setattr(first._connection, "next_keys", broken)
            first.connection.request_key_update()
        first.send_datagram(b"x")
        second.send_datagram(b"y")
        assert await within(second.read_datagram()) == b"y"
        await within(first.wait_closed())
        assert "internal error" in str(first.close_reason)
        assert any("broke" in record.getMessage() for record in caplog.records)
        await until(lambda: len(server.sessions) == 1)  # the peer was told (RFC 9000 §11)


async def test_many_connections_that_send_leave_turns_for_reading(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server:
        async with rawquic.Endpoint(("127.0.0.1", 0)) as endpoint:
            target = server.local_address
            sessions = [
                await within(endpoint.connect(*target, **certificate.client))
                for _ in range(AT_ONCE + 3)
            ]
            udp = sessions[0]._link.endpoint
            await until(lambda: not udp.turn.dirty)
            for session in sessions:
                udp.turn.flush_soon(session._link)
            udp.turn.flush()
            assert len(udp.turn.dirty) == 3
            await until(lambda: not udp.turn.dirty)
            # Who is not done after its share comes behind those who have not had theirs.
            first = sessions[0]
            link, connection = first._link, first._connection
            await within(first.connection.ping())
            if connection.plane is None:
                build = connection.datagrams_to_send

                def not_done(now: float) -> Any:
                    udp.turn.flush_soon(link)
                    return build(now)

                monkeypatch.setattr(connection, "datagrams_to_send", not_done)
            else:  # as if it were logged: the compiled loop tells of each packet
                log = Mock(ended=False)
                log.packet_sent = lambda *_: udp.turn.flush_soon(link)
                connection.plane.qlog = log
            first.send_datagram(b"x")
            for session in sessions:
                udp.turn.flush_soon(session._link)
            udp.turn.flush()
            assert list(udp.turn.dirty) == [each._link for each in (*sessions[-3:], first)]
            monkeypatch.undo()
            if connection.plane is not None:
                connection.plane.qlog = None
        # The end of the endpoint tells them all, in one turn (RFC 9000 §10.2).
        await until(lambda: not server.sessions)


async def test_busy_polling_lets_other_tasks_run(certificate: Certificate) -> None:
    """The endpoint polls between turns of the loop, and goes back to sleep."""
    config = Config(busy_poll=0.05)
    async with pair(certificate, config=config, server_config=config) as (client, peer, _):
        send, recv = await within(client.open_bi())
        for number in range(50):
            await send.write(bytes([number]))
            if number == 0:
                their_send, their_recv = await within(peer.accept_bi())
            await their_send.write(await within(their_recv.readexactly(1)))
            assert await within(recv.readexactly(1)) == bytes([number])
        polling = client._link.endpoint._io.busy_poll
        assert polling.active
        await until(lambda: not polling.active)
        await within(client.connection.ping())


async def test_an_ended_connection_is_freed_at_once(certificate: Certificate) -> None:
    """Without the garbage collector, and long before its idle timeout."""
    async with (
        rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as server,
        rawquic.Endpoint(("127.0.0.1", 0)) as endpoint,
    ):
        session = await within(endpoint.connect(*server.local_address, **certificate.client))
        await within(session.connection.ping())
        (peer,) = server.sessions
        ends = [weakref.ref(each._connection) for each in (session, peer)]
        gc.disable()
        try:
            session.close()
            del session, peer
            await until(lambda: not any(end() for end in ends))
        finally:
            gc.enable()


async def test_an_ended_session_is_freed_with_the_streams_accepted_behind_its_end(
    certificate: Certificate,
) -> None:
    accepted: asyncio.Queue[rawquic.RawQuicSession] = asyncio.Queue()

    async def handle(session: rawquic.RawQuicSession) -> None:
        accepted.put_nowait(session)
        await session.wait_closed()

    async with (
        rawquic.serve(handle, "127.0.0.1", 0, **certificate.server) as server,
        rawquic.Endpoint(("127.0.0.1", 0)) as endpoint,
    ):
        session = await within(endpoint.connect(*server.local_address, **certificate.client))
        send, _ = await within(session.open_bi())
        await send.write(b"late")
        await within(session.connection.ping())
        session.close()
        peer = await within(accepted.get())
        await within(peer.wait_closed())
        gone = weakref.ref(peer)
        gc.disable()
        try:
            their_send, their_recv = await within(peer.accept_bi())
            assert await within(their_recv.readexactly(4)) == b"late"
            assert isinstance(await error_of(their_send.write(b"x")), ClosedByPeer)
            del peer, their_send, their_recv
            await until(lambda: not gone())
        finally:
            gc.enable()
