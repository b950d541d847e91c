# Datagrams out: trains of equal datagrams, several trains to a system call.
#
# A train goes out as few GSO messages (UDP_SEGMENT) where the socket has GSO, else one datagram a
# message. Who builds the train keeps its bytes until it is consumed. Nothing here needs the GIL.

cdef enum:
    SENDS = 32             # messages per sendmmsg; more add little
    GSO_LEAST = 2          # datagrams worth a GSO message: a pair gains 20 % (50 % with GRO behind)
    GSO_MOST = 64          # datagrams in one (UDP_MAX_SEGMENTS; newer kernels take 128)
    GSO_BYTES = 65507      # in one: what fits an IPv4 packet
    ATTEMPTS = 16          # at a message that ICMP errors keep interrupting

# What became of a train that the kernel refused as GSO: its first datagram, alone, decides why.
cdef enum Trial:
    UNTRIED   # not refused
    REFUSED   # its next datagram decides: if that passes, the device has no GSO
    SINGLY    # decided; the rest goes singly

# Datagrams of one size (the last may be short) from one address to one peer with one ECN codepoint.
cdef struct Train:
    const uint8_t *data   # borrowed: the datagrams end to end. NULL: they are in `pieces`
    iovec *pieces         # borrowed: one datagram each
    size_t length         # of all datagrams
    size_t segment_size   # of each datagram but the last
    int segments          # how many
    int done              # how many are consumed: sent, lost, or refused for good; 0 at first
    int ecn
    Trial trial           # UNTRIED at first
    bint by_reference     # the pages that `data` is in may be lent to the kernel
    bint lent             # and were: whoever owns them must not write there for now;
                          # not `by_reference` any more: and the kernel refused the train, perhaps
                          # not all of it
    SocketAddress peer
    IpAddress local       # family 0: the kernel's choice

# What a message of the batch stands for.
cdef struct Sending:
    Train *train
    int segments
    size_t length

cdef struct Sender:
    int fd               # the socket's; its owner closes it and keeps this up to date
    bint grouped         # GSO is in use
    Notes *errors        # the socket's
    Notes *too_large     # the socket's
    int pipe_in, pipe_out  # owned, where `has_pipe`; see udp_splice
    bint has_pipe
    bint copies            # there is no use for a pipe
    unsigned long long calls, datagrams, bytes, trains, would_block, failed, oversize, gso_refused
    unsigned long long spliced
    mmsghdr headers[SENDS]
    iovec pieces[SENDS]
    size_t controls[SENDS][CONTROL_WORDS]  # size_t: aligned for cmsghdr
    Sending sendings[SENDS]


cdef inline void put_control(
    msghdr *header, int level, int kind, const void *value, size_t size
) noexcept nogil:
    """Append an item to a message's control data; there is room for all that write_control puts."""
    cdef cmsghdr *item = <cmsghdr *>(<uint8_t *>header.msg_control + header.msg_controllen)
    item.cmsg_len = CMSG_LEN(size)
    item.cmsg_level = level
    item.cmsg_type = kind
    memcpy(CMSG_DATA(item), value, size)
    header.msg_controllen += CMSG_SPACE(size)


cdef void write_control(msghdr *header, const Train *train, bint grouped) noexcept nogil:
    cdef bint ipv4 = speaks_ipv4(&train.peer)
    cdef uint16_t segment_size
    cdef in_pktinfo info4
    cdef in6_pktinfo info6
    if grouped:
        segment_size = <uint16_t>train.segment_size
        put_control(header, IPPROTO_UDP, UDP_SEGMENT, &segment_size, sizeof(segment_size))
    if train.local.family == AF_INET:
        memset(&info4, 0, sizeof(info4))
        memcpy(&info4.ipi_spec_dst, train.local.octets, 4)
        put_control(header, IPPROTO_IP, IP_PKTINFO, &info4, sizeof(info4))
    elif train.local.family == AF_INET6:
        memset(&info6, 0, sizeof(info6))
        memcpy(&info6.ipi6_addr, train.local.octets, 16)
        info6.ipi6_ifindex = train.local.scope
        put_control(header, IPPROTO_IPV6, IPV6_PKTINFO, &info6, sizeof(info6))
    if train.ecn and ipv4:
        put_control(header, IPPROTO_IP, IP_TOS, &train.ecn, sizeof(train.ecn))
    elif train.ecn:
        put_control(header, IPPROTO_IPV6, IPV6_TCLASS, &train.ecn, sizeof(train.ecn))


cdef void put_message(Sender *self, unsigned int i, Train *train, int done, int take) noexcept nogil:
    """Make message `i` of the batch: `take` datagrams of the train, after the first `done`."""
    cdef msghdr *header = &self.headers[i].msg_hdr
    cdef Sending *sending = &self.sendings[i]
    cdef size_t before = <size_t>done * train.segment_size
    sending.train = train
    sending.segments = take
    sending.length = <size_t>take * train.segment_size
    if sending.length > train.length - before:
        sending.length = train.length - before
    memset(header, 0, sizeof(msghdr))
    header.msg_name = &train.peer
    header.msg_namelen = size_of(&train.peer)
    if train.data == NULL:
        header.msg_iov = train.pieces + done
        header.msg_iovlen = <size_t>take
    else:
        self.pieces[i].iov_base = <void *>(train.data + before)
        self.pieces[i].iov_len = sending.length
        header.msg_iov = &self.pieces[i]
        header.msg_iovlen = 1
    header.msg_control = self.controls[i]
    write_control(header, train, take > 1)
    if header.msg_controllen == 0:
        header.msg_control = NULL


