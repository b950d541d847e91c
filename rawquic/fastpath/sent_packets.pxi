# What was sent and is not settled yet: a ring indexed by packet number.
#
# Each packet carries at most one STREAM frame inline, which is all that a bulk packet has; what
# else it carries hangs on it as a list of records. The ring keeps no sizes or windows: congestion
# and recovery do.

cdef enum PacketState:
    SETTLED      # acknowledged, or nothing in it needs to be (an ACK alone, a number left out)
    IN_FLIGHT    # ack-eliciting, counts as bytes in flight
    LOST         # declared lost; kept a while, since its ACK may still come

cdef enum RecordKind:
    NO_RECORD
    STREAM_RECORD         # stream, offset, length, fin
    ACK_RECORD            # offset: the largest number that it acknowledged
    CONTROL_RECORD        # token: of the control plane's frame
    PING_RECORD           # offset: the application's number
    MAX_DATA_RECORD
    MAX_STREAM_DATA_RECORD
    MAX_STREAMS_RECORD    # stream: 1 unidirectional, 0 bidirectional
    BLOCKED_RECORD        # STREAMS_BLOCKED; stream: as above
    RESET_RECORD
    STOP_RECORD

cdef struct Record:
    Record *next
    RecordKind kind
    bint fin
    uint32_t length
    uint64_t stream_id
    uint64_t offset
    void *token           # owned reference to a Python object, or NULL

cdef struct SentPacket:
    double sent_at
    PacketState state
    uint16_t size
    bint is_probe         # of the path MTU: its loss is no sign of congestion
    bint window_used      # the congestion window was what ended that flight
    bint marked           # sent as ECT(0)
    Record frame          # inline: the STREAM frame, or NO_RECORD
    Record *others        # owned list

cdef struct SentPackets:
    SentPacket *ring      # owned; `room` of them, a power of two; NULL before the first packet
    uint64_t room
    uint64_t first        # no packet below it is IN_FLIGHT or LOST
    uint64_t next         # the number of the next packet
    uint64_t most         # outstanding at once, since nothing was
    Record *spare         # owned: records to use again
    unsigned int spares

cdef enum:
    RING_FIRST = 64
    RING_MOST = 65536
    RING_SPARE = 1       # slots that only a close takes: it can always be sent
    SPARE_RECORDS = 64


cdef inline SentPacket *sent_at(SentPackets *self, uint64_t number) noexcept nogil:
    return &self.ring[number & (self.room - 1)]


cdef int sent_grow(SentPackets *self) noexcept nogil:
    """Make room for one more; -1: the ring is as large as it gets, or there is no memory."""
    cdef uint64_t room = self.room * 2 if self.room else RING_FIRST, number
    cdef SentPacket *ring
    if room > RING_MOST:
        return -1
    ring = <SentPacket *>malloc(room * sizeof(SentPacket))
    if ring == NULL:
        return -1
    number = self.first
    while number < self.next:
        ring[number & (room - 1)] = self.ring[number & (self.room - 1)]
        number += 1
    free(self.ring)
    self.ring, self.room = ring, room
    return 0


cdef inline void sent_advance(SentPackets *self) noexcept nogil:
    """Move `first` up to what still matters."""
    cdef SentPacket *packet
    while self.first < self.next:
        packet = sent_at(self, self.first)
        if packet.state == IN_FLIGHT or packet.state == LOST:
            return
        self.first += 1


cdef inline bint sent_is_full(SentPackets *self) noexcept nogil:
    if self.next - self.first + RING_SPARE < self.room:
        return False
    sent_advance(self)  # ACKs alone are never acknowledged: they make room for each other
    return self.next - self.first + RING_SPARE >= self.room and sent_grow(self) < 0


cdef SentPacket *sent_begin(SentPackets *self, double now) noexcept nogil:
    """Take the next number. The caller has seen that the ring is not full."""
    cdef SentPacket *packet = sent_at(self, self.next)
    memset(packet, 0, sizeof(SentPacket))
    packet.sent_at = now
    self.next += 1
    return packet


cdef Record *record_add(SentPackets *self, SentPacket *packet, RecordKind kind) noexcept nogil:
    """Hang a record on `packet`; NULL where there is no memory."""
    cdef Record *record = self.spare
    if record != NULL:
        self.spare = record.next
        self.spares -= 1
    else:
        record = <Record *>malloc(sizeof(Record))
        if record == NULL:
            return NULL
    memset(record, 0, sizeof(Record))
    record.kind = kind
    record.next = packet.others
    packet.others = record
    return record


cdef void record_free(SentPackets *self, Record *record) noexcept nogil:
    """Give a record back; its token has been taken off before."""
    if self.spares < SPARE_RECORDS:
        record.next = self.spare
        self.spare = record
        self.spares += 1
    else:
        free(record)


cdef void records_drop(SentPackets *self, SentPacket *packet) noexcept:
    """Forget what a packet carried, and let go of the tokens."""
    cdef Record *record
    while packet.others != NULL:
        record = packet.others
        packet.others = record.next
        if record.token != NULL:
            Py_DECREF(<object>record.token)
        record_free(self, record)


cdef void sent_give_back(SentPackets *self) noexcept nogil:
    """With nothing outstanding, a ring goes back to the system that was much too large of late."""
    if self.first == self.next:
        if self.room > RING_FIRST and self.most < self.room / 8:
            free(self.ring)
            self.ring, self.room = NULL, 0
        self.most = 0


cdef void sent_free(SentPackets *self) noexcept:
    """Let go of everything but the numbers: the next one stays the next one."""
    cdef Record *record
    while self.first < self.next:
        if self.ring != NULL:
            records_drop(self, sent_at(self, self.first))
        self.first += 1
    free(self.ring)
    self.ring, self.room = NULL, 0
    while self.spare != NULL:
        record = self.spare
        self.spare = record.next
        free(record)
    self.spares = 0
