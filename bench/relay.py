"""A UDP relay that impairs: delay, loss, reordering, duplication, corruption, a slow queue.

For kernels without netem. It sits between a client and a server on loopback, in a process of its
own, and treats both directions alike. What it does to a packet is drawn from a seeded generator:
the same packets in the same order meet the same fate. What it loses itself, because its sockets'
buffers are full, it counts apart ("unmeant"): where that is not 0, a measurement is void.

    python bench/relay.py --to 127.0.0.1:4433 --delay 0.02 --loss 0.01 --seed 1
"""

import argparse
import contextlib
import heapq
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

Address = tuple[str, int]
BUFFER = 16 << 20  # as root; others get no more than net.core.rmem_max
# With what forces them: SO_RCVBUFFORCE and SO_SNDBUFFORCE of Linux.
BUFFER_OPTIONS = ((socket.SO_RCVBUF, 33), (socket.SO_SNDBUF, 32))
LARGEST = 65536
AT_ONCE = 64  # packets of one direction before the other has its turn
REORDER_DELAY = 0.001


@dataclass(frozen=True)
class Impairment:
    """What one direction does to packets.

    Attributes:
        delay, jitter: seconds, one way; jitter is added evenly from 0, and reorders.
        loss, duplication, corruption, reordering: probabilities. A reordered packet is held back
            for a millisecond more; a corrupted one has one bit flipped.
        rate: bytes per second of a bottleneck, None: none. queue: packets that wait at it; what
            comes on top is lost.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0
    reordering: float = 0.0
    rate: float | None = None
    queue: int = 100

    def arguments(self) -> list[str]:
        """As main() takes them."""
        changed = (f.name for f in fields(self) if getattr(self, f.name) != f.default)
        return [text for name in changed for text in (f"--{name}", repr(getattr(self, name)))]


@dataclass
class Count:
    packets: int = 0
    lost: int = 0
    queue_full: int = 0
    duplicated: int = 0
    corrupted: int = 0
    reordered: int = 0


class Direction:
    """The fate of the packets of one direction; knows no sockets and reads no clock."""

    def __init__(self, impairment: Impairment, seed: int) -> None:
        self._is = impairment
        self._random = random.Random(seed)
        self._leaving: deque[float] = deque()  # when each packet at the bottleneck has left it
        self.count = Count()

    def fates(self, packet: bytes, now: float) -> Iterator[tuple[float, bytes]]:
        """When to send which bytes; nothing for a lost packet."""
        chance, what = self._random.random, self._is
        self.count.packets += 1
        # Every packet draws the same numbers, so that one impairment does not shift another's.
        lose, twice, spoil, late, jitter = chance(), chance(), chance(), chance(), chance()
        if lose < what.loss:
            self.count.lost += 1
            return
        if what.rate is not None:
            leaving = self._leaving
            while leaving and leaving[0] <= now:
                leaving.popleft()
            if len(leaving) > what.queue:  # one of them is being sent and does not wait
                self.count.queue_full += 1
                return
            now = (leaving[-1] if leaving else now) + len(packet) / what.rate
            leaving.append(now)
        if spoil < what.corruption:
            self.count.corrupted += 1
            spoiled = bytearray(packet)
            bit = self._random.randrange(8 * len(packet))
            spoiled[bit // 8] ^= 1 << bit % 8
            packet = bytes(spoiled)
        at = now + what.delay + jitter * what.jitter
        if late < what.reordering:
            self.count.reordered += 1
            at += REORDER_DELAY
        yield at, packet
        if twice < what.duplication:
            self.count.duplicated += 1
            yield at, packet


class Relay:
    """Listens for clients and has a socket towards the server for each of them."""

    def __init__(self, to: Address, impairment: Impairment, seed: int = 1) -> None:
        self._to = to
        self._directions = (Direction(impairment, seed), Direction(impairment, seed + 1))
        # select(2), since epoll_wait(2) counts in milliseconds: that would send packets in bunches.
        self._selector = selectors.SelectSelector()
        self._listening = self._socket()
        self._listening.bind(("127.0.0.1", 0))
        self._selector.register(self._listening, selectors.EVENT_READ, None)
        self._servers: dict[Address, socket.socket] = {}
        # (when, a number that keeps the order, how to send, the bytes)
        self._waiting: list[tuple[float, int, Callable[[bytes], object], bytes]] = []
        self._number = 0
        self._unsent = 0

    @property
    def port(self) -> int:
        port: int = self._listening.getsockname()[1]
        return port

    def counts(self) -> dict[str, Any]:
        up, down = self._directions
        return {"up": asdict(up.count), "down": asdict(down.count), "unmeant": self._unmeant()}

    def _unmeant(self) -> int:
        """Packets that were lost here without being meant to, with what the kernel dropped."""
        own = {str(os.fstat(s.fileno()).st_ino) for s in (self._listening, *self._servers.values())}
        try:
            lines = Path("/proc/net/udp").read_text().splitlines()[1:]
        except OSError:
            lines = []
        columns = (line.split() for line in lines)
        return self._unsent + sum(int(column[12]) for column in columns if column[9] in own)

    @staticmethod
    def _socket() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        for option, forced in BUFFER_OPTIONS:
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
            except OSError:
                sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        return sock

    def run(self, stop: Callable[[], bool] = lambda: False) -> None:
        while not stop():
            self.turn()

    def turn(self, longest: float = 0.2) -> None:
        """Take what is there, send what is due, sleep until there is more."""
        timeout = longest
        if self._waiting:
            timeout = min(longest, max(0.0, self._waiting[0][0] - time.monotonic()))
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._from_clients()
            else:
                self._from_server(key.fileobj, key.data)  # type: ignore[arg-type]
        self._send_due()

    def _from_clients(self) -> None:
        for _ in range(AT_ONCE):
            try:
                packet, client = self._listening.recvfrom(LARGEST)
            except BlockingIOError:
                return
            server = self._servers.get(client)
            if server is None:
                server = self._servers[client] = self._socket()
                server.connect(self._to)
                self._selector.register(server, selectors.EVENT_READ, client)
            self._treat(self._directions[0], packet, server.send)

    def _from_server(self, server: socket.socket, client: Address) -> None:
        def back(packet: bytes) -> object:
            return self._listening.sendto(packet, client)

        for _ in range(AT_ONCE):
            try:
                packet = server.recv(LARGEST)
            except (BlockingIOError, ConnectionRefusedError):
                return
            self._treat(self._directions[1], packet, back)

    def _treat(self, way: Direction, packet: bytes, send: Callable[[bytes], object]) -> None:
        now = time.monotonic()
        for at, data in way.fates(packet, now):
            if at <= now:
                self._send(send, data)
            else:
                self._number += 1
                heapq.heappush(self._waiting, (at, self._number, send, data))

    def _send_due(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, send, data = heapq.heappop(self._waiting)
            self._send(send, data)

    def _send(self, send: Callable[[bytes], object], data: bytes) -> None:
        try:
            send(data)
        except BlockingIOError:
            self._unsent += 1
        except ConnectionRefusedError:
            pass  # an end has gone

    def close(self) -> None:
        self._selector.close()
        for sock in (self._listening, *self._servers.values()):
            sock.close()


@dataclass
class Running:
    """A relay in a process of its own; `counts` is filled when it ends."""

    port: int
    counts: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def running(to: Address, impairment: Impairment, seed: int = 1) -> Iterator[Running]:
    command = [sys.executable, __file__, "--to", f"{to[0]}:{to[1]}", "--seed", str(seed)]
    process = subprocess.Popen([*command, *impairment.arguments()], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        relay = Running(int(json.loads(process.stdout.readline())["port"]))
        yield relay
    finally:
        process.terminate()
        said, _ = process.communicate()
    relay.counts = json.loads(said)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A UDP relay that impairs, both ways.")
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="the server")
    helps = {
        "delay": "seconds, one way",
        "jitter": "seconds, on top of it",
        "rate": "bytes per second of a bottleneck",
        "queue": "packets that wait there",
    }
    for each in fields(Impairment):
        kind = int if each.name == "queue" else float
        told = helps.get(each.name, "probability, 0 to 1")
        parser.add_argument(f"--{each.name}", type=kind, default=each.default, help=told)
    parser.add_argument("--seed", type=int, default=1)
    given = vars(parser.parse_args(arguments))
    host, _, port = given.pop("to").rpartition(":")
    seed = given.pop("seed")
    relay = Relay((host, int(port)), Impairment(**given), seed)
    sys.stdout.write(json.dumps({"port": relay.port}) + "\n")
    sys.stdout.flush()
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: told.append(number))
    parent = os.getppid()
    relay.run(lambda: bool(told) or os.getppid() != parent)  # ends with who started it
    sys.stdout.write(json.dumps(relay.counts()) + "\n")
    relay.close()


if __name__ == "__main__":
    main()
