"""What setup.py and the entry point promise, as far as it can be checked without a build."""

import importlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
needs_setuptools = pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None, reason="setuptools is not installed"
)


@pytest.fixture
def copy(tmp_path):
    """A source tree in which a build can leave what it likes."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    package = tmp_path / "rawquic"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_fastpath.pyx").write_text("answer = 42\n")
    return tmp_path


def setup(folder, *arguments, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAWQUIC_")}
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )


@needs_setuptools
def test_a_wrong_mode_is_told_the_right_ones(copy):
    result = setup(copy, "--version", RAWQUIC_BUILD="maybe")
    assert result.returncode != 0
    assert "RAWQUIC_BUILD='maybe'; allowed are yes, no and auto" in result.stderr


@needs_setuptools
@pytest.mark.parametrize("mode", ["yes", "no", "auto"])
def test_metadata_needs_no_compiler(copy, mode):
    result = setup(copy, "--name", RAWQUIC_BUILD=mode, CC="/bin/false")
    assert (result.returncode, result.stdout.split()) == (0, ["rawquic"])
    assert "not built" not in result.stderr


@needs_setuptools
@pytest.mark.skipif(sys.platform != "linux", reason="the extension is for Linux")
def test_auto_says_loudly_that_it_fell_back(copy):
    stale = copy / "rawquic" / f"_fastpath{SUFFIX}"
    stale.touch()
    result = setup(copy, "build_ext", "--inplace", RAWQUIC_BUILD="auto", CC="/bin/false")
    assert result.returncode == 0, result.stderr
    assert "was not built" in result.stderr
    assert not stale.exists(), "an older extension would run in place of the fallback"


@needs_setuptools
def test_yes_makes_a_failure_an_error(copy):
    result = setup(copy, "build_ext", "--inplace", RAWQUIC_BUILD="yes", CC="/bin/false")
    assert result.returncode != 0
    assert "RAWQUIC_BUILD=yes, but" in result.stderr


@needs_setuptools
def test_no_does_not_look_for_a_compiler(copy):
    result = setup(copy, "build", RAWQUIC_BUILD="no", CC="/bin/false")
    assert result.returncode == 0, result.stderr
    assert "not built" not in result.stderr


def test_the_entry_point_can_be_imported():
    with (ROOT / "pyproject.toml").open("rb") as file:
        [entry] = tomllib.load(file)["project"]["scripts"].values()
    module, _, function = entry.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
