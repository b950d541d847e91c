"""Trains that leave by reference to their pages: what arrives is what was sealed, whatever happens.

QUIC makes up for packets that were spoilt. So it is counted what did not open, and what was lost
where nothing loses any. A page that is written too soon mostly shows as another packet that comes
twice, in place of the one that was there.
"""

import asyncio
import contextlib
import hashlib
import math
import os
import platform
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cable import Cable, across
from loopback import Certificate, Relay, error_of, pair, until, within
from processes import environment
from udp_sockets import compiled, copies

from rawquic import ClosedByPeer, ClosedLocally, Config, RawQuicSession
from rawquic.endpoint.io import set_buffers

MIB = 1 << 20


pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(copies() is not None, reason=copies() or "all there"),
]


def plane(session: RawQuicSession) -> dict[str, Any]:
    inside: dict[str, Any] = session._link.connection.plane.inspect()
    return inside


def socket_stats(session: RawQuicSession) -> dict[str, int]:
    stats: dict[str, int] = session._link.endpoint.socket_stats()
    return stats


def by_reference(session: RawQuicSession) -> int:
    """How many trains have left so."""
    return socket_stats(session)["send_by_reference"]


async def until_lent(session: RawQuicSession, trains: int) -> None:
    """Until so many have left by reference."""
    await until(lambda: by_reference(session) >= trains)


async def until_given_back(session: RawQuicSession) -> None:
    """Until it keeps no memory for what the kernel has: others may have use for it."""
    await until(lambda: plane(session)["blocks_lent"] == 0)


async def send(session: RawQuicSession, data: bytes) -> None:
    async with await session.open_uni() as stream:
        await stream.write(data)


async def read(session: RawQuicSession) -> bytes:
    """The hash of what comes on the next stream."""
    digest = hashlib.sha256()
    async for chunk in await session.accept_uni():
        digest.update(chunk)
    return digest.digest()


async def transfer(sender: RawQuicSession, receiver: RawQuicSession, size: int) -> None:
    data = os.urandom(size)
    digest, _ = await within(asyncio.gather(read(receiver), send(sender, data)), 30)
    assert digest == hashlib.sha256(data).digest()


def assert_what_was_sealed(sender: RawQuicSession, receiver: RawQuicSession) -> None:
    """No packet was spoilt, and none became another; some may have been dropped on the way."""
    missing = socket_stats(sender)["send_datagrams"] - socket_stats(receiver)["receive_datagrams"]
    assert plane(receiver)["failed_opens"] == 0
    assert sender.connection.stats().packets_lost <= missing
    assert socket_stats(sender)["send_errors"] == 0


# -- the addresses that there are ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "to"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")],
    ids=["IPv4", "IPv6", "IPv4 of an IPv6 socket"],
)
async def test_bulk_both_ways(certificate: Certificate, host: str, to: str) -> None:
    if reason := copies(ipv4=":" not in to):
        pytest.skip(reason)
    async with pair(certificate, host=host, to=to) as (client, peer, _):
        await asyncio.gather(transfer(client, peer, 16 * MIB), transfer(peer, client, 16 * MIB))
        for one, other in ((client, peer), (peer, client)):
            assert by_reference(one) > 0
            assert_what_was_sealed(one, other)


# -- what waits in the kernel ----------------------------------------------------------------------


async def test_what_the_kernel_holds_is_left_alone(cable: Cable, certificate: Certificate) -> None:
    """Batch after batch waits there while the next ones are built, of packets of other sizes."""
    async with pair(certificate, **across(cable)) as (client, peer, _):
        await transfer(peer, client, 4 * MIB)
        for _ in range(5):
            before = by_reference(peer)
            cable.cut()
            # Nothing makes up for them.
            datagrams = [os.urandom(1000) for _ in range(100)]
            peer.send_datagrams(datagrams)
            await until_lent(peer, before + 1)
            data = os.urandom(4 * MIB)
            writing = asyncio.ensure_future(send(peer, data))
            await until_lent(peer, before + 3)
            cable.mend()
            assert await within(read(client)) == hashlib.sha256(data).digest()
            await within(writing)
            assert await received(client, len(datagrams)) == datagrams
            assert_what_was_sealed(peer, client)


async def let_pass(cable: Cable, sender: RawQuicSession) -> None:
    """Trains that leave one by one, then the rest; each time one waits for the socket."""
    reactor = sender._link.endpoint._io.reactor

    async def one() -> None:
        await until(lambda: reactor.blocked)
        before = socket_stats(sender)["send_datagrams"]
        cable.mend()
        cable.cut()
        await until(lambda: socket_stats(sender)["send_datagrams"] > before)

    for _ in range(4):
        await one()
    await until(lambda: reactor.blocked)
    cable.mend()


