# Pacing of one path (RFC 9002 §7.7): a token bucket that says how many bytes may leave now. It
# is made for timers of 1 ms resolution and for whole GSO trains, so its bursts are long; where
# the round trip is shorter than such a timer it does not bind at all.

cimport cython
from libc.stdint cimport UINT64_MAX, uint64_t

cdef extern from *:
    """
    #define PACER_BURST_TIME  2e-3
    #define PACER_TRAIN_TIME  4e-3   /* a train may be one burst where it lasts no longer */
    #define PACER_TRAIN       65536.0
    #define PACER_BURST_PACKETS 10.0 /* the initial window leaves at once: RFC 9002 section 7.7 */
    """
    const double PACER_BURST_TIME
    const double PACER_TRAIN_TIME
    const double PACER_TRAIN
    const double PACER_BURST_PACKETS


cdef struct Pacer:
    double tokens      # bytes; negative: a debt of what left without asking (probes)
    double burst       # the bucket's size; 0 before the first call
    double rate        # bytes per second at the last call
    double updated_at


cdef inline void pacer_begin(Pacer *pacer) noexcept nogil:
    """Start with a full bucket."""
    pacer.tokens = 0.0
    pacer.burst = 0.0
    pacer.rate = 0.0
    pacer.updated_at = 0.0


@cython.cdivision(True)
cdef inline uint64_t pacer_allowance(
    Pacer *pacer, const Rtt *rtt, uint64_t window, bint slow_start, uint64_t datagram_size,
    double now,
) noexcept nogil:
    """How many bytes may leave now: 0, or one datagram and more; UINT64_MAX where unpaced."""
    cdef bint full = pacer.burst == 0.0
    # RFC 9002 §7.7: N = 1.25. In slow start 2, or the pacer would keep the window from doubling.
    pacer.rate = (2.0 if slow_start else 1.25) * <double>window / rtt.smoothed
    pacer.burst = pacer.rate * PACER_BURST_TIME
    if pacer.burst < PACER_BURST_PACKETS * <double>datagram_size:
        pacer.burst = PACER_BURST_PACKETS * <double>datagram_size
    if pacer.burst < PACER_TRAIN and pacer.rate * PACER_TRAIN_TIME >= PACER_TRAIN:
        pacer.burst = PACER_TRAIN
    if now > pacer.updated_at:
        pacer.tokens += pacer.rate * (now - pacer.updated_at)
        pacer.updated_at = now
    # The smoothed RTT holds the delays of both event loops, so the minimum has a say too.
    if rtt.valid and (rtt.smoothed < RTT_LOCAL or rtt.minimum < RTT_LOCAL / 4):
        pacer.tokens = pacer.burst
        return UINT64_MAX
    if full or pacer.tokens > pacer.burst:
        pacer.tokens = pacer.burst
    if pacer.tokens < <double>datagram_size:
        return 0
    return <uint64_t>pacer.tokens


cdef inline void pacer_sent(Pacer *pacer, uint64_t size) noexcept nogil:
    """Bytes left, allowed or not. A debt is at most one burst."""
    pacer.tokens -= <double>size
    if pacer.tokens < -pacer.burst:
        pacer.tokens = -pacer.burst


@cython.cdivision(True)
cdef inline double pacer_ready_at(const Pacer *pacer) noexcept nogil:
    """When a quarter of a burst may leave; not after the last pacer_allowance: now."""
    cdef double missing = pacer.burst / 4 - pacer.tokens
    if missing <= 0.0 or pacer.rate <= 0.0:
        return pacer.updated_at
    return pacer.updated_at + missing / pacer.rate
