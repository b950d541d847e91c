# What a DataPlane is made of besides the parts above: numbers, bounds, counts of its own.
#
# Plain C; data_plane says how it hangs together.

from cpython.list cimport PyList_GET_SIZE

# The numbers of rawquic.connection.interface.Event; a test compares them.
cdef tuple EVENTS = tuple(Event)

cdef enum:
    EVENT_STREAM_OPENED = 1
    EVENT_READABLE = 2
    EVENT_WRITABLE = 3
    EVENT_STOPPED = 4
    EVENT_SEND_ENDED = 5
    EVENT_STREAMS_AVAILABLE = 6
    EVENT_DATAGRAMS = 7
    EVENT_DATAGRAM_ROOM = 8
    EVENT_PING_ACKED = 9

# RFC 9000 §20.1
cdef enum:
    FLOW_CONTROL_ERROR = 0x3
    STREAM_LIMIT_ERROR = 0x4
    STREAM_STATE_ERROR = 0x5
    FINAL_SIZE_ERROR = 0x6
    FRAME_ENCODING_ERROR = 0x7
    PROTOCOL_VIOLATION = 0xA
    KEY_UPDATE_ERROR = 0xE
    AEAD_LIMIT_REACHED = 0xF
    INTERNAL_ERROR = 0x1

cdef enum:
    CID_MOST = 20
    HOST_CID_LENGTH = 8          # ours have one length, so that short headers can be routed
    GLITCH_BURST = 10000         # frames that carry nothing: at once, and per second
    GLITCH_RATE = 330
    DROPS_MOST = 1000            # packets dropped for too many holes in streams
    TINY = 64                    # bytes of a STREAM frame that may not make holes for ever
    SKIPPED_KEPT = 12            # packet numbers left out on purpose: more than a ring can hold

cdef struct StreamCounts:
    # Streams of one kind (bidirectional or unidirectional).
    uint64_t peer_opened      # by the peer
    uint64_t peer_limit       # how many it may open in all: MAX_STREAMS as we sent it last
    uint64_t peer_allowed     # how many it may have open at once
    uint64_t peer_ended       # of those it opened, how many are gone
    uint64_t own_opened       # by us
    uint64_t own_limit        # the peer's MAX_STREAMS
    bint limit_due            # MAX_STREAMS is to be sent
    bint peer_blocked         # STREAMS_BLOCKED came: give the next one at once
    bint blocked              # open_stream found no credit: tell when there is
    bint blocked_due          # STREAMS_BLOCKED is to be sent

cdef struct Flow:
    uint64_t window           # ours, for the connection: unread bytes that it may hold
    uint64_t credit           # MAX_DATA as we sent it last
    uint64_t received         # sum of the highest offsets of all streams
    uint64_t consumed         # read by the application, or given up
    uint64_t read             # by the application
    uint64_t read_before      # `read` when the streams' window was last weighed, at `weighed_at`
    double weighed_at
    bint credit_due
    uint64_t peer_credit      # the peer's MAX_DATA
    uint64_t written          # taken from the application: never above peer_credit
    uint64_t buffered         # written and not acknowledged
    uint64_t send_window      # bound of `buffered`
    uint64_t retransmitted    # bytes

cdef struct StreamFrame:
    # A STREAM frame (RFC 9000 §19.8).
    uint64_t frame_type
    uint64_t stream_id
    uint64_t offset
    uint64_t size
    const uint8_t *data       # borrowed: in the packet, or where it belongs already
    bint final

cdef struct Placing:
    # What the last STREAM frames were.
    uint64_t stream_id
    unsigned int in_sequence  # frames on end, alone in their packets, of one stream, in order
    unsigned int doubt        # runs that were mostly guessed wrong, less those guessed right
    size_t head_length        # from the frame's type to its data

cdef struct Happening:
    int kind
    uint64_t number

cdef struct EventQueue:
    # No Python objects: to make one may collect garbage, which runs code that frees streams here.
    Happening *items          # owned; `room` of them
    size_t count
    size_t room

cdef struct Counters:
    uint64_t packets_sent, packets_received, packets_acked, packets_lost, spurious
    uint64_t datagrams_received, bytes_received, bytes_sent, failed_opens
    uint64_t holes_dropped, key_updates, peer_key_updates, ptos
    uint64_t placed           # packets opened to where their data belongs


cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buffer, size_t size, unsigned int flags)


cdef uint64_t random_below(uint64_t bound) noexcept nogil:
    """A number from 0 to bound - 1 that a peer cannot guess."""
    cdef uint64_t value = 0
    if getrandom(&value, sizeof(value), 0) < 0:
        return 0  # before the system has entropy; a guess then gains nothing worth having
    return value % bound
