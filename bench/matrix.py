"""What is compared: the works and their sizes, the stacks and how each is set up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

MBS, PER_SECOND, BYTES = "MB/s", "/s", "bytes"
KEY = {
    MBS: "megabytes_per_second",
    PER_SECOND: "per_second",
    BYTES: "server_rss_per_session",
}


@dataclass(frozen=True)
class Work:
    """One line of the matrix: a work of `rawquic.perf` with options."""

    name: str
    work: str
    unit: str
    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = True
    floor: bool = False

    def value(self, result: Mapping[str, Any]) -> float:
        return float(result[KEY[self.unit]])


WORKS = (
    Work("download", "download", MBS, "one stream, server to client", floor=True),
    Work("upload", "upload", MBS, "one stream, client to server, to the answer", floor=True),
    Work("both", "both", MBS, "a download and an upload at once, both counted", floor=True),
    Work("download-100", "download", MBS, "100 streams", {"streams": 100}, quick=False),
    Work("requests", "requests", PER_SECOND, "64 B and 64 B back, new stream each, 1 at a time"),
    Work("requests-100", "requests", PER_SECOND, "the same, 100 at once", {"at_once": 100}),
    Work(
        "requests-8x25",
        "requests",
        PER_SECOND,
        "the same, 25 at once on each of 8 connections",
        {"at_once": 25, "connections": 8},
        quick=False,
    ),
    Work("ping-pong", "ping-pong", PER_SECOND, "64 B there and back on one open stream"),
    Work("datagrams", "datagrams", MBS, "1,100 B one way, as received"),
    Work("datagram-echo", "datagram-echo", PER_SECOND, "1,100 B, 256 in flight, calls for many"),
    Work(
        "datagram-echo-1",
        "datagram-echo",
        PER_SECOND,
        "the same, one call each",
        {"batch": False},
        quick=False,
    ),
    Work("handshakes", "handshakes", PER_SECOND, "connect and close, one at a time"),
    Work("handshakes-8", "handshakes", PER_SECOND, "the same, 8 at once", {"at_once": 8}, False),
    Work("idle", "idle", BYTES, "server memory for each idle connection", {"connections": 200}),
)
TRANSFERS = frozenset({"download", "upload", "both"})
# Memory has hardly any noise, and each sample needs a fresh server.
ONCE = ("idle",)
TLS_WORKS = frozenset({"download", "upload", "both", "ping-pong", "handshakes", "idle"})
TLS_WORKS |= {"handshakes-8"}


@dataclass(frozen=True)
class End:
    """A server or a client: which stack, in which environment, with which settings."""

    stack: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def native(self) -> bool:
        return self.stack in ("quinn", "tako")


@dataclass(frozen=True)
class Pair:
    """A row of the comparison: a client and a server."""

    name: str
    what: str
    client: End
    server: End
    works: frozenset[str] | None = None  # None: all
    quick: bool = True
    awake: bool = False  # measured while `machine.awake` holds

    def takes(self, work: Work) -> bool:
        return self.works is None or work.name in self.works


def same(
    name: str, what: str, end: End, *, works: frozenset[str] | None = None, quick: bool = True
) -> Pair:
    return Pair(name, what, end, end, works, quick)


def awake(stack: str, *, quick: bool = False) -> Pair:
    """Without the waking of an idle core at each hop, which is the machine's and not a stack's."""
    what = f"{stack}, cores kept awake"
    pair = same(f"{stack}-awake", what, End(stack), works=ONE_BY_ONE, quick=quick)
    return replace(pair, awake=True)


def tls(loop: str, cipher: str, *, quick: bool) -> Pair:
    name = f"tls-{loop}-{cipher.split('-')[1]}"
    end = End("tls", {"loop": loop, "cipher": cipher})
    what = f"TLS 1.3 over TCP, {loop}, {cipher.upper()}"
    return same(name, what, end, works=TLS_WORKS, quick=quick)


OURS = "rawquic"
ONE_BY_ONE = frozenset({"requests", "ping-pong"})
WAITING = ONE_BY_ONE | {"requests-100"}


def ours(
    name: str, what: str, works: frozenset[str] | None, *, quick: bool = False, **settings: Any
) -> Pair:
    """rawquic at both ends, set up otherwise."""
    return same(
        f"rawquic-{name}", f"rawquic, {what}", End(OURS, settings), works=works, quick=quick
    )


RAWQUIC, QUINN = End("rawquic"), End("quinn")
MIXED = frozenset(
    {"download", "upload", "requests", "requests-100", "datagrams", "datagram-echo", "handshakes"}
)
PAIRS = (
    same(OURS, "rawquic, standard loop", RAWQUIC),
    same("aioquic", "stock aioquic", End("aioquic")),
    same("qh3", "qh3 (core in Rust)", End("qh3")),
    same("aiopquic", "aiopquic (picoquic)", End("aiopquic")),
    tls("asyncio", "aes-128-gcm", quick=False),
    tls("asyncio", "aes-256-gcm", quick=True),
    tls("uvloop", "aes-128-gcm", quick=False),
    tls("uvloop", "aes-256-gcm", quick=True),
    same("quinn", "quinn, native", QUINN),
    Pair("rawquic-to-quinn", "our client, quinn's server", RAWQUIC, QUINN, MIXED),
    Pair("quinn-to-rawquic", "quinn's client, our server", QUINN, RAWQUIC, MIXED),
    Pair(
        "rawquic-to-tako",
        "our client, tako's server",
        End("rawquic", {"alpn": "h3"}),
        End("tako"),
        MIXED | {"ping-pong"},
        quick=False,
    ),
    ours("uvloop", "on uvloop", None, loop="uvloop"),
    ours("256", "AES-256-GCM", TRANSFERS, quick=True, cipher="aes-256-gcm"),
    ours("openssl", "OpenSSL's AEAD", TRANSFERS, quick=True, aead="openssl"),
    ours("busy-poll", "busy_poll of 0.1 ms", WAITING, quick=True, busy_poll=0.0001),
    awake(OURS, quick=True),
    awake("quinn", quick=True),
    awake("aiopquic"),
    awake("qh3"),
    awake("aioquic"),
    ours("9000", "mtu_upper_bound of 9,000", TRANSFERS, mtu_upper_bound=9_000),
    ours("small-buffers", "socket buffers of 212,992", TRANSFERS, socket_buffer=212_992),
    same(
        "rawquic-python",
        "rawquic without its extension",
        End("rawquic", {}, {"RAWQUIC_BACKEND": "python"}),
        quick=False,
    ),
)


@dataclass(frozen=True)
class Mode:
    """How long each sample takes and how many there are of each."""

    name: str
    duration: float
    rounds: int
    idle: int


QUICK = Mode("quick", 0.25, 3, 100)
FULL = Mode("full", 0.5, 4, 200)
SMOKE = Mode("smoke", 0.02, 1, 5)


def chosen(
    mode: Mode, works: Sequence[str] | None, pairs: Sequence[str] | None
) -> tuple[list[Work], list[Pair]]:
    """What is named; all where nothing is, of the quick ones in quick mode."""
    quick = mode is QUICK
    return (
        [w for w in WORKS if (w.name in works if works else w.quick or not quick)],
        [p for p in PAIRS if (p.name in pairs if pairs else p.quick or not quick)],
    )
