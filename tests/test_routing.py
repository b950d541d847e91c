"""Which connection a datagram belongs to, and the life of the tables that say so."""

from typing import Any

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import pull_quic_header
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import CLIENT, Pair, frame, make, ours, seal, stock

from rawquic.connection.control import CONNECTION_ID_LENGTH
from rawquic.endpoint.linger import Lingering
from rawquic.endpoint.link import Link
from rawquic.endpoint.routing import LongHeader, Routes, parse_long_header

HERE, THERE = ("192.0.2.1", 1), ("192.0.2.2", 2)


class Endpoint:
    """As much of one as a Link asks for."""

    def __init__(self) -> None:
        self.flushed: list[Link] = []
        self.turn = self

    def flush_soon(self, link: Link) -> None:
        self.flushed.append(link)


class Ids:
    """A connection that only changes its connection IDs."""

    def __init__(self) -> None:
        self.changes: list[tuple[bytes, bool]] = []
        self.wanted = False

    def take_id_changes(self) -> list[tuple[bytes, bool]]:
        changes, self.changes = self.changes, []
        return changes

    def wants_flush(self) -> bool:
        return self.wanted


def link_of(*ids: bytes) -> Link:
    connection = Ids()
    connection.changes = [(cid, True) for cid in ids]
    return Link(Endpoint(), connection, False)  # type: ignore[arg-type]


def short(cid: bytes, rest: bytes = b"payload") -> bytes:
    return b"\x40" + cid + rest


def long(destination: bytes, source: bytes = b"", version: int = 1, rest: bytes = b"x") -> bytes:
    head = b"\xc0" + version.to_bytes(4, "big")
    return head + bytes([len(destination)]) + destination + bytes([len(source)]) + source + rest


def cid(number: int) -> bytes:
    return bytes([number]) * CONNECTION_ID_LENGTH


def lingering() -> Lingering:
    return Lingering([b"close"], HERE, None, 0.1)


# -- long headers ----------------------------------------------------------------------------------


def test_a_long_header() -> None:
    header = parse_long_header(long(b"destination", b"source", 0x6B3343CF))
    assert header == LongHeader(0x6B3343CF, b"destination", b"source")
    assert parse_long_header(long(b"", b"", 0)) == LongHeader(0, b"", b"")


@pytest.mark.parametrize("length", [0, 8, 20])
def test_a_long_header_that_is_cut(length: int) -> None:
    whole = long(bytes(length), bytes(length), rest=b"")
    assert parse_long_header(whole) is not None
    for end in range(len(whole)):
        assert parse_long_header(whole[:end]) is None


@pytest.mark.parametrize("length", [21, 255])
def test_connection_ids_are_at_most_20_bytes(length: int) -> None:
    """RFC 9000 §17.2."""
    assert parse_long_header(long(bytes(length), b"", rest=bytes(300))) is None
    assert parse_long_header(long(b"", bytes(length), rest=bytes(300))) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    header = parse_long_header(data)
    if header is not None:
        rebuilt = long(header.destination_cid, header.source_cid, header.version, b"")
        assert data[1 : len(rebuilt)] == rebuilt[1:]
    if data:
        Routes(None).find(data, HERE)


def test_it_reads_what_aioquic_writes() -> None:
    client = stock(True)
    client.connect(("192.0.2.9", 9), 0.0)
    ((data, _),) = client.datagrams_to_send(0.0)
    header, theirs = parse_long_header(data), pull_quic_header(Buffer(data=data))
    assert header is not None
    assert (header.version, header.destination_cid, header.source_cid) == (
        theirs.version,
        theirs.destination_cid,
        theirs.source_cid,
    )


# -- finding ---------------------------------------------------------------------------------------


def test_a_short_header_is_found_by_its_connection_id() -> None:
    routes, one, two = Routes(None), link_of(cid(1), cid(2)), link_of(cid(3))
    for link in (one, two):
        routes.add(link, HERE)
        routes.sync_ids(link)
    assert routes.find(short(cid(1)), HERE) is one
    assert routes.find(short(cid(2)), THERE) is one  # from wherever it comes (RFC 9000 §9)
    assert routes.find(short(cid(3)), HERE) is two
    assert routes.find(short(cid(4)), HERE) is None
    assert routes.find(short(cid(1)[:7], b""), HERE) is None
    assert routes.find(b"\x40", HERE) is None


