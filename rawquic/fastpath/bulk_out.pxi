# The rest of a train: packets of a transfer, behind one that packet_out has built.
#
# Nearly all of a transfer's packets are one STREAM frame, cut from the bytes of one write(). While
# nothing else is to be sent, they are built here, without asking for each packet what else there is.


cdef void build_bulk(DataPlane self, Outbox *out, uint64_t *pace, double now) noexcept:
    """More full packets of the only stream that has data, as far as one write reaches.

    The last packet of what was written, and all else, is packet_out's.
    """
    cdef Draft draft
    cdef Stream *stream = self.queue.head
    cdef SendHalf *send
    cdef Piece *piece
    cdef Record *frame
    cdef size_t most = self.mtu.current, size
    cdef uint64_t left
    if (
        stream == NULL or stream.queue_next != NULL or has_other_frames(self)
        or self.received.unacked or self.allowance >= 0
    ):
        return
    send = &stream.send
    if send.lost.count or send.fin_lost or send.reset or send.current == send.tail:
        return
    piece = &send.pieces[send.current & (send.room - 1)]
    if send.next < piece.offset or send.next == 0:
        return
    # The peer's credit covers what was written. The last byte, which may be the stream's, is left.
    left = min(send.written - 1, piece.offset + piece.size)
    left -= min(left, send.next)
    while (
        out.count < OUT_PACKETS and out.used + most <= OUT_BYTES
        and self.sent.next != self.skip_at and not sent_is_full(&self.sent)
        and window_room(self) >= most and pace[0] >= most
    ):
        start_packet(self, &draft, out, now)
        draft.at[0] = 0x0E
        draft.at = put_varint(draft.at + 1, stream.id)
        draft.at = put_varint(draft.at, send.next) + 2
        draft.body_length = most - AEAD_TAG_LENGTH - <size_t>(draft.at - draft.start)
        if draft.body_length > left or draft.body_length > LENGTH_MOST:
            self.sent.next -= 1  # the number is not used
            return
        put_length(draft.at - 2, draft.body_length)
        draft.body = piece.start + (send.next - piece.offset)
        frame = &draft.packet.frame
        frame.kind = STREAM_RECORD
        frame.stream_id, frame.offset = stream.id, send.next
        frame.length = <uint32_t>draft.body_length
        send.next += draft.body_length
        left -= draft.body_length
        size = outbox_add(self, &draft, out)
        note_in_flight(self, draft.packet, size, now)
        pace[0] -= size
