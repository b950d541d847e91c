# Addresses: the kernel's structs, Python's ("127.0.0.1", 443), and a bounded memory between them.
#
# Python sees IPv4 as IPv4 also where an IPv6 socket maps it (::ffff:127.0.0.1), and a link-local
# IPv6 address with the number of its interface ("fe80::1%2"). Names are never resolved here.

cdef enum:
    PEERS_SEEN = 256    # sockaddr -> tuple, direct-mapped: a collision costs one inet_ntop
    LOCALS_SEEN = 16
    PEERS_NAMED = 1024  # tuple -> sockaddr; the whole dict is dropped when it is full

# A peer, in the family of the socket: an IPv6 socket has IPv4 peers as mapped addresses.
cdef union SocketAddress:
    sockaddr any
    sockaddr_in v4
    sockaddr_in6 v6

# An address without a port. IPv4 is AF_INET here whatever the family of the socket.
cdef struct IpAddress:
    int family        # AF_INET, AF_INET6, or 0: not known (in), the kernel's choice (out)
    uint32_t scope    # interface of a link-local IPv6 address, else 0
    uint8_t octets[16]  # the first 4 for AF_INET, the rest 0


cdef inline bint is_mapped(const uint8_t *octets) noexcept nogil:
    return memcmp(octets, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0


cdef inline bint speaks_ipv4(const SocketAddress *peer) noexcept nogil:
    return peer.any.sa_family == AF_INET or is_mapped(peer.v6.sin6_addr.s6_addr)


cdef inline socklen_t size_of(const SocketAddress *peer) noexcept nogil:
    if peer.any.sa_family == AF_INET:
        return <socklen_t>sizeof(sockaddr_in)
    return <socklen_t>sizeof(sockaddr_in6)


cdef inline bint same_peer(const SocketAddress *a, const SocketAddress *b) noexcept nogil:
    if a.any.sa_family != b.any.sa_family:
        return False
    if a.any.sa_family == AF_INET:
        return a.v4.sin_port == b.v4.sin_port and a.v4.sin_addr.s_addr == b.v4.sin_addr.s_addr
    return (
        a.v6.sin6_port == b.v6.sin6_port
        and a.v6.sin6_scope_id == b.v6.sin6_scope_id
        and memcmp(a.v6.sin6_addr.s6_addr, b.v6.sin6_addr.s6_addr, 16) == 0
    )


cdef inline bint same_ip(const IpAddress *a, const IpAddress *b) noexcept nogil:
    return memcmp(a, b, sizeof(IpAddress)) == 0


cdef inline uint32_t mixed(const uint8_t *octets, uint32_t start) noexcept nogil:
    """A cheap hash of 16 octets. Collisions are harmless: they only cost an inet_ntop."""
    cdef uint32_t words[4]
    memcpy(words, octets, 16)
    start = (start ^ words[0]) * <uint32_t>2654435761
    start = (start ^ words[1]) * <uint32_t>2654435761
    start = (start ^ words[2]) * <uint32_t>2654435761
    start = (start ^ words[3]) * <uint32_t>2654435761
    return start >> 16


cdef str ip_text(int family, const uint8_t *octets, uint32_t scope):
    cdef char text[64]
    if family == AF_INET6 and is_mapped(octets):
        family, octets, scope = AF_INET, octets + 12, 0
    if inet_ntop(family, octets, text, sizeof(text)) == NULL:
        raise OSError(errno, "inet_ntop")
    host = (<bytes>text).decode("ascii")
    return f"{host}%{scope}" if scope else host


cdef int parse_ip(object host, IpAddress *out) except -1:
    """Read a numeric address; anything else is a ValueError that names it."""
    cdef uint8_t octets[16]
    memset(out, 0, sizeof(IpAddress))
    if not isinstance(host, str):
        raise TypeError(f"a host is a str, not {type(host).__name__}")
    text, percent, scope = (<str>host).partition("%")
    if not text.isascii() or "\0" in host:
        raise ValueError(f"{host!r} is not a numeric IP address")
    name = text.encode()
    if not percent and inet_pton(AF_INET, name, octets) == 1:
        out.family = AF_INET
        memcpy(out.octets, octets, 4)
        return 0
    if inet_pton(AF_INET6, name, octets) != 1:
        raise ValueError(f"{host!r} is not a numeric IP address")
    if is_mapped(octets) and not percent:
        out.family = AF_INET
        memcpy(out.octets, octets + 12, 4)
        return 0
    out.family = AF_INET6
    memcpy(out.octets, octets, 16)
    if not percent:
        return 0
    if scope.isascii() and scope.isdigit() and len(scope) <= 10 and int(scope) < 1 << 32:
        out.scope = int(scope)
        return 0
    name = scope.encode("utf-8", "replace")  # what "?" replaces is in no interface's name
    out.scope = if_nametoindex(name)
    if out.scope == 0:
        raise ValueError(f"{host!r}: there is no interface {scope!r}")
    return 0


@cython.final
cdef class _AddressBook:
    """Turns addresses into Python objects and back, cheaply for the ones seen lately."""

    cdef int family  # of the socket
    cdef SocketAddress seen[PEERS_SEEN]
    cdef IpAddress seen_locals[LOCALS_SEEN]
    cdef list seen_names   # seen_names[i] shows seen[i]; None: empty
    cdef list local_names  # local_names[i] shows seen_locals[i]; None: empty
    cdef dict peers        # tuple -> the bytes of a SocketAddress
    cdef dict locals       # str -> the bytes of an IpAddress

    def __cinit__(self, int family):
        self.family = family
        self.seen_names = [None] * PEERS_SEEN
        self.local_names = [None] * LOCALS_SEEN
        self.peers = {}
        self.locals = {}

    cdef object peer_shown(self, const SocketAddress *peer):
        """The tuple for a peer that sent something."""
        cdef uint32_t slot
        if peer.any.sa_family == AF_INET:
            slot = (peer.v4.sin_addr.s_addr ^ peer.v4.sin_port) * <uint32_t>2654435761 >> 16
        else:
            slot = mixed(peer.v6.sin6_addr.s6_addr, peer.v6.sin6_port ^ peer.v6.sin6_scope_id)
        slot = slot & (PEERS_SEEN - 1)
        shown = self.seen_names[slot]
        if shown is not None and same_peer(&self.seen[slot], peer):
            return shown
        if peer.any.sa_family == AF_INET:
            host = ip_text(AF_INET, <const uint8_t *>&peer.v4.sin_addr, 0)
            shown = (host, ntohs(peer.v4.sin_port))
        else:
            host = ip_text(AF_INET6, peer.v6.sin6_addr.s6_addr, peer.v6.sin6_scope_id)
            shown = (host, ntohs(peer.v6.sin6_port))
        self.seen[slot] = peer[0]
        self.seen_names[slot] = shown
        return shown

    cdef object local_shown(self, const IpAddress *local):
        """The str for the local address something was sent to; None where it is not known."""
        cdef uint32_t slot
        if local.family == 0:
            return None
        slot = mixed(local.octets, local.scope) & (LOCALS_SEEN - 1)
        shown = self.local_names[slot]
        if shown is not None and same_ip(&self.seen_locals[slot], local):
            return shown
        shown = ip_text(local.family, local.octets, local.scope)
        self.seen_locals[slot] = local[0]
        self.local_names[slot] = shown
        return shown

    cdef int read_peer(self, object peer, SocketAddress *out) except -1:
        """Find the struct for a peer to send to, in the family of the socket."""
        cdef IpAddress ip
        cdef uint16_t wire_port
        if not isinstance(peer, tuple) or len(<tuple>peer) != 2:
            raise TypeError(f"a peer is a tuple (host, port), not {peer!r}")
        known = self.peers.get(peer)
        if known is not None:
            memcpy(out, <const char *><bytes>known, sizeof(SocketAddress))
            return 0
        host, port = <tuple>peer
        if not isinstance(port, int):
            raise TypeError(f"a port is an int, not {type(port).__name__}")
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} is not in 0..65535")
        parse_ip(host, &ip)
        wire_port = htons(port)
        memset(out, 0, sizeof(SocketAddress))
        if self.family == AF_INET:
            if ip.family != AF_INET:
                raise ValueError(f"{host!r} is not an address that an IPv4 socket can send to")
            out.v4.sin_family = <sa_family_t>AF_INET
            out.v4.sin_port = wire_port
            memcpy(&out.v4.sin_addr, ip.octets, 4)
        else:
            out.v6.sin6_family = <sa_family_t>AF_INET6
            out.v6.sin6_port = wire_port
            out.v6.sin6_scope_id = ip.scope
            if ip.family == AF_INET:
                memcpy(out.v6.sin6_addr.s6_addr, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12)
                memcpy(out.v6.sin6_addr.s6_addr + 12, ip.octets, 4)
            else:
                memcpy(out.v6.sin6_addr.s6_addr, ip.octets, 16)
        if len(self.peers) >= PEERS_NAMED:
            self.peers.clear()
        self.peers[peer] = (<char *>out)[:sizeof(SocketAddress)]
        return 0

    cdef int read_local(self, object local, IpAddress *out) except -1:
        """Find the struct for the local address to send from; None is the kernel's choice."""
        if local is None:
            memset(out, 0, sizeof(IpAddress))
            return 0
        known = self.locals.get(local)
        if known is None:
            parse_ip(local, out)
            if len(self.locals) >= LOCALS_SEEN:
                self.locals.clear()
            self.locals[local] = (<char *>out)[:sizeof(IpAddress)]
        else:
            memcpy(out, <const char *><bytes>known, sizeof(IpAddress))
        return 0
