"""A QUIC echo server: each bidirectional stream chunk by chunk, and each datagram.

rawquic cert && python examples/echo_server.py
"""

import asyncio
from contextlib import suppress

import rawquic


async def echo_stream(send: rawquic.SendStream, recv: rawquic.RecvStream) -> None:
    with suppress(rawquic.StreamError):  # the peer gave up this stream, not the session
        async with send:
            async for chunk in recv:
                await send.write(chunk)


async def echo_datagrams(session: rawquic.RawQuicSession) -> None:
    while True:
        session.send_datagram(await session.read_datagram())


async def handle(session: rawquic.RawQuicSession) -> None:
    print("connected:", session.remote_address)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(echo_datagrams(session))
            async for send, recv in session.bi_streams():
                tasks.create_task(echo_stream(send, recv))
    except* rawquic.RawQuicError as errors:
        print("disconnected:", session.remote_address, errors.exceptions[0])


async def main() -> None:
    async with rawquic.serve(handle, "::", 4433, certfile="cert.pem", keyfile="key.pem") as server:
        print("listening on", server.local_address)
        await server.serve_forever()


asyncio.run(main())
