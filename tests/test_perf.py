"""The perf protocol: both ends, over loopback sockets, and the server against the draft's text."""

import asyncio
import contextlib
import hashlib
import itertools
import os
from types import SimpleNamespace

import pytest

import rawquic
from rawquic.perf import ALPN, WORKS, Options, percentiles, run, serve_perf, server, verify, works
from rawquic.perf.measure import report
from rawquic.perf.protocol import (
    CLOSE,
    DIGEST,
    ECHO,
    RANDOM,
    SINK,
    UNTIL_STOPPED,
    UPDATE,
    word,
)
from rawquic.perf.verify import Corrupted
from rawquic.selfsigned import self_signed

CERTIFICATE, KEY = self_signed(["localhost"])


@contextlib.asynccontextmanager
async def perf_server(handler=serve_perf):
    """Gives `connect`, which opens a session to a perf server."""
    serving = rawquic.serve(
        handler, "127.0.0.1", 0, certfile=CERTIFICATE, keyfile=KEY, alpn=(ALPN,)
    )
    async with serving as server, rawquic.Endpoint(("127.0.0.1", 0)) as endpoint:

        async def connect():
            return await endpoint.connect(
                "127.0.0.1",
                server.local_address[1],
                server_name="localhost",
                cadata=CERTIFICATE,
                alpn=(ALPN,),
            )

        yield connect
        server.close()


@pytest.fixture
async def connect():
    async with perf_server() as connect:
        yield connect


@pytest.fixture
async def session(connect):
    async with await connect() as session:
        yield session


async def ask(session, request):
    send, recv = await session.open_bi()
    await send.write(request)
    send.finish()
    return await recv.read(-1)


@pytest.mark.parametrize("wanted", [0, 1, 65535, 65536, 65537, 300_000])
async def test_sends_exactly_what_was_asked_for(session, wanted):
    assert len(await ask(session, word(wanted))) == wanted


async def test_reads_an_upload_to_its_end_before_it_answers(session):
    send, recv = await session.open_bi()
    await send.write(word(3) + bytes(100_000))
    reading = asyncio.ensure_future(recv.read(-1))
    await session.connection.ping()
    assert not reading.done()
    send.finish()
    assert len(await reading) == 3


async def test_a_number_in_two_parts_is_one_number(session):
    send, recv = await session.open_bi()
    await send.write(word(7)[:3])
    await session.connection.ping()
    await send.write(word(7)[3:])
    send.finish()
    assert len(await recv.read(-1)) == 7


async def test_a_stump_of_a_number_is_reset(session):
    with pytest.raises(rawquic.StreamReset):
        await ask(session, b"\0\0\0")


async def test_a_unidirectional_request_is_answered_on_a_new_stream(session):
    send = await session.open_uni()
    await send.write(word(70_000) + b"upload")
    send.finish()
    answer = await session.accept_uni()
    assert len(await answer.read(-1)) == 70_000


async def test_until_stopped_goes_on_until_it_is_stopped(session):
    send, recv = await session.open_bi()
    await send.write(word(UNTIL_STOPPED))
    send.finish()
    got = 0
    while got < 3_000_000:
        got += len(await recv.read())
    recv.stop(0)
    assert len(await ask(session, word(5))) == 5  # the session goes on


async def test_digest_is_that_of_what_was_sent(session):
    data = os.urandom(200_001)
    assert await ask(session, word(DIGEST) + data) == hashlib.sha256(data).digest()


async def test_random_bytes_come_with_their_digest(session):
    answer = await ask(session, word(RANDOM) + word(123_456))
    assert hashlib.sha256(answer[:123_456]).digest() == answer[123_456:]


@pytest.mark.parametrize("rest", [b"", b"\0" * 7, word(1) + b"x", bytes(1 << 17)])
async def test_a_bad_random_request_is_reset(session, rest):
    with pytest.raises(rawquic.StreamReset):
        await ask(session, word(RANDOM) + rest)


async def open_echo(session):
    send, recv = await session.open_bi()
    await send.write(word(ECHO) + b"x")
    assert await recv.read() == b"x"
    return send, recv


async def test_an_echo_sends_the_code_of_a_reset_back(session):
    send, recv = await open_echo(session)
    send.reset(42)
    with pytest.raises(rawquic.StreamReset) as caught:
        await recv.read()
    assert caught.value.code == 42


async def test_an_echo_sends_the_code_of_a_stop_back(session):
    send, recv = await open_echo(session)
    recv.stop(43)
    await send.write(b"what cannot be sent back")
    assert await send.stopped() == 43


async def test_a_unidirectional_digest_is_answered_on_a_new_stream(session):
    data = os.urandom(100_000)
    send = await session.open_uni()
    await send.write(word(DIGEST) + data)
    send.finish()
    answer = await session.accept_uni()
    assert await answer.read(-1) == hashlib.sha256(data).digest()


async def test_closes_with_the_code_that_is_asked_for(session):
    with pytest.raises(rawquic.ClosedByPeer) as caught:
        await ask(session, word(CLOSE) + word(44))
    assert caught.value.code == 44 and caught.value.is_application


@pytest.mark.parametrize("rest", [b"", b"\0" * 7, word(1) + b"x", word(1 << 62)])
async def test_a_bad_request_to_close_is_reset(session, rest):
    with pytest.raises(rawquic.StreamReset):
        await ask(session, word(CLOSE) + rest)


async def test_updates_its_keys_when_it_is_asked_to(session):
    assert await ask(session, word(UPDATE)) == b""
    while session.connection.stats().peer_key_updates < 1:
        await session.connection.ping()
    assert (await report(session))["counters"]["key_updates"] == 1


