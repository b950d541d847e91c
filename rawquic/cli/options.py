"""Options and parameter types that more than one command has."""

import functools
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

UNITS = {
    "": 1,
    "B": 1,
    "K": 10**3,
    "KB": 10**3,
    "M": 10**6,
    "MB": 10**6,
    "G": 10**9,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}

AIOQUIC = "quic"

# Both the data and its echo are held in memory.
LARGEST = 2**30
AT_MOST = "at most 1GiB"
PORT = click.IntRange(1, 65535)
PORT_OR_ANY = click.IntRange(0, 65535)
PEM_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def byte_size(text: str) -> int:
    """A number of bytes: 4096, 64kB, 16MB (10^6), 16MiB (2^20)."""
    match = re.fullmatch(r"\s*(\d+)\s*([A-Za-z]*)\s*", text, re.ASCII)
    unit = UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise click.BadParameter(f"{text!r} is no size: write 4096, 64kB, 16MB or 16MiB")
    count = int(match[1]) * unit
    if count > LARGEST:
        raise click.BadParameter(f"{text!r} is over the limit of {LARGEST:,} bytes")
    return count


def _host(_: click.Context, __: click.Parameter, given: str) -> str:
    """A name or an address; with a port behind it, which no host has, a usage error says where."""
    match = re.fullmatch(r"([^:\[\]]+|\[.*\]):(\d+)", given)
    if match:
        apart = f"{match[1].strip('[]')} {match[2]}"
        raise click.BadParameter(f"{given!r}: the port is an argument of its own: write {apart}")
    return given


def sha256(text: str) -> str:
    """A SHA-256 in hex, with or without colons."""
    digits = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise click.BadParameter(f"{text!r} is no SHA-256: it has 64 hex digits")
    return digits


def _set_up_logging(context: click.Context, _: click.Parameter, count: int) -> None:
    """-v: what happens; -vv: everything. Options before and after the command add up."""
    shared = context.ensure_object(dict)
    shared["verbose"] = shared.get("verbose", 0) + count
    level = {0: logging.WARNING, 1: logging.INFO}.get(shared["verbose"], logging.DEBUG)
    if "handler" not in shared:
        shared["handler"] = handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        for name in ("rawquic", AIOQUIC):
            logging.getLogger(name).addHandler(handler)
    logging.getLogger("rawquic").setLevel(level)
    # aioquic logs as a warning what reaches the user as an error.
    logging.getLogger(AIOQUIC).setLevel(level if level < logging.WARNING else logging.CRITICAL)


verbose_option = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    callback=_set_up_logging,
    help="Log what happens on stderr; twice: log everything.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, for a program to read."
)


host_argument = click.argument("host", callback=_host)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order of the help text."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


listening_options = together(
    click.option("--host", default="127.0.0.1", show_default=True, help="'::' for every address."),
    click.option(
        "--port", type=PORT_OR_ANY, default=4433, show_default=True, help="0: any free port."
    ),
    click.option("--cert", "certfile", type=PEM_FILE, help="PEM certificate chain."),
    click.option("--key", "keyfile", type=PEM_FILE, help="PEM private key, if not in --cert."),
)


def trust_options(command: Command) -> Command:
    """Whom to believe; the command gets `trust`, arguments of `rawquic.connect`."""

    @functools.wraps(command)
    def trusting(
        *, pins: tuple[str, ...], cafile: Path | None, insecure: bool, **given: Any
    ) -> Any:
        if insecure and (pins or cafile):
            raise click.UsageError("--insecure takes no --pin and no --cafile")
        trust = {
            "pinned_sha256": pins,
            "cafile": str(cafile) if cafile else None,
            "verify": not insecure,
        }
        return command(trust=trust, **given)

    return together(
        click.option(
            "--pin",
            "pins",
            type=sha256,
            metavar="SHA256",
            multiple=True,
            help="Trust the certificate with this hash, as the server prints it; "
            "repeat it for more.",
        ),
        click.option(
            "--cafile",
            type=PEM_FILE,
            help="Trust these PEM certificates in place of the system's.",
        ),
        click.option("--insecure", is_flag=True, help="Trust any certificate."),
    )(trusting)
