"""UdpSocket: both have one interface; and what only the compiled one does."""

import ast
import inspect
import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from udp_sockets import (
    compiled,
    receive,
    send_all,
    to,
)

import rawquic
from rawquic.endpoint import udp_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux's")

SO_NO_CHECK = 11


class TestInterface:
    def test_makes_the_socket_non_blocking_and_leaves_it_open(self, udp_class):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            udp = udp_class(sock)
            assert not sock.getblocking()
            assert udp.fileno() == sock.fileno()
            del udp
            assert sock.getsockname()[0] == "127.0.0.1"

    def test_never_fragments(self, make):
        udp, _ = make("::")
        with socket.socket(fileno=os.dup(udp.fileno())) as sock:
            assert sock.getsockopt(socket.IPPROTO_IP, 10) == 3
            assert sock.getsockopt(socket.IPPROTO_IPV6, 23) == 3

    def test_both_have_the_same_interface(self):
        def public(cls):
            return {name for name in dir(cls) if not name.startswith("_")}

        assert public(compiled()) == public(udp_python.UdpSocket)

    def test_stub_has_the_signatures_of_the_python_one(self):
        stub = methods(Path(rawquic.__file__).with_name("_fastpath.pyi"))
        python = methods(Path(udp_python.__file__))
        public = {name for name in python if name == "__init__" or not name.startswith("_")}
        assert stub.keys() == public
        for name in public:
            assert stub[name] == python[name], name

    def test_signatures_at_run_time(self):
        for name in (
            "fileno",
            "receive",
            "send",
            "has_notes",
            "take_errors",
            "take_too_large",
            "stats",
        ):
            a, b = (
                [
                    (p.name, p.kind, p.default)
                    for p in inspect.signature(getattr(cls, name)).parameters.values()
                ]
                for cls in (compiled(), udp_python.UdpSocket)
            )
            assert a == b, name

    def test_stats_have_the_same_keys(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            a, b = compiled()(sock).stats(), udp_python.UdpSocket(sock).stats()
        assert list(a) == list(b)
        assert set(a.values()) == set(b.values()) == {0}


def methods(path):
    """What UdpSocket has in a source file: {name: (arguments, defaults, decorators)}."""
    (cls,) = (
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "UdpSocket"
    )
    return {
        node.name: (
            [a.arg for a in node.args.args],
            [a.arg for a in node.args.kwonlyargs],
            [ast.unparse(d) for d in node.args.defaults + node.args.kw_defaults],
            [ast.unparse(d) for d in node.decorator_list],
        )
        for node in cls.body
        if isinstance(node, ast.FunctionDef)
    }


class TestCompiled:
    """What only the compiled one does: offload."""

    @pytest.fixture
    def udp_class(self):
        return compiled()

    def test_a_burst_takes_few_calls(self, make):
        a, address_a = make()
        b, address_b = make()
        if not (a.gso and b.gro):
            pytest.skip("the kernel has no GSO or no GRO")
        for one, other, address in ((a, b, address_b), (b, a, address_a)):
            assert one.send(to(address, [bytes(1200)] * 64)) == 64
            assert len(receive(other, 64)) == 64
        for stats in (a.stats(), b.stats()):
            assert stats["send_datagrams"] / stats["send_calls"] >= 10
            assert stats["receive_datagrams"] / stats["receive_calls"] >= 10
            assert stats["send_trains"] >= 1

    def test_a_burst_without_offload_takes_few_calls(self, make):
        a, _ = make(gso=False)
        b, address = make(gro=False)
        assert not a.gso and not b.gro
        assert a.send(to(address, [bytes(1200)] * 64)) == 64
        assert len(receive(b, 64)) == 64
        assert a.stats()["send_calls"] == 2
        assert a.stats()["send_trains"] == 0
        assert b.stats()["receive_calls"] <= 3

    def test_device_that_refuses_gso(self, make):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        # The kernel refuses GSO on a socket that sends without checksums.
        sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        a, _ = make(sock=sock)
        b, address = make()
        if not a.gso:
            pytest.skip("the kernel has no GSO")
        payloads = [bytes([i]) * 1200 for i in range(50)] + [b"short"]
        assert a.send(to(address, payloads)) == 51
        assert [item[0] for item in receive(b, 51)] == payloads
        assert not a.gso
        stats = a.stats()
        assert (stats["gso_refused"], stats["send_trains"]) == (1, 0)
        assert stats["send_errors"] == stats["send_too_large"] == 0
        calls = stats["send_calls"]
        assert a.send(to(address, payloads)) == 51
        assert [item[0] for item in receive(b, 51)] == payloads
        assert a.stats()["send_calls"] - calls == 2, "it is not tried again"

    def test_room_for_a_long_list_is_given_back(self, make):
        a, _ = make()
        b, address = make()
        send_all(a, to(address, [b"%05d" % i for i in range(5000)]))
        send_all(a, to(address, [b"last"]))
        got = receive(b, 5001)
        assert [item[0] for item in got] == [b"%05d" % i for i in range(5000)] + [b"last"]

    def test_used_by_two_calls_at_once(self, make):
        """Items that call back while they are read, as a finaliser could."""
        udp, address = make()

        class Calls(tuple):
            def __len__(self):
                udp.receive()
                return 4

        class Nested:
            def __iter__(self):
                udp.receive()  # before send() began: allowed
                return iter([(b"x", address, None, 0)])

        assert udp.send(Nested()) == 1

        class Reenters(str):
            def __hash__(self):
                udp.receive()
                return 0

        with pytest.raises(RuntimeError, match="in use"):
            udp.send([(b"x", (Reenters("127.0.0.1"), 9), None, 0)])
        assert len(receive(udp, 1)) == 1

    def test_two_threads(self, make):
        """A second thread gets an error or its turn; never a broken socket."""
        udp, address = make()
        stop = time.monotonic() + 0.3

        def hammer():
            while time.monotonic() < stop:
                try:
                    udp.send(to(address, [bytes(1200)] * 20))
                    udp.receive()
                except RuntimeError:
                    pass

        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        udp.receive(1 << 20, 1 << 30)
        udp.send(to(address, [b"after"]))
        assert [item[0] for item in receive(udp, 1)] == [b"after"]

    def test_second_init(self, make):
        udp, _ = make()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(RuntimeError):
            udp.__init__(sock)

    def test_without_init(self):
        udp = compiled().__new__(compiled())
        with pytest.raises(RuntimeError):
            udp.receive()
