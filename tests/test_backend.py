"""Which backend runs, and what is said when it cannot: in subprocesses."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import rawquic

PACKAGE = Path(rawquic.__file__).parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
BUILT = (PACKAGE / f"_fastpath{SUFFIX}").exists()

SHOW = """
import json
from rawquic import backend
print(json.dumps([backend.BACKEND, backend.UdpSocket.__module__, backend.backend_info()]))
"""

needs_build = pytest.mark.skipif(not BUILT, reason="rawquic._fastpath was not built")


@pytest.fixture
def copy(tmp_path):
    """A folder with the package in it, without the extension."""
    shutil.copytree(PACKAGE, tmp_path / "rawquic", ignore=shutil.ignore_patterns("*.so", "*.pyd"))
    return tmp_path


def run(folder, choice=None, program=SHOW):
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment.pop("RAWQUIC_BACKEND", None)
    if choice is not None:
        environment["RAWQUIC_BACKEND"] = choice
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def shown(folder, choice=None):
    result = run(folder, choice)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@needs_build
@pytest.mark.parametrize("choice", [None, "auto", "compiled"])
def test_compiled_where_it_was_built(choice):
    backend, module, info = shown(PACKAGE.parent, choice)
    assert (backend, module) == ("compiled", "rawquic._fastpath")
    assert info["openssl"].startswith("OpenSSL 3")
    assert "reason" not in info


@pytest.mark.parametrize("built", [True, False])
def test_python_when_asked(copy, built):
    backend, module, info = shown(PACKAGE.parent if built else copy, "python")
    assert (backend, module) == ("python", "rawquic.endpoint.udp_python")
    assert info["openssl"] is None
    assert info["aead"] == []
    assert info["gso"] is info["gro"] is info["splice"] is False
    assert info["reason"] == "asked for by RAWQUIC_BACKEND"


@pytest.mark.parametrize("choice", [None, "auto"])
def test_fallback_when_not_built_says_why(copy, choice):
    backend, module, info = shown(copy, choice)
    assert (backend, module) == ("python", "rawquic.endpoint.udp_python")
    assert "was not built" in info["reason"]


def test_compiled_when_not_built_is_an_error(copy):
    result = run(copy, "compiled")
    assert result.returncode == 1
    assert "ImportError: RAWQUIC_BACKEND=compiled, but rawquic._fastpath was not built" in (
        result.stderr
    )
    assert "Likely cause" in result.stderr
    assert "RAWQUIC_BUILD=yes" in result.stderr and "pip install" in result.stderr


@pytest.mark.parametrize("choice", [None, "auto", "compiled"])
def test_broken_build_is_an_error(copy, choice):
    (copy / "rawquic" / f"_fastpath{SUFFIX}").write_bytes(b"not a shared object")
    result = run(copy, choice)
    assert result.returncode == 1
    assert "ImportError: rawquic._fastpath was built, but importing it failed" in result.stderr
    assert "Likely cause" in result.stderr
    assert "RAWQUIC_BUILD=yes" in result.stderr and "pip install" in result.stderr


def test_build_that_misses_another_module_is_an_error(copy):
    (copy / "rawquic" / "_fastpath.py").write_text("import a_module_that_is_not_there\n")
    result = run(copy, "auto")
    assert result.returncode == 1
    assert "No module named 'a_module_that_is_not_there'" in result.stderr
    assert "importing it failed" in result.stderr


@pytest.mark.parametrize("choice", ["", "Compiled", "cython"])
def test_unknown_choice(copy, choice):
    result = run(copy, choice)
    assert result.returncode == 1
    assert f"ValueError: RAWQUIC_BACKEND={choice!r}; allowed are auto, compiled, python" in (
        result.stderr
    )


def test_info_has_the_promised_keys():
    info = shown(PACKAGE.parent)[2]
    info.pop("reason", None)
    assert list(info) == [
        "backend",
        "version",
        "aioquic",
        "openssl",
        "aead",
        "gso",
        "gro",
        "splice",
    ]
    assert info["aioquic"].startswith("1.7.")
