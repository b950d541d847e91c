"""Starts `peer.py` in a process of its own, and ends it by its own pid."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loopback import Certificate

import rawquic

TESTS = Path(__file__).parent


class Peer:
    """A process that plays a role of `peer.py`; leaving its context ends it."""

    def __init__(self, role: str, **arguments: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, TESTS / "peer.py", role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self._write(arguments)

    @property
    def pid(self) -> int:
        return self.process.pid

    def answer(self) -> dict[str, Any]:
        """Its next line; an empty one when it has ended. Blocks: call it in a thread."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the other process has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self, do: str) -> None:
        self._write({"do": do})

    def kill(self) -> None:
        """SIGKILL: it has no time to say anything to its peers."""
        self.process.kill()
        self.process.wait()

    def memory(self, what: str = "VmRSS") -> int:
        """Its resident memory in bytes, from the kernel; "VmHWM": the most it ever was."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(what + ":"))
        return int(line.split()[1]) << 10

    def _write(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.process.communicate(timeout=10)  # its stdin ends
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()


def server(role: str, certificate: Certificate, **config: Any) -> Peer:
    return Peer(
        role,
        certfile=certificate.cert.decode(),
        keyfile=certificate.key.decode(),
        config=config,
    )


def environment(**changes: str) -> dict[str, str]:
    """The environment for a Python process that finds this package and these tests."""
    root = str(Path(rawquic.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(TESTS)]), **changes}
