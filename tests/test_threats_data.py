"""Hostile input to the compiled data plane, a row of the threat model each.

What is sent is encrypted as it should be. Each test checks the error, or the memory or the time
that it may cost; `DataPeer` is the attacker.
"""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from data_peer import DataPeer, frame

from rawquic.backend import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "compiled", reason="of the compiled data plane")

PROTOCOL_VIOLATION = 0xA
EMPTY_DATAGRAM = frame(0x31, 0)


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def draw_acks(peer: DataPeer, count: int) -> int:
    """Make the plane send that many ACKs alone; the number of the last."""
    last = -1
    for i in range(count):
        peer.now += 1e-5
        peer.send(EMPTY_DATAGRAM)
        peer.send(EMPTY_DATAGRAM)
        packets = peer.plane.build(peer.now)
        assert packets, f"no ACK after {i} of them"
        last, _ = peer.opened(packets[-1])
        peer.plane.read_datagrams(1000)
        peer.plane.take_events()
    return last


def test_acks_alone_leave_nothing_behind() -> None:
    peer = DataPeer()
    draw_acks(peer, 5_000)
    before = resident()
    draw_acks(peer, 60_000)
    assert resident() - before < 1 << 20


def test_a_sender_of_datagrams_alone_is_acknowledged_for_ever() -> None:
    """RFC 9000 §13.2.1; ACKs alone are never acknowledged, so their numbers settle themselves."""
    draw_acks(DataPeer(), 70_000)


def test_a_connection_that_ends_with_unacknowledged_control_frames_is_freed() -> None:
    class Owner:
        plane: Any = None

    peer, owner = DataPeer(), Owner()
    seen = weakref.ref(owner)
    owner.plane = peer.plane
    for _ in range(3):
        peer.plane.control_queue(b"\x1e", (owner.__init__, ()))
        peer.collect()
    peer.plane.control_queue(b"\x1e", (owner.__init__, ()))
    peer.plane.discard()
    del owner, peer
    gc.collect()
    assert seen() is None
