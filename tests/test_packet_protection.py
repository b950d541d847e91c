"""How long the data plane's packet protection keys serve, and for how much (RFC 9001 §6)."""

import pytest
from data_peer import PING, DataPeer, ack

from rawquic.backend import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "compiled", reason="of the compiled data plane")

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
