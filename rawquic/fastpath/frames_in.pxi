# The frames of a packet that was opened (RFC 9000 §19, RFC 9221), through the one cursor.
#
# A handler returns FRAME_OK, FRAME_DROP (the rest of the packet is dropped, and the packet not
# acknowledged) or FRAME_BAD (the peer broke the protocol; the error is noted). Frames of the control
# plane are cut out here and handed over whole.

cdef enum FrameResult:
    FRAME_BAD = -1
    FRAME_OK = 0
    FRAME_DROP = 1

# What a packet's frames were, for acknowledgement and migration.
cdef struct PacketFacts:
    bint any
    bint eliciting
    bint acknowledges  # one ACK frame is all that a packet needs
    bint probing   # only PADDING, NEW_CONNECTION_ID, PATH_CHALLENGE, PATH_RESPONSE (§9.1)


cdef FrameResult malformed(DataPlane self, uint64_t frame_type) noexcept:
    plane_fail(self, FRAME_ENCODING_ERROR, frame_type, b"a frame is truncated or malformed")
    return FRAME_BAD


cdef FrameResult violated(
    DataPlane self, uint64_t code, uint64_t frame_type, const char *reason
) noexcept:
    plane_fail(self, code, frame_type, reason)
    return FRAME_BAD


cdef FrameResult plane_frames(
    DataPlane self, Cursor *cursor, PacketFacts *facts, double now
) except *:
    """All frames of a packet, in order."""
    cdef uint64_t frame_type
    cdef FrameResult result
    cdef Cursor start
    facts.probing = True
    while cursor.left and not self.closing:
        facts.any = True
        if cursor.at[0] == 0:
            skip_padding(cursor)
            continue
        start = cursor[0]
        if not take_varint(cursor, &frame_type):
            return malformed(self, 0)
        if frame_type == 0:
            continue  # PADDING, its type in more bytes than it needs (§12.4 lets us take it)
        if frame_type & ~<uint64_t>7 == 8:
            facts.probing = False
            facts.eliciting = True
            result = on_stream(self, frame_type, cursor, now)
        elif frame_type == 0x02 or frame_type == 0x03:
            facts.probing = False
            if facts.acknowledges and not plane_tolerates(self, now):
                return violated(self, PROTOCOL_VIOLATION, frame_type, b"too many ACK frames")
            facts.acknowledges = True
            result = on_ack(self, frame_type == 0x03, cursor, now)
        elif frame_type == 0x30 or frame_type == 0x31:
            facts.probing = False
            facts.eliciting = True
            result = on_datagram(self, frame_type, cursor, &start)
        else:
            result = on_rare_frame(self, frame_type, cursor, &start, facts, now)
        if result != FRAME_OK:
            return result
    if not facts.any:
        return violated(self, PROTOCOL_VIOLATION, 0, b"a packet without frames")  # §12.4
    return FRAME_OK


cdef FrameResult on_rare_frame(
    DataPlane self, uint64_t frame_type, Cursor *cursor, const Cursor *start, PacketFacts *facts,
    double now,
) except *:
    """All but the three that make up bulk traffic. `start`: where the frame's type is."""
    if frame_type != 0x1C and frame_type != 0x1D:  # §13.2.1
        facts.eliciting = True
    if frame_type not in (0x18, 0x1A, 0x1B):
        facts.probing = False
    # What costs more than it weighs: frames that carry nothing, and those that go through Python.
    if frame_type in (0x01, 0x04, 0x05, 0x06, 0x07, 0x1E) or 0x14 <= frame_type <= 0x1B:
        if not plane_tolerates(self, now):
            return violated(
                self, PROTOCOL_VIOLATION, frame_type, b"too many frames that carry nothing")
    if frame_type == 0x01:  # PING: who asks for life signs wants them now
        self.received.urgent = True
        return FRAME_OK
    if frame_type == 0x04:
        return on_reset_stream(self, cursor)
    if frame_type == 0x05:
        return on_stop_sending(self, cursor)
    if frame_type == 0x10:
        return on_max_data(self, cursor)
    if frame_type == 0x11:
        return on_max_stream_data(self, cursor)
    if frame_type == 0x12 or frame_type == 0x13:
        return on_max_streams(self, frame_type, cursor)
    if 0x14 <= frame_type <= 0x17:
        return on_blocked(self, frame_type, cursor)
    if frame_type in (0x06, 0x07) or 0x18 <= frame_type <= 0x1E:
        return on_control_frame(self, frame_type, cursor, start)
    return violated(self, FRAME_ENCODING_ERROR, frame_type, b"unknown frame type")  # §12.4


