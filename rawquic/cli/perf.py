"""`rawquic perf server` and `rawquic perf client`: how fast it is, by the perf protocol."""

import asyncio
import contextlib
import dataclasses
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import rawquic
from rawquic.backend import BACKEND, CHOICES
from rawquic.cli import display, hints
from rawquic.cli.options import (
    AT_MOST,
    PORT,
    Command,
    byte_size,
    host_argument,
    json_option,
    listening_options,
    together,
    trust_options,
    verbose_option,
)
from rawquic.cli.serving import identity, serve_until_stopped
from rawquic.perf import ALPN, WORKS, Options, Result, run, serve_perf, verify
from rawquic.perf.interface import Connect
from rawquic.perf.protocol import WORD
from rawquic.perf.works import DATAGRAM_HEAD

RAN = ("RAWQUIC_PERF_BACKEND", "1")  # set once the chosen backend runs
TICK = 0.1
MARGIN = 2.0  # a work takes about twice its duration, with what comes before it
OF_A_WORK = [field.name for field in dataclasses.fields(Options) if field.name != "batch"]
OF_DATAGRAMS = frozenset({"datagrams", "datagram-echo"})
USUAL = tuple(name for name in WORKS if name not in ("idle", "hashed-download"))


@click.group()
def perf() -> None:
    """Measure throughput, latency and handshakes.

    Speaks the draft "QUIC performance" protocol, ALPN "perf", as quinn's perf and others do.

    \b
    Examples:
      rawquic perf server
      rawquic perf client 127.0.0.1 4433 --pin SHA256
    """


def size_option(name: str, default: str, told: str, least: int = 0) -> Callable[[Command], Command]:
    def checked(text: str) -> int:
        count = byte_size(text)
        if count < least:
            raise click.BadParameter(f"{text!r} is too small: it must be at least {least} bytes")
        return count

    return click.option(
        name, type=checked, metavar="SIZE", default=default, show_default=True, help=told
    )


# Of both ends: how connections are set up.
transport_options = together(
    click.option(
        "--udp-payload",
        type=click.IntRange(1200, 65527),
        default=1452,
        show_default=True,
        help="Bytes of UDP payload of a packet.",
    ),
    size_option("--stream-window", "4MiB", "Unread bytes that a stream may hold."),
    size_option("--receive-window", "8MiB", "The same of all streams together."),
    size_option("--send-window", "4MiB", "Written bytes that wait for their ACK, at most."),
    click.option(
        "--congestion",
        type=click.Choice(["cubic", "newreno"]),
        default="cubic",
        show_default=True,
        help="Congestion control.",
    ),
    click.option(
        "--cipher",
        type=click.Choice(["aes-128", "aes-256", "chacha20"]),
        default="aes-128",
        show_default=True,
        help="What encrypts packets, GCM with AES.",
    ),
    click.option("--no-gso", is_flag=True, help="No segmentation offload."),
    click.option("--no-gro", is_flag=True, help="No receive offload."),
    click.option(
        "--backend",
        type=click.Choice(CHOICES),
        default=None,
        help="As the variable RAWQUIC_BACKEND.",
    ),
)


CIPHERS = {
    "aes-128": "TLS_AES_128_GCM_SHA256",
    "aes-256": "TLS_AES_256_GCM_SHA384",
    "chacha20": "TLS_CHACHA20_POLY1305_SHA256",
}
MANY_STREAMS = 10_000


def _config(given: Mapping[str, Any]) -> rawquic.Config:
    return rawquic.Config(
        initial_mtu=given["udp_payload"],
        mtu_upper_bound=given["udp_payload"],
        stream_receive_window=given["stream_window"],
        receive_window=given["receive_window"],
        send_window=given["send_window"],
        congestion_control=given["congestion"],
        cipher_suites=(CIPHERS[given["cipher"]],),
        enable_gso=not given["no_gso"],
        enable_gro=not given["no_gro"],
        max_concurrent_bidi_streams=MANY_STREAMS,
        max_concurrent_uni_streams=MANY_STREAMS,
    )


def _ensure_backend(wanted: str | None) -> None:
    """The backend is chosen when rawquic is imported: begin again where another is wanted."""
    if wanted in (None, "auto", BACKEND) or os.environ.get(RAN[0]) == RAN[1]:
        return
    os.environ.update({"RAWQUIC_BACKEND": str(wanted), RAN[0]: RAN[1]})
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "rawquic", *sys.argv[1:]])


