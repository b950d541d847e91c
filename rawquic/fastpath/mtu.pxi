# Path MTU discovery of one path (DPLPMTUD: RFC 8899, RFC 9000 §14.3): which UDP payload size to
# use, when to probe a larger one, when to stop believing in the one in use. It builds no probe,
# sets no timer (it is asked when something is to be sent), and never goes below 1,200 bytes.

from libc.math cimport INFINITY
from libc.stdint cimport uint8_t, uint16_t, uint64_t

cdef extern from *:
    """
    #define MTU_PROBE_TIMER   20.0  /* RFC 8899 section 5.1.1: longer than 15 s */
    #define MTU_RETRY_DELAY   0.1   /* one congested moment is not to take all probes of a size */
    #define MTU_RAISE_TIMER   600.0 /* RFC 8899 section 5.1.1 */
    #define MTU_BLACK_HOLE_COOLDOWN 60.0
    #define MTU_NEVER         ((double)INFINITY)
    """
    const double MTU_PROBE_TIMER
    const double MTU_RETRY_DELAY
    const double MTU_RAISE_TIMER
    const double MTU_BLACK_HOLE_COOLDOWN
    const double MTU_NEVER

cdef enum:
    MTU_BASE = 1200              # RFC 9000 §14: what every path has to carry
    MTU_STEP = 20                # what is not worth a probe
    MTU_MAX_PROBES = 3           # RFC 8899 §5.1.2
    MTU_BLACK_HOLE_FLIGHTS = 3   # flights in a row that lost large packets


cdef struct Mtu:
    # For the caller to read.
    uint16_t current         # the largest UDP payload to send
    uint16_t probed          # size of the probe in flight; 0: none
    uint16_t bound           # no datagram is larger, probes included
    uint64_t black_holes
    # Private.
    uint16_t ceiling         # the largest size that this search has not refuted
    uint16_t candidate       # what mtu_probe_size said last
    uint8_t lost_probes      # of the size that is tried
    bint cooling             # a black hole was found; the search waits
    uint64_t probe_number    # packet number of the probe in flight
    double probe_sent_at
    double search_at         # no probe before this time; MTU_NEVER: there is nothing to find
    # Black-hole detection: large packets lost in these many flights, none acknowledged since.
    uint8_t suspicions
    uint16_t suspect_size    # the largest of them
    uint64_t suspect_from    # the first of them
    uint64_t flight_end      # losses up to this number are in a flight that was counted
    uint64_t full_acked      # highest number acknowledged of a packet of full size, plus 1


cdef inline void mtu_begin(Mtu *mtu, uint16_t initial, uint16_t upper_bound) noexcept nogil:
    """Start for a new path with `initial`, to find what it carries, up to `upper_bound`."""
    mtu.bound = upper_bound if upper_bound > MTU_BASE else <uint16_t>MTU_BASE
    mtu.current = initial if initial > MTU_BASE else <uint16_t>MTU_BASE
    if mtu.current > mtu.bound:
        mtu.current = mtu.bound
    mtu.black_holes = 0
    mtu.probe_number = 0
    mtu.probe_sent_at = 0.0
    mtu.full_acked = 0
    mtu_search(mtu, 0.0)
    mtu_trust(mtu)


cdef inline void mtu_search(Mtu *mtu, double at) noexcept nogil:
    """Search the whole range, the bound first, not before `at`. A probe in flight is forgotten."""
    mtu.ceiling = mtu.bound
    mtu.probed = 0
    mtu.candidate = 0
    mtu.lost_probes = 0
    mtu.cooling = False
    mtu.search_at = at


cdef inline void mtu_trust(Mtu *mtu) noexcept nogil:
    mtu.suspicions = 0
    mtu.suspect_size = 0
    mtu.suspect_from = 0
    mtu.flight_end = 0


cdef inline uint16_t mtu_probe_size(Mtu *mtu, double now) noexcept nogil:
    """Size of the probe that is due; 0: none."""
    if mtu.probed != 0:
        # RFC 8899 §5.1.1: PROBE_TIMER. Loss detection is nearly always sooner.
        if now < mtu.probe_sent_at + MTU_PROBE_TIMER:
            return 0
        mtu_probe_failed(mtu)
    if mtu.cooling:
        mtu_search(mtu, now + MTU_BLACK_HOLE_COOLDOWN)
    if now < mtu.search_at or mtu.current >= mtu.bound:
        return 0
    if mtu.ceiling - mtu.current < MTU_STEP and mtu.ceiling != mtu.bound:
        # The search was complete, and PMTU_RAISE_TIMER has run since (RFC 8899 §5.2).
        mtu_search(mtu, now)
    if mtu.ceiling == mtu.bound:
        mtu.candidate = mtu.bound
    else:
        mtu.candidate = <uint16_t>((mtu.current + mtu.ceiling + 1) >> 1)
    return mtu.candidate


