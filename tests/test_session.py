"""rawquic.session: opening and accepting, closing both ways, limits, pings, statistics."""

import asyncio
import dataclasses
import inspect
import logging
import math
import pickle
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cryptography import x509
from loopback import (
    Certificate,
    Pair,
    Relay,
    error_of,
    every_wait,
    pair,
    until,
    waiting,
    within,
)

import rawquic
from rawquic import ClosedByPeer, ClosedLocally, Config, IdleTimeout, SessionError

pytestmark = pytest.mark.timeout(30)

# -- who it is -----------------------------------------------------------------------------------


async def test_both_ends_know_each_other(certificate: Certificate) -> None:
    async with pair(certificate, alpn=["b", "h3"], server_name="localhost") as (client, peer, _):
        assert client.remote_address == peer.local_address
        assert peer.remote_address == client.local_address
        assert client.local_address[0] == "127.0.0.1"
        ours, theirs = client.connection, peer.connection
        assert (ours.side, theirs.side) == ("client", "server")
        assert ours.id == theirs.id and len(bytes.fromhex(ours.id)) >= 8
        assert ours.alpn == theirs.alpn == "h3"
        assert (ours.server_name, theirs.server_name) == ("localhost", None)
        leaf = x509.load_pem_x509_certificate(certificate.cert)
        assert ours.peer_certificates == [leaf]
        assert theirs.peer_certificates == []
        assert 0 < ours.rtt < 5
        assert ours.backend == theirs.backend == rawquic.backend_info()["backend"]
        assert repr(client).startswith("<RawQuicSession client of 127.0.0.1:")
        assert repr(client).endswith("open>")
        client.close()
        assert repr(client).endswith("closed>")


@pytest.fixture
async def pair_of_sessions(certificate: Certificate) -> Any:
    async with pair(certificate) as both:
        yield both


# -- streams ---------------------------------------------------------------------------------------


async def test_stream_ids_follow_the_rfc_and_arrive_in_order(pair_of_sessions: Pair) -> None:
    client, peer, _ = pair_of_sessions
    for opener, accepter, first_bidi, first_uni in ((client, peer, 0, 2), (peer, client, 1, 3)):
        for kind in range(3):
            send, recv = await opener.open_bi()
            assert send.id == recv.id == first_bidi + 4 * kind
            await send.write(b"x")
            one_way = await opener.open_uni()
            assert one_way.id == first_uni + 4 * kind
            await one_way.write(b"y")
        for kind in range(3):
            send, recv = await within(accepter.accept_bi())
            assert send.id == recv.id == first_bidi + 4 * kind
            assert (await within(accepter.accept_uni())).id == first_uni + 4 * kind


async def test_a_later_stream_opens_the_earlier_ones(pair_of_sessions: Pair) -> None:
    """RFC 9000 §2.1: a stream that is used out of order opens all lower ones of its type."""
    client, peer, _ = pair_of_sessions
    opened = [await client.open_bi() for _ in range(3)]
    await opened[2][0].write(b"third")
    accepted = [await within(peer.accept_bi()) for _ in range(3)]
    assert [recv.id for _, recv in accepted] == [0, 4, 8]
    assert await within(accepted[2][1].read()) == b"third"
    await accepted[0][0].write(b"first, answered before it was asked")
    assert (await within(opened[0][1].read())).startswith(b"first")


async def test_both_directions_at_once_on_many_streams(pair_of_sessions: Pair) -> None:
    client, peer, _ = pair_of_sessions

    async def talk(session: rawquic.RawQuicSession, number: int) -> bytes:
        send, recv = await session.open_bi()
        async with send:
            await send.write(bytes([number]) * 5000)
        return await recv.read(-1)

    async def answer(session: rawquic.RawQuicSession) -> None:
        async for send, recv in session.bi_streams():
            async with send:
                await send.write(await recv.read_to_end(10_000))

    answering = [asyncio.ensure_future(answer(each)) for each in (client, peer)]
    got = await within(
        asyncio.gather(*(talk(session, n) for n in range(40) for session in (client, peer)))
    )
    assert got == [bytes([n]) * 5000 for n in range(40) for _ in range(2)]
    client.close()
    await within(asyncio.gather(*answering))


@pytest.mark.parametrize("kind", ["bi", "uni"])
async def test_opening_waits_for_credit(certificate: Certificate, kind: str) -> None:
    limit = Config(max_concurrent_bidi_streams=2, max_concurrent_uni_streams=2)
    async with pair(certificate, server_config=limit) as (client, peer, _):
        opening: Callable[[], Awaitable[Any]] = getattr(client, f"open_{kind}")

        def half(stream: Any) -> rawquic.SendStream:
            return stream[0] if isinstance(stream, tuple) else stream

        first, _second = half(await opening()), half(await opening())
        third, fourth = await waiting(opening()), await waiting(opening())
        await client.connection.ping()
        assert not third.done() and not fourth.done()

        await first.write(b"done")
        first.finish()
        if kind == "bi":
            send, recv = await within(peer.accept_bi())
            send.finish()
        else:
            recv = await within(peer.accept_uni())
        assert await within(recv.read(-1)) == b"done"
        assert half(await within(third)).id == first.id + 8
        await client.connection.ping()
        assert not fourth.done()

        # The other way to get credit: the peer raises its limit.
        set_limit = getattr(
            peer.connection, f"set_max_concurrent_{kind}di_streams".replace("unidi", "uni")
        )
        set_limit(3)
        assert half(await within(fourth)).id == first.id + 12


