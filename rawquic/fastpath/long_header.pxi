# Long headers of QUIC 1 and 2 (RFC 9000 §17.2, RFC 9369 §3.2): those of Initial, 0-RTT and Handshake
# packets. Whatever else there is, and whatever is malformed, is None here: aioquic says what it is.

cdef enum:
    QUIC_1 = 0x00000001
    QUIC_2 = 0x6B3343CF
    CID_LONGEST = 20
    KIND_INITIAL = 0
    KIND_RETRY = 3


@cython.final
@cython.freelist(8)
cdef class PacketHeader:
    """What such a header says, under the names of aioquic's `QuicHeader`.

    header_length  bytes before the packet number
    packet_length  bytes of the whole packet
    """

    cdef:
        readonly uint32_t version
        readonly object packet_type
        readonly Py_ssize_t header_length
        readonly Py_ssize_t packet_length
        readonly bytes destination_cid
        readonly bytes source_cid
        readonly bytes token


def packet_header(
    bytes data not None, Py_ssize_t start, tuple types not None
) -> PacketHeader | None:
    """The header of the packet that begins at `start`, or None.

    types  what `packet_type` is for an Initial, a 0-RTT and a Handshake packet
    """
    cdef Cursor cursor
    cdef const uint8_t *first
    cdef const uint8_t *destination
    cdef const uint8_t *source
    cdef const uint8_t *token = NULL
    cdef uint8_t destination_length = 0, source_length = 0
    cdef uint64_t token_length = 0, rest = 0
    cdef uint32_t version
    cdef unsigned int kind
    cdef PacketHeader header
    if not 0 <= start <= PyBytes_GET_SIZE(data):
        return None
    first = <const uint8_t *>PyBytes_AS_STRING(data) + start
    cursor.at = first
    cursor.left = <size_t>(PyBytes_GET_SIZE(data) - start)
    if cursor.left < 7 or first[0] & 0xC0 != 0xC0:
        return None
    version = <uint32_t>load_32(first + 1)
    kind = first[0] >> 4 & 3
    if version == QUIC_2:
        kind = (kind + 3) & 3  # RFC 9369 §3.2
    elif version != QUIC_1:
        return None
    cursor.at += 5
    cursor.left -= 5
    if (
        kind == KIND_RETRY
        or not take_u8(&cursor, &destination_length) or destination_length > CID_LONGEST
        or not take_bytes(&cursor, destination_length, &destination)
        or not take_u8(&cursor, &source_length) or source_length > CID_LONGEST
        or not take_bytes(&cursor, source_length, &source)
    ):
        return None
    if kind == KIND_INITIAL and (
        not take_varint(&cursor, &token_length) or not take_bytes(&cursor, token_length, &token)
    ):
        return None
    if not take_varint(&cursor, &rest) or rest > cursor.left:
        return None
    header = PacketHeader.__new__(PacketHeader)
    header.version = version
    header.packet_type = types[kind]
    header.header_length = cursor.at - first
    header.packet_length = header.header_length + <Py_ssize_t>rest
    header.destination_cid = PyBytes_FromStringAndSize(<char *>destination, destination_length)
    header.source_cid = PyBytes_FromStringAndSize(<char *>source, source_length)
    header.token = b"" if token == NULL else PyBytes_FromStringAndSize(
        <char *>token, <Py_ssize_t>token_length)
    return header
