"""rawquic.streams: reading and writing, ends and errors, what cancelling keeps."""

import asyncio
import contextlib
import os
from typing import Any, NamedTuple

import pytest
from loopback import Certificate, Pair, Relay, error_of, pair, until, waiting, within

from rawquic import (
    ClosedByPeer,
    ClosedLocally,
    Config,
    RecvStream,
    SendStream,
    StreamFinished,
    StreamReset,
    StreamStopped,
    StreamTooLong,
)

pytestmark = pytest.mark.timeout(30)


class Stream(NamedTuple):
    """A stream that the client opened and the server accepted, and the session."""

    send: SendStream
    recv: RecvStream
    their_send: SendStream
    their_recv: RecvStream
    both: Pair

    async def settle(self) -> None:
        """Return when all that each end has sent so far is with the other."""
        await within(self.both.client.connection.ping())
        await within(self.both.peer.connection.ping())


@contextlib.asynccontextmanager
async def stream_of(both: Pair) -> Any:
    send, recv = await both.client.open_bi()
    await send.write(b"!")
    their_send, their_recv = await within(both.peer.accept_bi())
    assert await within(their_recv.readexactly(1)) == b"!"
    yield Stream(send, recv, their_send, their_recv, both)


@pytest.fixture
async def stream(certificate: Certificate) -> Any:
    async with pair(certificate) as both, stream_of(both) as made:
        yield made


# -- reading -------------------------------------------------------------------------------------


async def test_read_gives_what_there_is(stream: Stream) -> None:
    await stream.send.write(b"abcdef")
    assert await within(stream.their_recv.read(4)) == b"abcd"
    assert await within(stream.their_recv.read()) == b"ef"
    waits = await waiting(stream.their_recv.read())
    await stream.send.write(b"g")
    assert await within(waits) == b"g"
    stream.send.finish()
    assert await within(stream.their_recv.read()) == b""
    assert await stream.their_recv.read() == b""  # the end stays the end


async def test_read_to_the_end(stream: Stream) -> None:
    data = os.urandom(300_000)
    reading = await waiting(stream.their_recv.read(-1))
    await stream.send.write(data)
    stream.send.finish()
    assert await within(reading) == data
    assert await stream.their_recv.read(-1) == b""


@pytest.mark.parametrize("n", [0, -2])
async def test_read_of_nothing_is_a_value_error(stream: Stream, n: int) -> None:
    with pytest.raises(ValueError, match="at least 1, or -1"):
        await stream.recv.read(n)
    with pytest.raises(ValueError, match="negative"):
        await stream.recv.readexactly(-1)
    with pytest.raises(ValueError, match="negative"):
        await stream.recv.read_to_end(-1)
    with pytest.raises(ValueError, match="empty"):
        await stream.recv.readinto(bytearray())


@pytest.mark.parametrize("n", [1.5, 2.0, "2", None, b"x"])
@pytest.mark.parametrize("name", ["read", "readexactly", "read_to_end"])
async def test_read_of_no_integer_takes_nothing(stream: Stream, name: str, n: object) -> None:
    await stream.send.write(b"abc")
    assert await within(stream.their_recv.read(1)) == b"a"
    message = rf"^{name}\(\w+\): it must be an integer, .*, not {type(n).__name__}$"
    with pytest.raises(TypeError, match=message):
        await within(getattr(stream.their_recv, name)(n))
    assert await stream.their_recv.read() == b"bc"
    with pytest.raises(TypeError, match=message):  # at once, not when there is something to read
        await within(getattr(stream.their_recv, name)(n))


@pytest.mark.parametrize("n", [True, 2**63, 2**64, 2**200])
async def test_read_of_any_integer(stream: Stream, n: int) -> None:
    await stream.send.write(b"abc")
    stream.send.finish()
    assert await within(stream.their_recv.read(n)) == b"abc"[:n]
    if n > 1:
        with pytest.raises(asyncio.IncompleteReadError):
            await stream.their_recv.readexactly(n)


async def test_readexactly(stream: Stream) -> None:
    assert await stream.their_recv.readexactly(0) == b""
    reading = await waiting(stream.their_recv.readexactly(5))
    await stream.send.write(b"123")
    await stream.settle()
    assert not reading.done()
    await stream.send.write(b"456789")
    assert await within(reading) == b"12345"
    stream.send.finish()
    error = await error_of(stream.their_recv.readexactly(5))
    assert isinstance(error, asyncio.IncompleteReadError)
    assert (error.partial, error.expected) == (b"6789", 5)
    assert await stream.their_recv.read() == b""


