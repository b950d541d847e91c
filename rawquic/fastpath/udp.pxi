# UdpSocket: the batches of udp_receive and udp_send for Python.
#
# A thin layer: it makes Python objects and has no rules of its own. The data plane takes messages
# and hands in trains below it, by way of `receiver` and `sender`. One call at a time.

cdef void set_option(int fd, int level, int name, int value) noexcept nogil:
    """Try to set a socket option; a kernel without it goes on without it."""
    setsockopt(fd, level, name, &value, sizeof(value))


cdef bint has_option(int fd, int level, int name) noexcept nogil:
    cdef int value = 0
    cdef socklen_t size = sizeof(value)
    return getsockopt(fd, level, name, &value, &size) == 0


cdef void set_options(int fd, int family) noexcept nogil:
    # IPv6 sockets get the IPv4 options too, for mapped traffic.
    set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
    set_option(fd, IPPROTO_IP, IP_PKTINFO, 1)
    set_option(fd, IPPROTO_IP, IP_RECVTOS, 1)
    set_option(fd, IPPROTO_IP, IP_RECVERR, 1)
    if family == AF_INET6:
        set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE)
        set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        set_option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
        set_option(fd, IPPROTO_IPV6, IPV6_RECVERR, 1)


cdef enum:
    ROOM_KEPT = 4096  # datagrams; room for more is given back after the call


