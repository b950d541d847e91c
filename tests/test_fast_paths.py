"""Paths of the fast connection: anti-amplification, migration, probes (RFC 9000 §8, §9)."""

import pytest
from pair import CLIENT, ELSEWHERE, Pair, frame, opened, our_server, seal, transfer
from wiretap import Wiretap, tapped

pytestmark = pytest.mark.usefixtures("fast_only")

KIB = 1024
PADDING = bytes(1200)


# -- 8: amplification ------------------------------------------------------------------------------


def test_no_more_than_three_times_what_came_from_an_unvalidated_address() -> None:
    pair, tap = tapped("stock", "fast")
    stream_id = opened(pair.server)
    pair.server.streams.write(stream_id, bytes(200 * KIB), 0)
    pair.addresses[pair.client] = ELSEWHERE
    pair.keep = lambda source, data: source is pair.client
    received = 0
    begin = pair.now
    for number in range(6):
        packet = seal(pair.client, frame(0x01) + bytes(100 * number))
        received += len(packet)
        pair.deliver(pair.server, packet, ELSEWHERE)
        pair.flush()
        pair.run(0.7)
        there = [each for each in tap.since(begin) if each.address == ELSEWHERE]
        assert 0 < sum(each.size for each in there) <= 3 * received
    assert pair.server.timer() is not None


# -- 10: paths -------------------------------------------------------------------------------------


def grown() -> tuple[Pair, Wiretap]:
    """The server's window and packet size have grown."""
    pair = our_server()
    tap = Wiretap(pair, pair.server)
    pair.handshake()
    assert transfer(pair, pair.server, bytes(400 * KIB)) == bytes(400 * KIB)
    seen = pair.server.statistics()
    assert seen.congestion_window > 30_000 and seen.mtu == 1452
    return pair, tap


def move(pair: Pair, address: tuple[str, int]) -> None:
    pair.addresses[pair.client] = address
    pair.client.send_ping(1)
    for data, _ in pair.client.datagrams_to_send(pair.now):
        pair.deliver(pair.server, data, address)


def test_another_address_starts_afresh() -> None:
    """RFC 9000 §9.4."""
    pair, tap = grown()
    move(pair, ELSEWHERE)
    seen = pair.server.statistics()
    assert pair.server.peer_address() == ELSEWHERE
    assert seen.congestion_window <= 14720 and seen.mtu == 1200
    assert seen.rtt == pair.server.config.initial_rtt
    begin = pair.now
    pair.flush()
    challenged = [each for each in tap.since(begin) if each.has(0x1A)]
    assert challenged and all(each.address == ELSEWHERE for each in challenged)
    pair.run(2.0)
    assert pair.server._network_paths[0].is_validated
    assert transfer(pair, pair.server, bytes(100 * KIB)) == bytes(100 * KIB)
    assert pair.server.statistics().mtu == 1452
    assert pair.server.statistics().rtt == pytest.approx(0.02, abs=0.01)


def test_another_port_does_not() -> None:
    pair, _ = grown()
    before = pair.server.statistics()
    move(pair, (CLIENT[0], 7777))
    after = pair.server.statistics()
    assert pair.server.peer_address() == (CLIENT[0], 7777)
    assert (after.congestion_window, after.mtu) == (before.congestion_window, before.mtu)


def test_a_probing_packet_moves_nothing_and_is_answered_where_it_came_from() -> None:
    """RFC 9000 §8.2.2, §9.1."""
    pair, tap = tapped("stock", "fast")
    probe = seal(pair.client, frame(0x1A, b"question") + PADDING[:1150])
    begin = pair.now
    pair.deliver(pair.server, probe, ELSEWHERE)
    assert pair.server.peer_address() == CLIENT
    pair.flush()
    answers = [each for each in tap.since(begin) if each.has(0x1B)]
    assert len(answers) == 1 and answers[0].address == ELSEWHERE
    assert answers[0].of(0x1B) == [(0x1B, b"question")]
    assert answers[0].size == 1200 and answers[0].has(0x1A)
    pair.run(5.0)
    # Never again, and nothing but probes went there.
    assert len(tap.frames(0x1B)) == 1
    there = [each for each in tap.packets if each.address == ELSEWHERE]
    assert all(each.has(0x1A, 0x1B) for each in there)