async def test_a_lower_stream_limit_is_reached_as_streams_end(certificate: Certificate) -> None:
    limit = Config(max_concurrent_uni_streams=3)
    async with pair(certificate, server_config=limit) as (client, peer, _):
        peer.connection.set_max_concurrent_uni_streams(1)
        streams = [await within(client.open_uni()) for _ in range(3)]  # what was given stays given
        fourth = await waiting(client.open_uni())
        for number, stream in enumerate(streams):
            assert not fourth.done(), number
            stream.finish()
            assert await within((await within(peer.accept_uni())).read()) == b""
            await client.connection.ping()
            await peer.connection.ping()
        assert (await within(fourth)).id == 14
        fifth = await waiting(client.open_uni())
        await client.connection.ping()
        assert not fifth.done()
        fifth.cancel()


async def test_no_stream_is_lost_to_a_cancelled_accept_or_open(certificate: Certificate) -> None:
    limit = Config(max_concurrent_uni_streams=1)
    async with pair(certificate, server_config=limit) as (client, peer, _):
        accept = await waiting(peer.accept_uni())
        accept.cancel()
        only = await client.open_uni()
        opening = await waiting(client.open_uni())
        opening.cancel()
        await only.write(b"1")
        only.finish()
        recv = await within(peer.accept_uni())
        assert await within(recv.read(-1)) == b"1"
        assert (await within(client.open_uni())).id == only.id + 4


Halves = tuple[rawquic.SendStream, rawquic.RecvStream]


async def bidirectional(
    client: rawquic.RawQuicSession, peer: rawquic.RawQuicSession
) -> tuple[Halves, Halves]:
    """Both ends of a stream that `client` opened, and whose first byte `peer` has read."""
    ours = await client.open_bi()
    await ours[0].write(b"0")
    theirs = await within(peer.accept_bi())
    assert await within(theirs[1].read()) == b"0"
    return ours, theirs


async def test_who_waits_goes_on_in_the_order_of_what_came(pair_of_sessions: Pair) -> None:
    client, peer, _ = pair_of_sessions
    (send, recv), (their_send, their_recv) = await bidirectional(client, peer)
    order: list[str] = []
    waits = {
        "stream": peer.accept_uni(),
        "data": their_recv.read(),
        "datagram": peer.read_datagram(),
        "stop": their_send.stopped(),
    }
    tasks = [await waiting(wait) for wait in waits.values()]
    for name, task in zip(waits, tasks, strict=True):
        task.add_done_callback(lambda _, name=name: order.append(name))
    recv.stop()
    client._link.endpoint.flush_now(client._link)
    client.send_datagram(b"2")
    client._link.endpoint.flush_now(client._link)
    await send.write(b"3")
    client._link.endpoint.flush_now(client._link)
    await (await client.open_uni()).write(b"4")
    await within(asyncio.gather(*tasks))
    assert order == ["stop", "datagram", "data", "stream"]


# -- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "heard"),
    [
        (0, b"", b""),
        (7, b"enough", b"enough"),
        (7, "genug, häh?", "genug, häh?".encode()),
        (2**62 - 1, b"\xff\xfe not UTF-8", b"\xff\xfe not UTF-8"),
        (1, b"r" * 2000, b"r" * 900),
    ],
)
@pytest.mark.parametrize("closer", ["client", "server"])
async def test_close_codes_and_reasons(
    certificate: Certificate, code: int, reason: bytes | str, heard: bytes, closer: str
) -> None:
    async with pair(certificate) as (client, peer, _):
        near, far = (client, peer) if closer == "client" else (peer, client)
        assert not near.closed and near.close_reason is None
        near.close(code, reason)
        assert near.closed
        ours = near.close_reason
        assert isinstance(ours, ClosedLocally)
        assert ours.code == code
        assert ours.reason == (reason.encode() if isinstance(reason, str) else reason)
        await within(far.wait_closed())
        theirs = far.close_reason
        assert isinstance(theirs, ClosedByPeer)
        assert (theirs.code, theirs.reason, theirs.is_application) == (code, heard, True)
        assert theirs.errno is None and str(code) in str(theirs)
        near.close(99)  # the first one counts
        assert near.close_reason is ours
        far.close(99)
        assert far.close_reason is theirs


