# Datagrams in: batches from the kernel into one arena that is allocated once.
#
# Where the kernel joins datagrams (UDP_GRO), one recvmsg brings up to 64 KiB and one reused buffer
# that stays in the cache beats recvmmsg; where it does not, recvmmsg brings up to 32 datagrams.
# Where single datagrams come, recvmmsg for a few tells in one call that no more wait.
# Nothing here needs the GIL, and nothing points into the arena after the next receive_batch.

cdef enum:
    SLOTS = 32                # messages per recvmmsg; more add little
    FEW_SLOTS = 4             # of them where the kernel joins datagrams, but has none to join
    SLOT_BYTES = 65536        # no UDP datagram and no GRO buffer is larger
    SLOT_STRIDE = 65536 + 2112  # slots at the same offset in a page would share cache sets
    CONTROL_WORDS = 16        # 128 bytes: segment size, both packet infos, TOS on dual-stack: 120
    RETRIES = 16              # of a call that an ICMP error interrupted

# One message: a datagram, or a GRO buffer of datagrams from one peer with one ECN codepoint.
cdef struct Message:
    uint8_t *data               # in the arena, until the next receive_batch; may be written to
    size_t length
    size_t segment_size         # 0 < segment_size <= length; only the last segment may be short
    unsigned int segments
    const SocketAddress *peer   # in the Receiver, until the next receive_batch
    IpAddress local
    int ecn

cdef struct Receiver:
    int fd                # the socket's; its owner closes it and keeps this up to date
    bint grouped          # the kernel joins datagrams
    bint single           # the last call brought nothing but single datagrams
    bint quiet            # the last call found nothing
    bint emptied          # the last call took all there was
    unsigned int slots    # in the arena
    unsigned int used     # slots that the last call wrote to
    unsigned int spent    # datagrams that the last call took, dropped ones too
    uint8_t *arena        # owned: FEW_SLOTS when grouped, else SLOTS of them
    Notes *notes          # the socket's, for ICMP errors
    unsigned long long calls, datagrams, bytes, truncated, empty
    mmsghdr headers[SLOTS]
    iovec pieces[SLOTS]
    SocketAddress peers[SLOTS]
    size_t controls[SLOTS][CONTROL_WORDS]  # size_t: aligned for cmsghdr
    Message messages[SLOTS]


cdef void reset_slot(Receiver *self, unsigned int i) noexcept nogil:
    """Undo what the kernel wrote to a slot's header."""
    cdef msghdr *header = &self.headers[i].msg_hdr
    header.msg_name = &self.peers[i]
    header.msg_namelen = sizeof(SocketAddress)
    header.msg_iov = &self.pieces[i]
    header.msg_iovlen = 1
    header.msg_control = self.controls[i]
    header.msg_controllen = sizeof(self.controls[0])
    header.msg_flags = 0


cdef int open_receiver(Receiver *self, int fd, bint grouped, Notes *notes) noexcept nogil:
    """Set up a zeroed receiver; -1 where there is no memory for its arena."""
    cdef unsigned int i, slots = <unsigned int>FEW_SLOTS if grouped else <unsigned int>SLOTS
    # Only the pages that datagrams reach become resident.
    self.arena = <uint8_t *>malloc(<size_t>slots * SLOT_STRIDE)
    if self.arena == NULL:
        return -1
    self.fd, self.grouped, self.notes, self.slots = fd, grouped, notes, slots
    for i in range(slots):
        self.pieces[i].iov_base = self.arena + <size_t>i * SLOT_STRIDE
        self.pieces[i].iov_len = SLOT_BYTES
        reset_slot(self, i)
    return 0


cdef void close_receiver(Receiver *self) noexcept nogil:
    free(self.arena)
    self.arena = NULL


