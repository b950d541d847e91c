"""The endpoint's loop: batch in, route, hand to connections, batch out, one timer.

It owns the socket and the clock. It knows connections only through `connection.interface`, and
sessions only through `Link.on_events`.
"""

import asyncio
import errno
import logging
import math
import os
import socket
import time
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

from ..backend import Turn
from ..config import Config
from ..connection.interface import Address, Connection, address_text
from ..errors import ConnectionRefused, HandshakeFailed, SessionError
from .deadlines import Deadlines
from .io import BATCH, Incoming, Outgoing, normalize, open_io
from .linger import Lingering
from .link import Link, ignore
from .resets import StatelessResets
from .routing import LONG_HEADER, LongHeader, Routes
from .turn_python import AT_ONCE

logger = logging.getLogger("rawquic")

TURN_SECONDS = 0.004  # reading goes on so long before other tasks get their turn
LINGER_STEP = 0.05  # seconds
UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM})


class ServerSide(Protocol):
    """Who answers datagrams of clients that have no connection yet."""

    def first_datagram(
        self, header: LongHeader, data: bytes, peer: Address, local: str | None, now: float
    ) -> None: ...


class UdpEndpoint:
    """One UDP socket and the connections on it, driven by one event loop in one thread."""

    def __init__(self, sock: socket.socket, config: Config) -> None:
        self.config = config
        self.routes = Routes(config.stateless_reset_key)
        self.server: ServerSide | None = None
        self.local_address: Address = normalize(sock.getsockname())
        self.receive_buffer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.send_buffer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self.packets_unroutable = 0
        self.resets = StatelessResets()
        self.turn = Turn(asyncio.get_running_loop(), self._flush)
        self._io = open_io(self.turn, sock, config)
        self._links: set[Link] = set()
        self._outgoing: list[Outgoing] = []
        self._deadlines: Deadlines[Link | Lingering] = Deadlines(self.turn.loop, self._on_due)
        self._lingering: set[Lingering] = set()
        self.closing = False  # no new connections
        self.closed = False
        _endpoints.add(self)

    async def start(self) -> None:
        await self._io.start(self._on_batch)
        self.routes.reactor = self._io.reactor

    # -- connections ---------------------------------------------------------------------------

    def adopt(
        self,
        connection: Connection,
        peer: Address,
        *,
        is_client: bool,
        initial_cid: bytes | None = None,
    ) -> Link:
        """Route the connection's packets to it from now on."""
        link = Link(self, connection, is_client)
        self._links.add(link)
        connection.attach(self._io.reactor, link)
        self.routes.add(link, peer, initial_cid)
        self.routes.sync_ids(link)
        return link

    def links(self) -> list[Link]:
        return list(self._links)

    # -- in ------------------------------------------------------------------------------------

    def _on_batch(self, batch: list[Incoming], planes: Sequence[Any]) -> None:
        """Take a batch, run the tasks that it woke, send what all that made possible."""
        turn = self.turn
        scheduled = turn.is_scheduled()
        now = time.monotonic()
        turn.begin()
        try:
            if batch:
                self._on_datagrams(batch, now)
            for plane in planes:
                if plane.owner is not None:
                    self._on_news(plane.owner, now)
            if self._io.has_notes():
                self._on_socket_errors()
        finally:
            # More may come to what is due; not so for handshakes.
            turn.end(
                not planes
                and (scheduled or any(link.connection.handshake_done for link in turn.dirty))
            )
        if self._deadlines.changed:
            self._deadlines.arm()

    def _on_datagrams(self, batch: list[Incoming], now: float) -> None:
        """Route them, and read more of them within bounds."""
        started = now
        touched: dict[Link, None] = {}
        while True:
            for data, peer, local, ecn in batch:
                if data:
                    self._datagram(data, peer, local, ecn, now, touched)
            if len(batch) < BATCH or time.monotonic() - started > TURN_SECONDS:
                break
            batch = self._io.read_more()
            now = time.monotonic()
        for link in touched:
            self._after(link)
            self.turn.flush_soon(link)

    def _on_news(self, link: Link, now: float) -> None:
        """The compiled loop gave packets to this connection, and something came of it."""
        connection = link.connection
        if connection.after_batch(now):
            self._after(link)
        else:
            link.on_events(connection.events())
        if connection.wants_flush() or connection.close_reason is not None:
            self.turn.flush_soon(link)
        elif connection.has_news():
            self._arm(link, connection.timer())

    def _datagram(
        self,
        data: bytes,
        peer: Address,
        local: str | None,
        ecn: int,
        now: float,
        touched: dict[Link, None],
    ) -> None:
        owner = self.routes.find(data, peer)
        if isinstance(owner, Link):
            self.deliver(owner, data, peer, local, now, ecn)
            touched[owner] = None
        elif isinstance(owner, Lingering):
            if owner.should_repeat(len(data), peer, now):
                for packet in owner.packets:
                    self.send_soon(packet, peer, local)
        elif isinstance(owner, LongHeader):
            if self.server is not None:
                self.server.first_datagram(owner, data, peer, local, now)
        elif not data[0] & LONG_HEADER:
            self._unknown_short_header(data, peer, local, now)
        else:
            self.packets_unroutable += 1

    def deliver(
        self, link: Link, data: bytes, peer: Address, local: str | None, now: float, ecn: int = 0
    ) -> None:
        """Give a datagram to its connection; what goes wrong there ends that connection only."""
        link.local = local
        try:
            link.connection.receive(data, peer, now, ecn)
        except Exception as error:
            link.connection.broke(error)

    def first_packet(
        self, link: Link, data: bytes, peer: Address, local: str | None, now: float
    ) -> None:
        """Begin a server's connection with the datagram that asked for it."""
        self.deliver(link, data, peer, local, now)
        self._after(link)
        self.turn.flush_soon(link)

    def _unknown_short_header(
        self, data: bytes, peer: Address, local: str | None, now: float
    ) -> None:
        """A stateless reset for one of ours, or a packet that deserves one (RFC 9000 §10.3)."""
        self.packets_unroutable += 1
        token = self.resets.token_of(data)
        if token is not None:
            for link in self.routes.at(peer):
                if link.connection.is_reset_token(token):
                    link.connection.stateless_reset()
                    self._after(link)
                    self.turn.flush_soon(link)
                    return
        if self.resets.is_allowed(data, now):
            token = self.routes.reset_token(data[1:9])
            self.send_soon(self.resets.answer(data, token), peer, local)

    def _on_socket_errors(self) -> None:
        for number, peer in self._io.take_errors():
            if number == errno.ECONNREFUSED or number in UNREACHABLE:
                self._unreachable(number, peer)
        now = time.monotonic()
        for peer, size in self._io.take_too_large():
            for link in self.routes.at(peer):
                if link.address == peer and link.connection.packet_refused(size, now):
                    self.turn.flush_soon(link)

    def _unreachable(self, number: int, peer: Address | None) -> None:
        """ICMP may end a handshake, never a connection: anybody can forge it (RFC 9000 §14.2.1)."""
        links = self._links if peer is None else self.routes.at(peer)
        for link in list(links):
            if not link.is_client or link.connection.handshake_done:
                continue
            where = address_text(link.address)
            if number == errno.ECONNREFUSED:
                error: SessionError = ConnectionRefused(f"{where}: UDP port unreachable")
            else:
                error = HandshakeFailed(f"{where}: {os.strerror(number)}")
            link.connection.fail(error)
            self._after(link)
            self.turn.flush_soon(link)

    # -- events --------------------------------------------------------------------------------

    def _after(self, link: Link) -> None:
        """Take over what a call into the connection changed, and tell the session."""
        self.routes.sync_ids(link)
        if link.initial_key is not None and link.connection.handshake_done:
            self.routes.handshake_done(link)
        events = link.connection.events()
        if events:
            link.on_events(events)

    # -- out -----------------------------------------------------------------------------------

    def flush_now(self, link: Link) -> None:
        """Build and send what `link`'s connection has queued, in this very call."""
        if link in self._links and not self.turn.held:
            self.turn.dirty.pop(link, None)
            self._flush([link], [])

    def flush_all(self) -> None:
        """The same for all that have something queued; the loop may never have another turn."""
        for _ in range(0, len(self.turn.dirty) + 1, AT_ONCE):
            self.turn.flush()

    def send_soon(self, data: bytes, peer: Address, local: str | None) -> None:
        """A datagram that belongs to no connection."""
        self._outgoing.append((data, peer, local, 0))
        self.turn.wanted = True
        self.turn.schedule()

    def _flush(self, links: list[Link], news: list[Link]) -> None:
        """Send for `links`; look at those that have something to tell since they sent."""
        now = time.monotonic()
        for link in links:
            if not link.connection.sends_itself() and link in self._links:
                self._collect(link, now)
        if self._outgoing:
            self._send()
        for link in links:
            if link in self._links:
                self._flush_connection(link)
        for link in news:
            if link in self._links:
                self._look_at(link, now)
        if self._io.has_notes():
            self._on_socket_errors()
        if self._deadlines.changed:
            self._deadlines.arm()

    def _flush_connection(self, link: Link) -> None:
        """Behind the handshake's packets, those that the connection sends itself."""
        connection = link.connection
        try:
            more = connection.flush()
        except Exception as error:
            link.connection.broke(error)
            more = True  # the close
        if more:
            self.turn.flush_soon(link)
        if link.armed is None or connection.has_news():
            self._after(link)
            self._arm(link, connection.timer())

    def _look_at(self, link: Link, now: float) -> None:
        """The compiled loop sent for this connection, and it has something to tell since."""
        link.connection.after_batch(now)
        self._after(link)
        self._arm(link, link.connection.timer())
        # Not for what waits until the socket takes more: the compiled loop remembers that.
        if not link.connection.sends_itself():
            self.turn.flush_soon(link)

    def _collect(self, link: Link, now: float) -> None:
        connection = link.connection
        try:
            packets = connection.datagrams_to_send(now)
        except Exception as error:
            link.connection.broke(error)
            packets = self._last_words(connection, now)
        local = link.local
        self._outgoing += [(data, peer, local, 0) for data, peer in packets]
        self._after(link)
        if connection.close_reason is not None:
            self._retire(link, [data for data, _ in packets], now)
            return
        peer = connection.peer_address()
        if peer != link.address:
            self.routes.moved(link, peer)

    @staticmethod
    def _last_words(connection: Connection, now: float) -> list[tuple[bytes, Address]]:
        """The close of a connection that broke; nothing where that fails as well."""
        try:
            return connection.datagrams_to_send(now)
        except Exception:
            logger.debug("a broken connection cannot say so", exc_info=True)
            return []

    def _send(self) -> None:
        outgoing = self._outgoing
        sent = self._io.send(outgoing)
        if sent < len(outgoing):
            self._outgoing = outgoing[sent:]
            self.turn.held = True  # the socket takes no more
            self._io.call_when_writable(self._unblocked)
        else:
            self._outgoing = []

    def _unblocked(self) -> None:
        self.turn.held = self.closed
        self.turn.wanted = bool(self._outgoing)
        self.turn.flush()

    # -- the end of connections ----------------------------------------------------------------

    def _retire(self, link: Link, packets: list[bytes], now: float) -> None:
        """The connection is over: keep its IDs for a while (RFC 9000 §10.2), free the rest."""
        self._links.discard(link)
        self._deadlines.forget(link)
        link.on_events, link.tasks = ignore, None
        connection = link.connection
        if not connection.is_ending() or connection.is_gone():
            self.routes.replace(link, None)
            connection.let_go()
            return
        deadline = now + 3 * connection.probe_timeout()
        statistics = connection.statistics()
        # A peer that was never heard of will not answer the close either.
        round_trip = statistics.rtt if statistics.udp_datagrams_received else 0.0
        # It may have moved since the last packet of ours.
        address = connection.peer_address() if packets else link.address
        room = connection.unvalidated_room()
        lingering = Lingering(packets, address, link.local, round_trip, room)
        self.routes.replace(link, lingering)
        self._lingering.add(lingering)
        connection.let_go()
        # Later does no harm, and all that end in one such step need one timer.
        self._deadlines.set(lingering, math.ceil(deadline / LINGER_STEP) * LINGER_STEP)

    async def close(self) -> None:
        """Close what is left, give closes that are under way a round trip, close the socket."""
        if self.closed:
            return
        self.closing = True
        for link in self.links():
            link.connection.close_session(0, b"")
            self._after(link)  # whoever waits for its handshake hears of it
            self.turn.dirty[link] = None
        try:
            self.flush_all()
            waits = [item.round_trip for item in self._lingering if item.packets]
            if waits and not self.turn.dead:
                # Long enough to answer a peer that was still sending when our close got lost.
                await asyncio.sleep(min(max(waits) * 2, 0.5))
                if self._outgoing:
                    self._send()
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the socket now."""
        self.closing = self.closed = self.turn.held = True
        self._deadlines.close()
        self._io.close()
        _endpoints.discard(self)

    # -- timers --------------------------------------------------------------------------------

    def _arm(self, link: Link, deadline: float | None) -> None:
        """Hear of `link` at `deadline`; a later one than it has is looked up when that is over."""
        if deadline is not None and (link.armed is None or deadline < link.armed):
            link.armed = deadline
            link.connection.armed(deadline)
            self._deadlines.set(link, deadline)

    def _on_due(self, owner: Link | Lingering, now: float) -> None:
        if isinstance(owner, Lingering):
            self.routes.forget(owner)
            self._lingering.discard(owner)
        else:
            self._on_deadline(owner, now)

    def _on_deadline(self, link: Link, now: float) -> None:
        link.armed = None
        link.connection.armed(None)
        deadline = link.connection.timer()
        if deadline is None or deadline > now:
            self._arm(link, deadline)  # it had moved
            return
        if self.turn.held:
            self.turn.dirty[link] = None  # it is looked at again when the socket takes more
            return
        try:
            link.connection.handle_timer(now)
        except Exception as error:
            link.connection.broke(error)
        self._after(link)
        self.turn.flush_soon(link)

    # -- statistics ----------------------------------------------------------------------------

    def socket_stats(self) -> dict[str, int]:
        return self._io.stats()


_endpoints: weakref.WeakSet[UdpEndpoint] = weakref.WeakSet()


def _kill_inherited_endpoints() -> None:
    for endpoint in list(_endpoints):
        endpoint.turn.dead = endpoint.turn.held = endpoint.closed = True
        if endpoint._io.reactor is not None:
            endpoint._io.reactor.close()  # which the loop calls past the endpoint


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_kill_inherited_endpoints)
