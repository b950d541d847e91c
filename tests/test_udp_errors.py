"""UdpSocket, compiled and in Python: what the kernel, the network or the caller refuses."""

import errno
import os
import select
import shutil
import socket
import sys

import pytest
from udp_sockets import MTU_OF_LOOPBACK, dead_port, errors_after, receive, send_all, to

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux's")


def on_a_cable(namespace, *other_end):
    """A socket on 10.9.0.1; a cable from there to 10.9.0.2, whose end is made with these words."""
    namespace.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1", *other_end)
    namespace.ip("addr", "add", "10.9.0.1/24", "dev", "v0")
    namespace.ip("link", "set", "v0", "up")
    namespace.ip("link", "set", "v1", "up")
    namespace.wait_until_up("v0")
    namespace.ip("neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:09", "dev", "v0")
    sock = namespace.socket()
    sock.bind(("10.9.0.1", 0))
    return sock


class TestRefusals:
    def test_would_block_and_goes_on(self, make, namespace):
        # A neighbour that does not answer ARP: packets wait for it, charged to the sender.
        namespace.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        namespace.ip("addr", "add", "10.9.0.1/24", "dev", "v0")
        namespace.ip("link", "set", "v0", "up")
        namespace.ip("link", "set", "v1", "up")
        sock = namespace.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        sock.bind(("10.9.0.1", 0))
        udp, _ = make(sock=sock)
        datagrams = [
            item for i in range(40) for item in to(("10.9.0.2", 9), [bytes([i]) * (1200 - i)] * 3)
        ]
        consumed = udp.send(datagrams)
        assert 0 < consumed < 120
        assert udp.stats()["send_would_block"] == 1
        assert udp.send(datagrams[consumed:]) == 0
        assert udp.stats()["send_datagrams"] == consumed
        assert udp.take_errors() == udp.take_too_large() == []
        # The neighbour appears: what waited leaves, and the socket says that it is writable.
        namespace.ip("neigh", "replace", "10.9.0.2", "lladdr", "02:00:00:00:00:09", "dev", "v0")
        send_all(udp, datagrams[consumed:])
        stats = udp.stats()
        assert stats["send_datagrams"] == 120
        assert stats["send_bytes"] == sum(len(item[0]) for item in datagrams)
        assert stats["send_errors"] == stats["send_too_large"] == 0

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_too_large_for_any_path(self, make, host):
        a, _ = make(host)
        b, address = make(host)
        huge = MTU_OF_LOOPBACK
        assert a.send(to(address, [b"x", bytes(huge), b"y"])) == 3
        assert [item[0] for item in receive(b, 2)] == [b"x", b"y"]
        assert a.take_too_large() == [(address, huge)]
        assert a.take_too_large() == a.take_errors() == []
        assert a.stats()["send_too_large"] == 1
        # The kernel's own copy of the refusal is not left in the error queue, where poll() sees it.
        poll = select.poll()
        poll.register(a.fileno(), select.POLLIN)
        assert poll.poll(0) == []

    def test_train_too_large_for_the_path(self, make, namespace):
        namespace.ip("link", "add", "v0", "mtu", 1280, "type", "veth", "peer", "name", "v1")
        namespace.ip("addr", "add", "10.9.0.1/24", "dev", "v0")
        namespace.ip("link", "set", "v0", "up")
        namespace.ip("link", "set", "v1", "up")
        namespace.ip("neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:09", "dev", "v0")
        sock = namespace.socket()
        sock.bind(("10.9.0.1", 0))
        udp, _ = make(sock=sock)
        peer = ("10.9.0.2", 9)
        gso = udp.gso
        fits, exceeds = bytes(1280 - 28), bytes(1281 - 28)
        assert udp.send(to(peer, [exceeds] * 10 + [b"short"])) == 11
        assert udp.take_too_large() == [(peer, len(exceeds))]
        assert udp.take_errors() == []
        assert udp.stats()["send_too_large"] == 10
        assert udp.stats()["send_datagrams"] == 1
        assert udp.gso == gso  # the path was the reason, not the device
        assert udp.send(to(peer, [fits] * 10)) == 10
        assert udp.stats()["send_datagrams"] == 11
        assert udp.stats()["gso_refused"] == 0
        assert udp.stats()["send_trains"] == (1 if gso else 0)

    def test_what_the_device_drops_is_lost(self, make, namespace):
        """Its other end takes no more than 1,280 bytes."""
        udp, _ = make(
            sock=on_a_cable(namespace, "mtu", 1280), gso=False
        )  # trains pass for what they are
        fits, exceeds = bytes(1200), bytes(1400)
        payloads = [exceeds, fits, fits, exceeds, exceeds, fits, exceeds]
        assert udp.send(to(("10.9.0.2", 9), payloads)) == 7
        stats = udp.stats()
        if not stats["send_errors"]:
            pytest.skip("this kernel does not tell what a device drops")
        assert (stats["send_errors"], stats["send_datagrams"]) == (4, 3)
        assert stats["send_would_block"] == stats["send_too_large"] == 0
        assert udp.take_errors() == udp.take_too_large() == []

    def test_a_train_that_a_queue_drops_is_lost(self, make, namespace):
        """It is not sent again: of one that a device drops, some may have left."""
        if shutil.which("tc") is None:
            pytest.skip("needs the tc command")
        udp, _ = make(sock=on_a_cable(namespace))
        gso = udp.gso
        train = to(("10.9.0.2", 9), [bytes(1200)] * 10)
        namespace.run("tc", "qdisc", "add", "dev", "v0", "root", "pfifo", "limit", 0)
        assert udp.send(train) == 10
        stats = udp.stats()
        assert (stats["send_errors"], stats["send_datagrams"]) == (10, 0)
        assert stats["send_calls"] == (1 if gso else 10)
        namespace.run("tc", "qdisc", "del", "dev", "v0", "root")
        assert udp.send(train) == 10
        stats = udp.stats()
        assert (stats["send_errors"], stats["send_datagrams"]) == (10, 10)
        assert stats["send_would_block"] == stats["gso_refused"] == stats["send_too_large"] == 0
        assert udp.take_errors() == udp.take_too_large() == []
        assert udp.gso == gso

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
    def test_port_unreachable_names_the_peer(self, make, host):
        a, _ = make(host)
        target = "127.0.0.1" if host == "::" else host
        b, address = make(target)
        dead = (target, dead_port(target))
        assert a.send(to(dead, [b"anyone?"])) == 1
        assert errors_after(a) == [(errno.ECONNREFUSED, dead)]
        assert a.take_errors() == []
        assert a.send(to(address, [b"later"])) == 1
        assert receive(b, 1)[0][0] == b"later"

    def test_icmp_error_costs_no_datagram(self, make):
        """The error of one datagram is reported by the call that sends the next."""
        a, address_a = make()
        b, address_b = make()
        dead = ("127.0.0.1", dead_port())
        assert b.send(to(address_a, [b"%d" % i for i in range(10)])) == 10
        datagrams = [
            item
            for i in range(50)
            for item in (
                (b"lost", dead, None, 0),
                *to(address_b, [b"%04d" % i] * (i % 5)),
            )
        ]
        assert a.send(datagrams) == len(datagrams)
        expected = [item[0] for item in datagrams if item[1] == address_b]
        assert [item[0] for item in receive(b, len(expected))] == expected
        # Nor does it hide what waits behind it.
        assert [item[0] for item in receive(a, 10)] == [b"%d" % i for i in range(10)]
        assert set(a.take_errors()) == {(errno.ECONNREFUSED, dead)}
        assert a.stats()["send_errors"] == 0
        assert a.stats()["send_datagrams"] == len(datagrams)

    def test_error_that_no_call_reports_is_found(self, make):
        """One left in the queue would have poll() wake the event loop for ever."""
        a, _ = make()
        dead = ("127.0.0.1", dead_port())
        assert a.send(to(dead, [b"anyone?"])) == 1
        with socket.socket(fileno=os.dup(a.fileno())) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        assert errors_after(a) == [(errno.ECONNREFUSED, dead)]
        poll = select.poll()
        poll.register(a.fileno(), select.POLLIN)
        assert poll.poll(0) == []

    def test_no_route(self, make, namespace):
        namespace.ip("link", "set", "lo", "up")
        sock = namespace.socket()
        sock.bind(("127.0.0.1", 0))
        udp, (_, port) = make(sock=sock)
        port = sock.getsockname()[1]
        nowhere, here = ("192.0.2.1", 9), ("127.0.0.1", port)
        assert udp.send(to(nowhere, [b"lost"] * 5) + to(here, [b"kept"])) == 6
        assert [item[0] for item in receive(udp, 1)] == [b"kept"]
        (code, peer), *rest = udp.take_errors()
        assert code in (errno.ENETUNREACH, errno.EINVAL) and peer == nowhere
        assert rest == []
        assert udp.stats()["send_errors"] == 5
        assert udp.stats()["gso_refused"] == 0

    def test_local_address_that_is_not_ours(self, make):
        a, _ = make()
        b, address = make()
        assert a.send(to(address, [b"lost"] * 4, "192.0.2.77") + to(address, [b"kept"])) == 5
        assert [item[0] for item in receive(b, 1)] == [b"kept"]
        assert [peer for _, peer in a.take_errors()] == [address]
        assert a.stats()["send_errors"] == 4
        assert a.stats()["gso_refused"] == 0

    def test_port_0(self, make):
        a, _ = make()
        assert a.send([(b"lost", ("127.0.0.1", 0), None, 0)]) == 1
        assert a.take_errors() == [(errno.EINVAL, ("127.0.0.1", 0))]

    def test_errors_are_bounded_and_the_oldest_go(self, make):
        a, _ = make()
        peers = [("127.0.0.1", 0), ("127.0.0.2", 0)]
        assert a.send([(b"x", peers[i % 2], None, 0) for i in range(200)]) == 200
        assert a.send([(b"x", ("127.0.0.3", 0), None, 0)]) == 1
        errors = a.take_errors()
        assert len(errors) == 64
        assert errors[-1] == (errno.EINVAL, ("127.0.0.3", 0))
        huge = bytes(MTU_OF_LOOPBACK)
        assert a.send([(huge[i % 2 :], ("127.0.0.1", 9), None, 0) for i in range(100)]) == 100
        assert len(a.take_too_large()) == 64

    def test_closed_socket(self, make):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        udp, _ = make(sock=sock)
        sock.close()
        assert udp.fileno() == -1
        with pytest.raises(OSError) as caught:
            udp.receive()
        assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError) as caught:
            udp.send([(b"x", ("127.0.0.1", 9), None, 0)])
        assert caught.value.errno == errno.EBADF


