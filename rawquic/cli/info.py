"""`rawquic info`: what runs here, and why."""

import click
from rich.console import Console
from rich.table import Table

import rawquic
from rawquic.cli import display
from rawquic.cli.options import json_option, verbose_option


@click.command()
@json_option
@verbose_option
def info(as_json: bool) -> None:
    """Show which backend runs, and why.

    \b
    Examples:
      rawquic info
      rawquic info --json
      RAWQUIC_BACKEND=python rawquic info
    """
    found = rawquic.backend_info()
    if as_json:
        display.print_json(found)
        return
    table = Table(show_header=False, box=None)
    for key, value in found.items():
        table.add_row(key, display.value(value))
    Console(highlight=False).print(table)
