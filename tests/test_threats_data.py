"""Hostile input to the compiled data plane, a row of the threat model each.

What is sent is encrypted as it should be. Each test checks the error, or the memory or the time
that it may cost; `DataPeer` is the attacker.
"""

import gc
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from aioquic.buffer import Buffer
from data_peer import PING, DataPeer, ack, frame, stream
from loopback import Certificate, pair
from pair import CLIENT, SERVER, seal, stock
from pair import certificate as identity
from processes import environment

from rawquic.backend import BACKEND
from rawquic.config import Config
from rawquic.connection.interface import Event
from rawquic.endpoint.routing import Routes
from rawquic.tls import server_configuration

pytestmark = pytest.mark.skipif(BACKEND != "compiled", reason="of the compiled data plane")

PROTOCOL_VIOLATION = 0xA
EMPTY_DATAGRAM = frame(0x31, 0)


def resident() -> int:
    """Bytes of memory that this process has."""
    statm = Path("/proc/self/statm").read_text()
    return int(statm.split()[1]) * 4096


def draw_acks(peer: DataPeer, count: int) -> list[int]:
    """Make the plane send that many ACKs alone; their packet numbers."""
    numbers = []
    for i in range(count):
        peer.now += 1e-5
        peer.send(EMPTY_DATAGRAM)
        peer.send(EMPTY_DATAGRAM)
        packets = peer.plane.build(peer.now)
        assert packets, f"no ACK after {i} of them"
        numbers += [peer.opened(packet)[0] for packet in packets]
        peer.plane.read_datagrams(1000)
        peer.plane.take_events()
    return numbers


@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="AddressSanitizer keeps freed memory, so that the process always grows",
)
def test_acks_alone_leave_nothing_behind() -> None:
    peer = DataPeer()
    draw_acks(peer, 5_000)
    before = resident()
    draw_acks(peer, 60_000)
    assert resident() - before < 3 << 20


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


def test_acknowledging_acks_over_and_over_costs_little() -> None:
    """An ACK frame is not to walk tens of thousands of packets that are settled."""
    peer = DataPeer()
    peer.plane.ping(1)
    ((first, _),) = peer.collect()
    peer.send(ack((first, first)))
    peer.plane.ping(2)  # which is never acknowledged
    peer.collect()
    runs = [(n, n) for n in draw_acks(peer, 60_000)]
    merged = [runs[0]]
    for low, high in runs[1:]:  # a number left out on purpose ends a run
        if low == merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    low, high = max(merged, key=lambda run: run[1] - run[0])
    assert high - low > 16_000
    peer.send(ack((low, high)))
    # What a later ACK frame could walk is gone from the ring, but for what may still come late.
    assert peer.plane.inspect()["ring"] < 60_000 - (high - low) + 2_000
    assert peer.failure() is None


def test_many_ack_frames_in_a_packet_are_not_tolerated_for_ever() -> None:
    peer = DataPeer()
    peer.plane.ping(1)
    ((first, _),) = peer.collect()
    for _ in range(100):
        peer.send(*[ack((first, first))] * 200)
    assert peer.failure() == PROTOCOL_VIOLATION


@pytest.mark.parametrize(
    "hostile",
    [PING, frame(0x06, 0, 0), frame(0x07, 1, b"t"), b"\x1e", frame(0x19, 9), frame(0x14, 0)],
    ids=["PING", "CRYPTO", "NEW_TOKEN", "HANDSHAKE_DONE", "RETIRE", "DATA_BLOCKED"],
)
def test_frames_that_carry_nothing_are_not_tolerated_for_ever(hostile: bytes) -> None:
    peer = DataPeer()
    for _ in range(100):
        peer.send(*[hostile] * 101)
    assert peer.failure() == PROTOCOL_VIOLATION
    assert len(peer.control.frames) <= 10_000


def test_a_number_left_out_is_never_acknowledged() -> None:
    """RFC 9000 §21.4: optimistic acknowledgement, of the first of many."""
    peer = DataPeer()
    *_, last = draw_acks(peer, 3_000)
    assert peer.failure() is None
    peer.send(ack((0, last)))
    assert peer.failure() == PROTOCOL_VIOLATION