cdef void read_control(msghdr *header, Message *message) noexcept nogil:
    """Take segment size, local address and ECN from a message's control data."""
    cdef cmsghdr *item = CMSG_FIRSTHDR(header)
    cdef in_pktinfo info4
    cdef in6_pktinfo info6
    cdef int value, level, kind
    while item != NULL:
        level, kind = item.cmsg_level, item.cmsg_type
        if level == IPPROTO_UDP and kind == UDP_GRO and has_data(header, item, sizeof(value)):
            memcpy(&value, CMSG_DATA(item), sizeof(value))
            message.segment_size = <size_t>value if value > 0 else 0
        elif level == IPPROTO_IP and kind == IP_TOS and has_data(header, item, 1):
            message.ecn = CMSG_DATA(item)[0] & 3
        elif level == IPPROTO_IP and kind == IP_PKTINFO and has_data(header, item, sizeof(info4)):
            # Not ipi_addr: of a broadcast, that is an address nobody can answer from.
            memcpy(&info4, CMSG_DATA(item), sizeof(info4))
            memset(&message.local, 0, sizeof(IpAddress))
            message.local.family = AF_INET
            memcpy(message.local.octets, &info4.ipi_spec_dst, 4)
        elif level == IPPROTO_IPV6 and kind == IPV6_TCLASS and has_data(header, item, sizeof(value)):
            memcpy(&value, CMSG_DATA(item), sizeof(value))
            message.ecn = value & 3
        elif level == IPPROTO_IPV6 and kind == IPV6_PKTINFO and has_data(header, item, sizeof(info6)):
            memcpy(&info6, CMSG_DATA(item), sizeof(info6))
            # Mapped IPv4 has an IP_PKTINFO as well.
            if not is_mapped(info6.ipi6_addr.s6_addr):
                memset(&message.local, 0, sizeof(IpAddress))
                message.local.family = AF_INET6
                memcpy(message.local.octets, info6.ipi6_addr.s6_addr, 16)
                if info6.ipi6_addr.s6_addr[0] == 0xFE and info6.ipi6_addr.s6_addr[1] >> 6 == 2:
                    message.local.scope = info6.ipi6_ifindex
        item = CMSG_NXTHDR(header, item)


@cython.cdivision(True)
cdef bint read_message(Receiver *self, unsigned int i, size_t length, Message *out) noexcept nogil:
    """Describe slot `i` in `out`; False, and counted, for a message that is not usable."""
    cdef msghdr *header = &self.headers[i].msg_hdr
    if length == 0:
        self.empty += 1
        self.spent += 1
        return False
    memset(out, 0, sizeof(Message))
    out.data = self.arena + <size_t>i * SLOT_STRIDE
    out.length = length
    out.segment_size = length
    out.peer = &self.peers[i]
    if not header.msg_flags & (MSG_TRUNC | MSG_CTRUNC):
        read_control(header, out)
        # A segment size of 0 would divide by zero, or never end.
        if 0 < out.segment_size <= length <= SLOT_BYTES:
            out.segments = <unsigned int>((length + out.segment_size - 1) // out.segment_size)
            self.spent += out.segments
            return True
    self.truncated += 1
    self.spent += 1
    return False


cdef int read_kernel(Receiver *self, unsigned int most) noexcept nogil:
    """One system call: how many slots it filled, with their msg_len set; -1 and errno."""
    cdef ssize_t length
    self.calls += 1
    if most > 1 or not self.grouped:
        return recvmmsg(self.fd, self.headers, most, MSG_DONTWAIT, NULL)
    length = recvmsg(self.fd, &self.headers[0].msg_hdr, MSG_DONTWAIT)
    if length < 0:
        return -1
    self.headers[0].msg_len = <unsigned int>length
    return 1


cdef int receive_batch(Receiver *self, unsigned int most) noexcept nogil:
    """Read once, at most `most` messages; how many of self.messages are usable.

    Negative is an errno: -EAGAIN when nothing waits (or errors only, which were noted), else the
    socket is broken. Zero means that all were dropped. self.spent is what counts against a
    caller's budget of datagrams, and self.emptied says that asking again would find nothing.
    """
    cdef unsigned int i, n = 0
    cdef int tried, got = -1, error
    for i in range(self.used):
        reset_slot(self, i)
    self.used = self.spent = 0
    self.emptied = False
    most = 1 if most < 1 or (self.grouped and not self.single) else min(most, self.slots)
    for tried in range(RETRIES):
        got = read_kernel(self, most)
        if got >= 0:
            break
        error = errno
        if error == EINTR:
            continue
        if error == EAGAIN:
            # Woken for nothing, twice: an error is queued that no call has reported, and poll()
            # goes on reporting it until it is read.
            if self.quiet:
                drain_errors(self.fd, self.notes)
            self.quiet = self.emptied = True
            return -EAGAIN
        if error == EBADF or error == ENOTSOCK or error == EFAULT:
            return -error
        # An ICMP error, reported once in place of the datagrams that wait behind it.
        if drain_errors(self.fd, self.notes) == 0:
            add_note(self.notes, error, 0, NULL)
    if got < 0:
        return -EAGAIN
    self.quiet = False
    self.used = <unsigned int>got
    self.emptied = self.used < most
    self.single = True
    for i in range(self.used):
        if read_message(self, i, self.headers[i].msg_len, &self.messages[n]):
            self.datagrams += self.messages[n].segments
            self.bytes += self.messages[n].length
            self.single = self.single and self.messages[n].segments == 1
            n += 1
    return <int>n
