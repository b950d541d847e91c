"""The pictures of a comparison, as SVG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "rawquic"  # the same figures give the same file

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import NullFormatter  # noqa: E402
from matrix import BYTES, OURS  # noqa: E402

OUR_COLOUR, FLOOR_COLOUR, OTHER_COLOUR = "#c0392b", "#7f8c8d", "#2c6fbb"
METADATA = {"Date": None}


def _colour(pair: str) -> str:
    if pair.startswith("floor"):
        return FLOOR_COLOUR
    return OUR_COLOUR if pair.startswith(OURS) else OTHER_COLOUR


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, metadata=METADATA)
    plt.close(figure)
    return path


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    stem = folder / result["name"]
    pictures = [_ratios(result, stem.with_name(stem.name + "-ratios.svg"))]
    if latency := _latencies(result, stem.with_name(stem.name + "-latency.svg")):
        pictures.append(latency)
    for name, curve in (result.get("curves") or {}).items():
        pictures.append(_curve(curve, stem.with_name(f"{stem.name}-curve-{name}.svg")))
    return pictures


def _ratios(result: Mapping[str, Any], path: Path) -> Path:
    """One panel per work, one bar per stack: the ratio to ours, lowest to highest as a whisker."""
    works = list(result["works"])
    columns = 3
    lines = -(-len(works) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(14, 2.8 * lines), squeeze=False)
    for axis in axes.flat[len(works) :]:
        axis.set_axis_off()
    for axis, work in zip(axes.flat, works, strict=False):
        rows = [r for r in result["rows"] if r["work"] == work and r["to_ours"]]
        rows.sort(key=lambda row: row["to_ours"]["median"])
        names = [row["pair"] for row in rows]
        middle = [row["to_ours"]["median"] for row in rows]
        below = [row["to_ours"]["median"] - row["to_ours"]["low"] for row in rows]
        above = [row["to_ours"]["high"] - row["to_ours"]["median"] for row in rows]
        axis.barh(names, middle, xerr=[below, above], color=[_colour(n) for n in names], ecolor="k")
        axis.axvline(1, color=OUR_COLOUR, linewidth=1)
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
        less = ", less is better" if result["works"][work]["unit"] == BYTES else ""
        axis.set_title(f"{work}: ratio to rawquic{less}", fontsize=9)
        axis.tick_params(labelsize=7)
    return _save(figure, path)


def _latencies(result: Mapping[str, Any], path: Path) -> Path | None:
    """p50 to p99 of the works that ask and wait."""
    works = [w for w in ("requests", "ping-pong", "handshakes") if w in result["works"]]
    if not works:
        return None
    figure, axes = plt.subplots(1, len(works), figsize=(5 * len(works), 4), squeeze=False)
    for axis, work in zip(axes.flat, works, strict=True):
        rows = [r for r in result["rows"] if r["work"] == work and r["latency"]]
        rows.sort(key=lambda row: -row["latency"]["p50"])
        for place, row in enumerate(rows):
            told = row["latency"]
            axis.plot([told["p50"], told["p99"]], [place, place], color=_colour(row["pair"]))
            for key, marker in (("p50", "o"), ("p90", "|"), ("p99", ">")):
                axis.plot(told[key], place, marker, color=_colour(row["pair"]), markersize=6)
        axis.set_yticks(range(len(rows)), [row["pair"] for row in rows], fontsize=7)
        axis.set_xscale("log")
        axis.set_xlabel("µs: p50 ●, p90 |, p99 ▶", fontsize=8)
        axis.set_title(work, fontsize=9)
    return _save(figure, path)


def _curve(curve: Mapping[str, Any], path: Path) -> Path:
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for pair, points in curve["lines"].items():
        if points:
            x = [point["x"] for point in points]
            middle = [point["median"] for point in points]
            low = [point["low"] for point in points]
            high = [point["high"] for point in points]
            axis.plot(x, middle, "o-", color=_line_colour(pair), label=pair, markersize=4)
            axis.fill_between(x, low, high, color=_line_colour(pair), alpha=0.15)
    axis.set_xscale(curve.get("scale", "log"))
    if curve.get("scale") == "symlog":
        axis.set_xscale("symlog", linthresh=curve["linear_below"])
    axis.set_yscale("log")
    axis.set_xlabel(curve["x"], fontsize=9)
    axis.set_ylabel(curve["y"], fontsize=9)
    axis.set_title(curve["title"], fontsize=10)
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(fontsize=8)
    return _save(figure, path)


LINES = {
    "rawquic": OUR_COLOUR,
    "quinn": OTHER_COLOUR,
    "aioquic": "#27ae60",
    "aiopquic": "#8e44ad",
    "qh3": "#d68910",
}


def _line_colour(pair: str) -> str:
    return LINES.get(pair, FLOOR_COLOUR if pair.startswith("floor") else "#34495e")
