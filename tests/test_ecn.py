"""ECN of the compiled data plane (RFC 9000 §13.4, RFC 9002 §7.1), and that the fallback bears it.

On a virtual clock, where the network does to the marks what a test says; against a peer that
counts what it likes; and on real sockets, where the marks are read from the IP header.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import views
from data_peer import HOST_CID, PING, DataPeer, ack, frame
from loopback import Certificate, echo, until, within
from loopback import pair as sessions
from pair import ELSEWHERE, make, our_pair, seal, transfer
from wiretap import parse

import rawquic
from rawquic.backend import BACKEND
from rawquic.config import Config

compiled = pytest.mark.skipif(BACKEND != "compiled", reason="of the compiled data plane")

NOT_ECT, ECT_1, ECT_0, CE = range(4)
KIB = 1024
DATA = bytes(range(256)) * 1200  # some 250 packets
PTO = 0.05 + 4 * 0.025 + 0.025  # of a DataPeer's plane: its RTT, variance, and max_ack_delay


def state(connection: Any) -> str:
    name: str = connection.statistics().ecn
    return name


# -- what the network does to marks ----------------------------------------------------------------


@pytest.mark.usefixtures("fast_only")
class TestPaths:
    def test_a_path_that_leaves_them_alone_is_capable(self) -> None:
        pair = our_pair().handshake()
        assert transfer(pair, pair.server, DATA) == DATA
        seen = pair.server.statistics()
        assert (seen.ecn, seen.ecn_ce, seen.congestion_events) == ("capable", 0, 0)
        begin = len(pair.codepoints[pair.server])
        assert transfer(pair, pair.server, DATA) == DATA
        assert set(pair.codepoints[pair.server][begin:]) == {ECT_0}

    @pytest.mark.parametrize("arrives", [NOT_ECT, ECT_1, CE])
    def test_a_path_that_changes_all_of_them_has_failed(self, arrives: int) -> None:
        """§13.4.2.1; appendix A.4: all of them CE is no congestion."""
        pair = our_pair()
        pair.remark = lambda source, codepoint: codepoint and arrives
        pair.handshake()
        assert transfer(pair, pair.server, DATA) == DATA
        seen = pair.server.statistics()
        assert (seen.ecn, seen.congestion_events) == ("failed", 0)
        begin = len(pair.codepoints[pair.server])
        assert transfer(pair, pair.server, DATA) == DATA
        assert set(pair.codepoints[pair.server][begin:]) == {NOT_ECT}
        assert pair.server.close_reason is None

    def test_a_path_that_marks_what_was_not_marked_has_failed(self) -> None:
        """§13.4.2.1: more of them arrived than were sent."""
        pair = our_pair().handshake()
        for _ in range(30):  # such packets are not marked
            pair.deliver(pair.client, seal(pair.server, PING), codepoint=ECT_0)
        assert transfer(pair, pair.server, DATA) == DATA
        assert state(pair.server) == "failed"

    def test_a_path_that_drops_marked_packets_has_failed(self) -> None:
        pair = our_pair()
        pair.keep = lambda source, data: not source.plane.marks.get(data)
        pair.start()
        pair.run_until(lambda: pair.client.handshake_done and pair.server.handshake_done)
        assert transfer(pair, pair.server, DATA) == DATA
        assert state(pair.server) == "failed"

    def test_losses_alone_are_no_failure(self) -> None:
        pair = our_pair(loss=0.05, reorder=0.2, duplicate=0.1).handshake()
        assert transfer(pair, pair.server, DATA) == DATA
        assert state(pair.server) == "capable"
        assert pair.server.statistics().packets_lost > 0

    def test_a_peer_that_does_not_count_is_not_marked_for(self) -> None:
        pair = make("stock", "fast").handshake()
        assert transfer(pair, pair.server, DATA) == DATA
        assert state(pair.server) == "failed"
        assert pair.codepoints[pair.server][-1] == NOT_ECT

    def test_another_path_is_tested_again(self) -> None:
        """§13.4.2.2; RFC 9000 §9.4."""
        pair = our_pair()
        pair.remark = lambda source, codepoint: NOT_ECT
        pair.handshake()
        assert transfer(pair, pair.server, DATA) == DATA
        assert state(pair.server) == "failed"
        pair.remark = lambda source, codepoint: codepoint
        pair.addresses[pair.client] = ELSEWHERE
        pair.client.ping(1)
        pair.flush()
        pair.run_until(lambda: state(pair.server) == "testing")
        assert transfer(pair, pair.server, DATA) == DATA
        assert pair.server.peer_address() == ELSEWHERE
        assert state(pair.server) == "capable"

    def test_a_path_behind_one_that_changed_them_is_tested_from_there(self) -> None:
        """What was counted as ECT(1) on the path before is no fault of this one's."""
        pair = our_pair()
        pair.remark = lambda source, codepoint: codepoint and ECT_1
        pair.handshake()
        assert transfer(pair, pair.server, DATA) == DATA
        pair.remark = lambda source, codepoint: codepoint
        pair.addresses[pair.client] = ELSEWHERE
        pair.client.ping(1)
        pair.flush()
        assert transfer(pair, pair.server, DATA) == DATA
        assert state(pair.server) == "capable"
        assert pair.client.plane.inspect()["ecn_received"][1] > 0

    def test_switched_off(self) -> None:
        """Nothing is marked; marks that come are counted for the peer, who may want them."""
        pair = our_pair(Config(enable_ecn=False), None).handshake()
        assert transfer(pair, pair.client, DATA) == DATA
        assert transfer(pair, pair.server, DATA) == DATA
        assert set(pair.codepoints[pair.client]) == {NOT_ECT}
        assert (state(pair.client), state(pair.server)) == ("off", "capable")

    @pytest.mark.parametrize("algorithm, factor", [("cubic", 0.7), ("newreno", 0.5)])
    def test_a_mark_of_congestion_shrinks_the_window_and_loses_nothing(
        self, algorithm: str, factor: float
    ) -> None:
        """RFC 9002 §7.1, RFC 9438 §4.6."""
        pair = our_pair(None, Config(congestion_control=algorithm)).handshake()
        assert transfer(pair, pair.server, DATA) == DATA
        pair.run(0.5)
        assert state(pair.server) == "capable"
        before = pair.server.statistics().congestion_window
        packets = iter([CE])
        pair.remark = lambda source, codepoint: (
            next(packets, codepoint) if source is pair.server and codepoint else codepoint
        )
        pair.server.ping(1)
        pair.flush()
        pair.run(0.1)
        seen = pair.server.statistics()
        assert (seen.ecn, seen.ecn_ce, seen.congestion_events) == ("capable", 1, 1)
        assert seen.congestion_window == pytest.approx(before * factor, abs=1500)
        assert seen.packets_lost == 0

    def test_one_round_trip_of_marks_is_one_event(self) -> None:
        pair = our_pair().handshake()
        assert transfer(pair, pair.server, DATA) == DATA
        pair.remark = lambda source, codepoint: codepoint and CE
        stream_id = pair.server.streams.open_stream(True)
        pair.server.streams.write(stream_id, bytes(20_000), 0)
        pair.flush()
        pair.run(1.0)
        seen = pair.server.statistics()
        assert seen.ecn_ce > 10 and seen.congestion_events == 1

    def test_marks_of_congestion_hold_a_sender_back(self) -> None:
        """A queue that marks what would not fit it, in place of dropping."""
        pair = our_pair().handshake()
        marked = 0

        def crowded(source: Any, codepoint: int) -> int:
            nonlocal marked
            if codepoint != ECT_0 or source is pair.client or len(pair._flight) < 40:
                return codepoint
            marked += 1
            return CE

        pair.remark = crowded
        assert transfer(pair, pair.server, DATA * 8) == DATA * 8
        seen = pair.server.statistics()
        assert seen.ecn_ce == marked > 0 and seen.congestion_events > 1
        assert seen.packets_lost == 0 and seen.congestion_window < 100_000