class TestMistakes:
    @pytest.mark.parametrize(
        "host",
        [
            *("localhost", "", "127.0.0.1\0", "127.1", "256.0.0.1", "127.0.0.1%1"),
            *("::1::", "é", "::%", "fe80::1%", "fe80::1%no-such-interface"),
            *("fe80::1%99999999999", "fe80::1%\ud800"),
        ],
    )
    def test_host_that_is_no_address_is_named(self, make, host):
        udp, address = make("::")
        for datagram in [(b"x", (host, 9), None, 0), (b"x", ("127.0.0.1", 9), host, 0)]:
            with pytest.raises(ValueError) as caught:
                udp.send([(b"x", ("::1", address[1]), None, 0), datagram])
            assert repr(host) in str(caught.value)
        assert udp.stats()["send_datagrams"] == 0, "a mistake sends nothing"

    @pytest.mark.parametrize(
        ("datagram", "error"),
        [
            ((b"x", ("127.0.0.1", 65536), None, 0), ValueError),
            ((b"x", ("127.0.0.1", -1), None, 0), ValueError),
            ((b"x", ("127.0.0.1", "9"), None, 0), TypeError),
            ((b"x", ("::1", 9), None, 0), ValueError),
            ((b"x", ("127.0.0.1", 9), "::1", 0), ValueError),
            ((b"x", ("127.0.0.1", 9), None, 4), ValueError),
            ((b"x", ("127.0.0.1", 9), None, -1), ValueError),
            ((b"x", ("127.0.0.1", 9), None, None), ValueError),
            ((b"x", ("127.0.0.1", 9), b"127.0.0.1", 0), TypeError),
            ((b"x", ("127.0.0.1", 9)), TypeError),
            ((b"x", ("127.0.0.1", 9, 0, 0), None, 0), TypeError),
            ((b"x", ["127.0.0.1", 9], None, 0), TypeError),
            ((b"x", (b"127.0.0.1", 9), None, 0), TypeError),
            ((bytearray(b"x"), ("127.0.0.1", 9), None, 0), TypeError),
            (("x", ("127.0.0.1", 9), None, 0), TypeError),
            ([b"x", ("127.0.0.1", 9), None, 0], TypeError),
            (None, TypeError),
        ],
    )
    def test_malformed_datagram(self, make, datagram, error):
        udp, _ = make()
        with pytest.raises(error):
            udp.send([(b"x", ("127.0.0.1", 9), None, 0), datagram])
        assert udp.stats()["send_calls"] == 0

    def test_socket_that_is_not_udp(self, udp_class):
        for family, kind in [
            (socket.AF_UNIX, socket.SOCK_DGRAM),
            (socket.AF_INET, socket.SOCK_STREAM),
        ]:
            with socket.socket(family, kind) as sock, pytest.raises(ValueError, match="not a UDP"):
                udp_class(sock)
