# Frames out: each put_* writes what is due of one kind into a draft, as far as it fits.
#
# What was written is recorded with the packet, and is due no more. STREAM data is encrypted from
# the application's bytes straight into the packet where it fills it.

cdef enum:
    LENGTH_MOST = 16383       # of a STREAM frame: its length has two bytes
    FRAME_ROOM = 40           # less room than this is left unused
    BODY_LEAST = 256          # encrypting from elsewhere pays from here on

# A packet that is being written.
cdef struct Draft:
    uint8_t *start
    uint8_t *at
    uint8_t *end              # behind the last byte before the tag
    size_t header_length
    const uint8_t *body       # the last bytes of the payload are there; NULL: all is written
    size_t body_length
    SentPacket *packet
    bint eliciting
    bint pad                  # to 1,200 bytes (RFC 9000 §8.2.1)


cdef inline size_t room_of(const Draft *draft) noexcept nogil:
    return <size_t>(draft.end - draft.at)


cdef void put_ack(DataPlane self, Draft *draft, double now) noexcept:
    cdef uint8_t *before = draft.at
    cdef Record *record
    draft.at = received_put_ack(
        &self.received, draft.at, room_of(draft), self.ack_delay_exponent, now)
    if draft.at == before:
        return
    self.ack_at = 0
    self.phase_answered = True
    record = record_add(&self.sent, draft.packet, ACK_RECORD)
    if record != NULL:
        record.offset = received_largest_acked(&self.received)


cdef int put_control_frames(DataPlane self, Draft *draft) except -1:
    """Frames of the control plane, in order, as far as they fit."""
    cdef Record *record
    cdef bytes frame
    while PyList_GET_SIZE(self.control_frames) > 0:
        frame, token = self.control_frames[0]
        if <size_t>len(frame) > room_of(draft):
            return 0
        record = record_add(&self.sent, draft.packet, CONTROL_RECORD)
        if record == NULL:
            raise MemoryError()
        del self.control_frames[0]
        Py_INCREF(token)
        record.token = <void *>token
        memcpy(draft.at, PyBytes_AS_STRING(frame), <size_t>len(frame))
        draft.pad = draft.pad or draft.at[0] == 0x1A or draft.at[0] == 0x1B
        draft.at += len(frame)
        draft.eliciting = True
    return 0


cdef bint put_frame(
    DataPlane self, Draft *draft, RecordKind kind, uint64_t stream_id, uint64_t frame_type,
    uint64_t first, uint64_t second, uint64_t third, int numbers,
) noexcept:
    """A frame of up to three integers; False, and nothing changed, where it does not fit."""
    cdef Record *record
    if room_of(draft) < 1 + <size_t>numbers * VARINT_MAX_SIZE:
        return False
    record = record_add(&self.sent, draft.packet, kind)
    if record == NULL:
        return False
    record.stream_id = stream_id
    draft.at = put_varint(draft.at, frame_type)
    if numbers > 0:
        draft.at = put_varint(draft.at, first)
    if numbers > 1:
        draft.at = put_varint(draft.at, second)
    if numbers > 2:
        draft.at = put_varint(draft.at, third)
    draft.eliciting = True
    return True


cdef void put_due(DataPlane self, Draft *draft) noexcept:
    """Credit, stream counts, and the control frames of streams."""
    cdef Flow *flow = &self.flow
    cdef StreamCounts *counts
    cdef Stream *stream
    cdef uint64_t limit
    cdef unsigned int uni
    if flow.credit_due:
        limit = max(flow.credit, flow.consumed + flow.window)
        if not put_frame(self, draft, MAX_DATA_RECORD, 0, 0x10, limit, 0, 0, 1):
            return
        draft.packet.others.offset = limit
        flow.credit, flow.credit_due = limit, False
    for uni in range(2):
        counts = &self.counts[uni]
        if counts.limit_due:
            limit = max(counts.peer_limit, counts.peer_ended + counts.peer_allowed)
            if not put_frame(self, draft, MAX_STREAMS_RECORD, uni, 0x12 + uni, limit, 0, 0, 1):
                return
            counts.peer_limit, counts.limit_due, counts.peer_blocked = limit, False, False
        if counts.blocked_due:
            if not put_frame(
                self, draft, BLOCKED_RECORD, uni, 0x16 + uni, counts.own_limit, 0, 0, 1
            ):
                return
            counts.blocked_due = False
    while self.due != NULL:
        stream = self.due
        if not put_stream_control(self, draft, stream):
            return
        self.due = stream.due_next
        stream.due = False