# -- the test of a path ----------------------------------------------------------------------------


def marking() -> DataPeer:
    """What its plane builds is marked."""
    peer = DataPeer()
    peer.plane.marks = {}
    return peer


def sent(peer: DataPeer, count: int = 1) -> list[tuple[int, int]]:
    """(number, codepoint) of the packets that the plane sends now; at least `count`."""
    packets = [(packet, peer.opened(packet)[0]) for packet in peer.plane.build(peer.now)]
    assert len(packets) >= count
    return [(number, peer.plane.marks[packet]) for packet, number in packets]


def pinged(peer: DataPeer) -> tuple[int, int]:
    peer.plane.ping(1)
    (packet,) = sent(peer)
    return packet


def acked(*numbers: int, counts: tuple[int, int, int] | None = None) -> bytes:
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers, reverse=True):
        if ranges and ranges[-1][0] == number + 1:
            ranges[-1] = (number, ranges[-1][1])
        else:
            ranges.append((number, number))
    return ack(*ranges, counts=counts)


def of(peer: DataPeer) -> str:
    name: str = peer.plane.statistics()["ecn"]
    return name


@compiled
class TestTesting:
    def test_the_first_ten_are_marked(self) -> None:
        peer = marking()
        stream_id = peer.plane.open_stream(True)
        peer.plane.write(stream_id, bytes(100_000), 0)
        flight = sent(peer, 10)
        assert {codepoint for _, codepoint in flight} == {ECT_0} and len(flight) < 20
        due = peer.plane.timer()
        assert due is not None
        peer.now = due
        peer.plane.on_timer(peer.now)
        assert {codepoint for _, codepoint in sent(peer)} == {NOT_ECT}
        assert of(peer) == "unknown"

    def test_or_those_of_three_probe_timeouts(self) -> None:
        peer = marking()
        assert [pinged(peer)[1] for _ in range(3)] == [ECT_0] * 3
        peer.now += 3 * PTO + 0.001
        assert pinged(peer)[1] == NOT_ECT

    def test_acknowledgements_alone_test_nothing(self) -> None:
        """Nobody acknowledges them, so that nothing would come of it."""
        peer = marking()
        for _ in range(20):
            peer.send(PING)
            assert [codepoint for _, codepoint in sent(peer)] == [NOT_ECT]
            peer.now += 1.0
        assert of(peer) == "testing"
        number, codepoint = pinged(peer)
        assert codepoint == ECT_0
        peer.send(acked(number, counts=(1, 0, 0)))
        assert of(peer) == "capable"
        peer.send(PING)
        assert [codepoint for _, codepoint in sent(peer)] == [ECT_0]

    def test_what_arrives_late_can_still_decide(self) -> None:
        while True:
            peer = marking()
            numbers = [pinged(peer)[0] for _ in range(10)]
            unmarked, codepoint = pinged(peer)
            if unmarked - numbers[0] == 10:
                break  # else a number was left out, and one more of them may count as lost
        assert (codepoint, of(peer)) == (NOT_ECT, "unknown")
        peer.send(acked(unmarked))  # the ten may be lost: that is not known yet
        assert of(peer) == "unknown"
        peer.send(acked(unmarked, numbers[9], counts=(1, 0, 0)))
        assert of(peer) == "unknown"  # not the newest ACK: its counts may be out of date
        last = pinged(peer)[0]
        peer.send(acked(last, numbers[8], counts=(2, 0, 0)))
        assert of(peer) == "capable"