async def test_readexactly_of_more_than_the_window(certificate: Certificate) -> None:
    window = Config(stream_receive_window=4096)
    async with (
        pair(certificate, server_config=window) as both,
        stream_of(both) as stream,
    ):
        data = os.urandom(100_000)
        writing = asyncio.ensure_future(stream.send.write(data))
        assert await within(stream.their_recv.readexactly(100_000)) == data
        await within(writing)


async def test_read_to_end_with_a_limit(stream: Stream) -> None:
    await stream.send.write(b"12345")
    stream.send.finish()
    assert await within(stream.their_recv.read_to_end(5)) == b"12345"
    await stream.their_send.write(b"123456")
    error = await error_of(stream.recv.read_to_end(5))
    assert isinstance(error, StreamTooLong)
    assert error.limit == 5 and "5 bytes" in str(error)
    assert await within(stream.their_send.stopped()) == 0
    assert type(await error_of(stream.recv.read())) is StreamFinished


async def test_readinto(stream: Stream) -> None:
    buffer = bytearray(b"........")
    await stream.send.write(b"abc")
    assert await within(stream.their_recv.readinto(buffer)) == 3
    assert buffer == b"abc....."
    await stream.send.write(b"0123456789")
    await stream.settle()
    assert await within(stream.their_recv.readinto(memoryview(buffer)[4:])) == 4
    assert buffer == b"abc.0123"
    assert await within(stream.their_recv.readinto(buffer)) == 6
    assert buffer == b"45678923"
    stream.send.finish()
    assert await within(stream.their_recv.readinto(buffer)) == 0


async def test_readinto_a_read_only_buffer_takes_nothing(stream: Stream) -> None:
    with pytest.raises(TypeError, match="read-only"):
        await within(stream.their_recv.readinto(b"........"))  # before any data is there
    await stream.send.write(b"kept")
    await stream.settle()
    with pytest.raises(TypeError, match="read-only"):
        await within(stream.their_recv.readinto(memoryview(b"........")))
    assert await within(stream.their_recv.read()) == b"kept"


async def test_readinto_an_array_of_wider_items(stream: Stream) -> None:
    import array

    numbers = array.array("I", [0, 0])
    await stream.send.write((7).to_bytes(4, "little") + (9).to_bytes(4, "little"))
    await stream.settle()
    assert await within(stream.their_recv.readinto(numbers)) == 8
    expected = array.array("I")
    expected.frombytes((7).to_bytes(4, "little") + (9).to_bytes(4, "little"))
    assert numbers == expected


async def test_iteration(stream: Stream) -> None:
    chunks = []

    async def collect() -> None:
        async for chunk in stream.their_recv:
            chunks.append(chunk)

    task = await waiting(collect())
    for part in (b"one", b"two"):
        await stream.send.write(part)
        await stream.settle()
    assert chunks == [b"one", b"two"]
    stream.send.finish()
    await within(task)
    assert all(chunks)


READS = {
    "read": lambda recv: recv.read(),
    "read_all": lambda recv: recv.read(-1),
    "readexactly": lambda recv: recv.readexactly(3),
    "read_to_end": lambda recv: recv.read_to_end(100),
    "readinto": lambda recv: recv.readinto(bytearray(5)),
    "iteration": lambda recv: anext(aiter(recv)),
}


@pytest.mark.parametrize("second", READS)
@pytest.mark.parametrize("first", READS)
async def test_two_readers_are_a_runtime_error(stream: Stream, first: str, second: str) -> None:
    reading = await waiting(READS[first](stream.recv))
    with pytest.raises(RuntimeError, match=f"already reading stream {stream.recv.id}"):
        await within(READS[second](stream.recv))
    await stream.their_send.write(b"123")  # the first one is none the worse for it
    stream.their_send.finish()
    got = await within(reading)
    assert got == (3 if first == "readinto" else b"123")


