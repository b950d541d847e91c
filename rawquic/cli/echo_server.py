"""`rawquic echo-server`: answers every bidirectional stream and every datagram with itself."""

import asyncio
from pathlib import Path

import click

from rawquic.cli.echoing import serve_echo
from rawquic.cli.options import listening_options, verbose_option
from rawquic.cli.serving import identity, serve_until_stopped


@click.command("echo-server")
@listening_options
@click.option(
    "--drain",
    type=click.FloatRange(0, 3600),
    default=5.0,
    show_default=True,
    help="Seconds that open sessions get to end after Ctrl-C; a second Ctrl-C ends them at once.",
)
@verbose_option
def echo_server(
    host: str, port: int, certfile: Path | None, keyfile: Path | None, drain: float
) -> None:
    """Send everything back until Ctrl-C.

    That is: every bidirectional stream, and every datagram.

    Without --cert it makes a certificate in memory and prints its SHA-256, to be given to the
    client.

    \b
    Examples:
      rawquic echo-server
      rawquic echo-server --host :: --port 4433 --cert cert.pem --key key.pem
      rawquic echo 127.0.0.1 4433 --pin SHA256
    """
    pair = identity(host, certfile, keyfile)
    asyncio.run(serve_until_stopped(serve_echo, host, port, pair, drain))
