# Congestion control of one path: NewReno (RFC 9002 §7) or CUBIC (RFC 9438), with HyStart++
# (RFC 9406) in the first slow start. It counts bytes in flight and moves the window. It never
# decides what is lost or spurious, when to send, or how fast (that is pacing).

cimport cython
from libc.math cimport INFINITY, cbrt
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t

cdef enum CongestionAlgorithm:
    NEWRENO
    CUBIC

cdef extern from *:
    """
    #define NEWRENO_BETA 0.5            /* kLossReductionFactor, RFC 9002 appendix B.1 */
    #define CUBIC_BETA   0.7            /* RFC 9438 section 4.6 */
    #define CUBIC_C      0.4            /* segments per cubic second, RFC 9438 section 5.1 */
    #define CUBIC_ALPHA  (9.0 / 17.0)   /* 3 (1 - beta) / (1 + beta), RFC 9438 section 4.3 */
    #define HYSTART_THRESHOLD_MIN 4e-3  /* these: RFC 9406 section 4.3 */
    #define HYSTART_THRESHOLD_MAX 16e-3
    #define CONGESTION_NEVER (-(double)INFINITY)
    """
    const double NEWRENO_BETA
    const double CUBIC_BETA
    const double CUBIC_C
    const double CUBIC_ALPHA
    const double HYSTART_THRESHOLD_MIN
    const double HYSTART_THRESHOLD_MAX
    const double CONGESTION_NEVER

cdef enum:
    HYSTART_DIVISOR = 8
    HYSTART_SAMPLES = 8
    HYSTART_CSS_DIVISOR = 4
    HYSTART_CSS_ROUNDS = 5
    CONGESTION_WINDOW_MAX = 1 << 30  # more than anyone buffers; keeps the arithmetic exact


cdef struct Cubic:
    # Sizes in bytes, where RFC 9438 has segments.
    double epoch_start   # of this congestion avoidance; CONGESTION_NEVER: not begun
    double used_at       # when the window was last seen in use
    double w_max         # where the plateau is; 0: not known
    double k             # seconds from the epoch's start to the plateau
    double prior         # cwnd_prior: the window before the last reduction; 0: not known
    double w_est         # what Reno would have (§4.3)


cdef struct HyStart:
    bint conservative      # in Conservative Slow Start
    uint32_t css_rounds    # rounds that ended there
    uint32_t samples       # RTT samples of this round
    bint round_used        # the window was in use in this round
    uint64_t round_end     # the round ends when a later packet is acknowledged; UINT64_MAX: none
    double last_minimum    # RTT of the round before; INFINITY: not known
    double minimum         # RTT of this round
    double baseline        # RTT at which the conservative phase began


cdef struct CongestionUndo:
    # What the last congestion event changed.
    bint possible          # False: none, undone, or ECN said the same as the loss
    bint ceiling_hit
    uint64_t window
    uint64_t ssthresh
    uint64_t credit
    double recovery_start
    Cubic cubic


cdef struct Congestion:
    # For the caller to read.
    uint64_t window            # 2 datagrams to CONGESTION_WINDOW_MAX
    uint64_t ssthresh          # UINT64_MAX: not known, the first slow start
    uint64_t bytes_in_flight
    uint64_t events            # congestion events, by loss and by ECN, undone ones included
    uint64_t undone            # events that were spurious
    # For the caller to set, after congestion_begin: on local paths, slow start ends here, and the
    # window goes further only until something is lost. 0: no ceiling.
    uint64_t soft_ceiling
    # Private.
    int algorithm              # a CongestionAlgorithm
    bint local                 # as the last RTT sample has it
    bint ceiling_hit           # something was lost: the ceiling is hard now
    uint64_t datagram_size
    uint64_t largest_sent
    uint64_t rtt_samples       # that were seen
    uint64_t credit            # NewReno: bytes acknowledged since the window last grew
    double recovery_start      # CONGESTION_NEVER: not in recovery since the beginning
    Cubic cubic
    HyStart hystart
    CongestionUndo undo


cdef inline uint64_t congestion_minimum_window(const Congestion *c) noexcept nogil:
    return 2 * c.datagram_size  # RFC 9002 §7.2


cdef inline uint64_t congestion_initial_window(uint64_t datagram_size) noexcept nogil:
    """RFC 9002 §7.2"""
    cdef uint64_t floor = 2 * datagram_size if 2 * datagram_size > 14720 else 14720
    return 10 * datagram_size if 10 * datagram_size < floor else floor


