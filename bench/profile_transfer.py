#!/usr/bin/env python3
"""Where the time of a download goes, at both ends, and what other open streams cost.

    python bench/profile_transfer.py shares     CPU samples by what ran (needs perf)
    python bench/profile_transfer.py calls      calls of Python functions per packet
    python bench/profile_transfer.py streams    instructions per packet, 0 and 10,000 other open
                                                streams (needs valgrind)

`shares` and `calls` run a server and a client on loopback, `streams` a pair in memory. Each prints
a Markdown table.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import rawquic  # noqa: E402
from rawquic.selfsigned import self_signed  # noqa: E402

WARM_UP = 100_000_000  # bytes, after which windows and path MTU are what they will be
PIECE = 1 << 20
SAMPLED = 4.0  # seconds
SIZES = 2 << 20, 10 << 20  # of which the difference is measured
ENDS = ("server", "client")

# What ran, by library and symbol; the first that fits.
SHARES: dict[str, str] = {
    "AEAD": r"IPSec_MB|libcrypto",
    "kernel": r"^\[|vmlinux|\.ko",
    "copy": r"libc\.so.*mem(move|cpy|set)",
    "protocol": r"_fastpath",
    "memory management": r"libc",
    "Python": r"python",
}


def config() -> rawquic.Config:
    return rawquic.Config(
        initial_mtu=1452,
        max_concurrent_bidi_streams=20_000,
        cipher_suites=["TLS_AES_128_GCM_SHA256"],
    )


class Calls:
    """Counts calls, of Python functions and of what they call in C, while it is on."""

    def __init__(self) -> None:
        self.counted: collections.Counter[str] = collections.Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            self.counted[f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_qualname}"] += 1
        elif event == "c_call":
            self.counted[getattr(argument, "__qualname__", repr(argument))] += 1


# -- the ends: processes of their own --------------------------------------------------------------


async def server(count: bool) -> None:
    """Send on a one-way stream as much as the client asks for, once to warm up and once more."""
    done = asyncio.Event()

    async def handle(session: rawquic.RawQuicSession) -> None:
        calls = Calls()
        for number in range(2):
            size = int.from_bytes(await (await session.accept_uni()).read_to_end(8))
            before = session.connection.stats().packets_sent
            if number and count:
                sys.setprofile(calls)
            async with await session.open_uni() as send:
                for _ in range(size // PIECE):
                    await send.write(bytes(PIECE))
        await session.wait_closed()
        sys.setprofile(None)
        packets = session.connection.stats().packets_sent - before
        say({"packets": packets, "calls": calls.counted.most_common(3)})
        done.set()

    cert, key = self_signed(["127.0.0.1"])
    async with rawquic.serve(
        handle, "127.0.0.1", 0, certfile=cert, keyfile=key, config=config()
    ) as listening:
        say({"port": listening.local_address[1], "cert": cert.decode()})
        await done.wait()


async def client(count: bool, port: int, cert: str, size: int) -> None:
    calls = Calls()
    async with rawquic.connect("127.0.0.1", port, cadata=cert, config=config()) as session:
        for number, wanted in enumerate((WARM_UP, size)):
            before, began = session.connection.stats().udp_datagrams_received, time.perf_counter()
            if number:
                say({"ready": True})
                if count:
                    sys.setprofile(calls)
            async with await session.open_uni() as send:
                await send.write(wanted.to_bytes(8))
            recv = await session.accept_uni()
            while await recv.read(PIECE):
                pass
        sys.setprofile(None)
        packets = session.connection.stats().udp_datagrams_received - before
        took = time.perf_counter() - began
    say({"packets": packets, "calls": calls.counted.most_common(3), "rate": size / took / 1e6})


def say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


class End:
    """A process that runs `server` or `client` of this file."""

    def __init__(self, role: str, **arguments: Any) -> None:
        command = [sys.executable, __file__, "end", json.dumps([role, arguments])]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"an end stopped with code {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


@contextlib.contextmanager
def ends(size: int, *, count: bool) -> Any:
    """Both, in the middle of the transfer."""
    first = End("server", count=count)
    second = None
    try:
        second = End("client", count=count, size=size, **first.heard())
        second.heard()
        yield first, second
    finally:
        for each in (second, first):
            if each is not None:
                each.process.kill()
                each.process.wait()


# -- what is measured ------------------------------------------------------------------------------


def shares() -> None:
    if shutil.which("perf") is None:
        raise SystemExit("this needs perf (Debian: linux-perf)")
    counted: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as folder, ends(1 << 36, count=False) as both:
        data = str(Path(folder, "perf.data"))
        pids = [each.process.pid for each in both]
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "1999", "-o", data]
        record += ["-p", ",".join(map(str, pids)), "--", "sleep", str(SAMPLED)]
        subprocess.run(record, check=True)
        script = ["perf", "script", "-i", data, "-F", "pid,ip,sym,dso"]
        shown = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    for line in shown.splitlines():
        if found := re.match(r"\s*(\d+)\s+[0-9a-f]+ (.*) \((.*)\)$", line):
            pid, symbol, library = found.groups()
            counted[int(pid)][share(Path(library).name + " " + symbol)] += 1
    print("| share of CPU samples | " + " | ".join(ENDS) + " |\n|---|---|---|")
    for name in (*SHARES, "other"):
        parts = [counted[pid][name] / max(1, counted[pid].total()) for pid in pids]
        print(f"| {name} | " + " | ".join(f"{part:.1%}" for part in parts) + " |")
    print("| samples | " + " | ".join(f"{counted[pid].total():,}" for pid in pids) + " |")


def share(what: str) -> str:
    return next((name for name, pattern in SHARES.items() if re.search(pattern, what)), "other")


def calls() -> None:
    with ends(1 << 29, count=True) as (first, second):
        found = {"client": second.heard(), "server": first.heard()}
    print("| end | packets | most often called | calls per packet |\n|---|---|---|---|")
    for end in ENDS:
        packets = found[end]["packets"]
        for name, number in found[end]["calls"]:
            print(f"| {end} | {packets:,} | `{name}` | {number / packets:.3f} |")


def streams() -> None:
    if shutil.which("valgrind") is None:
        raise SystemExit("this needs valgrind")
    print("| other open streams | instructions per packet, both ends |\n|---|---|")
    found = []
    for others in (0, 10_000):
        runs = [instructions(others, size) for size in SIZES]
        (few, less), (many, more) = runs
        found.append((more - less) / (many - few))
        print(f"| {others:,} | {found[-1]:,.0f} |")
    print(f"| ratio | {found[1] / found[0]:.3f} |")


def instructions(others: int, size: int) -> tuple[int, int]:
    """(packets, instructions in the compiled parts of both ends)."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += [f"--toggle-collect=*_plane_{part}" for part in ("receive", "build_list")]
        command += [sys.executable, __file__, "pair", json.dumps([others, size])]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    assert collected is not None
    return json.loads(done.stdout.splitlines()[-1])["packets"], int(collected[1])


