"""What is run with what: the peers, the end that each is, and the columns."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cases import AT_ONCE, CASES, NO_APPLICATION_PROTOCOL
from matrix import End, Pair
from relay import Impairment

OTHER = {"client": "server", "server": "client"}
# Column: case, by whether our end is the client or the server.
COLUMNS = {
    **{name: {"client": name, "server": name} for name in list(CASES)[:7]},
    "close, ours": {"client": "close-client", "server": "close-server"},
    "close, theirs": {"client": "close-server", "server": "close-client"},
    "keys, ours": {"client": "keys-client", "server": "keys-server"},
    "keys, theirs": {"client": "keys-server", "server": "keys-client"},
    "data out": {"client": "upload", "server": "download"},
    "data in": {"client": "download", "server": "upload"},
    "lossy": {"client": "echo", "server": "echo"},
}
LIMITS = {"max_streams": AT_ONCE[0]}  # both ends wait for MAX_STREAMS (RFC 9000 §4.6)
# What happens to packets of both directions there.
LOSSY = Impairment(loss=0.02, reordering=0.02, duplication=0.01, delay=0.001)


@dataclass(frozen=True)
class Peer:
    """Another stack.

    Attributes:
        name: of the adapter in bench/stacks or the program in bench/peers.
        python: the least minor version of Python 3 for its own environment; None: it has none.
        settings: how it is set up, ours: how our end is, other than by default.
        no_client: why it cannot be the client.
        refusal: the code with which its server refuses an ALPN that it does not have.
    """

    name: str
    python: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)
    no_client: str | None = None
    refusal: int = NO_APPLICATION_PROTOCOL


PEERS = (
    Peer("aioquic"),
    # RFC 9001 §8.1 wants no_application_protocol; it answers handshake_failure.
    Peer("qh3", python=11, refusal=0x100 + 40),
    Peer("aiopquic", python=12, settings={"key_update_interval": 300}),
    Peer("quinn"),
    Peer("tako", ours={"alpn": "h3"}, no_client="tako's raw QUIC is a server only"),
)


@dataclass(frozen=True)
class Row:
    """One peer, with our end in one role on one backend."""

    peer: Peer
    role: str
    backend: str

    @property
    def names(self) -> list[str]:
        return [self.peer.name, self.role, self.backend]

    @property
    def impossible(self) -> str | None:
        """Why the peer cannot be the other end."""
        return self.peer.no_client if self.role == "server" else None

    @property
    def pair(self) -> Pair:
        ours = End("rawquic", {**LIMITS, **self.peer.ours}, {"RAWQUIC_BACKEND": self.backend})
        theirs = End(self.peer.name, {**LIMITS, **self.peer.settings})
        client, server = (ours, theirs) if self.role == "client" else (theirs, ours)
        name = f"{self.peer.name}-{self.role}-{self.backend}"
        return Pair(name, "", client, server)


def rows(peers: list[Peer], backends: list[str]) -> Iterator[Row]:
    for peer in peers:
        for role in OTHER:
            for backend in backends:
                yield Row(peer, role, backend)
