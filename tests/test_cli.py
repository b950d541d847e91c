"""The command line as a person runs it: in a subprocess, with its output and exit status."""

import hashlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import rawquic
from rawquic.selfsigned import certificate_sha256, self_signed

pytest.importorskip("click")
pytest.importorskip("rich")

PROGRAM = [sys.executable, "-m", "rawquic"]
SECONDS = 100
WRONG_PIN = "00" * 32


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Commands run in an empty folder, with the package that is tested, at a width of 100."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(rawquic.__file__).resolve().parents[1]))
    monkeypatch.setenv("COLUMNS", "100")


def run(*arguments):
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=SECONDS
    )


def succeed(*arguments):
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def fail(status, *arguments):
    """The one line that a failing command writes."""
    result = run(*arguments)
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("rawquic: ")
    return line


@contextmanager
def echo_server(*arguments):
    """A running echo server: its process, port, and its certificate's SHA-256 if it made one."""
    command = [*PROGRAM, "echo-server", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        first = process.stdout.readline()
        match = re.fullmatch(r"listening on .*:(\d+)\n", first)
        assert match, first + process.stderr.read()
        pin = None if "--cert" in arguments else process.stdout.readline().split()[-1]
        yield process, int(match[1]), pin
    finally:
        process.kill()
        process.communicate()


def interrupt(process):
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    return output, errors


# demo


def test_demo_verifies_everything():
    result = json.loads(succeed("demo", "--json", "--size", "300kB"))
    assert result["ok"]
    assert result["backend"] == rawquic.backend_info()
    by_name = {step["what"]: step for step in result["steps"]}
    assert set(by_name) == {"small ones", "many sizes", "many at once", "one large", "datagrams"}
    assert by_name["one large"]["bytes"] == 300_000
    for step in result["steps"]:
        assert step["error"] is None
        assert step["seconds"] > 0


def test_demo_prints_what_ran_and_no_progress_in_a_pipe():
    output = succeed("demo", "--size", "1")
    assert "one large" in output
    assert f"backend {rawquic.backend_info()['backend']}" in output
    assert "\x1b" not in output


def test_demo_shows_a_bar_on_a_terminal():
    pty = pytest.importorskip("pty")
    try:
        ours, theirs = pty.openpty()
    except OSError as reason:
        pytest.skip(f"no pseudo-terminal here: {reason}")
    with subprocess.Popen(
        [*PROGRAM, "demo", "--size", "2MB"],
        stdout=theirs,
        stdin=theirs,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        output = b""
        try:
            while chunk := os.read(ours, 65536):
                output += chunk
        except OSError:  # how Linux says that the terminal's other side is closed
            pass
        assert process.wait(SECONDS) == 0
    os.close(ours)
    assert b"MB/s" in output.partition(b"echoed over loopback")[0]


CORRUPT = """
import sys
import rawquic.cli.echoing as echoing

async def corrupt(send, recv):
    async with send:
        async for chunk in recv:
            await send.write(bytes(byte ^ 1 for byte in chunk))

echoing._echo_stream = corrupt
sys.argv = ["rawquic", "demo", "--json", "--size", "1"]
from rawquic.cli import main
sys.exit(main())
"""


def test_demo_fails_when_a_byte_is_wrong():
    result = subprocess.run(
        [sys.executable, "-c", CORRUPT], capture_output=True, text=True, timeout=SECONDS
    )
    assert result.returncode == 1
    assert not json.loads(result.stdout)["ok"]
    assert "SHA-256" in result.stderr


# echo-server and echo


def test_echo_a_message_with_a_pin():
    with echo_server() as (_, port, pin):
        assert succeed("echo", "127.0.0.1", port, "--pin", pin, "--message", "grüß dich") == (
            "grüß dich\n"
        )


def test_echo_random_bytes_as_json():
    with echo_server() as (_, port, pin):
        result = json.loads(
            succeed(
                "echo", "127.0.0.1", port, "--pin", pin, "--size", "100kB", "--count", 3, "--json"
            )
        )
    assert result["verified"]
    assert (result["count"], result["size"], result["bytes"]) == (3, 100_000, 300_000)
    assert result["remote_address"] == ["127.0.0.1", port]


def test_echo_nothing_at_all():
    with echo_server() as (_, port, _):
        result = json.loads(succeed("echo", "127.0.0.1", port, "--insecure", "--size", 0, "--json"))
    assert result["sha256"] == hashlib.sha256(b"").hexdigest()


def test_echo_with_certificate_files():
    succeed("cert", "--out-cert", "c.pem", "--out-key", "k.pem")
    with echo_server("--cert", "c.pem", "--key", "k.pem") as (_, port, _):
        assert succeed("echo", "127.0.0.1", port, "--cafile", "c.pem") == "hello\n"


@pytest.mark.parametrize("trust", [(), ("--pin", WRONG_PIN), ("--cafile", "other.pem")])
def test_echo_does_not_trust_just_anybody(trust, tmp_path):
    (tmp_path / "other.pem").write_bytes(self_signed(["127.0.0.1"])[0])
    with echo_server() as (_, port, _):
        line = fail(1, "echo", "127.0.0.1", port, *trust)
    assert "certificate" in line
    for option in ("--pin SHA256", "--cafile FILE", "--insecure"):
        assert option in line
    assert "cafile=" not in line  # that is what a program can do


def test_echo_to_a_port_where_nobody_is():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        # Bound and silent: no ICMP says that nobody listens.
        line = fail(1, "echo", "127.0.0.1", port, "--insecure", "--timeout", 0.3)
    assert f"127.0.0.1:{port}" in line
    assert line.endswith("(is a server running there?)")
    line = fail(1, "echo", "127.0.0.1", port, "--insecure")  # now one does say so
    assert line == f"rawquic: 127.0.0.1:{port}: UDP port unreachable (is a server running there?)"


def test_ctrl_c_ends_the_server_in_good_order():
    with echo_server() as (process, port, pin):
        succeed("echo", "127.0.0.1", port, "--pin", pin)
        output, errors = interrupt(process)
    assert "stopped, 0 sessions cut off" in output
    assert errors == ""


async def test_a_second_ctrl_c_cuts_off_who_is_there():
    with echo_server("--drain", SECONDS * 2) as (process, port, pin):
        async with rawquic.connect("127.0.0.1", port, pinned_sha256=[pin]) as session:
            send, recv = await session.open_bi()
            await send.write(b"x")
            assert await recv.read() == b"x"
            process.send_signal(signal.SIGINT)
            lines = iter(process.stdout.readline, "")
            assert any(line.startswith("stopping: 1 sessions") for line in lines)
            output, _ = interrupt(process)
            await session.wait_closed()
    assert "stopped, 1 sessions cut off" in output


def test_port_in_use():
    with echo_server() as (_, port, _):
        assert "in use" in fail(1, "echo-server", "--port", port)


def test_server_logs_sessions_when_asked_to():
    with echo_server("-v") as (process, port, pin):
        succeed("echo", "127.0.0.1", port, "--pin", pin)
        _, errors = interrupt(process)
    assert re.search(r"session [0-9a-f]+ with 127\.0\.0\.1:\d+ opened, server side", errors)
    assert "closed: closed by the peer with application error code 0" in errors
    assert "WARNING" not in errors and "ERROR" not in errors


# cert


def test_cert_writes_a_pair_that_only_the_owner_can_use(tmp_path):
    output = succeed("cert", "--host", "example.org", "--host", "192.0.2.1", "--days", 3)
    certificate = (tmp_path / "cert.pem").read_bytes()
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert certificate_sha256(certificate) in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cert.pem", "key.pem"]


@pytest.mark.parametrize("there", ["cert.pem", "key.pem"])
def test_cert_overwrites_only_by_force(tmp_path, there):
    (tmp_path / there).write_text("precious")
    assert there in fail(1, "cert")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "precious")]
    succeed("cert", "--force")
    assert "precious" not in (tmp_path / there).read_text()
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


