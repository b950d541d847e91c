"""UdpSocket in Python: the twin of the compiled one, one datagram per system call, no GSO or GRO.

It behaves like `rawquic._fastpath.UdpSocket`, and one test suite runs on both. It must import and
work on every platform: where messages with control data are missing (Windows), or the options are
not Linux's, datagrams come without local address and ECN, and errors without a queue.
"""

import contextlib
import errno
import socket
import struct
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

Address = tuple[str, int]
"""Numeric host and port; a link-local IPv6 host ends in the number of its interface ("%2")."""

Datagram = tuple[bytes, Address, str | None, int]
"""Payload, peer, local address (None: unknown, or the kernel's choice), ECN codepoint."""

# Linux, where the socket module does not name them.
IP_TOS: Final = 1
IP_PKTINFO: Final = 8
IP_MTU_DISCOVER: Final = 10
IP_RECVERR: Final = 11
IP_RECVTOS: Final = 13
IPV6_MTU_DISCOVER: Final = 23
IPV6_RECVERR: Final = 25
IPV6_RECVPKTINFO: Final = 49
IPV6_PKTINFO: Final = 50
IPV6_RECVTCLASS: Final = 66
IPV6_TCLASS: Final = 67
PMTUDISC_PROBE: Final = 3
UDP_GRO: Final = 104
MSG_ERRQUEUE: Final = 0x2000
SO_EE_ORIGIN_ICMP: Final = 2
SO_EE_ORIGIN_ICMP6: Final = 3

OPTIONS_IPV4: Final = [
    (socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE),
    (socket.IPPROTO_IP, IP_PKTINFO, 1),
    (socket.IPPROTO_IP, IP_RECVTOS, 1),
    (socket.IPPROTO_IP, IP_RECVERR, 1),
]
OPTIONS_IPV6: Final = [
    (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE),
    (socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1),
    (socket.IPPROTO_IPV6, IPV6_RECVTCLASS, 1),
    (socket.IPPROTO_IPV6, IPV6_RECVERR, 1),
]

LARGEST: Final = 65536  # no UDP datagram is larger
CONTROL_BYTES: Final = 128
NOTES: Final = 64  # errors kept for take_errors(), the oldest dropped
ERRORS_AT_ONCE: Final = 256
ATTEMPTS: Final = 16  # at a call that ICMP errors keep interrupting
ADDRESSES_KNOWN: Final = 1024

WOULD_BLOCK: Final = {errno.EAGAIN, errno.EWOULDBLOCK}
LOST: Final = {errno.ENOBUFS, errno.ENOMEM}  # a device or its queue dropped it, or memory is short
BROKEN: Final = {errno.EBADF, errno.ENOTSOCK, errno.EFAULT}

IN_PKTINFO: Final = struct.Struct("=i4s4s")
IN6_PKTINFO: Final = struct.Struct("=16sI")
INT: Final = struct.Struct("=i")
ERROR: Final = struct.Struct("=IB")  # of sock_extended_err: errno, origin
MAPPED: Final = bytes(10) + b"\xff\xff"

Control = list[tuple[int, int, bytes]]


def parse_ip(host: str) -> tuple[str, int]:
    """Read a numeric address: without its scope, and the number of its interface (0: none).

    ValueError names anything else. IPv4 mapped into IPv6 becomes IPv4.
    """
    if not isinstance(host, str):
        raise TypeError(f"a host is a str, not {type(host).__name__}")
    text, percent, scope = host.partition("%")
    if not text.isascii() or "\0" in host:
        raise ValueError(f"{host!r} is not a numeric IP address")
    if not percent:
        with contextlib.suppress(OSError):
            return socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, text)), 0
    try:
        octets = socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        raise ValueError(f"{host!r} is not a numeric IP address") from None
    if octets.startswith(MAPPED) and not percent:
        return socket.inet_ntop(socket.AF_INET, octets[12:]), 0
    text = socket.inet_ntop(socket.AF_INET6, octets)
    if not percent:
        return text, 0
    if scope.isascii() and scope.isdigit() and len(scope) <= 10 and int(scope) < 1 << 32:
        return text, int(scope)
    try:
        return text, socket.if_nametoindex(scope)
    except (OSError, ValueError):
        raise ValueError(f"{host!r}: there is no interface {scope!r}") from None


