# What went wrong on a UDP socket: the kernel's error queue, and the bounded notes kept for Python.
#
# An ICMP error is a hint from the network that anybody on the path can forge. It is noted here;
# it never ends anything here. No function in this part needs the GIL.

cdef enum:
    NOTES = 64           # the oldest is dropped
    ERRORS_AT_ONCE = 256  # read from the error queue in one call; the next call goes on

# Something to tell: an error and whom it concerns, or a datagram that was too large for a path.
cdef struct Note:
    int code       # errno
    bint named     # False: the kernel did not say which peer
    size_t size    # of the datagram that was too large, else 0
    SocketAddress peer

cdef struct Notes:
    unsigned int start  # the oldest
    unsigned int count
    Note items[NOTES]


@cython.cdivision(True)
cdef void add_note(Notes *notes, int code, size_t size, const SocketAddress *peer) noexcept nogil:
    """Remember an error; the same one twice in a row is remembered once."""
    cdef Note *note
    if notes.count:
        note = &notes.items[(notes.start + notes.count - 1) % NOTES]
        if (
            note.code == code
            and note.size == size
            and note.named == (peer != NULL)
            and (peer == NULL or same_peer(&note.peer, peer))
        ):
            return
    if notes.count == NOTES:
        notes.start = (notes.start + 1) % NOTES
        notes.count -= 1
    note = &notes.items[(notes.start + notes.count) % NOTES]
    notes.count += 1
    memset(note, 0, sizeof(Note))
    note.code = code
    note.size = size
    if peer != NULL:
        note.named = True
        note.peer = peer[0]


cdef inline bint has_data(const msghdr *message, const cmsghdr *item, size_t size) noexcept nogil:
    """True where a control message has so much data, and the buffer all of it."""
    cdef const uint8_t *end = <const uint8_t *>message.msg_control + message.msg_controllen
    return CMSG_LEN(size) <= item.cmsg_len <= <size_t>(end - <const uint8_t *>item)


cdef int icmp_errno(msghdr *message) noexcept nogil:
    """The errno that an ICMP error was turned into; 0 for what is not an ICMP error."""
    cdef sock_extended_err error
    cdef cmsghdr *item = CMSG_FIRSTHDR(message)
    while item != NULL:
        if (
            (item.cmsg_level == IPPROTO_IP and item.cmsg_type == IP_RECVERR)
            or (item.cmsg_level == IPPROTO_IPV6 and item.cmsg_type == IPV6_RECVERR)
        ) and has_data(message, item, sizeof(error)):
            memcpy(&error, CMSG_DATA(item), sizeof(error))
            if error.ee_origin == SO_EE_ORIGIN_ICMP or error.ee_origin == SO_EE_ORIGIN_ICMP6:
                return <int>error.ee_errno
        item = CMSG_NXTHDR(message, item)
    return 0


cdef int drain_errors(int fd, Notes *notes) noexcept nogil:
    """Read the error queue; how many ICMP errors were in it.

    The kernel also queues its own refusals there (EMSGSIZE). They are dropped, for the call that
    was refused has said so; but they have to be read, or poll() reports an error for ever.
    """
    cdef msghdr message
    cdef iovec piece
    cdef SocketAddress peer
    cdef size_t control[32]  # aligned for cmsghdr; an error, its offender, packet info and TOS
    cdef char start[8]       # of the datagram that caused the error: not used
    cdef int i, code, found = 0
    for i in range(ERRORS_AT_ONCE):
        memset(&message, 0, sizeof(message))
        memset(&peer, 0, sizeof(peer))
        piece.iov_base = start
        piece.iov_len = sizeof(start)
        message.msg_name = &peer
        message.msg_namelen = sizeof(peer)
        message.msg_iov = &piece
        message.msg_iovlen = 1
        message.msg_control = control
        message.msg_controllen = sizeof(control)
        if recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0:
            break
        code = icmp_errno(&message)
        if code:
            found += 1
            add_note(notes, code, 0, &peer if message.msg_namelen else NULL)
    return found