async def test_a_socket_that_takes_no_more(cable: Cable, certificate: Certificate) -> None:
    """A train waits in the kernel, the next one in memory where soon the one behind it is."""
    small = Config(socket_send_buffer=4 << 10)
    async with pair(certificate, server_config=small, **across(cable)) as (client, peer, _):
        await transfer(peer, client, 4 * MIB)
        for _ in range(3):
            before = by_reference(peer)
            cable.cut()
            datagrams = [os.urandom(720) for _ in range(6 * 64)]  # a train has 64
            peer.send_datagrams(datagrams)
            await let_pass(cable, peer)
            assert await received(client, len(datagrams)) == datagrams
            cable.cut()
            data = os.urandom(2 * MIB)
            writing = asyncio.ensure_future(send(peer, data))
            await let_pass(cable, peer)
            assert await within(read(client)) == hashlib.sha256(data).digest()
            await within(writing)
            assert by_reference(peer) > before
        assert socket_stats(peer)["send_would_block"] >= 30
        assert_what_was_sealed(peer, client)


async def test_a_session_that_ends_meanwhile(cable: Cable, certificate: Certificate) -> None:
    """Its memory is given back at once; what the kernel has of it leaves all the same."""
    async with pair(certificate, **across(cable)) as (client, peer, _):
        await transfer(peer, client, 4 * MIB)
        before = by_reference(peer)
        cable.cut()
        writing = asyncio.ensure_future(send(peer, os.urandom(4 * MIB)))
        await until_lent(peer, before + 2)
        assert plane(peer)["blocks_lent"] >= 2
        peer.close(1)
        await until_given_back(peer)
        assert type(await error_of(writing)) is ClosedLocally
        cable.mend()
        await within(client.wait_closed())
        reason = client.close_reason
        assert isinstance(reason, ClosedByPeer) and reason.code == 1
        assert plane(client)["failed_opens"] == 0


async def test_a_path_that_takes_less(cable: Cable, certificate: Certificate) -> None:
    """The kernel refuses a train when its pages are there; the next ones leave as before."""
    async with pair(certificate, **across(cable)) as (client, peer, _):
        await transfer(peer, client, 4 * MIB)
        cable.narrow(1400)
        await transfer(peer, client, 4 * MIB)
        before = by_reference(peer)
        await transfer(peer, client, 4 * MIB)
        assert by_reference(peer) > before
        assert socket_stats(peer)["send_too_large"] > 0
        assert plane(client)["failed_opens"] == 0


async def received(session: RawQuicSession, count: int) -> list[bytes]:
    """So many datagrams."""
    datagrams: list[bytes] = []
    while len(datagrams) < count:
        datagrams += await within(session.read_datagrams())
    return datagrams


# -- networks that lose and reorder ----------------------------------------------------------------


@dataclass
class Unruly(Relay):
    """Loses one packet in so many, and holds one in so many back; knows each that came.

    Trains pass as trains: packet by packet, the pace would be the relay's, and every train small.
    """

    loss: float = math.inf
    late: float = math.inf
    seen: "Counter[bytes]" = field(default_factory=Counter)
    sockets: list[socket.socket] = field(default_factory=list)

    async def start(self, server: tuple[str, int]) -> None:
        self._server = server
        loop = asyncio.get_running_loop()
        for _ in range(2):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
            set_buffers(sock, Config())
            self.sockets.append(sock)
        self._near, self._far = (compiled()(sock) for sock in self.sockets)
        loop.add_reader(self.sockets[0], self.carry, True)
        loop.add_reader(self.sockets[1], self.carry, False)

    @property
    def address(self) -> tuple[str, int]:
        address: tuple[str, int] = self.sockets[0].getsockname()
        return address

    def carry(self, to_server: bool) -> None:
        batch = (self._near if to_server else self._far).receive()
        if to_server and batch:
            self._client = batch[-1][1]
        self.send([data for data, *_ in batch if not self.keeps(data, to_server)], to_server)

    def send(self, packets: list[bytes], to_server: bool) -> None:
        to, peer = (self._far, self._server) if to_server else (self._near, self._client)
        to.send([(data, peer, None, 0) for data in packets])

    def keeps(self, data: bytes, to_server: bool) -> bool:
        self.seen[data] += 1
        number = len(self.seen)
        if number % self.late == 0:
            asyncio.get_running_loop().call_later(0.001, self.send, [data], to_server)
        return number % self.late == 0 or number % self.loss == 0

    def close(self) -> None:
        for sock in self.sockets:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()


@pytest.mark.parametrize(
    ("loss", "late"),
    [(1499, math.inf), (math.inf, 997), (1499, 997)],
    ids=["loss", "reordering", "both"],
)
async def test_loss_and_reordering(certificate: Certificate, loss: float, late: float) -> None:
    relay = Unruly(loss=loss, late=late)
    async with pair(certificate, relay=relay) as (client, peer, _):
        for turn in range(40):
            await transfer(peer, client, 2 * MIB)
            await transfer(client, peer, 2 * MIB)
            # After a loss the window may be too small for large trains for a while.
            if turn >= 3 and by_reference(client) and by_reference(peer):
                break
        for end in (client, peer):
            assert by_reference(end) > 0
            assert plane(end)["failed_opens"] == 0
            await until_given_back(end)
        assert sum(end.connection.stats().packets_lost for end in (client, peer)) > 0
        # Each packet has a number of its own: the same bytes twice are pages written too soon.
        assert relay.seen.most_common(1)[0][1] == 1


