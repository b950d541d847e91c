"""PING and key updates (RFC 9001 §6).

Where aioquic as it is behaves otherwise, the test shows it on `stock`, under a comment that begins
with "Stock:". So it fails on aioquic alone, and says when a release of aioquic makes it needless.
"""

from typing import Any

import pytest
import views
from aioquic.quic import events as aioquic_events
from aioquic.tls import Epoch
from pair import (
    Pair,
    make,
    pair_of,
    transfer,
)

from rawquic.connection import mended
from rawquic.connection.interface import Event
from rawquic.connection.key_updates import KeyUpdates

pytestmark = pytest.mark.usefixtures("backend")

KIB = 1024


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_ping(loss: float) -> None:
    pair = make(loss=loss, seed=8).handshake()
    pair.client.ping(41)
    assert pair.client.wants_flush()
    pair.flush()
    pair.run_until(lambda: (Event.PING_ACKED, 41) in pair.events[pair.client], 10.0)
    pair.server.ping(42)
    pair.flush()
    pair.run_until(lambda: (Event.PING_ACKED, 42) in pair.events[pair.server], 10.0)


@pytest.mark.parametrize(("client", "server"), [("ours", "ours"), ("ours", "stock")])
def test_key_update_by_this_end(client: str, server: str) -> None:
    pair = make(client, server).handshake()
    for number in range(1, 6):
        pair.client.update_keys()
        pair.flush()
        pair.run(0.2)
        assert views.key_phase(pair.client) == views.key_phase(pair.server) == number % 2
        assert pair.client.statistics().key_updates == number
        data = bytes([number]) * 5000
        assert transfer(pair, pair.client, data) == data
        assert transfer(pair, pair.server, data) == data


def test_key_update_by_a_stock_peer() -> None:
    pair = make("stock", "ours").handshake()
    for number in range(1, 4):
        pair.client.request_key_update()
        pair.client.send_ping(number)
        pair.flush()
        pair.run(0.2)
        assert views.key_phase(pair.server) == number % 2
        assert transfer(pair, pair.server, b"x" * 5000) == b"x" * 5000


def test_key_updates_from_both_sides_at_once() -> None:
    pair = make().handshake()
    pair.client.update_keys()
    pair.server.update_keys()
    pair.flush()
    pair.run(0.5)
    assert views.key_phase(pair.client) == views.key_phase(pair.server) == 1
    assert transfer(pair, pair.client, b"x" * 5000) == b"x" * 5000


def two_updates_in_a_row(pair: Pair, update: Any) -> None:
    """The packet that would tell of the first is lost; the second comes before it is confirmed."""
    pair.keep = lambda source, data: source is not pair.client
    update()
    pair.flush()
    pair.run(0.005)
    update()
    pair.flush()
    pair.keep = None
    pair.run(10.0)


def test_a_key_update_waits_for_the_one_before() -> None:
    """RFC 9001 §6.1: not before a packet under the present keys was acknowledged."""
    pair = make().handshake()
    two_updates_in_a_row(pair, pair.client.update_keys)
    assert pair.client.statistics().key_updates == 2
    assert views.key_phase(pair.client) == views.key_phase(pair.server) == 0
    assert transfer(pair, pair.client, b"x" * 5000) == b"x" * 5000

    # Stock: the peer can never decrypt again.
    pair = make("stock", "ours").handshake()

    def update() -> None:
        pair.client.request_key_update()
        pair.client.send_ping(1)

    two_updates_in_a_row(pair, update)
    assert not pair.client.of(aioquic_events.PingAcknowledged)
    assert pair.server.timer() is not None  # it waits for its idle time-out


def test_a_key_update_behind_the_peers_waits_until_that_is_confirmed() -> None:
    pair = make("stock", "ours").handshake()
    pair.client.request_key_update()
    pair.client.send_ping(1)
    for data, _ in pair.client.datagrams_to_send(pair.now + 0.001):
        pair.deliver(pair.server, data)
    pair.server.update_keys()
    pair.flush()
    assert views.key_phase(pair.server) == 1  # the peer's, which a PING under it confirms first
    assert pair.server.statistics().key_updates == 0
    pair.run(1.0)
    assert views.key_phase(pair.server) == views.key_phase(pair.client) == 0
    assert pair.server.statistics().key_updates == 1
    assert transfer(pair, pair.server, b"x" * 5000) == b"x" * 5000


def test_keys_are_updated_long_before_they_wear_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9001 §6.6."""
    assert mended.PACKETS_PER_KEY < 1 << 22
    monkeypatch.setattr(mended, "PACKETS_PER_KEY", 100)
    pair = make("ours", "stock").handshake()
    if pair.client.plane is not None:
        assert pair.client.plane.packets_per_key < 1 << 23
        pair.client.plane.packets_per_key = 100
    data = bytes(500 * KIB)
    assert transfer(pair, pair.client, data) == data
    sent = pair.client.statistics().packets_sent
    assert 3 <= pair.client.statistics().key_updates <= sent // 100

    # Stock: never by itself.
    pair = pair_of("stock")
    pair.client._packet_number = 1 << 24
    pair.server._spaces[Epoch.ONE_RTT].expected_packet_number = 1 << 24
    for number in range(3):
        pair.client.send_ping(number)
        pair.flush()
        pair.run(0.2)
    assert len(pair.client.of(aioquic_events.PingAcknowledged)) == 3
    assert views.key_phase(pair.client) == 0


def test_many_key_updates_asked_for_at_once_are_one() -> None:
    pair = make().handshake()
    for _ in range(5):
        pair.client.update_keys()
    pair.flush()
    pair.run(1.0)
    assert pair.client.statistics().key_updates == 1
    assert views.key_phase(pair.client) == views.key_phase(pair.server) == 1


def test_key_update_before_the_handshake_is_confirmed() -> None:
    pair = make()
    pair.start()
    pair.run_until(lambda: pair.client.handshake_done)
    assert not pair.client._handshake_confirmed
    pair.client.update_keys()
    pair.flush()
    pair.run(1.0)
    assert views.key_phase(pair.client) == views.key_phase(pair.server) == 1
    assert pair.client.statistics().key_updates == 1


def test_a_confirmation_from_before_the_peers_update_does_not_count() -> None:
    keys = KeyUpdates()
    keys.wanted = True
    assert keys.may_begin() and keys.done == 1
    number = keys.ping()
    assert number is not None and number < -1
    assert keys.ping() is None  # one at a time
    keys.peer_updated()
    keys.wanted = True
    keys.ping_acked(number)  # under the keys before
    assert not keys.may_begin()
    again = keys.ping()
    assert again is not None and again != number
    keys.ping_acked(again)
    assert keys.may_begin() and keys.done == 2


def test_a_peers_update_is_not_confirmed_until_that_matters() -> None:
    keys = KeyUpdates()
    keys.peer_updated()
    assert keys.ping() is None
    keys.wanted = True
    assert not keys.may_begin() and keys.ping() is not None
