"""What a server does with a datagram from a client that has no connection yet.

Version Negotiation, Retry, refusal, or a new connection: aioquic's `QuicConnection` has none of
the first three. Everything here happens before any cryptographic handshake work, so all of it is
bounded: see `Config.max_handshakes`.
"""

import asyncio
import inspect
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.retry import QuicRetryTokenHandler

from ..config import Config
from ..connection.chosen import make_connection
from ..connection.interface import Address, Connection, Event, EventTuple, address_text
from ..errors import HandshakeTimeout
from .link import Link
from .routing import LongHeader
from .udp_endpoint import UdpEndpoint

logger = logging.getLogger("rawquic")

MIN_INITIAL = 1200  # RFC 9000 §14.1
MIN_CLIENT_ID = 8  # RFC 9000 §7.2
MAX_UNDECIDED = 256  # clients that wait for an asynchronous `on_incoming`

Decision = Literal["accept", "retry", "refuse", "ignore"]
DECISIONS = ("accept", "retry", "refuse", "ignore")


@dataclass(frozen=True)
class Incoming:
    """A client that wants a connection, before any cryptographic work.

    Attributes:
        remote_address: (host, port) that the datagram says it comes from.
        remote_address_validated: True when it returned a Retry token (RFC 9000 §8.1.2).
        original_destination_connection_id: what the client chose at random.
    """

    remote_address: Address
    remote_address_validated: bool
    original_destination_connection_id: bytes


OnIncoming = Callable[[Incoming], Decision | Awaitable[Decision]]


class FirstPacket(NamedTuple):
    """An Initial packet that may begin a connection."""

    data: bytes
    peer: Address
    local: str | None
    version: int
    destination_cid: bytes
    source_cid: bytes
    original_cid: bytes  # differs from destination_cid behind a Retry
    validated: bool