@pytest.mark.parametrize("name", READS)
async def test_a_cancelled_read_loses_nothing(stream: Stream, name: str) -> None:
    """Also what `readexactly` and the others had taken already, and in order."""
    reading = await waiting(READS[name](stream.their_recv))
    if name in ("readexactly", "read_all", "read_to_end"):
        await stream.send.write(b"12")
        await stream.settle()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await stream.send.write(b"3")
    again = await waiting(stream.their_recv.readexactly(5))
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again
    await stream.send.write(b"45")
    stream.send.finish()
    expected = b"12345" if name in ("readexactly", "read_all", "read_to_end") else b"345"
    assert await within(stream.their_recv.readexactly(1)) == expected[:1]
    assert await within(stream.their_recv.read(-1)) == expected[1:]


async def test_a_read_cancelled_as_its_data_arrives_loses_nothing(stream: Stream) -> None:
    """The event has woken the reader, and the cancellation comes before it runs."""
    for number in range(50):
        byte = bytes([number])
        reading = await waiting(stream.their_recv.read())
        await stream.send.write(byte)
        waiter = stream.their_recv._session._readers[stream.their_recv.id]
        await until(waiter.done)
        reading.cancel()
        try:
            got = await reading
        except asyncio.CancelledError:
            got = await within(stream.their_recv.read())
        assert got == byte


async def test_a_read_that_times_out_goes_on_later(stream: Stream) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.their_recv.read(), 0.01)
    await stream.send.write(b"late")
    assert await within(stream.their_recv.read()) == b"late"


async def test_a_streams_data_comes_in_order_over_a_bad_path(certificate: Certificate) -> None:
    relay = Relay()
    async with (
        pair(certificate, relay=relay) as both,
        stream_of(both) as stream,
    ):
        number = 0
        held: list[bytes] = []

        def lose_and_reorder(data: bytes, to_server: bool) -> bool:
            nonlocal number
            number += 1
            if number % 11 == 0:
                return True
            if to_server and number % 5 == 0:
                held.append(data)
                return True
            if to_server and len(held) > 3:
                for each in reversed(held):
                    relay.inject_to_server(each)
                    relay.inject_to_server(each)  # twice
                held.clear()
            return False

        relay.drop = lose_and_reorder
        data = os.urandom(400_000)
        writing = asyncio.ensure_future(stream.send.write(data))
        assert await within(stream.their_recv.readexactly(len(data)), 25) == data
        await within(writing)
        assert relay.lost


# -- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"bytes",
        bytearray(b"bytes"),
        memoryview(b"bytes"),
        memoryview(b"-b-y-t-e-s")[1::2],
        memoryview(bytearray(b"bytes")).cast("b"),
    ],
    ids=["bytes", "bytearray", "memoryview", "strided", "signed"],
)
async def test_write_takes_any_bytes_like_object(stream: Stream, data: Any) -> None:
    await stream.send.write(data)
    assert stream.send.bytes_written == 6  # one was written before
    assert await within(stream.their_recv.readexactly(5)) == b"bytes"


async def test_write_of_what_is_not_bytes_is_a_type_error(stream: Stream) -> None:
    for data, said in (
        ("text", r"not str: encode it first, as in text\.encode\(\)$"),
        (5, "not int$"),
        (None, "not NoneType$"),
        ([1, 2], "not list$"),
    ):
        with pytest.raises(TypeError, match=f"^a bytes-like object is required, {said}"):
            await stream.send.write(data)  # type: ignore[arg-type]
    assert stream.send.bytes_written == 1
    await stream.send.write(b"y")
    assert await within(stream.their_recv.read()) == b"y"


async def test_a_bytearray_can_change_once_write_has_returned(stream: Stream) -> None:
    data = bytearray(b"before")
    await stream.send.write(data)
    data[:] = b"after!"
    data.clear()
    assert await within(stream.their_recv.readexactly(6)) == b"before"


async def test_empty_writes_and_empty_streams(stream: Stream) -> None:
    await stream.send.write(b"")
    assert stream.send.bytes_written == 1
    stream.send.finish()
    assert await within(stream.their_recv.read()) == b""
    empty = await stream.both.client.open_uni()
    empty.finish()
    assert await within((await within(stream.both.peer.accept_uni())).read(-1)) == b""


async def test_a_cancelled_write_has_taken_a_prefix(certificate: Certificate) -> None:
    config = Config(send_window=10_000)
    async with (
        pair(
            certificate, config=config, server_config=Config(stream_receive_window=20_000)
        ) as both,
        stream_of(both) as stream,
    ):
        data = os.urandom(500_000)
        writing = await waiting(stream.send.write(data))
        await until(lambda: stream.send.bytes_written >= 20_000)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        taken = stream.send.bytes_written - 1
        assert 0 < taken < len(data)
        reading = asyncio.ensure_future(stream.their_recv.read(-1))
        await within(stream.send.write(b"and on"))
        stream.send.finish()
        assert await within(reading) == data[:taken] + b"and on"


