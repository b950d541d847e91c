"""Downloads over links that lose, delay, reorder, duplicate, corrupt and hold back packets.

The bytes are random and hashed at both ends. All stacks take turns, and in a round they meet the
same seed. What is asked of rawquic: every byte right, goodput at least stock aioquic's and 0.8 of
quinn's, and no stall at the reader beyond twice the time that the whole transfer was expected to
take, which is what the quickest of the others took.
"""

# ruff: noqa: RUF001 (dashes and signs are those of the text)

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from comparison import Comparison
from figures import ratios
from matrix import MBS, OURS, PAIRS, Mode, Work
from pairs import Runner
from relay import Impairment, running
from report import machine_line, number, ratio, table, versions_table

STACKS = (OURS, "aioquic", "quinn", "rawquic-python")
BARS = {"aioquic": 1.0, "quinn": 0.8}  # what our goodput is to be, by theirs
STALL_FACTOR = 2.0
ROUNDS = {"full": 5, "quick": 1, "smoke": 1}
SHARE = {"full": 1, "quick": 4, "smoke": 40}  # a transfer is that part of its full size
LEAST = 100_000
PATIENCE = 60.0
MB = 1_000_000


@dataclass(frozen=True)
class Condition:
    """A link, the same both ways, and how much is downloaded over it."""

    name: str
    size: int
    impairment: Impairment

    @property
    def what(self) -> str:
        """In words."""
        is_ = self.impairment
        parts = [
            f"{getattr(is_, name) * 100:g} % {name}"
            for name in ("loss", "reordering", "duplication", "corruption")
            if getattr(is_, name)
        ]
        if is_.rate:
            parts.append(f"{is_.rate * 8 / 1e6:g} Mbit/s, {is_.queue} packets wait")
        parts.append(f"{is_.delay * 1e3:g} ms one way" if is_.delay else "no delay")
        return ", ".join(parts)


NEAR = 0.005  # seconds one way: a round trip of 10 ms, in which a link and not a CPU is the limit
CONDITIONS = (
    Condition("relay-alone", 20 * MB, Impairment()),
    Condition("loss-1", 8 * MB, Impairment(loss=0.01)),
    Condition("loss-5", 4 * MB, Impairment(loss=0.05)),
    Condition("loss-1-near", 3 * MB, Impairment(loss=0.01, delay=NEAR)),
    Condition("loss-5-near", 1 * MB, Impairment(loss=0.05, delay=NEAR)),
    Condition("delay-20", 8 * MB, Impairment(delay=0.020)),
    Condition("delay-100", 8 * MB, Impairment(delay=0.100)),
    Condition("reordering-2", 4 * MB, Impairment(reordering=0.02, delay=NEAR)),
    Condition("duplication-1", 8 * MB, Impairment(duplication=0.01, delay=NEAR)),
    Condition("corruption-0.1", 8 * MB, Impairment(corruption=0.001, delay=NEAR)),
    Condition("bottleneck", 2 * MB, Impairment(rate=1.25e6, queue=25, delay=NEAR)),
)


