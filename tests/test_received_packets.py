"""Which packets count as seen, and which are acknowledged (RFC 9000 §12.3, §13.2)."""

import pytest
from data_peer import PING, DataPeer, ack, frame, stream
from wiretap import parse

from rawquic.backend import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "compiled", reason="of the compiled data plane")

RANGES = 1024  # disjoint ones that a stream of 1 MiB may have
FAR = stream(0, 1 << 18, b"one too many")


def datagram(data: bytes) -> bytes:
    return frame(0x31, len(data), data)


def full() -> DataPeer:
    """A plane whose stream 0 takes no more ranges, so that FAR drops the packet that has it."""
    peer = DataPeer(stream_window=1 << 20, receive_window=1 << 20)
    for first in range(0, RANGES, 128):
        peer.send(*[stream(0, 2 * i + 1, b"x") for i in range(first, first + 128)])
    assert peer.plane.inspect()["streams"][0]["ranges"] == RANGES
    peer.collect()
    return peer


def acknowledged(peer: DataPeer) -> tuple[int, list[tuple[int, int]]]:
    """(delay in units, ranges) of the last ACK that the plane sends now."""
    sent = [each for _, payload in peer.collect() for each in parse(payload) if each[0] == 2]
    _, _, delay, ranges = sent[-1]
    return delay, ranges


def test_a_duplicate_in_one_batch() -> None:
    """The window is looked at once for all packets of a batch, before any of them is in it."""
    peer = DataPeer()
    packet = peer.packet(datagram(b"once"))
    peer.plane.receive(packet * 3, peer.now, 0, len(packet))
    assert peer.plane.read_datagrams(10) == [b"once"]


@pytest.mark.parametrize("ahead", [0, 1, 100, 8191, 8192, 20_000])
def test_a_packet_that_is_dropped_half_way_is_not_processed_again(ahead: int) -> None:
    """What is in front of the frame that drops it stands; the peer has to send the rest anew."""
    peer = full()
    number = peer.number + ahead
    packet = peer.packet(datagram(b"once") + FAR + datagram(b"behind"), number=number)
    for _ in range(3):
        assert not peer.plane.receive(packet, peer.now)
    assert not peer.plane.receive(packet * 2, peer.now, 0, len(packet))
    assert peer.plane.read_datagrams(10) == [b"once"]
    # It is not acknowledged, and those about it are.
    assert peer.send(PING, number=number + 1)
    if 0 < ahead < 8192:
        assert peer.send(PING, number=number - 1)
    _, ranges = acknowledged(peer)
    assert ranges[0] == (number + 1, number + 1)
    assert all(not low <= number <= high for low, high in ranges)
    # The same data under another number, now that there is room.
    assert peer.send(stream(0, 0, b"y"))
    assert peer.plane.read(0, 10) == b"yx"
    assert peer.send(datagram(b"once") + FAR + datagram(b"behind"))
    assert peer.plane.read_datagrams(10) == [b"once", b"behind"]
    assert peer.failure() is None


def test_the_first_packet_of_all_is_dropped() -> None:
    peer = DataPeer(stream_window=1 << 20, receive_window=1 << 20)
    parts = [stream(0, 2 * i + 1, b"x") for i in range(RANGES + 1)]
    packet = peer.packet(datagram(b"once") + b"".join(parts), number=7)
    for _ in range(2):
        assert not peer.plane.receive(packet, peer.now)
    assert peer.plane.read_datagrams(10) == [b"once"]
    assert peer.collect() == []
    assert peer.plane.largest_received == -1
    peer.now += 0.004
    assert peer.send(PING, number=6)
    peer.now += 0.001
    assert peer.send(PING, number=5)
    delay, ranges = acknowledged(peer)
    assert ranges == [(5, 6)]
    assert delay << 3 == pytest.approx(1000, abs=8)


def test_below_a_dropped_packet_all_is_acknowledged_until_the_peer_knows() -> None:
    """RFC 9000 §13.2.4: an ACK says nothing of numbers above its largest."""
    peer = full()
    below = peer.number
    assert not peer.send(FAR, number=below + 10)
    peer.plane.ping(1)
    assert peer.send(PING, number=below)
    ((number, payload),) = peer.collect()
    assert next(each for each in parse(payload) if each[0] == 2)[1] == below
    assert peer.send(PING, number=below + 5)
    assert peer.send(PING, number=below + 20)
    assert peer.send(ack((number, number)), number=below + 21)
    assert (below + 5, below + 5) in acknowledged(peer)[1]


def test_the_delay_of_an_acknowledgement_is_that_of_its_largest() -> None:
    """RFC 9000 §13.2.5, with a dropped packet above it."""
    peer = full()
    below = peer.number
    peer.now += 0.5
    assert not peer.send(FAR, number=below + 10)
    peer.now += 0.5
    assert peer.send(PING, number=below + 5)
    peer.now += 0.002
    assert peer.send(PING, number=below + 3)
    delay, ranges = acknowledged(peer)
    assert ranges[0] == (below + 5, below + 5)
    assert delay << 3 == pytest.approx(2000, abs=8)