def show_ipv6(host: str, scope: int) -> str:
    if host.startswith("::ffff:") and "." in host:
        return host.removeprefix("::ffff:")
    return f"{host}%{scope}" if scope else host


class UdpSocket:
    """A bound UDP socket, read and written in batches.

    `sock` is AF_INET or AF_INET6; it is made non-blocking, kept, and never closed here. `gso` and
    `gro` are for the compiled twin; nothing is joined here.
    """

    def __init__(self, sock: socket.socket, *, gso: bool = True, gro: bool = True) -> None:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_DGRAM:
            raise ValueError(f"not a UDP socket: {sock!r}")
        sock.setblocking(False)
        self._sock = sock
        self._ipv6 = sock.family == socket.AF_INET6
        self._has_messages = sys.platform == "linux" and hasattr(sock, "recvmsg")
        self._buffer = bytearray(LARGEST)
        self._view = memoryview(self._buffer)
        self._quiet = False
        self._errors: deque[tuple[int, Address | None]] = deque(maxlen=NOTES)
        self._too_large: deque[tuple[Address, int]] = deque(maxlen=NOTES)
        self._known: dict[Address, tuple[Any, ...]] = {}
        self._stats = dict.fromkeys(STATS, 0)
        if self._has_messages:
            set_option(sock, socket.IPPROTO_UDP, UDP_GRO, 0)
            for option in [*OPTIONS_IPV4, *(OPTIONS_IPV6 if self._ipv6 else [])]:
                set_option(sock, *option)

    @property
    def gso(self) -> bool:
        """Whether trains leave as GSO messages: never."""
        return False

    @property
    def gro(self) -> bool:
        """Whether the kernel joins what arrives: never."""
        return False

    def fileno(self) -> int:
        """The descriptor of the socket; -1 once it is closed."""
        return self._sock.fileno()

    def receive(self, max_datagrams: int = 512, max_bytes: int = 1 << 20) -> list[Datagram]:
        """Take what is waiting, at most about so much: [(payload, peer, local, ecn), ...].

        `local` is the address the peer sent to. Never blocks; an ICMP error is left to
        take_errors(). OSError: the socket is closed or broken.
        """
        result: list[Datagram] = []
        stats = self._stats
        while max_datagrams > 0 and max_bytes > 0:
            try:
                message = self._receive_message()
            except OSError:
                if result:
                    break
                raise
            if message is None:
                break
            size, control, flags, address = message
            max_datagrams -= 1
            if flags & (getattr(socket, "MSG_TRUNC", 0) | getattr(socket, "MSG_CTRUNC", 0)):
                stats["receive_dropped_truncated"] += 1
            elif size == 0:
                stats["receive_dropped_empty"] += 1
            else:
                max_bytes -= size
                stats["receive_datagrams"] += 1
                stats["receive_bytes"] += size
                local, ecn = read_control(control)
                result.append((bytes(self._view[:size]), self._shown(address), local, ecn))
        return result

    def send(self, datagrams: Sequence[Datagram]) -> int:
        """Send [(payload, peer, local, ecn), ...]: how many from the front were consumed.

        Fewer than were given: the socket would block. `local` is the address to send from (None:
        the kernel's choice). What the kernel refuses is consumed: see take_too_large() and
        take_errors(); what it drops as well. TypeError, ValueError: nothing was sent. OSError: the
        socket is closed or broken.
        """
        prepared = [self._prepare(item) for item in datagrams]
        for consumed, (payload, control, address, peer) in enumerate(prepared):
            try:
                code = self._send_message(payload, control, address)
            except OSError:
                if consumed:
                    return consumed
                raise
            if code in WOULD_BLOCK:
                self._stats["send_would_block"] += 1
                return consumed
            if code == 0:
                self._stats["send_datagrams"] += 1
                self._stats["send_bytes"] += len(payload)
            elif code == errno.EMSGSIZE:
                self._stats["send_too_large"] += 1
                note(self._too_large, (peer, len(payload)))
            else:
                self._stats["send_errors"] += 1
                if code not in LOST:
                    note(self._errors, (code, peer))
        return len(prepared)

    def has_notes(self) -> bool:
        """True when take_errors() or take_too_large() has something to give."""
        return bool(self._errors or self._too_large)

    def take_errors(self) -> list[tuple[int, Address | None]]:
        """Errors since the last call, [(errno, the peer it concerns or None), ...]: the last 64."""
        errors = list(self._errors)
        self._errors.clear()
        return errors

    def take_too_large(self) -> list[tuple[Address, int]]:
        """Datagrams refused as too large since the last call, [(peer, size), ...]: the last 64."""
        too_large = list(self._too_large)
        self._too_large.clear()
        return too_large

    def stats(self) -> dict[str, int]:
        """Counters since the socket was taken; the calls are system calls."""
        return dict(self._stats)

    def _receive_message(self) -> tuple[int, Control, int, tuple[Any, ...]] | None:
        """Read one datagram into the buffer; None when nothing waits, or errors only."""
        for _ in range(ATTEMPTS):
            self._stats["receive_calls"] += 1
            try:
                if self._has_messages:
                    message = self._sock.recvmsg_into([self._buffer], CONTROL_BYTES)
                else:
                    size, address = self._sock.recvfrom_into(self._buffer)
                    message = (size, [], 0, address)
                self._quiet = False
                return message
            except OSError as error:
                code = error.errno or 0
                if code in BROKEN:
                    raise
            if code in WOULD_BLOCK:
                # Woken for nothing, twice: an error is queued that no call has reported, and
                # poll() goes on reporting it until it is read.
                if self._quiet:
                    self._drain_errors()
                self._quiet = True
                return None
            # An ICMP error, reported once in place of the datagrams that wait behind it.
            if self._drain_errors() == 0:
                note(self._errors, (code, None))
        return None

    def _send_message(self, payload: bytes, control: Control, address: tuple[Any, ...]) -> int:
        """Send one datagram; 0, or the errno of what refused it."""
        code = 0
        for attempt in range(ATTEMPTS):
            self._stats["send_calls"] += 1
            try:
                if self._has_messages:
                    self._sock.sendmsg([payload], control, 0, address)
                else:
                    self._sock.sendto(payload, address)
                return 0
            except OSError as error:
                code = error.errno or 0
                if code in BROKEN:
                    raise
            # An ICMP error, or a refusal? The kernel reports an ICMP error once.
            if code in WOULD_BLOCK | LOST or (self._drain_errors() == 0 and attempt):
                break
        return code

    def _drain_errors(self) -> int:
        """Read the error queue; how many ICMP errors were in it.

        The kernel also queues its own refusals there (EMSGSIZE). They are dropped, for the call
        that was refused has said so; but they have to be read, or poll() reports an error for ever.
        """
        found = 0
        if not self._has_messages:
            return found
        for _ in range(ERRORS_AT_ONCE):
            try:
                _, control, _, address = self._sock.recvmsg(8, 2 * CONTROL_BYTES, MSG_ERRQUEUE)
            except OSError:
                break
            code = icmp_errno(control)
            if code:
                found += 1
                note(self._errors, (code, self._shown(address) if address else None))
        return found

    def _shown(self, address: tuple[Any, ...]) -> Address:
        """The address as the socket module gives it, as (host, port)."""
        if self._ipv6:
            return show_ipv6(address[0], address[3]), address[1]
        return address[0], address[1]

    def _prepare(self, item: Datagram) -> tuple[bytes, Control, tuple[Any, ...], Address]:
        """Payload, control data and address of a datagram for the socket module, and its peer."""
        if not isinstance(item, tuple) or len(item) != 4:
            raise TypeError(f"a datagram is (payload, peer, local, ecn), not {item!r}")
        payload, peer, local, ecn = item
        if not isinstance(payload, bytes):
            raise TypeError(f"a payload is bytes, not {type(payload).__name__}")
        address, ipv4, shown = self._addressed(peer)
        control: Control = []
        if local is not None:
            source, scope = parse_ip(local)
            if (":" not in source) != ipv4:
                raise ValueError(f"cannot send from {local!r} to {peer[0]!r}")
            if ipv4:
                info = IN_PKTINFO.pack(0, socket.inet_aton(source), bytes(4))
                control.append((socket.IPPROTO_IP, IP_PKTINFO, info))
            else:
                info = IN6_PKTINFO.pack(socket.inet_pton(socket.AF_INET6, source), scope)
                control.append((socket.IPPROTO_IPV6, IPV6_PKTINFO, info))
        if not isinstance(ecn, int) or not 0 <= ecn <= 3:
            raise ValueError(f"ECN codepoint {ecn!r} is not in 0..3")
        if ecn and ipv4:
            control.append((socket.IPPROTO_IP, IP_TOS, INT.pack(ecn)))
        elif ecn:
            control.append((socket.IPPROTO_IPV6, IPV6_TCLASS, INT.pack(ecn)))
        return payload, control, address, shown

    def _addressed(self, peer: Address) -> tuple[tuple[Any, ...], bool, Address]:
        """The peer for the socket module, whether it speaks IPv4, and as it is shown."""
        if not isinstance(peer, tuple) or len(peer) != 2:
            raise TypeError(f"a peer is a tuple (host, port), not {peer!r}")
        known = self._known.get(peer)
        if known is None:
            known = self._read_peer(*peer)
            if len(self._known) >= ADDRESSES_KNOWN:
                self._known.clear()
            self._known[peer] = known
        return known[0], known[1], known[2]

    def _read_peer(self, host: str, port: int) -> tuple[tuple[Any, ...], bool, Address]:
        if not isinstance(port, int):
            raise TypeError(f"a port is an int, not {type(port).__name__}")
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} is not in 0..65535")
        text, scope = parse_ip(host)
        ipv4 = ":" not in text
        shown = text if ipv4 else show_ipv6(text, scope)
        if self._ipv6:
            return ("::ffff:" + text if ipv4 else text, port, 0, scope), ipv4, (shown, port)
        if not ipv4:
            raise ValueError(f"{host!r} is not an address that an IPv4 socket can send to")
        return (text, port), ipv4, (shown, port)


