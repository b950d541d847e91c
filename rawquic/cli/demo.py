"""`rawquic demo`: a server and a client in one process, and proof that every byte came back."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import click
from rich import box
from rich.console import Console
from rich.table import Table

import rawquic
from rawquic.cli import display
from rawquic.cli.echoing import (
    Advance,
    EchoError,
    compare,
    echo_datagrams,
    echo_stream,
    patience,
    serve_echo,
)
from rawquic.cli.options import AT_MOST, byte_size, json_option, verbose_option
from rawquic.selfsigned import self_signed

NAME = "localhost"
LOOPBACK = "127.0.0.1"
STALLED = 30.0

SMALL = [64] * 200
# An empty stream, the edges of a packet and of a read, and a size that is a multiple of nothing.
MANY_SIZES = [0, 1, 1199, 1200, 1201, 16_383, 65_536, 1_000_003]
AT_ONCE = [100_000] * 32
DATAGRAMS = 2000
DATAGRAM_SIZE = 1000


@dataclass
class Row:
    """One step of the demonstration: what was echoed, how long it took, what went wrong."""

    what: str
    count: int
    bytes: int
    seconds: float = 0.0
    lost: int = 0
    error: str | None = None


@click.command()
@click.option(
    "--size",
    type=byte_size,
    metavar="SIZE",
    default="16MB",
    show_default=True,
    help=f"Size of the one large stream, {AT_MOST}.",
)
@json_option
@verbose_option
def demo(size: int, as_json: bool) -> int:
    """See it work: echo over loopback.

    Makes a certificate in memory, starts an echo server on a free port, connects to it (the
    certificate is verified) and sends random data. The exit status is 0 only when all of it came
    back unchanged.

    \b
    Examples:
      rawquic demo
      rawquic demo --size 200MB
      rawquic demo --json
      RAWQUIC_BACKEND=python rawquic demo
    """
    total = sum(SMALL) + sum(MANY_SIZES) + sum(AT_ONCE) + size + DATAGRAMS * DATAGRAM_SIZE
    with display.progress("echo", total, wanted=not as_json) as advance:
        rows = asyncio.run(_run(size, advance))
    failed = [row for row in rows if row.error]
    backend = rawquic.backend_info()
    if as_json:
        steps = [asdict(row) for row in rows]
        display.print_json({"ok": not failed, "backend": backend, "steps": steps})
    else:
        _print_table(rows, backend)
    for row in failed:
        click.echo(f"rawquic: {row.what}: {row.error}", err=True)
    return 1 if failed else 0


async def _run(size: int, advance: Advance) -> list[Row]:
    """Every step, up to the first one that fails."""
    certificate, key = self_signed([NAME])
    async with rawquic.serve(serve_echo, LOOPBACK, 0, certfile=certificate, keyfile=key) as server:
        port = server.local_address[1]
        async with rawquic.connect(LOOPBACK, port, server_name=NAME, cadata=certificate) as session:
            return await _steps(session, size, advance)


async def _steps(session: rawquic.RawQuicSession, size: int, advance: Advance) -> list[Row]:
    streams = (
        ("small ones", SMALL, 1),
        ("many sizes", MANY_SIZES, 1),
        ("many at once", AT_ONCE, len(AT_ONCE)),
        ("one large", [size], 1),
    )
    rows: list[Row] = []
    for what, sizes, at_once in streams:
        rows.append(await _echo_streams(session, what, sizes, at_once, advance))
        if rows[-1].error:
            return rows
    rows.append(await _echo_datagrams(session, advance))
    return rows


async def _echo_streams(
    session: rawquic.RawQuicSession,
    what: str,
    sizes: Sequence[int],
    at_once: int,
    advance: Advance,
) -> Row:
    """Echo a stream of each size, `at_once` at a time; compare when the clock has stopped."""
    payloads = [os.urandom(size) for size in sizes]
    row = Row(what, len(payloads), sum(sizes))
    room = asyncio.Semaphore(at_once)

    async def echo(payload: bytes, came_back: Advance) -> bytes:
        async with room:
            return await echo_stream(session, payload, came_back)

    start = time.perf_counter()
    try:
        async with patience(STALLED, advance) as came_back:
            answers = await asyncio.gather(*(echo(payload, came_back) for payload in payloads))
        row.seconds = time.perf_counter() - start
        for payload, answer in zip(payloads, answers, strict=True):
            compare(payload, answer)
    except (EchoError, rawquic.RawQuicError) as error:
        row.error = str(error)
    return row


async def _echo_datagrams(session: rawquic.RawQuicSession, advance: Advance) -> Row:
    row = Row("datagrams", DATAGRAMS, 0)
    start = time.perf_counter()
    try:
        size = min(DATAGRAM_SIZE, session.max_datagram_size or 0)
        tally = await echo_datagrams(session, DATAGRAMS, size, advance)
        row.seconds = time.perf_counter() - start
        row.bytes, row.lost = tally.returned * size, tally.lost
        if not tally.returned:
            row.error = "none came back"
    except (EchoError, rawquic.RawQuicError) as error:
        row.error = str(error)
    return row


def _print_table(rows: Sequence[Row], backend: Mapping[str, object]) -> None:
    table = Table(
        title="echoed over loopback, client and server in one process",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in ("streams", "count", "bytes", "time", "rate", "per s", "checked"):
        table.add_column(column, justify="left" if column == "streams" else "right", no_wrap=True)
    for row in rows:
        verdict = "wrong" if row.error else f"{row.lost} lost" if row.lost else "verified"
        table.add_row(
            row.what,
            f"{row.count:,}",
            display.size(row.bytes),
            display.duration(row.seconds) if row.seconds else "",
            f"{display.size(round(row.bytes / row.seconds))}/s" if row.seconds else "",
            f"{row.count / row.seconds:,.0f}" if row.seconds and row.count > 1 else "",
            verdict,
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(display.backend(backend), soft_wrap=True)
