"""Runs the matrix: for every work, round after round, every pair once: A B C, A B C.

What a round measures lies within seconds of itself: the ratio of two pairs is taken in each round,
and the median of those is what counts on a machine whose speed changes from minute to minute.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import certificates
import environments
import machine
from environments import CACHE, Absent
from matrix import BYTES, MBS, ONCE, OURS, PAIRS, WORKS, Mode, Work
from pairs import Failed, Runner

FLOOR = "floor-{}"
IDLE_STREAMS = 100
CPU_MINIMUM = 0.02  # seconds; below it the clock's ticks are all there is


def programs(*, with_tako: bool = True, build_tako: bool = True) -> dict[str, Path | Absent]:
    """What runs each stack; makes what is not there."""
    main = environments.python_of(environments.MAIN)
    return {
        "rawquic": main,
        "aioquic": main,
        "tls": main,
        "qh3": environments.python_peer("qh3"),
        "aiopquic": environments.python_peer("aiopquic", minor=12),
        "quinn": environments.cargo_peer("quinn"),
        **({"tako": environments.cargo_peer("tako", build=build_tako)} if with_tako else {}),
    }


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


class Comparison:
    def __init__(
        self, mode: Mode, works: Iterable[str] | None = None, pairs: Iterable[str] | None = None
    ) -> None:
        self.mode = mode
        quick = mode.name == "quick"
        wanted_works, wanted_pairs = set(works or ()), set(pairs or ())
        self.works = [
            w for w in WORKS if (w.name in wanted_works if works else w.quick or not quick)
        ]
        self.pairs = [
            p for p in PAIRS if (p.name in wanted_pairs if pairs else p.quick or not quick)
        ]
        with_tako = any("tako" in (p.server.stack, p.client.stack) for p in self.pairs)
        self.programs = programs(with_tako=with_tako, build_tako=mode.name != "smoke")
        self.folder = CACHE / "run"
        self.logs = CACHE / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        for log in self.logs.glob("*.log"):
            log.unlink()
        self.files = certificates.write(self.folder)
        self.runners = {p.name: Runner(p, self.programs, self.files, self.logs) for p in self.pairs}
        # results[work][pair][round]
        self.results: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
        self.failures: list[dict[str, str]] = []
        self.verified: dict[str, Any] = {}

    @property
    def here(self) -> list[Runner]:
        return [runner for runner in self.runners.values() if runner.absent is None]

    def run(self) -> dict[str, Any]:
        started = time.time()
        facts = machine.facts()
        for runner in self.runners.values():
            if runner.absent:
                say(f"{runner.pair.name} is absent: {runner.absent}")
        self.verify()
        for work in self.works:
            self.measure(work)
        for runner in self.here:
            runner.stop()
        return {
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(time.time() - started, 1),
            "mode": dataclasses.asdict(self.mode),
            "machine": facts,
            "pairs": {name: self.describe(runner) for name, runner in self.runners.items()},
            "works": {w.name: {"what": w.what, "unit": w.unit} for w in self.works},
            "verified": self.verified,
            "rows": self.rows(),
            "failures": self.failures,
        }

    @staticmethod
    def describe(runner: Runner) -> dict[str, Any]:
        return {
            "what": runner.pair.what,
            "versions": runner.versions,
            "absent": runner.absent,
        }

    def verify(self) -> None:
        """Every stack once moves random bytes whose SHA-256 is compared."""
        for runner in self.here:
            name = runner.pair.name
            try:
                self.verified[name] = runner.run("verify", {})["sha256"]
            except Failed as error:
                self.failed(name, "verify", error)

    def failed(self, pair: str, work: str, error: Exception) -> None:
        say(f"{pair}, {work}: {error}")
        self.failures.append({"pair": pair, "work": work, "error": str(error)})

    def measure(self, work: Work) -> None:
        rounds = 1 if work.name in ONCE else self.mode.rounds
        options = {"duration": self.mode.duration, **work.options}
        if work.name == "idle":
            options["connections"] = self.mode.idle
        taken = self.results.setdefault(work.name, {})
        broken: set[str] = set()
        for number in range(rounds):
            progress(f"{work.name}, round {number + 1} of {rounds}")
            if work.floor:
                self.floors(taken, number)
            for runner in self.here:
                pair = runner.pair
                if not pair.takes(work) or pair.name in broken:
                    continue
                try:
                    if work.name == "idle":
                        result = self.idle(runner, options)
                    else:
                        result = runner.run(work.work, options)
                except Failed as error:
                    self.failed(pair.name, work.name, error)
                    broken.add(pair.name)
                    continue
                taken.setdefault(pair.name, {})[number] = result

    def idle(self, runner: Runner, options: dict[str, Any]) -> dict[str, Any]:
        """On a fresh server, since memory that was freed before would be used again.

        With the usual limit of 100 streams: some stacks hold room for every stream they allow.
        """
        runner.stop()
        settings = {"max_streams": IDLE_STREAMS}
        fresh = Runner(runner.pair, self.programs, self.files, self.logs, settings)
        try:
            return fresh.run("idle", options)
        finally:
            fresh.stop()

    def floors(self, taken: dict[str, dict[int, dict[str, Any]]], number: int) -> None:
        """The floor of each provider, in the same round."""
        try:
            from floor import aead_providers, floor
        except ImportError:
            return  # without the extension there is none
        for provider in aead_providers():
            result = floor(provider, seconds=max(0.1, self.mode.duration))
            taken.setdefault(FLOOR.format(provider), {})[number] = result

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        for work in self.works:
            taken = self.results.get(work.name, {})
            values = {
                pair: {i: float(r["megabytes_per_second"]) for i, r in by_round.items()}
                if pair.startswith("floor")
                else {i: work.value(r) for i, r in by_round.items()}
                for pair, by_round in taken.items()
            }
            ours = values.get(OURS, {})
            provider = self.our_provider()
            floor = values.get(FLOOR.format(provider), {}) if provider else {}
            cpu = {pair: work_per_cpu(work, by_round) for pair, by_round in taken.items()}
            for pair, by_round in taken.items():
                row = self.row(work, pair, by_round, values[pair], ours, floor)
                row["per_cpu_second"] = median(cpu[pair])
                row["cpu_to_ours"] = ratios(cpu[pair], cpu.get(OURS, {}))
                rows.append(row)
        return rows

    def our_provider(self) -> str | None:
        runner = self.runners.get(OURS)
        aead = runner.versions.get("client", {}).get("aead", "") if runner else ""
        return aead.partition(",")[0] if aead not in ("", "none") else None

    @staticmethod
    def row(
        work: Work,
        pair: str,
        by_round: Mapping[int, Mapping[str, Any]],
        values: Mapping[int, float],
        ours: Mapping[int, float],
        floor: Mapping[int, float],
    ) -> dict[str, Any]:
        samples = list(by_round.values())
        middle = samples[len(samples) // 2]
        latencies = [s["latency"] for s in samples if s.get("latency")]
        return {
            "work": work.name,
            "pair": pair,
            "unit": work.unit if work.unit == BYTES or not pair.startswith("floor") else MBS,
            **summary(list(values.values())),
            "samples": list(values.values()),
            "to_ours": ratios(values, ours),
            "to_floor": ratios(values, floor) if work.floor else None,
            "client_cpu": middle.get("client_cpu"),
            "server_cpu": middle.get("server_cpu"),
            "seconds": middle.get("seconds"),
            "count": middle.get("count"),
            "lost": sum(s.get("lost", 0) for s in samples),
            "latency": {
                name: statistics.median(one[name] for one in latencies)
                for name in ("p50", "p90", "p99", "max")
            }
            if latencies
            else {},
            "client_counters": middle.get("client_counters", {}),
            "server_counters": middle.get("server_counters", {}),
        }


def say(text: str) -> None:
    sys.stderr.write(f"\r\x1b[K{text}\n" if sys.stderr.isatty() else f"{text}\n")


def progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
