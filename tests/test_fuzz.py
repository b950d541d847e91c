"""The fuzz targets of tests/fuzz for a few seconds each, with fixed seeds.

RAWQUIC_FUZZ_SECONDS makes it longer, RAWQUIC_FUZZ_SEED begins elsewhere, RAWQUIC_FUZZ_SHOW names
each seed before it runs; a failure prints the seed that shows it again.
"""

import importlib
import itertools
import os
import random
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rawquic.backend import BACKEND

pytest_plugins = ["fastpath_parts.build"]
pytestmark = pytest.mark.skipif(BACKEND != "compiled", reason="of the compiled data plane")

CORPUS = Path(__file__).parent / "fuzz" / "corpus"
SECONDS = float(os.environ.get("RAWQUIC_FUZZ_SECONDS", "2"))
SHOW = bool(os.environ.get("RAWQUIC_FUZZ_SHOW"))
SEED = int(os.environ.get("RAWQUIC_FUZZ_SEED", "1"))


@pytest.mark.parametrize("name", ["frames", "reassembly", "acknowledgement", "segments"])
def test_fuzz(name: str) -> None:
    fuzz(name)


def test_fuzz_parts(parts: ModuleType) -> None:
    """A target that needs what the product does not expose."""
    fuzz("control", parts)


def fuzz(name: str, *more: Any) -> None:
    target = importlib.import_module(f"fuzz.{name}")
    corpus = [bytes.fromhex(path.read_text()) for path in sorted(CORPUS.glob(f"{name}-*.hex"))]
    end, runs = time.monotonic() + SECONDS, 0
    for seed in itertools.count(SEED):
        if SHOW:  # before a sanitizer ends the process
            print(f"{name}: seed {seed}", file=sys.stderr, flush=True)
        try:
            target.run(random.Random(seed), corpus, *more)
        except BaseException:
            print(f"{name}: seed {seed}")
            raise
        runs += 1
        if time.monotonic() >= end:
            break
    print(f"{name}: {runs} runs, seeds {SEED} to {seed}")
