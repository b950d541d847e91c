# What the application does with streams: open, write, finish, reset, stop, read; and their credit.
# What it sends in datagrams.
#
# Each call is short and sends nothing itself: it marks what is to be sent and sets `dirty`.

from cpython.number cimport PyNumber_Index

cdef inline bint is_local(DataPlane self, uint64_t stream_id) noexcept:
    """True for a stream that this end opens (RFC 9000 §2.1)."""
    return (stream_id & 1) == (0 if self.is_client else 1)


cdef Stream *plane_make_stream(DataPlane self, uint64_t stream_id) noexcept:
    """A new stream with its initial credit; NULL where there is no memory."""
    cdef bint uni = (stream_id >> 1) & 1, local = is_local(self, stream_id)
    cdef Stream *stream = stream_add(&self.streams, stream_id)
    if stream == NULL:
        return NULL
    stream.send.exists = local or not uni
    stream.receive.exists = not (local and uni)
    if stream.send.exists:
        stream.send.credit = self.peer_stream_credit[2 if uni else 0 if local else 1]
    if stream.receive.exists:
        stream.receive.credit = self.stream_credit
        stream.receive.waiting = True
    return stream


cdef object plane_open_stream(DataPlane self, bint uni):
    cdef StreamCounts *counts = &self.counts[uni]
    cdef uint64_t stream_id
    if counts.own_opened >= counts.own_limit:
        if not counts.blocked:
            counts.blocked = counts.blocked_due = self.dirty = True
        return None
    stream_id = counts.own_opened << 2 | <uint64_t>uni << 1 | (0 if self.is_client else 1)
    if plane_make_stream(self, stream_id) == NULL:
        raise MemoryError()
    counts.own_opened += 1
    return stream_id


cdef int plane_check_writable(Stream *stream, uint64_t stream_id) except -1:
    """Raises StreamStopped, or StreamFinished for one that was finished or reset, or is gone."""
    if stream != NULL and stream.send.stopped:
        raise StreamStopped(stream.send.stop_code)
    if stream == NULL or not stream.send.exists or stream.send.fin_written or stream.send.reset:
        raise StreamFinished(f"stream {stream_id} takes no more data: it was finished or reset")
    return 0


cdef Py_ssize_t plane_write(
    DataPlane self, uint64_t stream_id, bytes data, Py_ssize_t offset
) except -1:
    cdef Stream *stream = stream_find(&self.streams, stream_id)
    cdef Flow *flow = &self.flow
    cdef SendHalf *send
    cdef uint64_t size, room
    plane_check_writable(stream, stream_id)
    if not 0 <= offset <= len(data):
        raise ValueError(f"offset {offset}: it must be from 0 to {len(data)}")
    send = &stream.send
    size = <uint64_t>(len(data) - offset)
    room = flow.send_window - flow.buffered if flow.buffered < flow.send_window else 0
    room = min(room, flow.peer_credit - flow.written)
    # What the peer's credit does not cover yet is not taken, so that a reader that stalls cannot
    # fill the buffer that the other streams share.
    room = min(room, send.credit - send.written if send.written < send.credit else 0)
    if size > room:
        if not stream.write_blocked:
            stream.write_blocked = True
            self.write_blocked.append(stream_id)
        size = room
    if size:
        if send.written == 0:
            plane_stream_consumed(self, stream)
        pieces_add(send, data, <const uint8_t *>PyBytes_AS_STRING(data) + offset, size)
        flow.written += size
        flow.buffered += size
        queue_add(&self.queue, stream)
        self.dirty = True
    return <Py_ssize_t>size


cdef int plane_finish(DataPlane self, uint64_t stream_id) except -1:
    cdef Stream *stream = stream_find(&self.streams, stream_id)
    plane_check_writable(stream, stream_id)
    stream.send.fin_written = True
    queue_add(&self.queue, stream)
    self.dirty = True
    return 0


cdef void plane_abandon(DataPlane self, Stream *stream, uint64_t code) noexcept:
    """RESET_STREAM: nothing of what was written is sent any more (RFC 9000 §3.5)."""
    cdef SendHalf *send = &stream.send
    if send.reset or send.ended:
        return
    self.flow.buffered -= send_half_buffered(send)
    # RFC 9000 §4.5: the final size is what was sent; the rest used no credit.
    self.flow.written -= send.written - send.next
    send.reset = send.reset_due = True
    send.reset_code = code
    pieces_release(send, send.written)
    ranges_free(&send.lost)
    ranges_free(&send.acked_ahead)
    queue_remove(&self.queue, stream)
    plane_due(self, stream)
    plane_wake_writers(self)


cdef void plane_reset(DataPlane self, uint64_t stream_id, uint64_t code) noexcept:
    cdef Stream *stream = stream_find(&self.streams, stream_id)
    if stream != NULL and stream.send.exists:
        plane_abandon(self, stream, code)


cdef void plane_stop(DataPlane self, uint64_t stream_id, uint64_t code) noexcept:
    """STOP_SENDING; what waits, and what still comes, is dropped and its credit given back."""
    cdef Stream *stream = stream_find(&self.streams, stream_id)
    cdef ReceiveHalf *receive
    if stream == NULL or not stream.receive.exists or stream.receive.released:
        return
    receive = &stream.receive
    receive.stopped = receive.released = True
    receive.stop_code = code
    plane_consumed(self, stream, receive_half_discard(receive))
    if not receive.size_known:
        receive.stop_due = True
        plane_due(self, stream)
    plane_settle_stream(self, stream)
    self.dirty = True


