# Packets in (RFC 9001 §5): a GRO buffer of one connection's segments at a time.
#
# Header protection of all segments comes off with one call, each run of one key phase is opened
# with one call, in place in the arena or, of a bulk transfer, to where its data belongs (placing);
# then frames, in order. What does not authenticate changes nothing but counters.

cdef enum:
    SEGMENTS_MOST = 64        # of one pass; a GRO buffer has no more
    PN_OFFSET = 9             # behind the first byte and our connection ID
    PACKET_LEAST = 9 + 4 + 16  # with a whole sample for header protection (RFC 9001 §5.4.2)

cdef struct Segment:
    # A packet whose header protection is off.
    uint8_t *start
    size_t length
    size_t header_length
    uint64_t number
    unsigned int phase


cdef uint64_t decode_number(uint64_t truncated, unsigned int size, uint64_t expected) noexcept nogil:
    """The full packet number (RFC 9000 §A.3)."""
    cdef uint64_t window = <uint64_t>1 << (8 * size), half = window >> 1
    cdef uint64_t candidate = (expected & ~(window - 1)) | truncated
    if candidate + half <= expected and candidate < (<uint64_t>1 << 62) - window:
        return candidate + window
    if candidate > expected + half and candidate >= window:
        return candidate - window
    return candidate


cdef int plane_receive(
    DataPlane self, uint8_t *data, size_t length, size_t segment_size, int ecn, double now
) except -1:
    """Take the packets that lie in data[:length], each `segment_size` long but the last."""
    cdef Segment segments[SEGMENTS_MOST]
    cdef uint8_t masks[SEGMENTS_MOST * 16]
    cdef unsigned int count
    cdef size_t at = 0, size
    while at < length and not self.closing:
        count = 0
        while at < length and count < SEGMENTS_MOST:
            size = min(segment_size, length - at)
            self.counters.datagrams_received += 1
            self.counters.bytes_received += size
            if size >= PACKET_LEAST and data[at] & 0xC0 == 0x40:  # RFC 9000 §17.3.1
                segments[count].start = data + at
                segments[count].length = size
                memcpy(masks + 16 * count, data + at + PN_OFFSET + 4, 16)
                count += 1
            at += size
        if self.open_key is None or count == 0:
            continue
        if not self.open_key.hp_masks(masks, masks, <Py_ssize_t>count):
            continue
        count = unprotect(self, segments, masks, count)
        open_segments(self, segments, count, ecn, now)
    return 0


cdef unsigned int unprotect(
    DataPlane self, Segment *segments, const uint8_t *masks, unsigned int count
) noexcept:
    """Take header protection off and read packet number and key phase (RFC 9001 §5.4.1).

    How many remain, in front: packets that came before are dropped.
    """
    cdef unsigned int i, j, size, kept = 0
    cdef uint64_t truncated
    cdef uint64_t expected = self.received.largest + 1 if self.received.any else 0
    cdef uint8_t *start
    cdef const uint8_t *mask
    for i in range(count):
        start = segments[i].start
        mask = masks + 16 * i
        start[0] ^= mask[0] & 0x1F
        size = (start[0] & 3) + 1
        truncated = 0
        for j in range(size):
            start[PN_OFFSET + j] ^= mask[1 + j]
            truncated = truncated << 8 | start[PN_OFFSET + j]
        segments[kept].start, segments[kept].length = start, segments[i].length
        segments[kept].header_length = PN_OFFSET + size
        segments[kept].number = decode_number(truncated, size, expected)
        segments[kept].phase = (start[0] >> 2) & 1
        if not received_before(&self.received, segments[kept].number):
            kept += 1
    return kept


cdef PacketKey key_for(DataPlane self, const Segment *segment, double now):
    """RFC 9001 §6.3: by phase and number; the next keys are there before anybody asks."""
    if segment.phase == self.open_phase:
        return self.open_key
    if self.open_previous is not None and segment.number < self.open_first:
        if now < self.previous_until:
            return self.open_previous
        self.open_previous.discard()
        self.open_previous = None
    return self.open_next


cdef int open_segments(
    DataPlane self, Segment *segments, unsigned int count, int ecn, double now
) except -1:
    """Each run of packets under one key is opened with one call; the keys may change with it."""
    cdef OpenJob jobs[SEGMENTS_MOST]
    cdef unsigned int first = 0, lead, n
    cdef bint placed
    cdef Segment *run
    cdef PacketKey key
    while first < count and not self.closing:
        run = segments + first
        key = key_for(self, run, now)
        n = 0
        while first + n < count and (
            run[n].phase == self.open_phase if key is self.open_key
            else key_for(self, &run[n], now) is key
        ):
            jobs[n].packet = run[n].start
            jobs[n].header_length = run[n].header_length
            jobs[n].length = run[n].length
            jobs[n].packet_number = run[n].number
            jobs[n].into, jobs[n].head_length = NULL, 0
            n += 1
        first += n
        if key is None:
            continue
        lead, placed = 0, False
        if n > 1 and key is self.open_key and placing_pays(self):
            # The first says where the others belong: it is the one that may have an ACK besides.
            lead = 1
            open_run(self, run, jobs, lead, False, key, ecn, now)
            if self.closing:
                break
            placed = placing_pays(self) and place_run(self, jobs + lead, n - lead)
        open_run(self, run + lead, jobs + lead, n - lead, placed, key, ecn, now)
    return 0