def test_cert_leaves_nothing_behind_when_it_fails(tmp_path):
    assert "nowhere/key.pem" in fail(1, "cert", "--out-key", "nowhere/key.pem")
    assert list(tmp_path.iterdir()) == []


# info, help, errors


def test_info():
    assert json.loads(succeed("info", "--json")) == rawquic.backend_info()
    assert rawquic.backend_info()["backend"] in succeed("info")


def test_version():
    assert succeed("--version") == f"rawquic {rawquic.backend_info()['version']}\n"


def test_alone_it_shows_its_commands():
    assert all(word in succeed() for word in ("demo", "echo-server", "echo", "cert", "info"))


@pytest.mark.parametrize("command", ["demo", "echo-server", "echo", "cert", "info"])
def test_help_has_examples(command):
    output = succeed(command, "--help")
    assert "Examples:" in output
    assert f"rawquic {command}" in output.partition("Examples:")[2]


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (["nonsense"], "nonsense"),
        (["--nonsense"], "--nonsense"),
        (["demo", "--size", "5x"], "write 4096, 64kB, 16MB or 16MiB"),
        (["demo", "--size", "5TB"], "size"),
        (["demo", "--size", "2GiB"], "limit"),
        (["demo", "surplus"], "surplus"),
        (["echo"], "HOST"),
        (["echo", "h", "0"], "PORT"),
        (["echo", "127.0.0.1:4433"], "argument of its own: write 127.0.0.1 4433"),
        (["echo", "[::1]:4433"], "argument of its own: write ::1 4433"),
        (["perf", "client", "localhost:4433"], "argument of its own: write localhost 4433"),
        (["echo", "h", "--pin", "abc"], "64 hex digits"),
        (["echo", "h", "--message", "m", "--size", "1"], "exclude"),
        (["echo", "h", "--insecure", "--pin", WRONG_PIN], "--insecure"),
        (["echo", "h", "--cafile", "missing.pem"], "missing.pem"),
        (["echo-server", "--port", "65536"], "--port"),
        (["echo-server", "--cert", "missing.pem"], "missing.pem"),
        (["echo-server", "--key", __file__], "--cert"),
        (["cert", "--days", "0"], "--days"),
        (["cert", "--host", "a b"], "a b"),
        (["cert", "--out-cert", "same", "--out-key", "same"], "same file"),
    ],
    ids=" ".join,
)
def test_a_wrong_argument_is_one_line(arguments, about):
    assert about in fail(2, *arguments)


@pytest.mark.parametrize("command", ["demo", "echo", "perf client"])
def test_help_says_how_large_a_size_may_be(command):
    assert re.search(r"--size SIZE [^-]*at\s+most\s+1GiB", succeed(*command.split(), "--help"))


def test_a_file_that_is_no_certificate_is_one_line(tmp_path):
    (tmp_path / "text.pem").write_text("not a certificate")
    assert "text.pem" in fail(1, "echo-server", "--port", "0", "--cert", "text.pem")


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing):
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from rawquic.cli import main; sys.exit(main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=SECONDS
    )
    assert result.returncode == 1
    assert result.stderr == ("the command line needs the extra: pip install 'rawquic[cli]'\n")
