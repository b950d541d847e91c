# DATAGRAM payloads that wait, in or out (RFC 9221): a ring of bytes objects, bounded in bytes.
#
# A full queue drops its oldest and counts it. Each costs DATAGRAM_COST more than its bytes, so that
# empty ones are bounded too.

cdef enum:
    DATAGRAM_COST = 64

cdef struct DatagramQueue:
    PyObject **items      # owned ring of owned references; `room` of them, a power of two
    uint32_t room
    uint32_t head
    uint32_t count
    uint64_t size         # bytes in all, without their cost
    uint64_t bound        # of bytes and cost
    uint64_t dropped


cdef object datagrams_pop(DatagramQueue *self):
    """The oldest. The caller has seen that there is one."""
    cdef PyObject *item = self.items[self.head & (self.room - 1)]
    cdef object data = <object>item
    Py_DECREF(data)
    self.head += 1
    self.count -= 1
    self.size -= <uint64_t>len(<bytes>data)
    if self.count == 0 and self.room > 64:
        free(self.items)
        self.items, self.room = NULL, 0
    return data


cdef inline bytes datagrams_first(DatagramQueue *self):
    return <bytes>self.items[self.head & (self.room - 1)]


cdef int datagrams_add(DatagramQueue *self, bytes data) except -1:
    """Append; drop from the front until the bound holds, but never the new one."""
    cdef uint32_t room = 8, i
    cdef PyObject **ring
    if self.count == self.room:
        if self.room:
            room = self.room * 2
        ring = <PyObject **>malloc(room * sizeof(void *))
        if ring == NULL:
            raise MemoryError()
        for i in range(self.count):
            ring[i] = self.items[(self.head + i) & (self.room - 1)]
        free(self.items)
        self.items, self.room, self.head = ring, room, 0
    Py_INCREF(data)
    self.items[(self.head + self.count) & (self.room - 1)] = <PyObject *>data
    self.count += 1
    self.size += <uint64_t>len(data)
    while self.count > 1 and self.size + DATAGRAM_COST * <uint64_t>self.count > self.bound:
        datagrams_pop(self)
        self.dropped += 1
    return 0


cdef void datagrams_free(DatagramQueue *self) noexcept:
    while self.count:
        datagrams_pop(self)
    free(self.items)
    self.items, self.room = NULL, 0