# -- what a peer may say ---------------------------------------------------------------------------

HOSTILE = {
    "no counts": None,
    "fewer than were acknowledged": (4, 0, 0),
    "more than were sent": (11, 0, 0),
    "more than were sent, with CE": (10, 0, 1),
    "ECT(1), which is not sent": (10, 1, 0),
    "ECT(1) in place of it": (0, 10, 0),
    "all there can be": ((1 << 62) - 1,) * 3,
}


@compiled
class TestHostilePeers:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_counts_that_cannot_be_end_it(self, name: str) -> None:
        """§13.4.2.1. The connection goes on, its window as it was."""
        peer = marking()
        numbers = [pinged(peer)[0] for _ in range(5)]
        peer.send(acked(*numbers, counts=(5, 0, 0)))
        assert of(peer) == "capable"
        window = peer.plane.statistics()["congestion_window"]
        numbers = [pinged(peer)[0] for _ in range(5)]
        peer.send(acked(*numbers, counts=HOSTILE[name]))
        assert of(peer) == "failed"
        assert pinged(peer)[1] == NOT_ECT
        seen = peer.plane.statistics()
        assert (seen["congestion_events"], seen["congestion_window"]) == (0, window)
        assert peer.failure() is None

    @pytest.mark.parametrize("counts", [(4, 0, 6), (9, 0, 1)])
    def test_counts_that_go_back_end_it(self, counts: tuple[int, int, int]) -> None:
        peer = marking()
        numbers = [pinged(peer)[0] for _ in range(7)]
        peer.send(acked(*numbers, counts=(5, 0, 2)))
        assert of(peer) == "capable"
        numbers = [pinged(peer)[0] for _ in range(3)]
        peer.send(acked(*numbers, counts=counts))
        assert of(peer) == "failed"

    def test_counts_of_an_ack_that_came_late_do_not(self) -> None:
        """§13.4.2.1: one that does not raise the largest acknowledged number."""
        peer = marking()
        numbers = [pinged(peer)[0] for _ in range(5)]
        peer.send(acked(*numbers[2:], counts=(5, 0, 0)))
        peer.send(acked(*numbers[:2], counts=(2, 0, 0)))
        assert of(peer) == "capable"

    def test_counts_that_make_up_for_lost_acks_do_not(self) -> None:
        peer = marking()
        numbers = [pinged(peer)[0] for _ in range(5)]
        peer.send(acked(numbers[4], counts=(5, 0, 0)))
        assert of(peer) == "capable"

    def test_congestion_without_end_halves_the_window_once_per_round_trip(self) -> None:
        peer = marking()
        first = pinged(peer)[0]
        peer.send(acked(first, counts=(1, 0, 0)))
        numbers = [pinged(peer)[0] for _ in range(20)]
        for i, number in enumerate(numbers):
            peer.send(acked(number, counts=(1, 0, i + 1)))
        seen = peer.plane.statistics()
        assert (seen["ecn_ce"], seen["congestion_events"]) == (20, 1)
        assert of(peer) == "capable"

    def test_congestion_is_of_when_the_largest_was_sent(self) -> None:
        """RFC 9002 §7.1: what was sent after the last event began makes another."""
        peer = marking()
        first = pinged(peer)[0]
        peer.send(acked(first, counts=(1, 0, 0)))
        one = pinged(peer)[0]
        peer.now += 0.01
        peer.send(acked(one, counts=(1, 0, 1)))
        peer.now += 0.01
        two = pinged(peer)[0]
        peer.send(acked(two, counts=(1, 0, 2)))
        assert peer.plane.statistics()["congestion_events"] == 2

    def test_a_loss_that_was_none_does_not_undo_it(self) -> None:
        """The network said so itself."""
        peer = marking()
        first = pinged(peer)[0]
        peer.send(acked(first, counts=(1, 0, 0)))
        numbers = [pinged(peer)[0] for _ in range(5)]
        before = peer.plane.statistics()["congestion_window"]
        peer.send(acked(numbers[4], counts=(1, 0, 1)))
        assert peer.plane.statistics()["packets_lost"] > 0
        peer.send(acked(*numbers, counts=(5, 0, 1)))
        assert peer.plane.statistics()["congestion_window"] < before


