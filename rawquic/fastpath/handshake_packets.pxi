# What aioquic's control plane asks of packets with long headers: protection on and off (RFC 9001
# §5), and what a header says (RFC 9000 §17.2). It keeps nothing; the packet number is aioquic's.

from cpython.bytes cimport PyBytes_GET_SIZE

cdef enum:
    NUMBER_MOST = 4  # bytes of a packet number


def protect_packet(
    PacketKey key not None, bytes header not None, bytes payload not None, uint64_t number
) -> bytes:
    """Header, ciphertext and tag, the header protected; the number is in the header already.

    ValueError: the packet is too long, or too short to be sampled (RFC 9001 §5.4.2).
    """
    cdef SealJob job
    cdef uint8_t mask[HP_SAMPLE_LENGTH]
    cdef Py_ssize_t header_length = PyBytes_GET_SIZE(header)
    cdef Py_ssize_t length = header_length + PyBytes_GET_SIZE(payload) + AEAD_TAG_LENGTH
    cdef Py_ssize_t size, number_at, i
    cdef uint8_t *start
    cdef bytes packet
    cdef bint done
    if header_length == 0 or length > AEAD_PACKET_MAX:
        raise ValueError(f"a packet of {length} bytes cannot be protected")
    size = (header[0] & 3) + 1
    number_at = header_length - size
    if number_at < 1 or number_at + NUMBER_MOST + HP_SAMPLE_LENGTH > length:
        raise ValueError(f"a packet of {length} bytes is too short to be sampled")
    packet = PyBytes_FromStringAndSize(NULL, length)
    start = <uint8_t *>PyBytes_AS_STRING(packet)
    job.packet = start
    job.plain = <const uint8_t *>PyBytes_AS_STRING(header)
    job.header_length = <size_t>header_length
    job.length = <size_t>length
    job.packet_number = number
    job.body = <const uint8_t *>PyBytes_AS_STRING(payload)
    job.body_length = <size_t>PyBytes_GET_SIZE(payload)
    key._check_alive()
    with nogil, key._lock:
        done = key.seal_packets(&job, 1) == 1
        if done:
            memcpy(mask, start + number_at + NUMBER_MOST, HP_SAMPLE_LENGTH)
            done = key.hp_masks(mask, mask, 1)
    if not done:
        key._check_alive()
        raise RuntimeError("the AEAD provider failed")
    start[0] ^= <uint8_t>(mask[0] & (0x0F if start[0] & 0x80 else 0x1F))
    for i in range(size):
        start[number_at + i] ^= mask[1 + i]
    return packet


def unprotect_packet(
    PacketKey key not None, bytes packet not None, Py_ssize_t number_at, uint64_t expected
) -> tuple[bytes, bytes, int]:
    """(plain header, plain payload, packet number); `expected` is the next one in the space.

    ValueError: it is too short to be sampled, or its tag does not match.
    """
    cdef uint8_t mask[HP_SAMPLE_LENGTH]
    cdef Py_ssize_t length = PyBytes_GET_SIZE(packet)
    cdef Py_ssize_t header_length
    cdef unsigned int size, i
    cdef uint64_t number = 0
    cdef bytearray scratch
    cdef uint8_t *start
    cdef bint done
    if (
        number_at < 1 or length > AEAD_PACKET_MAX
        or length - number_at < NUMBER_MOST + HP_SAMPLE_LENGTH
    ):
        raise ValueError("the packet is too short to be sampled, or longer than any")
    scratch = bytearray(packet)
    start = <uint8_t *>PyByteArray_AS_STRING(scratch)
    key._check_alive()
    with nogil, key._lock:
        memcpy(mask, start + number_at + NUMBER_MOST, HP_SAMPLE_LENGTH)
        done = key.hp_masks(mask, mask, 1)
        if done:
            start[0] ^= <uint8_t>(mask[0] & (0x0F if start[0] & 0x80 else 0x1F))
            size = (start[0] & 3) + 1
            for i in range(size):
                start[number_at + i] ^= mask[1 + i]
                number = number << 8 | start[number_at + i]
            number = decode_number(number, size, expected)
            header_length = number_at + size
            done = key.open_packet(start, <size_t>header_length, <size_t>length, number)
    if not done:
        key._check_alive()
        raise ValueError("authentication failed")
    return (
        PyBytes_FromStringAndSize(<char *>start, header_length),
        PyBytes_FromStringAndSize(
            <char *>start + header_length, length - header_length - AEAD_TAG_LENGTH),
        number,
    )
