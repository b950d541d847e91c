# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
"""The data plane's path state (rtt, congestion, pacing, mtu), its blocks (send_blocks) and what it
reads from control messages (udp_receive, udp_errors) with Python in front, for tests only.

One class a struct; each method calls one C function, each other attribute is a field.
"""

cimport cython

include "fastpath/c_socket.pxd"
include "fastpath/c_memory.pxd"
include "fastpath/address.pxi"
include "fastpath/udp_errors.pxi"
include "fastpath/udp_receive.pxi"
include "fastpath/rtt.pxi"
include "fastpath/congestion.pxi"
include "fastpath/pacing.pxi"
include "fastpath/mtu.pxi"
include "fastpath/send_blocks.pxi"

from cpython.bytes cimport PyBytes_AS_STRING

ALGORITHMS = {"newreno": NEWRENO, "cubic": CUBIC}
UNLIMITED = UINT64_MAX
BLOCK_SIZE, BLOCKS_AT_ONCE, COPIES = BLOCK_BYTES, BLOCKS_MOST, COPIES_LEAST


cdef class PathRtt:
    cdef Rtt state

    def __init__(self, double initial=0.333, double max_ack_delay=0.025):
        rtt_begin(&self.state, initial, max_ack_delay)

    def __getattr__(self, name):
        return field(self.state, name)

    def sample(self, double latest, double ack_delay=0.0, bint confirmed=True, double now=0.0):
        rtt_sample(&self.state, latest, ack_delay, confirmed, now)

    def forget_minimum(self):
        rtt_forget_minimum(&self.state)

    def is_local(self):
        return rtt_is_local(&self.state)

    def pto(self):
        return rtt_pto(&self.state)

    def loss_delay(self):
        return rtt_loss_delay(&self.state)


cdef class PathCongestion:
    cdef Congestion state

    def __init__(self, algorithm, uint64_t datagram_size=1200, uint64_t soft_ceiling=0):
        congestion_begin(&self.state, ALGORITHMS[algorithm], datagram_size)
        self.state.soft_ceiling = soft_ceiling

    def __getattr__(self, name):
        return field(self.state, name)

    def sent(self, uint64_t size, uint64_t packet_number):
        congestion_sent(&self.state, size, packet_number)

    def acked(
        self, PathRtt rtt, uint64_t acked, uint64_t largest_acked, double largest_sent_at,
        bint window_was_used, double now,
    ):
        congestion_acked(
            &self.state, &rtt.state, acked, largest_acked, largest_sent_at, window_was_used, now)

    def lost(self, uint64_t lost, double largest_lost_sent_at, double now):
        return congestion_lost(&self.state, lost, largest_lost_sent_at, now)

    def ce(self, double largest_sent_at, double now):
        congestion_ce(&self.state, largest_sent_at, now)

    def persistent(self):
        congestion_persistent(&self.state)

    def spurious(self):
        congestion_spurious(&self.state)

    def discarded(self, uint64_t size):
        congestion_discarded(&self.state, size)

    def set_datagram_size(self, uint64_t size):
        congestion_set_datagram_size(&self.state, size)

    def path_changed(self, uint64_t datagram_size):
        congestion_path_changed(&self.state, datagram_size)

    def in_slow_start(self):
        return congestion_in_slow_start(&self.state)

    def room(self):
        return congestion_room(&self.state)


cdef class PathPacer:
    cdef Pacer state

    def __init__(self):
        pacer_begin(&self.state)

    def __getattr__(self, name):
        return field(self.state, name)

    def allowance(
        self, PathRtt rtt, uint64_t window, bint slow_start, uint64_t datagram_size, double now
    ):
        return pacer_allowance(
            &self.state, &rtt.state, window, slow_start, datagram_size, now)

    def sent(self, uint64_t size):
        pacer_sent(&self.state, size)

    def ready_at(self):
        return pacer_ready_at(&self.state)


