# The one cursor over bytes that a peer wrote, and its counterpart for bytes that we write.
#
# A read that does not fit returns False and moves nothing: `left >= n` is compared, never a pointer
# behind the end. No other part does pointer arithmetic on received data.

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

cdef enum:
    VARINT_MAX_SIZE = 8

cdef extern from *:
    """
    #define VARINT_MAX ((uint64_t)0x3FFFFFFFFFFFFFFF)  /* RFC 9000 section 16 */
    """
    const uint64_t VARINT_MAX

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
    cdef size_t size
    if self.left < 1:
        return False
    size = <size_t>1 << (self.at[0] >> 6)
    if self.left < size:
        return False
    if size == 1:
        value[0] = self.at[0]  # its two bits of length are zero
    elif size == 2:
        value[0] = load_16(self.at) & 0x3FFF
    elif size == 4:
        value[0] = load_32(self.at) & 0x3FFFFFFF
    else:
        value[0] = load_64(self.at) & VARINT_MAX
    self.at += size
    self.left -= size
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
    if value < 64:
        at[0] = <uint8_t>value
        return at + 1
    if value < 16384:
        store_16(at, value | 0x4000)
        return at + 2
    if value < 1 << 30:
        store_32(at, value | <uint64_t>0x80000000)
        return at + 4
    store_64(at, value | <uint64_t>0xC000000000000000)
    return at + 8


cdef inline uint8_t *put_length(uint8_t *at, uint64_t value) noexcept nogil:
    """Write a length below 16,384 in two bytes, so that its size is known before it is."""
    store_16(at, value | 0x4000)
    return at + 2
