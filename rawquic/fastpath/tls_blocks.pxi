# Length-prefixed blocks of TLS messages in aioquic's `Buffer`, as `aioquic.tls` writes and reads
# them with generators. Which errors a message is worth is aioquic's to say: it passes them in.


cdef class PushBlock:
    """`with PushBlock(buffer, capacity):` writes the length, `capacity` bytes, before the block."""

    cdef:
        object _buffer
        Py_ssize_t _capacity
        Py_ssize_t _start

    def __init__(self, buffer, Py_ssize_t capacity):
        self._buffer = buffer
        self._capacity = capacity

    def __enter__(self):
        self._start = <Py_ssize_t>self._buffer.tell() + self._capacity
        self._buffer.seek(self._start)

    def __exit__(self, kind, error, traceback):
        cdef Py_ssize_t end, length
        if kind is not None:
            return
        end = self._buffer.tell()
        length = end - self._start
        self._buffer.seek(self._start - self._capacity)
        self._buffer.push_bytes(length.to_bytes(self._capacity, "big"))
        self._buffer.seek(end)


cdef class PushExtension(PushBlock):
    """The same for a TLS extension, its type before it."""

    def __init__(self, buffer, extension_type):
        buffer.push_uint16(extension_type)
        PushBlock.__init__(self, buffer, 2)


cdef class PullBlock:
    """`with PullBlock(error, buffer, capacity) as length:`: `error` unless all of it was read."""

    cdef:
        object _error
        object _buffer
        Py_ssize_t _end
        Py_ssize_t _length

    def __init__(self, error, buffer, Py_ssize_t capacity):
        self._error = error
        self._buffer = buffer
        self._length = int.from_bytes(buffer.pull_bytes(capacity), "big")
        self._end = <Py_ssize_t>buffer.tell() + self._length

    def __enter__(self):
        return self._length

    def __exit__(self, kind, error, traceback):
        if kind is None and self._buffer.tell() != self._end:
            raise self._error("extra bytes at the end of a block")


def push_opaque(buffer, Py_ssize_t capacity, bytes value not None):
    """A block that is `value`."""
    buffer.push_bytes(len(value).to_bytes(capacity, "big"))
    buffer.push_bytes(value)


def pull_opaque(buffer, Py_ssize_t capacity):
    """The bytes of a block."""
    return buffer.pull_bytes(int.from_bytes(buffer.pull_bytes(capacity), "big"))


def push_list(buffer, Py_ssize_t capacity, push, values):
    """A block of what `push` writes for each of `values`."""
    with PushBlock(buffer, capacity):
        for value in values:
            push(value)


def pull_list(error, skip, buffer, Py_ssize_t capacity, pull):
    """What `pull` reads until the end of a block, but where it raises `skip`."""
    cdef list items = []
    cdef Py_ssize_t end = int.from_bytes(buffer.pull_bytes(capacity), "big")
    end += <Py_ssize_t>buffer.tell()
    while <Py_ssize_t>buffer.tell() < end:
        try:
            items.append(pull())
        except skip:
            pass
    if buffer.tell() != end:
        raise error("extra bytes at the end of a block")
    return items


cdef class PushMessage:
    """`with PushMessage(schedule, buffer):` what is written meanwhile goes into the transcript."""

    cdef:
        object _schedule
        object _buffer
        Py_ssize_t _start

    def __init__(self, schedule, buffer):
        self._schedule = schedule
        self._buffer = buffer
        self._start = buffer.tell()

    def __enter__(self):
        return None

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self._schedule.update_hash(
                self._buffer.data_slice(self._start, self._buffer.tell()))
