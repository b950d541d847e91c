"""Puts the commands together, and turns what goes wrong into one line and an exit status.

Exit status: 0 all well, 1 it failed, 2 a wrong argument, 130 interrupted. A traceback is shown for
a defect in rawquic only.
"""

import sys
from collections.abc import Sequence

import click

import rawquic
from rawquic.cli import cert, demo, echo, echo_server, info, perf
from rawquic.cli.echoing import EchoError
from rawquic.cli.options import verbose_option
from rawquic.perf.verify import Corrupted
from rawquic.perf.works import PerfError

INTERRUPTED = 130


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"rawquic {rawquic.__version__}")
        context.exit()


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
@verbose_option
@click.pass_context
def cli(context: click.Context) -> None:
    """Raw QUIC sessions for Python: streams and datagrams over QUIC.

    \b
    rawquic demo                        see it work: nothing else is needed
    rawquic echo-server                 answer every stream and datagram
    rawquic echo 127.0.0.1 4433 …       talk to an echo server
    rawquic COMMAND --help              what a command does, with examples
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (
    demo.demo,
    echo_server.echo_server,
    echo.echo,
    perf.perf,
    cert.cert,
    info.info,
):
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: `sys.argv`); returns the exit status."""
    try:
        status = cli.main(arguments, prog_name="rawquic", standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "rawquic"
        message = error.format_message().removesuffix(".")
        return _fail(f"{message} (see '{where} --help')", error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (rawquic.RawQuicError, EchoError, PerfError, Corrupted, OSError) as error:
        return _fail(_message(error), 1)
    return status if isinstance(status, int) else 0


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:  # without the number of the error
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _fail(message: str, status: int) -> int:
    # The message may quote a peer: one line, and nothing that steers a terminal.
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
    sys.stderr.write(f"rawquic: {line}\n")
    return status