cdef bint plane_tolerates(DataPlane self, double now) noexcept:
    """A token bucket of frames that cost work and carry nothing."""
    self.glitches = min(<double>GLITCH_BURST, self.glitches + (now - self.glitch_at) * GLITCH_RATE)
    self.glitch_at = now
    self.glitches -= 1
    return self.glitches >= 0


cdef FrameResult on_control_frame(
    DataPlane self, uint64_t frame_type, Cursor *cursor, const Cursor *start
) except *:
    """Find the end of a frame of the control plane's, and hand it over."""
    cdef Cursor rest = cursor[0]
    cdef uint64_t value, size = 0
    cdef uint8_t length
    cdef const uint8_t *skipped
    cdef bint whole
    if frame_type == 0x06:  # CRYPTO: offset, length, data
        whole = take_varint(&rest, &value) and take_varint(&rest, &size)
    elif frame_type == 0x07:  # NEW_TOKEN: length, token
        whole = take_varint(&rest, &size)
    elif frame_type == 0x18:  # NEW_CONNECTION_ID: sequence, retire, length, ID, reset token
        whole = take_varint(&rest, &value) and take_varint(&rest, &value) and take_u8(&rest, &length)
        size = <uint64_t>length + 16 if whole else 0
    elif frame_type == 0x19:  # RETIRE_CONNECTION_ID
        whole = take_varint(&rest, &value)
    elif frame_type == 0x1A or frame_type == 0x1B:  # PATH_CHALLENGE, PATH_RESPONSE
        whole, size = True, 8
    elif frame_type == 0x1C:  # CONNECTION_CLOSE of the transport: code, frame type, reason
        whole = (
            take_varint(&rest, &value) and take_varint(&rest, &value) and take_varint(&rest, &size))
    elif frame_type == 0x1D:  # CONNECTION_CLOSE of the application: code, reason
        whole = take_varint(&rest, &value) and take_varint(&rest, &size)
    else:  # HANDSHAKE_DONE
        whole = True
    if not whole or not take_bytes(&rest, size, &skipped):
        return malformed(self, frame_type)
    frame = PyBytes_FromStringAndSize(
        <const char *>start.at, <Py_ssize_t>(start.left - rest.left))
    cursor[0] = rest
    self.control_called = True
    self.control.control_frame(frame_type, frame, bytes(self.host_cid[:HOST_CID_LENGTH]))
    return FRAME_BAD if self.closing else FRAME_OK


cdef Stream *plane_peer_stream(
    DataPlane self, uint64_t stream_id, uint64_t frame_type, FrameResult *result
) noexcept:
    """The stream that a frame names, opened if need be; NULL: see `result` (OK: it is gone)."""
    cdef Stream *stream = stream_find(&self.streams, stream_id)
    cdef StreamCounts *counts = &self.counts[(stream_id >> 1) & 1]
    cdef uint64_t number = stream_id >> 2, opened
    result[0] = FRAME_OK
    if stream != NULL:
        return stream
    if is_local(self, stream_id):
        if number >= counts.own_opened:
            result[0] = violated(
                self, STREAM_STATE_ERROR, frame_type, b"a stream of ours that is not open")
        return NULL
    if number < counts.peer_opened:
        return NULL
    if number >= counts.peer_limit:
        result[0] = violated(self, STREAM_LIMIT_ERROR, frame_type, b"too many streams")
        return NULL
    # RFC 9000 §2.1: it opens all lower-numbered streams of its kind as well.
    while counts.peer_opened <= number:
        opened = counts.peer_opened << 2 | (stream_id & 3)
        stream = plane_make_stream(self, opened)
        if stream == NULL:
            result[0] = FRAME_DROP
            return NULL
        counts.peer_opened += 1
        plane_event(self, EVENT_STREAM_OPENED, opened)
    plane_stream_credit(self, stream_id >> 1 & 1)  # a batch that waited may be due now
    return stream