@cython.final
cdef class UdpSocket:
    """A bound UDP socket, read and written in batches.

    `sock` is AF_INET or AF_INET6; it is made non-blocking, kept, and never closed here. `gso` and
    `gro` allow segmentation offload out and in, which are used where the kernel has them.
    """

    cdef object sock
    cdef _AddressBook book
    cdef bint busy        # a call is under way, perhaps without the GIL
    cdef Notes errors
    cdef Notes too_large
    cdef Receiver receiver
    cdef Sender sender
    # Room for the trains of one send(); owned.
    cdef Train *trains
    cdef iovec *pieces
    cdef Py_ssize_t room

    def __init__(self, sock, *, bint gso=True, bint gro=True):
        cdef int fd = sock.fileno(), family = sock.family
        if self.receiver.arena != NULL:
            raise RuntimeError("this UdpSocket has its socket already")
        if family not in (AF_INET, AF_INET6) or sock.type != SOCK_DGRAM:
            raise ValueError(f"not a UDP socket: {sock!r}")
        sock.setblocking(False)
        set_options(fd, family)
        set_option(fd, IPPROTO_UDP, UDP_GRO, gro)
        gro = gro and has_option(fd, IPPROTO_UDP, UDP_GRO)
        if open_receiver(&self.receiver, fd, gro, &self.errors) < 0:
            raise MemoryError()
        self.sender.fd = fd
        self.sender.grouped = gso and has_option(fd, IPPROTO_UDP, UDP_SEGMENT)
        self.sender.errors = &self.errors
        self.sender.too_large = &self.too_large
        self.book = _AddressBook(family)
        self.sock = sock

    def __dealloc__(self):
        close_receiver(&self.receiver)
        splice_close(&self.sender)
        self.give_back()

    @property
    def gso(self):
        """Whether trains leave as GSO messages; goes False when the device refuses one."""
        return self.sender.grouped

    @property
    def gro(self):
        """Whether the kernel joins what arrives."""
        return self.receiver.grouped

    def fileno(self):
        """The descriptor of the socket; -1 once it is closed."""
        return self.sock.fileno()

    cdef int enter(self) except -1:
        """Begin a call: alone, and with the descriptor that the socket has now."""
        if self.busy:
            raise RuntimeError("this UdpSocket is in use by another call")
        if self.sock is None:
            raise RuntimeError("UdpSocket.__init__() was not called")
        self.receiver.fd = self.sender.fd = self.sock.fileno()
        self.busy = True
        return 0

    def receive(self, Py_ssize_t max_datagrams=512, Py_ssize_t max_bytes=1 << 20):
        """Take what is waiting, at most about so much: [(payload, peer, local, ecn), ...].

        `local` is the address the peer sent to. A GRO buffer is never cut. Never blocks; an ICMP
        error is left to take_errors(). OSError: the socket is closed or broken.
        """
        cdef list result = []
        self.enter()
        try:
            self.fill_result(result, max_datagrams, max_bytes)
        finally:
            self.busy = False
        return result

    cdef int fill_result(
        self, list result, Py_ssize_t max_datagrams, Py_ssize_t max_bytes
    ) except -1:
        cdef Receiver *receiver = &self.receiver
        cdef Py_ssize_t most
        cdef int got, i
        while max_datagrams > 0 and max_bytes > 0:
            # The sizes are not known before the read: guess full-size QUIC packets.
            most = min(max_datagrams, max_bytes // 1500 + 1, <Py_ssize_t>SLOTS)
            with nogil:
                got = receive_batch(receiver, <unsigned int>most)
            if got == -EAGAIN or (got < 0 and result):
                break
            if got < 0:
                raise OSError(-got, strerror(-got).decode())
            max_datagrams -= receiver.spent
            for i in range(got):
                max_bytes -= <Py_ssize_t>receiver.messages[i].length
                self.add_datagrams(result, &receiver.messages[i])
            if receiver.emptied:
                break
        return 0

    cdef int add_datagrams(self, list result, const Message *message) except -1:
        cdef size_t start = 0, size
        peer = self.book.peer_shown(message.peer)
        local = self.book.local_shown(&message.local)
        while start < message.length:
            size = min(message.segment_size, message.length - start)
            payload = PyBytes_FromStringAndSize(
                <const char *>message.data + start, <Py_ssize_t>size
            )
            result.append((payload, peer, local, message.ecn))
            start += size
        return 0

    def send(self, datagrams):
        """Send [(payload, peer, local, ecn), ...]: how many from the front were consumed.

        Fewer than were given: the socket would block. `local` is the address to send from (None:
        the kernel's choice). Equal payloads in a row to one peer leave as a train. What the kernel
        refuses is consumed: see take_too_large() and take_errors(); what it drops as well.
        TypeError, ValueError: nothing was sent. OSError: the socket is closed or broken.
        """
        cdef tuple items = tuple(datagrams)  # keeps the payloads while the GIL is released
        cdef int count, i, status, consumed = 0
        if not items:
            return 0
        self.enter()
        try:
            count = self.make_trains(items)
            with nogil:
                status = send_trains(&self.sender, self.trains, count)
            for i in range(count):
                consumed += self.trains[i].done
            if status < 0 and status != -EAGAIN and not consumed:
                raise OSError(-status, strerror(-status).decode())
        finally:
            self.busy = False
            if self.room > ROOM_KEPT:
                self.give_back()
        return consumed

    cdef int make_trains(self, tuple items) except -1:
        """Describe the datagrams in self.trains, pointing into their payloads; how many trains."""
        cdef Py_ssize_t i, count = len(items)
        cdef int made = 0, ecn
        cdef size_t size
        cdef SocketAddress peer
        cdef IpAddress local
        cdef Train *train = NULL
        cdef tuple item
        last_peer = last_local = NotImplemented
        self.make_room(count)
        for i in range(count):
            if not isinstance(items[i], tuple) or len(<tuple>items[i]) != 4:
                raise TypeError(f"a datagram is (payload, peer, local, ecn), not {items[i]!r}")
            item = <tuple>items[i]
            payload = item[0]
            if not isinstance(payload, bytes):
                raise TypeError(f"a payload is bytes, not {type(payload).__name__}")
            if item[1] is not last_peer:
                self.book.read_peer(item[1], &peer)
                last_peer = item[1]
                last_local = NotImplemented
            if item[2] is not last_local:
                self.book.read_local(item[2], &local)
                last_local = item[2]
                if local.family and (local.family == AF_INET) != speaks_ipv4(&peer):
                    raise ValueError(f"cannot send from {last_local!r} to {last_peer[0]!r}")
            if not isinstance(item[3], int) or not 0 <= item[3] <= 3:
                raise ValueError(f"ECN codepoint {item[3]!r} is not in 0..3")
            ecn = item[3]
            size = <size_t>len(<bytes>payload)
            self.pieces[i].iov_base = <char *><bytes>payload
            self.pieces[i].iov_len = size
            if (
                train == NULL
                or size == 0
                or size > train.segment_size
                or train.length != <size_t>train.segments * train.segment_size  # has a short one
                or ecn != train.ecn
                or not same_peer(&peer, &train.peer)
                or not same_ip(&local, &train.local)
            ):
                train = &self.trains[made]
                made += 1
                memset(train, 0, sizeof(Train))
                train.pieces = &self.pieces[i]
                train.segment_size = size
                train.ecn = ecn
                train.peer = peer
                train.local = local
            train.length += size
            train.segments += 1
        return made

    cdef int make_room(self, Py_ssize_t count) except -1:
        cdef void *grown
        if count <= self.room:
            return 0
        if count > INT_MAX:
            raise ValueError(f"{count} datagrams in one call")
        count = max(count, 64)
        grown = realloc(self.trains, <size_t>count * sizeof(Train))
        if grown == NULL:
            raise MemoryError()
        self.trains = <Train *>grown
        grown = realloc(self.pieces, <size_t>count * sizeof(iovec))
        if grown == NULL:
            raise MemoryError()
        self.pieces = <iovec *>grown
        self.room = count
        return 0

    cdef void give_back(self) noexcept:
        free(self.trains)
        free(self.pieces)
        self.trains, self.pieces, self.room = NULL, NULL, 0

    cdef list taken(self, Notes *notes, bint sizes):
        cdef list result = []
        cdef unsigned int i
        cdef Note *note
        self.enter()
        try:
            for i in range(notes.count):
                note = &notes.items[(notes.start + i) & (NOTES - 1)]
                peer = self.book.peer_shown(&note.peer) if note.named else None
                result.append((peer, note.size) if sizes else (note.code, peer))
            notes.start = notes.count = 0
        finally:
            self.busy = False
        return result

    def has_notes(self):
        """True when take_errors() or take_too_large() has something to give."""
        return self.errors.count > 0 or self.too_large.count > 0

    def take_errors(self):
        """Errors since the last call, [(errno, the peer it concerns or None), ...]: the last 64."""
        return self.taken(&self.errors, False)

    def take_too_large(self):
        """Datagrams refused as too large since the last call, [(peer, size), ...]: the last 64."""
        return self.taken(&self.too_large, True)

    def stats(self):
        """Counters since the socket was taken; the calls are system calls."""
        return {
            "receive_calls": self.receiver.calls,
            "receive_datagrams": self.receiver.datagrams,
            "receive_bytes": self.receiver.bytes,
            "receive_dropped_truncated": self.receiver.truncated,
            "receive_dropped_empty": self.receiver.empty,
            "send_calls": self.sender.calls,
            "send_datagrams": self.sender.datagrams,
            "send_bytes": self.sender.bytes,
            "send_trains": self.sender.trains,
            "send_by_reference": self.sender.spliced,
            "send_would_block": self.sender.would_block,
            "send_errors": self.sender.failed,
            "send_too_large": self.sender.oversize,
            "gso_refused": self.sender.gso_refused,
        }
