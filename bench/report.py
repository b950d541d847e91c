"""The report of a comparison: Markdown, with plots beside it."""

# ruff: noqa: RUF001 (dashes and signs are those of the text)

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plots
from matrix import BYTES, MBS, OURS

Row = Mapping[str, Any]
MARGIN = 1.05


def number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "–"
    if unit == BYTES:
        return f"{value / 1000:,.0f} kB"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "–"
    return f"{number(value['median'])} ({number(value['low'])}–{number(value['high'])})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _rows(result: Row, work: str) -> dict[str, Row]:
    return {row["pair"]: row for row in result["rows"] if row["work"] == work}


def _columns(result: Row) -> list[str]:
    names = [name for name, pair in result["pairs"].items() if pair["absent"] is None]
    floors = sorted({r["pair"] for r in result["rows"] if r["pair"].startswith("floor-")})
    return [OURS, *floors, *(name for name in names if name != OURS)]


def overview(result: Row) -> str:
    """Every work and every pair: the median, and its ratio to ours in the same rounds."""
    columns = _columns(result)
    lines = []
    for work, about in result["works"].items():
        rows = _rows(result, work)
        cells = [f"{work}, {'kB' if about['unit'] == BYTES else about['unit']}"]
        for name in columns:
            row = rows.get(name)
            if row is None:
                cells.append("–")
                continue
            text = number(row["median"], about["unit"]).removesuffix(" kB")
            if name != OURS and row["to_ours"]:
                text += f" ({number(row['to_ours']['median'])}×)"
            cells.append(text)
        lines.append(cells)
    return table(["work", *columns], lines)


def _packets_per_call(counters: Mapping[str, int], way: str, done: str) -> str:
    calls = counters.get(f"socket_{way}_calls", 0)
    packets = counters.get(f"socket_datagrams_{done}", 0)
    return number(packets / calls) if calls else "–"


def _cpu(row: Row, end: str) -> str:
    """CPU seconds of a transfer, or microseconds for each of many small things."""
    used = row[end]
    if used is None or row["unit"] == MBS:
        return number(used)
    return number(used / row["count"] * 1e6) if row["count"] else "–"


def _detail(result: Row, work: str, about: Row) -> str:
    rows = _rows(result, work)
    unit = about["unit"]
    parts = [f"### {work}: {about['what']}", ""]
    head = ["stack", "kB" if unit == BYTES else unit, "lowest–highest", "÷ ours"]
    floor = any(row["to_floor"] for row in rows.values())
    head += ["÷ floor"] if floor else []
    if unit == BYTES:
        head = head[:4]
    else:
        per = "MB per CPU s" if unit == MBS else "per CPU s"
        cpu = "CPU s" if unit == MBS else "CPU µs each"
        head += [per, "÷ ours", f"client {cpu}", f"server {cpu}"]
        head += ["packets per call", "packets lost"]
    latency = any(row["latency"] for row in rows.values())
    head += ["p50 µs", "p90", "p99", "max"] if latency else []
    lines = []
    for name in _columns(result):
        row = rows.get(name)
        if row is None:
            continue
        low, high = (number(row[key], unit).removesuffix(" kB") for key in ("low", "high"))
        cells = [
            name,
            number(row["median"], unit).removesuffix(" kB"),
            f"{low}–{high}",
            "1" if name == OURS else ratio(row["to_ours"]),
        ]
        if floor:
            cells.append(ratio(row["to_floor"]))
        if unit != BYTES:
            sends, takes = row["server_counters"], row["client_counters"]
            if not work.startswith("download"):
                sends, takes = takes, sends
            out = _packets_per_call(sends, "send", "sent")
            into = _packets_per_call(takes, "receive", "received")
            lost = sum(c.get("packets_lost", 0) for c in (sends, takes))
            cells += [
                number(row["per_cpu_second"]),
                "1" if name == OURS else ratio(row["cpu_to_ours"]),
                _cpu(row, "client_cpu"),
                _cpu(row, "server_cpu"),
                f"{out} out, {into} in",
                str(lost) if sends else "–",
            ]
        if latency:
            cells += [number(row["latency"].get(key)) for key in ("p50", "p90", "p99", "max")]
        lines.append(cells)
    parts.append(table(head, lines))
    return "\n".join(parts)