def timer_calls(peer: DataPeer, seconds: float) -> int:
    """How often the timer goes off in so much time."""
    end, calls = peer.now + seconds, 0
    while calls < 100_000:
        due = peer.plane.timer()
        if due is None or due > end:
            return calls
        calls += 1
        peer.now = max(peer.now + 1e-6, due)
        peer.plane.on_timer(peer.now)
        peer.plane.build(peer.now)
    return calls


def test_a_delayed_ack_that_may_not_leave_does_not_spin() -> None:
    """RFC 9000 §8.1: nothing is sent to an unvalidated address beyond the limit."""
    peer = DataPeer()
    peer.plane.allowance = 40
    peer.send(EMPTY_DATAGRAM)
    peer.plane.build(peer.now)
    assert timer_calls(peer, 10.0) < 1_000


def test_a_probe_timeout_that_may_not_send_does_not_spin() -> None:
    peer = DataPeer()
    peer.plane.ping(1)
    peer.collect()
    peer.plane.allowance = 40
    assert timer_calls(peer, 10_000.0) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
async def test_a_forked_child_seals_nothing(certificate: Certificate) -> None:
    """It would repeat nonces. The loop, if it runs on there, calls the reactor and nobody else."""
    async with pair(certificate) as (client, _peer, _server):
        send, _ = await client.open_bi()
        link = client._link  # type: ignore[attr-defined]
        reactor, plane = link.endpoint._io.reactor, link.connection.plane
        assert plane.routed
        plane.ping(1)
        pid = os.fork()
        if pid == 0:
            sealed = 1
            try:
                before = link.endpoint.socket_stats()["send_datagrams"]
                reactor.on_readable()
                reactor.on_writable()
                reactor.flush(plane)
                now = time.monotonic()
                sealed = len(plane.build(now)) + len(plane.build_single(b"\x01", b"", now, 0))
                sealed += link.endpoint.socket_stats()["send_datagrams"] - before
            finally:
                os._exit(sealed)
        _, status = os.waitpid(pid, 0)  # noqa: ASYNC222 - it ends at once
        assert os.waitstatus_to_exitcode(status) == 0
        await send.write(b"the parent goes on")


def test_garbage_that_is_collected_in_a_batch_may_end_streams() -> None:
    """Events are no Python objects: nothing runs while a frame holds a stream."""
    peer = DataPeer(bidi_streams=5000)
    collected = []
    gc.callbacks.append(lambda phase, info: collected.append(phase))
    threshold = gc.get_threshold()
    try:
        packet = peer.packet(stream(4 * 4999, 0, b"x"))
        gc.set_threshold(100)
        collected.clear()
        peer.plane.receive(packet, peer.now)
        assert not collected
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.pop()
    opened = [number for kind, number in peer.happened() if kind is Event.STREAM_OPENED]
    assert len(opened) == 5000


def test_the_fixed_bit_has_to_be_set() -> None:
    """RFC 9000 §17.3.1."""
    peer = DataPeer()
    assert not peer.send(PING, bits=0x40)
    assert peer.send(PING)


def test_tiny_holes_are_not_tolerated_for_ever() -> None:
    """Each may move a list of as many ranges as the window allows."""
    peer = DataPeer(stream_window=1 << 30, receive_window=1 << 30)
    for first in range(0, 20_000, 100):
        peer.send(*[stream(0, (1 << 29) - 2 * i, b"x") for i in range(first, first + 100)])
    assert peer.failure() == PROTOCOL_VIOLATION


def test_holes_of_lost_packets_are_tolerated() -> None:
    peer = DataPeer(stream_window=1 << 30, receive_window=1 << 30)
    for i in range(20_000):
        peer.send(stream(0, 200 * i, bytes(100)))
    assert peer.failure() is None


@pytest.mark.parametrize("kind", [b"\x30", b"\x31", b"\x40\x31"], ids=["30", "31", "4031"])
def test_a_datagram_frame_larger_than_was_offered(kind: bytes) -> None:
    """RFC 9221 §3: of max_datagram_frame_size, its type and its length take their part."""
    has_length = kind[-1] & 1
    most = 63 - len(kind) - has_length
    data = [bytes([size] * has_length + [7] * size) for size in (most, most + 1)]
    peer = DataPeer(datagram_frame_limit=63)
    assert peer.send(kind + data[0])
    assert peer.failure() is None
    assert not peer.send(kind + data[1])
    assert peer.control.failures[0][:2] == (PROTOCOL_VIOLATION, kind[-1])
    assert peer.plane.read_datagrams(2) == [bytes([7] * most)]