async def test_no_block_is_kept_for_a_lost_packet(certificate: Certificate) -> None:
    """It is remembered for long, since its ACK may still come; its pages are not."""
    async with pair(certificate) as (client, peer, _):
        await transfer(peer, client, 4 * MIB)
        before = by_reference(peer)
        lossy = peer._link.connection.plane
        lossy.keep_alive()
        assert lossy.build(time.monotonic())  # and it goes nowhere
        await transfer(peer, client, MIB // 2)
        await until(lambda: plane(peer)["eliciting_in_flight"] == 0)
        assert by_reference(peer) > before
        assert peer.connection.stats().packets_lost == 1
        assert plane(peer)["ring"] > 100  # from the lost packet on
        assert plane(peer)["blocks_lent"] == 0


# -- descriptors -----------------------------------------------------------------------------------


def descriptors() -> dict[str, str]:
    """Those that are open, and what they are."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # of this very listing
            found[link.name] = str(link.readlink())
    return found


async def test_a_closed_endpoint_keeps_no_descriptors(certificate: Certificate) -> None:
    """Also while something refers to it."""
    before = descriptors()
    async with pair(certificate) as kept:
        client, peer, _ = kept
        assert len(descriptors()) > len(before)
        between = descriptors()
        await transfer(peer, client, 4 * MIB)
        assert by_reference(peer) > 0
        assert len(descriptors()) > len(between)  # a pipe
    assert descriptors() == before
    assert by_reference(kept.peer) > 0


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """No more can be opened in this process."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, descriptors())) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# In flight is less than the smallest of socket buffers: no packet has a reason to be lost.
NARROW = Config(receive_window=128 << 10, stream_receive_window=128 << 10)


async def copied(client: RawQuicSession, peer: RawQuicSession) -> None:
    """Both send, and nothing leaves by reference."""
    for sender, receiver in ((client, peer), (peer, client)):
        await transfer(sender, receiver, 4 * MIB)
        assert by_reference(sender) == 0
        assert sender.connection.stats().packets_lost == 0
        assert_what_was_sealed(sender, receiver)


async def test_no_descriptor_is_left_for_a_pipe(certificate: Certificate) -> None:
    async with pair(certificate, config=NARROW, server_config=NARROW) as (client, peer, _):
        with no_descriptors():
            await copied(client, peer)
        await transfer(peer, client, 4 * MIB)
        assert by_reference(peer) > 0


# -- system calls that are refused -----------------------------------------------------------------

REFUSED = """
import asyncio, ctypes, struct, sys
from rawquic._fastpath import sends_by_reference

number, late = int(sys.argv[1]), sys.argv[2] == "late"
if late:
    assert sends_by_reference()
program = struct.pack("=" + "HBBI" * 4,  # seccomp(2), as the filter of a sandbox
    0x20, 0, 0, 0,                       # load the number of the system call
    0x15, 0, 1, number,                  # is it this one?
    0x06, 0, 0, 0x00050001,              # EPERM
    0x06, 0, 0, 0x7FFF0000)              # go on
there = ctypes.create_string_buffer(program)
prctl = ctypes.CDLL(None).prctl
if prctl(38, 1, 0, 0, 0) or prctl(22, 2, struct.pack("@HP", 4, ctypes.addressof(there)), 0, 0):
    sys.exit("no system call can be refused here")
assert sends_by_reference() is late

from loopback import Certificate, pair
from rawquic.selfsigned import self_signed
from test_by_reference import NARROW, copied


async def main():
    certificate = Certificate(*self_signed(["localhost", "127.0.0.1"]))
    async with pair(certificate, config=NARROW, server_config=NARROW) as (client, peer, _):
        await copied(client, peer)

asyncio.run(main())
print("done")
"""
NUMBERS = {"x86_64": {"splice": 275, "vmsplice": 278}, "aarch64": {"splice": 76, "vmsplice": 75}}


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("call", ["splice", "vmsplice"])
def test_a_sandbox_that_refuses(call: str, when: str) -> None:
    """From the beginning, and from after the trial that went well."""
    numbers = NUMBERS.get(platform.machine())
    if numbers is None or sys.maxsize < 1 << 32:
        pytest.skip("this machine's system calls have other numbers")
    ran = subprocess.run(
        [sys.executable, "-c", REFUSED, str(numbers[call]), when],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=50,
    )
    if "no system call can be refused" in ran.stderr:
        pytest.skip(ran.stderr.strip())
    assert ran.stdout == "done\n", ran.stderr
