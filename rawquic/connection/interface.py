"""The pull interface between the session layer and a connection, and the events it drains.

A connection never calls the session. The endpoint feeds it packets and time, then drains
`events()`: readiness only, at most one event per change and batch, never one per packet.
Stream numbers are QUIC stream IDs (RFC 9000 §2.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from cryptography import x509

from ..errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

Address = tuple[str, int]


def address_text(address: Address) -> str:
    """host:port, with brackets around an IPv6 address (RFC 3986 §3.2.2)."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Event(IntEnum):
    """What changed; the second member of an event tuple is given in brackets."""

    CONNECTED = 0  # the handshake is complete [0]
    STREAM_OPENED = 1  # the peer opened a stream [its ID]
    READABLE = 2  # bytes, the end, or a reset wait to be read [stream ID]
    WRITABLE = 3  # a write that was short may go on [stream ID]
    STOPPED = 4  # STOP_SENDING arrived; `stop_code` tells its code [stream ID]
    SEND_ENDED = 5  # all data and the end, or the reset, were acknowledged [stream ID]
    STREAMS_AVAILABLE = 6  # `open_stream` may succeed again [1: unidirectional, 0: bidirectional]
    DATAGRAMS = 7  # datagrams wait to be read [0]
    DATAGRAM_ROOM = 8  # the datagram send buffer has room again [0]
    PING_ACKED = 9  # [the number given to `ping`]
    CLOSED = 10  # `close_reason` says why; the last event [0]


EventTuple = tuple[Event, int]


@dataclass(frozen=True)
class PathStatistics:
    """Counters of one connection; `ConnectionStats` says what they are, and adds to them."""

    rtt: float
    rtt_min: float
    rtt_variance: float
    congestion_window: int
    bytes_in_flight: int
    congestion_events: int
    mtu: int
    packets_sent: int
    packets_lost: int
    packets_acked: int
    udp_datagrams_received: int
    udp_bytes_received: int
    udp_datagrams_sent: int
    udp_bytes_sent: int
    bytes_retransmitted: int
    key_updates: int
    peer_key_updates: int
    datagrams_dropped_send: int
    datagrams_dropped_receive: int
    datagrams_dropped_mtu: int
    ecn: str
    ecn_ce: int


class Streams(Protocol):
    """What the session layer does with streams."""

    def open_stream(self, unidirectional: bool) -> int | None: ...
    def write(self, stream_id: int, data: bytes, offset: int) -> int: ...
    def finish(self, stream_id: int) -> None: ...
    def reset(self, stream_id: int, code: int) -> None: ...
    def stop(self, stream_id: int, code: int) -> None: ...
    def read(self, stream_id: int, limit: int) -> bytes | None: ...
    def stop_code(self, stream_id: int) -> int | None: ...
    def unacknowledged(self, stream_id: int) -> int: ...


class Connection(Protocol):
    """What the endpoint and the session layer use of a connection."""

    @property
    def streams(self) -> Streams:
        """Who does what `Streams` says: the compiled data plane itself, where there is one."""

    def set_priority(self, stream_id: int, priority: int) -> None: ...

    close_reason: SessionError | None
    handshake_done: bool
    backend: str
    plane: Any  # the compiled data plane; None where there is none

    # -- packets and time: the endpoint ------------------------------------------------------
    def receive(self, data: bytes, address: Address, now: float, ecn: int = 0) -> None: ...
    def timer(self) -> float | None: ...
    def handle_timer(self, now: float) -> None: ...
    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]: ...
    def packet_refused(self, size: int, now: float) -> bool:
        """The system sends no UDP payload of `size` bytes to the peer. False: that is no news."""

    def is_reset_token(self, token: bytes) -> bool: ...
    def stateless_reset(self) -> None: ...
    def fail(self, reason: SessionError) -> None: ...
    def is_ending(self) -> bool: ...
    def is_gone(self) -> bool: ...
    def take_id_changes(self) -> list[tuple[bytes, bool]]: ...
    def events(self) -> list[EventTuple]: ...
    def wants_flush(self) -> bool: ...
    def attach(self, reactor: Any, link: Any) -> None: ...
    def after_batch(self, now: float) -> bool: ...
    def sends_itself(self) -> bool: ...
    def flush(self) -> bool: ...
    def has_news(self) -> bool: ...
    def armed(self, deadline: float | None) -> None: ...
    def let_go(self) -> None: ...

    # -- datagrams ---------------------------------------------------------------------------
    def max_datagram_size(self) -> int | None: ...
    def send_datagrams(self, datagrams: Iterable[Buffer]) -> None:
        """Queue them; in a full queue the oldest are dropped, and counted.

        Those before a bad one are queued. Raises DatagramUnsupported, DatagramTooLarge, TypeError.
        """

    def datagram_room(self, size: int) -> bool: ...
    def read_datagrams(self, most: int) -> list[bytes]: ...

    # -- the rest ----------------------------------------------------------------------------
    def close_session(self, code: int, reason: bytes) -> None: ...
    def broke(self, error: Exception) -> None: ...
    def close_with_transport_error(self, code: int, reason: str, error: SessionError) -> None: ...
    def ping(self, number: int) -> None: ...
    def update_keys(self) -> None: ...
    def set_max_streams(self, unidirectional: bool, count: int) -> None: ...
    def set_receive_window(self, size: int) -> None: ...
    def set_send_window(self, size: int) -> None: ...
    def statistics(self) -> PathStatistics: ...
    def alpn(self) -> str | None: ...
    def peer_certificates(self) -> list[x509.Certificate]: ...
    def peer_address(self) -> Address: ...
    def unvalidated_room(self) -> int | None: ...
    def connection_id(self) -> bytes: ...
    def probe_timeout(self) -> float: ...