cdef inline void mtu_probe_sent(Mtu *mtu, uint64_t packet_number, double now) noexcept nogil:
    """The probe left, in a datagram of its own and of the size that mtu_probe_size said."""
    mtu.probed = mtu.candidate
    mtu.probe_number = packet_number
    mtu.probe_sent_at = now


cdef inline bint mtu_probe_acked(Mtu *mtu, uint64_t packet_number) noexcept nogil:
    """True where `current` was raised."""
    if mtu.probed == 0 or packet_number != mtu.probe_number:
        return False
    mtu.current = mtu.probed
    mtu.probed = 0
    mtu.lost_probes = 0
    mtu_trust(mtu)
    mtu_wait_when_complete(mtu)
    return True


cdef inline bint mtu_probe_lost(Mtu *mtu, uint64_t packet_number) noexcept nogil:
    """True where it was the probe in flight. RFC 9000 §14.4: its loss is no congestion signal."""
    if mtu.probed == 0 or packet_number != mtu.probe_number:
        return False
    mtu_probe_failed(mtu)
    return True


cdef inline void mtu_probe_failed(Mtu *mtu) noexcept nogil:
    mtu.lost_probes += 1
    mtu.search_at = mtu.probe_sent_at + MTU_RETRY_DELAY * mtu.lost_probes
    if mtu.lost_probes >= MTU_MAX_PROBES:
        mtu.ceiling = <uint16_t>(mtu.probed - 1)
        mtu.lost_probes = 0
        mtu_wait_when_complete(mtu)
    mtu.probed = 0


cdef inline void mtu_wait_when_complete(Mtu *mtu) noexcept nogil:
    if mtu.ceiling - mtu.current < MTU_STEP:
        mtu.search_at = mtu.probe_sent_at + MTU_RAISE_TIMER


cdef inline void mtu_packet_acked(
    Mtu *mtu, uint16_t size, uint64_t packet_number
) noexcept nogil:
    """A datagram that was no probe arrived. Of an ACK's full-size packets the highest is enough."""
    if size >= mtu.current and packet_number >= mtu.full_acked:
        mtu.full_acked = packet_number + 1
    if mtu.suspicions != 0 and size >= mtu.suspect_size and packet_number > mtu.suspect_from:
        mtu_trust(mtu)


cdef inline bint mtu_packet_lost(
    Mtu *mtu, uint16_t size, uint64_t packet_number, uint64_t largest_sent
) noexcept nogil:
    """A datagram that was no probe is lost; report what an ACK acknowledged before.

    True where that makes a black hole (RFC 8899 §4.3): `current` is the base size again, for at
    least a minute. Congestion loses small packets too, and not in each of several flights all
    large packets, so one flight counts once. largest_sent: the highest packet number in use.
    """
    if size <= MTU_BASE or size > mtu.current:
        return False
    # One that was sent later, no smaller, has arrived; or the flight was counted.
    if packet_number < mtu.full_acked or (mtu.suspicions != 0 and packet_number <= mtu.flight_end):
        return False
    if mtu.suspicions == 0:
        mtu.suspect_size = size
        mtu.suspect_from = packet_number
    elif size > mtu.suspect_size:
        mtu.suspect_size = size
    mtu.suspicions += 1
    mtu.flight_end = largest_sent
    if mtu.suspicions < MTU_BLACK_HOLE_FLIGHTS:
        return False
    mtu.black_holes += 1
    mtu.current = MTU_BASE
    mtu_trust(mtu)
    mtu_search(mtu, MTU_NEVER)
    mtu.cooling = True
    return True


cdef inline bint mtu_refused(Mtu *mtu, uint16_t size, double now) noexcept nogil:
    """The system sends no datagram of `size` here (EMSGSIZE). False where that is no news.

    One probe is enough then. If not even `current` fits, it is the base size at once, and the search
    goes up again from there.
    """
    if size <= MTU_BASE or size > mtu.ceiling:
        return False
    mtu.ceiling = <uint16_t>(size - 1)
    mtu.probed = 0
    mtu.candidate = 0
    mtu.lost_probes = 0
    if size <= mtu.current:
        mtu.current = MTU_BASE
        mtu.search_at = now
        mtu_trust(mtu)
    if mtu.ceiling - mtu.current < MTU_STEP:
        mtu.search_at = now + MTU_RAISE_TIMER
    return True


cdef inline bint mtu_limit(Mtu *mtu, uint16_t size) noexcept nogil:
    """No datagram of this path may exceed `size`: the peer says so (max_udp_payload_size). True
    where `current` was lowered."""
    cdef bint lowered
    if size < MTU_BASE:
        size = MTU_BASE
    if size >= mtu.bound:
        return False
    lowered = mtu.current > size
    mtu.bound = size
    if lowered:
        mtu.current = size
    if mtu.ceiling > size:
        mtu.ceiling = size
    if mtu.probed > size:
        # Refused or lost for certain; neither says anything about smaller sizes.
        mtu.probed = 0
        mtu.lost_probes = 0
    if mtu.candidate > size:
        mtu.candidate = 0
        mtu.lost_probes = 0
    return lowered
