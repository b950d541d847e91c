# Numbers in network byte order, and copies of a few bytes: with one load and store each, since a
# store of single bytes that is read back as one word makes the processor wait.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "<endian.h>" nogil:
    uint16_t htobe16(uint16_t number)
    uint32_t htobe32(uint32_t number)
    uint64_t htobe64(uint64_t number)
    uint16_t be16toh(uint16_t number)
    uint32_t be32toh(uint32_t number)
    uint64_t be64toh(uint64_t number)


cdef inline uint64_t load_16(const uint8_t *at) noexcept nogil:
    cdef uint16_t number
    memcpy(&number, at, 2)
    return be16toh(number)


cdef inline uint64_t load_32(const uint8_t *at) noexcept nogil:
    cdef uint32_t number
    memcpy(&number, at, 4)
    return be32toh(number)


cdef inline uint64_t load_64(const uint8_t *at) noexcept nogil:
    cdef uint64_t number
    memcpy(&number, at, 8)
    return be64toh(number)


cdef inline void store_16(uint8_t *at, uint64_t number) noexcept nogil:
    cdef uint16_t turned = htobe16(<uint16_t>number)
    memcpy(at, &turned, 2)


cdef inline void store_32(uint8_t *at, uint64_t number) noexcept nogil:
    cdef uint32_t turned = htobe32(<uint32_t>number)
    memcpy(at, &turned, 4)


cdef inline void store_64(uint8_t *at, uint64_t number) noexcept nogil:
    cdef uint64_t turned = htobe64(number)
    memcpy(at, &turned, 8)


cdef inline void copy_short(uint8_t *to, const uint8_t *source, size_t size) noexcept nogil:
    """memcpy for the headers of packets."""
    cdef uint64_t first, last
    if size < 8 or size > 16:
        memcpy(to, source, size)
        return
    memcpy(&first, source, 8)
    memcpy(&last, source + size - 8, 8)
    memcpy(to, &first, 8)
    memcpy(to + size - 8, &last, 8)
