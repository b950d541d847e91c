# LoopWait: what asyncio's own loop would do between two batches, done here while that is to wait.
#
# A turn of that loop is Python: a third of the instructions that a small message costs an endpoint.
# So behind a batch, as long as nothing is queued in the loop and no timer is due, the wait for the
# next one is here, on the epoll object that the loop itself waits on. A packet that comes is read at
# once. Anything else that is ready epoll will go on telling: that gets the loop its turn.

from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport ceil

cdef enum:
    # Milliseconds. A wait shorter than the kernel's tick would have it set its timer each time, which
    # costs more than all of this saves; a longer one would look like a callback that blocks the loop.
    WAIT_MOST = 20
    TURNS_LEFT_OUT = 64     # of the loop, one after the other, at most
    NO_WAITS_MOST = 63      # readiness events without a wait, once most waits were for nothing

cdef double AWAY_MOST = 0.02  # seconds without a turn of the loop behind which there is no new wait


@cython.final
cdef class LoopWait:
    """Reads for `reactor`, whose socket is `fd`, and waits for more of it in the place of `loop`.

    `loop`: an asyncio.SelectorEventLoop on epoll.
    """

    cdef object loop, ready
    cdef Reactor reactor
    cdef int epoll, fd
    cdef unsigned int misses, no_waits

    def __init__(self, loop, int fd, Reactor reactor not None):
        self.loop, self.ready = loop, loop._ready
        self.epoll, self.fd = loop._selector.fileno(), fd
        self.reactor = reactor

    def on_readable(self):
        """As `Reactor.on_readable`, and again for what comes while the loop would only wait."""
        cdef unsigned int turns = 0
        cdef double away_until
        if not reactor_read(self.reactor):
            return False
        if self.no_waits:
            self.no_waits -= 1
            return True
        away_until = monotonic() + AWAY_MOST
        while turns < TURNS_LEFT_OUT and loop_wait(self, away_until):
            reactor_read(self.reactor)
            turns += 1
        return True


cdef bint loop_wait(LoopWait self, double away_until) except *:
    """True when the socket, and nothing but that, is ready."""
    cdef double now, due
    cdef int timeout = WAIT_MOST, count
    cdef epoll_event events[2]
    cdef object loop = self.loop, timers
    # What has come while no Python ran would wait with us. This runs what handlers of signals and,
    # from Python 3.12, finalizers there are: first, since they may queue something.
    PyErr_CheckSignals()
    now = monotonic()
    # A task may have closed the endpoint, or stopped the loop.
    if self.reactor.closed or self.ready or loop._stopping or loop._debug or now >= away_until:
        return False
    timers = loop._scheduled
    if timers:
        due = timers[0]._when - now
        if due <= 0:
            return False
        timeout = <int>min(<double>WAIT_MOST, ceil(due * 1e3))
    with nogil:
        count = epoll_wait(self.epoll, events, 2, timeout)
    if count == 1 and events[0].data.fd == self.fd and events[0].events == EPOLLIN:
        self.misses >>= 1
        return True
    # A wait for nothing is a system call more, and maybe a core that is woken for nothing.
    if self.misses < NO_WAITS_MOST:
        self.misses = 2 * self.misses + 1
    self.no_waits = self.misses
    return False