# Far behind the rest, so that the list of the stream's chunks needs 32 MiB in one piece.
OUT_OF_MEMORY = """
import resource
from pathlib import Path
from data_peer import DataPeer, stream

WINDOW = 1 << 38
peer = DataPeer(receive_window=WINDOW, first_stream_window=WINDOW, stream_window=WINDOW)
far = stream(0, 1 << 37, bytes(100))
packets = [peer.packet(far) for _ in range(2000)]
before = resource.getrlimit(resource.RLIMIT_AS)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (16 << 20), before[1]))
taken = [peer.plane.receive(packet, peer.now) for packet in packets]
resource.setrlimit(resource.RLIMIT_AS, before)
assert not any(taken), "there was memory"
assert peer.failure() is None, peer.control.failures
assert not any(peer.plane.receive(packet, peer.now) for packet in packets), "it came twice"
assert peer.send(far)
assert peer.plane.inspect()["streams"][0]["ranges"] == 1
"""


@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="AddressSanitizer ends a process that has no memory",
)
def test_lack_of_memory_is_no_fault_of_the_peers() -> None:
    """Its packets are dropped, however many, and what comes when there is memory is taken."""
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("size", [40_000, 65_507, 65_527])
def test_a_huge_mtu_carries_a_stream(size: int) -> None:
    """A frame's length has to be what its two bytes can say."""
    peer = DataPeer(initial_mtu=size, mtu_upper_bound=size)
    stream_id = peer.plane.open_stream(True)
    data = os.urandom(100_000)
    assert peer.plane.write(stream_id, data, 0) == len(data)
    payloads = []
    for _ in range(100):
        peer.now += 0.05
        packets = peer.collect()
        payloads += [payload for _, payload in packets]
        if packets:
            peer.send(ack((packets[0][0], packets[-1][0])))
    assert carried(payloads, stream_id) == data


def carried(payloads: list[bytes], stream_id: int) -> bytes:
    """What the STREAM frames of these payloads carry."""
    got = bytearray()
    for payload in payloads:
        buffer = Buffer(data=payload)
        while not buffer.eof():
            kind = buffer.pull_uint_var()
            if kind & ~7 == 8:
                assert buffer.pull_uint_var() == stream_id
                offset = buffer.pull_uint_var() if kind & 4 else 0
                size = buffer.pull_uint_var() if kind & 2 else len(payload) - buffer.tell()
                got[offset : offset + size] = buffer.pull_bytes(size)
            elif kind == 0x02:
                for _ in range(4):
                    buffer.pull_uint_var()
            else:
                assert kind in (0x00, 0x01, 0x10, 0x11), kind
                for _ in range(kind & 1 if kind == 0x11 else 0):
                    buffer.pull_uint_var()
    return bytes(got)


class Duel:
    """A stock client against the fast server, with no network between them and no latency."""

    def __init__(self, **config: Any) -> None:
        from rawquic.connection.fast import FastConnection

        self.now = 1.0
        self.client = stock(True)
        settings, routes = Config(**config), Routes(None)
        self.server: Any = FastConnection(
            config=settings,
            configuration=server_configuration(settings, identity()[1], ["h3"]),
            new_connection_id=routes.new_connection_id,
            reset_token=routes.reset_token,
            original_destination_connection_id=self.client.original_destination_connection_id,
        )
        self.client.connect(SERVER, self.now)
        for _ in range(10):
            self.exchange()
        assert self.server.handshake_done and self.server._handshake_confirmed

    def exchange(self) -> None:
        self.now += 0.01
        for data, _ in self.client.datagrams_to_send(self.now):
            self.server.receive(data, CLIENT, self.now)
        for data, _ in self.server.datagrams_to_send(self.now):
            self.client.receive_datagram(data, SERVER, self.now)

    def attack(self, *frames: bytes) -> None:
        """A packet of the client's, and what it brings about; nothing goes back."""
        self.server.receive(seal(self.client, b"".join(frames)), CLIENT, self.now)
        self.server.datagrams_to_send(self.now)


