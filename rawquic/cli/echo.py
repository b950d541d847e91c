"""`rawquic echo`: sends to an echo server and compares what comes back."""

import asyncio
import os
import time
from contextlib import AbstractAsyncContextManager
from typing import Any

import click

import rawquic
from rawquic.cli import display, hints
from rawquic.cli.echoing import Advance, compare, echo_stream, patience
from rawquic.cli.options import (
    AT_MOST,
    PORT,
    byte_size,
    host_argument,
    json_option,
    trust_options,
    verbose_option,
)


@click.command()
@host_argument
@click.argument("port", type=PORT, default=4433)
@click.option("--message", help="Text to send (default: hello).")
@click.option(
    "--size",
    type=byte_size,
    metavar="SIZE",
    help=f"Send so many random bytes: 64kB, 16MB; {AT_MOST}.",
)
@click.option(
    "--count",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    help="How many streams, one after another.",
)
@trust_options
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds to wait for the connection, and for any part of an answer.",
)
@json_option
@verbose_option
def echo(
    host: str,
    port: int,
    message: str | None,
    size: int | None,
    count: int,
    trust: dict[str, Any],
    timeout: float,
    as_json: bool,
) -> None:
    """Send to an echo server and verify.

    \b
    Examples:
      rawquic echo 127.0.0.1 4433 --pin SHA256 --message hello
      rawquic echo localhost --cafile cert.pem --size 16MB
      rawquic echo example.org 4433 --insecure --size 1kB --count 1000 --json
    """
    if message is not None and size is not None:
        raise click.UsageError("--message and --size exclude each other")
    if size is None:
        payload = os.fsencode(message if message is not None else "hello")
    else:
        payload = os.urandom(size)
    connecting = rawquic.connect(host, port, timeout=timeout, **trust)
    wanted = not as_json
    with (
        hints.connecting(),
        display.progress("echo", count * len(payload), wanted=wanted) as advance,
    ):
        result = asyncio.run(_echo(connecting, payload, count, timeout, advance))
    if as_json:
        display.print_json(result)
        return
    if size is None:
        for _ in range(count):
            click.echo(payload)
    moved = display.size(result["bytes"])
    rate = f"{display.size(round(result['bytes'] / result['seconds']))}/s"
    click.echo(
        f"{count} times {display.size(len(payload))} echoed and verified: {moved} in "
        f"{display.duration(result['seconds'])}, {rate}, backend {result['backend']}",
        err=True,
    )


async def _echo(
    connecting: AbstractAsyncContextManager[rawquic.RawQuicSession],
    payload: bytes,
    count: int,
    stalled: float,
    advance: Advance,
) -> dict[str, Any]:
    seconds = 0.0
    async with connecting as session:
        for _ in range(count):
            start = time.perf_counter()
            async with patience(stalled, advance) as came_back:
                answer = await echo_stream(session, payload, came_back)
            seconds += time.perf_counter() - start
            digest = compare(payload, answer)
        return {
            "remote_address": list(session.remote_address),
            "backend": session.connection.backend,
            "count": count,
            "size": len(payload),
            "bytes": count * len(payload),
            "seconds": seconds,
            "rtt": session.connection.rtt,
            "sha256": digest,
            "verified": True,
        }
