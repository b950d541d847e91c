"""How long the data plane's packet protection keys serve, and for how much (RFC 9001 §6)."""

import pytest
from data_peer import PEER_CID, PING, DataPeer, ack

from rawquic.backend import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "compiled", reason="of the compiled data plane")

AEAD_LIMIT_REACHED = 0xF


# -- the keys before -------------------------------------------------------------------------------


def test_the_keys_before_serve_for_three_probe_timeouts() -> None:
    """RFC 9001 §6.5."""
    peer = DataPeer()
    peer.phase = 1
    assert peer.send(PING, number=10)
    timeout = peer.plane.pto()
    peer.now += 2.9 * timeout
    assert peer.send(PING, number=0, phase=0)
    peer.now += 0.2 * timeout
    assert not peer.send(PING, number=1, phase=0)
    assert peer.send(PING, number=1)  # only the keys were wrong
    assert peer.failure() is None


def test_a_second_update_ends_the_keys_of_two_phases_before() -> None:
    peer = DataPeer()
    for phase in range(3):
        assert peer.send(PING, PING, number=10 * phase + 5, phase=phase)
        answer = peer.collect()
        assert answer
        peer.plane.ping(phase)
        ((number, _),) = peer.collect()
        peer.send(ack((number, number)), number=10 * phase + 6, phase=phase)
    assert peer.plane.statistics()["peer_key_updates"] == 2
    assert not peer.send(PING, number=0, phase=0)
    assert peer.send(PING, number=1, phase=1)


# -- packets that do not open ----------------------------------------------------------------------


def forged(peer: DataPeer, phase: int) -> bytes:
    packet = bytearray(peer.packet(PING, phase=phase))
    packet[-1] ^= 1
    return bytes(packet)


@pytest.mark.parametrize(
    ("cipher", "size", "limit"),
    [("aes-128-gcm", 16, 52), ("aes-256-gcm", 32, 52), ("chacha20-poly1305", 32, 36)],
)
def test_the_integrity_limit_is_the_ciphers(cipher: str, size: int, limit: int) -> None:
    """RFC 9001 §6.6."""
    from rawquic import _fastpath

    peer = DataPeer()
    key = _fastpath.PacketKey(cipher, bytes(size), bytes(12), bytes(size))
    peer.plane.set_open_key(key, key)
    assert peer.plane.integrity_limit == 1 << limit


def test_more_forged_packets_than_the_integrity_limit_end_the_connection() -> None:
    """RFC 9001 §6.6: across all keys."""
    peer = DataPeer()
    peer.plane.integrity_limit = 9
    for number in range(9):
        assert not peer.plane.receive(forged(peer, number % 2), peer.now)
        if number == 4:
            peer.phase = 1
        assert peer.send(PING)
        assert not peer.send(PING, number=peer.number - 1)  # a duplicate is none of them
    assert peer.plane.inspect()["phases"] == (1, 1)
    assert peer.failure() is None
    assert not peer.plane.receive(forged(peer, 1), peer.now)
    assert peer.failure() == AEAD_LIMIT_REACHED


# -- packets under one key -------------------------------------------------------------------------


def sealed_until_the_end(peer: DataPeer, pings: int) -> int:
    """How many packets the plane seals, one a PING, until it fails, its close included."""
    sealed = 0
    for number in range(pings):
        peer.plane.ping(number)
        sealed += len(peer.collect())
        if peer.failure() is not None:
            break
    return sealed + bool(peer.plane.build_single(b"\x1c\x0f\x00\x00", PEER_CID, peer.now, 0))


def test_the_confidentiality_limit_holds_where_no_update_can_be_made() -> None:
    """RFC 9001 §6.6. §6.1: nothing under the present key was acknowledged, so it cannot."""
    peer = DataPeer()
    assert peer.plane.confidentiality_limit == 1 << 23
    assert peer.plane.packets_per_key < 1 << 23
    peer.plane.packets_per_key, peer.plane.confidentiality_limit = 10, 150
    sealed = sealed_until_the_end(peer, 200)
    assert peer.failure() == AEAD_LIMIT_REACHED
    assert 10 < sealed <= 150
    assert peer.plane.statistics()["key_updates"] == 0
    assert peer.collect() == []


def test_a_batch_does_not_pass_the_confidentiality_limit() -> None:
    """RFC 9001 §6.6: no packet more is protected, not about as many."""
    peer = DataPeer(send_window=1 << 22)
    stream_id = peer.plane.open_stream(True)
    peer.plane.write(stream_id, bytes(1 << 22), 0)
    for _ in range(10):  # grow the window
        peer.send(*[ack((number, number)) for number, _ in peer.collect()])
    assert peer.plane.statistics()["congestion_window"] > 400 * 1200
    peer.plane.packets_per_key, peer.plane.confidentiality_limit = 10, 150
    peer.plane.request_key_update()
    sealed = len(peer.collect()) + sealed_until_the_end(peer, 1)
    assert peer.failure() == AEAD_LIMIT_REACHED
    assert 150 - 64 < sealed <= 150


def test_a_limit_that_an_update_keeps_away_ends_nothing() -> None:
    peer = DataPeer()
    peer.plane.packets_per_key, peer.plane.confidentiality_limit = 10, 80
    for number in range(200):
        peer.plane.ping(number)
        for sent, _ in peer.collect():
            peer.phase = peer.plane.statistics()["key_updates"]
            peer.send(ack((sent, sent)))
    assert peer.failure() is None
    assert peer.plane.statistics()["key_updates"] >= 10
