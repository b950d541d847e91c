"""The same traffic on whichever backend runs: prints what came of it as JSON.

Run by test_backends_agree.py, once per backend. What differs from run to run (ports, times,
connection IDs) is left out or replaced.
"""

import asyncio
import hashlib
import json
import random
import re
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from loopback import Certificate, Pair, error_of, pair, until, waiting, within

import rawquic
from rawquic import Config, Endpoint

RESULTS: list[tuple[str, Any]] = []


def plain(value: Any) -> Any:
    """A value that JSON holds, without what differs from run to run."""
    if isinstance(value, BaseException):
        text = re.sub(r"\b\d{4,5}\b(?= |:|$)|(?<=:)\d{4,5}", "PORT", str(value))
        fields = {k: plain(v) for k, v in vars(value).items() if not k.startswith("_")}
        return [type(value).__name__, text, fields]
    if isinstance(value, bytes | bytearray):
        return value.hex() if len(value) < 64 else hashlib.sha256(value).hexdigest()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def note(name: str, value: Any) -> None:
    RESULTS.append((name, plain(value)))


async def note_error(name: str, awaitable: Awaitable[Any]) -> None:
    note(name, await error_of(awaitable))


def note_raise(name: str, call: Callable[[], Any]) -> None:
    try:
        note(name, ["no error", call()])
    except Exception as error:
        note(name, error)


async def streams(both: Pair) -> None:
    client, peer, _ = both
    noise = random.Random(7)
    for size in (0, 1, 63, 64, 1199, 1200, 16383, 16384, 100_000, 1_000_000):
        data = noise.randbytes(size)
        send, recv = await client.open_bi()
        writing = asyncio.ensure_future(send.write(data))
        writing.add_done_callback(lambda _, send=send: send.finish())
        their_send, their_recv = await within(peer.accept_bi())
        got = await within(their_recv.read(-1))
        back = asyncio.ensure_future(within(recv.read(-1)))
        await their_send.write(got[::-1])
        their_send.finish()
        note(f"stream of {size}", [send.id, got == data, await back])
        await within(send.wait_acked())
        note("written", send.bytes_written)
    send = await client.open_uni()
    await send.write(b"abcdefgh")
    recv = await within(peer.accept_uni())
    note("parts", [await within(recv.read(3)), await within(recv.readexactly(2))])
    note_raise("write of a str", lambda: send.write("text").send(None))  # type: ignore[arg-type]
    note_raise("bad code", lambda: send.reset(-1))
    await note_error("read of 0", recv.read(0))
    reading = await waiting(recv.readexactly(100))
    await note_error("second reader", recv.read())
    reading.cancel()
    await asyncio.wait([reading])
    send.finish()
    await note_error("too short", recv.readexactly(100))
    await note_error("write after finish", send.write(b"x"))

    send, recv = await client.open_bi()
    await send.write(b"x" * 100)
    their_send, their_recv = await within(peer.accept_bi())
    await note_error("too long", their_recv.read_to_end(10))
    note("stopped", await within(send.stopped()))
    await note_error("write after stop", send.write(b"x"))
    await note_error("acked after stop", send.wait_acked())
    await note_error("read after stop", their_recv.read())
    their_send.reset(77)
    await note_error("read after reset", recv.read())
    await note_error("write after reset", their_send.write(b"x"))


async def datagrams(both: Pair) -> None:
    client, peer, _ = both
    note("max_datagram_size is at least", (client.max_datagram_size or 0) >= 1100)
    for data in (b"", b"x", bytes(range(256)) * 4):
        client.send_datagram(data)
        note("datagram", await within(peer.read_datagram()))
    with_limit = client.max_datagram_size or 0
    try:
        client.send_datagram(bytes(with_limit + 1))
    except rawquic.DatagramTooLarge as error:
        note(
            "too large", [type(error).__name__, error.size - error.limit, error.limit == with_limit]
        )
    note_raise("not bytes", lambda: client.send_datagram(5))  # type: ignore[arg-type]


async def closing(certificate: Certificate) -> None:
    for closer in (0, 1):
        for code, reason in ((0, b""), (5, b"text"), (2**62 - 1, b"\xff\xfe")):
            async with pair(certificate) as both:
                ends = both.client, both.peer
                send, _ = await both.client.open_bi()
                await send.write(b"x")
                await within(both.client.connection.ping())
                wait = await waiting(both.client.read_datagram())
                ends[closer].close(code, reason)
                for end in ends:
                    await within(end.wait_closed())
                    note("reason", end.close_reason)
                    await note_error("open", end.open_bi())
                    note_raise("datagram", lambda end=end: end.send_datagram(b"x"))
                await note_error("wait", wait)
                _, recv = await within(both.peer.accept_bi())
                note("what had arrived", await recv.read())
                await note_error("and then", recv.read())


async def limits(certificate: Certificate) -> None:
    small = Config(
        max_concurrent_uni_streams=2,
        stream_receive_window=5000,
        receive_window=8000,
        send_window=6000,
    )
    async with pair(certificate, config=small, server_config=small) as (client, peer, _):
        first, second = await client.open_uni(), await client.open_uni()
        third = await waiting(client.open_uni())
        writing = [await waiting(each.write(bytes(20_000))) for each in (first, second)]
        await until(lambda: first.bytes_written + second.bytes_written >= 8000)
        await within(client.connection.ping())
        note("taken", first.bytes_written + second.bytes_written)
        for _ in range(2):
            recv = await within(peer.accept_uni())
            note("read", await within(recv.readexactly(20_000)))
        await within(asyncio.gather(*writing))
        note("third", third.done())
        first.finish()
        third.cancel()
        note_raise("window", lambda: client.connection.set_receive_window(1))
        client.connection.request_key_update()
        await within(client.connection.ping())
        note("key updates", client.connection.stats().key_updates)
        note("the peer's key updates", client.connection.stats().peer_key_updates)


async def handshakes(certificate: Certificate) -> None:
    async def handle(session: rawquic.RawQuicSession) -> None:
        await session.wait_closed()

    async with rawquic.serve(
        handle, "127.0.0.1", 0, max_sessions=1, **certificate.server
    ) as server:
        address = server.local_address
        await note_error("untrusted", rawquic.connect(*address))
        await note_error(
            "name", rawquic.connect(*address, server_name="other.test", **certificate.client)
        )
        await note_error("alpn", rawquic.connect(*address, alpn=["x"], **certificate.client))
        await note_error("pin", rawquic.connect(*address, pinned_sha256="00" * 32))
        async with rawquic.connect(*address, **certificate.client) as session:
            await within(session.connection.ping())
            await note_error("full", rawquic.connect(*address, **certificate.client))
    await note_error("nobody", rawquic.connect(*address, **certificate.client))
    for options in ({"certfile": "missing.pem"}, {"certfile": b"junk"}, {"alpn": ()}):
        arguments: Any = {**certificate.server, **options}
        await note_error("server", rawquic.serve(handle, "127.0.0.1", 0, **arguments))
    endpoint = Endpoint(("127.0.0.1", 0))
    await note_error("not open", endpoint.connect("127.0.0.1", 1))


async def main(certificate: Certificate) -> None:
    async with pair(certificate) as both:
        await streams(both)
        await datagrams(both)
        note("alpn", [both.client.connection.alpn, both.peer.connection.side])
    await closing(certificate)
    await limits(certificate)
    await handshakes(certificate)


if __name__ == "__main__":
    text = json.load(sys.stdin)
    asyncio.run(main(Certificate(text["cert"].encode(), text["key"].encode())))
    json.dump({"backend": rawquic.backend_info()["backend"], "results": RESULTS}, sys.stdout)
