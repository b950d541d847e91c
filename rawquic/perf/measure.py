"""What is measured, and where it comes from: clocks, the operating system, a connection's counters.

Throughput is in MB/s of 10^6 bytes, times are in seconds, latencies in microseconds.
"""

import json
import os
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .interface import Receiving, Session
from .protocol import REPORT, word

MEGABYTE = 1_000_000
MICROSECOND = 1e-6
# Of ConnectionStats: what a row shows. Those of the socket are counted for all its connections.
COUNTERS = (
    "packets_sent",
    "packets_lost",
    "bytes_retransmitted",
    "udp_datagrams_sent",
    "udp_datagrams_received",
    "socket_send_calls",
    "socket_receive_calls",
    "socket_datagrams_sent",
    "socket_datagrams_received",
    "datagrams_dropped_send",
    "datagrams_dropped_receive",
    "key_updates",
    "peer_key_updates",
)


@dataclass(frozen=True)
class Usage:
    """What one process had used at one moment."""

    cpu_user: float
    cpu_system: float
    rss: int

    @property
    def cpu(self) -> float:
        return self.cpu_user + self.cpu_system


def own_usage() -> Usage:
    """This process, by getrusage(2); resident memory by /proc, 0 where there is none."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        pages = 0
    return Usage(used.ru_utime, used.ru_stime, pages * os.sysconf("SC_PAGE_SIZE"))


def counters(session: Session) -> dict[str, int]:
    """The connection's counters; empty for a stack that has none."""
    connection = getattr(session, "connection", None)
    stats = getattr(connection, "stats", None)
    if stats is None:
        return {}
    return {name: int(getattr(stats(), name)) for name in COUNTERS}


async def read_all(recv: Receiving, limit: int = 1 << 20) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await recv.read(65536):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise ValueError(f"an answer of more than {limit} bytes where a small one was expected")
    return b"".join(parts)


async def report(session: Session) -> dict[str, Any]:
    """The server's answer to REPORT; empty where the server has no such word."""
    send, recv = await session.open_bi()
    await send.write(word(REPORT))
    send.finish()
    first = await recv.read(65536)
    if not first.startswith(b"{"):  # the draft's own server: it would send 2^64-5 bytes
        recv.stop(0)
        return {}
    answer: dict[str, Any] = json.loads(first + await read_all(recv))
    return answer


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and the largest, microseconds; by nearest rank."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    last = len(ordered) - 1
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {
        name: round(ordered[min(last, int(rank * len(ordered)))] / MICROSECOND, 1)
        for name, rank in ranks.items()
    }


@dataclass
class Result:
    """One work, measured once.

    `count` is of requests, datagrams or connections, `bytes` of application data in the measured
    direction (both directions for "both"). `lost` counts datagrams. `stall` is the longest time, in
    seconds, in which the reader of a "hashed-download" got nothing. The `client_` and `server_`
    figures are differences over the measured time; `server_` ones are empty where the server does
    not report.
    """

    work: str
    seconds: float = 0.0
    bytes: int = 0
    count: int = 0
    lost: int = 0
    stall: float | None = None
    latency: dict[str, float] = field(default_factory=dict)
    client_cpu: float | None = None
    server_cpu: float | None = None
    server_rss_per_session: int | None = None
    client_counters: dict[str, int] = field(default_factory=dict)
    server_counters: dict[str, int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def megabytes_per_second(self) -> float:
        return self.bytes / self.seconds / MEGABYTE if self.seconds else 0.0

    @property
    def per_second(self) -> float:
        return self.count / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        rates = {
            "megabytes_per_second": round(self.megabytes_per_second, 3),
            "per_second": round(self.per_second, 2),
        }
        return {**asdict(self), **rates}


def difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: value - before.get(name, 0) for name, value in after.items()}


class Meter:
    """Both ends' usage over a stretch of one session; the reports are outside of the clock."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._server: dict[str, Any] = {}
        self._counters: dict[str, int] = {}
        self._usage = own_usage()
        self.cpu = 0.0

    async def start(self) -> None:
        self._server = await report(self._session)
        self._counters = counters(self._session)
        self._usage = own_usage()

    def stop(self) -> None:
        """At the end of the measured time, before the server is asked."""
        self.cpu = own_usage().cpu - self._usage.cpu

    async def fill(self, result: Result) -> dict[str, Any]:
        """Put the differences into `result`; returns the server's last report."""
        result.client_cpu = self.cpu
        result.client_counters = difference(counters(self._session), self._counters)
        after = await report(self._session)
        if after and self._server:
            before = self._server
            result.server_cpu = (
                after["cpu_user"] + after["cpu_system"] - before["cpu_user"] - before["cpu_system"]
            )
            result.server_counters = difference(after["counters"], before["counters"])
        return after
