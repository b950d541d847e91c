# The receiving half of a stream: reassembly into chunks that the reader gets without another copy.
#
# A stream's bytes lie in chunks whose bounds follow from the offset alone: small ones first, so
# that a short stream costs little, then 64 KiB each. Bytes are copied once, from the packet into
# the chunk; a chunk that is full and unread is handed out whole. In order, nothing is searched.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

cdef extern from *:
    """
    /* True, and no hash kept, when the caller has the only reference: nobody can see it change. */
    static inline int rawquic_bytes_reuse(PyObject *chunk) {
        if (Py_REFCNT(chunk) != 1) return 0;
    #pragma GCC diagnostic push
    #pragma GCC diagnostic ignored "-Wdeprecated-declarations"
        ((PyBytesObject *)chunk)->ob_shash = -1;
    #pragma GCC diagnostic pop
        return 1;
    }
    """
    bint bytes_reuse "rawquic_bytes_reuse"(PyObject *chunk) noexcept

cdef enum:
    CHUNK_BITS = 16
    CHUNK_SIZE = 65536
    POOL_ROOM = 32        # large chunks, of the whole process: two batches; a power of two
    RANGES_LEAST = 1024   # disjoint ranges per stream, more with windows above 1 MiB
    WINDOW_LEAST = 1024

cdef struct ReceiveHalf:
    PyObject **chunks     # owned ring of owned references to bytes, or NULL; `room` of them
    uint32_t room         # a power of two
    uint64_t base         # index of the first chunk that may be there
    uint64_t top          # behind the last one
    uint64_t next         # all bytes below have arrived
    uint64_t consumed     # all bytes below are read, or given up
    uint64_t highest      # the largest offset seen
    uint64_t final_size
    uint64_t credit       # MAX_STREAM_DATA as we sent it last
    Ranges ahead          # arrived above `next`
    uint64_t reset_code
    bint exists           # False: a stream that only this end sends on
    bint size_known       # FIN or RESET_STREAM came
    bint reset
    bint stopped          # STOP_SENDING is wanted or was sent: what comes is dropped
    bint stop_due
    bint credit_due       # MAX_STREAM_DATA is to be sent
    uint64_t stop_code
    bint waiting          # a reader found nothing, or never looked: tell it
    bint announced        # an empty STREAM frame came; more of them say nothing new
    bint released         # the application has seen the end, or does not want it

# Bounds on what one STREAM frame may do; what receive_half_put says.
cdef enum Placement:
    PLACED
    TOO_MANY_RANGES
    NO_MEMORY


cdef inline uint64_t chunk_index(uint64_t offset) noexcept nogil:
    if offset < 4096:
        return 0
    if offset < 16384:
        return 1
    return 2 + (offset >> CHUNK_BITS)


cdef inline uint64_t chunk_start(uint64_t index) noexcept nogil:
    if index == 0:
        return 0
    if index == 1:
        return 4096
    return 16384 if index == 2 else (index - 2) << CHUNK_BITS


cdef inline uint64_t chunk_length(uint64_t index) noexcept nogil:
    return chunk_start(index + 1) - chunk_start(index)


cdef int chunks_grow(ReceiveHalf *self, uint64_t index) noexcept:
    """Make the ring large enough for chunk `index`; -1 where there is no memory."""
    cdef uint32_t room = self.room if self.room else 4
    cdef PyObject **ring
    cdef uint64_t i
    while index - self.base >= room:
        room *= 2
    ring = <PyObject **>malloc(room * sizeof(void *))
    if ring == NULL:
        return -1
    memset(ring, 0, room * sizeof(void *))
    if self.room:
        for i in range(self.base, self.top):
            ring[i & (room - 1)] = self.chunks[i & (self.room - 1)]
    free(self.chunks)
    self.chunks, self.room = ring, room
    return 0


cdef uint8_t *chunk_at(ReceiveHalf *self, uint64_t index) noexcept:
    """The bytes of chunk `index`, made when it is not there; NULL where there is no memory."""
    cdef PyObject **slot
    if (self.room == 0 or index - self.base >= self.room) and chunks_grow(self, index) < 0:
        return NULL
    slot = &self.chunks[index & (self.room - 1)]
    if slot[0] == NULL:
        slot[0] = new_bytes(chunk_length(index))
        if slot[0] == NULL:
            return NULL
        if index >= self.top:
            self.top = index + 1
    return <uint8_t *>PyBytes_AS_STRING(<object>slot[0])


# Large chunks that were handed out, or read in pieces: as soon as the reader has dropped one, it is
# used again. From malloc() each would be pages that the system has to find and clear anew.
cdef PyObject *pool[POOL_ROOM]  # owned references, or NULL
cdef unsigned int pool_next = 0


cdef void pool_put(PyObject *chunk) noexcept:
    """Take over a reference to a large chunk; the one that was put longest ago goes."""
    global pool_next
    cdef PyObject **slot = &pool[pool_next]
    cdef PyObject *before = slot[0]
    pool_next = (pool_next + 1) & (POOL_ROOM - 1)
    slot[0] = chunk
    if before != NULL:
        Py_DECREF(<object>before)


