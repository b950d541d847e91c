"""The interoperation check itself: its cases pass against a right server, fail against wrong ones.

Other stacks are no part of this: `ci/interop` runs the cases with those.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from interop import cases
from loopback import Certificate

import rawquic
from rawquic.errors import StreamReset, StreamStopped
from rawquic.perf import ALPN, serve_perf, server

pytestmark = pytest.mark.timeout(40)
INTEROP = Path(__file__).resolve().parent / "interop"


@contextlib.asynccontextmanager
async def client_of(certificate: Certificate) -> AsyncIterator[cases.Client]:
    serving = rawquic.serve(serve_perf, "127.0.0.1", 0, alpn=(ALPN,), **certificate.server)
    async with serving as listening, rawquic.Endpoint(("127.0.0.1", 0)) as endpoint:

        async def connect(alpn: str = ALPN) -> rawquic.RawQuicSession:
            port = listening.local_address[1]
            return await endpoint.connect("127.0.0.1", port, alpn=(alpn,), **certificate.client)

        yield cases.Client(connect, lambda: connect("other"), ALPN)
        listening.close()


@pytest.mark.parametrize("case", cases.CASES)
async def test_a_right_server_passes(certificate: Certificate, case: str) -> None:
    async with client_of(certificate) as client:
        await cases.CASES[case](client)


async def changed_echo(send: Any, recv: Any, rest: bytes) -> None:
    """As the server's, but for one bit, and for every code."""
    try:
        data = rest or await recv.read()
        while data:
            await send.write(data[:-1] + bytes([data[-1] ^ 1]) if len(data) > 1 else data)
            data = await recv.read()
        send.finish()
    except StreamReset as error:
        send.reset(error.code + 1)
    except StreamStopped as error:
        recv.stop(error.code + 1)


async def changed_digest(recv: Any, rest: bytes) -> bytes:
    while await recv.read():
        pass
    return bytes(32)


async def changed_close(session: Any, *_: Any) -> None:
    session.close(7)


@pytest.mark.parametrize(
    ("what", "wrong", "case"),
    [
        ("_echo", changed_echo, "echo"),
        ("_echo", changed_echo, "streams"),
        ("_echo", changed_echo, "reset"),
        ("_echo", changed_echo, "stop"),
        ("_echo", changed_echo, "keys-client"),
        ("_sha256", changed_digest, "uni"),
        ("_sha256", changed_digest, "upload"),
        ("_close", changed_close, "close-server"),
    ],
)
async def test_a_wrong_server_fails(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch, what: str, wrong: Any, case: str
) -> None:
    monkeypatch.setattr(server, what, wrong)
    async with client_of(certificate) as client:
        with pytest.raises((cases.Wrong, ExceptionGroup)) as caught:
            await cases.CASES[case](client)
        if isinstance(caught.value, ExceptionGroup):
            assert caught.value.subgroup(cases.Wrong) is not None


@pytest.mark.parametrize("other", [ALPN, None])
async def test_an_alpn_that_is_taken_or_left_unanswered_fails(
    certificate: Certificate, other: str | None
) -> None:
    async with client_of(certificate) as client:

        async def unanswered() -> Any:
            raise TimeoutError

        wrong = cases.Client(client.connect, client.connect if other else unanswered, ALPN)
        with pytest.raises(cases.Wrong, match="another ALPN"):
            await cases.handshake(wrong)


RUN = """
import sys
sys.path.insert(0, {folder!r})
import run
from pairs import Failed

class Runner:
    absent = None
    versions = {{}}
    port = 1

    def __init__(self, *arguments, **options): pass
    def stop(self): pass
    def ask_server(self): return {{"ecn": ["failed", "capable"]}}
    def run(self, work, options, *, case, **more):
        if case == {failing!r}:
            raise Failed("the reason")
        return {{"ecn": ["unknown"]}}

run.Runner = Runner
sys.argv = ["run", "--backends", "python", "--columns", "echo", "reset", "--output", {output!r}]
sys.exit(run.main())
"""


@pytest.mark.parametrize("failing", ["", "reset"])
def test_a_failed_cell_is_told_with_its_reason(tmp_path: Path, failing: str) -> None:
    output = tmp_path / "result.md"
    text = RUN.format(folder=str(INTEROP), failing=failing, output=str(output))
    environ = {**os.environ, "PYTHONPATH": str(INTEROP.parent.parent)}
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=environ)
    assert done.returncode == (1 if failing else 0), done.stderr
    told = done.stdout.splitlines()
    verdict = "FAILED" if failing else "ok"
    assert told[1].split() == ["aioquic", "client", "python", "ok", verdict]
    reason = "FAILED: aioquic, client, python, reset: the reason"
    assert (reason in told) == bool(failing)
    table = output.read_text()
    told = "FAILED" if failing else "ok, ECN"
    assert f"| aioquic | client | python | ok | {verdict} |" in table
    assert f"| aioquic | server | python | ok, ECN | {told} |" in table
