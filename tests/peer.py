"""The other end of a test, in a process of its own: `python peer.py ROLE`.

The first line of stdin is a JSON object with the role's arguments. Answers are JSON lines on
stdout; more lines on stdin are commands. The end of stdin ends it, so that it never outlives the
test that started it.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from loopback import echo

import rawquic
from rawquic import Config, RawQuicSession

BLOCK = 1 << 20


def blocks(size: int) -> Iterator[bytes]:
    """`size` bytes of random data, a block at a time."""
    while size:
        block = os.urandom(min(size, BLOCK))
        size -= len(block)
        yield block


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


async def commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def counters(session: RawQuicSession) -> dict[str, int]:
    stats = session.connection.stats()
    return {
        "send_calls": stats.socket_send_calls,
        "datagrams_sent": stats.socket_datagrams_sent,
        "receive_calls": stats.socket_receive_calls,
        "datagrams_received": stats.socket_datagrams_received,
    }


class Roles:
    """Each method is a role; it returns when its stdin ends."""

    def __init__(self, arguments: dict[str, Any], stdin: asyncio.StreamReader) -> None:
        self.arguments = arguments
        self.stdin = stdin
        self.config = Config(**arguments.get("config", {}))
        self.identity = {
            name: arguments[name].encode() for name in ("certfile", "keyfile") if name in arguments
        }

    async def serve(self, handler: Any) -> None:
        async with contextlib.AsyncExitStack() as stack:
            server = await rawquic.serve(
                handler, "127.0.0.1", 0, config=self.config, **self.identity
            )
            stack.callback(server.close)
            say(port=server.local_address[1], pid=os.getpid())
            while line := await self.stdin.readline():
                await self.command(json.loads(line))
        await server.wait_closed()

    async def command(self, command: dict[str, Any]) -> None:
        if command["do"] == "resume":
            self.resume.set()
        elif command["do"] == "counters":
            say(**counters(self.session))

    async def echo(self) -> None:
        await self.serve(echo)

    async def silent(self) -> None:
        """Takes sessions and never reads or writes."""

        async def handle(session: RawQuicSession) -> None:
            await session.wait_closed()

        await self.serve(handle)

    async def source(self) -> None:
        """Sends `size` bytes on each stream that is opened, and tells their SHA-256."""

        async def handle(session: RawQuicSession) -> None:
            self.session = session
            async for send, recv in session.bi_streams():
                size = int(await recv.read_to_end(100))
                digest = hashlib.sha256()
                async with send:
                    for block in blocks(size):
                        digest.update(block)
                        await send.write(block)
                await send.wait_acked()
                say(sha256=digest.hexdigest(), **counters(session))

        await self.serve(handle)

    async def sink(self) -> None:
        """Takes a stream, reads it when it is told to "resume", and tells its SHA-256."""
        self.resume = asyncio.Event()

        async def handle(session: RawQuicSession) -> None:
            self.session = session
            recv = await session.accept_uni()
            say(accepted=recv.id)
            await self.resume.wait()
            digest, size = hashlib.sha256(), 0
            async for chunk in recv:
                digest.update(chunk)
                size += len(chunk)
            say(sha256=digest.hexdigest(), size=size)
            await session.wait_closed()

        await self.serve(handle)

    async def sender(self) -> None:
        """Connects to `port` and writes `size` bytes on one stream; tells when it stands still."""
        cadata = self.arguments["cadata"].encode()
        async with rawquic.connect(
            "127.0.0.1", self.arguments["port"], cadata=cadata, config=self.config
        ) as session:
            send = await session.open_uni()
            digest = hashlib.sha256()

            async def write() -> None:
                for block in blocks(self.arguments["size"]):
                    digest.update(block)
                    await send.write(block)
                send.finish()
                await send.wait_acked()

            say(connected=True)
            await self.stdin.readline()
            writing = asyncio.ensure_future(write())
            before = -1
            while not writing.done():  # until nothing more is taken for a second
                await asyncio.wait([writing], timeout=1)
                if send.bytes_written == before:
                    break
                before = send.bytes_written
            say(written=send.bytes_written, done=writing.done())
            await writing
            say(sha256=digest.hexdigest(), written=send.bytes_written)
            await self.stdin.readline()


async def main(role: str) -> None:
    stdin = await commands()
    arguments = json.loads(await stdin.readline())
    running = asyncio.ensure_future(getattr(Roles(arguments, stdin), role)())
    await running


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