@pytest.mark.parametrize("code", [-1, 2**62, "1", 1.0, None])
async def test_a_close_code_out_of_range_is_a_value_error(
    pair_of_sessions: Pair, code: Any
) -> None:
    client = pair_of_sessions.client
    with pytest.raises(ValueError, match="2\\^62-1"):
        client.close(code)
    with pytest.raises(ValueError, match="2\\^62-1"):
        await client.aclose(code)
    assert not client.closed


async def test_a_reason_that_is_not_bytes_is_a_type_error(pair_of_sessions: Pair) -> None:
    client = pair_of_sessions.client
    for reason in (5, None, [1]):
        with pytest.raises(TypeError, match=f"not {type(reason).__name__}"):
            client.close(0, reason)  # type: ignore[arg-type]
    assert not client.closed


QUIET = {"wait_closed"}
QUIET_AT_CODE_0 = {"bi_streams", "uni_streams", "datagrams"}


@pytest.mark.parametrize("code", [0, 7])
@pytest.mark.parametrize("closer", ["near", "far"])
async def test_a_close_wakes_every_call_that_waits(
    certificate: Certificate, closer: str, code: int
) -> None:
    async with pair(certificate) as (client, peer, _):
        waits = await every_wait(client)
        (client if closer == "near" else peer).close(code, b"why")
        _, late = await asyncio.wait(waits.values(), timeout=5)
        assert not late, [name for name, task in waits.items() if task in late]
        kind = ClosedLocally if closer == "near" else ClosedByPeer
        for name, task in waits.items():
            error = task.exception()
            if name in QUIET or (code == 0 and name in QUIET_AT_CODE_0):
                assert error is None, name
            else:
                assert type(error) is kind, (name, error)
                assert (error.code, error.reason) == (code, b"why"), name
        # Each call that comes after the close says the same.
        for call in (
            client.open_bi,
            client.open_uni,
            client.accept_bi,
            client.accept_uni,
            client.read_datagram,
            client.read_datagrams,
            client.connection.ping,
            lambda: client.send_datagram_wait(b"x"),
        ):
            assert type(await error_of(call())) is kind, call
        for now in (
            lambda: client.send_datagram(b"x"),
            lambda: client.send_datagrams([b"x"]),
            client.connection.request_key_update,
            lambda: client.connection.set_receive_window(4096),
            lambda: client.connection.set_send_window(4096),
            lambda: client.connection.set_max_concurrent_bidi_streams(4),
            lambda: client.connection.set_max_concurrent_uni_streams(4),
        ):
            with pytest.raises(kind):
                now()


