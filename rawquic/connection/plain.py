"""The plain connection: aioquic whole, behind the pull interface. The pure-Python fallback.

It mends what aioquic leaves open, so that it behaves as the compiled connection does:
credit grows when the application reads (RFC 9000 §4.1), the send buffer and the datagram queues
are bounded, stream limits follow the configuration, and RESET_STREAM, STOP_SENDING and lost
connections reach the streams. It has no path MTU discovery and no ECN.
"""

import logging
import math
from collections import deque
from collections.abc import Iterable
from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic import events as aioquic_events
from aioquic.quic.connection import (
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
    stream_is_client_initiated,
    stream_is_unidirectional,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.quic.stream import QuicStream

from ..errors import (
    DatagramTooLarge,
    DatagramUnsupported,
    StatelessReset,
    StreamFinished,
    StreamReset,
    StreamStopped,
)
from .congestion_counter import CongestionCounter
from .control import ControlPlane
from .interface import Address, Event, EventTuple, PathStatistics
from .key_updates import KeyUpdates
from .plain_streams import Stream, TooManyRanges

logger = logging.getLogger("rawquic")

PACING_BURST = 0.002  # seconds: asyncio's timers are no finer than about 1 ms
MAX_DROPPED_PACKETS = 1000  # packets dropped for too many holes, before the connection is closed
MAX_PACKET = 16383  # aioquic writes the length of STREAM frames in two bytes
KEEP_ALIVE_PING = -1  # numbers of the application's are not negative, lower ones `KeyUpdates`'
DATAGRAM_COST = 64  # bytes that a waiting datagram counts for besides its own
PACKETS_PER_KEY = 1 << 20
DATAGRAM_FRAME_OVERHEAD = 1 + 1 + 2 + 16  # first byte, frame type, packet number, AEAD tag


class BurstPacer(QuicPacketPacer):
    """aioquic's pacer with a bucket that a millisecond timer can fill."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        super().update_rate(congestion_window, smoothed_rtt)
        self.bucket_max = max(self.bucket_max, PACING_BURST)


class DatagramQueue(deque[bytes]):
    """A deque that knows its size in bytes; an empty datagram costs memory too."""

    size = 0

    def append(self, data: bytes, /) -> None:
        super().append(data)
        self.size += len(data) + DATAGRAM_COST

    def popleft(self) -> bytes:
        data = super().popleft()
        self.size -= len(data) + DATAGRAM_COST
        return data


class SendOrder(list[Any]):
    """Streams as they are served: by priority, and those of one priority in turn."""

    def extend(self, streams: Iterable[Any]) -> None:
        super().extend(streams)
        self.sort(key=lambda stream: -stream.priority)


class StreamCount:
    """How many streams the peer may have open, and how far that is below the most it was.

    `given` is the highest limit that it was told, and is held to.
    """

    def __init__(self, count: int) -> None:
        self.count = self.most = self.given = count
        self.peer_waits = False  # it said so (STREAMS_BLOCKED)

    @property
    def withheld(self) -> int:
        return self.most - self.count


class PlainConnection(ControlPlane):
    """One connection on aioquic alone; see `interface.Connection` for what it offers."""

    backend = "python"
    plane = None
    _prioritized = False  # True once a stream had a priority set

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        config = self.config
        self._max_datagram_size = min(self._max_datagram_size, MAX_PACKET)
        self._receive_window = config.receive_window
        self._stream_window = config.stream_receive_window
        self._send_window = config.send_window
        self._max_streams = [
            StreamCount(config.max_concurrent_bidi_streams),
            StreamCount(config.max_concurrent_uni_streams),
        ]
        self._consumed = 0  # bytes read or given up, all streams
        self._written = 0  # bytes taken from the application that use up MAX_DATA
        self._buffered = 0  # written and not acknowledged
        self._write_blocked: dict[int, None] = {}
        self._dirty = False
        self._keys = KeyUpdates()
        self._keys_since = 0  # the first packet number under the present keys
        self._dropped_packets = 0
        self._lost_bytes = 0
        self._datagrams_in = DatagramQueue()
        self._datagrams_out = DatagramQueue()
        self._datagrams_pending = self._datagrams_out
        self._datagram_limit = 0  # what waits in _datagrams_out fits, unless this has changed
        self._dropped_send = self._dropped_receive = self._dropped_mtu = 0
        self._received_at = 0.0  # when the last datagram came
        self._received_datagrams = self._received_bytes = 0
        self._sent_datagrams = self._sent_bytes = 0
        self._loss._pacer = BurstPacer(max_datagram_size=self._max_datagram_size)
        self._counter = CongestionCounter(self._loss._cc)
        self._loss._cc = self._counter  # type: ignore[assignment]

    # -- packets and time ----------------------------------------------------------------------

    def receive(self, data: bytes, address: Address, now: float) -> None:
        if self.close_reason is not None:
            return  # it is over, though the close may not have been sent yet
        fixed = bool(self._network_paths) and not self.config.allow_migration
        if fixed and address != self.peer_address():
            return  # RFC 9000 §9: without migration, packets from elsewhere are not this peer's
        self._received_at = now
        self._received_datagrams += 1
        self._received_bytes += len(data)
        try:
            self.receive_datagram(data, address, now)
        except TooManyRanges:
            self._dropped_packets += 1
            if self._dropped_packets > MAX_DROPPED_PACKETS:
                self.close(
                    error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                    frame_type=QuicFrameType.STREAM_BASE,
                    reason_phrase="too many holes in streams",
                )
        self._take_aioquic_events()
        self._settle()

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

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        self._dirty = False
        self._drop_oversize_datagrams()
        self._advance_keys()
        if self._prioritized:
            self._streams_queue.extend(())  # streams opened since stand at the end
        had_datagrams = len(self._datagrams_out)
        packets = super().datagrams_to_send(now)
        if packets:
            self._last_sent = now
            self._sent_datagrams += len(packets)
            self._sent_bytes += sum(len(data) for data, _ in packets)
        if len(self._datagrams_out) < had_datagrams:
            self._session_events[(Event.DATAGRAM_ROOM, 0)] = None
        self._take_aioquic_events()
        self._settle()
        return packets

    def attach(self, reactor: Any, link: Any) -> None:
        """There is no compiled loop to register with."""

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

    def let_go(self) -> None:
        """The endpoint has forgotten the connection; buffered data can still be read."""

    def wants_flush(self) -> bool:
        """True when something was queued since the last `datagrams_to_send`."""
        return self._dirty

    def events(self) -> list[EventTuple]:
        events = list(self._session_events)
        self._session_events.clear()
        return events

    def stateless_reset(self) -> None:
        self.fail(StatelessReset())

    def _take_aioquic_events(self) -> None:
        while (event := self.next_event()) is not None:
            if isinstance(event, aioquic_events.DatagramFrameReceived):
                self._datagram_received(event.data)
            elif isinstance(event, aioquic_events.PingAcknowledged):
                self._ping_acked(event.uid)
            elif isinstance(event, aioquic_events.StopSendingReceived):
                self._stop_received(event.stream_id, event.error_code)
            elif isinstance(event, aioquic_events.ConnectionIdRetired):
                self._id_changes.append((event.connection_id, False))

    def _ping_acked(self, number: int) -> None:
        if number >= 0:
            self._session_events[(Event.PING_ACKED, number)] = None
        elif number != KEEP_ALIVE_PING:
            self._keys.ping_acked(number)
            self._dirty = self._dirty or self._keys.wanted

    # -- streams: what the session layer calls -------------------------------------------------

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

    def _find(self, stream_id: int) -> Stream | None:
        stream = self._streams.get(stream_id)
        assert stream is None or isinstance(stream, Stream)
        return stream

    def _sending(self, stream_id: int) -> Stream:
        """The stream, when it still takes data."""
        stream = self._find(stream_id)
        if stream is not None and stream.sender.stop_code is not None:
            raise StreamStopped(stream.sender.stop_code)
        if stream is None or stream.sender.fin_written or stream.sender.reset_sent:
            raise StreamFinished(f"stream {stream_id} takes no more data: it was finished or reset")
        return stream

    # -- streams: what they tell us ------------------------------------------------------------

    def stream_readable(self, stream: Stream) -> None:
        self._session_events[(Event.READABLE, stream.stream_id or 0)] = None

    def stream_consumed(self, stream: Stream, size: int) -> None:
        self._consumed += size
        connection_due = self._credit_due(
            self._consumed, self._receive_window, self._local_max_data.value
        )
        if connection_due or self._stream_credit_due(stream):
            self._dirty = True

    @staticmethod
    def _credit_due(consumed: int, window: int, given: int) -> bool:
        # A quarter of the window: often enough for the sender, rarely enough to cost nothing.
        return consumed + window - given >= window // 4

    def _stream_credit_due(self, stream: Stream) -> bool:
        receiver, given = stream.receiver, stream.max_stream_data_local
        return not receiver.is_finished and self._credit_due(
            receiver.read_offset, self._stream_window, given
        )

    def stream_frame_empty(self) -> None:
        self._count_glitch(self._received_at, QuicFrameType.STREAM_BASE)

    def send_buffer_freed(self, size: int) -> None:
        self._buffered -= size
        # Resume at half: a wake-up for every acknowledgement costs more than it brings.
        if self._write_blocked and self._buffered <= self._send_window // 2:
            self._wake_writers()

    def send_credit_returned(self, size: int) -> None:
        self._written -= size

    def stream_send_ended(self, stream: Stream) -> None:
        self._dirty = True
        self._session_events[(Event.SEND_ENDED, stream.stream_id or 0)] = None

    def bytes_lost(self, size: int) -> None:
        self._lost_bytes += size

    def _wake_writers(self) -> None:
        for stream_id in self._write_blocked:
            self._session_events[(Event.WRITABLE, stream_id)] = None
        self._write_blocked.clear()

    # -- streams: aioquic's hooks --------------------------------------------------------------

    def _new_stream(self, stream_id: int, local: bool) -> Stream:
        one_way = stream_is_unidirectional(stream_id)
        if one_way:
            remote = self._remote_max_stream_data_uni
        elif local:
            remote = self._remote_max_stream_data_bidi_remote
        else:
            remote = self._remote_max_stream_data_bidi_local
        stream = Stream(
            self,
            stream_id,
            max_stream_data_local=0 if one_way and local else self._stream_window,
            max_stream_data_remote=0 if one_way and not local else remote,
            readable=not (one_way and local),
            writable=not (one_way and not local),
        )
        # The peer knows the value of the transport parameter, not a window set since.
        if stream.max_stream_data_local:
            initial = self._local_max_stream_data_uni
            stream.max_stream_data_local = stream.max_stream_data_local_sent = initial
        self._streams[stream_id] = stream
        return stream

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        known = self._streams.get(stream_id)
        if known is not None:
            return known
        if (
            stream_is_client_initiated(stream_id) != self._is_client
            and stream_id // 4 >= self._max_streams[stream_is_unidirectional(stream_id)].given
        ):  # RFC 9000 §4.6; aioquic takes limits that it has not told yet
            raise QuicConnectionError(
                error_code=QuicErrorCode.STREAM_LIMIT_ERROR,
                frame_type=frame_type,
                reason_phrase="Too many streams open",
            )
        queued = len(self._streams_queue)
        super()._get_or_create_stream(frame_type, stream_id)  # checks limits and initiator
        # RFC 9000 §2.1: it opened all lower-numbered streams of its type as well.
        made = [self._new_stream(s.stream_id or 0, False) for s in self._streams_queue[queued:]]
        self._streams_queue[queued:] = made
        for stream in made:
            self._session_events[(Event.STREAM_OPENED, stream.stream_id or 0)] = None
        return made[-1]

    @property
    def _streams_queue(self) -> list[Any]:
        return self.__queue

    @_streams_queue.setter
    def _streams_queue(self, queue: list[Any]) -> None:
        # aioquic assigns a new order after each packet, then extends it by those it served.
        self.__queue = SendOrder(queue) if self._prioritized else queue

    def _stop_received(self, stream_id: int, code: int) -> None:
        stream = self._find(stream_id)
        if stream is not None and stream.sender.stop_code is None:
            stream.sender.stop_code = code
            self._dirty = True
            self._session_events[(Event.STOPPED, stream_id)] = None

    def _handle_max_data_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        super()._handle_max_data_frame(context, frame_type, buf)
        self._wake_writers()

    def _handle_max_stream_data_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        super()._handle_max_stream_data_frame(context, frame_type, buf)
        self._wake_writers()

    def _unblock_streams(self, is_unidirectional: bool) -> None:
        super()._unblock_streams(is_unidirectional)
        self._session_events[(Event.STREAMS_AVAILABLE, int(is_unidirectional))] = None

    def _handle_streams_blocked_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        count = buf.pull_uint_var()
        buf.seek(start)
        super()._handle_streams_blocked_frame(context, frame_type, buf)
        unidirectional = frame_type == QuicFrameType.STREAMS_BLOCKED_UNI
        limit = self._local_max_streams_uni if unidirectional else self._local_max_streams_bidi
        self._max_streams[unidirectional].peer_waits = count >= limit.sent

    def _write_connection_limits(self, builder: Any, space: Any) -> None:
        max_data = self._local_max_data
        if self._credit_due(self._consumed, self._receive_window, max_data.value):
            max_data.value = self._consumed + self._receive_window
        for limit, streams in (
            (max_data, None),
            (self._local_max_streams_bidi, self._max_streams[0]),
            (self._local_max_streams_uni, self._max_streams[1]),
        ):
            value = limit.value - (streams.withheld if streams else 0)
            # MAX_STREAMS in batches: when the peer has less left than the frame would grant. That
            # does not count the streams that it opened and sent nothing on: it says when it waits.
            few = limit.sent - limit.used < value - limit.sent
            if value > limit.sent and (streams is None or few or streams.peer_waits):
                buffer = builder.start_frame(
                    limit.frame_type,
                    capacity=9,
                    handler=self._on_connection_limit_delivery,
                    handler_args=(limit,),
                )
                buffer.push_uint_var(value)
                limit.sent = value
                if streams is not None:
                    streams.given = max(streams.given, value)
                    streams.peer_waits = False

    def _write_stream_limits(self, builder: Any, space: Any, stream: QuicStream) -> None:
        assert isinstance(stream, Stream)
        receiver = stream.receiver
        if not stream.max_stream_data_local or receiver.is_finished:
            return
        if self._stream_credit_due(stream):
            stream.max_stream_data_local = receiver.read_offset + self._stream_window
        if stream.max_stream_data_local_sent != stream.max_stream_data_local:
            buffer = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=17,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            buffer.push_uint_var(stream.stream_id)
            buffer.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local

    # -- datagrams -----------------------------------------------------------------------------

    def max_datagram_size(self) -> int | None:
        """The most bytes that one datagram can have now; None when the peer takes none."""
        peer = self._remote_max_datagram_frame_size or 0
        if peer < 2 or self.close_reason is not None:  # the frame's type and length take two bytes
            return None
        packet = self._max_datagram_size - DATAGRAM_FRAME_OVERHEAD - len(self._peer_cid.cid)
        room = min(packet - 2, peer - 3 if peer > 65 else peer - 2)
        return max(room, 0)

    def send_datagram(self, data: bytes) -> None:
        """Queue at once; the oldest are dropped, and counted, when the queue is full."""
        limit = self.max_datagram_size()
        if limit is None:
            raise DatagramUnsupported
        if len(data) > limit:
            raise DatagramTooLarge(len(data), limit)
        queue = self._datagrams_out
        queue.append(data)
        while queue.size > self.config.datagram_send_buffer_size and len(queue) > 1:
            queue.popleft()
            self._dropped_send += 1
        self._dirty = True

    def datagram_room(self, size: int) -> bool:
        queue = self._datagrams_out
        room = self.config.datagram_send_buffer_size - queue.size
        return not queue or size + DATAGRAM_COST <= room

    def read_datagrams(self, most: int) -> list[bytes]:
        queue = self._datagrams_in
        return [queue.popleft() for _ in range(min(most, len(queue)))]

    def _datagram_received(self, data: bytes) -> None:
        queue = self._datagrams_in
        queue.append(data)
        while len(queue) > 1 and queue.size > (self.config.datagram_receive_buffer_size or 0):
            queue.popleft()
            self._dropped_receive += 1
        self._session_events[(Event.DATAGRAMS, 0)] = None

    def _drop_oversize_datagrams(self) -> None:
        # Queued before the packet size went down: left there, they would block those behind them.
        limit = self.max_datagram_size()
        if limit is None or limit == self._datagram_limit:
            return
        self._datagram_limit = limit
        queue = self._datagrams_out
        for _ in range(len(queue)):
            data = queue.popleft()
            if len(data) <= limit:
                queue.append(data)
            else:
                self._dropped_mtu += 1

    # -- the rest ------------------------------------------------------------------------------

    def ping(self, number: int) -> None:
        self.send_ping(number)
        self._dirty = True

    def update_keys(self) -> None:
        """Update the 1-RTT keys, as soon as RFC 9001 §6.1 allows it."""
        self._keys.wanted = self._dirty = True

    def _advance_keys(self) -> None:
        if self._packet_number - self._keys_since > PACKETS_PER_KEY:
            self._keys.wanted = True  # RFC 9001 §6.6: AES-GCM keys last for 2^23 packets
        if self._handshake_confirmed and self._keys.may_begin():
            self.request_key_update()
            self._keys_since = self._packet_number
        number = self._keys.ping()
        if number is not None:
            self.send_ping(number)

    def _log_key_updated(self, key_type: str, trigger: str) -> None:
        super()._log_key_updated(key_type, trigger)
        if trigger == "remote_update":
            self._keys.peer_updated()
            self._keys_since = self._packet_number

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
            datagrams_received=self._received_datagrams,
            bytes_received=self._received_bytes,
            datagrams_sent=self._sent_datagrams,
            bytes_sent=self._sent_bytes,
            bytes_retransmitted=self._lost_bytes,
            key_updates=self._keys.done,
            frames_dropped_send=self._dropped_send,
            frames_dropped_receive=self._dropped_receive,
            frames_dropped_mtu=self._dropped_mtu,
        )
