"""Runs the two ends of a pair as processes and hands works to the client.

They stay for many works, so that what is measured is never a start; one that fails or hangs is
started again for the next work.
"""

import json
import os
import select
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import machine
from environments import ROOT, Absent
from matrix import End, Pair

START_SECONDS = 20.0
GRACE = 5.0
STOP_SECONDS = 3.0
WORK_SECONDS = 15.0  # what a work may take; those that time out do so every time


class Failed(Exception):
    """A work that could not be measured, and why."""


class Agent:
    """One end in a process of its own, and its lines of JSON."""

    def __init__(self, command: list[str], environ: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environ},
                cwd=ROOT,
            )
        self._rest = b""
        try:
            self.hello = self.line(START_SECONDS)
        except Failed:
            self.stop()
            raise

    def line(self, seconds: float) -> dict[str, Any]:
        """The next line of the process."""
        output = self._process.stdout
        assert output is not None
        while b"\n" not in self._rest:
            ready, _, _ = select.select([output], [], [], seconds)
            if not ready:
                raise Failed(f"no answer in {seconds:g} s")
            more = os.read(output.fileno(), 1 << 16)
            if not more:
                raise Failed(f"the process ended: {self._last_words()}")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        """Run one work. Raises Failed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"the process ended: {self._last_words()}") from None
        answer = self.line(order["timeout"] + GRACE)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def stop(self) -> None:
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


class Runner:
    """Both ends of a pair; started when they are needed."""

    def __init__(
        self,
        pair: Pair,
        programs: Mapping[str, Path | Absent],
        files: Mapping[str, str],
        logs: Path,
        settings: Mapping[str, Any] | None = None,
        agent: Path = ROOT / "bench" / "agent.py",
    ) -> None:
        self.pair = pair
        self._script = agent
        self._programs = programs
        self._files = {**files, **(settings or {})}
        self._logs = logs
        self._server: Agent | None = None
        self._client: Agent | None = None
        self.versions: dict[str, dict[str, str]] = {}

    @property
    def absent(self) -> str | None:
        """Why it cannot be measured here; None where it can."""
        for end in (self.pair.client, self.pair.server):
            program = self._programs[end.stack]
            if isinstance(program, Absent):
                return f"{end.stack}: {program.reason}"
        return machine.not_awake() if self.pair.awake else None

    def _agent(self, role: str, end: End) -> Agent:
        settings = json.dumps({**self._complete(), **end.settings})
        program = str(self._programs[end.stack])
        command = [program, role, settings]
        environ = dict(end.environ)
        if not end.native:
            command = [program, str(self._script), role, end.stack, settings]
            environ["PYTHONPATH"] = str(ROOT)
            if end.stack in ("qh3", "aiopquic"):
                # The perf protocol alone is imported there; the extension is for another Python.
                environ["RAWQUIC_BACKEND"] = "python"
        return Agent(command, environ, self._logs / f"{self.pair.name}-{role}.log")

    def _complete(self) -> dict[str, Any]:
        from dataclasses import asdict

        from stacks import Settings

        return asdict(Settings(**self._files))

    def start(self) -> None:
        if self._server is None:
            self._server = self._agent("server", self.pair.server)
            self.versions["server"] = self._server.hello["versions"]
        if self._client is None:
            self._client = self._agent("client", self.pair.client)
            self.versions["client"] = self._client.hello["versions"]

    @property
    def port(self) -> int:
        self.start()
        assert self._server is not None
        return int(self._server.hello["port"])

    def run(
        self,
        work: str,
        options: dict[str, Any],
        *,
        timeout: float = WORK_SECONDS,
        port: int | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Run one work, by way of another port where one is given. Raises Failed."""
        try:
            self.start()
            assert self._client is not None
            order = {
                "work": work,
                "host": "127.0.0.1",
                "port": port or self.port,
                "options": options,
                "timeout": timeout,
                **more,
            }
            return self._client.order(order)
        except Failed:
            self.stop()
            raise

    def ask_server(self) -> dict[str, Any]:
        """What a server of ours has to tell, see agent.py. Raises Failed."""
        assert self._server is not None
        return self._server.order({"timeout": GRACE})

    def stop(self) -> None:
        for agent in (self._client, self._server):
            if agent is not None:
                agent.stop()
        self._client = self._server = None
