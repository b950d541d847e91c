# Large trains out without the kernel's copy: the socket gets their pages by reference.
#
# vmsplice() hangs the pages of a train into a pipe, splice() moves them on to the socket, where they
# end a message that a corked sendmsg() has begun with the address and the control data. It is for
# who knows when the kernel is done with the pages: see send_blocks.
#
# Linux 6.5 and newer do it for UDP. A trial on loopback, one a process and address family, says
# whether it works here: sandboxes forbid it.

cdef enum:
    PAGE = 4096
    SPLICE_PAGES = 16       # a pipe's room, and the most that splice() makes one message of
    SPLICE_LEAST = 24576    # bytes of a train worth three system calls in place of one copy
    TRIAL_WAIT = 20         # milliseconds, for datagrams that loopback has delivered long since
    TRIAL_SIZE = 3000       # bytes: three datagrams, across the end of a page
    TRIAL_SEGMENT = 1200

cdef enum Splicing:
    UNKNOWN
    WORKS
    BROKEN

# IPv4 and IPv6, of the process. Read and written with the GIL.
cdef Splicing splicing[2]


cdef int splice_pipe(Sender *self) noexcept nogil:
    """A pipe with nothing in it; -1: there is none to be had."""
    cdef int ends[2]
    splice_close(self)
    if pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0:
        return -1
    self.pipe_out, self.pipe_in = ends[0], ends[1]
    self.has_pipe = True
    return 0


cdef void splice_close(Sender *self) noexcept nogil:
    if self.has_pipe:
        close(self.pipe_in)
        close(self.pipe_out)
        self.has_pipe = False


cdef inline bint splice_fits(const Sender *self, const Train *train) noexcept nogil:
    """True for a train that may go by reference: whole, and as one message."""
    cdef size_t into_page = <size_t>train.data % PAGE
    return (
        self.grouped and not self.copies
        and train.by_reference and train.done == 0 and train.trial == UNTRIED
        and train.segments > 1 and train.segments <= GSO_MOST and train.length <= GSO_BYTES
        and into_page + train.length <= SPLICE_PAGES * PAGE
    )


cdef int splice_train(Sender *self, Train *train) noexcept nogil:
    """Send a train by reference. 1: it is on its way; 0: copy it; -EAGAIN; else it was lost.

    Lost: not all of it may have been, so that no copy may follow. Other errors are told by the
    copying call, as of every other train.
    """
    cdef msghdr *header = &self.headers[0].msg_hdr
    cdef ssize_t size = <ssize_t>train.length, got
    cdef iovec piece
    cdef int error
    if not self.has_pipe and splice_pipe(self) < 0:
        return 0
    put_message(self, 0, train, 0, train.segments)
    piece = header.msg_iov[0]
    header.msg_iovlen = 0
    self.calls += 3
    if sendmsg(self.fd, header, MSG_MORE | MSG_DONTWAIT | MSG_NOSIGNAL) < 0:
        if errno == EAGAIN:
            return -EAGAIN
        drain_errors(self.fd, self.errors)  # an ICMP error is not told again
        return 0
    if vmsplice(self.pipe_in, &piece, 1, SPLICE_F_NONBLOCK) == size:
        train.lent = True  # in part also where that fails: of fragments, some may have left
        got = splice(self.pipe_out, NULL, self.fd, NULL, train.length, SPLICE_F_NONBLOCK)
        if got == size:
            self.spliced += 1
            return 1
        error = errno if got < 0 else 0
        # The kernel has dropped the message; or, at a signal, it is open, and the copy ends it.
        splice_pipe(self)
        return -error if is_loss(error) else 0
    # The pipe has less room than it should (too many pipes of this user): so has the next. The
    # message is still open; as it is the train's, its bytes may as well end it.
    splice_close(self)
    self.copies = True
    header.msg_iovlen = 1
    got = sendmsg(self.fd, header, MSG_DONTWAIT | MSG_NOSIGNAL)
    if got < 0 and is_loss(errno):
        return -errno
    return got == size


cdef bint splice_trial(bint ipv4) noexcept nogil:
    """Send three datagrams by reference to ourselves: do they arrive, and are they not copies?"""
    cdef Sender sender
    cdef Notes notes
    cdef Train train
    cdef pollfd item
    cdef uint8_t *pages
    cdef uint8_t got[TRIAL_SIZE]
    cdef socklen_t length = <socklen_t>sizeof(SocketAddress)
    cdef int family = AF_INET if ipv4 else AF_INET6, i
    cdef size_t at = 0, size
    cdef bint good = False
    memset(&sender, 0, sizeof(sender))
    memset(&notes, 0, sizeof(notes))
    sender.errors = &notes
    memset(&train, 0, sizeof(train))
    pages = <uint8_t *>mmap(
        NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    item.fd, item.events = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0), POLLIN
    sender.fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    sender.grouped = True
    train.peer.any.sa_family = <sa_family_t>family
    if ipv4:
        inet_pton(AF_INET, b"127.0.0.1", &train.peer.v4.sin_addr)
    else:
        inet_pton(AF_INET6, b"::1", &train.peer.v6.sin6_addr)
    train.data = pages + PAGE - TRIAL_SEGMENT // 2
    train.length, train.segment_size = <size_t>TRIAL_SIZE, <size_t>TRIAL_SEGMENT
    train.segments, train.by_reference = 3, True
    if (
        pages != MAP_FAILED and item.fd >= 0 and sender.fd >= 0
        and bind(item.fd, &train.peer.any, size_of(&train.peer)) == 0
        and getsockname(item.fd, &train.peer.any, &length) == 0
    ):
        memset(pages, 1, 2 * PAGE)
        if splice_fits(&sender, &train) and splice_train(&sender, &train) == 1:
            memset(pages, 2, 2 * PAGE)  # what was sent by reference has changed
            good = True
            for i in range(3):
                size = min(train.segment_size, train.length - at)
                if poll(&item, 1, TRIAL_WAIT) != 1 or (
                    recv(item.fd, got + at, size, MSG_DONTWAIT) != <ssize_t>size
                ):
                    good = False
                    break
                at += size
            for i in range(TRIAL_SIZE):
                good = good and got[i] == 2
    splice_close(&sender)
    if item.fd >= 0:
        close(item.fd)
    if sender.fd >= 0:
        close(sender.fd)
    if pages != MAP_FAILED:
        munmap(pages, 2 * PAGE)
    return good


cdef bint kernel_splices() noexcept nogil:
    """True for Linux 6.5 and newer. What older ones have for UDP knows no GSO."""
    cdef utsname names
    cdef int major = 0, minor = 0
    if uname(&names) < 0 or sscanf(names.release, "%d.%d", &major, &minor) != 2:
        return False
    return major > 6 or (major == 6 and minor >= 5)


cdef bint splice_works(bint ipv4) noexcept:
    """True where trains can go by reference."""
    if splicing[ipv4] == UNKNOWN:
        splicing[ipv4] = WORKS if kernel_splices() and splice_trial(ipv4) else BROKEN
    return splicing[ipv4] == WORKS


def sends_by_reference(bint ipv4=True):
    """True where large trains leave without a copy: what a trial said, made when first asked."""
    return splice_works(ipv4)
