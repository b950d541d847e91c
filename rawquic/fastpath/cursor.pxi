# The one cursor over bytes that a peer wrote, and its counterpart for bytes that we write.
#
# A read that does not fit returns False and moves nothing: `left >= n` is compared, never a pointer
# behind the end. No other part does pointer arithmetic on received data.

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

cdef enum:
    VARINT_MAX_SIZE = 8

cdef uint64_t VARINT_MAX = (<uint64_t>1 << 62) - 1  # RFC 9000 §16

cdef struct Cursor:
    const uint8_t *at  # borrowed: the packet, in the receive arena
    size_t left


cdef inline bint take_u8(Cursor *self, uint8_t *value) noexcept nogil:
    if self.left < 1:
        return False
    value[0] = self.at[0]
    self.at += 1
    self.left -= 1
    return True


cdef inline bint take_varint(Cursor *self, uint64_t *value) noexcept nogil:
    """A variable-length integer (RFC 9000 §16)."""
    cdef size_t size, i
    cdef uint64_t number
    if self.left < 1:
        return False
    size = <size_t>1 << (self.at[0] >> 6)
    if self.left < size:
        return False
    number = self.at[0] & 0x3F
    for i in range(1, size):
        number = number << 8 | self.at[i]
    self.at += size
    self.left -= size
    value[0] = number
    return True


cdef inline bint take_bytes(Cursor *self, uint64_t size, const uint8_t **start) noexcept nogil:
    if self.left < size:
        return False
    start[0] = self.at
    self.at += size
    self.left -= <size_t>size
    return True


cdef inline void skip_padding(Cursor *self) noexcept nogil:
    while self.left > 0 and self.at[0] == 0:
        self.at += 1
        self.left -= 1


cdef inline size_t varint_size(uint64_t value) noexcept nogil:
    if value < 64:
        return 1
    if value < 16384:
        return 2
    return 4 if value < 1 << 30 else 8


cdef inline uint8_t *put_varint(uint8_t *at, uint64_t value) noexcept nogil:
    """Write `value` in as few bytes as it takes; the caller has room for 8."""
    cdef size_t size = varint_size(value), i
    for i in range(size):
        at[size - 1 - i] = <uint8_t>(value >> (8 * i))
    if size == 2:
        at[0] |= 0x40
    elif size == 4:
        at[0] |= 0x80
    elif size == 8:
        at[0] |= 0xC0
    return at + size


cdef inline uint8_t *put_length(uint8_t *at, uint64_t value) noexcept nogil:
    """Write a length below 16,384 in two bytes, so that its size is known before it is."""
    at[0] = <uint8_t>(0x40 | value >> 8)
    at[1] = <uint8_t>value
    return at + 2
