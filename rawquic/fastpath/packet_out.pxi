# Packets out: a batch is built end to end in one buffer, sealed with one call, then sent as trains.
#
# What fits goes into a packet in this order: ACK, control frames, credit, resets, pings, datagrams,
# streams. Packet numbers are taken here and nowhere else: by start_packet, and by skip_number.

cdef enum:
    OUT_PACKETS = 64
    OUT_BYTES = 65507         # of one batch: what one GSO message takes
    OUT_ROOM = 65507 + 65536  # and an MTU probe behind it
    SKIP_DISTANCE_MOST = 131072
    ALLOWANCE_LEAST = 64      # with less than that nothing is built

cdef struct Outbox:
    uint8_t *plain            # owned; OUT_ROOM bytes: what it is built in
    uint8_t *buffer           # borrowed: what it is sealed to; `plain` itself, or a block
    size_t used
    unsigned int count
    int ecn                   # codepoint of all of them
    size_t sizes[OUT_PACKETS]
    SealJob jobs[OUT_PACKETS]
    uint8_t masks[OUT_PACKETS * 16]

cdef extern from *:
    """
    #define TIMER_LEAST 0.001  /* RFC 9002 section 6.1.2: kGranularity */
    """
    const double TIMER_LEAST


cdef int outbox_open(Outbox *self) except -1:
    if self.plain == NULL:
        self.plain = <uint8_t *>malloc(OUT_ROOM)
        if self.plain == NULL:
            raise MemoryError()
    self.buffer = self.plain
    return 0


cdef int plane_build(DataPlane self, Outbox *out, bint marks, double now) except -1:
    """Fill `out` with sealed packets; how many. Zero: nothing (more) may be sent now.

    `marks`: the caller sends them with the codepoint `out.ecn`.
    """
    cdef uint64_t pace, tested = self.ecn.tested
    out.count, out.used = 0, 0
    if self.seal_key is None or self.closing:
        self.dirty = False
        return 0
    if self.seal_key.sealed >= self.packets_per_key or self.update_wanted:
        consider_key_update(self)
        # RFC 9001 §6.6: a batch stays within the limit, and the close after it.
        if self.seal_key.sealed + OUT_PACKETS >= self.confidentiality_limit:
            plane_fail(self, AEAD_LIMIT_REACHED, 0, b"the peer does not follow a key update")
            return 0
    if now >= self.pacing_at:
        self.pacing_at = 0
    pace = pacer_allowance(
        &self.pacer, &self.rtt, self.congestion.window,
        congestion_in_slow_start(&self.congestion), self.mtu.current, now)
    out.ecn = ecn_codepoint(&self.ecn, rtt_pto(&self.rtt), now) if marks else NOT_ECT
    while out.count < OUT_PACKETS and out.used + self.mtu.current <= OUT_BYTES:
        if not build_packet(self, out, &pace, now):
            self.dirty = False
            break
        build_bulk(self, out, &pace, now)
    if self.search_mtu and out.count < OUT_PACKETS:
        build_mtu_probe(self, out, now)
    if self.received.unacked and not self.ack_at:
        self.ack_at = self.received.first_unacked_at + self.max_ack_delay
        if self.ack_at <= now:  # held back by something else: no timer may stand in the past
            self.ack_at = now + max(self.max_ack_delay, TIMER_LEAST)
    if self.ecn.state == ECN_TESTING and self.ecn.tested == tested:
        out.ecn = NOT_ECT  # ACKs alone, which are not acknowledged, test nothing
    if out.count:
        if out.ecn:
            self.ecn.marked += out.count
        self.last_sent_at = now
        seal_outbox(self, out)
    return <int>out.count


cdef inline uint64_t window_room(DataPlane self) noexcept:
    """Bytes that the window still takes, which packets of the handshake share."""
    cdef uint64_t room = congestion_room(&self.congestion)
    return room - min(room, self.handshake_in_flight)


cdef bint has_other_frames(DataPlane self) noexcept:
    """True when there is something to send besides STREAM frames and ACKs."""
    return (
        self.datagrams_out.count or self.due != NULL
        or self.flow.credit_due or self.ping_due or self.probes
        or self.counts[0].limit_due or self.counts[1].limit_due
        or self.counts[0].blocked_due or self.counts[1].blocked_due
        or PyList_GET_SIZE(self.control_frames) > 0 or PyList_GET_SIZE(self.pings) > 0
    )