cdef inline bint peer_can_send(DataPlane self, uint64_t stream_id) noexcept:
    return not (stream_id & 2 and is_local(self, stream_id))


cdef inline bint we_can_send(DataPlane self, uint64_t stream_id) noexcept:
    return not (stream_id & 2 and not is_local(self, stream_id))


cdef FrameResult check_size(
    DataPlane self, Stream *stream, uint64_t end, bint final, uint64_t frame_type
) noexcept:
    """Flow control and final size (RFC 9000 §4.1, §4.5) of bytes up to `end`."""
    cdef ReceiveHalf *receive = &stream.receive
    if receive.size_known and (end > receive.final_size or (final and end != receive.final_size)):
        return violated(self, FINAL_SIZE_ERROR, frame_type, b"data beyond the final size")
    if final and end < receive.highest:
        return violated(self, FINAL_SIZE_ERROR, frame_type, b"final size below what was sent")
    if end > receive.credit:
        return violated(self, FLOW_CONTROL_ERROR, frame_type, b"beyond the stream's credit")
    if end > receive.highest and (
        end - receive.highest > self.flow.credit - self.flow.received
    ):
        return violated(self, FLOW_CONTROL_ERROR, frame_type, b"beyond the connection's credit")
    return FRAME_OK


cdef void note_size(DataPlane self, Stream *stream, uint64_t end, bint final) noexcept:
    cdef ReceiveHalf *receive = &stream.receive
    if end > receive.highest:
        self.flow.received += end - receive.highest
        receive.highest = end
    if final:
        receive.size_known = True
        receive.final_size = end


cdef bint take_stream_head(Cursor *cursor, uint64_t frame_type, StreamFrame *frame) noexcept nogil:
    """What is between a STREAM frame's type and its data; without a length, all that is left."""
    frame.frame_type, frame.final = frame_type, frame_type & 1 != 0
    frame.offset = 0
    if not take_varint(cursor, &frame.stream_id):
        return False
    if frame_type & 4 and not take_varint(cursor, &frame.offset):
        return False
    frame.size = cursor.left
    return not frame_type & 2 or take_varint(cursor, &frame.size)


cdef FrameResult on_stream(
    DataPlane self, uint64_t frame_type, Cursor *cursor, double now
) except *:
    cdef StreamFrame frame
    cdef FrameResult result
    cdef Stream *stream
    cdef const uint8_t *start = cursor.at - 1  # its type has one byte nearly always
    if (
        not take_stream_head(cursor, frame_type, &frame)
        or not take_bytes(cursor, frame.size, &frame.data)
        or frame.offset > VARINT_MAX - frame.size
    ):
        return malformed(self, frame_type)
    if not peer_can_send(self, frame.stream_id):
        return violated(self, STREAM_STATE_ERROR, frame_type, b"data on a send-only stream")
    stream = plane_peer_stream(self, frame.stream_id, frame_type, &result)
    if stream == NULL:
        return result
    placing_note(
        &self.placing, stream, frame.offset, <size_t>(frame.data - start),
        cursor.left == 0 and not frame.final)
    return stream_data(self, stream, &frame, now)