cdef inline uint64_t most_of(n) except? 0:
    """How much `n`, which is not negative, allows. TypeError: it is no integer."""
    try:
        return PyNumber_Index(n)
    except OverflowError:
        return UINT64_MAX


cdef object plane_read(DataPlane self, uint64_t stream_id, uint64_t most):
    cdef Stream *stream = stream_find(&self.streams, stream_id)
    cdef ReceiveHalf *receive
    cdef bytes data
    cdef uint64_t code
    if stream == NULL or not stream.receive.exists or stream.receive.released:
        return b""
    receive = &stream.receive
    if receive.reset:
        receive.released = True
        code = receive.reset_code
        plane_settle_stream(self, stream)
        raise StreamReset(code)
    data = receive_half_read(receive, most)
    if data is not None:
        self.flow.read += <uint64_t>len(data)
        plane_consumed(self, stream, <uint64_t>len(data))
        return data
    if receive.size_known and receive.consumed == receive.final_size:
        receive.released = True
        plane_settle_stream(self, stream)
        return b""
    receive.waiting = True
    return None


cdef void plane_due(DataPlane self, Stream *stream) noexcept:
    """A control frame of this stream is to be sent."""
    if not stream.due:
        stream.due = True
        stream.due_next = self.due
        self.due = stream
    self.dirty = True


cdef void plane_undue(DataPlane self, Stream *stream) noexcept:
    cdef Stream **link = &self.due
    if stream.due:
        while link[0] != stream:
            link = &link[0].due_next
        link[0] = stream.due_next
        stream.due = False


cdef void plane_settle_stream(DataPlane self, Stream *stream) noexcept:
    """Report the end of its sending half, and free it when nothing of it is needed any more."""
    cdef SendHalf *send = &stream.send
    cdef ReceiveHalf *receive = &stream.receive
    cdef bint uni = (stream.id >> 1) & 1
    cdef uint64_t stream_id = stream.id
    if send.exists and not send.ended:
        if send.reset_acked or (send.fin_acked and send.acked == send.written):
            send.ended = True
            plane_event(self, EVENT_SEND_ENDED, stream_id)
    if send.exists and not send.ended:
        return
    if receive.exists and not (receive.released and receive.size_known):
        return
    if receive.exists and receive.stopped and receive.consumed < receive.highest:
        plane_consumed(self, stream, receive_half_discard(receive))
    queue_remove(&self.queue, stream)
    plane_undue(self, stream)
    stream_remove(&self.streams, stream)
    if not is_local(self, stream_id):
        self.counts[uni].peer_ended += 1
        plane_stream_credit(self, uni)


cdef void plane_stream_credit(DataPlane self, bint uni) noexcept:
    """MAX_STREAMS in batches: when it grants more than the peer has left, or says it lacks (§4.6)."""
    cdef StreamCounts *counts = &self.counts[uni]
    cdef uint64_t limit = counts.peer_ended + counts.peer_allowed
    if limit > counts.peer_limit and (
        counts.peer_blocked or limit - counts.peer_limit > counts.peer_limit - counts.peer_opened
    ):
        counts.limit_due = self.dirty = True


cdef void plane_event(DataPlane self, int event, uint64_t number) noexcept:
    cdef EventQueue *events = &self.events
    cdef size_t room = events.room * 2 if events.room else 8
    cdef Happening *grown
    if events.count == events.room:
        grown = <Happening *>realloc(events.items, room * sizeof(Happening))
        if grown == NULL:
            plane_fail(self, INTERNAL_ERROR, 0, b"out of memory")
            return
        events.items, events.room = grown, room
    events.items[events.count].kind = event
    events.items[events.count].number = number
    events.count += 1


cdef void plane_wake_writers(DataPlane self) noexcept:
    """Tell those whose write was short that there is room again."""
    cdef Stream *stream
    cdef list blocked
    if not self.write_blocked:
        return
    blocked, self.write_blocked = self.write_blocked, []
    for stream_id in blocked:
        stream = stream_find(&self.streams, stream_id)
        if stream != NULL:
            stream.write_blocked = False
        plane_event(self, EVENT_WRITABLE, stream_id)


cdef int plane_send_datagram(DataPlane self, bytes data) except -1:
    cdef uint64_t limit = plane_datagram_limit(self)
    if self.peer_datagram_limit < 2 or self.closing:  # the frame's type and length
        raise DatagramUnsupported
    if <uint64_t>len(data) > limit:
        raise DatagramTooLarge(len(data), limit)
    datagrams_add(&self.datagrams_out, data)
    self.dirty = True
    return 0


cdef uint64_t plane_datagram_limit(DataPlane self) noexcept:
    """The most bytes of a DATAGRAM payload that one packet takes now (RFC 9221 §3)."""
    # First byte, connection ID, packet number, frame type, length, tag.
    cdef uint64_t overhead = 1 + <uint64_t>self.peer_cid_length + 4 + 1 + 2 + AEAD_TAG_LENGTH
    cdef uint64_t peer = self.peer_datagram_limit
    if peer < 2:
        return 0
    return min(self.mtu.current - overhead, peer - 3 if peer > 65 else peer - 2)
