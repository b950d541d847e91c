"""Runs a server until Ctrl-C, with a certificate of its own making where none is given."""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import click

import rawquic
from rawquic.connection.interface import address_text
from rawquic.handler import Handler
from rawquic.selfsigned import certificate_sha256, self_signed

ANY_ADDRESS = ("::", "0.0.0.0")
LOOPBACK = ("localhost", "127.0.0.1", "::1")

Pem = Path | bytes


def identity(host: str, certfile: Path | None, keyfile: Path | None) -> tuple[Pem, Pem | None]:
    """The certificate and key that were given, or new ones in memory."""
    if keyfile is not None and certfile is None:
        raise click.UsageError("--key needs --cert")
    if certfile is not None:
        return certfile, keyfile
    try:
        return self_signed(LOOPBACK if host in ANY_ADDRESS else (*LOOPBACK, host))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--host'") from None


async def serve_until_stopped(
    handler: Handler, host: str, port: int, pair: tuple[Pem, Pem | None], drain: float, **more: Any
) -> None:
    """Serve until SIGINT or SIGTERM; `more` goes to `rawquic.serve`."""
    certfile, keyfile = pair
    server = await rawquic.serve(
        handler, host, port, certfile=certfile, keyfile=keyfile, drain_timeout=drain, **more
    )
    stop = asyncio.Event()

    def interrupt() -> None:
        if stop.is_set():
            server.close()
        stop.set()

    # Where the loop has no signal handlers, Ctrl-C cancels this task.
    with contextlib.suppress(NotImplementedError):
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupt)
    async with server:
        click.echo(f"listening on {address_text(server.local_address)}")
        if isinstance(certfile, bytes):
            click.echo(f"certificate sha256 {certificate_sha256(certfile)}")
        await stop.wait()
        click.echo(f"stopping: {len(server.sessions)} sessions have {drain:g} s to end")
        cut_off = await server.shutdown(drain)
        click.echo(f"stopped, {cut_off} sessions cut off")