def pair(others: int, size: int) -> None:
    """A transfer between two connections in memory."""
    import pair

    pair.use("fast")
    most = {"max_concurrent_bidi_streams": 20_000, "initial_mtu": 1452}
    windows = {"receive_window": 1 << 30, "stream_receive_window": 1 << 30, "send_window": 1 << 30}
    settings = rawquic.Config(**most, **windows)
    both = pair.our_pair(settings, settings, latency=0.0).handshake()
    client, server, now = both.client.plane, both.server.plane, both.now

    def exchange() -> None:
        nonlocal now
        while True:
            now += 1e-5
            there = client.build(now)
            for packet in there:
                server.receive(packet, now)
            now += 1e-5
            back = server.build(now)
            for packet in back:
                client.receive(packet, now)
            if not there and not back:
                due = min(server.timer() or now + 9, client.timer() or now + 9)
                if due > now + 1:  # the idle timeout
                    return
                now = max(now, due)
                client.on_timer(now)
                server.on_timer(now)

    for _ in range(others):
        client.write(client.open_stream(False), b"open", 0)
    exchange()
    stream, data = client.open_stream(False), bytes(PIECE)
    before = client.statistics()["packets_sent"] + server.statistics()["packets_sent"]
    for _ in range(size // PIECE):
        assert client.write(stream, data, 0) == PIECE
        exchange()
        while server.read(stream, PIECE):
            pass
    after = client.statistics()["packets_sent"] + server.statistics()["packets_sent"]
    assert len(server.inspect()["streams"]) == others + 1
    say({"packets": after - before})


def main() -> None:
    parser = argparse.ArgumentParser(description="What a transfer costs, and where.")
    measures = {"shares": shares, "calls": calls, "streams": streams}
    parser.add_argument("what", choices=[*measures, "end", "pair"], metavar="|".join(measures))
    parser.add_argument("arguments", nargs="?", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.what == "end":
        role, arguments = json.loads(chosen.arguments)
        asyncio.run({"server": server, "client": client}[role](**arguments))
    elif chosen.what == "pair":
        pair(*json.loads(chosen.arguments))
    else:
        measures[chosen.what]()


if __name__ == "__main__":
    main()
