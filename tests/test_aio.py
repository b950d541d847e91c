"""rawquic.aio: streams as asyncio readers and writers, with working flow control and ends."""

import asyncio
import os
from typing import Any

import pytest
from loopback import Certificate, Pair, error_of, pair, until, waiting, within

import rawquic
from rawquic import Config, StreamReset, StreamStopped, aio

pytestmark = pytest.mark.timeout(30)

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def both_ends(both: Pair) -> tuple[Ends, Ends]:
    reader, writer = await aio.open_stream(both.client)
    writer.write(b"!")
    await writer.drain()
    their_reader, their_writer = aio.wrap(*await within(both.peer.accept_bi()))
    assert await within(their_reader.readexactly(1)) == b"!"
    return (reader, writer), (their_reader, their_writer)


async def test_lines_both_ways(certificate: Certificate) -> None:
    async with pair(certificate) as both:
        (reader, writer), (their_reader, their_writer) = await both_ends(both)
        writer.writelines([b"one\n", b"two\nthr", b"ee\n"])
        for line in (b"one\n", b"two\n", b"three\n"):
            assert await within(their_reader.readline()) == line
        their_writer.write(b"answer;more")
        assert await within(reader.readuntil(b";")) == b"answer;"
        assert writer.get_extra_info("peername") == both.client.remote_address
        assert writer.get_extra_info("sockname") == both.client.local_address
        for each in (writer, their_writer):
            each.close()
            await within(each.wait_closed())


async def test_write_eof_is_half_a_close(certificate: Certificate) -> None:
    async with pair(certificate) as both:
        (reader, writer), (their_reader, their_writer) = await both_ends(both)
        assert writer.can_write_eof()
        writer.write(b"question")
        writer.write_eof()
        assert await within(their_reader.read()) == b"question"
        with pytest.raises(RuntimeError, match="no more data"):
            writer.write(b"late")
        their_writer.write(b"answer")
        their_writer.close()
        await within(their_writer.wait_closed())
        assert await within(reader.read()) == b"answer"
        assert reader.at_eof()
        writer.close()
        await within(writer.wait_closed())


async def test_close_sends_what_was_written(certificate: Certificate) -> None:
    data = os.urandom(3_000_000)
    async with pair(certificate) as both:
        (_, writer), (their_reader, their_writer) = await both_ends(both)
        reading = asyncio.ensure_future(their_reader.read())
        writer.write(data)
        assert not writer.is_closing()
        writer.close()
        assert writer.is_closing()
        await within(writer.wait_closed())
        assert await within(reading) == data
        their_writer.close()
        await within(their_writer.wait_closed())


async def test_drain_waits_for_the_reader(certificate: Certificate) -> None:
    small = Config(stream_receive_window=10_000, send_window=10_000)
    async with pair(certificate, config=small, server_config=small) as both:
        (_, writer), (their_reader, their_writer) = await both_ends(both)
        written = 0

        async def write() -> None:
            nonlocal written
            for _ in range(100):
                writer.write(b"x" * 10_000)
                await writer.drain()
                written += 10_000
            writer.write_eof()

        writing = await waiting(write())
        for _ in range(5):
            await within(both.client.connection.ping())
        # The windows, the two buffers of the adapters; far from all.
        assert not writing.done() and written < 500_000
        assert writer.transport.get_write_buffer_size() <= 80_000
        assert len(await within(their_reader.read())) == 1_000_000
        await within(writing)
        for each in (writer, their_writer):
            each.close()
            await within(each.wait_closed())


async def test_the_reader_has_a_limit(certificate: Certificate) -> None:
    """asyncio's reader takes twice its limit, then stops reading from the stream."""
    window = Config(stream_receive_window=10_000)
    async with pair(certificate, config=window) as both:
        reader, writer = await aio.open_stream(both.client, limit=1000)
        writer.write(b"!")
        their_send, _ = await within(both.peer.accept_bi())
        writing = await waiting(their_send.write(bytes(200_000)))
        for _ in range(5):
            await within(both.peer.connection.ping())
        assert not writing.done()
        assert their_send.bytes_written < 100_000
        assert len(await within(reader.readexactly(200_000))) == 200_000
        await within(writing)
        writer.close()
        await within(writer.wait_closed())


async def test_write_buffer_limits(certificate: Certificate) -> None:
    async with pair(certificate) as both:
        (_, writer), (_, their_writer) = await both_ends(both)
        transport = writer.transport
        low, high = transport.get_write_buffer_limits()
        assert 0 <= low < high
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(high=1000, low=10)
        assert transport.get_write_buffer_limits() == (10, 1000)
        transport.set_write_buffer_limits(low=1000)  # as asyncio's transports have it
        assert transport.get_write_buffer_limits() == (1000, 4000)
        for bad in ({"high": 10, "low": 11}, {"low": -1}):
            with pytest.raises(ValueError, match="at least"):
                transport.set_write_buffer_limits(**bad)
        assert transport.get_write_buffer_limits() == (1000, 4000)
        assert transport.get_write_buffer_size() == 0
        for each in (writer, their_writer):
            each.close()
            await within(each.wait_closed())