def machine_line(facts: Row) -> str:
    buffers = f"{facts['receive_buffer_granted']:,} and {facts['send_buffer_granted']:,}"
    offload = ", ".join(
        f"{name.upper()} {'yes' if facts[name] else 'no'}" for name in ("gso", "gro")
    )
    idle = facts.get("idle") or "not known"
    if facts.get("guest_halt_poll_ns") is not None:
        idle += f" (guest_halt_poll_ns {facts['guest_halt_poll_ns']})"
    load = ", ".join(f"{value:.1f}" for value in facts["load"])
    return (
        f"{facts['cpu']}, {facts['cores']} cores; {facts['kernel']}; Python {facts['python']}; "
        f"UDP buffers granted of 4 MiB asked: {buffers} (receive, send, as the kernel counts); "
        f"rmem_max {facts['rmem_max']:,}, wmem_max {facts['wmem_max']:,}; {offload}; "
        f"idle driver {idle}; load before the run {load}"
    )


def versions_table(result: Row) -> str:
    lines = []
    for name, pair in result["pairs"].items():
        if pair["absent"]:
            lines.append([name, pair["what"], f"**absent**: {pair['absent']}"])
            continue
        ends = pair["versions"]
        shown = {end: ", ".join(f"{k} {v}" for k, v in told.items()) for end, told in ends.items()}
        text = shown.get("server", "not started")
        if shown.get("client") not in (None, text):
            text = f"client: {shown['client']}; server: {text}"
        lines.append([name, pair["what"], text])
    return table(["stack", "what it is", "versions"], lines)


HOW = """\
Two processes on loopback, one thread each (aiopquic has a second one of its own); every value is
the median over the rounds of this run, in which all stacks took turns (A B C, A B C …). "÷ ours" is
taken within each round, then its median (lowest–highest): on a machine whose speed drifts, trust it
before the absolute figures. "per CPU s" is what one second of the busier end's CPU moved, by
getrusage: other programs change it far less. "floor" is seal, GSO send, GRO receive, open
and one copy, with rawquic's own primitives and no protocol. See `docs/benchmarks.md` for what each
row means and how the peers are set up."""


def write(result: Row, folder: Path) -> Path:
    """Write the report and its plots; returns the report's path."""
    name = result["name"]
    target = folder / f"{name}.md"
    pictures = plots.draw(result, folder)
    parts = [
        f"# Comparison of {result['date']} ({result['mode']['name']})",
        machine_line(result["machine"]),
        HOW,
        "## All works, all stacks",
        "Medians; in brackets the ratio to ours.",
        overview(result),
    ]
    parts += [f"![{picture.stem}]({picture.name})" for picture in pictures]
    if result.get("targets"):
        parts += ["## What is to be reached", _targets(result["targets"])]
    parts += ["## What ran", versions_table(result), _verified(result)]
    parts.append("## Each work")
    parts += [_detail(result, work, about) for work, about in result["works"].items()]
    if result["failures"]:
        parts.append("## What failed")
        parts.append(
            table(
                ["stack", "work", "error"],
                [[f["pair"], f["work"], f["error"]] for f in result["failures"]],
            )
        )
    target.write_text("\n\n".join(parts) + "\n")
    return target


def _targets(targets: Sequence[Row]) -> str:
    lines = []
    for told in targets:
        bar = f"≥ {told['least']:,g}" if "least" in told else f"≤ {told['most']:,g}"
        verdict = "yes" if told["reached"] else "**no**"
        lines.append([told["work"], told["figure"], bar, ratio(told), verdict])
    return table(["work", "figure", "bar", "measured", "reached"], lines)


def _verified(result: Row) -> str:
    names = ", ".join(result["verified"]) or "none"
    return (
        "Random bytes up, down and echoed, and datagrams, compared by SHA-256 in this run, by: "
        f"{names}."
    )


def agreement(first: Row, second: Row) -> tuple[str, bool]:
    """Whether the ratios to ours of two runs agree within the spread that both print."""
    lines, apart = [], 0
    for row in first["rows"]:
        other = _rows(second, row["work"]).get(row["pair"])
        if other is None or row["pair"] == OURS or not (row["to_ours"] and other["to_ours"]):
            continue
        one, two = row["to_ours"], other["to_ours"]
        # The margin is for what was sampled once and prints no spread.
        overlap = one["low"] <= two["high"] * MARGIN and two["low"] <= one["high"] * MARGIN
        apart += not overlap
        verdict = "agree" if overlap else "**apart**"
        lines.append([row["work"], row["pair"], ratio(one), ratio(two), verdict])
    text = table(["work", "stack", "÷ ours, first", "÷ ours, second", ""], lines)
    total = len(lines)
    text += (
        f"\n\n{total - apart} of {total} ratios agree within the spread that is printed (and 5 %)."
    )
    return text, apart <= total // 10
