"""What a user may rely on, in the amounts of real use: bytes, streams, sessions, memory, errors.

With RAWQUIC_TEST_FULL set, the sender of the memory test has 1 GB, and 200 MB without it.
"""

import asyncio
import datetime
import hashlib
import os
import random
import re
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from loopback import Certificate, echo, every_wait, waiting, within
from processes import Peer, environment, server

import rawquic
from rawquic import Config, ConfigError, HandshakeFailed, IdleTimeout
from rawquic.selfsigned import self_signed

pytestmark = pytest.mark.timeout(60)
ONE_LOOP = pytest.mark.asyncio(loop_factories=["asyncio"])
MB = 1_000_000
BACKEND = rawquic.backend_info()["backend"]


async def answer(peer: Peer, seconds: float = 20) -> dict[str, Any]:
    return await within(asyncio.to_thread(peer.answer), seconds)


def report(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        print(f"\n    [{BACKEND}] {text}", end="")


# -- bytes -----------------------------------------------------------------------------------------


@ONE_LOOP
@pytest.mark.timeout(90)
async def test_100_mb_through_an_echo(certificate: Certificate, capsys: Any) -> None:
    with server("echo", certificate) as peer:
        port = (await answer(peer))["port"]
        async with rawquic.connect("127.0.0.1", port, **certificate.client) as session:
            send, recv = await session.open_bi()
            sent, got = hashlib.sha256(), hashlib.sha256()

            async def write() -> None:
                for _ in range(100):
                    block = os.urandom(MB)
                    sent.update(block)
                    await send.write(block)
                send.finish()

            began = time.monotonic()
            writing = asyncio.ensure_future(write())
            size = 0
            async for chunk in recv:
                got.update(chunk)
                size += len(chunk)
            await writing
            seconds = time.monotonic() - began
            assert size == 100 * MB
            assert got.digest() == sent.digest()
            report(capsys, f"100 MB echoed in {seconds:.1f} s: {100 / seconds:.1f} MB/s each way")


@ONE_LOOP
@pytest.mark.timeout(120)
async def test_1000_streams_at_once(certificate: Certificate) -> None:
    many = {"max_concurrent_bidi_streams": 1000}
    sizes = random.Random(1)
    with server("echo", certificate, **many) as peer:
        port = (await answer(peer))["port"]
        async with rawquic.connect("127.0.0.1", port, **certificate.client) as session:
            streams = [await within(session.open_bi()) for _ in range(1000)]  # no waiting: at once

            async def round_trip(send: rawquic.SendStream, recv: rawquic.RecvStream) -> int:
                data = secrets.token_bytes(sizes.randrange(100_001))
                writing = asyncio.ensure_future(send.write(data))
                writing.add_done_callback(lambda _: send.finish())
                assert await recv.read(-1) == data
                await writing
                return len(data)

            sent = await asyncio.gather(*(round_trip(*each) for each in streams))
            assert len(sent) == 1000 and sum(sent) > 40 * MB


@ONE_LOOP
async def test_10000_streams_one_after_the_other(certificate: Certificate, capsys: Any) -> None:
    with server("echo", certificate) as peer:
        port = (await answer(peer))["port"]
        began = time.monotonic()
        async with rawquic.connect("127.0.0.1", port, **certificate.client) as session:
            for number in range(10_000):
                send, recv = await session.open_bi()
                data = number.to_bytes(4, "big")
                await send.write(data)
                send.finish()
                assert await recv.read(-1) == data
            assert send.id == 4 * 9_999
            await within(send.wait_acked())
            assert not session._sending and not session._readers  # nothing is kept of them
        report(capsys, f"10,000 streams in {time.monotonic() - began:.1f} s")


@ONE_LOOP
async def test_200_sessions_at_once(certificate: Certificate, capsys: Any) -> None:
    with server("echo", certificate) as peer:
        port = (await answer(peer))["port"]
        began = time.monotonic()
        async with rawquic.Endpoint(("127.0.0.1", 0)) as endpoint:

            async def use(number: int) -> rawquic.RawQuicSession:
                # Half of them on a socket of their own, half on one.
                connect: Any = endpoint.connect if number % 2 else rawquic.connect
                session: rawquic.RawQuicSession = await connect(
                    "127.0.0.1", port, timeout=40, **certificate.client
                )
                await round_trip(session, number)
                return session

            async def round_trip(session: rawquic.RawQuicSession, number: int) -> None:
                data = number.to_bytes(4, "big") * 2000
                send, recv = await session.open_bi()
                await send.write(data)
                send.finish()
                assert await recv.read(-1) == data

            sessions = await asyncio.gather(*(use(number) for number in range(200)))
            assert not any(session.closed for session in sessions)  # all of them, at once
            await asyncio.gather(*(round_trip(each, n) for n, each in enumerate(sessions)))
            report(capsys, f"200 sessions in {time.monotonic() - began:.1f} s")
            await asyncio.gather(*(session.aclose() for session in sessions))


@ONE_LOOP
async def test_every_size_as_a_stream_and_as_a_datagram(certificate: Certificate) -> None:
    noise = secrets.token_bytes(6000)

    def of(size: int) -> bytes:
        return noise[size : 2 * size]

    with server("echo", certificate) as peer:
        port = (await answer(peer))["port"]
        async with rawquic.connect("127.0.0.1", port, **certificate.client) as session:

            async def stream(size: int) -> None:
                send, recv = await session.open_bi()
                await send.write(of(size))
                send.finish()
                assert await recv.read(-1) == of(size), size

            for first in range(0, 3001, 50):
                await asyncio.gather(*(stream(n) for n in range(first, min(first + 50, 3001))))
            # Only now: the limit grows while the path's MTU is searched for.
            limit = session.max_datagram_size
            assert limit is not None and limit > 1000
            for size in range(limit + 1):
                session.send_datagram(of(size))
                assert await within(session.read_datagram()) == of(size), size
            with pytest.raises(rawquic.DatagramTooLarge):
                session.send_datagram(bytes(limit + 1))


# -- memory ----------------------------------------------------------------------------------------


@ONE_LOOP
@pytest.mark.timeout(400 if os.environ.get("RAWQUIC_TEST_FULL") else 90)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="the address sanitizer keeps freed memory for a while",
)
async def test_a_reader_that_stops_holds_up_the_sender(
    certificate: Certificate, capsys: Any
) -> None:
    """1 GB with RAWQUIC_TEST_FULL set, else 200 MB; both processes stay within the windows."""
    size = 1000 * MB if os.environ.get("RAWQUIC_TEST_FULL") else 200 * MB
    config = Config()
    windows = config.receive_window + config.send_window
    bound = 3 * windows + 16 * MB  # windows, copies on their way, and what the allocator keeps
    seconds = size / MB  # at the very least a megabyte a second
    with (
        server("sink", certificate) as sink,
        Peer(
            "sender",
            port=(await answer(sink))["port"],
            cadata=certificate.cert.decode(),
            size=size,
        ) as sender,
    ):
        assert (await answer(sender))["connected"]
        before = sink.memory(), sender.memory()
        sender.tell("begin")
        assert (await answer(sink))["accepted"] == 2
        stalled = await answer(sender)
        assert not stalled["done"]
        # The stream's window at the reader, and the sender's own buffer.
        assert stalled["written"] <= config.stream_receive_window + config.send_window
        grown = [now.memory() - then for now, then in zip((sink, sender), before, strict=True)]
        assert max(grown) < bound, grown
        sink.tell("resume")
        told, read = await answer(sender, seconds), await answer(sink, seconds)
        assert read == {"sha256": told["sha256"], "size": size}
        peak = [
            now.memory("VmHWM") - then for now, then in zip((sink, sender), before, strict=True)
        ]
        report(
            capsys,
            f"{size // MB} MB to a reader that stopped: written {stalled['written'] / MB:.1f} MB, "
            f"grown by {grown[0] / MB:.1f} (reader) and {grown[1] / MB:.1f} MB (sender), "
            f"at most {peak[0] / MB:.1f} and {peak[1] / MB:.1f} MB",
        )
        assert max(peak) < bound, peak


