"""`MendedAioquic`: aioquic's connection with what it leaves open mended, for the plain connection.

Credit grows when the application reads (RFC 9000 §4.1), the send buffer and the datagram queues
are bounded, stream limits follow the configuration, RESET_STREAM and STOP_SENDING reach the
streams, and key updates wait for their turn. `PlainConnection` is what the layers above see of it.
"""

from collections.abc import Iterable
from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic import events as aioquic_events
from aioquic.quic.connection import (
    QuicConnectionError,
    QuicReceiveContext,
    stream_is_client_initiated,
    stream_is_unidirectional,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.recovery import QuicPacketNumberWindow, QuicPacketPacer
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from .congestion_counter import CongestionCounter
from .control import ControlPlane
from .interface import Address, Event
from .key_updates import KeyUpdates
from .plain_datagrams import Datagrams
from .plain_streams import Stream, TooManyRanges

PACING_BURST = 0.002  # seconds: asyncio's timers are no finer than about 1 ms
MAX_DROPPED_PACKETS = 1000  # packets dropped for too many holes, before the connection is closed
KEEP_ALIVE_PING = -1  # numbers of the application's are not negative, lower ones `KeyUpdates`'
PACKETS_PER_KEY = 1 << 20
DATAGRAM_FRAME_OVERHEAD = 1 + 1 + 2 + 16  # first byte, frame type, packet number, AEAD tag


class BurstPacer(QuicPacketPacer):
    """aioquic's pacer with a bucket that a millisecond timer can fill."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        super().update_rate(congestion_window, smoothed_rtt)
        self.bucket_max = max(self.bucket_max, PACING_BURST)


class NumbersSeen(QuicPacketNumberWindow):
    """aioquic's, which it asks about each packet before it looks at the packet's frames."""

    _asked = -1

    def __contains__(self, packet_number: int) -> bool:
        self._asked = packet_number
        return super().__contains__(packet_number)

    def add_asked(self) -> None:
        """The packet that it asked about last counts as seen."""
        self.add(self._asked)


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


class MendedAioquic(ControlPlane):
    """aioquic whole, and what has to be done around it."""

    _prioritized = False  # True once a stream had a priority set

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        config = self.config
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
        self._datagrams = Datagrams(config)
        self._datagrams_pending = self._datagrams.outgoing
        self._received_at = 0.0  # when the last datagram came
        self._received_datagrams = self._received_bytes = 0
        self._sent_datagrams = self._sent_bytes = 0
        self._loss._pacer = BurstPacer(max_datagram_size=self._max_datagram_size)
        self._counter = CongestionCounter(self._loss._cc)
        self._loss._cc = self._counter  # type: ignore[assignment]

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._numbers_seen = NumbersSeen()
        self._spaces[Epoch.ONE_RTT].received_packets = self._numbers_seen

    # -- packets -------------------------------------------------------------------------------

    def receive(self, data: bytes, address: Address, now: float, ecn: int = 0) -> None:
        if self.close_reason is not None:
            return  # it is over, though the close may not have been sent yet
        if self._is_elsewhere(address):
            return
        self._received_at = now
        self._received_datagrams += 1
        self._received_bytes += len(data)
        try:
            self.receive_datagram(data, address, now)
        except TooManyRanges:
            # RFC 9000 §12.3: what its frames did must not be done again.
            self._numbers_seen.add_asked()
            self._dropped_packets += 1
            if self._dropped_packets > MAX_DROPPED_PACKETS:
                self.close(
                    error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                    frame_type=QuicFrameType.STREAM_BASE,
                    reason_phrase="too many holes in streams",
                )
        self._take_aioquic_events()
        self._settle()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        self._dirty = False
        self._datagrams.fit(self.max_datagram_size())
        self._advance_keys()
        if self._prioritized:
            self._streams_queue.extend(())  # streams opened since stand at the end
        had_datagrams = len(self._datagrams_pending)
        packets = super().datagrams_to_send(now)
        if packets:
            self._last_sent = now
            self._sent_datagrams += len(packets)
            self._sent_bytes += sum(len(data) for data, _ in packets)
        if len(self._datagrams_pending) < had_datagrams:
            self._session_events[(Event.DATAGRAM_ROOM, 0)] = None
        self._take_aioquic_events()
        self._settle()
        return packets

    def max_datagram_size(self) -> int | None:
        """The most bytes that one datagram can have now; None when the peer takes none."""
        peer = self._remote_max_datagram_frame_size or 0
        if peer < 2 or self.close_reason is not None:  # the frame's type and length take two bytes
            return None
        packet = self._max_datagram_size - DATAGRAM_FRAME_OVERHEAD - len(self._peer_cid.cid)
        room = min(packet - 2, peer - 3 if peer > 65 else peer - 2)
        return max(room, 0)

    def _take_aioquic_events(self) -> None:
        while (event := self.next_event()) is not None:
            if isinstance(event, aioquic_events.DatagramFrameReceived):
                self._datagrams.received(event.data)
                self._session_events[(Event.DATAGRAMS, 0)] = None
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
        if trigger == "remote_update" and key_type.startswith("client"):  # told of both directions
            self._keys.peer_updated()
            self._keys_since = self._packet_number

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

    def _find(self, stream_id: int) -> Stream | None:
        stream = self._streams.get(stream_id)
        assert stream is None or isinstance(stream, Stream)
        return stream

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

    def _write_application(self, builder: Any, network_path: Any, now: float) -> None:
        # RFC 9000 §8.2.1: aioquic expands the datagram of a path probe as far as the window allows.
        # Like aioquic's probes of other paths, one datagram may exceed it.
        challenge = not (network_path.is_validated or network_path.local_challenge_sent)
        if self._handshake_complete and (challenge or network_path.remote_challenges):
            builder.max_flight_bytes = max(builder.max_flight_bytes, self._max_datagram_size)
        super()._write_application(builder, network_path, now)

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
