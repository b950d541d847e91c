# The monotonic clock, declared.

cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    clockid_t CLOCK_MONOTONIC
    int clock_gettime(clockid_t clock, timespec *now)