STATS: Final = (
    "receive_calls",
    "receive_datagrams",
    "receive_bytes",
    "receive_dropped_truncated",
    "receive_dropped_empty",
    "send_calls",
    "send_datagrams",
    "send_bytes",
    "send_trains",
    "send_by_reference",
    "send_would_block",
    "send_errors",
    "send_too_large",
    "gso_refused",
)


def set_option(sock: socket.socket, level: int, name: int, value: int) -> None:
    """Try to set a socket option; a kernel without it goes on without it."""
    with contextlib.suppress(OSError):
        sock.setsockopt(level, name, value)


def note(notes: deque[Any], item: tuple[Any, Any]) -> None:
    """Remember an error; the same one twice in a row is remembered once."""
    if not notes or notes[-1] != item:
        notes.append(item)


def read_control(control: Control) -> tuple[str | None, int]:
    """Local address (None: not there) and ECN codepoint from a message's control data."""
    local: str | None = None
    ecn = 0
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IP, IP_TOS):
            ecn = data[0] & 3
        elif (level, kind) == (socket.IPPROTO_IPV6, IPV6_TCLASS):
            ecn = INT.unpack_from(data)[0] & 3
        elif (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            # Not the third: of a broadcast, that is an address nobody can answer from.
            local = socket.inet_ntoa(IN_PKTINFO.unpack_from(data)[1])
        elif (level, kind) == (socket.IPPROTO_IPV6, IPV6_PKTINFO):
            octets, interface = IN6_PKTINFO.unpack_from(data)
            # Mapped IPv4 has an IP_PKTINFO as well.
            if not octets.startswith(MAPPED):
                link_local = octets[0] == 0xFE and octets[1] >> 6 == 2
                host = socket.inet_ntop(socket.AF_INET6, octets)
                local = show_ipv6(host, interface if link_local else 0)
    return local, ecn


def icmp_errno(control: Control) -> int:
    """The errno that an ICMP error was turned into; 0 for what is not an ICMP error."""
    for level, kind, data in control:
        if (level, kind) in (
            (socket.IPPROTO_IP, IP_RECVERR),
            (socket.IPPROTO_IPV6, IPV6_RECVERR),
        ) and len(data) >= ERROR.size:
            code, origin = ERROR.unpack_from(data)
            if origin in (SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6):
                return int(code)
    return 0
