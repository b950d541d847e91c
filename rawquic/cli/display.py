"""How numbers, addresses and progress look on the terminal."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from rawquic.cli.echoing import Advance


def size(count: int) -> str:
    """1234567 → 1.2 MB (10^6)."""
    if count < 1000:
        return f"{count} B"
    power = next((p for p in (1, 2) if count < 999.95 * 1000**p), 3)
    return f"{count / 1000**power:.1f} {'kMG'[power - 1]}B"


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def backend(info: Mapping[str, object]) -> str:
    """One line on what runs, from `rawquic.backend_info()`."""
    others = {k: v for k, v in info.items() if k not in ("backend", "reason")}
    line = f"backend {info['backend']}: " + "; ".join(f"{k} {value(v)}" for k, v in others.items())
    return f"{line} ({info['reason']})" if "reason" in info else line


def value(of: object) -> str:
    """A value of `rawquic.backend_info()`."""
    if isinstance(of, bool):
        return "yes" if of else "no"
    if isinstance(of, list):
        return ", ".join(map(str, of)) or "none"
    return "none" if of is None else str(of)


def print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


@contextmanager
def progress(title: str, total: int, *, wanted: bool) -> Iterator[Advance]:
    """A bar for `total` bytes where standard output is a terminal and a bar is wanted.

    Gives a function to call with the number of bytes that were moved since the last call.
    """
    console = Console()
    if not wanted or not console.is_terminal or total == 0:
        yield _nowhere
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda moved: bar.advance(task, moved)


def _nowhere(moved: int) -> None:
    """Where progress goes that nobody looks at."""