# -- system calls ----------------------------------------------------------------------------------


@ONE_LOOP
async def test_packets_per_system_call(certificate: Certificate, capsys: Any) -> None:
    size = (100 if os.environ.get("RAWQUIC_TEST_FULL") else 20) * MB
    with server("source", certificate) as peer:
        port = (await answer(peer))["port"]
        async with rawquic.connect("127.0.0.1", port, **certificate.client) as session:
            send, recv = await session.open_bi()
            await send.write(b"%d" % size)
            send.finish()
            digest = hashlib.sha256()
            began = time.monotonic()
            async for chunk in recv:
                digest.update(chunk)
            seconds = time.monotonic() - began
            theirs, ours = await answer(peer), session.connection.stats()
            assert digest.hexdigest() == theirs["sha256"]
            per_send = theirs["datagrams_sent"] / theirs["send_calls"]
            per_receive = ours.socket_datagrams_received / ours.socket_receive_calls
            report(
                capsys,
                f"{size / MB / seconds:.1f} MB/s down; packets per call: "
                f"{per_send:.1f} sent, {per_receive:.1f} received",
            )
            assert theirs["datagrams_sent"] > size / 65_000
            if BACKEND == "compiled" and sys.platform == "linux":
                assert per_send >= 10
                assert per_receive >= 10