@perf.command()
@listening_options
@transport_options
@verbose_option
def server(
    host: str,
    port: int,
    certfile: Path | None,
    keyfile: Path | None,
    backend: str | None,
    **given: Any,
) -> None:
    """Answer perf clients until Ctrl-C.

    Without --cert it makes a certificate in memory and prints its SHA-256, to be given to the
    client.

    \b
    Examples:
      rawquic perf server
      rawquic perf server --host :: --cert cert.pem --key key.pem
    """
    _ensure_backend(backend)
    pair = identity(host, certfile, keyfile)
    config = _config(given)
    serving = serve_until_stopped(serve_perf, host, port, pair, 0.0, alpn=(ALPN,), config=config)
    asyncio.run(serving)


@perf.command()
@host_argument
@click.argument("port", type=PORT, default=4433)
@click.option(
    "--work",
    "works",
    type=click.Choice(list(WORKS)),
    multiple=True,
    help="What to measure; repeat it for more (default: all but idle and hashed-download).",
)
@click.option(
    "--duration",
    type=click.FloatRange(0, 3600, min_open=True),
    default=2.0,
    show_default=True,
    help="Seconds that each work measures, about.",
)
@click.option(
    "--size",
    type=byte_size,
    metavar="SIZE",
    help=f"Of a transfer, in place of a time; {AT_MOST}.",
)
@click.option("--count", type=click.IntRange(1), help="Requests and the like, in place of a time.")
@click.option(
    "--streams",
    type=click.IntRange(1, MANY_STREAMS),
    default=1,
    show_default=True,
    help="That share a transfer, on each connection.",
)
@click.option(
    "--open-streams",
    type=click.IntRange(0, MANY_STREAMS),
    default=0,
    help="Streams held open during a transfer.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 100_000),
    default=1,
    show_default=True,
    help="That share a work; how many idle ones.",
)
@click.option(
    "--at-once",
    type=click.IntRange(1, MANY_STREAMS),
    default=1,
    show_default=True,
    help="Requests or handshakes under way, on each connection.",
)
@size_option("--request-size", "64", f"Of a request, its head of {WORD} bytes included.", WORD)
@size_option("--answer-size", "64", "Of its answer.")
@size_option(
    "--datagram-size",
    "1100",
    f"Of a datagram: {DATAGRAM_HEAD} to what fits into a packet.",
    DATAGRAM_HEAD,
)
@click.option(
    "--window", type=click.IntRange(1), default=256, show_default=True, help="Datagrams in flight."
)
@click.option("--one-by-one", is_flag=True, help="Datagrams: a call for each one.")
@click.option(
    "--verify/--no-verify", "proved", default=True, help="First move random bytes and compare."
)
@trust_options
@click.option("--server-name", help="To be verified, in place of HOST.")
@transport_options
@json_option
@verbose_option
def client(
    host: str,
    port: int,
    works: Sequence[str],
    one_by_one: bool,
    proved: bool,
    trust: dict[str, Any],
    server_name: str | None,
    backend: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure the perf server at HOST PORT.

    By default that is a transfer each way and both at once, requests, datagrams and handshakes, one
    after the other: about 20 seconds. --work chooses from them, --duration makes it shorter.

    \b
    Examples:
      rawquic perf client 127.0.0.1 4433 --pin SHA256
      rawquic perf client localhost --cafile cert.pem --work download --size 1GiB --json
      rawquic perf client ::1 --insecure --work requests --at-once 100 --connections 4
    """
    _ensure_backend(backend)
    options = Options(batch=not one_by_one, **{name: given[name] for name in OF_A_WORK})
    trust["server_name"] = server_name
    chosen = works or USUAL

    async def measure() -> tuple[dict[str, str], list[Result]]:
        async with _connecting(host, port, _config(given), trust) as connect:
            session = await connect()
            if OF_DATAGRAMS.intersection(chosen):
                _check_datagram_size(options.datagram_size, session.max_datagram_size)
            digests = await verify(session) if proved else {}
            await session.aclose()
            return digests, await _run_all(connect, chosen, options, shown=not as_json)

    with hints.connecting():
        digests, results = asyncio.run(measure())
    backend_info = rawquic.backend_info()
    if as_json:
        rows = [result.as_dict() for result in results]
        display.print_json({"backend": backend_info, "verified": digests, "works": rows})
        return
    _print_table(results, bool(digests))
    Console(highlight=False).print(display.backend(backend_info), soft_wrap=True)


def _check_datagram_size(wanted: int, limit: int | None) -> None:
    if limit is not None and wanted > limit:
        raise click.BadParameter(
            f"{wanted} is too large: datagrams have at most {limit} bytes on this connection",
            click.get_current_context(),
            param_hint="'--datagram-size'",
        )


@contextlib.asynccontextmanager
async def _connecting(
    host: str, port: int, config: rawquic.Config, trust: dict[str, Any]
) -> AsyncIterator[Connect]:
    async with rawquic.Endpoint(config=config) as endpoint:

        async def connect() -> rawquic.RawQuicSession:
            return await endpoint.connect(host, port, alpn=(ALPN,), **trust)

        yield connect


async def _run_all(
    connect: Connect, works: Sequence[str], options: Options, *, shown: bool
) -> list[Result]:
    results = []
    with _progress(works, options, wanted=shown) as begin:
        for work in works:
            ticking = asyncio.ensure_future(begin(work))
            try:
                results.append(await run(work, connect, options))
            finally:
                ticking.cancel()
    return results


@contextlib.contextmanager
def _progress(
    works: Sequence[str], options: Options, *, wanted: bool
) -> Iterator[Callable[[str], Any]]:
    """A bar over all works, by time, on a terminal; gives a coroutine that moves it."""
    console = Console()
    if not wanted or not console.is_terminal:
        yield _nothing
        return
    columns = (TextColumn("{task.description:14}"), BarColumn(), TimeElapsedColumn())
    each = MARGIN * options.duration
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=each * len(works))

        async def begin(work: str) -> None:
            start = each * list(works).index(work)
            bar.update(task, description=work, completed=start)
            moved = 0.0
            while moved + TICK < each:
                await asyncio.sleep(TICK)
                moved += TICK
                bar.update(task, completed=start + moved)

        yield begin


async def _nothing(work: str) -> None:
    """Progress that nobody looks at."""


LATENCIES = ("p50", "p90", "p99", "max")
TAKEN = (
    "CPU s\nclient",
    "CPU s\nserver",
    "packets per call\nout, in",
    "packets\nlost",
    "sent\nagain",
)


def _print_table(results: Sequence[Result], proved: bool) -> None:
    """How fast, and what it took, in two tables: both fit into 80 columns."""
    title = "rawquic perf" + (", every byte of the proof came back" if proved else "")
    fast = _table(title, "work", "rate", *(f"{name} µs" for name in LATENCIES))
    took = _table("", "work", *TAKEN)
    for result in results:
        told = result.latency
        latencies = (f"{told[name]:,.0f}" if told else "" for name in LATENCIES)
        fast.add_row(result.work, _rate(result), *latencies)
        took.add_row(
            result.work,
            _seconds(result.client_cpu),
            _seconds(result.server_cpu),
            _per_call(result),
            str(result.lost or result.client_counters.get("packets_lost", 0)),
            display.size(
                result.client_counters.get("bytes_retransmitted", 0)
                + result.server_counters.get("bytes_retransmitted", 0)
            ),
        )
    Console(highlight=False).print(fast, "", took)


def _table(title: str, first: str, *others: str) -> Table:
    # A figure that does not fit goes on in the next line, and is never cut.
    table = Table(title=title, title_justify="left", show_edge=False)
    table.add_column(first, overflow="fold")
    for column in others:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _rate(result: Result) -> str:
    if result.server_rss_per_session is not None:
        return f"{display.size(result.server_rss_per_session)} each"
    if result.work in ("download", "upload", "both", "datagrams"):
        return f"{result.megabytes_per_second:,.1f} MB/s"
    return f"{result.per_second:,.0f} /s"


def _seconds(cpu: float | None) -> str:
    return "" if cpu is None else f"{cpu:.2f}"


def _per_call(result: Result) -> str:
    """Packets per system call of the client's socket, sending and receiving."""
    counted = result.client_counters

    def one(way: str, done: str) -> str:
        calls = counted.get(f"socket_{way}_calls", 0)
        return f"{counted[f'socket_datagrams_{done}'] / calls:.1f}" if calls else "-"

    return f"{one('send', 'sent')}, {one('receive', 'received')}"