# -- what is counted -------------------------------------------------------------------------------


def counts(peer: DataPeer) -> Any:
    """Those of the ACK that the plane sends now; None: it has none."""
    (ack,) = [each for _, payload in peer.collect() for each in parse(payload) if each[0] in (2, 3)]
    return ack[4] if ack[0] == 3 else None


@compiled
class TestCounting:
    def test_marks_are_counted_by_packet(self) -> None:
        """RFC 9000 §13.4.1."""
        peer = DataPeer()
        for _ in range(2):
            peer.send(PING)
        assert counts(peer) is None
        for codepoint, times in ((ECT_0, 5), (ECT_1, 3), (CE, 2), (NOT_ECT, 4)):
            for _ in range(times):
                peer.send(PING, ecn=codepoint)
        assert counts(peer) == (5, 3, 2)

    def test_what_is_not_processed_is_not_counted(self) -> None:
        peer = DataPeer()
        packet = peer.packet(PING + PING)
        for codepoint in (ECT_0, ECT_0, CE):  # duplicates
            peer.plane.receive(packet, peer.now, codepoint)
        peer.plane.receive(b"\x40" + HOST_CID + bytes(40), peer.now, ECT_0)  # does not open
        assert counts(peer) == (1, 0, 0)

    def test_congestion_is_reported_at_once(self) -> None:
        """RFC 9000 §13.2.1: not after max_ack_delay."""
        peer = DataPeer()
        peer.send(PING)
        peer.collect()
        peer.send(frame(0x31, 1, b"x"), ecn=ECT_0)
        assert peer.collect() == []
        peer.send(frame(0x31, 1, b"x"), ecn=CE)
        assert counts(peer) == (1, 0, 1)


@pytest.mark.usefixtures("backend")
def test_counts_are_taken_by_either_backend() -> None:
    pair = our_pair().handshake()
    transfer(pair, pair.server, b"x" * 100)
    pair.inject(pair.client, frame(0x03, views.next_number(pair.server) - 1, 0, 0, 0, 5, 0, 1))
    assert pair.server.close_reason is None
    assert transfer(pair, pair.server, b"x" * 100) == b"x" * 100


# -- on the wire -----------------------------------------------------------------------------------