@cython.cdivision(True)
cdef int take_from(const Sender *self, const Train *train, int done) noexcept nogil:
    """How many datagrams of the train to put into one message."""
    cdef int fit = train.segments - done
    if fit < GSO_LEAST or not self.grouped or train.trial != UNTRIED:
        return 1
    if fit > GSO_MOST:
        fit = GSO_MOST
    if <size_t>fit * train.segment_size > GSO_BYTES:
        fit = <int>(GSO_BYTES // train.segment_size)
    return fit if fit >= GSO_LEAST else 1


cdef unsigned int fill(Sender *self, Train *trains, int first, int count) noexcept nogil:
    """Make a batch of messages from the trains; how many there are."""
    cdef unsigned int n = 0
    cdef int i, done, take
    for i in range(first, count):
        if n and splice_fits(self, &trains[i]):
            return n
        done = trains[i].done
        while done < trains[i].segments:
            if n == SENDS:
                return n
            take = take_from(self, &trains[i], done)
            put_message(self, n, &trains[i], done, take)
            n += 1
            if trains[i].trial == REFUSED:
                return n  # before the rest is made, this one shows whether there is GSO
            done += take
    return n


cdef void sent(Sender *self, const Sending *sending) noexcept nogil:
    cdef Train *train = sending.train
    train.done += sending.segments
    self.datagrams += <unsigned int>sending.segments
    self.bytes += sending.length
    self.trains += sending.segments > 1
    if train.trial == REFUSED:
        train.trial = SINGLY
        self.grouped = False
        self.gso_refused += 1


cdef void refused(Sender *self, const Sending *sending, int error) noexcept nogil:
    """The kernel will not send a message: find out why it refused a train, or let it go."""
    cdef Train *train = sending.train
    if sending.segments > 1 and (error == EIO or error == EINVAL or error == EMSGSIZE):
        train.trial = REFUSED
        return
    if train.trial == REFUSED:
        train.trial = SINGLY  # its size or its address was the reason; GSO stays
    train.done += sending.segments
    if error == EMSGSIZE:
        self.oversize += 1
        add_note(self.too_large, EMSGSIZE, sending.length, &train.peer)
    else:
        self.failed += <unsigned int>sending.segments
        add_note(self.errors, error, 0, &train.peer)


cdef inline bint is_loss(int error) noexcept nogil:
    """A device or its queue dropped it, or there was no memory; no socket says when to go on."""
    return error == ENOBUFS or error == ENOMEM


cdef void lost(Sender *self, const Sending *sending) noexcept nogil:
    """A message was dropped, as the network drops: some datagrams of a train may have left."""
    sending.train.done += sending.segments
    self.failed += <unsigned int>sending.segments


cdef int send_trains(Sender *self, Train *trains, int count) noexcept nogil:
    """Send trains in order; 0 when all are consumed, else a negative errno.

    -EAGAIN: the socket would block; anything else: it is broken. Each train's `done` says how
    far it came; the call may be repeated with the same trains. A datagram that the kernel refuses
    for good (too large, no route, not permitted) is consumed and noted, one that it drops consumed;
    an ICMP error that a call reports in place of sending is noted, and the call repeated.
    """
    cdef int first = 0, got, error, attempts = 0, found
    cdef unsigned int i, n
    while True:
        while first < count and trains[first].done >= trains[first].segments:
            first += 1
        if first == count:
            return 0
        if splice_fits(self, &trains[first]):
            got = splice_train(self, &trains[first])
            if got == -EAGAIN:
                self.would_block += 1
                return -EAGAIN
            if got == 1:
                sent(self, &self.sendings[0])
                continue
            if got < 0:
                lost(self, &self.sendings[0])
                continue
            trains[first].by_reference = False
        n = fill(self, trains, first, count)
        self.calls += 1
        got = sendmmsg(self.fd, self.headers, n, MSG_DONTWAIT | MSG_NOSIGNAL)
        if got > 0:
            attempts = 0
            for i in range(<unsigned int>got):
                sent(self, &self.sendings[i])
            if <unsigned int>got < n:
                # What stopped it is not said, and an ICMP error is not said again. A message that
                # was dropped is sent again: what had left of it comes twice, and counts once.
                drain_errors(self.fd, self.errors)
            continue
        error = errno
        if error == EINTR:
            continue
        if error == EAGAIN:
            self.would_block += 1
            return -EAGAIN
        if is_loss(error):
            attempts = 0
            lost(self, &self.sendings[0])
            continue
        if error == EBADF or error == ENOTSOCK or error == EFAULT:
            return -error
        # An ICMP error, or a refusal of the first message? The kernel reports an ICMP error once.
        found = drain_errors(self.fd, self.errors)
        attempts += 1
        if attempts == 1 or (found and attempts < ATTEMPTS):
            continue
        attempts = 0
        refused(self, &self.sendings[0], error)
