"""Scaling curves: what streams, connections, packet size, loss and delay do to a download.

The first three as the cost per megabyte in CPU of the busier end, which noise hardly touches; loss
and delay as goodput by way of `relay.py`.
"""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from comparison import Comparison, progress, say
from figures import per_cpu_second
from matrix import End, Pair
from pairs import Failed, Runner
from relay import Impairment, running

ROUNDS = 2
DURATION = 0.4
SIZE = 64 << 20  # bytes of a download: what is set up for it is a part of the cost everywhere
STREAMS = (1, 10, 100, 1_000, 10_000)
OPEN_STREAMS = (0, 10, 100, 1_000, 9_900)
CONNECTIONS = (1, 10, 100, 1_000)
PAYLOADS = (1_200, 1_452, 4_000, 9_000, 30_000, 65_000)
LOSSES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.05)
DELAYS = (0, 1, 5, 20, 50, 100)  # ms one way
LOSSY_DELAY = 0.005  # seconds one way, so that loss meets a round-trip time
IMPAIRED_SIZE = 4_000_000
DELAYED_DURATION = 1.0
PATIENCE = 25.0
STACKS = ("rawquic", "aioquic", "quinn")


class Curves:
    def __init__(
        self, comparison: Comparison, stacks: Sequence[str] = STACKS, rounds: int = ROUNDS
    ) -> None:
        self._comparison = comparison
        self._stacks = [s for s in stacks if isinstance(comparison.programs.get(s), Path)]
        self._rounds = rounds

    def _runner(self, stack: str, **settings: Any) -> Runner:
        end = End(stack, settings)
        comparison = self._comparison
        return Runner(
            Pair(f"curve-{stack}", stack, end, end),
            comparison.programs,
            comparison.files,
            comparison.logs,
        )

    def points(
        self, stack: str, values: Sequence[Any], measure: Any, what: str
    ) -> list[dict[str, float]]:
        """median, low and high of each value; a stack that fails at one stops there."""
        points = []
        for value in values:
            progress(f"curve {what}: {stack}, {value}")
            try:
                samples = [measure(stack, value) for _ in range(self._rounds)]
            except Failed as error:
                say(f"curve {what}: {stack} at {value}: {error}")
                break
            good = [s for s in samples if s]
            if good:
                middle = statistics.median(good)
                points.append({"x": value, "median": middle, "low": min(good), "high": max(good)})
        return points

    def curve(
        self, title: str, x: str, y: str, values: Sequence[Any], measure: Any, **more: Any
    ) -> dict[str, Any]:
        lines = {s: self.points(s, values, measure, title) for s in self._stacks}
        return {"title": title, "x": x, "y": y, "lines": lines, **more}

    # What is measured

    def cost(self, runner: Runner, **options: Any) -> float | None:
        """CPU nanoseconds of the busier end for each byte of a download."""
        result = runner.run("download", {"size": SIZE, **options}, timeout=PATIENCE)
        moved = per_cpu_second(result)
        return 1e3 / moved if moved else None

    def streams(self) -> dict[str, Any]:
        with self._kept() as runners:
            return self.curve(
                "cost of a byte, by number of streams that share a download",
                "streams",
                "CPU ns per byte, busier end",
                STREAMS,
                lambda stack, n: self.cost(runners[stack], streams=n),
            )

    def open_streams(self) -> dict[str, Any]:
        with self._kept() as runners:
            return self.curve(
                "cost of a byte, while other streams are open",
                "open streams on which nothing moves",
                "CPU ns per byte, busier end",
                OPEN_STREAMS,
                lambda stack, n: self.cost(runners[stack], open_streams=n),
                scale="symlog",
                linear_below=1,
            )

    def connections(self) -> dict[str, Any]:
        with self._kept() as runners:
            return self.curve(
                "cost of a byte, by number of connections that share a download",
                "connections",
                "CPU ns per byte, busier end",
                CONNECTIONS,
                lambda stack, n: self.cost(runners[stack], connections=n),
            )

    @contextmanager
    def _kept(self) -> Iterator[dict[str, Runner]]:
        runners = {stack: self._runner(stack) for stack in self._stacks}
        try:
            yield runners
        finally:
            for runner in runners.values():
                runner.stop()

    def payload(self) -> dict[str, Any]:
        def measure(stack: str, payload: int) -> float:
            runner = self._runner(stack, udp_payload=payload)
            try:
                result = runner.run("download", {"duration": DURATION}, timeout=PATIENCE)
                return float(result["megabytes_per_second"])
            finally:
                runner.stop()

        curve = self.curve(
            "download, by UDP payload", "bytes of UDP payload", "MB/s", PAYLOADS, measure
        )
        try:
            from floor import aead_providers, floor
        except ImportError:
            return curve
        provider = aead_providers()[0]

        def measure_floor(_: str, payload: int) -> float:
            return float(str(floor(provider, payload, seconds=DURATION)["megabytes_per_second"]))

        name = f"floor-{provider}"
        curve["lines"][name] = self.points(name, PAYLOADS, measure_floor, curve["title"])
        return curve

    def _impaired(self, stack: str, options: dict[str, Any], impairment: Impairment) -> float:
        runner = self._runner(stack)
        try:
            with running(("127.0.0.1", runner.port), impairment) as relay:
                result = runner.run("download", options, timeout=PATIENCE, port=relay.port)
                return float(result["megabytes_per_second"])
        finally:
            runner.stop()

    def loss(self) -> dict[str, Any]:
        def measure(stack: str, loss: float) -> float:
            impairment = Impairment(loss=loss, delay=LOSSY_DELAY)
            return self._impaired(stack, {"size": IMPAIRED_SIZE}, impairment)

        return self.curve(
            f"{IMPAIRED_SIZE / 1e6:g} MB down over {LOSSY_DELAY * 1e3:g} ms one way, by loss",
            "probability of loss, each way",
            "MB/s",
            LOSSES,
            measure,
            scale="symlog",
            linear_below=0.001,
        )

    def delay(self) -> dict[str, Any]:
        def measure(stack: str, delay: float) -> float:
            options = {"duration": DELAYED_DURATION}
            return self._impaired(stack, options, Impairment(delay=delay / 1e3))

        return self.curve(
            "download, by delay",
            "ms of delay, each way",
            "MB/s",
            DELAYS,
            measure,
            scale="symlog",
            linear_below=1,
        )


NAMES = ("streams", "open_streams", "connections", "payload", "loss", "delay")


def run(
    comparison: Comparison, names: Sequence[str] = NAMES, rounds: int = ROUNDS
) -> dict[str, Any]:
    curves = Curves(comparison, rounds=rounds)
    return {name: getattr(curves, name)() for name in names}