# -- a peer that is gone ---------------------------------------------------------------------------


async def flood(session: rawquic.RawQuicSession) -> None:
    """Waits for room nearly all the time; a probe now and then takes a datagram along."""
    while True:
        await session.send_datagram_wait(bytes(1000))


async def test_kill_of_the_peer_ends_every_wait(certificate: Certificate) -> None:
    """SIGKILL says nothing to anybody: the idle timeout does, after the negotiated time."""
    idle = Config(max_idle_timeout=1.5, datagram_send_buffer_size=2000)  # of the peer: 30 s
    with server("silent", certificate) as peer:
        port = (await answer(peer))["port"]
        session = await rawquic.connect("127.0.0.1", port, config=idle, **certificate.client)
        waits = await every_wait(session)
        pinged = time.monotonic() + await within(session.connection.ping())
        peer.kill()
        waits["ping"] = await waiting(session.connection.ping())
        waits["send_datagram_wait"] = await waiting(flood(session))
        done, late = await asyncio.wait(waits.values(), timeout=10)
        ended = time.monotonic()
        assert not late and done
        assert 1.3 < ended - pinged < 4
        for name, task in waits.items():
            if name == "wait_closed":
                assert task.exception() is None
            else:
                assert type(task.exception()) is IdleTimeout, (name, task.exception())
        assert type(session.close_reason) is IdleTimeout
        await within(session.wait_closed())


# -- errors ----------------------------------------------------------------------------------------


def expired(hosts: list[str]) -> Certificate:
    """A certificate of two days ago that was good for one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "expired")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now - datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in hosts]), False)
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


async def test_a_client_names_what_is_wrong(certificate: Certificate) -> None:
    stranger, _ = self_signed(["localhost"])
    old = expired(["localhost"])
    async with (
        rawquic.serve(echo, "127.0.0.1", 0, **certificate.server) as good,
        rawquic.serve(echo, "127.0.0.1", 0, **old.server) as outdated,
    ):
        for where, options, kind, words in (
            (good, {"cadata": stranger}, rawquic.CertificateInvalid, "certificate|self.signed"),
            (
                good,
                {**certificate.client, "server_name": "wrong.test"},
                rawquic.CertificateInvalid,
                "wrong.test",
            ),
            (
                outdated,
                {**old.client, "server_name": "localhost"},
                rawquic.CertificateInvalid,
                "expired$|not valid$|no longer valid$",
            ),
            (
                good,
                {**certificate.client, "alpn": ["something-else"]},
                HandshakeFailed,
                "ALPN|application_protocol",
            ),
        ):
            began = time.monotonic()
            with pytest.raises(kind, match=words) as raised:
                await within(rawquic.connect(*where.local_address, **options))
            assert type(raised.value) is kind
            assert time.monotonic() - began < 5
            assert "\n" not in str(raised.value)


async def test_a_server_names_what_is_wrong(certificate: Certificate, tmp_path: Path) -> None:
    _, other_key = self_signed(["localhost"])
    (tmp_path / "cert.pem").write_bytes(certificate.cert)
    (tmp_path / "other.pem").write_bytes(other_key)
    (tmp_path / "folder.pem").mkdir()
    cert = tmp_path / "cert.pem"
    for keyfile, words in (
        (tmp_path / "missing.pem", r"missing\.pem.*No such file"),
        (tmp_path / "folder.pem", r"folder\.pem.*directory"),
        (tmp_path / "other.pem", r"other\.pem.*does not match.*cert\.pem"),
        (cert, r"cert\.pem.*private key"),
    ):
        with pytest.raises(ConfigError, match=words) as raised:
            await rawquic.serve(echo, "127.0.0.1", 0, certfile=cert, keyfile=keyfile)
        assert "\n" not in str(raised.value)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}.*in use"):
            await rawquic.serve(echo, "127.0.0.1", port, **certificate.server)


async def test_nothing_listens(certificate: Certificate) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(rawquic.ConnectionRefused, match="port unreachable"):
        await rawquic.connect("127.0.0.1", port, **certificate.client)
    assert time.monotonic() - began < 2


async def test_a_black_hole(certificate: Certificate) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        host, port = hole.getsockname()
        began = time.monotonic()
        with pytest.raises(rawquic.HandshakeTimeout, match=rf"{host}:{port} in 0\.6 s"):
            await rawquic.connect(host, port, timeout=0.6, **certificate.client)
        assert 0.5 < time.monotonic() - began < 1.5


# -- nothing is left -------------------------------------------------------------------------------

LEAVES_NOTHING = """
import asyncio, contextlib, gc, logging, os, socket, sys, warnings
import rawquic
from loopback import Certificate, Relay, echo
from rawquic import aio
from rawquic.selfsigned import self_signed

