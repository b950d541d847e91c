"""Which connection a UDP datagram belongs to, by connection ID (RFC 9000 §5.2).

Our own connection IDs have one fixed length, so that a short header can be read without state.
It reads headers only as far as RFC 8999 fixes them for every version.
"""

import hmac
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..connection.control import CONNECTION_ID_LENGTH
from ..connection.interface import Address
from .linger import Lingering
from .link import Link

LONG_HEADER = 0x80
MAX_CONNECTION_ID = 20  # RFC 9000 §17.2, for QUIC versions 1 and 2


class LongHeader(NamedTuple):
    """The version-independent part of a long header (RFC 8999 §5.1)."""

    version: int
    destination_cid: bytes
    source_cid: bytes


def parse_long_header(data: bytes) -> LongHeader | None:
    """None when truncated, or when a connection ID is longer than QUIC 1 and 2 allow."""
    if len(data) < 7:
        return None
    destination_length = data[5]
    source_at = 6 + destination_length
    if destination_length > MAX_CONNECTION_ID or len(data) <= source_at:
        return None
    source_length = data[source_at]
    end = source_at + 1 + source_length
    if source_length > MAX_CONNECTION_ID or len(data) < end:
        return None
    return LongHeader(
        int.from_bytes(data[1:5], "big"), data[6:source_at], data[source_at + 1 : end]
    )


class Routes:
    """The tables of one endpoint: by our connection IDs, by a client's first ID, by address."""

    def __init__(self, stateless_reset_key: bytes | None) -> None:
        self._by_id: dict[bytes, Link | Lingering] = {}
        self._by_initial: dict[tuple[bytes, Address], Link] = {}
        self._by_address: dict[Address, set[Link]] = {}
        self._reset_key = stateless_reset_key or os.urandom(32)
        self.reactor: Any = None  # the compiled loop, which looks up short headers itself

    def new_connection_id(self) -> bytes:
        """A connection ID that is not in use here."""
        while True:
            cid = os.urandom(CONNECTION_ID_LENGTH)
            if cid not in self._by_id:
                return cid

    def reset_token(self, cid: bytes) -> bytes:
        """The stateless reset token of `cid`: a keyed hash, so no state is needed (§10.3.2)."""
        return hmac.digest(self._reset_key, cid, "sha256")[:16]

    def find(self, data: bytes, peer: Address) -> Link | Lingering | LongHeader | None:
        """The owner of this datagram; else its long header, when it has one that can be read."""
        if not data[0] & LONG_HEADER:
            return self._by_id.get(data[1 : 1 + CONNECTION_ID_LENGTH])
        if len(data) > 6 and data[5] == CONNECTION_ID_LENGTH:
            known = self._by_id.get(data[6 : 6 + CONNECTION_ID_LENGTH])
            if known is not None:
                return known
        header = parse_long_header(data)
        if header is None:
            return None
        return self._by_initial.get((header.destination_cid, peer), header)

    def at(self, address: Address) -> Iterable[Link]:
        """The connections whose peer is, or was, at `address`."""
        return tuple(self._by_address.get(address, ()))

    def add(self, link: Link, address: Address, initial_cid: bytes | None = None) -> None:
        link.address = address
        self._by_address.setdefault(address, set()).add(link)
        if initial_cid is not None:
            link.initial_key = (initial_cid, address)
            self._by_initial[link.initial_key] = link

    def moved(self, link: Link, address: Address) -> None:
        """The peer of `link` is at `address` now (RFC 9000 §9)."""
        self._forget_address(link)
        self.add(link, address)

    def sync_ids(self, link: Link) -> None:
        """Take over which IDs the connection issued and retired since the last call."""
        for cid, added in link.connection.take_id_changes():
            if added:
                self._by_id[cid] = link
                link.ids.add(cid)
                if self.reactor is not None:
                    self.reactor.route(cid, link.connection.plane)
            else:
                self._by_id.pop(cid, None)
                link.ids.discard(cid)
                if self.reactor is not None:
                    self.reactor.unroute(cid)

    def handshake_done(self, link: Link) -> None:
        """The client's first connection ID is not used any more (RFC 9000 §7.2)."""
        if link.initial_key is not None:
            self._by_initial.pop(link.initial_key, None)
            link.initial_key = None

    def replace(self, link: Link, lingering: Lingering | None) -> None:
        """The connection is over: what still comes for it goes to `lingering`, or to nobody."""
        self.handshake_done(link)
        self._forget_address(link)
        for cid in link.ids:
            if self.reactor is not None:
                self.reactor.unroute(cid)
            if lingering is None:
                self._by_id.pop(cid, None)
            else:
                self._by_id[cid] = lingering
        if lingering is not None:
            lingering.ids = link.ids
        link.ids = set()

    def forget(self, lingering: Lingering) -> None:
        for cid in lingering.ids:
            self._by_id.pop(cid, None)

    def _forget_address(self, link: Link) -> None:
        links = self._by_address.get(link.address)
        if links is not None:
            links.discard(link)
            if not links:
                del self._by_address[link.address]
