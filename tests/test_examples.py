"""The examples, and the programs that the documentation shows, run as they stand."""

import asyncio
import os
import re
import signal
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


def test_the_server_that_handles_sigterm(tmp_path, free_port):
    """Its handler, which goes on for ever, hears of it, and the session ends in an orderly way."""
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs/getting-started.md").read_text(), re.M | re.S
    )
    [program] = [block for block in blocks if "serve_with_shutdown" in block]
    certificate, key = self_signed(HOSTS)
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "server.py").write_text(program.replace("4433", str(free_port)))
    kept = {"PYTHONPATH": str(Path(rawquic.__file__).resolve().parents[1])}
    server = subprocess.Popen(
        [sys.executable, "server.py"], cwd=tmp_path, env={**os.environ, **kept}
    )

    async def terminate():
        for attempt in range(20):
            try:
                client = await rawquic.connect("127.0.0.1", free_port, cadata=certificate)
                break
            except rawquic.ConnectionRefused:
                assert attempt < 19
                await asyncio.sleep(0.2)
        assert await client.read_datagram() == b"tick"
        server.send_signal(signal.SIGTERM)
        await client.wait_closed()
        return client.close_reason

    try:
        reason = asyncio.run(asyncio.wait_for(terminate(), SECONDS))
        assert isinstance(reason, rawquic.ClosedByPeer) and reason.code == 0
        assert server.wait(SECONDS) == 0
    finally:
        server.kill()
        server.wait()
