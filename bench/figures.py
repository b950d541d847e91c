"""What is computed from the results of works; it starts nothing and reads no clock."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matrix import BYTES, MBS, Work

CPU_MINIMUM = 0.02  # seconds; below it the clock's ticks are all there is


def per_cpu_second(result: Mapping[str, Any]) -> float | None:
    """What one second of the busier end's CPU moved: MB, or requests and the like."""
    used = max(result.get("client_cpu") or 0.0, result.get("server_cpu") or 0.0)
    if used < CPU_MINIMUM:
        return None
    moved = result["bytes"] / 1e6 if result["bytes"] else result["count"]
    return float(moved / used)


def work_per_cpu(work: Work, by_round: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
    """Per round: MB, or requests and the like, for a second of the busier end's CPU."""
    found = {}
    for number, result in by_round.items():
        used = max(result.get("client_cpu") or 0.0, result.get("server_cpu") or 0.0)
        moved = result["bytes"] / 1e6 if work.unit == MBS else result.get("count", 0)
        if used >= CPU_MINIMUM and moved and work.unit != BYTES:
            found[number] = moved / used
    return found


def median(values: Mapping[int, float]) -> float | None:
    return statistics.median(values.values()) if values else None


def summary(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
    }


def ratios(values: Mapping[int, float], base: Mapping[int, float]) -> dict[str, float] | None:
    """The ratio in each round that has both."""
    both = [values[i] / base[i] for i in values if base.get(i)]
    return summary(both) if both else None