async def test_writes_wait_for_the_reader(certificate: Certificate) -> None:
    window = Config(stream_receive_window=5000)
    async with pair(certificate, server_config=window) as both, stream_of(both) as stream:
        first = await waiting(stream.send.write(b"1" * 8000))
        second = await waiting(stream.send.write(b"2" * 10))
        await stream.settle()
        assert stream.send.bytes_written == 5000
        got = await within(stream.their_recv.readexactly(8009))
        await within(first)
        await within(second)
        got += await within(stream.their_recv.read())
        assert got.count(b"1") == 8000 and got.count(b"2") == 10


async def test_finish(stream: Stream) -> None:
    send = stream.send
    send.finish()
    send.finish()  # twice is once
    with pytest.raises(StreamFinished, match="finished"):
        await send.write(b"x")
    await within(send.wait_acked())
    await within(send.wait_acked())
    assert await within(send.stopped()) is None
    send.reset(5)  # nothing to give up: it is all there
    assert await within(stream.their_recv.read(-1)) == b""


async def test_wait_acked_waits_for_the_acknowledgement(certificate: Certificate) -> None:
    relay = Relay()
    async with pair(certificate, relay=relay) as both, stream_of(both) as stream:
        relay.drop = lambda data, to_server: not to_server
        await stream.send.write(b"x")
        acked = await waiting(stream.send.wait_acked())
        stream.send.finish()
        assert await within(stream.their_recv.read(-1)) == b"x"
        assert not acked.done()
        relay.drop = lambda data, to_server: False
        await within(acked)


async def test_async_with_finishes_or_resets(stream: Stream) -> None:
    async with stream.send as same:
        assert same is stream.send
        await same.write(b"all")
    assert await within(stream.their_recv.read(-1)) == b"all"
    with pytest.raises(KeyError):
        async with stream.their_send as send:
            await send.write(b"part")
            raise KeyError
    error = await error_of(stream.recv.read(-1))
    assert isinstance(error, StreamReset) and error.code == 1


async def test_async_with_after_an_end_of_its_own(stream: Stream) -> None:
    async with stream.send as send:
        send.reset(4)
    async with stream.their_send as send:
        send.finish()
    assert type(await error_of(stream.their_recv.read())) is StreamReset
    assert await within(stream.recv.read()) == b""
    async with await stream.both.client.open_uni() as send:
        stream.both.client.close()
    assert stream.both.client.closed


# -- reset and stop --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 9, 2**62 - 1])
async def test_reset(stream: Stream, code: int) -> None:
    reading = await waiting(stream.their_recv.read())
    stream.send.reset(code)
    stream.send.reset(code + 1 if code < 99 else 0)  # the first one counts
    error = await error_of(reading)
    assert isinstance(error, StreamReset)
    assert error.code == code and str(code) in str(error)
    for read in READS.values():
        again = await error_of(read(stream.their_recv))
        assert isinstance(again, StreamReset) and again.code == code
    with pytest.raises(StreamFinished, match=f"reset with code {code}"):
        await stream.send.write(b"x")
    with pytest.raises(StreamFinished):
        stream.send.finish()
    with pytest.raises(StreamFinished):
        await stream.send.wait_acked()
    assert await within(stream.send.stopped()) is None
    await stream.their_send.write(b"the other half goes on")
    assert (await within(stream.recv.read())).startswith(b"the other")


@pytest.mark.parametrize("code", [0, 9, 2**62 - 1])
async def test_stop(stream: Stream, code: int) -> None:
    stopped = await waiting(stream.send.stopped())
    acked = await waiting(stream.send.wait_acked())
    stream.their_recv.stop(code)
    stream.their_recv.stop(3)  # the first one counts
    assert await within(stopped) == code
    for error in (
        await error_of(acked),
        await error_of(stream.send.write(b"x")),
        await error_of(stream.send.wait_acked()),
    ):
        assert isinstance(error, StreamStopped)
        assert error.code == code and str(code) in str(error)
    with pytest.raises(StreamStopped):
        stream.send.finish()
    stream.send.reset(1)  # nothing to do
    async with stream.send:
        pass
    for read in READS.values():
        assert type(await error_of(read(stream.their_recv))) is StreamFinished
    await stream.their_send.write(b"the other half goes on")
    assert (await within(stream.recv.read())).startswith(b"the other")


