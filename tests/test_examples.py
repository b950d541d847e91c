"""The examples, and the programs that the documentation shows, run as they stand."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import rawquic
from rawquic.selfsigned import self_signed

ROOT = Path(__file__).parents[1]
HOSTS = ["localhost", "127.0.0.1", "::1"]  # as `rawquic cert` has them
SECONDS = 60


def shown_in(page):
    """The server and the client among the Python blocks of a page."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    [server] = [block for block in blocks if "rawquic.serve(" in block]
    [client] = [block for block in blocks if "rawquic.connect(" in block]
    return server, client


def examples():
    folder = ROOT / "examples"
    return (folder / "echo_server.py").read_text(), (folder / "echo_client.py").read_text()


@pytest.fixture
def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize(
    ("pair", "answer"),
    [
        (examples(), "hello, stream\nhello, datagram\n"),
        (shown_in("README.md"), "b'hello'\n"),
        (shown_in("docs/getting-started.md"), "b'you said: hello'\n"),
    ],
    ids=["examples", "README", "getting-started"],
)
def test_client_gets_its_answer(pair, answer, tmp_path, free_port):
    for name, content in zip(("cert.pem", "key.pem"), self_signed(HOSTS), strict=True):
        (tmp_path / name).write_bytes(content)
    for name, program in zip(("server.py", "client.py"), pair, strict=True):
        assert "4433" in program
        (tmp_path / name).write_text(program.replace("4433", str(free_port)))
    kept = {"PYTHONPATH": str(Path(rawquic.__file__).resolve().parents[1])}
    options = {"cwd": tmp_path, "env": {**os.environ, **kept}, "text": True}
    server = subprocess.Popen([sys.executable, "server.py"], **options)
    try:
        # A client that is early is refused at once or in time: it may ask again.
        for _ in range(20):
            client = subprocess.run(
                [sys.executable, "client.py"], capture_output=True, timeout=SECONDS, **options
            )
            if "ConnectionRefused" not in client.stderr:
                break
        assert client.returncode == 0, client.stderr
        assert client.stdout.endswith(answer)
    finally:
        server.kill()
        server.wait()