async def test_report_tells_the_codes_of_the_last_closes(connect, session):
    codes = [int.from_bytes(os.urandom(7)) for _ in range(2)]  # other tests close sessions too
    for code in codes:
        other = await connect()
        await ask(other, word(1))
        other.close(code)
        while code not in (told := (await report(session))["closes"]):
            await session.connection.ping()
    assert told[-2:] == codes


async def test_report_counts_datagrams_and_cpu(session):
    before = await report(session)
    session.send_datagrams([SINK.to_bytes() + bytes(99)] * 10)
    after = await report(session)
    while after["datagrams"] < 10:
        after = await report(session)
    assert after["datagrams"] == 10
    assert after["datagram_bytes"] == 1000
    assert after["cpu_user"] + after["cpu_system"] >= before["cpu_user"] + before["cpu_system"] > 0
    assert after["rss"] > 1_000_000
    assert after["counters"]["packets_sent"] > 0


async def test_verify_proves_every_direction(session):
    proved = await verify(session, 200_000)
    assert set(proved) == {"upload", "download", "echo", "datagrams"}
    assert all(len(digest) == 64 for digest in proved.values())


async def test_verify_notices_a_changed_byte():
    async def corrupt(session):
        class Corrupting:
            def __getattr__(self, name):
                return getattr(session, name)

            async def accept_bi(self):
                send, recv = await session.accept_bi()
                write, flipped = send.write, []

                async def changed(data):
                    if not flipped and len(data) > 100:
                        flipped.append(True)
                        data = data[:50] + bytes([data[50] ^ 1]) + data[51:]
                    await write(data)

                send.write = changed
                return send, recv

        await serve_perf(Corrupting())

    async with perf_server(corrupt) as connect, await connect() as session:
        with pytest.raises(Corrupted, match="download"):
            await verify(session, 100_000)


async def test_a_hashed_download_notices_a_changed_byte_and_a_missing_one(monkeypatch):
    real = server._random
    for wrong in (lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])):

        class Sending:
            def __init__(self, send, wrong=wrong):
                self.send, self.wrong = send, wrong

            async def write(self, data):
                await self.send.write(self.wrong(data) if len(data) == 1000 else data)

            def finish(self):
                self.send.finish()

        async def changed(send, recv, rest, wrapper=Sending):
            await real(wrapper(send), recv, rest)

        monkeypatch.setattr(server, "_random", changed)
        async with perf_server() as connect:
            with pytest.raises(Corrupted, match="SHA-256"):
                await run("hashed-download", connect, Options(size=server.CHUNK + 1000))


async def test_a_hashed_download_tells_the_longest_time_without_progress(connect, monkeypatch):
    """By a clock that ticks a second at each look: one look for each read."""
    ticks = itertools.count()
    monkeypatch.setattr(works, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    result = await run("hashed-download", connect, Options(size=200_000))
    assert result.bytes == 200_000
    assert result.stall == 1
    assert result.seconds >= 2


OPTIONS = Options(duration=0.1, size=300_000, count=20, connections=2, at_once=3)


@pytest.mark.parametrize("work", WORKS)
async def test_every_work_measures_both_ends(connect, work):
    result = await run(work, connect, OPTIONS)
    assert result.work == work
    assert result.seconds > 0
    assert result.client_cpu > 0
    moved = {
        "download": 300_000,
        "hashed-download": 300_000,
        "upload": 300_000,
        "both": 600_000,
        "idle": 0,
        "handshakes": 0,
    }
    if work in moved:
        assert result.bytes == moved[work]
    else:
        assert result.bytes > 0
    if work in ("requests", "ping-pong", "handshakes"):
        assert result.count == 20
        assert result.latency["p50"] <= result.latency["p99"] <= result.latency["max"]
    if work == "idle":
        assert result.server_rss_per_session is not None
    else:
        assert result.server_cpu > 0
        assert result.server_counters["packets_sent"] > 0
    assert result.as_dict()["options"]["count"] == 20


async def test_without_a_size_a_transfer_fills_the_duration(connect, monkeypatch):
    """By the first transfer's speed, whatever it was: a clock that ticks 0.1 s at each look."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) / 10)
    monkeypatch.setattr(works, "time", clock)
    result = await run("download", connect, Options(duration=0.2, streams=3))
    assert result.bytes == pytest.approx(2 * works.FIRST_SIZE, abs=3)
    assert result.count == 3
    assert result.megabytes_per_second == pytest.approx(result.bytes / result.seconds / 1e6)


async def test_streams_can_be_held_open_during_a_transfer(connect):
    result = await run("download", connect, Options(size=100_000, open_streams=7))
    assert result.bytes == 100_000


@pytest.mark.parametrize("batch", [True, False])
async def test_lost_datagrams_are_counted_and_the_echo_goes_on(connect, batch):
    async def deaf():
        session = await connect()
        send = session.send_datagrams
        calls = []

        def sometimes(datagrams):
            calls.append(len(datagrams))
            if len(calls) != 1:  # the first window is lost
                send(datagrams)

        session.send_datagrams = sometimes
        return session

    options = Options(count=20, window=5, batch=batch, datagram_size=100)
    result = await run("datagram-echo", deaf, options)
    assert result.lost == 5
    assert result.count >= 20


def test_percentiles_are_those_of_a_sorted_list():
    seconds = [i * 1e-6 for i in range(1, 101)]
    assert percentiles(reversed(seconds)) == {"p50": 51, "p90": 91, "p99": 100, "max": 100}
    assert percentiles([]) == {}
