# The sending half of a stream: what the application wrote, until it is acknowledged.
#
# Written `bytes` are held by reference and read in place when packets are built. What was lost is
# sent again before what is new. RFC 9000 §3.1 in two groups of flags: what the application asked
# for, and what the peer has confirmed.

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

cdef struct Piece:
    PyObject *data        # owned reference to bytes
    const uint8_t *start  # its bytes
    uint64_t offset       # of its first byte in the stream
    uint64_t size

cdef struct SendHalf:
    Piece *pieces         # owned ring, `room` of them (a power of two)
    uint32_t room
    uint32_t head         # index of the oldest piece; indices only grow
    uint32_t tail         # behind the newest
    uint32_t current      # the piece that `next` is in, or `tail`
    uint64_t written      # offset behind the last byte taken from the application
    uint64_t next         # offset of the first byte that was never sent
    uint64_t acked        # all bytes below are acknowledged
    uint64_t credit       # the peer's MAX_STREAM_DATA
    Ranges acked_ahead    # acknowledged above `acked`
    Ranges lost           # to be sent again
    uint64_t reset_code
    uint64_t stop_code
    bint exists           # False: a stream that only the peer sends on
    bint fin_written, fin_sent, fin_acked, fin_lost
    bint reset, reset_due, reset_acked
    bint stopped          # STOP_SENDING came
    bint ended            # everything acknowledged: SEND_ENDED was reported


cdef int pieces_add(SendHalf *self, object data, const uint8_t *start, uint64_t size) except -1:
    """Hold `size` bytes from `start`, inside the bytes object `data`."""
    cdef uint32_t room = 4, i
    cdef Piece *ring
    cdef Piece *piece
    if self.tail - self.head == self.room:
        if self.room:
            room = self.room * 2
        ring = <Piece *>malloc(room * sizeof(Piece))
        if ring == NULL:
            raise MemoryError()
        for i in range(self.head, self.tail):
            ring[i & (room - 1)] = self.pieces[i & (self.room - 1)]
        free(self.pieces)
        self.pieces, self.room = ring, room
    piece = &self.pieces[self.tail & (self.room - 1)]
    Py_INCREF(data)
    piece.data = <PyObject *>data
    piece.start = start
    piece.offset = self.written
    piece.size = size
    self.tail += 1
    self.written += size
    return 0


cdef uint64_t send_half_buffered(const SendHalf *self) noexcept:
    """Bytes held: from the first that is not acknowledged, whole pieces being given back."""
    return 0 if self.reset else self.written - self.acked


cdef void pieces_release(SendHalf *self, uint64_t below) noexcept:
    """Give back the pieces that end at or before `below`."""
    cdef Piece *piece
    while self.head != self.tail:
        piece = &self.pieces[self.head & (self.room - 1)]
        if piece.offset + piece.size > below:
            break
        self.head += 1
        if <int32_t>(self.current - self.head) < 0:
            self.current = self.head
        Py_DECREF(<object>piece.data)
    if self.head == self.tail and self.room > 64:
        free(self.pieces)
        self.pieces, self.room = NULL, 0


cdef void send_half_free(SendHalf *self) noexcept:
    pieces_release(self, self.written)
    free(self.pieces)
    self.pieces, self.room = NULL, 0
    ranges_free(&self.acked_ahead)
    ranges_free(&self.lost)


cdef inline bint send_half_has_data(const SendHalf *self) noexcept nogil:
    """True when a STREAM frame could be sent now, connection credit aside."""
    if self.reset:
        return False
    if self.lost.count or self.fin_lost:
        return True
    if self.next < self.written:
        return self.next < self.credit
    return self.fin_written and not self.fin_sent


cdef const uint8_t *send_half_bytes(
    SendHalf *self, uint64_t offset, uint64_t size, uint8_t *scratch, bint *copied
) noexcept nogil:
    """Where bytes [offset, offset + size) are; copied to `scratch` when in several pieces."""
    cdef uint32_t i = self.current, low, high
    cdef Piece *piece
    cdef uint64_t at, part
    if i == self.tail or offset < self.pieces[i & (self.room - 1)].offset:
        # Sent again: which of perhaps a million small pieces, the peer decides.
        low = 0
        high = self.tail - self.head - 1
        while low < high:
            i = (low + high) >> 1
            piece = &self.pieces[(self.head + i) & (self.room - 1)]
            if offset >= piece.offset + piece.size:
                low = i + 1
            else:
                high = i
        i = self.head + low
    piece = &self.pieces[i & (self.room - 1)]
    while offset >= piece.offset + piece.size:
        i += 1
        piece = &self.pieces[i & (self.room - 1)]
    if offset == self.next:
        self.current = i
    at = offset - piece.offset
    copied[0] = at + size > piece.size
    if not copied[0]:
        return piece.start + at
    while size:
        part = min(piece.size - at, size)
        memcpy(scratch, piece.start + at, part)
        scratch += part
        size -= part
        at = 0
        i += 1
        piece = &self.pieces[i & (self.room - 1)]
    return NULL


cdef uint64_t send_half_acked(SendHalf *self, uint64_t start, uint64_t stop) noexcept:
    """Bytes [start, stop) are acknowledged; how many bytes of buffer that gives back."""
    cdef uint64_t before = self.acked
    if self.reset or stop <= self.acked:
        return 0
    if start <= self.acked and self.acked_ahead.count == 0:
        self.acked = stop
    else:
        if ranges_add(&self.acked_ahead, max(start, self.acked), stop) < 0:
            return 0  # no memory: it stays unacknowledged, and is sent again
        if self.acked_ahead.items[0].start <= self.acked:
            self.acked = max(self.acked, self.acked_ahead.items[0].stop)
            ranges_drop_first(&self.acked_ahead, 1)
    if self.lost.count:
        ranges_cut_below(&self.lost, self.acked)
    pieces_release(self, self.acked)
    return self.acked - before


cdef void send_half_lost(SendHalf *self, uint64_t start, uint64_t stop, bint fin) noexcept nogil:
    """Send [start, stop) again, but for what was acknowledged meanwhile."""
    cdef uint32_t i
    cdef Range *acked
    if self.reset:
        return
    if fin and not self.fin_acked:
        self.fin_lost = True
    start = max(start, self.acked)
    i = ranges_find(&self.acked_ahead, start)
    while start < stop:
        while i < self.acked_ahead.count and self.acked_ahead.items[i].stop <= start:
            i += 1
        if i == self.acked_ahead.count or self.acked_ahead.items[i].start >= stop:
            ranges_add(&self.lost, start, stop)
            return
        acked = &self.acked_ahead.items[i]
        if acked.start > start:
            ranges_add(&self.lost, start, acked.start)
        start = acked.stop