def test_a_long_header_is_found_by_our_id_then_by_the_clients_first() -> None:
    routes, link = Routes(None), link_of(cid(1))
    routes.add(link, HERE, b"client chose")
    routes.sync_ids(link)
    assert routes.find(long(cid(1)), THERE) is link
    assert routes.find(long(b"client chose"), HERE) is link
    # The client's ID is its own choice: from another address it names another client.
    assert routes.find(long(b"client chose"), THERE) == LongHeader(1, b"client chose", b"")
    assert routes.find(long(b"unknown"), HERE) == LongHeader(1, b"unknown", b"")
    assert routes.find(long(bytes(21)), HERE) is None
    assert routes.find(b"\xc0\0\0\0\1", HERE) is None


def test_two_clients_may_choose_the_same_id() -> None:
    routes, one, two = Routes(None), link_of(), link_of()
    routes.add(one, HERE, b"the same")
    routes.add(two, THERE, b"the same")
    assert routes.find(long(b"the same"), HERE) is one
    assert routes.find(long(b"the same"), THERE) is two


def test_a_clients_first_id_does_not_take_packets_of_another_connection() -> None:
    routes, victim, attacker = Routes(None), link_of(cid(1)), link_of(cid(2))
    routes.add(victim, HERE)
    routes.sync_ids(victim)
    routes.add(attacker, THERE, cid(1))
    routes.sync_ids(attacker)
    assert routes.find(short(cid(1)), THERE) is victim
    assert routes.find(long(cid(1)), THERE) is victim
    routes.replace(attacker, None)
    assert routes.find(short(cid(1)), HERE) is victim


def test_the_first_id_is_forgotten_after_the_handshake() -> None:
    routes, link = Routes(None), link_of(cid(1))
    routes.add(link, HERE, b"client chose")
    routes.sync_ids(link)
    routes.handshake_done(link)
    routes.handshake_done(link)  # twice is once
    assert routes.find(long(b"client chose"), HERE) == LongHeader(1, b"client chose", b"")
    assert routes.find(long(cid(1)), HERE) is link


def test_ids_come_and_go() -> None:
    routes, link = Routes(None), link_of(cid(1))
    routes.add(link, HERE)
    routes.sync_ids(link)
    connection: Any = link.connection
    connection.changes = [(cid(2), True), (cid(1), False), (cid(9), False)]
    routes.sync_ids(link)
    assert routes.find(short(cid(1)), HERE) is None
    assert routes.find(short(cid(2)), HERE) is link
    assert link.ids == {cid(2)}


# -- addresses -------------------------------------------------------------------------------------


def test_connections_at_an_address() -> None:
    routes, one, two, three = Routes(None), link_of(), link_of(), link_of()
    routes.add(one, HERE)
    routes.add(two, HERE)
    routes.add(three, THERE)
    assert set(routes.at(HERE)) == {one, two}
    assert set(routes.at(THERE)) == {three}
    assert set(routes.at(("192.0.2.3", 3))) == set()
    routes.moved(one, THERE)
    assert one.address == THERE
    assert set(routes.at(HERE)) == {two} and set(routes.at(THERE)) == {one, three}


def test_what_is_at_an_address_may_change_while_one_looks() -> None:
    routes = Routes(None)
    links = [link_of() for _ in range(3)]
    for link in links:
        routes.add(link, HERE)
    for link in routes.at(HERE):
        routes.replace(link, None)
    assert set(routes.at(HERE)) == set()


def test_a_move_during_the_handshake_keeps_the_first_id() -> None:
    routes, link = Routes(None), link_of(cid(1))
    routes.add(link, HERE, b"client chose")
    routes.moved(link, THERE)
    assert routes.find(long(b"client chose"), HERE) is link
    routes.replace(link, None)
    assert not isinstance(routes.find(long(b"client chose"), HERE), Link)


# -- the end ---------------------------------------------------------------------------------------


def test_a_closed_connection_leaves_what_lingers() -> None:
    routes, link, rest = Routes(None), link_of(cid(1), cid(2)), lingering()
    routes.add(link, HERE, b"client chose")
    routes.sync_ids(link)
    routes.replace(link, rest)
    assert routes.find(short(cid(1)), HERE) is routes.find(long(cid(2)), HERE) is rest
    assert not isinstance(routes.find(long(b"client chose"), HERE), Link | Lingering)
    assert set(routes.at(HERE)) == set()
    assert rest.ids == {cid(1), cid(2)} and link.ids == set()
    routes.forget(rest)
    assert routes.find(short(cid(1)), HERE) is None


