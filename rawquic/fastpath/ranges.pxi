# A sorted list of disjoint half-open ranges of 64-bit numbers.
#
# Bytes of a stream that were lost, acknowledged or received out of order; packet numbers received.
# The common case, growing the last range, is found at once; others by binary search. It bounds
# nothing: its owner compares `count` before it adds.

from libc.stdlib cimport free, malloc, realloc

cdef struct Range:
    uint64_t start
    uint64_t stop

cdef struct Ranges:
    Range *items  # owned; NULL while nothing was ever added
    uint32_t count
    uint32_t room


cdef void ranges_free(Ranges *self) noexcept nogil:
    free(self.items)
    self.items = NULL
    self.count = self.room = 0


cdef inline uint32_t ranges_find(const Ranges *self, uint64_t start) noexcept nogil:
    """The index of the first range that ends at or behind `start`."""
    cdef uint32_t low = 0, high = self.count, middle
    if high and self.items[high - 1].stop < start:
        return high
    while low < high:
        middle = (low + high) >> 1
        if self.items[middle].stop < start:
            low = middle + 1
        else:
            high = middle
    return low


cdef int ranges_add(Ranges *self, uint64_t start, uint64_t stop) noexcept nogil:
    """Add [start, stop), merging; -1 where there is no memory, and nothing changed."""
    cdef uint32_t i = ranges_find(self, start), j
    cdef uint32_t room = 4
    cdef Range *grown
    if i < self.count and self.items[i].start <= stop:
        # It touches range i, and perhaps some behind it.
        if start < self.items[i].start:
            self.items[i].start = start
        if stop > self.items[i].stop:
            self.items[i].stop = stop
            j = i + 1
            while j < self.count and self.items[j].start <= stop:
                if self.items[j].stop > self.items[i].stop:
                    self.items[i].stop = self.items[j].stop
                j += 1
            if j > i + 1:
                memmove(self.items + i + 1, self.items + j, (self.count - j) * sizeof(Range))
                self.count -= j - i - 1
        return 0
    if self.count == self.room:
        if self.room:
            room = self.room * 2
        grown = <Range *>realloc(self.items, room * sizeof(Range))
        if grown == NULL:
            return -1
        self.items = grown
        self.room = room
    memmove(self.items + i + 1, self.items + i, (self.count - i) * sizeof(Range))
    self.items[i].start = start
    self.items[i].stop = stop
    self.count += 1
    return 0


cdef void ranges_drop_first(Ranges *self, uint32_t count) noexcept nogil:
    memmove(self.items, self.items + count, (self.count - count) * sizeof(Range))
    self.count -= count


cdef void ranges_cut_below(Ranges *self, uint64_t bound) noexcept nogil:
    """Forget everything below `bound`."""
    cdef uint32_t gone = 0
    while gone < self.count and self.items[gone].stop <= bound:
        gone += 1
    if gone:
        ranges_drop_first(self, gone)
    if self.count and self.items[0].start < bound:
        self.items[0].start = bound
