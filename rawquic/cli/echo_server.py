"""`rawquic echo-server`: answers every bidirectional stream and every datagram with itself."""

import asyncio
import contextlib
import signal
from pathlib import Path

import click

import rawquic
from rawquic.cli import display
from rawquic.cli.echoing import serve_echo
from rawquic.cli.options import PORT_OR_ANY, verbose_option
from rawquic.selfsigned import certificate_sha256, self_signed

ANY_ADDRESS = ("::", "0.0.0.0")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PEM_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("echo-server")
@click.option("--host", default="127.0.0.1", show_default=True, help="'::' for every address.")
@click.option("--port", type=PORT_OR_ANY, default=4433, show_default=True, help="0: any free port.")
@click.option("--cert", "certfile", type=PEM_FILE, help="PEM certificate chain.")
@click.option("--key", "keyfile", type=PEM_FILE, help="PEM private key, if not in --cert.")
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
    if keyfile is not None and certfile is None:
        raise click.UsageError("--key needs --cert")
    if certfile is not None:
        asyncio.run(_serve(host, port, certfile, keyfile, drain))
        return
    try:
        pair = self_signed(LOOPBACK if host in ANY_ADDRESS else (*LOOPBACK, host))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--host'") from None
    asyncio.run(_serve(host, port, *pair, drain))


async def _serve(
    host: str, port: int, certfile: Path | bytes, keyfile: Path | bytes | None, drain: float
) -> None:
    server = await rawquic.serve(serve_echo, host, port, certfile=certfile, keyfile=keyfile)
    stop = asyncio.Event()
    cut_off = 0

    def interrupt() -> None:
        nonlocal cut_off
        if stop.is_set():
            cut_off += len(server.sessions)
            server.close()
        stop.set()

    # Where the loop has no signal handlers, Ctrl-C cancels this task.
    with contextlib.suppress(NotImplementedError):
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupt)
    async with server:
        click.echo(f"listening on {display.address(server.local_address)}")
        if isinstance(certfile, bytes):
            click.echo(f"certificate sha256 {certificate_sha256(certfile)}")
        await stop.wait()
        click.echo(f"stopping: {len(server.sessions)} sessions have {drain:g} s to end")
        in_the_end = await server.shutdown(drain)  # meanwhile the count may grow
        cut_off += in_the_end
        click.echo(f"stopped, {cut_off} sessions cut off")