def test_nothing_is_left_when_nothing_lingers() -> None:
    routes, link = Routes(None), link_of(cid(1), cid(2))
    routes.add(link, HERE, b"client chose")
    routes.sync_ids(link)
    routes.replace(link, None)
    assert routes.find(short(cid(1)), HERE) is None
    assert not any((routes._by_id, routes._by_initial, routes._by_address))


def test_many_connections_leave_no_trace() -> None:
    routes = Routes(None)
    for number in range(500):
        link = link_of(*(routes.new_connection_id() for _ in range(3)))
        routes.add(link, ("192.0.2.1", number), bytes(8))
        routes.sync_ids(link)
        routes.moved(link, ("192.0.2.2", number))
        rest = lingering() if number % 2 else None
        routes.replace(link, rest)
        if rest is not None:
            routes.forget(rest)
    assert not any((routes._by_id, routes._by_initial, routes._by_address))


# -- IDs and tokens --------------------------------------------------------------------------------


def test_new_ids_are_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    routes, link = Routes(None), link_of(cid(1))
    routes.add(link, HERE)
    routes.sync_ids(link)
    drawn = iter([cid(1), cid(1), cid(2)])
    monkeypatch.setattr("os.urandom", lambda size: next(drawn))
    assert routes.new_connection_id() == cid(2)


def test_reset_tokens_are_a_function_of_key_and_id() -> None:
    """RFC 9000 §10.3.2: the same after a restart, and not to be guessed without the key."""
    one, again, other = Routes(b"k" * 32), Routes(b"k" * 32), Routes(b"l" * 32)
    assert one.reset_token(cid(1)) == again.reset_token(cid(1))
    assert len(one.reset_token(cid(1))) == 16
    tokens = {one.reset_token(cid(number)) for number in range(100)}
    assert len(tokens) == 100
    assert other.reset_token(cid(1)) not in tokens
    assert Routes(None).reset_token(cid(1)) != Routes(None).reset_token(cid(1))


def test_all_packets_of_a_real_connection_are_found() -> None:
    routes = Routes(None)
    client = ours(True)
    server = ours(False, odcid=client.original_destination_connection_id, routes=routes)
    link = Link(Endpoint(), server, False)  # type: ignore[arg-type]
    routes.add(link, CLIENT, client.original_destination_connection_id)
    routes.sync_ids(link)
    pair = Pair(client, server)
    found = 0

    def keep(source: Any, data: bytes) -> bool:
        nonlocal found
        if source is client:
            assert routes.find(data, CLIENT) is link
            found += 1
        routes.sync_ids(link)
        if server.handshake_done:
            routes.handshake_done(link)
        return True

    pair.keep = keep
    pair.handshake()
    for _ in range(5):
        client.change_connection_id()
        client.ping(1)
        pair.flush()
        pair.run(0.3)
    assert found > 10 and len(link.ids) == 4
    assert set(routes._by_id) == link.ids == {each.cid for each in server._host_cids}


def test_an_id_that_was_retired_is_not_routed() -> None:
    routes = Routes(None)
    client = stock(True)
    server = ours(False, odcid=client.original_destination_connection_id, routes=routes)
    link = Link(Endpoint(), server, False)  # type: ignore[arg-type]
    routes.add(link, CLIENT)
    pair = Pair(client, server).handshake()
    routes.sync_ids(link)
    old = seal(client, frame(0x01))
    assert routes.find(old, CLIENT) is link
    client.change_connection_id()
    pair.flush()
    pair.run(0.2)
    routes.sync_ids(link)
    assert routes.find(old, CLIENT) is None


def test_a_link_flushes_when_there_is_something() -> None:
    link = link_of()
    endpoint: Any = link.endpoint
    connection: Any = link.connection
    link.flush_if_wanted()
    assert endpoint.flushed == []
    connection.wanted = True
    link.flush_if_wanted()
    link.flush_soon()
    assert endpoint.flushed == [link, link]
    link.on_events([])  # nobody listens yet


def test_ids_of_both_ends_have_the_length_that_routing_counts_on() -> None:
    pair = make().handshake()
    for connection in (pair.client, pair.server):
        ids = [each for each, added in connection.take_id_changes() if added]
        assert ids and {len(each) for each in ids} == {CONNECTION_ID_LENGTH}
        assert connection.configuration.connection_id_length == CONNECTION_ID_LENGTH