logging.getLogger("quic").setLevel(logging.CRITICAL)  # aioquic's own
loop_factory = None
if sys.argv[1] == "uvloop":
    import uvloop
    loop_factory = uvloop.new_event_loop
CERTIFICATE = Certificate(*self_signed(["localhost", "127.0.0.1"]))


def descriptors():
    return sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []


async def use():
    async with rawquic.serve(echo, "127.0.0.1", 0, **CERTIFICATE.server) as server:
        address = server.local_address
        async with rawquic.connect(*address, **CERTIFICATE.client) as session:
            send, recv = await session.open_bi()
            await send.write(b"x" * 100_000)
            send.finish()
            assert len(await recv.read(-1)) == 100_000
            session.send_datagram(b"d")
            await session.read_datagram()
            reader, writer = await aio.open_stream(session)
            writer.write(b"line\\n")
            await reader.readline()
            writer.close()
            await writer.wait_closed()
            unread, _ = await session.open_bi()
            await unread.write(b"never finished")
        with contextlib.suppress(KeyError):
            async with rawquic.connect(*address, **CERTIFICATE.client) as session:
                raise KeyError
        async with rawquic.Endpoint(("127.0.0.1", 0)) as endpoint:
            await endpoint.connect(*address, **CERTIFICATE.client)
            await endpoint.connect(*address, **CERTIFICATE.client)
        with contextlib.suppress(rawquic.CertificateInvalid):
            await rawquic.connect(*address)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
            hole.bind(("127.0.0.1", 0))
            with contextlib.suppress(rawquic.HandshakeTimeout):
                await rawquic.connect(*hole.getsockname(), timeout=0.1, **CERTIFICATE.client)
            half_open = rawquic.connect(*hole.getsockname(), timeout=5, **CERTIFICATE.client)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(half_open, 0.1)
        with contextlib.suppress(rawquic.ConfigError):
            await rawquic.serve(echo, "127.0.0.1", 0, certfile="no-such-file.pem")
        with contextlib.suppress(OSError):
            await rawquic.serve(echo, *address, **CERTIFICATE.server)
    server = await rawquic.serve(echo, "127.0.0.1", 0, **CERTIFICATE.server)
    sessions = [
        await rawquic.connect(*server.local_address, **CERTIFICATE.client) for _ in range(3)
    ]
    server.close()
    await server.wait_closed()
    for session in sessions:
        await session.wait_closed()


async def main():
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 60
    await loop.getaddrinfo("localhost", 1)  # starts the executor, which stays
    before = descriptors()
    await use()
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, left
    timers = [each for each in getattr(loop, "_scheduled", []) if not each.cancelled()]
    assert not timers, timers
    gc.collect()
    assert descriptors() == before, (before, descriptors())


async def hurry():
    # The program ends right behind a close that nobody waits for.
    server = await rawquic.serve(echo, "127.0.0.1", 0, **CERTIFICATE.server)
    session = await rawquic.connect(*server.local_address, **CERTIFICATE.client)
    asyncio.get_running_loop().slow_callback_duration = 60
    session.close()
    server.close()


with asyncio.Runner(debug=True, loop_factory=loop_factory) as runner:
    runner.run(main())
with asyncio.Runner(debug=True, loop_factory=loop_factory) as runner:
    runner.run(hurry())
gc.collect()
print("done")
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_nothing_is_left(loop: str) -> None:
    """No task, no timer, no socket, no warning of either, in Python's development mode."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", LEAVES_NOTHING, loop],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "done\n"
    # The one that was left unfinished on purpose.
    assert re.fullmatch(r"session .* reset unfinished streams \(1\): 8; 14 bytes .*\n", ran.stderr)