async def test_stop_wakes_a_blocked_write_and_a_pending_read(certificate: Certificate) -> None:
    window = Config(stream_receive_window=5000)
    async with pair(certificate, server_config=window) as both, stream_of(both) as stream:
        writing = await waiting(stream.send.write(bytes(100_000)))
        stream.their_recv.stop(6)
        error = await error_of(writing)
        assert isinstance(error, StreamStopped) and error.code == 6
        reading = await waiting(stream.recv.read())
        stream.recv.stop(7)
        assert type(await error_of(reading)) is StreamFinished
        # What was not read does not use up the session's credit for ever.
        for _ in range(10):
            send = await within(both.client.open_uni())
            await send.write(b"x" * 4000)
            recv = await within(both.peer.accept_uni())
            recv.stop()
            assert await within(send.stopped()) == 0


async def test_reset_after_finish_gives_up_what_is_not_acknowledged(stream: Stream) -> None:
    await stream.send.write(b"all of it")
    stream.send.finish()
    stream.send.reset(3)  # RFC 9000 §3.1: from "Data Sent", too
    error = await error_of(stream.their_recv.read(-1))
    assert isinstance(error, StreamReset) and error.code == 3


async def test_reset_wakes_a_blocked_write(certificate: Certificate) -> None:
    window = Config(stream_receive_window=5000)
    async with pair(certificate, server_config=window) as both, stream_of(both) as stream:
        writing = await waiting(stream.send.write(bytes(100_000)))
        acked = await waiting(stream.send.wait_acked())
        stream.send.reset(2)
        assert type(await error_of(writing)) is StreamFinished
        assert type(await error_of(acked)) is StreamFinished
        error = await error_of(stream.their_recv.read(-1))
        assert isinstance(error, StreamReset) and error.code == 2


async def test_streams_that_are_reset_give_their_credit_back(certificate: Certificate) -> None:
    """RFC 9000 §4.5: the final size settles how much of the session's window a stream used."""
    window = Config(receive_window=20_000, stream_receive_window=20_000)
    async with pair(certificate, server_config=window) as (client, peer, _):
        for _ in range(10):
            send = await client.open_uni()
            await within(send.write(bytes(9000)))
            recv = await within(peer.accept_uni())
            await within(recv.readexactly(10))
            send.reset(1)
            assert type(await error_of(recv.read(-1))) is StreamReset
        last = await client.open_uni()
        await within(last.write(bytes(15_000)))
        last.finish()
        assert len(await within((await within(peer.accept_uni())).read(-1))) == 15_000