class Impaired(Comparison):
    """The works are the conditions; each sample has a relay of its own."""

    def __init__(self, mode: Mode, pairs: Sequence[str] | None) -> None:
        mode = Mode(mode.name, 0.0, ROUNDS[mode.name], 0)
        self.conditions = {condition.name: condition for condition in CONDITIONS}
        self.sizes = {c.name: max(LEAST, c.size // SHARE[mode.name]) for c in CONDITIONS}
        works = [
            Work(c.name, "hashed-download", MBS, c.what, {"size": self.sizes[c.name]})
            for c in CONDITIONS
        ]
        chosen = (p for p in PAIRS if p.name in (pairs or STACKS) and p.client.stack != "tls")
        super().__init__(mode, works, [replace(pair, works=None) for pair in chosen])

    def sample(
        self, runner: Runner, work: Work, options: dict[str, Any], number: int
    ) -> dict[str, Any]:
        impairment = self.conditions[work.name].impairment
        with running(("127.0.0.1", runner.port), impairment, seed=2 * number + 1) as relay:
            result = runner.run(work.work, options, timeout=PATIENCE, port=relay.port)
        return {**result, "relay": relay.counts}

    def told(self) -> dict[str, Any]:
        """What `Comparison` tells, with the stalls, the relay's counts and the verdicts."""
        result = self.run()
        result["conditions"] = {
            c.name: {"what": c.what, "size": self.sizes[c.name], **asdict(c.impairment)}
            for c in CONDITIONS
        }
        for row in result["rows"]:
            samples = self.results[row["work"]][row["pair"]].values()
            row["stalls"] = [sample["stall"] for sample in samples]
            row["relay"] = [sample["relay"] for sample in samples]
            row["unmeant"] = sum(sample["relay"]["unmeant"] for sample in samples)
        result["verdicts"] = [v for work in self.works for v in self.verdicts(work)]
        return result

    def verdicts(self, work: Work) -> list[dict[str, Any]]:
        """Each thing that is asked of rawquic in this condition, and whether it holds."""
        values, taken = self.values(work), self.results[work.name]
        ours = values.get(OURS)
        if not ours:
            return [{"work": work.name, "asked": "every byte right", "holds": False}]
        found: list[dict[str, Any]] = [
            {"work": work.name, "asked": "every byte right", "holds": len(ours) == self.mode.rounds}
        ]
        # Without impairment processors are the limit, and the relay's is one of them; what is tiny
        # says nothing.
        if self.conditions[work.name].impairment == Impairment() or self.mode.name == "smoke":
            return found
        for other, bar in BARS.items():
            if told := ratios(ours, values.get(other, {})):
                asked = f"goodput ≥ {bar:g} × {other}'s"
                holds = told["median"] >= bar
                found.append({"work": work.name, "asked": asked, **told, "holds": holds})
        others = [
            statistics.median(sample["seconds"] for sample in taken[name].values())
            for name in BARS
            if taken.get(name)
        ]
        if others:
            expected = min(others)
            stalls = [sample["stall"] / expected for sample in taken[OURS].values()]
            told = {"median": statistics.median(stalls), "low": min(stalls), "high": max(stalls)}
            asked = f"no stall over {STALL_FACTOR:g} × the expected {expected:.2f} s"
            holds = told["high"] <= STALL_FACTOR
            found.append({"work": work.name, "asked": asked, **told, "holds": holds})
        return found


def run(mode: Mode, pairs: Sequence[str] | None) -> dict[str, Any]:
    return Impaired(mode, pairs).told()


Row = Mapping[str, Any]


def _row(result: Row, work: str, pair: str) -> Row | None:
    return next((r for r in result["rows"] if (r["work"], r["pair"]) == (work, pair)), None)


def overview(result: Row) -> str:
    """Each condition: goodput of each stack, ours by theirs, and our longest stall."""
    pairs = [name for name, pair in result["pairs"].items() if not pair["absent"]]
    lines = []
    for work, about in result["works"].items():
        cells = [f"{work}: {about['what']}"]
        for pair in pairs:
            row = _row(result, work, pair)
            cells.append("–" if row is None else number(row["median"]))
        verdicts = [v for v in result["verdicts"] if v["work"] == work]
        for other in BARS:
            found = next((v for v in verdicts if v["asked"].endswith(f"{other}'s")), None)
            cells.append(ratio(found))
        ours = _row(result, work, OURS)
        cells.append(f"{max(ours['stalls']) * 1e3:,.0f}" if ours else "–")
        wrong = [v["asked"] for v in verdicts if not v["holds"]]
        cells.append("**not**: " + "; ".join(wrong) if wrong else "yes")
        lines.append(cells)
    head = ["link", *(f"{pair}, MB/s" for pair in pairs)]
    head += [f"ours ÷ {other}" for other in BARS]
    return table([*head, "our longest stall, ms", "all that is asked"], lines)


def _detail(result: Row) -> str:
    lines = []
    for row in result["rows"]:
        down = [counts["down"] for counts in row["relay"]]

        def total(*names: str, down: Sequence[Mapping[str, int]] = down) -> str:
            return f"{sum(counts[name] for counts in down for name in names):,}"

        lines.append(
            [
                row["work"],
                row["pair"],
                number(row["median"]),
                f"{number(row['low'])}–{number(row['high'])}",
                f"{max(row['stalls']) * 1e3:,.0f}",
                total("packets"),
                total("lost", "queue_full"),
                total("reordered", "duplicated", "corrupted"),
                str(row["unmeant"]),
            ]
        )
    head = ["link", "stack", "MB/s", "lowest–highest", "longest stall, ms"]
    head += ["packets down", "lost", "treated otherwise", "lost and not meant"]
    return table(head, lines)


HOW = """\
Downloads of random bytes on fresh connections (congestion windows are closed at the start), hashed
at both ends, by way of `bench/relay.py`, which does the same to both directions. Goodput is the
median over the rounds; ratios are taken within each round, then their median (lowest–highest). In a
round all stacks meet the same seed. "Stall" is the longest time without progress at the reader, the
wait for the first byte included. "Expected" is what the quicker of aioquic and quinn took in the
median. "relay-alone" is what the relay itself lets through. What the relay lost without being meant
to must be 0. See `docs/benchmarks.md`."""


def write(result: Row, folder: Path) -> Path:
    target = folder / f"{result['name']}.md"
    asked = table(
        ["link", "asked", "measured", "holds"],
        [
            [
                v["work"],
                v["asked"],
                ratio(v if "median" in v else None),
                "yes" if v["holds"] else "**no**",
            ]
            for v in result["verdicts"]
        ],
    )
    parts = [
        f"# Impaired links, {result['date']} ({result['mode']['name']}, "
        f"{result['mode']['rounds']} rounds)",
        machine_line(result["machine"]),
        HOW,
        overview(result),
        "## What is asked of rawquic",
        asked,
        "## Each link and stack",
        _detail(result),
        "## What ran",
        versions_table(result),
    ]
    if result["failures"]:
        failed = [[f["pair"], f["work"], f["error"]] for f in result["failures"]]
        parts += ["## What failed", table(["stack", "link", "error"], failed)]
    target.write_text("\n\n".join(parts) + "\n")
    return target