class Acceptor:
    """The server side of one endpoint, up to the end of the handshake.

    Args:
        on_connected: called with each link whose handshake completed.
        session_count: how many sessions there are, for `max_sessions`.
    """

    def __init__(
        self,
        endpoint: UdpEndpoint,
        config: Config,
        configuration: QuicConfiguration,
        *,
        on_connected: Callable[[Link], None],
        on_incoming: OnIncoming | None,
        max_sessions: int | None,
        session_count: Callable[[], int],
    ) -> None:
        self._endpoint = endpoint
        self._config = config
        self.configuration = configuration
        self._on_connected = on_connected
        self._on_incoming = on_incoming
        self._max_sessions = max_sessions
        self._session_count = session_count
        self._retry = QuicRetryTokenHandler()
        # When each is late. All have the same time, so that the first is the next one.
        self._handshakes: dict[Link, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._undecided: dict[tuple[bytes, Address], asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self.accepting = True
        self.refused = self.retried = self.dropped = 0

    # -- the first datagram --------------------------------------------------------------------

    def first_datagram(
        self, header: LongHeader, data: bytes, peer: Address, local: str | None, now: float
    ) -> None:
        if header.version == 0 or len(data) < MIN_INITIAL:
            return  # never answer a Version Negotiation, or what is too small to be amplified
        if header.version not in self.configuration.supported_versions:
            self._endpoint.send_soon(
                encode_quic_version_negotiation(
                    source_cid=header.destination_cid,
                    destination_cid=header.source_cid,
                    supported_versions=self.configuration.supported_versions,
                ),
                peer,
                local,
            )
            return
        try:
            parsed = pull_quic_header(Buffer(data=data))
        except ValueError:
            return
        if parsed.packet_type is not QuicPacketType.INITIAL:
            return
        if len(parsed.destination_cid) < MIN_CLIENT_ID:
            return
        original, validated = parsed.destination_cid, False
        if parsed.token:
            try:
                original = self._retry.validate_token(
                    address=_numeric(peer),
                    destination_cid=parsed.destination_cid,
                    token=parsed.token,
                    now=now,
                )
                validated = True
            except ValueError:
                # RFC 9000 §8.1.3: a bad Retry token ends it; a token of an unknown kind does not.
                logger.debug("token of %s is not valid", address_text(peer))
        packet = FirstPacket(
            data,
            peer,
            local,
            header.version,
            parsed.destination_cid,
            parsed.source_cid,
            original,
            validated,
        )
        self._decide(packet, now)

    def _decide(self, packet: FirstPacket, now: float) -> None:
        if self._over_limits(packet, now):
            return
        if self._on_incoming is None:
            self._accept(packet, now)
        elif (packet.destination_cid, packet.peer) not in self._undecided:
            self._ask(self._on_incoming, packet, now)

    def _over_limits(self, packet: FirstPacket, now: float) -> bool:
        """Turn the client away, where there is no room for it; whether that was so."""
        sessions = self._session_count() + len(self._handshakes)
        full = self._max_sessions is not None and sessions >= self._max_sessions
        if not self.accepting or full:
            self._refuse(packet)
        elif len(self._handshakes) >= self._config.max_handshakes:
            self.dropped += 1
        elif len(self._handshakes) * 2 >= self._config.max_handshakes and not packet.validated:
            self._send_retry(packet, now)
        else:
            return False
        return True

    def _ask(self, on_incoming: OnIncoming, packet: FirstPacket, now: float) -> None:
        incoming = Incoming(packet.peer, packet.validated, packet.original_cid)
        try:
            answer = on_incoming(incoming)
        except Exception:
            logger.exception("on_incoming failed; the client is refused")
            self._refuse(packet)
            return
        if not inspect.isawaitable(answer):
            self._act(answer, packet, now)
            return
        key = (packet.destination_cid, packet.peer)
        if len(self._undecided) >= MAX_UNDECIDED:
            if inspect.iscoroutine(answer):
                answer.close()
            return
        task = self._loop.create_task(self._wait_for_decision(answer, packet, key))
        self._undecided[key] = task

    async def _wait_for_decision(
        self, answer: Awaitable[Decision], packet: FirstPacket, key: tuple[bytes, Address]
    ) -> None:
        try:
            decision = await answer
        except Exception:
            logger.exception("on_incoming failed; the client is refused")
            decision = "refuse"
        finally:
            self._undecided.pop(key, None)
        if self._endpoint.closed:
            return
        now = time.monotonic()
        # There was room when it was asked about; others may have come since.
        if decision not in ("accept", "retry") or not self._over_limits(packet, now):
            self._act(decision, packet, now)

    def _act(self, decision: Decision, packet: FirstPacket, now: float) -> None:
        if decision == "accept":
            self._accept(packet, now)
        elif decision == "retry" and not packet.validated:
            self._send_retry(packet, now)
        elif decision == "retry":
            self._accept(packet, now)
        elif decision == "refuse":
            self._refuse(packet)
        elif decision != "ignore":
            logger.error("on_incoming returned %r; allowed are %s", decision, ", ".join(DECISIONS))
            self._refuse(packet)

    # -- the answers ---------------------------------------------------------------------------

    def _accept(self, packet: FirstPacket, now: float) -> None:
        connection: Connection = make_connection(
            config=self._config,
            configuration=self.configuration,
            new_connection_id=self._endpoint.routes.new_connection_id,
            reset_token=self._endpoint.routes.reset_token,
            original_destination_connection_id=packet.original_cid,
            retry_source_connection_id=packet.destination_cid if packet.validated else None,
        )
        link = self._endpoint.adopt(
            connection, packet.peer, is_client=False, initial_cid=packet.destination_cid
        )
        link.on_events = lambda events: self._handshake_events(link, events)
        self._handshakes[link] = deadline = self._loop.time() + self._config.handshake_timeout
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._on_timer)
        self._endpoint.first_packet(link, packet.data, packet.peer, packet.local, now)

    def _send_retry(self, packet: FirstPacket, now: float) -> None:
        self.retried += 1
        source_cid = os.urandom(8)
        retry = encode_quic_retry(
            version=packet.version,
            source_cid=source_cid,
            destination_cid=packet.source_cid,
            original_destination_cid=packet.destination_cid,
            retry_token=self._retry.create_token(
                address=_numeric(packet.peer),
                original_destination_connection_id=packet.destination_cid,
                retry_source_connection_id=source_cid,
                now=now,
            ),
        )
        self._endpoint.send_soon(retry, packet.peer, packet.local)

    def _refuse(self, packet: FirstPacket) -> None:
        """CONNECTION_CLOSE with CONNECTION_REFUSED in an Initial packet (RFC 9000 §5.2.2)."""
        self.refused += 1
        crypto = CryptoPair()
        crypto.setup_initial(cid=packet.destination_cid, is_client=False, version=packet.version)
        builder = QuicPacketBuilder(
            host_cid=packet.destination_cid,
            is_client=False,
            max_datagram_size=MIN_INITIAL,
            peer_cid=packet.source_cid,
            version=packet.version,
        )
        builder.start_packet(QuicPacketType.INITIAL, crypto)
        buffer = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=25)
        buffer.push_uint_var(QuicErrorCode.CONNECTION_REFUSED)
        buffer.push_uint_var(QuicFrameType.PADDING)
        buffer.push_uint_var(0)
        datagrams, _ = builder.flush()
        self._endpoint.send_soon(datagrams[0], packet.peer, packet.local)

    # -- the handshake -------------------------------------------------------------------------

    def _handshake_events(self, link: Link, events: list[EventTuple]) -> None:
        if (Event.CLOSED, 0) in events:
            self._handshake_over(link)
            peer, reason = address_text(link.address), link.connection.close_reason
            logger.info("handshake of %s: %s", peer, reason)
        elif (Event.CONNECTED, 0) in events:
            self._handshake_over(link)
            self._on_connected(link)
            link.on_events(events)

    def _on_timer(self) -> None:
        self._timer = None
        seconds, now = self._config.handshake_timeout, self._loop.time()
        for link, deadline in list(self._handshakes.items()):
            if deadline > now:
                self._timer = self._loop.call_at(deadline, self._on_timer)
                break
            del self._handshakes[link]
            link.connection.fail(HandshakeTimeout(f"no complete handshake in {seconds:g} s"))
            link.flush_soon()

    def _handshake_over(self, link: Link) -> None:
        self._handshakes.pop(link, None)

    def close(self) -> None:
        """Give up handshakes and decisions that are under way."""
        self.accepting = False
        if self._timer is not None:
            self._timer.cancel()
        for link in self._handshakes:
            link.connection.close_session(0, b"")
            link.flush_soon()
        self._handshakes.clear()
        for task in self._undecided.values():
            task.cancel()


def _numeric(peer: Address) -> Address:
    """The address without an IPv6 scope, as token codes take it."""
    return peer[0].partition("%")[0], peer[1]