async def test_stop_that_came_before_the_stream_was_accepted(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        send, recv = await client.open_bi()
        await send.write(b"x")
        recv.stop(11)
        await client.connection.ping()
        their_send, _their_recv = await within(peer.accept_bi())
        assert await within(their_send.stopped()) == 11
        error = await error_of(their_send.write(b"x"))
        assert isinstance(error, StreamStopped) and error.code == 11


async def test_a_stream_that_ended_before_it_was_accepted_is_forgotten(
    certificate: Certificate,
) -> None:
    """Its end was told before there was an object to tell."""
    async with pair(certificate) as (client, peer, _):
        opened = [await client.open_bi() for _ in range(3)]
        for send, recv in opened:
            await send.write(b"x")
            send.finish()
            recv.stop(11)
        for _ in range(3):  # STOP_SENDING, the reset that it causes, the acknowledgement
            await within(client.connection.ping())
            await within(peer.connection.ping())
        for _ in opened:
            their_send, their_recv = await within(peer.accept_bi())
            assert await within(their_send.stopped()) == 11
            assert type(await error_of(their_send.write(b"x"))) is StreamStopped
            assert await within(their_recv.read(-1)) == b"x"
        assert not peer._sending and not peer._readers and not peer._ended_before


async def test_waits_that_are_cancelled_leave_nothing(stream: Stream) -> None:
    for _ in range(100):
        for call in (stream.send.stopped, stream.send.wait_acked):
            wait = await waiting(call())
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
    assert len(stream.send._waiters) == 0


@pytest.mark.parametrize("name", ["read_all", "readexactly", "read_to_end"])
async def test_stop_drops_what_a_longer_read_had_taken(stream: Stream, name: str) -> None:
    reading = await waiting(READS[name](stream.their_recv))
    await stream.send.write(b"12")
    await stream.settle()
    stream.their_recv.stop(3)
    assert type(await error_of(reading)) is StreamFinished
    assert type(await error_of(stream.their_recv.read())) is StreamFinished


async def test_a_reset_leaves_no_cycle(stream: Stream) -> None:
    """Else a peer that resets streams makes work for the garbage collector."""
    stream.send.reset(3)
    assert type(await error_of(stream.their_recv.read())) is StreamReset
    assert stream.their_recv._error.__traceback__ is None


async def test_stop_after_the_end_does_nothing(stream: Stream) -> None:
    stream.send.finish()
    assert await within(stream.their_recv.read()) == b""
    stream.their_recv.stop(5)
    assert await within(stream.their_recv.read()) == b""
    await within(stream.send.wait_acked())


@pytest.mark.parametrize("code", [-1, 2**62, "1", 1.5, None])
async def test_codes_out_of_range_are_value_errors(stream: Stream, code: Any) -> None:
    with pytest.raises(ValueError, match="2\\^62-1"):
        stream.send.reset(code)
    with pytest.raises(ValueError, match="2\\^62-1"):
        stream.recv.stop(code)
    await stream.send.write(b"fine")
    assert await within(stream.their_recv.read()) == b"fine"


# -- when the session ends -------------------------------------------------------------------------


async def test_streams_of_a_closed_session(stream: Stream) -> None:
    client = stream.both.client
    client.close(2)
    for call in (stream.send.write(b"x"), stream.send.wait_acked(), stream.send.stopped()):
        assert type(await error_of(call)) is ClosedLocally
    with pytest.raises(ClosedLocally):
        stream.send.finish()
    await within(stream.both.peer.wait_closed())
    for call in (stream.their_send.write(b"x"), stream.their_recv.read()):
        error = await error_of(call)
        assert isinstance(error, ClosedByPeer) and error.code == 2
    stream.their_recv.stop(1)
    stream.their_send.reset(1)
    stream.send.reset(1)


async def test_what_was_acknowledged_stays_so(stream: Stream) -> None:
    stream.send.finish()
    await within(stream.send.wait_acked())
    stream.both.client.close()
    await within(stream.send.wait_acked())
    assert await within(stream.send.stopped()) is None


# -- priority --------------------------------------------------------------------------------------


async def test_priority(certificate: Certificate) -> None:
    async with pair(certificate) as (client, peer, _):
        streams = [await client.open_uni() for _ in range(4)]
        assert [each.priority for each in streams] == [0] * 4
        for each, priority in zip(streams, (0, -5, 10, 3), strict=True):
            each.priority = priority
            assert each.priority == priority
        finished: list[int] = []

        async def read(recv: RecvStream) -> None:
            assert len(await recv.read(-1)) == 250_000
            finished.append(recv.id)

        for each in streams:  # in one turn of the loop: the order is up to the priorities
            await each.write(bytes(250_000))
            each.finish()
        tasks = [asyncio.ensure_future(read(await within(peer.accept_uni()))) for _ in range(4)]
        await within(asyncio.gather(*tasks))
        assert finished == [streams[n].id for n in (2, 3, 0, 1)]


async def test_priority_is_an_int(stream: Stream) -> None:
    with pytest.raises((TypeError, ValueError)):
        stream.send.priority = "high"  # type: ignore[assignment]
    assert stream.send.priority == 0


async def test_repr_names_the_stream(stream: Stream) -> None:
    assert repr(stream.send) == f"<SendStream {stream.send.id}: 1 bytes written>"
    assert repr(stream.recv) == f"<RecvStream {stream.recv.id}>"


async def test_a_stream_without_a_session_raises() -> None:
    """Nobody makes one so; but compiled code may not crash of it."""
    send, recv = SendStream.__new__(SendStream), RecvStream.__new__(RecvStream)
    for call in (
        send.finish,
        send.reset,
        lambda: send._put(b"x", 0),
        recv.stop,
        lambda: recv._take(1),
        lambda: recv._take_alone(1),
        recv._look,
        recv._waiter,
    ):
        with pytest.raises(AttributeError):
            call()
    for cls in (SendStream, RecvStream):
        with pytest.raises(AttributeError):
            cls(object(), 0)
