# Direct placement: packets that are opened straight into the chunk that their reader gets.
#
# In a bulk transfer each packet is one STREAM frame that goes on where the last one ended. So where
# its data belongs is known before it is opened, and the plaintext can be put there at once. The
# frame's head comes before its data and lies for a moment over the end of what came before; the
# AEAD's call puts that back (OpenJob).
#
# It is a guess. What was opened says whether it was right; from the first packet of a run that says
# otherwise, plaintext goes back to the arena before anything else is done with it. That costs a copy:
# a peer whose packets make most of a guess wrong has to send twice as many in sequence before the
# next one.

cdef enum:
    PLACING_FROM = 8          # packets in sequence that would have been guessed right
    DOUBT_MOST = 9            # 4096 of them

cdef inline void placing_note(
    Placing *self, const Stream *stream, uint64_t offset, size_t head_length, bint goes_on
) noexcept:
    """A STREAM frame came. `goes_on`: it is the packet's last, and not the stream's."""
    if (
        goes_on and stream.id == self.stream_id and offset == stream.receive.next
        and head_length <= HEAD_MOST
    ):
        self.in_sequence += 1
    else:
        self.in_sequence = 0
    self.stream_id = stream.id
    self.head_length = head_length


cdef inline void placing_learn(Placing *self, unsigned int right, unsigned int count) noexcept:
    """The first `right` packets of a run of `count` were what was expected."""
    if right == count:
        self.doubt -= self.doubt > 0
        return
    self.in_sequence = 0
    if 2 * right < count:  # else it has paid all the same
        self.doubt += self.doubt < DOUBT_MOST


cdef inline bint placing_pays(DataPlane self) noexcept:
    """True when the guess is likely right. For qlog the whole plaintext has to be in one place."""
    return (
        self.placing.in_sequence >= <unsigned int>PLACING_FROM << self.placing.doubt
        and self.qlog is None
    )


cdef bint place_run(DataPlane self, OpenJob *jobs, unsigned int count) noexcept:
    """Say where each packet of a run is to be opened to, going on where its stream stands.

    False: nowhere, but in place.
    """
    cdef Placing *placing = &self.placing
    cdef size_t head = placing.head_length, others = head + AEAD_TAG_LENGTH, size
    cdef Stream *stream = stream_find(&self.streams, placing.stream_id)
    cdef ReceiveHalf *receive
    cdef uint64_t offset, at, index
    cdef uint8_t *chunk
    cdef unsigned int i
    cdef bint placed = False
    if stream == NULL:
        return False
    receive = &stream.receive
    if receive.ahead.count or receive.stopped or receive.reset or receive.size_known:
        return False  # what has arrived ahead must not be written over by a wrong guess
    offset = receive.next
    for i in range(count):
        if jobs[i].length <= jobs[i].header_length + others:
            break
        size = jobs[i].length - jobs[i].header_length - others
        jobs[i].head_length = head
        index = chunk_index(offset)
        at = offset - chunk_start(index)
        # One that lies across the bounds of a chunk is opened in place.
        if at >= head and at + size <= chunk_length(index):
            chunk = chunk_at(receive, index)
            if chunk == NULL:
                break
            jobs[i].into = chunk + at - head
            placed = True
        offset += size
    return placed


cdef bint placed_right(DataPlane self, OpenJob *job, StreamFrame *frame) noexcept:
    """True when an opened packet is the frame that was expected.

    So is one that was opened in place, as it has data of two chunks: with a shorter head it would
    have more than there is room for, which would be written over the data that comes next.
    """
    cdef Cursor cursor
    cdef uint64_t frame_type
    cdef size_t size = job.length - job.header_length - AEAD_TAG_LENGTH - job.head_length
    cdef Stream *stream
    # Another connection ID: Python is told, and what it runs may free chunks.
    if memcmp(job.packet + 1, self.host_cid, HOST_CID_LENGTH) != 0:
        return False
    cursor.at = job.packet + job.header_length
    if job.into != NULL:
        cursor.at = job.head
    cursor.left = job.head_length
    if not take_varint(&cursor, &frame_type) or frame_type & ~<uint64_t>6 != 8:
        return False  # no STREAM frame, or one that ends its stream
    if not take_stream_head(&cursor, frame_type, frame) or cursor.left:
        return False
    if frame_type & 2 and frame.size != size:
        return False
    frame.size = size
    frame.data = cursor.at if job.into == NULL else job.into + job.head_length
    stream = stream_find(&self.streams, frame.stream_id)
    return (
        stream != NULL and frame.stream_id == self.placing.stream_id
        and frame.offset == stream.receive.next
    )


cdef void move_back(OpenJob *jobs, unsigned int count) noexcept nogil:
    """Have the plaintext of these packets in the arena, as if they had been opened in place."""
    cdef OpenJob *job
    cdef uint8_t *text
    cdef unsigned int i
    for i in range(count):
        job = &jobs[i]
        if job.into != NULL and job.opened:
            text = job.packet + job.header_length
            memcpy(text, job.head, job.head_length)
            memcpy(
                text + job.head_length, job.into + job.head_length,
                job.length - job.header_length - AEAD_TAG_LENGTH - job.head_length)
        job.into = NULL