cdef bint build_packet(DataPlane self, Outbox *out, uint64_t *pace, double now) except *:
    """Write the next packet behind the others in `out`; False when there is none to write."""
    cdef Draft draft
    cdef size_t most = self.mtu.current, size
    cdef ReceivedPackets *received = &self.received
    # What the congestion window applies to.
    cdef bint wanted = self.queue.head != NULL or has_other_frames(self), allowed, acknowledge
    if self.probes and self.pto_count > 1:
        most = min(most, <size_t>MTU_BASE)  # else a path that lost large packets stays silent
    if self.allowance >= 0:
        if self.allowance < ALLOWANCE_LEAST:
            return False
        most = min(most, <size_t>self.allowance)
    allowed = wanted and not sent_is_full(&self.sent)
    if allowed and not self.probes:
        if window_room(self) < most:
            allowed = False
        elif pace[0] < most:
            allowed = False
            self.pacing_at = pacer_ready_at(&self.pacer)
    acknowledge = received.unacked > 0 and (
        allowed or received.urgent or received.unacked >= 2) and not sent_is_full(&self.sent)
    if not allowed and not acknowledge:
        return False
    begin_draft(self, &draft, out, most, now)
    if acknowledge:
        put_ack(self, &draft, now)
        if not wanted and self.received.ranges.count > ACK_RANGES // 8 and (
            self.eliciting_in_flight == 0
        ):
            # RFC 9000 §13.2.4: an ACK of this ACK tells which ranges need not be said again.
            self.ping_due = True
            put_empty_ping(self, &draft)
    if allowed:
        put_control_frames(self, &draft)
        put_due(self, &draft)
        put_pings(self, &draft)
        put_datagrams(self, &draft)
        put_streams(self, &draft)
        put_empty_ping(self, &draft)
    if draft.at == draft.start + draft.header_length and draft.body == NULL:
        self.sent.next -= 1  # nothing fitted: the number is not used
        return False
    size = finish_draft(self, &draft, out)
    if draft.eliciting:
        if self.probes:
            self.probes -= 1
        note_in_flight(self, draft.packet, size, now)
        pace[0] -= min(pace[0], <uint64_t>size)
    else:
        records_drop(&self.sent, draft.packet)  # nobody settles what need not be acknowledged
    if self.allowance >= 0:
        self.allowance -= min(self.allowance, <int64_t>size)
    return True


cdef void begin_draft(
    DataPlane self, Draft *draft, Outbox *out, size_t most, double now
) noexcept:
    """Start a packet of at most `most` bytes, whatever is to be in it."""
    memset(draft, 0, sizeof(Draft))
    if self.sent.next == self.skip_at:
        skip_number(self, now)
    start_packet(self, draft, out, now)
    draft.end = draft.start + most - AEAD_TAG_LENGTH


cdef inline void start_packet(DataPlane self, Draft *draft, Outbox *out, double now) noexcept:
    """Take a packet number and write the short header (RFC 9000 §17.3.1)."""
    cdef uint64_t number = self.sent.next
    # RFC 9000 §17.1: more than twice as many numbers as are unacknowledged.
    cdef bint is_long = number - (self.largest_acked if self.any_acked else 0) >= 1 << 15
    cdef uint8_t *at = out.plain + out.used
    draft.start = at
    at[0] = <uint8_t>(0x40 | self.seal_phase << 2 | (3 if is_long else 1))
    memcpy(at + 1, self.peer_cid, CID_MOST)  # all of them: what follows is not written yet
    at += 1 + self.peer_cid_length
    if is_long:
        store_32(at, number)
        at += 4
    else:
        store_16(at, number)
        at += 2
    draft.at = at
    draft.header_length = <size_t>(at - draft.start)
    draft.packet = sent_begin(&self.sent, now)
    draft.packet.marked = out.ecn == ECT_0