cdef FrameResult stream_data(
    DataPlane self, Stream *stream, const StreamFrame *frame, double now
) except *:
    cdef ReceiveHalf *receive = &stream.receive
    cdef FrameResult result
    cdef Placement placed
    cdef uint32_t holes
    cdef uint64_t end = frame.offset + frame.size
    result = check_size(self, stream, end, frame.final, frame.frame_type)
    if result != FRAME_OK:
        return result
    if frame.size == 0 and not frame.final:
        if receive.announced and not plane_tolerates(self, now):
            return violated(
                self, PROTOCOL_VIOLATION, frame.frame_type,
                b"too many frames that carry nothing")
        receive.announced = True
    if receive.stopped or receive.reset:
        note_size(self, stream, end, frame.final)
        plane_consumed(self, stream, receive_half_discard(receive))
        plane_settle_stream(self, stream)
        return FRAME_OK
    holes = receive.ahead.count
    placed = receive_half_put(
        receive, frame.offset, frame.data, frame.size, self.stream_window_most)
    # Each hole may move a long list. Loss makes holes of whole packets; tiny ones are made on purpose.
    if receive.ahead.count > holes and frame.size < TINY and not plane_tolerates(self, now):
        return violated(
            self, PROTOCOL_VIOLATION, frame.frame_type, b"too many tiny holes in streams")
    if placed == NO_MEMORY:
        return FRAME_DROP  # which is no fault of the peer's
    if placed == TOO_MANY_RANGES:
        self.counters.holes_dropped += 1
        if self.counters.holes_dropped > DROPS_MOST:
            return violated(
                self, PROTOCOL_VIOLATION, frame.frame_type, b"too many holes in streams")
        return FRAME_DROP
    note_size(self, stream, end, frame.final)
    if receive.waiting and (
        receive.next > receive.consumed
        or (receive.size_known and receive.consumed == receive.final_size)
    ):
        receive.waiting = False
        plane_event(self, EVENT_READABLE, stream.id)
    return FRAME_OK


cdef FrameResult on_reset_stream(DataPlane self, Cursor *cursor) except *:
    cdef uint64_t stream_id, code, final_size
    cdef Stream *stream
    cdef ReceiveHalf *receive
    cdef FrameResult result
    if not (
        take_varint(cursor, &stream_id) and take_varint(cursor, &code)
        and take_varint(cursor, &final_size)
    ):
        return malformed(self, 0x04)
    if not peer_can_send(self, stream_id):
        return violated(self, STREAM_STATE_ERROR, 0x04, b"RESET_STREAM on a send-only stream")
    stream = plane_peer_stream(self, stream_id, 0x04, &result)
    if stream == NULL:
        return result
    result = check_size(self, stream, final_size, True, 0x04)
    if result != FRAME_OK:
        return result
    receive = &stream.receive
    if receive.size_known and receive.next == receive.final_size and not receive.stopped:
        return FRAME_OK  # RFC 9000 §3.2: all data had come
    note_size(self, stream, final_size, True)
    plane_consumed(self, stream, receive_half_discard(receive))
    if not receive.reset:
        receive.reset = True
        receive.reset_code = code
        if receive.waiting:
            receive.waiting = False
            plane_event(self, EVENT_READABLE, stream_id)
    plane_settle_stream(self, stream)
    return FRAME_OK


cdef FrameResult on_stop_sending(DataPlane self, Cursor *cursor) except *:
    cdef uint64_t stream_id, code
    cdef Stream *stream
    cdef FrameResult result
    if not (take_varint(cursor, &stream_id) and take_varint(cursor, &code)):
        return malformed(self, 0x05)
    if not we_can_send(self, stream_id):
        return violated(self, STREAM_STATE_ERROR, 0x05, b"STOP_SENDING on a receive-only stream")
    stream = plane_peer_stream(self, stream_id, 0x05, &result)
    if stream == NULL:
        return result
    if not stream.send.stopped and not stream.send.ended:
        stream.send.stopped = True
        stream.send.stop_code = code
        plane_event(self, EVENT_STOPPED, stream_id)
        plane_abandon(self, stream, code)  # RFC 9000 §3.5: answered with the same code
    return FRAME_OK