async def test_what_had_arrived_is_read_before_the_error(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        send, recv = await client.open_bi()
        one_way = await client.open_uni()
        await send.write(b"a" * 100)
        await one_way.write(b"whole")
        one_way.finish()
        client.send_datagrams([b"d1", b"d2"])
        await client.connection.ping()  # all of it has arrived
        client.close(3)
        await within(peer.wait_closed())
        _, recv = await within(peer.accept_bi())
        assert await recv.read(60) == b"a" * 60
        assert await recv.read() == b"a" * 40
        assert type(await error_of(recv.read())) is ClosedByPeer
        assert type(await error_of(recv.read(-1))) is ClosedByPeer
        whole = await within(peer.accept_uni())
        assert await whole.read(-1) == b"whole"
        assert await whole.read() == b""  # this one did end
        assert await peer.read_datagram() == b"d1"
        assert await peer.read_datagrams() == [b"d2"]
        for call in (peer.accept_bi, peer.accept_uni, peer.read_datagram):
            assert type(await error_of(call())) is ClosedByPeer


async def test_a_lost_connection_is_not_the_end_of_a_stream(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        send, _ = await client.open_bi()
        await send.write(b"half")
        _, recv = await within(peer.accept_bi())
        task = await waiting(recv.readexactly(100))
        await client.connection.ping()
        client.close(0)
        error = await error_of(task)
        assert type(error) is ClosedByPeer  # not IncompleteReadError
        assert await recv.read() == b"half"  # and what it had taken is still there


async def test_aclose_waits_for_what_was_finished(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        send = await client.open_uni()
        await send.write(bytes(500_000))
        send.finish()
        reading = asyncio.ensure_future((await within(peer.accept_uni())).read(-1))
        await within(client.aclose(4, "bye"))
        assert await within(reading) == bytes(500_000)
        await within(peer.wait_closed())
        assert (peer.close_reason.code, peer.close_reason.reason) == (4, b"bye")
        assert client.connection.stats().bytes_given_up == 0
        await within(client.aclose())  # again: nothing happens


async def test_aclose_resets_what_was_not_finished(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        send = await client.open_uni()
        await send.write(b"begun")
        recv = await within(peer.accept_uni())
        assert await within(recv.read()) == b"begun"
        reading = await waiting(recv.read())
        await within(client.aclose())
        error = await error_of(reading)
        assert isinstance(error, rawquic.StreamReset), error
        assert error.code == 1


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [r for r in caplog.records if r.name == "rawquic" and r.levelno >= logging.WARNING]
    assert all(r.levelno == logging.WARNING for r in found)
    return [r.getMessage() for r in found]


async def test_aclose_warns_of_what_was_not_finished(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    relay = Relay()
    async with pair(certificate, relay=relay, config=Config(close_timeout=0.1)) as (
        client,
        peer,
        _,
    ):
        done = await client.open_uni()
        await done.write(b"done")
        done.finish()
        await within(done.wait_acked())
        stopped, _ = await client.open_bi()
        await stopped.write(b"x")
        (await within(peer.accept_bi()))[1].stop(4)
        await within(stopped.stopped())
        relay.drop = lambda data, to_server: True
        unfinished = [await client.open_uni() for _ in range(12)]
        for each in unfinished:
            await each.write(b"123")
        late = await client.open_uni()
        await late.write(b"12345")
        late.finish()
        given_up = await client.open_uni()
        given_up.reset(3)
        await within(client.aclose())
        await within(client.aclose())
    (said,) = warnings_in(caplog)
    assert f"session {client.connection.id} with 127.0.0.1:{relay.address[1]}: aclose()" in said
    shown = ", ".join(str(each.id) for each in unfinished[:10])
    assert f"reset unfinished streams (12): {shown}, ...; 36 bytes of them" in said
    assert client.connection.stats().bytes_given_up == 36 + 5


async def test_aclose_has_nothing_to_warn_of(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair(certificate) as (client, peer, _):
        send, recv = await client.open_bi()
        async with send:
            await send.write(b"x")
        their_send, their_recv = await within(peer.accept_bi())
        their_send.finish()
        assert await within(their_recv.read(-1)) == b"x"
        assert await within(recv.read(-1)) == b""
        await within(client.aclose())
        await within(peer.aclose())
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_writer_hears_that_the_session_was_closed(
    certificate: Certificate, cancelled: bool
) -> None:
    relay = Relay()
    async with pair(certificate, relay=relay) as (client, _, _):
        relay.drop = lambda data, to_server: True
        send, _ = await client.open_bi()
        other = await client.open_uni()
        late = await client.open_uni()
        late.finish()
        waits = [
            await waiting(call)
            for call in (send.write(bytes(20_000_000)), send.stopped(), other.wait_acked())
        ]
        if cancelled:
            closing = await waiting(client.aclose(5, "why"))
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
        else:
            await within(client.aclose(5, "why", timeout=0))
        waits += [asyncio.ensure_future(each) for each in (send.write(b"x"), other.write(b"x"))]
        waits.append(asyncio.ensure_future(late.wait_acked()))
        for wait in waits:
            error = await error_of(wait)
            assert isinstance(error, ClosedLocally), error
            assert (error.code, error.reason) == (5, b"why")
        with pytest.raises(ClosedLocally):
            send.finish()
        async with other:
            pass  # there is nothing left to finish


async def test_two_tasks_that_aclose(certificate: Certificate) -> None:
    relay = Relay()
    async with pair(certificate, relay=relay) as (client, _, _):
        relay.drop = lambda data, to_server: not to_server
        send = await client.open_uni()
        await send.write(b"x")
        send.finish()
        first, second = await waiting(client.aclose(3)), await waiting(client.aclose(4))
        relay.drop = lambda data, to_server: False
        await within(first)
        await within(second)
        assert isinstance(client.close_reason, ClosedLocally) and client.close_reason.code == 3
        assert client.connection.stats().bytes_given_up == 0


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"reason": 5}, TypeError, "not int"),
        ({"timeout": -1}, ValueError, "timeout=-1: it must be seconds, 0 or more"),
        ({"timeout": float("nan")}, ValueError, "timeout=nan"),
    ],
)
async def test_arguments_of_aclose_that_cannot_be_used(
    pair_of_sessions: Pair, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """They are errors before anything is given up."""
    client = pair_of_sessions.client
    send = await client.open_uni()
    with pytest.raises(kind, match=message):
        await within(client.aclose(**arguments))
    assert not client.closed
    await within(send.write(b"still open"))
    send.finish()


async def test_the_log_tells_of_each_session(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawquic")
    async with pair(certificate) as (client, peer, _):
        client.close(3, "all\nover")
        client.close()
        await within(peer.wait_closed())
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("session ")]
    for session, side, reason in (
        (client, "client", r"closed locally with code 3: all\nover"),
        (peer, "server", r"closed by the peer with application error code 3: all\nover"),
    ):
        host, port = session.remote_address
        name = f"session {session.connection.id} with {host}:{port}"
        assert told.count(f"{name} opened, {side} side") == 1
        assert told.count(f"{name} closed: {reason}") == 1
    assert len(told) == 4


async def test_aclose_gives_up_in_time_and_counts_it(certificate: Certificate) -> None:
    relay = Relay()
    async with pair(certificate, relay=relay, config=Config(close_timeout=0.3)) as (client, _, _):
        relay.drop = lambda data, to_server: True
        send = await client.open_uni()
        await send.write(bytes(5000))
        send.finish()
        started = time.monotonic()
        await within(client.aclose())
        assert 0.25 < time.monotonic() - started < 2
        assert client.connection.stats().bytes_given_up == 5000
        assert isinstance(client.close_reason, ClosedLocally)


async def test_aclose_takes_a_shorter_timeout(certificate: Certificate) -> None:
    relay = Relay()
    async with pair(certificate, relay=relay) as (client, _, _):
        relay.drop = lambda data, to_server: True
        send = await client.open_uni()
        await send.write(b"never")
        send.finish()
        started = time.monotonic()
        await within(client.aclose(timeout=0.1))
        assert time.monotonic() - started < 2  # Config.close_timeout is 5 seconds
        assert client.closed


async def test_a_cancelled_aclose_still_closes(certificate: Certificate) -> None:
    relay = Relay()
    async with pair(certificate, relay=relay) as (client, _, _):
        relay.drop = lambda data, to_server: True
        send = await client.open_uni()
        send.finish()
        closing = await waiting(client.aclose())
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert isinstance(client.close_reason, ClosedLocally)


async def test_leaving_the_context_closes(certificate: Certificate) -> None:
    for error, code in ((None, 0), (KeyError("of the application"), 1)):
        async with pair(certificate) as (client, peer, _):
            try:
                async with client as same:
                    assert same is client
                    if error is not None:
                        raise error
            except KeyError:
                pass
            assert client.closed
            await within(peer.wait_closed())
            assert isinstance(peer.close_reason, ClosedByPeer)
            assert peer.close_reason.code == code


async def test_streams_of_a_session_end_quietly_or_not(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        await (await client.open_uni()).write(b"1")
        seen = []
        client_closed = False
        async for recv in peer.uni_streams():
            seen.append(recv.id)
            if not client_closed:
                client.close()
                client_closed = True
        assert seen == [2]


async def test_idle_timeout(certificate: Certificate) -> None:
    relay = Relay()
    config = Config(max_idle_timeout=0.4)  # the lower of both counts: the server's is 30 s
    async with pair(certificate, relay=relay, config=config) as (client, peer, _):
        relay.drop = lambda data, to_server: True
        started = time.monotonic()
        waits = [await waiting(each.read_datagram()) for each in (client, peer)]
        for session, wait in zip((client, peer), waits, strict=True):
            error = await error_of(wait)
            assert type(error) is IdleTimeout
            assert isinstance(error, TimeoutError) and isinstance(error, ConnectionError)
            assert type(session.close_reason) is IdleTimeout
        assert 0.2 < time.monotonic() - started < 2


async def test_keep_alive_keeps_an_idle_session(certificate: Certificate) -> None:
    idle = Config(max_idle_timeout=0.5)
    for keep_alive, survives in ((0.1, True), (None, False)):
        config = dataclasses.replace(idle, keep_alive_interval=keep_alive)
        async with pair(certificate, config=config, server_config=idle) as (client, _, _):
            try:
                await within(client.wait_closed(), 1.3)
            except TimeoutError:
                assert survives and not client.closed
            else:
                assert not survives and type(client.close_reason) is IdleTimeout


async def test_each_raise_is_an_exception_of_its_own(pair_of_sessions: Pair) -> None:
    """Tasks that share one exception object would grow each other's tracebacks."""
    client = pair_of_sessions.client
    client.close(3, b"x")
    first, second = await error_of(client.accept_bi()), await error_of(client.accept_bi())
    assert first is not second
    assert first is not client.close_reason
    assert (first.code, first.reason) == (second.code, second.reason) == (3, b"x")


async def test_errors_that_were_raised_pickle(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        send, recv = await client.open_bi()
        await send.write(b"12345")
        their_send, their_recv = await within(peer.accept_bi())
        errors = [await error_of(their_recv.read_to_end(3))]
        their_send.reset(8)
        errors.append(await error_of(recv.read()))
        await within(send.stopped())
        errors.append(await error_of(send.write(b"x")))
        one_way = await client.open_uni()
        one_way.finish()
        errors.append(await error_of(one_way.write(b"x")))
        with pytest.raises(rawquic.DatagramTooLarge) as too_large:
            client.send_datagram(bytes(100_000))
        errors.append(too_large.value)
        client.close(5, b"\xff")
        await within(peer.wait_closed())
        errors += [await error_of(client.accept_bi()), await error_of(peer.accept_bi())]
    kinds = [
        rawquic.StreamTooLong,
        rawquic.StreamReset,
        rawquic.StreamStopped,
        rawquic.StreamFinished,
        rawquic.DatagramTooLarge,
        ClosedLocally,
        ClosedByPeer,
    ]
    assert [type(error) for error in errors] == kinds
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
        if isinstance(error, SessionError):
            assert again.errno is None and len(again.args) == 1


# -- Connection ----------------------------------------------------------------------------------


async def test_ping(pair_of_sessions: Pair) -> None:
    client, peer, _ = pair_of_sessions
    for session in (client, peer):
        assert 0 < await within(session.connection.ping()) < 5
    many = await within(asyncio.gather(*(client.connection.ping() for _ in range(20))))
    assert len(many) == 20 and all(0 < each < 5 for each in many)


async def test_ping_of_a_session_that_ends(certificate: Certificate) -> None:
    relay = Relay()
    async with pair(certificate, relay=relay) as (client, _, _):
        relay.drop = lambda data, to_server: True
        lost = await waiting(client.connection.ping())
        cancelled = await waiting(client.connection.ping())
        cancelled.cancel()
        client.close(2)
        assert type(await error_of(lost)) is ClosedLocally


async def test_key_updates(pair_of_sessions: Pair) -> None:
    client, peer, _ = pair_of_sessions
    (send, recv), (their_send, their_recv) = await bidirectional(client, peer)
    for number, session in enumerate((client, peer, client), 1):
        session.connection.request_key_update()
        await send.write(b"there")
        assert await within(their_recv.readexactly(5)) == b"there"
        await their_send.write(b"and back")
        assert await within(recv.readexactly(8)) == b"and back"
        await within(client.connection.ping())
        await within(peer.connection.ping())
        assert number
    ours, theirs = client.connection.stats(), peer.connection.stats()
    assert ours.key_updates == theirs.peer_key_updates == 2
    assert theirs.key_updates == ours.peer_key_updates == 1
    assert not client.closed and not peer.closed


async def test_windows_are_checked(pair_of_sessions: Pair) -> None:
    connection = pair_of_sessions.client.connection
    for size in (0, 1023, (1 << 30) + 1, -1, 5000.0, None):
        for set_window in (connection.set_receive_window, connection.set_send_window):
            with pytest.raises(ValueError, match="1 KiB to 1 GiB"):
                set_window(size)  # type: ignore[arg-type]
    for count in (-1, 65_537, 1.5, None, True):
        for set_limit in (
            connection.set_max_concurrent_bidi_streams,
            connection.set_max_concurrent_uni_streams,
        ):
            with pytest.raises(ValueError, match="0 to 65,536"):
                set_limit(count)  # type: ignore[arg-type]


async def test_the_send_window_bounds_what_is_written(certificate: Certificate) -> None:
    relay = Relay()
    config = Config(send_window=20_000)
    async with pair(certificate, relay=relay, config=config) as (client, peer, _):
        send = await client.open_uni()
        relay.drop = lambda data, to_server: True  # nothing is acknowledged
        writing = await waiting(send.write(bytes(100_000)))
        assert send.bytes_written == 20_000
        client.connection.set_send_window(50_000)
        await until(lambda: send.bytes_written == 50_000)
        relay.drop = lambda data, to_server: False
        reading = asyncio.ensure_future((await within(peer.accept_uni())).readexactly(100_000))
        await within(writing)
        assert await within(reading) == bytes(100_000)


async def test_the_receive_window_bounds_what_comes(certificate: Certificate) -> None:
    window = Config(receive_window=30_000, stream_receive_window=20_000)
    async with pair(certificate, server_config=window) as (client, peer, _):
        first, second = await client.open_uni(), await client.open_uni()
        writing = [await waiting(each.write(bytes(80_000))) for each in (first, second)]
        one, other = await within(peer.accept_uni()), await within(peer.accept_uni())
        await until(lambda: first.bytes_written + second.bytes_written == 30_000)
        await client.connection.ping()
        assert max(first.bytes_written, second.bytes_written) == 20_000
        peer.connection.set_receive_window(60_000)
        await until(lambda: first.bytes_written == second.bytes_written == 20_000)
        both = asyncio.gather(one.readexactly(80_000), other.readexactly(80_000))
        assert await within(both) == [bytes(80_000)] * 2
        await within(asyncio.gather(*writing))


async def test_statistics(pair_of_sessions: Pair) -> None:
    client, peer, server = pair_of_sessions
    send, recv = await client.open_bi()
    await send.write(bytes(200_000))
    send.finish()
    _, their_recv = await within(peer.accept_bi())
    assert len(await within(their_recv.read(-1))) == 200_000
    await within(send.wait_acked())
    await within(client.connection.ping())
    ours, theirs = client.connection.stats(), peer.connection.stats()
    assert dataclasses.is_dataclass(ours)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ours.rtt = 1.0  # type: ignore[misc]
    assert ours.udp_bytes_sent > 200_000
    assert ours.udp_datagrams_sent > 200_000 // 1500
    assert theirs.udp_bytes_received >= 200_000
    assert theirs.udp_datagrams_received <= ours.udp_datagrams_sent
    assert ours.packets_sent >= ours.packets_acked > 100
    assert ours.congestion_window > 0
    assert 0 < ours.rtt_min <= ours.rtt < 5
    assert ours.mtu >= 1200
    assert (ours.bytes_given_up, ours.key_updates) == (0, 0)
    assert ours.socket_send_calls > 0 and theirs.socket_receive_calls > 0
    assert ours.socket_datagrams_sent >= ours.udp_datagrams_sent
    assert ours.socket_receive_buffer >= 4096 <= ours.socket_send_buffer
    totals = server.stats()
    assert (totals.sessions, totals.sessions_total) == (1, 1)
    values = dataclasses.asdict(ours)
    assert values.pop("ecn") == ("capable" if client.connection.backend == "compiled" else "off")
    for name, value in values.items():
        assert isinstance(value, int | float) and math.isfinite(value) and value >= 0, name
    assert recv.id == 0


async def test_what_is_lost_is_sent_again_and_counted(certificate: Certificate) -> None:
    relay = Relay()
    async with pair(certificate, relay=relay) as (client, peer, _):
        count = 0

        def every_tenth(data: bytes, to_server: bool) -> bool:
            nonlocal count
            count += 1
            return count % 10 == 0

        relay.drop = every_tenth
        data = bytes(range(256)) * 1200
        send = await client.open_uni()
        await send.write(data)
        send.finish()
        assert await within((await within(peer.accept_uni())).read(-1)) == data
        stats = client.connection.stats()
        assert relay.lost
        assert stats.packets_lost > 0
        assert stats.bytes_retransmitted > 0
        assert stats.congestion_events > 0


async def test_what_is_not_there_yet_says_so(certificate: Certificate) -> None:
    """An option that would be ignored in silence is worse than one that is missing."""
    async with pair(certificate) as (client, _, server):
        with pytest.raises(NotImplementedError, match="export_keying_material"):
            client.connection.export_keying_material(b"EXPORTER-x", b"", 32)
        with pytest.raises(NotImplementedError, match="reload_certificate"):
            server.reload_certificate(certificate.cert, certificate.key)
    for option in ({"require_client_cert": True}, {"client_cafile": "ca.pem"}):
        with pytest.raises(NotImplementedError, match="client certificates"):
            await rawquic.serve(print, "127.0.0.1", 0, **certificate.server, **option)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="session_cache"):
        await rawquic.connect("127.0.0.1", 1, session_cache={})


# -- the public surface ----------------------------------------------------------------------------

SIGNATURES = {
    "serve": "handler host port * certfile keyfile password alpn config on_incoming client_cafile "
    "require_client_cert max_sessions reuse_port sock drain_timeout",
    "serve_with_shutdown": "handler host port signal * drain_timeout **options",
    "connect": "host port * server_name alpn cafile capath cadata verify pinned_sha256 certfile "
    "keyfile password config session_cache local_address timeout",
    "Endpoint": "local_address server * config",
    "Endpoint.connect": "self host port * server_name alpn cafile capath cadata verify "
    "pinned_sha256 certfile keyfile password session_cache timeout",
    "Server.close": "self",
    "Server.is_serving": "self",
    "Server.serve_forever": "self",
    "Server.shutdown": "self drain_timeout",
    "Server.wait_closed": "self",
    "Server.reload_certificate": "self certfile keyfile",
    "Server.stats": "self",
    "RawQuicSession.open_bi": "self",
    "RawQuicSession.open_uni": "self",
    "RawQuicSession.accept_bi": "self",
    "RawQuicSession.accept_uni": "self",
    "RawQuicSession.bi_streams": "self",
    "RawQuicSession.uni_streams": "self",
    "RawQuicSession.read_datagram": "self",
    "RawQuicSession.read_datagrams": "self max",
    "RawQuicSession.datagrams": "self",
    "RawQuicSession.send_datagram": "self data",
    "RawQuicSession.send_datagrams": "self datagrams",
    "RawQuicSession.send_datagram_wait": "self data",
    "RawQuicSession.close": "self code reason",
    "RawQuicSession.aclose": "self code reason timeout",
    "RawQuicSession.wait_closed": "self",
    "SendStream.write": "self data",
    "SendStream.finish": "self",
    "SendStream.wait_acked": "self",
    "SendStream.reset": "self code",
    "SendStream.stopped": "self",
    "RecvStream.read": "self n",
    "RecvStream.readexactly": "self n",
    "RecvStream.read_to_end": "self limit",
    "RecvStream.readinto": "self buffer",
    "RecvStream.stop": "self code",
    "Connection.stats": "self",
    "Connection.export_keying_material": "self label context length",
    "Connection.request_key_update": "self",
    "Connection.ping": "self",
    "Connection.set_max_concurrent_bidi_streams": "self count",
    "Connection.set_max_concurrent_uni_streams": "self count",
    "Connection.set_receive_window": "self size",
    "Connection.set_send_window": "self size",
    "aio.open_stream": "session * limit",
    "aio.wrap": "send recv * limit",
    "backend_info": "",
}
DEFAULTS = {
    "serve": {
        "host": "::",
        "port": 4433,
        "alpn": ("h3",),
        "require_client_cert": False,
        "drain_timeout": 30.0,
    },
    "serve_with_shutdown": {"drain_timeout": 30.0},
    "connect": {
        "port": 4433,
        "alpn": ("h3",),
        "verify": True,
        "pinned_sha256": (),
        "timeout": 10.0,
    },
    "Endpoint": {"local_address": ("::", 0), "server": None},
    "Server.shutdown": {"drain_timeout": 30.0},
    "RawQuicSession.close": {"code": 0, "reason": b""},
    "RawQuicSession.aclose": {"code": 0, "reason": b"", "timeout": None},
    "RecvStream.read": {"n": 65536},
    "RecvStream.stop": {"code": 0},
    "SendStream.reset": {"code": 0},
}
PROPERTIES = {
    "Server": "local_address sessions",
    "Endpoint": "local_address",
    "RawQuicSession": "remote_address local_address max_datagram_size closed close_reason "
    "connection",
    "SendStream": "id priority bytes_written",
    "RecvStream": "id",
    "Connection": "alpn server_name peer_certificates rtt side id backend",
}


def named(path: str) -> Any:
    found: Any = rawquic
    for part in path.split("."):
        found = getattr(found, part)
    return found


def written(function: Any) -> str:
    """The parameters' names, with `*` before the first that is by keyword only."""
    words: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        prefix = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        words.append(prefix + parameter.name)
    return " ".join(words)


@pytest.mark.parametrize("path", SIGNATURES)
def test_signature(path: str) -> None:
    assert written(named(path)) == SIGNATURES[path]
    parameters = inspect.signature(named(path)).parameters
    for name, value in DEFAULTS.get(path, {}).items():
        assert parameters[name].default == value, name


def test_properties() -> None:
    for owner, names in PROPERTIES.items():
        for name in names.split():
            assert isinstance(inspect.getattr_static(named(owner), name), property), (owner, name)
    assert rawquic.SendStream.priority.fset is not None


def test_exports() -> None:
    assert rawquic.__all__ == sorted(rawquic.__all__)
    for name in rawquic.__all__:
        assert getattr(rawquic, name) is not None
    everything = {path.split(".")[0] for path in SIGNATURES} | {
        "CertificateInvalid", "ClosedByPeer", "ClosedLocally", "Config", "ConfigError",
        "ConnectionRefused", "ConnectionStats", "DatagramError", "DatagramTooLarge",
        "DatagramUnsupported", "HandshakeFailed", "HandshakeTimeout", "IdleTimeout", "Incoming",
        "ProtocolViolation", "RawQuicError", "SessionError", "StatelessReset", "StreamError",
        "ServerOptions", "ServerStats", "StreamFinished", "StreamReset", "StreamStopped",
        "StreamTooLong",
    }  # fmt: skip
    assert set(rawquic.__all__) == everything
    hidden = set()
    exec("from rawquic import *", namespace := {})
    hidden = {name for name in rawquic.__all__ if name not in namespace}
    assert not hidden


def test_version() -> None:
    assert rawquic.__version__ == rawquic.backend_info()["version"]
    with pytest.raises(AttributeError, match="module 'rawquic' has no attribute 'nonsense'"):
        _ = rawquic.nonsense  # type: ignore[attr-defined]


def test_public_objects_say_what_they_do() -> None:
    for name in rawquic.__all__:
        assert getattr(rawquic, name).__doc__, name
    for path in SIGNATURES:
        if not path.endswith((".stats", "Endpoint")):
            assert named(path).__doc__, path


def test_what_ends_the_loop_hides_no_acknowledgement(certificate: Certificate) -> None:
    """A session hears of it behind what its tasks send; the loop may go on after SystemExit."""
    loop = asyncio.new_event_loop()
    tasks: list[asyncio.Task[None]] = []

    async def leave(recv: rawquic.RecvStream) -> None:
        await recv.read()
        raise SystemExit

    async def until_one_leaves() -> None:
        async with pair(certificate) as (client, peer, _):
            send, recv = await client.open_bi()
            tasks.append(asyncio.create_task(send.wait_acked()))
            tasks.append(asyncio.create_task(leave(recv)))
            await send.write(b"x")
            send.finish()
            answer, question = await peer.accept_bi()
            assert await question.read(-1) == b"x"
            await answer.write(b"y")  # in one packet with the acknowledgement
            answer.finish()
            await asyncio.Event().wait()

    running = loop.create_task(until_one_leaves())
    with pytest.raises(SystemExit):
        loop.run_until_complete(running)
    loop.run_until_complete(within(tasks[0]))
    running.cancel()
    loop.run_until_complete(asyncio.wait([*tasks, running]))
    with pytest.raises(SystemExit):
        tasks[1].result()
    loop.close()
