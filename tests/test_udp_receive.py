"""What is read from the control messages of a datagram. tests/fuzz/control.py goes further."""

import socket
import struct
from types import ModuleType

import pytest
from fuzz.control import PKTINFO, PKTINFO6, SIZES, TCLASS, TOS, UDP_GRO, item

from rawquic.backend import BACKEND

pytest_plugins = ["fastpath_parts.build"]
pytestmark = pytest.mark.skipif(BACKEND != "compiled", reason="of the compiled data plane")

UNKNOWN = (0, bytes(16), 0)  # local address
LOCAL = (socket.AF_INET, bytes([127, 0, 0, 2]) + bytes(12), 0)
INFO = item(PKTINFO, bytes([1, 0, 0, 0, 127, 0, 0, 2, 9, 9, 9, 9]))
RUNS_ON = b"\xff" * 64  # in place of what is lacking


def gro(size: int) -> bytes:
    return item(UDP_GRO, struct.pack("@i", size))


def test_what_the_kernel_writes(parts: ModuleType) -> None:
    assert parts.message_of(b"", 1200) == (1200, 1, 0, *UNKNOWN)
    assert parts.message_of(gro(1000) + item(TOS, b"\2") + INFO, 2001) == (1000, 3, 2, *LOCAL)
    info6 = item(PKTINFO6, b"\xfe\x80" + bytes(13) + b"\1" + struct.pack("@I", 4))
    tclass = item(TCLASS, struct.pack("@i", 3))
    linked = (socket.AF_INET6, b"\xfe\x80" + bytes(13) + b"\1", 4)
    assert parts.message_of(info6 + tclass, 7) == (7, 1, 3, *linked)


@pytest.mark.parametrize("size", [0, -1, 1201, 65_536, 1 << 30])
def test_a_segment_size_that_cannot_be(parts: ModuleType, size: int) -> None:
    """0 would divide by zero, or never end; one above the length is behind the datagram."""
    assert parts.message_of(gro(size), 1200) is None
    assert parts.message_of(gro(1200), 1200) == (1200, 1, 0, *UNKNOWN)
    assert parts.message_of(gro(1), 1200) == (1, 1200, 0, *UNKNOWN)


@pytest.mark.parametrize("flag", [socket.MSG_TRUNC, socket.MSG_CTRUNC])
def test_a_message_that_was_cut(parts: ModuleType, flag: int) -> None:
    assert parts.message_of(INFO, 1200, flag) is None


@pytest.mark.parametrize("kind", [UDP_GRO, TOS, PKTINFO, TCLASS, PKTINFO6])
def test_too_little_data_says_nothing(parts: ModuleType, kind: tuple[int, int]) -> None:
    short = item(kind, RUNS_ON, 16 + SIZES[kind] - 1)
    assert parts.message_of(short, 1200) == (1200, 1, 0, *UNKNOWN)


@pytest.mark.parametrize("length", [0, 15, 65, 1 << 31, (1 << 63) + 20, (1 << 64) - 1])
def test_a_length_that_cannot_be(parts: ModuleType, length: int) -> None:
    """Nothing is taken from there on; what came before holds."""
    wrong = item(TOS, b"\3", length)
    assert parts.message_of(INFO + wrong + bytes(40), 1200) == (1200, 1, 0, *LOCAL)


def test_an_icmp_error_is_there_whole(parts: ModuleType) -> None:
    error = struct.pack("@IB11x", 111, 2)
    kind = (socket.IPPROTO_IP, 11)
    assert parts.icmp_errno_of(INFO + item(kind, error)) == 111
    assert parts.icmp_errno_of(INFO + item(kind, error, 31)) == 0
    assert parts.icmp_errno_of(INFO + item(kind, error, 33)) == 0