async def test_what_is_not_bytes_is_a_type_error(certificate: Certificate) -> None:
    async with pair(certificate) as both:
        (_, writer), (their_reader, their_writer) = await both_ends(both)
        with pytest.raises(TypeError, match="not str: encode it first"):
            writer.write("text")  # type: ignore[arg-type]
        writer.write(b"bytes")
        assert await within(their_reader.readexactly(5)) == b"bytes"
        for each in (writer, their_writer):
            each.close()
            await within(each.wait_closed())


async def test_reset_by_the_peer(certificate: Certificate) -> None:
    async with pair(certificate) as both:
        reader, writer = await aio.open_stream(both.client)
        writer.write(b"!")
        await writer.drain()
        their_send, their_recv = await within(both.peer.accept_bi())
        assert await within(their_recv.readexactly(1)) == b"!"
        reading = await waiting(reader.read(10))
        their_send.reset(7)
        error = await error_of(reading)
        assert isinstance(error, StreamReset) and error.code == 7
        # The transport is over, so the other half must not stay open in silence.
        assert type(await error_of(their_recv.read())) is StreamReset
        with pytest.raises(StreamReset):
            await within(writer.wait_closed())


async def test_stopped_by_the_peer(certificate: Certificate) -> None:
    async with pair(certificate) as both:
        reader, writer = await aio.open_stream(both.client)
        writer.write(b"!")
        await writer.drain()
        _, their_recv = await within(both.peer.accept_bi())
        their_recv.stop(8)

        async def write() -> None:
            while True:
                writer.write(b"more")
                await writer.drain()
                await asyncio.sleep(0)

        error = await error_of(write())
        assert isinstance(error, StreamStopped) and error.code == 8
        assert isinstance(await error_of(reader.read(1)), StreamStopped)
        with pytest.raises(StreamStopped):
            await within(writer.wait_closed())


async def test_abort_resets(certificate: Certificate) -> None:
    async with pair(certificate) as both:
        (_, writer), (their_reader, their_writer) = await both_ends(both)
        writer.transport.abort()
        error = await error_of(their_reader.read())
        assert isinstance(error, StreamReset) and error.code == 1
        await within(writer.wait_closed())
        with pytest.raises(StreamReset):
            await within(their_writer.wait_closed())


async def test_the_session_ends(certificate: Certificate) -> None:
    async with pair(certificate) as both:
        (reader, writer), (their_reader, their_writer) = await both_ends(both)
        both.client.close(6, b"gone")
        error = await error_of(their_reader.read())
        assert isinstance(error, rawquic.ClosedByPeer) and error.code == 6
        assert isinstance(await error_of(reader.read()), rawquic.ClosedLocally)
        for each, kind in ((writer, rawquic.ClosedLocally), (their_writer, rawquic.ClosedByPeer)):
            with pytest.raises(kind):
                await within(each.drain())
            with pytest.raises(kind):
                await within(each.wait_closed())


async def test_no_task_is_left(certificate: Certificate) -> None:
    async with pair(certificate) as both:
        before = asyncio.all_tasks()
        (_, writer), (_, their_writer) = await both_ends(both)
        for each in (writer, their_writer):
            each.close()
            await within(each.wait_closed())
        await until(lambda: asyncio.all_tasks() == before)
        # And the stream has ended on both sides: its credit comes back.
        assert not both.client._sending
        await until(lambda: not both.client._readers and not both.peer._readers)


async def test_a_protocol_written_for_asyncio(certificate: Certificate) -> None:
    """asyncio.start_server's kind of handler runs over a session's streams."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def serve(session: rawquic.RawQuicSession) -> None:
        async with asyncio.TaskGroup() as tasks:
            async for send, recv in session.bi_streams():
                tasks.create_task(handle(*aio.wrap(send, recv)))

    async def client(session: rawquic.RawQuicSession, number: int) -> Any:
        reader, writer = await aio.open_stream(session)
        got = []
        for line in range(20):
            writer.write(b"line %d of %d\n" % (line, number))
            got.append(await reader.readline())
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        return got

    async with (
        rawquic.serve(serve, "127.0.0.1", 0, **certificate.server) as server,
        rawquic.connect(*server.local_address, **certificate.client) as session,
    ):
        got = await within(asyncio.gather(*(client(session, n) for n in range(10))))
        assert got == [[b"LINE %d OF %d\n" % (k, n) for k in range(20)] for n in range(10)]
