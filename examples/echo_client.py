"""Sends one stream and one datagram to the echo server, and prints what comes back.

python examples/echo_client.py        (beside cert.pem, which the server uses)
"""

import asyncio

import rawquic


async def main() -> None:
    async with rawquic.connect("127.0.0.1", 4433, cafile="cert.pem") as session:
        print("connected to", session.remote_address)

        send, recv = await session.open_bi()
        async with send:
            await send.write(b"hello, stream")
        print((await recv.read_to_end(limit=65536)).decode())

        session.send_datagram(b"hello, datagram")
        print((await session.read_datagram()).decode())


asyncio.run(main())