cdef void skip_number(DataPlane self, double now) noexcept:
    """Leave a number out, so that an ACK of it gives an optimistic peer away (RFC 9000 §21.4)."""
    if sent_is_full(&self.sent) or (
        self.sent.next - self.sent.first + 1 + RING_SPARE >= self.sent.room
    ):
        self.skip_at += 1
        return
    sent_begin(&self.sent, now)
    memmove(self.skipped + 1, self.skipped, (SKIPPED_KEPT - 1) * sizeof(uint64_t))
    self.skipped[0] = self.sent.next - 1
    if self.skipped_count < SKIPPED_KEPT:
        self.skipped_count += 1
    self.skip_distance = min(self.skip_distance * 2, <uint64_t>SKIP_DISTANCE_MOST)
    self.skip_at = self.sent.next + self.skip_distance // 2 + random_below(self.skip_distance)


cdef size_t finish_draft(DataPlane self, Draft *draft, Outbox *out) noexcept:
    """Pad, and hand the packet to the batch; its size with the tag."""
    # RFC 9001 §5.4.2: the sample begins four bytes behind the start of the packet number.
    cdef uint8_t *least = draft.start + 1 + self.peer_cid_length + 4
    if draft.pad and draft.end - draft.start > 1200 - AEAD_TAG_LENGTH:
        least = draft.start + 1200 - AEAD_TAG_LENGTH
    elif draft.pad:
        least = draft.end
    if draft.body == NULL and draft.at < least:
        memset(draft.at, 0, <size_t>(least - draft.at))
        draft.at = least
    return outbox_add(self, draft, out)


cdef inline size_t outbox_add(DataPlane self, const Draft *draft, Outbox *out) noexcept:
    """The packet with the last number that was taken is complete; its size with the tag."""
    cdef SealJob *job = &out.jobs[out.count]
    cdef size_t size = <size_t>(draft.at - draft.start) + draft.body_length + AEAD_TAG_LENGTH
    # A block has room for all but an MTU probe.
    job.packet = out.buffer + out.used if out.used + size <= BLOCK_BYTES else draft.start
    job.plain = draft.start
    job.header_length = draft.header_length
    job.length = size
    job.packet_number = self.sent.next - 1
    job.body, job.body_length = draft.body, draft.body_length
    out.sizes[out.count] = size
    out.count += 1
    out.used += size
    self.counters.packets_sent += 1
    self.counters.bytes_sent += size
    return size


cdef void note_in_flight(DataPlane self, SentPacket *packet, size_t size, double now) noexcept:
    cdef Congestion *congestion = &self.congestion
    packet.state = IN_FLIGHT
    packet.size = <uint16_t>size
    if packet.marked:
        self.ecn.tested += 1
    if self.eliciting_in_flight == 0:
        self.flight_first = self.sent.next - 1
    self.eliciting_in_flight += 1
    self.last_eliciting_at = now
    congestion_sent(congestion, size, self.sent.next - 1)
    # As Linux has it: a window that is not half full is not what limits the sender.
    packet.window_used = congestion.bytes_in_flight * 2 >= congestion.window
    pacer_sent(&self.pacer, size)
    if not self.eliciting_sent_since:
        self.eliciting_sent_since = True
        self.idle_from = now  # RFC 9000 §10.1


cdef int build_mtu_probe(DataPlane self, Outbox *out, double now) except -1:
    """A PING padded to the size that is tried (RFC 8899 §4.1); never part of a train."""
    cdef Draft draft
    cdef uint16_t size = mtu_probe_size(&self.mtu, now)
    if size == 0 or self.allowance >= 0 or sent_is_full(&self.sent):
        return 0
    if out.used + size > OUT_ROOM or window_room(self) < size:
        return 0
    begin_draft(self, &draft, out, size, now)
    draft.at[0] = 0x01
    memset(draft.at + 1, 0, room_of(&draft) - 1)
    draft.at = draft.end
    draft.packet.is_probe = True
    mtu_probe_sent(&self.mtu, self.sent.next - 1, now)
    note_in_flight(self, draft.packet, finish_draft(self, &draft, out), now)
    return 0