cdef inline void congestion_fresh_path(Congestion *c) noexcept nogil:
    c.window = congestion_initial_window(c.datagram_size)
    c.ssthresh = UINT64_MAX
    c.bytes_in_flight = 0
    c.local = False
    c.ceiling_hit = False
    c.rtt_samples = 0
    c.credit = 0
    c.recovery_start = CONGESTION_NEVER
    c.cubic.w_max = c.cubic.k = c.cubic.prior = c.cubic.w_est = 0.0
    c.cubic.epoch_start = c.cubic.used_at = CONGESTION_NEVER
    c.undo.possible = False
    hystart_begin(&c.hystart)


cdef inline void congestion_begin(
    Congestion *c, int algorithm, uint64_t datagram_size
) noexcept nogil:
    c.algorithm = algorithm
    c.datagram_size = datagram_size
    c.events = 0
    c.undone = 0
    c.soft_ceiling = 0
    c.largest_sent = 0
    congestion_fresh_path(c)


cdef inline void congestion_path_changed(Congestion *c, uint64_t datagram_size) noexcept nogil:
    """RFC 9000 §9.4: start afresh. Packets sent before are not to be reported any more."""
    c.datagram_size = datagram_size
    congestion_fresh_path(c)


cdef inline void congestion_set_datagram_size(
    Congestion *c, uint64_t datagram_size
) noexcept nogil:
    cdef bint untouched = c.events == 0 and c.window == congestion_initial_window(c.datagram_size)
    if datagram_size == c.datagram_size:
        return
    c.datagram_size = datagram_size
    c.cubic.epoch_start = CONGESTION_NEVER  # K is in segments of the old size
    if untouched:
        # RFC 9002 §7.2: the initial window follows the datagram size.
        c.window = congestion_initial_window(datagram_size)
    elif c.window < congestion_minimum_window(c):
        c.window = congestion_minimum_window(c)


cdef inline bint congestion_in_slow_start(const Congestion *c) noexcept nogil:
    return c.window < c.ssthresh


cdef inline uint64_t congestion_room(const Congestion *c) noexcept nogil:
    """Bytes that the window still takes."""
    return c.window - c.bytes_in_flight if c.bytes_in_flight < c.window else 0


cdef inline void congestion_sent(
    Congestion *c, uint64_t size, uint64_t packet_number
) noexcept nogil:
    """A packet that counts (RFC 9002 §2: ack-eliciting, or with PADDING) entered the flight."""
    c.bytes_in_flight += size
    if packet_number > c.largest_sent:
        c.largest_sent = packet_number
    if c.hystart.round_end == UINT64_MAX:
        c.hystart.round_end = packet_number


cdef inline uint64_t congestion_left_flight(Congestion *c, uint64_t size) noexcept nogil:
    """Returns how many of the bytes were in flight: all, where the caller counts right."""
    if size > c.bytes_in_flight:
        size = c.bytes_in_flight
    c.bytes_in_flight -= size
    return size


cdef inline void congestion_discarded(Congestion *c, uint64_t size) noexcept nogil:
    """Bytes leave the flight and say nothing: MTU probes, rejected 0-RTT, dropped keys."""
    congestion_left_flight(c, size)


@cython.cdivision(True)
cdef inline void congestion_acked(
    Congestion *c, const Rtt *rtt, uint64_t acked, uint64_t largest_acked, double largest_sent_at,
    bint window_was_used, double now,
) noexcept nogil:
    """One ACK frame newly acknowledged `acked` bytes in flight.

    largest_sent_at  when the highest-numbered of these packets left. An ACK that reaches over the
                     start of recovery counts whole: the window is then in congestion avoidance,
                     where an ACK adds little.
    window_was_used  the window, not the application, flow control or pacing, held packets back
    """
    cdef uint64_t threshold, limit = CONGESTION_WINDOW_MAX, step
    acked = congestion_left_flight(c, acked)
    c.local = rtt_is_local(rtt)
    if c.ssthresh == UINT64_MAX:
        hystart_acked(c, rtt, largest_acked, window_was_used)
    c.rtt_samples = rtt.samples
    threshold = c.ssthresh
    if c.local and c.soft_ceiling != 0:
        if c.soft_ceiling < threshold:
            threshold = c.soft_ceiling
        if c.ceiling_hit:
            limit = c.soft_ceiling
    # RFC 9002 §7.3.2: nothing sent before recovery began grows the window. §7.8: nor does what
    # is acknowledged while the window is not full.
    if largest_sent_at <= c.recovery_start or not window_was_used or c.window >= limit:
        return
    if c.window < threshold:
        # RFC 9002 §7.3.1. RFC 9406 §4.3: no limit to the step, since we pace.
        step = acked
        if c.hystart.conservative:
            step = acked // HYSTART_CSS_DIVISOR
        if step < threshold - c.window:
            c.window += step
            acked = 0
        else:
            acked = step - (threshold - c.window)
            c.window = threshold
    if acked != 0:
        if c.algorithm == CUBIC:
            cubic_grow(c, rtt, acked, largest_sent_at, now)
        else:
            # RFC 9002 §7.3.3: a datagram for each window that is acknowledged.
            c.credit += acked
            step = c.credit // c.window
            c.credit -= step * c.window
            c.window += step * c.datagram_size
    if c.window > limit:
        c.window = limit


