# The streams of a connection: found by ID in a hash table, served from a queue by priority.
#
# The cost of a packet does not depend on how many streams are open or wait: nothing here walks them
# all, but for `stream_table_free`.

cdef struct Stream:
    uint64_t id
    Stream *bucket_next
    Stream *queue_next      # in SendQueue
    Stream *queue_previous
    Stream *last_of_equals  # of the first of its priority there
    Stream *due_next        # in the list of streams with a control frame due
    bint queued
    bint due
    bint write_blocked      # a write was short: tell the application of room
    int priority
    SendHalf send
    ReceiveHalf receive

cdef struct StreamTable:
    Stream **buckets        # owned; `room` of them, a power of two
    uint64_t room
    uint64_t count
    uint64_t salt           # unknown to the peer, which chooses which of its IDs stay open
    Stream *latest          # found last: the next one nearly always

cdef struct SendQueue:
    Stream *head


cdef inline uint64_t bucket_of(const StreamTable *self, uint64_t stream_id) noexcept nogil:
    # Two rounds: with one, IDs that collide under one salt collide under most.
    cdef uint64_t mixed = (stream_id ^ self.salt) * <uint64_t>0x9E3779B97F4A7C15
    mixed = (mixed ^ mixed >> 32) * <uint64_t>0xD6E8FEB86659FD93
    return (mixed >> 32) & (self.room - 1)


cdef Stream *stream_find(StreamTable *self, uint64_t stream_id) noexcept nogil:
    cdef Stream *stream = self.latest
    if stream != NULL and stream.id == stream_id:
        return stream
    if self.room == 0:
        return NULL
    stream = self.buckets[bucket_of(self, stream_id)]
    while stream != NULL and stream.id != stream_id:
        stream = stream.bucket_next
    if stream != NULL:
        self.latest = stream
    return stream


cdef int stream_table_grow(StreamTable *self) noexcept nogil:
    cdef uint64_t room = self.room * 2 if self.room else 8, i, old = self.room
    cdef Stream **buckets = <Stream **>malloc(room * sizeof(void *))
    cdef Stream **before = self.buckets
    cdef Stream *stream
    cdef Stream *following
    if buckets == NULL:
        return -1
    memset(buckets, 0, room * sizeof(void *))
    if old == 0:
        self.salt = random_below(<uint64_t>-1)
    self.buckets, self.room = buckets, room
    for i in range(old):
        stream = before[i]
        while stream != NULL:
            following = stream.bucket_next
            stream.bucket_next = buckets[bucket_of(self, stream.id)]
            buckets[bucket_of(self, stream.id)] = stream
            stream = following
    free(before)
    return 0


cdef Stream *stream_add(StreamTable *self, uint64_t stream_id) noexcept nogil:
    """A new zeroed stream; NULL where there is no memory."""
    cdef Stream *stream
    if self.count >= self.room and stream_table_grow(self) < 0:
        return NULL
    stream = <Stream *>malloc(sizeof(Stream))
    if stream == NULL:
        return NULL
    memset(stream, 0, sizeof(Stream))
    stream.id = stream_id
    stream.bucket_next = self.buckets[bucket_of(self, stream_id)]
    self.buckets[bucket_of(self, stream_id)] = stream
    self.count += 1
    self.latest = stream
    return stream


cdef void stream_free(Stream *self) noexcept:
    send_half_free(&self.send)
    receive_half_free(&self.receive)
    free(self)


cdef void stream_remove(StreamTable *self, Stream *stream) noexcept:
    """Take it out and free it; it is in no queue any more."""
    cdef Stream **link = &self.buckets[bucket_of(self, stream.id)]
    while link[0] != stream:
        link = &link[0].bucket_next
    link[0] = stream.bucket_next
    if self.latest == stream:
        self.latest = NULL
    self.count -= 1
    stream_free(stream)


cdef void stream_table_free(StreamTable *self) noexcept:
    cdef uint64_t i
    cdef Stream *stream
    cdef Stream *following
    for i in range(self.room):
        stream = self.buckets[i]
        while stream != NULL:
            following = stream.bucket_next
            stream_free(stream)
            stream = following
    free(self.buckets)
    memset(self, 0, sizeof(StreamTable))


# A queue's streams in order, and the first of each priority knows the last: what is done for one
# stream walks the priorities above it, not the streams.


cdef inline Stream *queue_first(const SendQueue *self, int priority, Stream **above) noexcept nogil:
    """The first of that priority, or NULL; `above`: whom it follows, or would."""
    cdef Stream *first = self.head
    above[0] = NULL
    while first != NULL and first.priority > priority:
        above[0] = first.last_of_equals
        first = above[0].queue_next
    return first if first != NULL and first.priority == priority else NULL


cdef void queue_remove(SendQueue *self, Stream *stream) noexcept nogil:
    cdef Stream *above
    cdef Stream *first
    if not stream.queued:
        return
    first = queue_first(self, stream.priority, &above)
    if first == stream:
        if stream.last_of_equals != stream:
            stream.queue_next.last_of_equals = stream.last_of_equals
    elif first.last_of_equals == stream:
        first.last_of_equals = stream.queue_previous
    if stream.queue_previous != NULL:
        stream.queue_previous.queue_next = stream.queue_next
    else:
        self.head = stream.queue_next
    if stream.queue_next != NULL:
        stream.queue_next.queue_previous = stream.queue_previous
    stream.queue_next = stream.queue_previous = NULL
    stream.queued = False


cdef void queue_add(SendQueue *self, Stream *stream) noexcept nogil:
    """Behind the last one of at least its priority: equals take turns."""
    cdef Stream *before
    cdef Stream *first
    if stream.queued:
        return
    first = queue_first(self, stream.priority, &before)
    if first != NULL:
        before = first.last_of_equals
        first.last_of_equals = stream
    else:
        stream.last_of_equals = stream
    stream.queue_previous = before
    if before != NULL:
        stream.queue_next = before.queue_next
        before.queue_next = stream
    else:
        stream.queue_next = self.head
        self.head = stream
    if stream.queue_next != NULL:
        stream.queue_next.queue_previous = stream
    stream.queued = True


cdef inline void queue_rotate(SendQueue *self, Stream *stream) noexcept nogil:
    if stream.queue_next != NULL and stream.queue_next.priority == stream.priority:
        queue_remove(self, stream)
        queue_add(self, stream)