cdef class PathMtu:
    cdef Mtu state

    def __init__(self, uint16_t initial=1200, uint16_t upper_bound=1452):
        mtu_begin(&self.state, initial, upper_bound)

    def __getattr__(self, name):
        return field(self.state, name)

    def probe_size(self, double now):
        return mtu_probe_size(&self.state, now)

    def probe_sent(self, uint64_t packet_number, double now):
        mtu_probe_sent(&self.state, packet_number, now)

    def probe_acked(self, uint64_t packet_number):
        return bool(mtu_probe_acked(&self.state, packet_number))

    def probe_lost(self, uint64_t packet_number):
        return bool(mtu_probe_lost(&self.state, packet_number))

    def packet_acked(self, uint16_t size, uint64_t packet_number):
        mtu_packet_acked(&self.state, size, packet_number)

    def packet_lost(self, uint16_t size, uint64_t packet_number, uint64_t largest_sent):
        return bool(mtu_packet_lost(&self.state, size, packet_number, largest_sent))

    def refused(self, uint16_t size, double now):
        return bool(mtu_refused(&self.state, size, now))

    def limit(self, uint16_t size):
        return bool(mtu_limit(&self.state, size))


cdef class Lender:
    """The blocks of a connection; a block is known by where its bytes begin."""

    cdef BlockQueue state
    cdef dict taken  # the Blocks that are neither lent nor spare, by their addresses

    def __init__(self):
        self.taken = {}

    def take(self, uint64_t settled):
        cdef Block *block = block_take(&self.state, settled)
        if block == NULL:
            self.state.copied += 1
            return None
        self.taken[<size_t>block.bytes] = <size_t>block
        return <size_t>block.bytes

    def lend(self, size_t address, uint64_t first, uint64_t behind):
        block_lend(&self.state, <Block *><size_t>self.taken.pop(address), first, behind)

    def put(self, size_t address, bint known=True):
        block_put(
            <Block *><size_t>self.taken.pop(address), self.state.number if known else NOBODY)

    def lost(self, uint64_t number):
        self.state.lost_behind = max(self.state.lost_behind, number + 1)

    def give_back(self, uint64_t settled):
        blocks_give_back(&self.state, settled)

    def end(self):
        blocks_free(&self.state)

    def lent(self):
        return listed(self.state.head)


def blocks_in_all():
    return blocks_begun


def blocks_spare():
    return listed(spare_blocks)


def forget_blocks():
    """There are none, and a new region; those that there were stay mapped."""
    global spare_blocks, blocks_begun, region
    spare_blocks, blocks_begun, region = NULL, 0, NULL


def message_of(bytes control, size_t length, int flags=0):
    """(segment size, segments, ECN, family, octets and scope of the local address) of a message with
    this control data; None where it is not usable."""
    cdef Receiver *receiver = <Receiver *>calloc(1, sizeof(Receiver))
    cdef msghdr *header = &receiver.headers[0].msg_hdr
    cdef Message out
    try:
        receiver.arena = <uint8_t *>malloc(1)
        header.msg_control = copied(control)
        header.msg_controllen = <size_t>len(control)
        header.msg_flags = flags
        if not read_message(receiver, 0, length, &out):
            return None
        return (
            out.segment_size, out.segments, out.ecn,
            out.local.family, bytes(out.local.octets[:16]), out.local.scope)
    finally:
        free(header.msg_control)
        close_receiver(receiver)
        free(receiver)


def icmp_errno_of(bytes control):
    """The errno that an ICMP error in this control data was turned into; 0: there is none."""
    cdef msghdr message
    memset(&message, 0, sizeof(message))
    message.msg_control = copied(control)
    message.msg_controllen = <size_t>len(control)
    try:
        return icmp_errno(&message)
    finally:
        free(message.msg_control)


cdef void *copied(bytes data) except NULL:
    """Memory of exactly that size, so that AddressSanitizer sees what is read behind it."""
    cdef void *copy = malloc(<size_t>len(data))
    if copy == NULL:
        raise MemoryError()
    memcpy(copy, PyBytes_AS_STRING(data), <size_t>len(data))
    return copy


cdef list listed(Block *block):
    cdef list addresses = []
    while block != NULL:
        addresses.append(<size_t>block.bytes)
        block = block.next
    return addresses


cdef object field(dict fields, str name):
    try:
        return fields[name]
    except KeyError:
        raise AttributeError(name) from None
