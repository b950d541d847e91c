"""What rawquic is to reach, as ratios within one run or as figures, and what this run measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comparison import Comparison
from figures import summary
from matrix import OURS

FLOOR = "its floor"
SERVER_CPU = "server CPU ms each"


@dataclass(frozen=True)
class Target:
    """`pair` in `work` reaches `least` times `against`, or as a value where that is empty.

    Where `most` is set, the figure must not be above it.
    """

    work: str
    pair: str
    against: str
    least: float = 0.0
    most: float | None = None

    def figure(self, unit: str) -> str:
        return f"{self.pair} ÷ {self.against}" if self.is_ratio else f"{self.pair}, {unit}"

    @property
    def is_ratio(self) -> bool:
        return self.against not in ("", SERVER_CPU)


def _transfers(pair: str, bars: Mapping[str, float]) -> list[Target]:
    works = ("download", "upload")
    return [Target(work, pair, other, least) for other, least in bars.items() for work in works]


TARGETS = (
    *_transfers(OURS, {FLOOR: 0.7, "aiopquic": 12, "qh3": 20, "aioquic": 80, "quinn": 2}),
    *_transfers("rawquic-256", {"tls-uvloop-256": 2}),
    *_transfers("rawquic-openssl", {FLOOR: 0.75, "tls-uvloop-256": 1, "aiopquic": 6}),
    Target("requests", OURS, "", 9_000),
    Target("requests", "rawquic-awake", "", 9_000),
    Target("requests", "rawquic-busy-poll", OURS, 2),
    Target("requests-100", OURS, "", 30_000),
    Target("requests-100", OURS, "aiopquic", 1.5),
    Target("ping-pong", "rawquic-busy-poll", "", 40_000),
    Target("datagrams", OURS, "", 1_000),
    Target("datagram-echo", OURS, "", 400_000),
    Target("datagram-echo-1", OURS, "", 150_000),
    Target("handshakes", OURS, "", 300),
    Target("handshakes", OURS, SERVER_CPU, most=1.25),
    Target("idle", OURS, "", most=100_000),
)
# Of the curve "open_streams": the cost of a byte beside the most of them, by that beside none.
OPEN_STREAMS_MOST = 1.2


def _judged(figure: str, work: str, target: Target, values: Sequence[float]) -> dict[str, Any]:
    told = summary(values)
    middle = told["median"]
    reached = middle >= target.least if target.most is None else middle <= target.most
    bar = {"least": target.least} if target.most is None else {"most": target.most}
    return {"work": work, "figure": figure, **bar, **told, "reached": reached}


def _samples(
    comparison: Comparison, target: Target, values: Mapping[str, Mapping[int, float]]
) -> list[float]:
    mine = values.get(target.pair, {})
    if target.is_ratio:
        name = comparison.floor_of(target.pair) if target.against == FLOOR else target.against
        other = values.get(name, {})
        return [mine[i] / other[i] for i in mine if other.get(i)]
    if target.against == SERVER_CPU:
        taken = comparison.results[target.work].get(target.pair, {}).values()
        return [r["server_cpu"] / r["count"] * 1e3 for r in taken if r["server_cpu"] and r["count"]]
    return list(mine.values())


def measured(comparison: Comparison) -> list[dict[str, Any]]:
    """Those targets for which this run has figures."""
    told = []
    values = {work.name: comparison.values(work) for work in comparison.works}
    units = {work.name: work.unit for work in comparison.works}
    for target in TARGETS:
        if target.work not in values:
            continue
        if samples := _samples(comparison, target, values[target.work]):
            unit = target.against or units[target.work]
            told.append(_judged(target.figure(unit), target.work, target, samples))
    return told


def of_curves(curves: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The one that only a curve shows."""
    points = curves.get("open_streams", {}).get("lines", {}).get(OURS, [])
    if len(points) < 2:
        return []
    first, last = points[0], points[-1]
    ratio = last["median"] / first["median"]
    spread = [last["low"] / first["high"], ratio, last["high"] / first["low"]]
    target = Target("open-streams", OURS, "", most=OPEN_STREAMS_MOST)
    figure = f"cost of a byte beside {last['x']:,} open streams ÷ beside none"
    return [_judged(figure, "download", target, spread)]
