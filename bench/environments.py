"""Makes what the comparison runs in: virtual environments and native peers, under .cache/bench.

Standard library only: it runs before anything is installed. Each is made once, and again when what
it depends on has changed. A peer that cannot be had is absent, with the reason, never an error.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"
CACHE = ROOT / ".cache" / "bench"
MAIN = CACHE / "main"
LOG_LINES = 15
BUILD = ("setuptools>=77", "Cython>=3.1")


@dataclass(frozen=True)
class Absent:
    """Why a peer is not there."""

    reason: str


def say(text: str) -> None:
    sys.stderr.write(f"== {text}\n")


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _run(command: Sequence[str | Path], log: Path, **more: object) -> None:
    """Run a command with its output in `log`; CalledProcessError where it fails."""
    with log.open("ab") as file:
        subprocess.run(list(map(str, command)), stdout=file, stderr=file, check=True, **more)  # type: ignore[call-overload]


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return (errors or lines or ["no output"])[-1].strip()[:300]


def _fingerprint(*parts: object) -> str:
    told = hashlib.sha256()
    for part in parts:
        told.update(part.read_bytes() if isinstance(part, Path) else repr(part).encode())
    return told.hexdigest()


def _ready(folder: Path, now: str) -> bool:
    stamp = folder / "rawquic-bench.stamp"
    return stamp.exists() and stamp.read_text() == now and python_of(folder).exists()


def _make(folder: Path, python: str, now: str, installs: Sequence[Sequence[str]]) -> None:
    """A new environment in `folder`, with what `installs` gives to `pip install`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}.log"
    log.unlink(missing_ok=True)
    _run([python, "-m", "venv", folder], log)
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for install in installs:
        _run([python_of(folder), "-m", "pip", "install", *install], log, cwd=ROOT, env=environment)
    (folder / "rawquic-bench.stamp").write_text(now)


def main_environment(made_from: str) -> Path:
    """The interpreter with rawquic (its extension where it can be built) and the Python peers.

    `made_from`: the hash of all that the installation of rawquic depends on.
    """
    requirements = PEERS / "main.txt"
    now = _fingerprint(made_from, requirements)
    if not _ready(MAIN, now):
        say("installing rawquic and what the comparison needs (once)")
        try:
            installs = (BUILD, ("-v", "--no-build-isolation", "-e", "."), ("-r", str(requirements)))
            _make(MAIN, sys.executable, now, installs)
        except subprocess.CalledProcessError:
            log = MAIN.parent / f"{MAIN.name}.log"
            sys.stderr.write("\n".join(log.read_text().splitlines()[-LOG_LINES:]) + "\n")
            raise SystemExit(f"the installation failed; all of it is in {log}") from None
    return python_of(MAIN)


def _pythons() -> Iterator[str]:
    """Interpreters to look at, this one first."""
    yield sys.executable
    for minor in range(12, 16):
        if path := shutil.which(f"python3.{minor}"):
            yield path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob("versions/3.*/bin/python")))


def _python_at_least(minor: int) -> str | None:
    for path in _pythons():
        ask = f"import sys, venv; sys.exit(sys.version_info < (3, {minor}))"
        try:
            if subprocess.run([path, "-c", ask], capture_output=True).returncode == 0:
                return path
        except OSError:
            continue
    return None


def python_peer(name: str, minor: int = 11) -> Path | Absent:
    """The interpreter of a peer that has an environment of its own."""
    python = _python_at_least(minor)
    if python is None:
        return Absent(f"it needs Python >= 3.{minor}, and none was found")
    requirements, folder = PEERS / f"{name}.txt", CACHE / name
    now = _fingerprint(python, requirements)
    if not _ready(folder, now):
        say(f"installing {name} (once)")
        try:
            _make(folder, python, now, [("-r", str(requirements))])
        except subprocess.CalledProcessError:
            return Absent(f"it could not be installed: {_last_line(CACHE / f'{name}.log')}")
    return python_of(folder)


def cargo_peer(name: str, *, build: bool = True) -> Path | Absent:
    """The release build of a peer in Rust; cargo itself sees whether anything changed.

    Without `build`, only where it was built before.
    """
    if shutil.which("cargo") is None:
        return Absent("cargo is not installed")
    package, target = PEERS / name, CACHE / f"{name}-target"
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / f"{name}.log"
    log.unlink(missing_ok=True)
    binary = target / "release" / f"rawquic-bench-{name}"
    if not binary.exists() and not build:
        return Absent("it takes minutes to build and was not built yet: a full run builds it")
    if not binary.exists():
        say(f"building {name} (once, a minute or two)")
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    try:
        _run(["cargo", "build", "--release", "--locked"], log, cwd=package, env=environment)
    except subprocess.CalledProcessError:
        return Absent(f"cargo could not build it: {_last_line(log)}")
    return binary


if __name__ == "__main__":
    sys.stdout.write(f"{main_environment(sys.argv[1])}\n")
