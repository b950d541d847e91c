# The peer's transport parameters (RFC 9000 §18), taken apart. What they mean, and which of them a
# peer may send, is the control plane's to say.

cdef uint64_t _INTEGERS = (  # one bit for each parameter below 64 that is an integer
    1 << 0x01 | 1 << 0x03 | 1 << 0x04 | 1 << 0x05 | 1 << 0x06 | 1 << 0x07 | 1 << 0x08 | 1 << 0x09
    | 1 << 0x0A | 1 << 0x0B | 1 << 0x0E | 1 << 0x20)


def transport_parameters(bytes data not None) -> dict[int, int | bytes]:
    """Values by number: those that are integers as such, all others as bytes.

    ValueError: it is malformed, or a parameter stands twice (RFC 9000 §7.4).
    """
    cdef Cursor cursor, inner
    cdef uint64_t number = 0, size = 0, value = 0
    cdef dict found = {}
    cursor.at = <const uint8_t *>PyBytes_AS_STRING(data)
    cursor.left = <size_t>PyBytes_GET_SIZE(data)
    while cursor.left:
        if (
            not take_varint(&cursor, &number) or not take_varint(&cursor, &size)
            or not take_bytes(&cursor, size, &inner.at)
        ):
            raise ValueError("the transport parameters are cut off")
        if number in found:
            raise ValueError("a transport parameter stands twice")
        inner.left = <size_t>size
        if number < 64 and _INTEGERS >> number & 1:
            if not take_varint(&inner, &value) or inner.left:
                raise ValueError("a transport parameter is no integer")
            found[number] = value
        else:
            found[number] = PyBytes_FromStringAndSize(
                <const char *>inner.at, <Py_ssize_t>inner.left)
    return found