class Observer:
    """Carries datagrams between a client and a server with their marks, and notes those."""

    def __init__(self, host: str, server: tuple[str, int]) -> None:
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.near, self.far = self._open(host), self._open(host)
        self.server, self.client = server, None
        self.address = self.near.getsockname()[:2]
        self.seen: list[tuple[bool, bool, int]] = []  # to the server, long header, codepoint
        loop = asyncio.get_running_loop()
        loop.add_reader(self.near.fileno(), self._carry, self.near)
        loop.add_reader(self.far.fileno(), self._carry, self.far)

    def _open(self, host: str) -> socket.socket:
        sock = socket.socket(self.family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(*self._option("RECV"), 1)
        sock.bind((host, 0))
        return sock

    def _option(self, prefix: str = "") -> tuple[int, int]:
        if self.family == socket.AF_INET6:
            return socket.IPPROTO_IPV6, getattr(socket, f"IPV6_{prefix}TCLASS")
        return socket.IPPROTO_IP, 13 if prefix else socket.IP_TOS  # IP_RECVTOS

    def _carry(self, source: socket.socket) -> None:
        level, kind = self._option()
        with contextlib.suppress(BlockingIOError):
            while True:
                data, control, _, peer = source.recvmsg(65536, 256)
                (value,) = [each[2] for each in control if each[:2] == (level, kind)]
                codepoint = value[0] & 3
                to_server = source is self.near
                self.seen.append((to_server, bool(data[0] & 0x80), codepoint))
                if to_server:
                    self.client = peer
                mark = [(level, kind, codepoint.to_bytes(4, "little"))]
                target = self.server if to_server else self.client
                (self.far if to_server else self.near).sendmsg([data], mark, 0, target)

    def codepoints(self, *, to_server: bool, long: bool = False) -> list[int]:
        return [each[2] for each in self.seen if each[:2] == (to_server, long)]

    def close(self) -> None:
        for sock in (self.near, self.far):
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()


def counted(session: Any) -> int:
    """How many of the peer's packets came as ECT(0)."""
    count: int = session._link.connection.plane.inspect()["ecn_received"][0]
    return count


@contextlib.asynccontextmanager
async def observed(
    certificate: Certificate, bind: str, host: str
) -> AsyncIterator[tuple[Any, Any, Observer]]:
    """A client's session, the server's end of it, and who sees what passes between them."""
    accepted = asyncio.get_running_loop().create_future()

    async def handle(session: rawquic.RawQuicSession) -> None:
        accepted.set_result(session)
        await echo(session)

    server = await rawquic.serve(handle, bind, 0, **certificate.server)
    observer = Observer(host, (host, server.local_address[1]))
    try:
        async with rawquic.connect(*observer.address, **certificate.client) as client:
            yield client, await within(accepted), observer
    finally:
        server.close()
        await server.wait_closed()
        observer.close()


@compiled
@pytest.mark.parametrize(
    "bind, host", [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1"), ("::", "::1")]
)
async def test_the_marks_are_in_the_ip_header(
    certificate: Certificate, bind: str, host: str
) -> None:
    """Both ways, in trains and alone; and those that come are counted to the last."""
    async with observed(certificate, bind, host) as (client, server, observer):
        send, receive = await client.open_bi()
        async with send:
            await send.write(bytes(100 * KIB))
        assert len(await within(receive.read_to_end(200 * KIB))) == 100 * KIB
        await within(client.connection.ping())
        await within(server.connection.ping())
        for end, to_server in ((client, True), (server, False)):
            stats = end.connection.stats()
            marks = observer.codepoints(to_server=to_server)
            assert marks.count(ECT_0) > 50 and set(marks) <= {NOT_ECT, ECT_0}
            assert set(observer.codepoints(to_server=to_server, long=True)) == {NOT_ECT}
            assert (stats.ecn, stats.ecn_ce) == ("capable", 0)
        await until(lambda: counted(server) == observer.codepoints(to_server=True).count(ECT_0))
        await until(lambda: counted(client) == observer.codepoints(to_server=False).count(ECT_0))


@compiled
async def test_marks_of_packets_that_pass_through_python_are_counted(
    certificate: Certificate,
) -> None:
    """Those of a peer that has moved, and those that come before the handshake is complete."""
    async with sessions(certificate) as (client, peer, _server):
        link = peer._link
        packet = seal(client._link.connection, PING)
        before = link.connection.plane.inspect()["ecn_received"]
        link.endpoint._on_batch([(packet, client.local_address, None, ECT_1)], ())
        assert link.connection.plane.inspect()["ecn_received"] == (before[0], 1, before[2])
