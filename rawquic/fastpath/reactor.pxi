# Reactor: the compiled loop of an endpoint. Batches in, each segment to its connection, batches out.
#
# The event loop calls `on_readable` itself; Python hears of a batch only when something in it is
# for Python: a datagram that no connection here owns, an event, an earlier deadline, an error.

cdef enum:
    READS_MOST = 16           # system calls per readiness event: other tasks get their turn
    READ_BYTES_MOST = 1 << 20
    FLUSHES_MOST = 16         # batches per connection and turn
    TRAINS_MOST = 64
    SEND_AT_ONCE = 60000      # bytes written that are worth a batch before the turn ends
    ACKNOWLEDGE_BYTES = 524288  # that come while it reads on: the sender need not wait for the end

cdef struct IdSlot:
    uint64_t id               # a connection ID of ours, as it lies in memory
    PyObject *plane           # owned reference to a DataPlane; NULL: free


cdef double monotonic() noexcept nogil:
    """The clock of time.monotonic(), seconds."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


@cython.final
cdef class Reactor:
    """Reads and writes `socket` for the connections that are attached to it.

    on_batch(others, planes) gets what is for Python: datagrams as UdpSocket.receive gives them,
    and DataPlanes that have something to tell; but what is for their sessions alone goes there in
    `turn`. on_blocked() is called when the socket takes no more; call `on_writable` when it does
    again.
    """

    cdef UdpSocket socket
    cdef object on_batch, on_blocked
    cdef Turn turn            # None: Python hears of everything
    cdef IdSlot *slots        # owned; `room` of them, a power of two
    cdef uint64_t room, count, salt
    cdef Outbox outbox
    cdef size_t acknowledge_bytes  # read from the socket, while it goes on reading, for each ACK
    cdef list touched         # planes that got packets in this batch
    cdef list waiting         # planes that could not be flushed while the socket was blocked
    cdef readonly bint blocked
    cdef uint8_t *held        # owned: packets that did not leave; OUT_ROOM bytes, or NULL
    cdef Train held_trains[TRAINS_MOST]
    cdef int held_count
    cdef readonly bint closed

    def __init__(self, UdpSocket socket not None, on_batch, on_blocked, Turn turn=None):
        self.socket, self.turn = socket, turn
        self.on_batch, self.on_blocked = on_batch, on_blocked
        self.touched, self.waiting = [], []
        self.salt = random_below(<uint64_t>-1)
        # With a small buffer a sender has little under way: an ACK of all of it comes too late.
        self.acknowledge_bytes = min(
            <size_t>ACKNOWLEDGE_BYTES, <size_t>socket.sock.getsockopt(_SOL_SOCKET, _SO_RCVBUF) // 3)
        outbox_open(&self.outbox)

    def __dealloc__(self):
        cdef uint64_t i
        for i in range(self.room):
            if self.slots[i].plane != NULL:
                Py_DECREF(<object>self.slots[i].plane)
        free(self.slots)
        free(self.outbox.plain)
        free(self.held)

    def close(self):
        """Wipe the keys of all connections and let go of them; nothing is read or sent any more."""
        cdef IdSlot *slots = self.slots
        cdef uint64_t i, room = self.room
        self.closed = True
        self.on_batch = self.on_blocked = self.turn = None
        self.touched, self.waiting = [], []
        splice_close(&self.socket.sender)
        # Here the garbage collector does not see them.
        self.slots, self.room, self.count = NULL, 0, 0
        for i in range(room):
            if slots[i].plane != NULL:
                (<DataPlane>slots[i].plane).discard()
                Py_DECREF(<object>slots[i].plane)
        free(slots)

    # -- routes ------------------------------------------------------------------------------------

    def route(self, bytes cid not None, DataPlane plane not None):
        """Packets to `cid` are for `plane`."""
        cdef uint64_t number = cid_number(cid), i
        cdef IdSlot *slot
        cdef PyObject *before
        if (self.count + 1) * 2 > self.room:
            reactor_grow(self)
        i = self.salted(number)
        while self.slots[i].plane != NULL and self.slots[i].id != number:
            i = (i + 1) & (self.room - 1)
        slot = &self.slots[i]
        Py_INCREF(plane)
        before = slot.plane
        slot.id, slot.plane = number, <PyObject *>plane
        if before != NULL:
            Py_DECREF(<object>before)
        else:
            self.count += 1

    def unroute(self, bytes cid not None):
        """Packets to `cid` are for Python again."""
        cdef uint64_t number = cid_number(cid), i, hole, home
        cdef DataPlane gone  # freed behind all this, since that may run what routes
        if self.room == 0:
            return
        i = self.salted(number)
        while self.slots[i].plane != NULL and self.slots[i].id != number:
            i = (i + 1) & (self.room - 1)
        if self.slots[i].plane == NULL:
            return
        gone = <DataPlane>self.slots[i].plane
        Py_DECREF(gone)
        self.slots[i].plane = NULL
        self.count -= 1
        hole = i
        while True:  # close the gap, so that lookups may stop at the first free slot
            i = (i + 1) & (self.room - 1)
            if self.slots[i].plane == NULL:
                return
            home = self.salted(self.slots[i].id)
            if ((i - home) & (self.room - 1)) >= ((i - hole) & (self.room - 1)):
                self.slots[hole] = self.slots[i]
                self.slots[i].plane = NULL
                hole = i

    cdef inline uint64_t salted(self, uint64_t number) noexcept:
        return ((number ^ self.salt) * <uint64_t>0x9E3779B97F4A7C15 >> 32) & (self.room - 1)

    cdef inline DataPlane find(self, const uint8_t *cid):
        cdef uint64_t number, i
        if self.room == 0:
            return None
        memcpy(&number, cid, 8)
        i = self.salted(number)
        while self.slots[i].plane != NULL:
            if self.slots[i].id == number:
                return <DataPlane>self.slots[i].plane
            i = (i + 1) & (self.room - 1)
        return None

    def attach(self, DataPlane plane not None, address, local):
        """Send the plane's packets to `address`, from `local` (None: the kernel's choice)."""
        self.socket.book.read_peer(address, &plane.peer)
        self.socket.book.read_local(local, &plane.local)
        plane.reactor = self
        plane.routed = True

    # -- in ----------------------------------------------------------------------------------------

    def on_readable(self):
        """Read what waits, within bounds; acknowledge; tell Python what is for it.

        False: nothing waited.
        """
        return reactor_read(self)

    def read_until(self, double end):
        """As on_readable, again and again until something came or time.monotonic() shows `end`.

        Another program may want this core meanwhile: it gets it.
        """
        while not reactor_read(self):
            if self.closed or monotonic() >= end:
                return False
            with nogil:
                sched_yield()
        return True

    @property
    def grouped(self):
        """True where trains leave and arrive whole (GSO and GRO)."""
        return self.socket.sender.grouped and self.socket.receiver.grouped

    # -- out ---------------------------------------------------------------------------------------

    def flush(self, DataPlane plane not None):
        """Send what `plane` may send now. True: there is more, for another turn."""
        return reactor_flush(self, plane, monotonic())

    def on_writable(self):
        """The socket takes more: send what was held, then those who waited."""
        cdef list waiting, ready = []
        if self.closed or not reactor_send_held(self):
            return
        waiting, self.waiting = self.waiting, []
        for plane in waiting:
            (<DataPlane>plane).listed = False
            more = False
            try:
                more = reactor_flush(self, plane, monotonic())
            except Exception as error:
                plane_broke(plane, error)
            if more or plane_has_news(plane):
                ready.append(plane)
        if ready and self.on_batch is not None:
            self.on_batch([], ready)


cdef uint64_t cid_number(bytes cid) except? 0:
    cdef uint64_t number
    if len(cid) != HOST_CID_LENGTH:
        raise ValueError(f"our connection IDs have {HOST_CID_LENGTH} bytes, not {len(cid)}")
    memcpy(&number, PyBytes_AS_STRING(cid), 8)
    return number


cdef int reactor_grow(Reactor self) except -1:
    cdef uint64_t room = self.room * 2 if self.room else 64, old = self.room, i, j
    cdef IdSlot *before = self.slots
    cdef IdSlot *slots = <IdSlot *>malloc(room * sizeof(IdSlot))
    if slots == NULL:
        raise MemoryError()
    memset(slots, 0, room * sizeof(IdSlot))
    self.slots, self.room = slots, room
    for i in range(old):
        if before[i].plane != NULL:
            j = self.salted(before[i].id)
            while slots[j].plane != NULL:
                j = (j + 1) & (room - 1)
            slots[j] = before[i]
    free(before)
    return 0


cdef bint reactor_read(Reactor self) except *:
    """See `Reactor.on_readable`."""
    cdef list others = []
    cdef Receiver *receiver = &self.socket.receiver
    cdef size_t taken = 0, acknowledged = 0
    cdef int got, i, reads
    cdef double now
    if self.closed:
        return False
    self.socket.enter()
    try:
        for reads in range(READS_MOST):
            with nogil:
                got = receive_batch(receiver, SLOTS)
            now = monotonic()
            if got < 0:
                if got != -EAGAIN:
                    raise OSError(-got, strerror(-got).decode())
                break
            for i in range(got):
                taken += receiver.messages[i].length
                reactor_message(self, &receiver.messages[i], others, now)
            if receiver.emptied or taken >= READ_BYTES_MOST:
                break
            if taken - acknowledged >= self.acknowledge_bytes:
                acknowledged = taken
                self.socket.busy = False
                for plane in self.touched:
                    reactor_answer(self, <DataPlane>plane, now)
                self.socket.enter()
    finally:
        self.socket.busy = False
    reactor_after(self, others)
    return taken > 0


cdef int reactor_message(Reactor self, Message *message, list others, double now) except -1:
    """Give each run of segments with one connection ID to its connection."""
    cdef size_t at = 0, start, size = message.segment_size
    cdef uint8_t *data = message.data
    cdef uint64_t before
    cdef DataPlane plane
    while at < message.length:
        start = at
        plane = None
        if min(size, message.length - at) >= PACKET_LEAST and not data[at] & 0x80:
            plane = self.find(data + at + 1)
        if plane is None or not plane.routed or not same_peer(&plane.peer, message.peer):
            # A handshake, a stranger, or a peer that has moved: rare, and Python's.
            peer = self.socket.book.peer_shown(message.peer)
            others.append((
                PyBytes_FromStringAndSize(
                    <const char *>data + at, <Py_ssize_t>min(size, message.length - at)),
                peer, self.socket.book.local_shown(&message.local), message.ecn))
            at += size
            continue
        at += size
        while (
            at < message.length and message.length - at >= PACKET_LEAST
            and not data[at] & 0x80
            and memcmp(data + at + 1, data + start + 1, HOST_CID_LENGTH) == 0
        ):
            at += size
        before = plane.counters.packets_received
        try:
            plane_receive(
                plane, data + start, min(at, message.length) - start, size, message.ecn, now)
        except Exception as error:
            plane_broke(plane, error)
        if plane.counters.packets_received != before:
            plane.local = message.local  # only an authentic packet says where to answer from
        if not plane.touched:
            plane.touched = True
            self.touched.append(plane)
    return 0


cdef int reactor_after(Reactor self, list others) except -1:
    """A batch is complete: acknowledge it, send what it made possible, tell Python."""
    cdef list touched = self.touched, ready = []
    cdef DataPlane plane
    cdef bint sessions_alone = self.turn is not None and not others
    cdef double now = monotonic()
    self.touched = []
    for item in touched:
        plane = <DataPlane>item
        plane.touched = False
        if reactor_answer(self, plane, now) or plane_has_news(plane):
            ready.append(plane)
            if plane.control_called or plane.closing:
                sessions_alone = False
    if self.socket.has_notes():
        sessions_alone = False
    elif not (others or ready):
        return 0
    if sessions_alone:
        turn_hand_on(self.turn, ready)
    elif self.on_batch is not None:
        self.on_batch(others, ready)
    return 0


cdef bint reactor_answer(Reactor self, DataPlane plane, double now) except *:
    """Acknowledge what came, and send what it made possible; True when only the turn is over."""
    if plane.received.unacked >= 2:
        plane.received.urgent = True
    try:
        return reactor_flush(self, plane, now)
    except Exception as error:
        plane_broke(plane, error)
        return False


cdef int plane_broke(DataPlane self, error) except -1:
    """An error that is ours, or memory: this connection ends, the others go on."""
    self.closing = True
    if self.control is not None:
        self.control.broke(error)
    return 0


cdef bint plane_has_news(DataPlane self) noexcept:
    """True when Python has to look at this connection."""
    cdef double deadline
    if self.events.count or self.closing or self.control_called:
        return True
    deadline = plane_deadline(self)
    return deadline != 0 and (self.armed == 0 or deadline < self.armed - 1e-4)


cdef bint reactor_flush(Reactor self, DataPlane plane, double now) except *:
    """Build and send until nothing more may leave; True when only the turn is over."""
    cdef int rounds
    if not plane.routed:
        return False  # it ended or moved while it waited
    for rounds in range(FLUSHES_MOST):
        if self.blocked:
            if not plane.listed:
                plane.listed = True
                self.waiting.append(plane)
            return False
        if reactor_batch(self, plane, now) == 0:
            return False
        if not plane.dirty:
            return False
    return True


cdef int reactor_batch(Reactor self, DataPlane plane, double now) except -1:
    """Build and send a batch; how many packets. Behind a large one, in a block to be lent."""
    cdef Block *block = NULL
    cdef int count
    if plane.bulk and self.socket.sender.grouped and splice_works(speaks_ipv4(&plane.peer)):
        block = block_take(&plane.blocks, plane.flight_first)
    if block != NULL:
        self.outbox.buffer = block.bytes
    try:
        count = plane_build(plane, &self.outbox, True, now)
        if count and reactor_send(self, plane, block != NULL):
            block_lend(
                &plane.blocks, block, self.outbox.jobs[0].packet_number, plane.sent.next)
        elif block != NULL:
            block_put(block, plane.blocks.number)
        elif count and plane.bulk:
            plane.blocks.copied += 1
    except BaseException:
        if block != NULL:
            block_put(block, NOBODY)  # who knows how far it came
        raise
    finally:
        self.outbox.buffer = self.outbox.plain
    if count:
        plane.bulk = self.outbox.used >= SPLICE_LEAST
    return count


cdef bint reactor_send(Reactor self, DataPlane plane, bint by_reference) except *:
    """Send the batch in the outbox, as trains of equal packets, the last of which may be short.

    `by_reference`: it lies in a block. True: that was lent.
    """
    cdef Train trains[TRAINS_MOST]
    cdef Outbox *out = &self.outbox
    cdef Train *train = NULL
    cdef unsigned int i
    cdef int count = 0, status
    for i in range(out.count):
        if (
            train == NULL or out.sizes[i] > train.segment_size
            or train.length != <size_t>train.segments * train.segment_size
            or out.jobs[i].packet != train.data + train.length
        ):
            train = &trains[count]
            count += 1
            memset(train, 0, sizeof(Train))
            train.data = out.jobs[i].packet
            train.segment_size = out.sizes[i]
            train.peer, train.local = plane.peer, plane.local
            train.ecn = out.ecn
        train.length += out.sizes[i]
        train.segments += 1
    # Only what is to be acknowledged tells when the kernel is done with it.
    trains[0].by_reference = (
        by_reference and trains[0].length >= SPLICE_LEAST
        and sent_at(&plane.sent, plane.sent.next - 1).state == IN_FLIGHT
    )
    self.socket.enter()
    with nogil:
        status = send_trains(&self.socket.sender, trains, count)
    self.socket.busy = False
    if status == -EAGAIN:
        reactor_hold(self, trains, count)
    elif status < 0:
        raise OSError(-status, strerror(-status).decode())
    if trains[0].lent and not trains[0].by_reference:
        # Then copies were sent: their ACKs do not tell of what was lent.
        plane.blocks.lost_behind = plane.sent.next
    return trains[0].lent


cdef int reactor_hold(Reactor self, const Train *trains, int count) except -1:
    """Keep what did not leave: its packet numbers are used."""
    cdef int i
    cdef uint8_t *at
    if self.held == NULL:
        self.held = <uint8_t *>malloc(OUT_ROOM)
        if self.held == NULL:
            return 0  # no memory: the packets are lost, as in the network
    memcpy(self.held_trains, trains, <size_t>count * sizeof(Train))
    self.held_count = count
    at = self.held
    for i in range(count):
        memcpy(at, trains[i].data, trains[i].length)
        self.held_trains[i].data = at
        self.held_trains[i].by_reference = False  # this memory is written again at any time
        at += trains[i].length
    self.blocked = True
    if self.on_blocked is not None:
        self.on_blocked()
    return 0


cdef bint reactor_send_held(Reactor self) except *:
    """True when nothing is held any more."""
    cdef int status = 0
    if self.held_count:
        self.socket.enter()
        with nogil:
            status = send_trains(&self.socket.sender, self.held_trains, self.held_count)
        self.socket.busy = False
        if status == -EAGAIN:
            return False
    self.held_count = 0
    self.blocked = False
    if status < 0:
        raise OSError(-status, strerror(-status).decode())
    return True