cdef FrameResult on_max_data(DataPlane self, Cursor *cursor) except *:
    cdef uint64_t limit
    if not take_varint(cursor, &limit):
        return malformed(self, 0x10)
    if limit > self.flow.peer_credit:
        self.flow.peer_credit = limit
        plane_wake_writers(self)
        self.dirty = True
    return FRAME_OK


cdef FrameResult on_max_stream_data(DataPlane self, Cursor *cursor) except *:
    cdef uint64_t stream_id, limit
    cdef Stream *stream
    cdef FrameResult result
    if not (take_varint(cursor, &stream_id) and take_varint(cursor, &limit)):
        return malformed(self, 0x11)
    if not we_can_send(self, stream_id):
        return violated(self, STREAM_STATE_ERROR, 0x11, b"MAX_STREAM_DATA on a receive-only stream")
    stream = plane_peer_stream(self, stream_id, 0x11, &result)
    if stream == NULL:
        return result
    if limit > stream.send.credit:
        stream.send.credit = limit
        if send_half_has_data(&stream.send):
            queue_add(&self.queue, stream)
        if stream.write_blocked:
            plane_wake_writers(self)
        self.dirty = True
    return FRAME_OK


cdef FrameResult on_max_streams(DataPlane self, uint64_t frame_type, Cursor *cursor) except *:
    cdef uint64_t limit
    cdef bint uni = frame_type == 0x13
    if not take_varint(cursor, &limit) or limit > <uint64_t>1 << 60:  # §19.11
        return malformed(self, frame_type)
    if limit > self.counts[uni].own_limit:
        self.counts[uni].own_limit = limit
        if self.counts[uni].blocked:
            self.counts[uni].blocked = False
            plane_event(self, EVENT_STREAMS_AVAILABLE, <unsigned int>uni)
    return FRAME_OK


cdef FrameResult on_blocked(DataPlane self, uint64_t frame_type, Cursor *cursor) except *:
    """DATA_BLOCKED, STREAM_DATA_BLOCKED, STREAMS_BLOCKED: credit follows reading, not asking."""
    cdef uint64_t stream_id = 0, limit
    cdef FrameResult result
    if frame_type == 0x15 and not take_varint(cursor, &stream_id):
        return malformed(self, frame_type)
    if not take_varint(cursor, &limit):
        return malformed(self, frame_type)
    if frame_type >= 0x16:
        if limit > <uint64_t>1 << 60:  # §19.14
            return malformed(self, frame_type)
        plane_unblock_peer(self, frame_type == 0x17, limit)
        return FRAME_OK
    if frame_type == 0x15:
        if not peer_can_send(self, stream_id):
            return violated(
                self, STREAM_STATE_ERROR, frame_type, b"STREAM_DATA_BLOCKED on a send-only stream")
        plane_peer_stream(self, stream_id, frame_type, &result)
        return result
    return FRAME_OK


cdef void plane_unblock_peer(DataPlane self, bint uni, uint64_t limit) noexcept:
    """The peer says it is out of streams: give the next ones without waiting for a batch."""
    cdef StreamCounts *counts = &self.counts[uni]
    if limit >= counts.peer_limit:  # else it has not heard of the present one yet
        counts.peer_blocked = True
        plane_stream_credit(self, uni)


cdef FrameResult on_datagram(
    DataPlane self, uint64_t frame_type, Cursor *cursor, const Cursor *start
) except *:
    """`start`: where the frame's type is."""
    cdef uint64_t size = cursor.left
    cdef const uint8_t *data
    if frame_type & 1 and not take_varint(cursor, &size):
        return malformed(self, frame_type)
    if not take_bytes(cursor, size, &data):
        return malformed(self, frame_type)
    if start.left - cursor.left > self.datagram_frame_limit:  # RFC 9221 §3
        return violated(self, PROTOCOL_VIOLATION, frame_type, b"a DATAGRAM larger than allowed")
    datagrams_add(
        &self.datagrams_in, PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>size))
    if not self.datagrams_announced:
        self.datagrams_announced = True
        plane_event(self, EVENT_DATAGRAMS, 0)
    return FRAME_OK