def fill_window(duel: Duel) -> int:
    """The server sends until its congestion window is full, and is not acknowledged."""
    stream_id: int = duel.server.streams.open_stream(True)
    offset = 0
    for _ in range(50):
        offset += duel.server.streams.write(stream_id, bytes(65536), 0)
        duel.server.datagrams_to_send(duel.now)
    return offset


def test_a_peer_that_acknowledges_nothing_gets_no_control_frames_without_end() -> None:
    duel = Duel()
    fill_window(duel)
    for i in range(1, 1_000):
        duel.now += 0.001
        duel.attack(frame(0x19, i))  # RETIRE_CONNECTION_ID: it gets another
    assert duel.server.close_reason is None
    assert 100 < duel.server.plane.control_waiting() < 500


def test_challenges_without_end_leave_nothing_behind() -> None:
    duel = Duel()
    fill_window(duel)
    for i in range(3_000):
        duel.now += 0.001
        duel.attack(frame(0x1A, i.to_bytes(8, "big")))
    assert duel.server.plane.control_waiting() == 0


def test_a_close_leaves_though_the_peer_never_acknowledged() -> None:
    """No packet number can be remembered any more, but for one slot that is kept for it."""
    duel = Duel()
    fill_window(duel)
    plane, cid = duel.server.plane, duel.server._peer_cid.cid
    while plane.build_single(PING, cid, duel.now, 1200):
        pass
    assert plane.inspect()["ring"] == 65535
    duel.attack(PING, PING)
    assert plane.build(duel.now) == []
    duel.server.close_session(7, b"full")
    ((packet, _),) = duel.server.datagrams_to_send(duel.now)
    duel.client.receive_datagram(packet, SERVER, duel.now)
    assert duel.client._close_event is not None and duel.client._close_event.error_code == 7


def test_a_keep_alive_behind_a_full_window_does_not_spin() -> None:
    duel = Duel(keep_alive_interval=1.0, max_idle_timeout=None)
    fill_window(duel)
    end, calls = duel.now + 50.0, 0  # before the idle timeout
    while duel.now < end and calls < 10_000:
        due = duel.server.timer()
        assert due is not None
        duel.now = max(duel.now + 1e-6, due)
        duel.server.handle_timer(duel.now)
        duel.server.datagrams_to_send(duel.now)
        calls += 1
    assert calls < 300


def test_what_is_coalesced_behind_another_connection_id_is_dropped() -> None:
    """RFC 9000 §12.2."""
    duel = Duel()
    behind = {}
    for name, cid in (("ours", duel.server.host_cid), ("other", b"unknown!")):
        duel.client._peer_cid.cid = cid
        packet = seal(duel.client, EMPTY_DATAGRAM)
        # A long-header packet that is dropped: of a Handshake that is over.
        long = b"\xe0" + (1).to_bytes(4, "big") + b"\x08" + duel.server.host_cid + b"\x00"
        long += (0x4000 | 40).to_bytes(2, "big") + bytes(40)
        before = duel.server.plane.statistics()["packets_acked"], duel.server.plane.last_number
        duel.server.receive(long + packet, CLIENT, duel.now)
        behind[name] = duel.server.plane.last_number > before[1]
    assert behind == {"ours": True, "other": False}


def test_a_peer_cannot_choose_streams_that_lie_in_one_bucket() -> None:
    """It ends all streams but those that would collide if the table's hash were known."""
    peer = DataPeer(uni_streams=1 << 20)
    kept = 0
    for stream_id in range(2, 2 + 4 * 20_000, 4):
        if (stream_id * 0x9E3779B97F4A7C15 >> 32) % 128 == 0 and kept < 100:
            assert peer.send(stream(stream_id, 0, b"x"))
            kept += 1
        else:
            assert peer.send(stream(stream_id, 0, b"", fin=True))
            assert peer.plane.read(stream_id, 1) == b""
        peer.plane.take_events()
    inside = peer.plane.inspect()
    assert len(inside["streams"]) == kept == 100
    assert inside["longest_chain"] < 20