cdef inline bint congestion_event(Congestion *c, double sent_at, double now) noexcept nogil:
    """Reduce the window, once per round trip; False when that has been done."""
    # RFC 9002 §7.3.2: what was sent before recovery began belongs to the same event.
    if sent_at <= c.recovery_start:
        return False
    c.undo.possible = True
    c.undo.ceiling_hit = c.ceiling_hit
    c.undo.window = c.window
    c.undo.ssthresh = c.ssthresh
    c.undo.credit = c.credit
    c.undo.recovery_start = c.recovery_start
    c.undo.cubic = c.cubic
    c.events += 1
    c.recovery_start = now
    c.ceiling_hit = True
    if c.algorithm == CUBIC:
        cubic_reduce(&c.cubic, <double>c.window)
        c.window = <uint64_t>(<double>c.window * CUBIC_BETA)
    else:
        c.window = <uint64_t>(<double>c.window * NEWRENO_BETA)
    if c.local and c.soft_ceiling != 0 and c.window > c.soft_ceiling:
        c.window = c.soft_ceiling
    if c.window < congestion_minimum_window(c):
        c.window = congestion_minimum_window(c)
    c.ssthresh = c.window
    c.credit = 0
    c.hystart.conservative = False
    return True


cdef inline bint congestion_lost(
    Congestion *c, uint64_t lost, double largest_lost_sent_at, double now
) noexcept nogil:
    """One round of loss detection found `lost` bytes in flight lost; True: a new event begins."""
    if lost == 0:
        return False
    congestion_left_flight(c, lost)
    return congestion_event(c, largest_lost_sent_at, now)


cdef inline void congestion_ce(Congestion *c, double largest_sent_at, double now) noexcept nogil:
    """An ACK raised the ECN-CE count. largest_sent_at: of its largest acknowledged packet."""
    congestion_event(c, largest_sent_at, now)  # RFC 9002 §7.1: as a loss
    c.undo.possible = False  # the network said so itself


cdef inline void congestion_persistent(Congestion *c) noexcept nogil:
    """Persistent congestion (RFC 9002 §7.6.2), after congestion_lost for the same packets."""
    c.window = congestion_minimum_window(c)
    c.recovery_start = CONGESTION_NEVER
    c.credit = 0
    # RFC 9438 §4.8: what CUBIC remembers is void; it begins with K = 0 after slow start.
    c.cubic.w_max = c.cubic.prior = 0.0
    c.cubic.epoch_start = CONGESTION_NEVER


cdef inline void congestion_spurious(Congestion *c) noexcept nogil:
    """All packets lost in the last event were acknowledged after all: undo it (RFC 9438 §4.9)."""
    if not c.undo.possible:
        return
    c.undo.possible = False
    c.undone += 1
    if c.window < c.undo.window:
        c.window = c.undo.window
    c.ssthresh = c.undo.ssthresh
    c.credit = c.undo.credit
    c.recovery_start = c.undo.recovery_start
    c.ceiling_hit = c.undo.ceiling_hit
    c.cubic = c.undo.cubic


# CUBIC


cdef inline void cubic_reduce(Cubic *cubic, double window) noexcept nogil:
    # RFC 9438 §4.7, fast convergence: a flow that did not get back to its old plateau leaves room.
    cubic.w_max = window * (1.0 + CUBIC_BETA) / 2 if window < cubic.w_max else window
    cubic.prior = window
    cubic.epoch_start = CONGESTION_NEVER


