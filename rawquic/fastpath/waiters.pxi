# Waiter: what a task waits on; and who waits for what a session's streams bring.
#
# The compiled twins of those of endpoint/turn_python.py.

@cython.final
@cython.freelist(64)
cdef class Waiter:
    """What one task awaits, and which can run that task itself: see `turn_python.Waiter`.

    It has what asyncio's tasks use of a future.
    """

    cdef Turn turn
    cdef list among           # those who wait for the same; None: nobody else
    cdef object wakeup, context  # what makes the task go on
    cdef object message       # of the cancellation
    cdef bint over, was_cancelled
    cdef public object _asyncio_future_blocking

    def __init__(self, Turn turn not None):
        self.turn = turn
        self._asyncio_future_blocking = False

    def __await__(self):
        return self

    def __next__(self):
        if not self.over:
            self._asyncio_future_blocking = True
            return self
        self.result()
        raise StopIteration

    def done(self):
        return self.over

    def get_loop(self):
        return self.turn.loop

    def add_done_callback(self, fn, *, context=None):
        """By the task, once."""
        self.wakeup, self.context = fn, context

    def result(self):
        if self.was_cancelled:
            if self.message is None:
                raise _CancelledError()
            raise _CancelledError(self.message)

    def wake(self):
        """Let the task go on: at the end of the batch, or in the next turn of the loop."""
        waiter_wake(self)

    def cancel(self, msg=None):
        if self.over:
            return False
        self.over = self.was_cancelled = True
        self.message = msg
        if self.among is not None:
            self.among.remove(self)
        waiter_run_soon(self)
        return True


cdef int waiter_wake(Waiter self) except -1:
    if not self.over:
        self.over = True
        if self.turn.woken is None:
            waiter_run_soon(self)
        else:
            self.turn.woken.append(self)
    return 0


cdef int waiter_run(Waiter self) except -1:
    """Run the task now. Not to be called while a task runs."""
    cdef object wakeup = self.wakeup, context = self.context
    self.wakeup = self.context = None
    if wakeup is None:
        return 0
    if context is None:
        wakeup(self)
        return 0
    PyContext_Enter(context)
    try:
        wakeup(self)
    finally:
        PyContext_Exit(context)
    return 0


cdef int waiter_run_soon(Waiter self) except -1:
    cdef object wakeup = self.wakeup, context = self.context
    self.wakeup = self.context = None
    if wakeup is not None:
        self.turn.loop.call_soon(wakeup, self, context=context)
    return 0


@cython.final
cdef class Waiters:
    """Wakes those that wait; each looks again whether what it waits for has come."""

    cdef Turn turn
    cdef list waiting

    def __init__(self, Turn turn not None):
        self.turn = turn
        self.waiting = []

    def __len__(self):
        return len(self.waiting)

    def wait(self):
        """To be awaited at once, by one task."""
        cdef Waiter waiter = Waiter(self.turn)
        waiter.among = self.waiting
        self.waiting.append(waiter)
        return waiter

    def wake_one(self):
        """Wake who waits longest, for what only one can have."""
        waiters_wake_one(self)

    def wake(self):
        waiters_wake(self)


cdef inline int waiters_wake_one(Waiters self) except -1:
    cdef Waiter waiter
    if self.waiting:
        waiter = <Waiter>self.waiting.pop(0)
        waiter.among = None
        waiter_wake(waiter)
    return 0


cdef inline int waiters_wake(Waiters self) except -1:
    cdef list waiting = self.waiting
    if waiting:
        self.waiting = []
        for waiter in waiting:
            (<Waiter>waiter).among = None
            waiter_wake(<Waiter>waiter)
    return 0


@cython.final
cdef class StreamTasks:
    """See `turn_python.StreamTasks`."""

    cdef readonly object link, connection
    cdef readonly Turn turn
    cdef DataPlane plane
    cdef readonly dict readers, sending
    cdef readonly tuple arrived, acceptors
    cdef readonly Waiters acked

    def __init__(self, link):
        cdef Turn turn = link.endpoint.turn
        self.link, self.connection, self.turn = link, link.connection, turn
        self.plane = link.connection.streams
        if self.plane is None or turn is None:
            raise TypeError("streams need a data plane and a turn")
        self.readers, self.sending = {}, {}
        self.acked = Waiters(turn)
        self.arrived = (_deque(), _deque())
        self.acceptors = (Waiters(turn), Waiters(turn))

    @property
    def streams(self):
        return self.plane

    def readable(self, uint64_t stream_id):
        tasks_readable(self, stream_id)

    def opened(self, uint64_t stream_id):
        tasks_opened(self, stream_id)

    def ended(self, uint64_t stream_id):
        return tasks_ended(self, stream_id)


cdef inline int tasks_readable(StreamTasks self, stream_id) except -1:
    cdef Waiter reader
    if self.readers:
        reader = self.readers.pop(stream_id, None)
        if reader is not None:
            waiter_wake(reader)
    return 0


cdef inline int tasks_opened(StreamTasks self, uint64_t stream_id) except -1:
    cdef Py_ssize_t uni = (stream_id >> 1) & 1
    self.arrived[uni].append(stream_id)
    return waiters_wake_one(<Waiters>self.acceptors[uni])


cdef inline bint tasks_ended(StreamTasks self, stream_id) except -1:
    stream = self.sending.pop(stream_id, None)
    if stream is not None:
        stream._on_ended()
    waiters_wake(self.acked)
    return stream is not None
