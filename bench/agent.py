"""One end of one stack in a process of its own, steered by JSON lines.

    agent.py server STACK SETTINGS    prints {"port", "pid", "versions"}, serves until stdin ends;
                                      for each line on it prints what `asked` has to tell
    agent.py client STACK SETTINGS    for each line {"work", "host", "port", "options"} on stdin
                                      prints the result, or {"error": why}

The native peers speak the same lines. SETTINGS is `stacks.Settings` as JSON.
"""

import asyncio
import dataclasses
import importlib
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import stacks

from rawquic import perf

TIMEOUT = 120.0


def say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


Asked = Callable[[], dict[str, Any]]


async def server(stack: Any, settings: stacks.Settings, asked: Asked) -> None:
    port = await stack.serve(settings)
    say({"port": port, "pid": os.getpid(), "versions": stack.versions()})
    reader = await lines()
    while await reader.readline():
        say(asked())


async def work(stack: Any, settings: stacks.Settings, order: dict[str, Any]) -> dict[str, Any]:
    options = perf.Options(**order.get("options", {}))
    if not getattr(stack, "BATCHES", False):  # it has no calls for many datagrams
        options = dataclasses.replace(options, batch=False)
    async with stack.connecting(order["host"], order["port"], settings) as connect:
        if order["work"] == "verify":
            return await verify(stack, connect, order)
        run = getattr(stack, "run", perf.run)
        result: perf.Result = await run(order["work"], connect, options)
        return result.as_dict()


async def verify(stack: Any, connect: Any, order: dict[str, Any]) -> dict[str, Any]:
    session = await connect()
    try:
        check = getattr(stack, "verify", perf.verify)
        return {"sha256": await check(session, order.get("size", 1 << 20))}
    finally:
        await session.aclose()


Work = Callable[[Any, stacks.Settings, dict[str, Any]], Awaitable[dict[str, Any]]]


async def client(stack: Any, settings: stacks.Settings, work: Work) -> None:
    say({"pid": os.getpid(), "versions": stack.versions()})
    reader = await lines()
    while line := await reader.readline():
        order = json.loads(line)
        try:
            async with asyncio.timeout(order.get("timeout", TIMEOUT)):
                say(await work(stack, settings, order))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})


def main(work: Work = work, asked: Asked = dict) -> None:
    role, name, raw = sys.argv[1:4]
    settings = stacks.Settings(**json.loads(raw))
    stack = importlib.import_module(stacks.MODULES[name])
    serving = role == "server"
    job = server(stack, settings, asked) if serving else client(stack, settings, work)
    if settings.loop == "uvloop":
        import uvloop

        uvloop.run(job)
    else:
        asyncio.run(job)
    # A stack's own threads must not keep the process.
    sys.stdout.flush()
    if threading.active_count() > 1:
        os._exit(0)


if __name__ == "__main__":
    main()
