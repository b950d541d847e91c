# Trains of packets of one size in one buffer: what Python may seal and open with one call, for tests,
# benchmarks and the floor. The data plane has jobs of its own.


cdef Py_ssize_t run_train(
    PacketKey key, uint8_t *start, size_t segment, size_t last, size_t header_length,
    uint64_t number, Py_ssize_t count, bint seal,
) noexcept nogil:
    """Seal or open equal-size packets that lie in one buffer; return how many failed."""
    cdef SealJob seals[AEAD_CHUNK]
    cdef OpenJob opens[AEAD_CHUNK]
    cdef Py_ssize_t at = 0, batch, i, failed = 0
    cdef uint8_t *packet
    cdef size_t length
    while at < count:
        batch = min(count - at, <Py_ssize_t>AEAD_CHUNK)
        for i in range(batch):
            packet = start + <size_t>(at + i) * segment
            length = last if at + i == count - 1 else segment
            if seal:
                seals[i] = SealJob(packet, packet, header_length, length, number, NULL, 0)
            else:
                opens[i].packet, opens[i].into = packet, NULL
                opens[i].header_length, opens[i].length = header_length, length
                opens[i].packet_number = number
            number += 1
        if seal:
            failed += batch - key.seal_packets(seals, batch)
        else:
            failed += key.open_packets(opens, batch)
        at += batch
    return failed