def test_a_short_probe_is_answered_within_the_limit() -> None:
    """RFC 9000 §8.2.1: padded where the anti-amplification limit allows it."""
    pair, tap = tapped("stock", "fast")
    probe = seal(pair.client, frame(0x1A, b"question"))
    begin = pair.now
    pair.deliver(pair.server, probe, ELSEWHERE)
    pair.flush()
    answers = [each for each in tap.since(begin) if each.address == ELSEWHERE]
    assert answers and answers[0].has(0x1B)
    assert sum(each.size for each in answers) <= 3 * len(probe)


def blocked() -> tuple[Pair, Wiretap]:
    """The server's window is full, and nothing that it sends arrives any more."""
    pair, tap = tapped("stock", "fast")
    pair.keep = lambda source, data: source is pair.client
    pair.server.streams.write(opened(pair.server), bytes(200 * KIB), 0)
    pair.flush()
    return pair, tap


def test_a_response_leaves_alone_and_at_once_on_the_path_of_its_challenge() -> None:
    """RFC 9000 §8.2.2: also on the active path, and where the peer is elsewhere before it left."""
    pair, tap = blocked()
    pair.inject(pair.client, frame(0x1A, b"question"))
    pair.flush()
    (first,) = [each for each in tap.packets if each.has(0x1B)]
    pair.inject(pair.client, frame(0x1A, b"another?"))
    pair.deliver(pair.server, seal(pair.client, frame(0x01)), ELSEWHERE)
    assert pair.server.peer_address() == ELSEWHERE
    pair.flush()
    (second,) = [each for each in tap.packets if each.has(0x1B) and each is not first]
    for answer, data in ((first, b"question"), (second, b"another?")):
        assert (answer.address, answer.size) == (CLIENT, 1200)
        assert answer.frames == [(0x1B, data)]


def test_a_lost_response_is_not_sent_again() -> None:
    """RFC 9000 §13.3: the peer asks again."""
    pair, tap = tapped("stock", "fast")
    lost = tap.lose_first(0x1B)
    pair.inject(pair.client, frame(0x1A, b"question"))
    pair.server.ping(1)
    pair.flush()
    assert transfer(pair, pair.server, bytes(100 * KIB)) == bytes(100 * KIB)
    pair.run(5.0)
    assert lost and len(tap.frames(0x1B)) == 1


def test_many_challenges_in_little_room_are_answered_as_far_as_they_fit() -> None:
    """RFC 9000 §8.1; what does not fit breaks nothing."""
    pair, tap = tapped("stock", "fast")
    pair.deliver(pair.server, seal(pair.client, frame(0x1A, b"question")), ELSEWHERE)
    pair.flush()
    path = pair.server._network_paths[1]
    probe = seal(pair.client, b"".join(frame(0x1A, bytes([i]) * 8) for i in range(9)))
    path.bytes_sent = 3 * (path.bytes_received + len(probe)) - 90
    tap.packets.clear()
    pair.deliver(pair.server, probe, ELSEWHERE)
    pair.flush()
    (answer,) = [each for each in tap.packets if each.address == ELSEWHERE]
    assert answer.size == 90 and len(answer.frames) == 5
    assert pair.server.close_reason is None


def test_the_challenge_of_an_active_path_is_padded() -> None:
    """RFC 9000 §8.2.1: to 1,200 bytes where three times what came allows it."""
    for came, size in ((PADDING[:1150], 1200), (b"", None)):
        pair, tap = tapped("stock", "fast")
        begin, packet = pair.now, seal(pair.client, frame(0x01) + came)
        pair.deliver(pair.server, packet, ELSEWHERE)
        pair.flush()
        (challenge,) = [each for each in tap.since(begin) if each.has(0x1A)]
        assert challenge.address == ELSEWHERE
        assert challenge.size == (size or 3 * len(packet))


def test_an_old_packet_from_another_address_does_not_move_the_path() -> None:
    """RFC 9000 §9.3: only the highest-numbered non-probing packet does."""
    pair, _ = tapped("stock", "fast")
    old = seal(pair.client, frame(0x01))
    pair.inject(pair.client, frame(0x01))
    pair.deliver(pair.server, old, ELSEWHERE)
    assert pair.server.peer_address() == CLIENT


def test_the_peers_change_of_connection_id_is_answered_with_one() -> None:
    """RFC 9000 §9.5."""
    pair, _ = tapped("stock", "fast")
    before = pair.server._peer_cid.cid
    pair.client.change_connection_id()
    pair.client.send_ping(1)
    pair.flush()
    pair.run(0.2)
    assert pair.server._peer_cid.cid != before
    assert pair.server.host_cid == pair.client._peer_cid.cid
    assert transfer(pair, pair.server, b"x" * 5000) == b"x" * 5000
