# ECN of one path (RFC 9000 §13.4.2, appendix A.4): whether its packets are marked ECT(0), and
# whether what the peer counted can be believed. It marks nothing itself and moves no window.

from libc.stdint cimport uint64_t

cdef enum:
    NOT_ECT = 0  # codepoints, as they stand in the IP header
    ECT_1 = 1
    ECT_0 = 2
    CE = 3
    ECN_TEST_PACKETS = 10  # a path is tested with so many packets,
    ECN_TEST_PTOS = 3      # or for so long (§13.4.2)

cdef enum EcnState:
    ECN_OFF       # not wanted
    ECN_TESTING   # the first packets of the path are marked
    ECN_UNKNOWN   # enough were; none is known to have arrived with its mark
    ECN_CAPABLE   # all are marked
    ECN_FAILED    # marks, or packets with marks, do not get through

cdef struct Ecn:
    # For the caller to read.
    EcnState state
    uint64_t ce              # packets that the peer counted as CE, by its newest ACK
    # Private.
    uint64_t ect0, ect1      # the same for the others
    uint64_t marked          # packets sent as ECT(0), on every path
    uint64_t tested          # of this path's ack-eliciting packets, how many were marked,
    uint64_t settled         # and how many of them were acknowledged or lost
    double test_until        # 0: the test has not begun


cdef inline void ecn_begin(Ecn *ecn) noexcept nogil:
    """Test a new path. What the peer has counted so far is where it begins."""
    if ecn.state != ECN_OFF:
        ecn.state = ECN_TESTING
    ecn.tested = ecn.settled = 0
    ecn.test_until = 0


cdef inline void ecn_conclude(Ecn *ecn) noexcept nogil:
    """A.4: failed where all that were marked are lost, or came as CE."""
    if ecn.state == ECN_UNKNOWN and ecn.settled >= ecn.tested:
        ecn.state = ECN_FAILED


cdef inline int ecn_codepoint(Ecn *ecn, double pto, double now) noexcept nogil:
    """Codepoint of the packets that are sent next."""
    if ecn.state == ECN_TESTING and ecn.tested:
        if ecn.test_until == 0:
            ecn.test_until = now + ECN_TEST_PTOS * pto
        if ecn.tested >= ECN_TEST_PACKETS or now >= ecn.test_until:
            ecn.state = ECN_UNKNOWN
            ecn_conclude(ecn)
    return ECT_0 if ecn.state == ECN_TESTING or ecn.state == ECN_CAPABLE else NOT_ECT


cdef inline void ecn_counted(Ecn *ecn, uint64_t ect0, uint64_t ect1, uint64_t ce) noexcept nogil:
    """What the peer has counted by its newest ACK."""
    ecn.ect0, ecn.ect1, ecn.ce = ect0, ect1, ce


cdef inline void ecn_lost(Ecn *ecn) noexcept nogil:
    """A marked packet of this path is lost."""
    ecn.settled += 1
    ecn_conclude(ecn)


cdef inline bint ecn_acked(
    Ecn *ecn, uint64_t marked, bint newest, bint counted, uint64_t ect0, uint64_t ect1, uint64_t ce,
) noexcept nogil:
    """An ACK newly acknowledged packets of this path, `marked` of which were marked.

    newest   it raised the largest acknowledged number; counts of others are out of date
    counted  it had counts
    True where it tells of congestion (RFC 9002 §7.1).
    """
    cdef bint believed = marked == 0, arrived = False, congested = False
    ecn.settled += marked
    if newest:
        if counted:
            # §13.4.2.1. ACKs get lost, so that counts may grow by more than is acknowledged now.
            believed = (
                ect0 >= ecn.ect0 and ce >= ecn.ce and ect1 == ecn.ect1
                and ect0 - ecn.ect0 + ce - ecn.ce >= marked and ect0 + ce <= ecn.marked)
            arrived, congested = ect0 > ecn.ect0, ce > ecn.ce
            ecn_counted(ecn, ect0, ect1, ce)
        if ecn.state != ECN_OFF and not believed:
            ecn.state = ECN_FAILED
        elif arrived and marked and (ecn.state == ECN_TESTING or ecn.state == ECN_UNKNOWN):
            ecn.state = ECN_CAPABLE
    ecn_conclude(ecn)
    return congested and ecn.state == ECN_CAPABLE
