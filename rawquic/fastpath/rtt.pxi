# Round-trip time of one path (RFC 9002 §5), and the two timeouts that follow from it: PTO and
# loss delay. Seconds throughout, without a floor of a millisecond: loopback is 100 µs. It reads
# no clock, sets no timer and does no exponential backoff.

from libc.math cimport INFINITY, fabs
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #define RTT_GRANULARITY 1e-3  /* kGranularity, RFC 9002 section 6.1.2 */
    #define RTT_SHORTEST    1e-6  /* what a sample of 0 counts as: the clock stood still */
    #define RTT_LOCAL       2e-3  /* below it, the event loop's delays exceed the path's */
    """
    const double RTT_GRANULARITY
    const double RTT_SHORTEST
    const double RTT_LOCAL


cdef struct Rtt:
    bint valid               # False: no sample yet, `smoothed` and `variance` are guesses
    uint64_t samples         # tells whether `latest` is new
    double latest            # 0 before the first sample
    double smoothed          # > 0 always
    double variance
    double minimum           # of this path; INFINITY before the first sample
    double initial
    double first_sample_at   # RFC 9002 §7.6.2: persistent congestion needs packets sent after it
    double max_ack_delay     # the peer's


cdef inline void rtt_begin(Rtt *rtt, double initial, double max_ack_delay) noexcept nogil:
    """Start afresh, also for a new path (RFC 9000 §9.4). `initial` is used until a sample comes."""
    rtt.valid = False
    rtt.samples = 0
    rtt.latest = 0.0
    rtt.initial = initial if initial > RTT_SHORTEST else RTT_SHORTEST
    rtt.smoothed = rtt.initial
    rtt.variance = rtt.initial / 2
    rtt.minimum = INFINITY
    rtt.first_sample_at = INFINITY
    rtt.max_ack_delay = max_ack_delay if max_ack_delay > 0.0 else 0.0


cdef inline void rtt_sample(
    Rtt *rtt, double latest, double ack_delay, bint confirmed, double now
) noexcept nogil:
    """Take a sample. `confirmed`: the handshake is, so the peer keeps to its max_ack_delay.

    RFC 9002 §5.1: only for an ACK whose largest acknowledged is new and that newly acknowledges
    an ack-eliciting packet.
    """
    cdef double adjusted
    if not latest > RTT_SHORTEST:
        latest = RTT_SHORTEST
    rtt.latest = latest
    rtt.samples += 1
    # RFC 9002 §5.2: the minimum ignores the peer's delay.
    if latest < rtt.minimum:
        rtt.minimum = latest
    if not rtt.valid:
        rtt.valid = True
        rtt.first_sample_at = now
        rtt.smoothed = latest
        rtt.variance = latest / 2
        return
    # RFC 9002 §5.3
    if not ack_delay > 0.0:
        ack_delay = 0.0
    if confirmed and ack_delay > rtt.max_ack_delay:
        ack_delay = rtt.max_ack_delay
    adjusted = latest
    if latest >= rtt.minimum + ack_delay:
        adjusted = latest - ack_delay
    rtt.variance = 0.75 * rtt.variance + 0.25 * fabs(rtt.smoothed - adjusted)
    rtt.smoothed = 0.875 * rtt.smoothed + 0.125 * adjusted


cdef inline void rtt_forget_minimum(Rtt *rtt) noexcept nogil:
    """RFC 9002 §5.2: after persistent congestion the next sample is the minimum."""
    rtt.minimum = INFINITY


cdef inline bint rtt_is_local(const Rtt *rtt) noexcept nogil:
    """True on a path so short that a longer sample says more about event loops than about it."""
    return rtt.minimum < RTT_LOCAL


cdef inline double rtt_pto(const Rtt *rtt) noexcept nogil:
    """RFC 9002 §6.2.1, for the application packet number space, before backoff."""
    cdef double variance = 4 * rtt.variance
    if variance < RTT_GRANULARITY:
        variance = RTT_GRANULARITY
    return rtt.smoothed + variance + rtt.max_ack_delay


cdef inline double rtt_loss_delay(const Rtt *rtt) noexcept nogil:
    """RFC 9002 §6.1.2: how long before a later acknowledged packet one must be to be lost."""
    cdef double delay = 1.125 * (rtt.latest if rtt.latest > rtt.smoothed else rtt.smoothed)
    return delay if delay > RTT_GRANULARITY else RTT_GRANULARITY
