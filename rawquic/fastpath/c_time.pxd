# The monotonic clock, and giving up the core for a while, declared.

cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    clockid_t CLOCK_MONOTONIC
    int clock_gettime(clockid_t clock, timespec *now)

cdef extern from "<sched.h>" nogil:
    int sched_yield()
