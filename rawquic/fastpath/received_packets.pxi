# Which packets arrived: duplicates are found in a bitmap, acknowledgements written from ranges.
#
# RFC 9000 §12.3, §13.2. A number below the window counts as seen. At most ACK_RANGES ranges are
# kept; the lowest goes first, and what the peer knows that we know goes with it. The window may be
# ahead of the ranges: packets that were dropped half-way are in it alone.

cdef enum:
    WINDOW_BITS = 8192       # packet numbers; a power of two
    WINDOW_WORDS = 128       # WINDOW_BITS / 64
    ACK_RANGES = 64          # kept and sent
    # Type, largest, delay, count, first range; then gap and length per further range.
    ACK_HEAD_SIZE = 1 + 8 + 4 + 2 + 8

cdef struct ReceivedPackets:
    bint any
    uint64_t largest         # in the window
    double largest_at        # when the largest that is acknowledged arrived
    uint64_t unacked         # ack-eliciting packets since our last ACK
    bint urgent              # an ACK is due at once: reordering, CE, or a batch is complete
    double first_unacked_at
    uint64_t ect0, ect1, ce  # RFC 9000 §13.4.1
    uint64_t bits[WINDOW_WORDS]
    Ranges ranges            # of the numbers that are acknowledged


cdef inline bint received_before(const ReceivedPackets *self, uint64_t number) noexcept nogil:
    if not self.any or number > self.largest:
        return False
    if self.largest - number >= WINDOW_BITS:
        return True
    return (self.bits[(number & (WINDOW_BITS - 1)) >> 6] >> (number & 63)) & 1


cdef inline uint64_t received_largest_acked(const ReceivedPackets *self) noexcept nogil:
    """The largest number that an ACK names; there has to be one."""
    return self.ranges.items[self.ranges.count - 1].stop - 1


cdef inline void window_advance(ReceivedPackets *self, uint64_t number) noexcept nogil:
    """Move the window up to a number above it."""
    cdef uint64_t each
    if number - self.largest >= WINDOW_BITS:
        memset(self.bits, 0, sizeof(self.bits))
    else:
        each = self.largest + 1
        while each < number:
            self.bits[(each & (WINDOW_BITS - 1)) >> 6] &= ~(<uint64_t>1 << (each & 63))
            each += 1
    self.largest = number


cdef inline void window_set(ReceivedPackets *self, uint64_t number) noexcept nogil:
    self.bits[(number & (WINDOW_BITS - 1)) >> 6] |= <uint64_t>1 << (number & 63)


cdef void received_drop(ReceivedPackets *self, uint64_t number) noexcept nogil:
    """Note a packet that is not acknowledged, and not to be processed once more."""
    if not self.any:
        self.any = True
        self.largest = number
    elif number > self.largest:
        window_advance(self, number)
    window_set(self, number)


cdef int received_add(
    ReceivedPackets *self, uint64_t number, bint eliciting, double now
) noexcept nogil:
    """Note a packet that was processed; -1 where there is no memory."""
    if not self.any:
        self.any = True
        self.largest, self.largest_at = number, now
    elif number > self.largest:
        if eliciting and number != self.largest + 1:
            self.urgent = True  # RFC 9000 §13.2.1: a gap
        window_advance(self, number)
        self.largest_at = now
    else:
        if eliciting:
            self.urgent = True  # RFC 9000 §13.2.1: out of order
        if self.ranges.count == 0 or number > received_largest_acked(self):
            self.largest_at = now  # what is above it was dropped
    window_set(self, number)
    if ranges_add(&self.ranges, number, number + 1) < 0:
        return -1
    if self.ranges.count > ACK_RANGES:
        ranges_drop_first(&self.ranges, 1)
    if eliciting:
        if self.unacked == 0:
            self.first_unacked_at = now
        self.unacked += 1
    return 0


cdef uint8_t *received_put_ack(
    ReceivedPackets *self, uint8_t *at, size_t room, unsigned int delay_exponent, double now
) noexcept nogil:
    """Write an ACK frame of at most `room` bytes (RFC 9000 §19.3); `at` where none fits."""
    cdef uint32_t i = self.ranges.count, sent, most
    cdef uint64_t delay, low
    cdef bint with_ecn = self.ect0 or self.ect1 or self.ce
    cdef size_t tail = 3 * VARINT_MAX_SIZE if with_ecn else 0
    if i == 0 or room < ACK_HEAD_SIZE + tail:
        return at
    most = 1 + <uint32_t>((room - ACK_HEAD_SIZE - tail) / <size_t>(2 * VARINT_MAX_SIZE))
    sent = i if i < most else most
    delay = <uint64_t>((now - self.largest_at) * 1e6) >> delay_exponent if now > self.largest_at else 0
    if delay > 0x3FFFFFFF:
        delay = 0x3FFFFFFF
    at[0] = 0x03 if with_ecn else 0x02
    i -= 1
    low = self.ranges.items[i].start
    at = put_varint(at + 1, self.ranges.items[i].stop - 1)
    at = put_varint(at, delay)
    at = put_varint(at, sent - 1)
    at = put_varint(at, self.ranges.items[i].stop - 1 - low)
    while sent > 1:
        sent -= 1
        i -= 1
        at = put_varint(at, low - self.ranges.items[i].stop - 1)
        at = put_varint(at, self.ranges.items[i].stop - 1 - self.ranges.items[i].start)
        low = self.ranges.items[i].start
    if with_ecn:
        at = put_varint(at, self.ect0)
        at = put_varint(at, self.ect1)
        at = put_varint(at, self.ce)
    self.unacked = 0
    self.urgent = False
    return at


cdef void received_ack_delivered(ReceivedPackets *self, uint64_t largest) noexcept nogil:
    """The peer has an ACK of ours up to `largest`: nothing up to it need be said again (§13.2.4)."""
    # The newest range stays whole: it is what an ACK is made of.
    if self.ranges.count > 1:
        ranges_cut_below(&self.ranges, min(largest + 1, self.ranges.items[self.ranges.count - 1].start))
