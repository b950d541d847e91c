# SendStreamBase, RecvStreamBase: what every message on a stream goes through.
#
# The compiled twins of those of stream_base_python.py. What happens once in a stream's life, or not
# at all, is Python's: they call their subclasses in `rawquic.streams` for it (the twin lists what).

@cython.nonecheck(True)  # of one that was made without __init__
cdef class SendStreamBase:
    """See `stream_base_python.SendStreamBase`."""

    cdef readonly object _session
    cdef readonly StreamTasks _tasks
    cdef readonly uint64_t _id
    cdef public uint64_t _bytes_written
    cdef public bint _finished, _acked
    cdef public object _reset_code, _stop_code
    cdef readonly Waiters _waiters

    def __init__(self, session, uint64_t stream_id):
        self._session, self._tasks, self._id = session, session._tasks, stream_id
        self._tasks.sending[stream_id] = self

    def _put(self, bytes chunk not None, Py_ssize_t offset):
        """Write what fits of chunk[offset:]; how much that was. Errors as those of `write`."""
        cdef StreamTasks tasks = self._tasks
        cdef Py_ssize_t taken
        turn_check(tasks.turn)
        if tasks.connection.close_reason is not None:
            self._check_open()
        try:
            taken = plane_write(tasks.plane, self._id, chunk, offset)
        except StreamError:
            self._check_open()  # which may know better, once the connection has forgotten it
            raise
        if taken:
            self._bytes_written += <uint64_t>taken
            turn_flush_soon(tasks.turn, tasks.link)
        return taken

    def _finish(self):
        cdef StreamTasks tasks = self._tasks
        turn_check(tasks.turn)
        if self._finished:
            return
        if tasks.connection.close_reason is not None:
            self._check_open()
        try:
            plane_finish(tasks.plane, self._id)
        except StreamError:
            self._check_open()  # as in `_put`
            raise
        self._finished = True
        turn_flush_complete(tasks.turn, tasks.link)

    def _waiter(self):
        """To be awaited at once: for room, or the end."""
        if self._waiters is None:
            self._waiters = Waiters(self._tasks.turn)
        return self._waiters.wait()

    def _wake(self):
        if self._waiters is not None:
            waiters_wake(self._waiters)

    def _on_ended(self):
        self._acked = self._finished and self._reset_code is None and self._stop_code is None
        if self._waiters is not None:
            waiters_wake(self._waiters)


@cython.nonecheck(True)
cdef class RecvStreamBase:
    """See `stream_base_python.RecvStreamBase`."""

    cdef readonly object _session
    cdef readonly StreamTasks _tasks
    cdef readonly uint64_t _id
    cdef public list _returned
    cdef public bint _reading, _at_end
    cdef public object _error

    def __init__(self, session, uint64_t stream_id):
        self._session, self._tasks, self._id = session, session._tasks, stream_id

    def _take_alone(self, n):
        """As `_take`, for a reader that may not be the only one."""
        turn_check(self._tasks.turn)
        if self._reading:
            self._raise_read_by_two()
        return recv_stream_take(self, most_of(n))

    def _take(self, n):
        """As `read`, but None when there is nothing yet."""
        return recv_stream_take(self, most_of(n))

    def _look(self):
        """True when a reader that is about to wait is to look again: see `Turn`."""
        return turn_look_for_packets(self._tasks.turn)

    def _waiter(self):
        """To be awaited at once: for data, or the end."""
        cdef Waiter waiter = Waiter(self._tasks.turn)
        self._tasks.readers[self._id] = waiter
        return waiter


@cython.nonecheck(True)
cdef object recv_stream_take(RecvStreamBase self, uint64_t n):
    cdef StreamTasks tasks = self._tasks
    if self._returned:
        return self._take_returned(n)
    try:
        data = plane_take(tasks.plane, self._id, n)
    except StreamReset as error:
        self._end(_copy(error))  # the one that is raised holds this frame
        raise
    if data is None:
        if tasks.connection.close_reason is not None:
            self._session._raise_if_closed()
    elif not data:
        if self._error is not None:
            raise _copy(self._error)
        self._at_end = True
    return data