cdef int seal_outbox(DataPlane self, Outbox *out) except -1:
    """Encrypt all packets of the batch, then protect their headers (RFC 9001 §5.3, §5.4)."""
    cdef unsigned int i, j, pn_length
    cdef size_t pn_offset = 1 + <size_t>self.peer_cid_length
    cdef PacketKey key = self.seal_key
    cdef Py_ssize_t done
    cdef uint8_t *start
    cdef const uint8_t *mask
    cdef bytes plaintext = qlog_plaintext(out) if self.qlog is not None else None
    if out.count == 1:
        done = key.seal_packets(out.jobs, 1)  # as in open_run
    else:
        with nogil:
            done = key.seal_packets(out.jobs, <Py_ssize_t>out.count)
    for i in range(out.count):
        memcpy(out.masks + 16 * i, out.jobs[i].packet + pn_offset + 4, 16)
    if done != <Py_ssize_t>out.count or not key.hp_masks(
        out.masks, out.masks, <Py_ssize_t>out.count
    ):
        out.count, out.used = 0, 0
        plane_fail(self, INTERNAL_ERROR, 0, b"the AEAD provider failed")
        return 0
    for i in range(out.count):
        start = out.jobs[i].packet
        mask = out.masks + 16 * i
        pn_length = (start[0] & 3) + 1
        start[0] ^= mask[0] & 0x1F
        for j in range(pn_length):
            start[pn_offset + j] ^= mask[1 + j]
    if plaintext is not None:
        qlog_sent(self, out, plaintext)
    return 0


cdef void consider_key_update(DataPlane self) noexcept:
    """RFC 9001 §6.1: not before confirmation, nor before a packet of this phase was acknowledged."""
    if not self.confirmed or self.seal_next is None or self.seal_phase != self.open_phase:
        return
    if not self.phase_acked:
        return
    self.update_wanted = False
    advance_seal(self, True)
    self.counters.key_updates += 1
    self.phase_answered = True  # the peer's answer is no update of its own
    self.ping_due = True        # which is to come soon: the next update waits for it


cdef list plane_build_list(DataPlane self, double now):
    """For sans-IO callers: all packets that may be sent now, as bytes."""
    cdef Outbox out
    cdef list packets = []
    cdef unsigned int i
    cdef size_t at
    out.plain = NULL
    outbox_open(&out)
    try:
        if self.marks is not None:
            self.marks.clear()
        while plane_build(self, &out, self.marks is not None, now):
            at = 0
            for i in range(out.count):
                packet = PyBytes_FromStringAndSize(
                    <const char *>out.buffer + at, <Py_ssize_t>out.sizes[i])
                packets.append(packet)
                if self.marks is not None:
                    self.marks[packet] = out.ecn
                at += out.sizes[i]
            if not self.dirty:
                break
    finally:
        free(out.plain)
    return packets


cdef bytes plane_seal_single(DataPlane self, bytes payload, bytes cid, double now, size_t pad_to):
    """One packet that is not retransmitted, nor marked: a close, or with `pad_to` a path probe."""
    cdef Outbox out
    cdef Draft draft
    cdef uint8_t kept_length = self.peer_cid_length
    cdef bytes kept = bytes(self.peer_cid[:self.peer_cid_length])
    cdef bytes packet
    if self.seal_key is None:
        return b""
    if sent_is_full(&self.sent) and (pad_to or self.sent.next - self.sent.first >= self.sent.room):
        return b""
    out.plain, out.count, out.used, out.ecn = NULL, 0, 0, NOT_ECT
    outbox_open(&out)
    try:
        self.set_peer_cid(cid)
        begin_draft(self, &draft, &out, min(pad_to, <size_t>MTU_BASE) if pad_to else MTU_BASE, now)
        if <size_t>len(payload) > room_of(&draft):
            raise ValueError(f"a payload of {len(payload)} bytes does not fit a packet")
        memcpy(draft.at, PyBytes_AS_STRING(payload), <size_t>len(payload))
        draft.at += len(payload)
        draft.pad = pad_to > 0
        finish_draft(self, &draft, &out)
        seal_outbox(self, &out)
        packet = PyBytes_FromStringAndSize(<const char *>out.buffer, <Py_ssize_t>out.used)
    finally:
        free(out.plain)
        self.set_peer_cid(kept)
    return packet