cdef inline double cubic_at(const Cubic *cubic, double segment, double t) noexcept nogil:
    """RFC 9438 §4.2, equation 1."""
    cdef double from_plateau = t - cubic.k
    return CUBIC_C * segment * from_plateau * from_plateau * from_plateau + cubic.w_max


@cython.cdivision(True)
cdef inline void cubic_grow(
    Congestion *c, const Rtt *rtt, uint64_t acked, double sent_at, double now
) noexcept nogil:
    """Congestion avoidance: RFC 9438 §4.2 to §4.5."""
    cdef Cubic *cubic = &c.cubic
    cdef double window = <double>c.window
    cdef double segment = <double>c.datagram_size
    cdef double share = <double>acked / window
    cdef double idle, t, target
    if share > 1.0:
        share = 1.0
    if cubic.epoch_start == CONGESTION_NEVER:
        cubic.epoch_start = now
        cubic.w_est = window
        if cubic.prior == 0.0:
            cubic.prior = window
        if cubic.w_max > window:
            cubic.k = cbrt((cubic.w_max - window) / (CUBIC_C * segment))
        else:
            # RFC 9438 §4.8, §4.10: no plateau ahead, as after HyStart++: it is here.
            cubic.w_max = window
            cubic.k = 0.0
    else:
        # RFC 9438 §5.8: the curve does not run on while the window is not in use. What is
        # acknowledged now left before the last such ACK came, unless there was a pause.
        idle = sent_at - cubic.used_at
        if idle > 0.0:
            cubic.epoch_start += idle
    cubic.used_at = now
    t = now - cubic.epoch_start
    if not t > 0.0:
        t = 0.0
    # RFC 9438 §4.3: as fast as Reno where the curve is slower; Reno's own step (alpha = 1) once
    # the old window is reached.
    cubic.w_est += (CUBIC_ALPHA if cubic.w_est < cubic.prior else 1.0) * segment * share
    if cubic_at(cubic, segment, t) < cubic.w_est:
        if cubic.w_est > window:
            c.window = <uint64_t>cubic.w_est
        return
    target = cubic_at(cubic, segment, t + rtt.smoothed)
    if target > 1.5 * window:
        target = 1.5 * window
    if target > window:
        # Cut to whole bytes: that leaves the window behind its curve by a byte per segment.
        c.window += <uint64_t>((target - window) * share)


# HyStart++


cdef inline void hystart_round(HyStart *h, uint64_t round_end) noexcept nogil:
    """RFC 9406 §4.2: a round begins; it ends when what is sent from now on is acknowledged."""
    h.round_end = round_end
    h.round_used = False
    h.last_minimum = h.minimum
    h.minimum = INFINITY
    h.samples = 0


cdef inline void hystart_begin(HyStart *h) noexcept nogil:
    h.conservative = False
    h.css_rounds = 0
    h.baseline = INFINITY
    h.minimum = INFINITY
    hystart_round(h, UINT64_MAX)


@cython.cdivision(True)
cdef inline void hystart_acked(
    Congestion *c, const Rtt *rtt, uint64_t largest_acked, bint window_was_used
) noexcept nogil:
    """RFC 9406 §4.2. It ends the first slow start by setting ssthresh."""
    cdef HyStart *h = &c.hystart
    cdef double threshold
    # On a local path the event loops add more delay than a queue does. Loss, or the soft ceiling,
    # ends slow start there.
    if c.local:
        h.conservative = False
        return
    if largest_acked > h.round_end:
        if h.conservative and h.round_used:
            h.css_rounds += 1
            if h.css_rounds >= HYSTART_CSS_ROUNDS:
                h.conservative = False
                c.ssthresh = c.window
                return
        hystart_round(h, c.largest_sent)
    if rtt.samples != c.rtt_samples:
        h.samples += 1
        if rtt.latest < h.minimum:
            h.minimum = rtt.latest
    if window_was_used:
        h.round_used = True
    if h.samples >= HYSTART_SAMPLES:
        if h.conservative:
            if h.minimum < h.baseline:
                h.conservative = False  # the delay was a passing one
                h.baseline = INFINITY
        else:
            threshold = h.last_minimum / HYSTART_DIVISOR
            if threshold < HYSTART_THRESHOLD_MIN:
                threshold = HYSTART_THRESHOLD_MIN
            elif threshold > HYSTART_THRESHOLD_MAX:
                threshold = HYSTART_THRESHOLD_MAX
            if h.minimum >= h.last_minimum + threshold:
                h.conservative = True
                h.css_rounds = 0
                h.baseline = h.minimum