cdef int open_run(
    DataPlane self, Segment *segments, OpenJob *jobs, unsigned int count, bint placed,
    PacketKey key, int ecn, double now,
) except -1:
    cdef StreamFrame frame
    cdef unsigned int i
    if count == 1:
        key.open_packets(jobs, 1)  # sooner done than the GIL is given away and taken again
    else:
        with nogil:
            key.open_packets(jobs, <Py_ssize_t>count)
    for i in range(count):
        if not jobs[i].opened:
            self.counters.failed_opens += 1
            if self.qlog is not None:
                qlog_dropped(self, &jobs[i])
            if self.counters.failed_opens > self.integrity_limit:
                plane_fail(self, AEAD_LIMIT_REACHED, 0, b"too many packets that do not open")
            continue
        if key is self.open_next and not next_phase(self, segments[i].number, now):
            return 0
        if segments[i].phase == self.open_phase and segments[i].number < self.open_first:
            self.open_first = segments[i].number
        if placed and not placed_right(self, &jobs[i], &frame):
            placed = False
            move_back(jobs + i, count - i)
            placing_learn(&self.placing, i, count)
        take_packet(self, &segments[i], &frame if jobs[i].into != NULL else NULL, ecn, now)
        if self.closing:
            return 0
    if placed:
        placing_learn(&self.placing, count, count)
    return 0


cdef bint next_phase(DataPlane self, uint64_t number, double now) except *:
    """The first packet under the next keys opened: they are the current ones now (§6.2)."""
    if not self.phase_answered and self.phase_changed:
        plane_fail(self, KEY_UPDATE_ERROR, 0, b"a key update before the last one was confirmed")
        return False
    if self.open_previous is not None:
        self.open_previous.discard()
    self.open_previous, self.open_key, self.open_next = self.open_key, self.open_next, None
    self.previous_until = now + 3 * rtt_pto(&self.rtt)
    self.open_phase ^= 1
    self.open_first = number
    self.phase_answered = False
    if self.qlog is not None:
        qlog_key_updated(self, False, self.seal_phase == self.open_phase)
    if self.seal_phase != self.open_phase:
        advance_seal(self, False)
        self.counters.peer_key_updates += 1
    self.phase_changed = True
    self.control.next_keys()
    return True


cdef void advance_seal(DataPlane self, bint local) noexcept:
    """Seal with the next keys from here on."""
    self.seal_key, self.seal_next = self.seal_next, None
    self.seal_phase ^= 1
    self.seal_first = self.sent.next
    self.phase_acked = False
    if self.qlog is not None:
        qlog_key_updated(self, True, local)


cdef int take_packet(
    DataPlane self, Segment *segment, const StreamFrame *placed, int ecn, double now
) except -1:
    """The frames of one authentic packet, and its acknowledgement.

    `placed`: the one frame that is in it, whose data is where it belongs; NULL: see the segment.
    """
    cdef Cursor cursor
    cdef PacketFacts facts
    cdef FrameResult result
    if received_before(&self.received, segment.number):
        return 0
    if segment.start[0] & 0x18:  # RFC 9000 §17.3.1
        plane_fail(self, PROTOCOL_VIOLATION, 0, b"reserved bits are set")
        return 0
    memset(&facts, 0, sizeof(PacketFacts))
    cursor.at = segment.start + segment.header_length
    cursor.left = segment.length - segment.header_length - AEAD_TAG_LENGTH
    if memcmp(segment.start + 1, self.host_cid, HOST_CID_LENGTH) != 0:
        memcpy(self.host_cid, segment.start + 1, HOST_CID_LENGTH)
        self.control.host_cid_changed(bytes(self.host_cid[:HOST_CID_LENGTH]), segment.number)
    if self.qlog is not None:
        qlog_received(self, segment)
    if placed != NULL:
        facts.eliciting = True
        self.counters.placed += 1
        result = stream_data(self, stream_find(&self.streams, placed.stream_id), placed, now)
    else:
        result = plane_frames(self, &cursor, &facts, now)
    if result != FRAME_OK:
        # RFC 9000 §12.3: what its frames did must not be done again. The peer sends anew what is
        # not acknowledged, under another number.
        received_drop(&self.received, segment.number)
        return 0
    if received_add(&self.received, segment.number, facts.eliciting, now) < 0:
        return 0  # no memory: it is not acknowledged, and comes again
    if ecn == ECT_1:
        self.received.ect1 += 1
    elif ecn == ECT_0:
        self.received.ect0 += 1
    elif ecn == CE:
        self.received.ce += 1
        self.received.urgent = self.received.urgent or facts.eliciting
    self.counters.packets_received += 1
    self.last_number = segment.number
    self.last_was_probing = facts.probing
    self.last_received_at = self.idle_from = now
    self.eliciting_sent_since = False
    return 0
