"""The plain connection: aioquic whole, behind the pull interface. The pure-Python fallback.

This is its face for the endpoint and the session layer; what aioquic leaves open is mended in
`mended`, so that it behaves as the compiled connection does. It has no path MTU discovery and no
ECN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from aioquic.quic.connection import QuicConnectionState
from aioquic.quic.stream import QuicStream

from ..buffers import as_bytes
from ..errors import (
    DatagramTooLarge,
    DatagramUnsupported,
    StatelessReset,
    StreamFinished,
    StreamReset,
    StreamStopped,
)
from .interface import EventTuple, PathStatistics
from .mended import KEEP_ALIVE_PING, MendedAioquic
from .plain_streams import Stream

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]


class PlainConnection(MendedAioquic):
    """One connection on aioquic alone; see `interface.Connection` for what it offers."""

    backend = "python"
    plane = None
    _link: Any = None  # the endpoint's record of it; set while there is one

    # -- time and events -----------------------------------------------------------------------

    def timer(self) -> float | None:
        deadline = self.get_timer()
        keep_alive = self._keep_alive_at()
        if keep_alive is not None:
            deadline = keep_alive if deadline is None else min(deadline, keep_alive)
        return None if deadline is None or math.isinf(deadline) else deadline

    def handle_timer(self, now: float) -> None:
        if self._state is QuicConnectionState.TERMINATED:
            return
        self.get_timer()  # aioquic notes there when its loss timer is due
        super().handle_timer(now)
        keep_alive = self._keep_alive_at()
        if keep_alive is not None and now >= keep_alive:
            self.send_ping(KEEP_ALIVE_PING)
            self._last_sent = now  # also when the congestion window holds it back for now
        self._take_aioquic_events()
        self._settle()

    def _keep_alive_at(self) -> float | None:
        interval = self.config.keep_alive_interval
        if interval is None or not self.handshake_done or self.close_reason is not None:
            return None
        return self._last_sent + interval

    def attach(self, reactor: Any, link: Any) -> None:
        """There is no compiled loop to register with; the endpoint calls this one `link`."""
        self._link = link

    def let_go(self) -> None:
        super().let_go()
        self._link = None

    def after_batch(self, now: float) -> bool:
        """Nothing reaches this connection but through `receive`."""
        return False

    def sends_itself(self) -> bool:
        """All packets come out of `datagrams_to_send`."""
        return False

    def flush(self) -> bool:
        """All packets come out of `datagrams_to_send`."""
        return False

    def has_news(self) -> bool:
        """Unknown; there is no compiled part that could tell cheaply."""
        return True

    def armed(self, deadline: float | None) -> None:
        """The endpoint's timer stands at `deadline`."""

    def wants_flush(self) -> bool:
        """True when something was queued since the last `datagrams_to_send`."""
        return self._dirty

    def events(self) -> list[EventTuple]:
        events = list(self._session_events)
        self._session_events.clear()
        return events

    def stateless_reset(self) -> None:
        self.fail(StatelessReset())

    # -- streams -------------------------------------------------------------------------------

    @property
    def streams(self) -> Self:
        return self

    def open_stream(self, unidirectional: bool) -> int | None:
        """The ID of a new stream, or None until STREAMS_AVAILABLE (RFC 9000 §4.6)."""
        stream_id = self.get_next_available_stream_id(unidirectional)
        if unidirectional:
            allowed, blocked = self._remote_max_streams_uni, self._streams_blocked_uni
        else:
            allowed, blocked = self._remote_max_streams_bidi, self._streams_blocked_bidi
        if stream_id // 4 >= allowed:
            if not blocked:  # a placeholder makes aioquic send STREAMS_BLOCKED
                blocked.append(QuicStream(stream_id=stream_id))
                self._streams_blocked_pending = self._dirty = True
            return None
        stream = self._new_stream(stream_id, local=True)
        self._streams_queue.append(stream)
        if unidirectional:
            self._local_next_stream_id_uni = stream_id + 4
        else:
            self._local_next_stream_id_bidi = stream_id + 4
        return stream_id

    def write(self, stream_id: int, data: bytes, offset: int) -> int:
        """Take what fits of `data[offset:]`; the number of bytes taken. WRITABLE tells of room."""
        stream = self._sending(stream_id)
        sender = stream.sender
        room = min(
            self._send_window - self._buffered,
            self._remote_max_data - self._written,
            stream.max_stream_data_remote - sender.written,
        )
        size = min(len(data) - offset, max(room, 0))
        if size:
            sender.write(data if size == len(data) else data[offset : offset + size])
            self._buffered += size
            self._written += size
            self._dirty = True
        if size < len(data) - offset:
            self._write_blocked[stream_id] = None
        return size

    def finish(self, stream_id: int) -> None:
        sender = self._sending(stream_id).sender
        sender.fin_written = True
        sender.write(b"", end_stream=True)
        self._dirty = True

    def reset(self, stream_id: int, code: int) -> None:
        """RESET_STREAM; nothing happens when the half has ended already."""
        stream = self._find(stream_id)
        if stream is not None:
            stream.sender.reset(code)
            self._dirty = True

    def stop(self, stream_id: int, code: int) -> None:
        """STOP_SENDING; what waits to be read is given up."""
        stream = self._find(stream_id)
        if stream is None or stream.receiver.released:
            return
        receiver = stream.receiver
        receiver.stopped = receiver.released = True
        receiver.discard()
        if not receiver.is_finished:
            receiver.stop(code)
        self._dirty = True

    def read(self, stream_id: int, limit: int) -> bytes | None:
        """At most `limit` bytes, b"" at the end, None when there is nothing yet.

        Raises StreamReset when the peer gave up; what waited is lost then.
        """
        stream = self._find(stream_id)
        if stream is None or stream.receiver.released:
            return b""
        receiver = stream.receiver
        if receiver.reset_code is not None:
            self._release(receiver)
            raise StreamReset(receiver.reset_code)
        data = receiver.read(limit)
        if data == b"":
            self._release(receiver)
        if self._dirty and self._link is not None:
            self._link.flush_soon()  # credit is to be given
        return data

    def stop_code(self, stream_id: int) -> int | None:
        stream = self._find(stream_id)
        return None if stream is None else stream.sender.stop_code

    def set_priority(self, stream_id: int, priority: int) -> None:
        stream = self._find(stream_id)
        if stream is not None:
            stream.priority = priority
            self._prioritized = True
            self._streams_queue = self._streams_queue

    def unacknowledged(self, stream_id: int) -> int:
        """Written bytes of the stream that the peer has not acknowledged."""
        stream = self._find(stream_id)
        return 0 if stream is None else stream.sender.buffered

    def _release(self, receiver: Any) -> None:
        receiver.released = True
        self._dirty = True  # aioquic drops the stream, and gives credit, when it sends next

    def _sending(self, stream_id: int) -> Stream:
        """The stream, when it still takes data."""
        stream = self._find(stream_id)
        if stream is not None and stream.sender.stop_code is not None:
            raise StreamStopped(stream.sender.stop_code)
        if stream is None or stream.sender.fin_written or stream.sender.reset_sent:
            raise StreamFinished(f"stream {stream_id} takes no more data: it was finished or reset")
        return stream

    # -- datagrams -----------------------------------------------------------------------------

    def send_datagrams(self, datagrams: Iterable[Buffer]) -> None:
        for each in datagrams:
            data, limit = as_bytes(each), self.max_datagram_size()
            if limit is None:
                raise DatagramUnsupported
            if len(data) > limit:
                raise DatagramTooLarge(len(data), limit)
            self._datagrams.send(data)
            self._dirty = True

    def datagram_room(self, size: int) -> bool:
        return self._datagrams.room(size)

    def read_datagrams(self, most: int) -> list[bytes]:
        return self._datagrams.read(most)

    # -- the rest ------------------------------------------------------------------------------

    def ping(self, number: int) -> None:
        self.send_ping(number)
        self._dirty = True

    def update_keys(self) -> None:
        """Update the 1-RTT keys, as soon as RFC 9001 §6.1 allows it."""
        self._keys.wanted = self._dirty = True

    def set_max_streams(self, unidirectional: bool, count: int) -> None:
        # RFC 9000 §4.6: a limit that was given cannot be taken back. A lower one is reached by
        # giving no more for streams that end.
        limit = self._local_max_streams_uni if unidirectional else self._local_max_streams_bidi
        streams = self._max_streams[unidirectional]
        streams.count = count
        if count > streams.most:
            limit.value += count - streams.most
            streams.most = count
        self._dirty = True

    def set_receive_window(self, size: int) -> None:
        self._receive_window = size
        self._dirty = True

    def set_send_window(self, size: int) -> None:
        self._send_window = size
        self._wake_writers()

    def statistics(self) -> PathStatistics:
        loss, counter = self._loss, self._counter
        return PathStatistics(
            rtt=loss._rtt_smoothed if loss._rtt_initialized else self.config.initial_rtt,
            rtt_min=loss._rtt_min if loss._rtt_initialized else self.config.initial_rtt,
            rtt_variance=loss._rtt_variance,
            congestion_window=loss.congestion_window,
            bytes_in_flight=loss.bytes_in_flight,
            congestion_events=counter.congestion_events,
            mtu=self._max_datagram_size,
            packets_sent=counter.sent,
            packets_lost=counter.lost,
            packets_acked=counter.acked,
            udp_datagrams_received=self._received_datagrams,
            udp_bytes_received=self._received_bytes,
            udp_datagrams_sent=self._sent_datagrams,
            udp_bytes_sent=self._sent_bytes,
            bytes_retransmitted=self._lost_bytes,
            key_updates=self._keys.done,
            peer_key_updates=self._keys.peer_updates,
            datagrams_dropped_send=self._datagrams.dropped_send,
            datagrams_dropped_receive=self._datagrams.dropped_receive,
            datagrams_dropped_mtu=self._datagrams.dropped_mtu,
            ecn="off",
            ecn_ce=0,
        )
