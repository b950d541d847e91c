"""Control messages of a socket, as a kernel writes them and changed, into what reads them.

What has to hold: a message means what the model below says, whatever stands about it; and nothing
behind the buffer is read, which AddressSanitizer looks at.
"""

import random
import socket
import struct
from types import ModuleType

from fuzz.mutation import mutated

HEADER = struct.Struct("@Nii")  # cmsg_len, cmsg_level, cmsg_type
WORD = HEADER.size // 2  # what they are aligned to
UDP_GRO = (socket.IPPROTO_UDP, 104)
TOS, PKTINFO, RECVERR = [(socket.IPPROTO_IP, kind) for kind in (1, 8, 11)]
TCLASS, PKTINFO6, RECVERR6 = [(socket.IPPROTO_IPV6, kind) for kind in (67, 50, 25)]
SIZES = {UDP_GRO: 4, TOS: 1, PKTINFO: 12, TCLASS: 4, PKTINFO6: 20, RECVERR: 16, RECVERR6: 16}
MAPPED = bytes(10) + b"\xff\xff"
ADDRESSES = (MAPPED + b"\x7f\0\0\1", bytes(15) + b"\1", b"\xfe\x80" + bytes(13) + b"\1")
TRUNCATED = (socket.MSG_TRUNC, socket.MSG_CTRUNC)
LENGTHS = (0, 1, 1200, 12_000, 65_536, 65_537)


def run(rng: random.Random, corpus: list[bytes], parts: ModuleType) -> None:
    for _ in range(200):
        control = written(rng)
        if corpus and rng.random() < 0.1:
            control = rng.choice(corpus)
        if rng.random() < 0.3:
            control = mutated(rng, control)
        if rng.random() < 0.2:
            control = control[: rng.randrange(len(control) + 1)]
        length = rng.choice(LENGTHS)
        flags = rng.choice((0, 0, 0, *TRUNCATED))
        assert parts.message_of(control, length, flags) == meant(control, length, flags), control
        assert parts.icmp_errno_of(control) == icmp_errno(control), control


def item(kind: tuple[int, int], data: bytes, length: int | None = None) -> bytes:
    """One control message; `length`: what it says of itself, if that is not so."""
    said = HEADER.size + len(data) if length is None else length
    return HEADER.pack(said, *kind) + data + bytes(-len(data) % WORD)


def written(rng: random.Random) -> bytes:
    """Some control messages, most of which a kernel could have written."""
    return b"".join(one(rng) for _ in range(rng.randrange(6)))


def one(rng: random.Random) -> bytes:
    kind = rng.choice(list(SIZES))
    data = data_of(rng, kind)
    odd = rng.randrange(12)
    if odd == 0:
        return item((rng.randrange(300), rng.randrange(120)), data)
    if odd == 1:  # of a wrong size
        return item(kind, rng.randbytes(rng.randrange(24)))
    if odd == 2:  # it says so
        return item(kind, data, rng.choice((*range(64), 1 << 31, (1 << 63) + 24, (1 << 64) - 1)))
    return item(kind, data)


def data_of(rng: random.Random, kind: tuple[int, int]) -> bytes:
    if kind == UDP_GRO:
        sizes = (0, -1, 1, 1200, 12_000, 65_536, 65_537, rng.randrange(-(1 << 31), 1 << 31))
        return struct.pack("@i", rng.choice(sizes))
    if kind == PKTINFO6:
        return rng.choice(ADDRESSES) + struct.pack("@I", rng.randrange(9))
    return rng.randbytes(SIZES[kind])


def items(control: bytes) -> list[tuple[tuple[int, int], bytes]]:
    """(level and type, data) of those that have all the data that they need."""
    found = []
    at = 0
    while len(control) - at >= HEADER.size:
        length, level, kind = HEADER.unpack_from(control, at)
        if not HEADER.size <= length <= len(control) - at:
            break
        data = control[at + HEADER.size : at + length]
        if len(data) >= SIZES.get((level, kind), 0):
            found.append(((level, kind), data))
        at += length + -length % WORD
    return found


def meant(control: bytes, length: int, flags: int) -> tuple[int, int, int, int, bytes, int] | None:
    """What `message_of` has to say."""
    size, ecn, local = length, 0, (0, bytes(16), 0)
    for kind, data in items(control):
        if kind == UDP_GRO:
            size = max(0, struct.unpack_from("@i", data)[0])
        elif kind == TOS:
            ecn = data[0] & 3
        elif kind == TCLASS:
            ecn = struct.unpack_from("@i", data)[0] & 3
        elif kind == PKTINFO:
            local = (socket.AF_INET, data[4:8] + bytes(12), 0)
        elif kind == PKTINFO6 and data[:12] != MAPPED:
            linked = data[0] == 0xFE and data[1] >> 6 == 2
            local = (socket.AF_INET6, data[:16], struct.unpack_from("@I", data, 16)[0] * linked)
    if flags or not 0 < size <= length <= 65_536:
        return None
    return (size, -(-length // size), ecn, *local)


def icmp_errno(control: bytes) -> int:
    """What `icmp_errno_of` has to say."""
    for kind, data in items(control):
        error, origin = struct.unpack_from("@IB", data) if kind in (RECVERR, RECVERR6) else (0, 0)
        if origin in (2, 3):  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
            return error - (1 << 32) if error >> 31 else error
    return 0
