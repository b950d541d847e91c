"""Runs the matrix: for every work, round after round, every pair once: A B C, A B C.

What a round measures lies within seconds of itself: the ratio of two pairs is taken in each round,
and the median of those is what counts on a machine whose speed changes from minute to minute.
"""

import contextlib
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import certificates
import environments
import machine
from environments import CACHE, Absent
from figures import median, ratios, summary, work_per_cpu
from matrix import BYTES, KEY, MBS, ONCE, OURS, Mode, Pair, Work
from pairs import Failed, Runner

FLOOR = "floor-{}"
IDLE_STREAMS = 100


def programs(stacks: Iterable[str], *, build_tako: bool = True) -> dict[str, Path | Absent]:
    """What runs each of these stacks; makes what is not there."""
    main = environments.python_of(environments.MAIN)
    makers: dict[str, Callable[[], Path | Absent]] = {
        "rawquic": lambda: main,
        "aioquic": lambda: main,
        "tls": lambda: main,
        "qh3": lambda: environments.python_peer("qh3"),
        "aiopquic": lambda: environments.python_peer("aiopquic", minor=12),
        "quinn": lambda: environments.cargo_peer("quinn"),
        "tako": lambda: environments.cargo_peer("tako", build=build_tako),
    }
    return {stack: makers[stack]() for stack in makers if stack in set(stacks)}


class Comparison:
    """Every pair does every work, in rounds.

    Attributes:
        results: of each work, of each pair, of each round.
    """

    def __init__(self, mode: Mode, works: Sequence[Work], pairs: Sequence[Pair]) -> None:
        self.mode, self.works, self.pairs = mode, works, pairs
        stacks = {end.stack for pair in pairs for end in (pair.client, pair.server)}
        self.programs = programs(stacks, build_tako=mode.name != "smoke")
        self.folder = CACHE / "run"
        self.logs = CACHE / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        for log in self.logs.glob("*.log"):
            log.unlink()
        self.files = certificates.write(self.folder)
        self.runners = {p.name: Runner(p, self.programs, self.files, self.logs) for p in self.pairs}
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
                    result = self.sample(runner, work, options, number)
                except Failed as error:
                    self.failed(pair.name, work.name, error)
                    broken.add(pair.name)
                    continue
                taken.setdefault(pair.name, {})[number] = result

    def sample(
        self, runner: Runner, work: Work, options: dict[str, Any], number: int
    ) -> dict[str, Any]:
        """One pair's turn in round `number`. Raises Failed."""
        if work.name == "idle":
            return self.idle(runner, options)
        with machine.awake() if runner.pair.awake else contextlib.nullcontext():
            return runner.run(work.work, options)

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

    def values(self, work: Work) -> dict[str, dict[int, float]]:
        """What counts in this work, of each pair and floor, in each round."""
        return {
            pair: {
                i: float(r[KEY[MBS]]) if pair.startswith("floor") else work.value(r)
                for i, r in by_round.items()
            }
            for pair, by_round in self.results.get(work.name, {}).items()
        }

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        for work in self.works:
            taken, values = self.results.get(work.name, {}), self.values(work)
            cpu = {pair: work_per_cpu(work, by_round) for pair, by_round in taken.items()}
            for pair, by_round in taken.items():
                floor = values.get(self.floor_of(pair), {})
                row = self.row(work, pair, by_round, values[pair], values.get(OURS, {}), floor)
                row["per_cpu_second"] = median(cpu[pair])
                row["cpu_to_ours"] = ratios(cpu[pair], cpu.get(OURS, {}))
                rows.append(row)
        return rows

    def floor_of(self, pair: str) -> str:
        """The floor with the AEAD that this pair uses; with ours where it is another stack."""
        runner = self.runners.get(pair)
        if runner is None or runner.pair.server.stack != "rawquic":
            runner = self.runners.get(OURS)
        if runner is None:
            return ""
        chosen = runner.pair.server.settings.get("aead")
        return FLOOR.format(
            chosen or runner.versions.get("server", {}).get("aead", "").split(",")[0]
        )

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