cdef PyObject *pool_take() noexcept:
    """The only reference to a large chunk, or NULL."""
    cdef PyObject **slot
    cdef PyObject *chunk
    cdef unsigned int i
    for i in range(<unsigned int>POOL_ROOM):
        slot = &pool[(pool_next + i) & (POOL_ROOM - 1)]
        chunk = slot[0]
        if chunk != NULL and bytes_reuse(chunk):
            slot[0] = NULL
            return chunk
    return NULL


cdef PyObject *new_bytes(uint64_t size) noexcept:
    """A bytes object with an owned reference; NULL, and no exception set, without memory."""
    cdef object made
    cdef PyObject *pooled
    if size == CHUNK_SIZE:
        pooled = pool_take()
        if pooled != NULL:
            return pooled
    try:
        made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    except MemoryError:
        return NULL
    Py_INCREF(made)
    return <PyObject *>made


cdef int chunks_write(
    ReceiveHalf *self, uint64_t offset, const uint8_t *data, uint64_t size
) noexcept:
    cdef uint64_t index, at, part
    cdef uint8_t *chunk
    while size:
        index = chunk_index(offset)
        at = offset - chunk_start(index)
        part = min(chunk_length(index) - at, size)
        chunk = chunk_at(self, index)
        if chunk == NULL:
            return -1
        if chunk + at != data:  # it was opened to there
            memcpy(chunk + at, data, part)
        offset += part
        data += part
        size -= part
    return 0


cdef Placement receive_half_put(
    ReceiveHalf *self, uint64_t offset, const uint8_t *data, uint64_t size, uint64_t window
) noexcept:
    """Take the bytes of a STREAM frame; flow control and final size were checked before."""
    cdef uint64_t skip
    if offset + size <= self.next:
        return PLACED  # seen before
    if offset < self.next:
        skip = self.next - offset
        offset += skip
        data += skip
        size -= skip
    if offset == self.next and self.ahead.count == 0:
        if chunks_write(self, offset, data, size) < 0:
            return NO_MEMORY
        self.next += size
        return PLACED
    if offset > self.next and self.ahead.count >= max(<uint64_t>RANGES_LEAST, window >> 10):
        return TOO_MANY_RANGES
    if chunks_write(self, offset, data, size) < 0:
        return NO_MEMORY
    if ranges_add(&self.ahead, offset, offset + size) < 0:
        return NO_MEMORY
    if self.ahead.items[0].start <= self.next:
        self.next = max(self.next, self.ahead.items[0].stop)
        ranges_drop_first(&self.ahead, 1)
    return PLACED


cdef void chunks_release(ReceiveHalf *self, uint64_t below) noexcept:
    """Give back the chunks that end at or before offset `below`."""
    cdef PyObject **slot
    while self.base < self.top and chunk_start(self.base + 1) <= below:
        slot = &self.chunks[self.base & (self.room - 1)]
        if slot[0] != NULL:
            if chunk_length(self.base) == CHUNK_SIZE:
                pool_put(slot[0])
            else:
                Py_DECREF(<object>slot[0])
            slot[0] = NULL
        self.base += 1
    if self.base < chunk_index(below):
        self.base = self.top = chunk_index(below)


cdef bytes receive_half_read(ReceiveHalf *self, uint64_t most):
    """The next bytes, at most `most` and never across a chunk; None when there are none."""
    cdef uint64_t index, at, stop, size
    cdef PyObject **slot
    cdef bytes data
    if self.consumed == self.next:
        return None
    index = chunk_index(self.consumed)
    at = self.consumed - chunk_start(index)
    stop = min(self.next - chunk_start(index), chunk_length(index))
    size = min(stop - at, most)
    slot = &self.chunks[index & (self.room - 1)]
    if at == 0 and size == chunk_length(index):
        data = <bytes>slot[0]
    else:
        data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(<object>slot[0]) + at, <Py_ssize_t>size)
    self.consumed += size
    chunks_release(self, self.consumed)
    return data


cdef uint64_t receive_half_discard(ReceiveHalf *self) noexcept:
    """Give up all that came and, once the final size is known, all that will; the credit of it."""
    cdef uint64_t returned = self.highest - self.consumed
    self.consumed = self.highest
    self.next = max(self.next, self.highest)
    ranges_free(&self.ahead)
    chunks_release_all(self)
    return returned


cdef void chunks_release_all(ReceiveHalf *self) noexcept:
    cdef uint64_t i
    cdef PyObject **slot
    if self.room:
        for i in range(self.base, self.top):
            slot = &self.chunks[i & (self.room - 1)]
            if slot[0] != NULL:
                Py_DECREF(<object>slot[0])
                slot[0] = NULL
    self.base = self.top = chunk_index(self.consumed)


cdef void receive_half_free(ReceiveHalf *self) noexcept:
    chunks_release_all(self)
    free(self.chunks)
    self.chunks, self.room = NULL, 0
    ranges_free(&self.ahead)
