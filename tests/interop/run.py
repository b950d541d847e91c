"""The interoperation check: every peer, in both roles, on both backends, through all cases.

    ci/interop            stock aioquic alone, small transfers: what every run of .ci/run does
    ci/interop --full     all peers, 100 MB each way (20 MB without the extension)

A row is a peer and a role of ours, a cell is one case. What a peer cannot be is "n/a", a peer that
cannot be had is "absent", both with the reason. Ends with 1 where a cell failed, or none was run.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "bench"))

import certificates
import environments
import machine
from environments import CACHE, Absent, say
from pairs import Failed, Runner
from peers import COLUMNS, LOSSY, OTHER, PEERS, Peer, Row, rows
from relay import running

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
BACKENDS = ["compiled", "python"]
SHORT_PEERS = ["aioquic"]
MB = 1_000_000
SHORT_SIZE = 2 * MB
FULL_SIZE = {"compiled": 100 * MB, "python": 20 * MB}
SHORT_SECONDS, FULL_SECONDS = 20.0, 120.0  # a cell's
OK, FAILED = "ok", "FAILED"


@dataclass
class Outcome:
    """Of one row.

    Attributes:
        instead: what there is in place of the cells, where it cannot be run.
        reasons: of the columns that failed.
        validated: the columns in which a path was found capable of ECN by our end.
        versions: of both ends, by role.
    """

    row: Row
    instead: str | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    validated: set[str] = field(default_factory=set)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def cells(self, columns: Sequence[str]) -> list[str]:
        return [FAILED if column in self.reasons else OK for column in columns]


def program(peer: Peer) -> Path | Absent:
    """What runs a peer; made where it is not there."""
    if peer.name == "aioquic":
        return Path(sys.executable)
    if peer.python is not None:
        return environments.python_peer(peer.name, minor=peer.python)
    return environments.cargo_peer(peer.name)


def backend_absent(backend: str) -> str | None:
    if backend == "compiled" and importlib.util.find_spec("rawquic._fastpath") is None:
        return "the extension is not built here"
    return None


class Check:
    def __init__(self, options: argparse.Namespace) -> None:
        self.full: bool = options.full
        self.seconds = FULL_SECONDS if self.full else SHORT_SECONDS
        self.columns: Sequence[str] = options.columns or list(COLUMNS)
        wanted = options.peers or ([p.name for p in PEERS] if self.full else SHORT_PEERS)
        self.peers = [peer for peer in PEERS if peer.name in wanted]
        self.rows = list(rows(self.peers, options.backends or BACKENDS))
        self.programs = {peer.name: program(peer) for peer in self.peers}
        self.programs["rawquic"] = Path(sys.executable)
        self.logs = CACHE / "interop"
        self.logs.mkdir(parents=True, exist_ok=True)
        for log in self.logs.glob("*.log"):
            log.unlink()
        self.files = certificates.write(self.logs)

    def size(self, backend: str) -> int:
        return FULL_SIZE[backend] if self.full else SHORT_SIZE

    def run(self, row: Row) -> Outcome:
        outcome = Outcome(row)
        runner = Runner(row.pair, self.programs, self.files, self.logs, agent=HERE / "end.py")
        absent = runner.absent or backend_absent(row.backend)
        if row.impossible or absent:
            outcome.instead = f"n/a: {row.impossible}" if row.impossible else f"absent: {absent}"
            return outcome
        try:
            for column in self.columns:
                try:
                    told = self.cell(runner, row, column)
                    if "capable" in told.get("ecn", ()):
                        outcome.validated.add(column)
                except Failed as error:
                    outcome.reasons[column] = str(error)
        finally:
            runner.stop()
        outcome.versions = runner.versions
        return outcome

    def cell(self, runner: Runner, row: Row, column: str) -> dict[str, Any]:
        """Run one case; what our end tells of it. Raises Failed."""
        case = COLUMNS[column][row.role]
        options: dict[str, int] = {"size": self.size(row.backend)}
        if row.role == "client":
            options["refusal"] = row.peer.refusal
        if column == "lossy":
            with running(("127.0.0.1", runner.port), LOSSY) as relay:
                told = runner.run("", options, timeout=self.seconds, port=relay.port, case=case)
        else:
            told = runner.run("", options, timeout=self.seconds, case=case)
        return told if row.role == "client" else runner.ask_server()


def line(first: Sequence[str], columns: Sequence[str], cells: Sequence[str]) -> str:
    padded = [cell.ljust(len(column)) for column, cell in zip(columns, cells, strict=True)]
    return "  ".join([f"{first[0]:8} {first[1]:6} {first[2]:8}", *padded]).rstrip()


def show(check: Check, outcome: Outcome) -> None:
    names = outcome.row.names
    if outcome.instead is None:
        print(line(names, check.columns, outcome.cells(check.columns)), flush=True)
    else:
        print(line(names, [""], [outcome.instead]), flush=True)


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    return [
        f"{FAILED}: {', '.join(outcome.row.names)}, {column}: {reason}"
        for outcome in outcomes
        for column, reason in outcome.reasons.items()
    ]


def markdown(check: Check, outcomes: Sequence[Outcome], seconds: float) -> str:
    sizes = ", ".join(f"{check.size(name) // MB} MB on {name}" for name in BACKENDS)
    text = [
        f"# Interoperation, {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        f"`ci/interop{' --full' if check.full else ''}`, {seconds:.0f} s. Data: {sizes}.",
        "[What the columns are.](../../../docs/interoperation.md)",
        "",
        "| peer | our end | backend | " + " | ".join(check.columns) + " |",
        "|---" * (3 + len(check.columns)) + "|",
    ]
    versions: dict[str, dict[str, str]] = {}
    for outcome in outcomes:
        cells = [
            f"{cell}, ECN" if column in outcome.validated else cell
            for column, cell in zip(check.columns, outcome.cells(check.columns), strict=True)
        ]
        if outcome.instead is not None:
            cells = [outcome.instead, *[""] * (len(check.columns) - 1)]
        text.append(f"| {' | '.join([*outcome.row.names, *cells])} |")
        role = outcome.row.role
        if outcome.versions:
            versions[f"rawquic, {outcome.row.backend}"] = outcome.versions[role]
            versions[outcome.row.peer.name] = outcome.versions[OTHER[role]]
    text += ["", *[f"- {failure}" for failure in failures(outcomes)]]
    for name, told in sorted(versions.items()):
        text.append(f"- {name}: " + ", ".join(f"{key} {value}" for key, value in told.items()))
    facts = machine.facts()
    machine_line = f"- machine: {facts['cores']} cores of {facts['cpu']}, {facts['kernel']}"
    return "\n".join([*text, f"{machine_line}, Python {facts['python']}", ""])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ci/interop", description="Does rawquic talk to others?")
    parser.add_argument("--full", action="store_true", help="all peers and large transfers")
    parser.add_argument("--peers", nargs="+", choices=[p.name for p in PEERS], metavar="PEER")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, metavar="BACKEND")
    parser.add_argument("--columns", nargs="+", choices=list(COLUMNS), metavar="COLUMN")
    parser.add_argument(
        "--output",
        type=Path,
        help="write Markdown there; a --full run of everything writes its own",
    )
    return parser.parse_args()


def main() -> int:
    options = arguments()
    started = time.monotonic()
    check = Check(options)
    print(line(["peer", "ours", "backend"], check.columns, check.columns), flush=True)
    outcomes = []
    for row in check.rows:
        outcomes.append(check.run(row))
        show(check, outcomes[-1])
    seconds = time.monotonic() - started
    for failure in failures(outcomes):
        print(failure)
    whole = not (options.peers or options.backends or options.columns)
    output = options.output
    if output is None and options.full and whole:
        RESULTS.mkdir(exist_ok=True)
        output = RESULTS / f"{time.strftime('%Y-%m-%d', time.gmtime())}.md"
    if output is not None:
        output.write_text(markdown(check, outcomes, seconds))
        say(f"written to {output}")
    failed = sum(len(outcome.reasons) for outcome in outcomes)
    run = len(check.columns) * sum(outcome.instead is None for outcome in outcomes)
    absent = {o.row.peer.name for o in outcomes if o.instead and not o.row.impossible}
    told = f", absent: {', '.join(sorted(absent))}" if absent else ""
    print(f"interop: {run - failed} ok, {failed} failed{told}; {seconds:.0f} s")
    return 1 if failed or not run else 0


if __name__ == "__main__":
    sys.exit(main())
