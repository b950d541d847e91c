"""`rawquic perf` as a person runs it: two processes, a table, JSON, and one line when it fails."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rawquic
from rawquic import perf

pytest.importorskip("click")
pytest.importorskip("rich")

from rawquic.cli.app import cli
from rawquic.cli.perf import _print_table

PROGRAM = [sys.executable, "-m", "rawquic", "perf"]
ENVIRON = {**os.environ, "PYTHONPATH": str(Path(rawquic.__file__).parents[1]), "COLUMNS": "80"}
SECONDS = 60
TINY = ("--duration", "0.05")


@contextlib.contextmanager
def perf_server(*arguments):
    """Its port and its certificate's SHA-256."""
    command = [*PROGRAM, "server", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRON)
    try:
        port = re.fullmatch(r"listening on .*:(\d+)\n", process.stdout.readline())[1]
        yield port, process.stdout.readline().split()[-1]
        process.terminate()
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.communicate()


def client(*arguments):
    command = [*PROGRAM, "client", "127.0.0.1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=ENVIRON)


def test_prints_a_row_for_every_work():
    with perf_server() as (port, pin):
        result = client(port, "--pin", pin, *TINY)
    assert (result.returncode, result.stderr) == (0, "")
    for work in ("download", "upload", "both", "requests", "datagram-echo", "handshakes"):
        assert re.search(rf"{work} +│ +[\d,.]+ (MB/s|/s)", result.stdout), result.stdout
    assert f"backend {rawquic.backend_info()['backend']}" in result.stdout


def test_large_figures_fit_into_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    latency = {"p50": 123_456.7, "p90": 1_234_567.8, "p99": 2_345_678.9, "max": 3_456_789.0}
    calls = {"socket_send_calls": 10, "socket_receive_calls": 10, "packets_lost": 1_234_567}
    calls |= {"socket_datagrams_sent": 1234, "socket_datagrams_received": 2345}
    calls |= {"bytes_retransmitted": 765_432_100}
    result = perf.Result("hashed-download", 2.0, 10**9, 98_765_432, latency=latency)
    result.client_cpu, result.server_cpu, result.client_counters = 12.34, 23.45, calls
    _print_table([result], True)
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    cells = ["hashed-download", "49,382,716 /s", "123,457", "1,234,568", "2,345,679", "3,456,789"]
    for cell in [*cells, "12.34", "23.45", "123.4, 234.5", "1234567", "765.4 MB"]:
        assert re.search(rf"(?<![\d.]){cell}(?![\d.])", shown), (cell, shown)


def test_json_has_every_figure_and_the_proof():
    with perf_server("--udp-payload", "1350") as (port, pin):
        work = ("--work", "download", "--size", "3MB", "--udp-payload", "1350")
        result = client(port, "--pin", pin, *work, "--json")
    told = json.loads(result.stdout)
    [row] = told["works"]
    assert row["bytes"] == 3_000_000
    assert row["client_cpu"] > 0 and row["server_cpu"] > 0
    assert row["server_counters"]["packets_sent"] >= 3_000_000 // 1350
    assert set(told["verified"]) == {"upload", "download", "echo", "datagrams"}


def test_chooses_the_backend():
    with perf_server("--backend", "python") as (port, pin):
        result = client(port, "--pin", pin, "--backend", "python", "--work", "requests", *TINY)
    assert result.returncode == 0, result.stderr
    assert "backend python" in result.stdout


def test_idle_connections_are_weighed():
    with perf_server() as (port, pin):
        result = client(port, "--pin", pin, "--work", "idle", "--connections", "5")
    assert re.search(r"idle +│ +[\d.]+ [kM]?B each", result.stdout), result.stdout


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (("--insecure", "--pin", "00" * 32), "--insecure"),
        (("--congestion", "bbr"), "'cubic', 'newreno'"),
        (("--request-size", "7"), "at least 8 bytes"),
        (("--datagram-size", "8"), "at least 9 bytes"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, about):
    result = client("4433", *arguments)
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert about in line


def test_datagrams_that_do_not_fit_are_refused():
    with perf_server() as (port, pin):
        result = client(port, "--pin", pin, "--datagram-size", "5000", *TINY)
        other = client(
            port, "--pin", pin, "--datagram-size", "5000", "--work", "requests", "--count", "1"
        )
    assert (result.returncode, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    limit = int(re.search(r"'--datagram-size': 5000 .* at most (\d+) bytes", line)[1])
    assert 1000 < limit < 1452
    assert other.returncode == 0, other.stderr


def test_a_failed_connection_says_what_helps():
    with perf_server() as (port, _):
        result = client(port)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "certificate" in line and "--pin SHA256" in line


def test_a_cipher_that_the_server_lacks_says_what_helps():
    with perf_server() as (port, pin):
        result = client(port, "--pin", pin, "--cipher", "chacha20")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.endswith("(the server must allow it too: give both ends the same --cipher)")


def test_help_says_how_long_it_takes():
    result = subprocess.run([*PROGRAM, "client", "--help"], capture_output=True, text=True)
    assert "about 20 seconds" in " ".join(result.stdout.split())


def commands(command, path=()):
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, (*path, name))


@pytest.mark.parametrize(("path", "command"), list(commands(cli)))
def test_every_option_says_what_it_does(path, command):
    silent = [p.opts for p in command.params if p.param_type_name == "option" and not p.help]
    assert not silent