cdef bint put_stream_control(DataPlane self, Draft *draft, Stream *stream) noexcept:
    cdef SendHalf *send = &stream.send
    cdef ReceiveHalf *receive = &stream.receive
    cdef uint64_t limit
    if send.reset_due:
        if not put_frame(
            self, draft, RESET_RECORD, stream.id, 0x04, stream.id, send.reset_code, send.next, 3
        ):
            return False
        send.reset_due = False
    if receive.stop_due:
        if not put_frame(
            self, draft, STOP_RECORD, stream.id, 0x05, stream.id, receive.stop_code, 0, 2
        ):
            return False
        receive.stop_due = False
    if receive.credit_due and not receive.size_known:
        plane_weigh_window(self, draft.packet.sent_at)
        limit = max(receive.credit, receive.consumed + self.stream_window)
        if not put_frame(
            self, draft, MAX_STREAM_DATA_RECORD, stream.id, 0x11, stream.id, limit, 0, 2
        ):
            return False
        draft.packet.others.offset = limit
        receive.credit, receive.credit_due = limit, False
    return True


cdef void put_pings(DataPlane self, Draft *draft) noexcept:
    cdef Record *record
    while PyList_GET_SIZE(self.pings) > 0 and room_of(draft) >= 1:
        record = record_add(&self.sent, draft.packet, PING_RECORD)
        if record == NULL:
            return
        record.offset = <uint64_t>self.pings[0]
        del self.pings[0]
        draft.at[0] = 0x01
        draft.at += 1
        draft.eliciting = True


cdef void put_empty_ping(DataPlane self, Draft *draft) noexcept:
    """What is to be acknowledged, and has nothing that is, gets a PING."""
    if not draft.eliciting and (self.ping_due or self.probes) and room_of(draft) >= 1:
        draft.at[0] = 0x01
        draft.at += 1
        draft.eliciting = True
    if draft.eliciting:
        self.ping_due = False


cdef int put_datagrams(DataPlane self, Draft *draft) except -1:
    """DATAGRAM frames with lengths, several where they fit (RFC 9221 §4)."""
    cdef DatagramQueue *queue = &self.datagrams_out
    cdef bytes data
    cdef size_t size
    while queue.count:
        size = <size_t>len(datagrams_first(queue))
        if size > plane_datagram_limit(self):
            # The path's MTU went down while it waited; it would block the queue for ever.
            datagrams_pop(queue)
            self.datagrams_too_large += 1
            continue
        if 1 + varint_size(size) + size > room_of(draft):
            break
        data = datagrams_pop(queue)
        draft.at[0] = 0x31
        draft.at = put_varint(draft.at + 1, size)
        memcpy(draft.at, PyBytes_AS_STRING(data), size)
        draft.at += size
        draft.eliciting = True
    if self.datagram_room_wanted and queue.size * 2 <= queue.bound:
        self.datagram_room_wanted = False
        plane_event(self, EVENT_DATAGRAM_ROOM, 0)
    return 0


cdef void put_streams(DataPlane self, Draft *draft) noexcept:
    cdef Stream *stream
    while self.queue.head != NULL and room_of(draft) >= FRAME_ROOM and draft.body == NULL:
        stream = self.queue.head
        # What was lost may have been acknowledged since.
        if send_half_has_data(&stream.send) and not put_stream(self, draft, stream):
            return
        if not send_half_has_data(&stream.send):
            queue_remove(&self.queue, stream)
        else:
            queue_rotate(&self.queue, stream)


cdef bint put_stream(DataPlane self, Draft *draft, Stream *stream) noexcept:
    """One STREAM frame, lost bytes before new ones; False where there is no memory."""
    cdef SendHalf *send = &stream.send
    cdef Record *record = &draft.packet.frame
    cdef uint64_t offset, size, room
    cdef bint again = send.lost.count > 0, fin, copied
    cdef const uint8_t *source
    if record.kind != NO_RECORD:
        record = record_add(&self.sent, draft.packet, STREAM_RECORD)
        if record == NULL:
            return False
    if again:
        offset = send.lost.items[0].start
        size = send.lost.items[0].stop - offset
    else:
        offset = send.next
        size = min(send.written, send.credit) - offset
    room = room_of(draft) - 1 - varint_size(stream.id) - 2 - (varint_size(offset) if offset else 0)
    size = min(size, min(room, <uint64_t>LENGTH_MOST))
    fin = send.fin_written and offset + size == send.written
    draft.at[0] = <uint8_t>(0x0A | (4 if offset else 0) | fin)
    draft.at = put_varint(draft.at + 1, stream.id)
    if offset:
        draft.at = put_varint(draft.at, offset)
    draft.at = put_length(draft.at, size)
    if size:
        source = send_half_bytes(send, offset, size, draft.at, &copied)
        if not copied and size == room and size >= BODY_LEAST:
            draft.body, draft.body_length = source, <size_t>size
        else:
            if not copied:
                memcpy(draft.at, source, size)
            draft.at += size
    if again:
        ranges_cut_below(&send.lost, offset + size)
    else:
        send.next = offset + size
    if fin:
        send.fin_sent, send.fin_lost = True, False
    record.kind = STREAM_RECORD
    record.stream_id, record.offset = stream.id, offset
    record.length, record.fin = <uint32_t>size, fin
    draft.eliciting = True
    return True
