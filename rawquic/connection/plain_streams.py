"""The two halves of a stream on the plain connection: aioquic's, with what they leave open.

Received bytes wait here until the application reads them, which is what moves flow control
(RFC 9000 §4.1); sent bytes are counted until they are acknowledged. A stream's state is kept until
both halves have ended *and* the application has seen the end, so that a peer cannot open streams
faster than they are read. No packets and no clock here.
"""

from collections import deque
from typing import Protocol

from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.packet import QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender

MIN_RANGES = 1024  # disjoint out-of-order ranges per stream; more with windows above 1 MiB


class TooManyRanges(Exception):
    """The packet would leave too many holes in a stream: it is dropped, unacknowledged."""


class StreamOwner(Protocol):
    """What a stream tells its connection."""

    def stream_readable(self, stream: "Stream") -> None: ...
    def stream_consumed(self, stream: "Stream", size: int) -> None: ...
    def stream_frame_empty(self) -> None: ...
    def send_buffer_freed(self, size: int) -> None: ...
    def send_credit_returned(self, size: int) -> None: ...
    def stream_send_ended(self, stream: "Stream") -> None: ...
    def bytes_lost(self, size: int) -> None: ...


class Receiver(QuicStreamReceiver):
    """Reassembles, then holds what is in order until it is read."""

    def __init__(self, stream: "Stream", readable: bool) -> None:
        super().__init__(stream_id=stream.stream_id, readable=readable)
        self._stream = stream
        self._chunks: deque[bytes] = deque()
        self._offset = 0  # into the first chunk
        self.waiting = 0  # bytes in _chunks not yet read
        self.read_offset = 0  # bytes read, or given up
        self.at_end = not readable  # the FIN is in order behind _chunks
        self.reset_code: int | None = None
        self.announced = False  # an empty frame said that the stream is there
        self.stopped = False
        self.released = not readable  # the application has seen the end, or stopped the stream

    def handle_frame(self, frame: QuicStreamFrame) -> StreamDataReceived | None:
        most = max(MIN_RANGES, self._stream.max_stream_data_local >> 10)
        if len(self._ranges) >= most and frame.offset > self._buffer_start:
            raise TooManyRanges
        if not frame.data and not frame.fin:
            if self.announced:
                self._stream.owner.stream_frame_empty()
            self.announced = True
        event = super().handle_frame(frame)
        if event is not None:
            if event.data:
                self._chunks.append(event.data)
                self.waiting += len(event.data)
            self.at_end = event.end_stream
            if self.stopped:
                self.discard()
            else:
                self._stream.owner.stream_readable(self._stream)
        return None

    def handle_reset(self, *, final_size: int, error_code: int = 0) -> StreamReset | None:
        event = super().handle_reset(final_size=final_size, error_code=error_code)
        if event is not None:
            self.reset_code = error_code
            self._buffer = bytearray()
            self._ranges = type(self._ranges)()
            self.discard()
            # The rest of the final size will never come; its credit goes back (RFC 9000 §4.5).
            self._consume(final_size - self.read_offset)
            self._stream.owner.stream_readable(self._stream)
        return None

    def read(self, limit: int) -> bytes | None:
        """At most `limit` bytes, b"" at the end, None when there is nothing yet."""
        if not self.waiting:
            return b"" if self.at_end else None
        first = self._chunks[0]
        size = len(first) - self._offset
        if size > limit:
            data = first[self._offset : self._offset + limit]
            self._offset += limit
        elif size == limit or len(self._chunks) == 1:
            data = first[self._offset :] if self._offset else first
            self._chunks.popleft()
            self._offset = 0
        else:
            data = self._join(limit)
        self.waiting -= len(data)
        self._consume(len(data))
        return data

    def _join(self, limit: int) -> bytes:
        parts, room = [], limit
        while room and self._chunks:
            first = self._chunks[0]
            part = first[self._offset : self._offset + room]
            parts.append(part)
            room -= len(part)
            self._offset += len(part)
            if self._offset == len(first):
                self._chunks.popleft()
                self._offset = 0
        return b"".join(parts)

    def discard(self) -> None:
        """Give up what waits; its credit goes back to the peer."""
        self._chunks.clear()
        self._offset = 0
        waiting, self.waiting = self.waiting, 0
        self._consume(waiting)

    def _consume(self, size: int) -> None:
        self.read_offset += size
        self._stream.owner.stream_consumed(self._stream, size)


class Sender(QuicStreamSender):
    """aioquic's send half, which tells the connection how much of its buffer is in use."""

    def __init__(self, stream: "Stream", writable: bool) -> None:
        super().__init__(stream_id=stream.stream_id, writable=writable)
        self._stream = stream
        self.stop_code: int | None = None
        self.fin_written = False

    @property
    def written(self) -> int:
        """The offset behind the last byte that the application wrote."""
        return self._buffer_stop

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    @property
    def reset_sent(self) -> bool:
        return self._reset_error_code is not None

    def on_data_delivery(
        self, delivery: QuicDeliveryState, start: int, stop: int, fin: bool
    ) -> None:
        was_finished, before = self.is_finished, len(self._buffer)
        super().on_data_delivery(delivery, start, stop, fin)
        if delivery is not QuicDeliveryState.ACKED and not self.reset_sent:
            self._stream.owner.bytes_lost(stop - start)
        if before != len(self._buffer):
            self._stream.owner.send_buffer_freed(before - len(self._buffer))
        if self.is_finished and not was_finished:
            self._stream.owner.stream_send_ended(self._stream)

    def on_reset_delivery(self, delivery: QuicDeliveryState) -> None:
        was_finished = self.is_finished
        super().on_reset_delivery(delivery)
        if self.is_finished and not was_finished:
            self._stream.owner.stream_send_ended(self._stream)

    def reset(self, error_code: int) -> None:
        already = self.reset_sent or self.is_finished
        super().reset(error_code)
        if not already:
            # Bytes that were never sent gave no credit away (RFC 9000 §4.5: the final size).
            self._stream.owner.send_credit_returned(self._buffer_stop - self.highest_offset)
            freed, self._buffer = len(self._buffer), bytearray()
            self._stream.owner.send_buffer_freed(freed)


class Stream(QuicStream):
    """A stream of the plain connection.

    `owner` is the connection; `priority` orders sending, higher first.
    """

    receiver: Receiver
    sender: Sender

    def __init__(
        self,
        owner: StreamOwner,
        stream_id: int,
        *,
        max_stream_data_local: int,
        max_stream_data_remote: int,
        readable: bool,
        writable: bool,
    ) -> None:
        super().__init__(
            stream_id=stream_id,
            max_stream_data_local=max_stream_data_local,
            max_stream_data_remote=max_stream_data_remote,
            readable=readable,
            writable=writable,
        )
        self.owner = owner
        self.priority = 0
        self.receiver = Receiver(self, readable)
        self.sender = Sender(self, writable)

    @property
    def is_finished(self) -> bool:
        """True when nothing of it needs to be kept; aioquic then drops it and gives credit."""
        return self.receiver.is_finished and self.receiver.released and self.sender.is_finished
