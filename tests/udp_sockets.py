"""What the tests of UdpSocket share: waiting, and lists of datagrams."""

import importlib
import select
import socket

import pytest

import rawquic

MTU_OF_LOOPBACK = 65536
LARGEST = 65507


def compiled():
    """The compiled class; a skip only where the extension was not built."""
    try:
        return importlib.import_module("rawquic._fastpath").UdpSocket
    except ModuleNotFoundError as error:
        if error.name != "rawquic._fastpath":
            raise
        pytest.skip("rawquic._fastpath was not built")


def copies(ipv4: bool = True) -> str | None:
    """Why datagrams leave as copies, not by reference to their pages; None: they need not."""
    info = rawquic.backend_info()
    if info["backend"] != "compiled":
        return "the python backend sends copies"
    if not info["gso"]:
        return "this kernel has no GSO"
    sends_by_reference = importlib.import_module("rawquic._fastpath").sends_by_reference
    return None if sends_by_reference(ipv4) else "this kernel sends copies"


def is_ready(udp, event=select.POLLIN, seconds=10):
    """Wait; False when the socket did not become ready."""
    poll = select.poll()
    poll.register(udp.fileno(), event)
    return bool(poll.poll(seconds * 1000))


def wait(udp, event=select.POLLIN, seconds=10):
    """Wait until the socket is ready, or fail."""
    assert is_ready(udp, event, seconds), "the socket did not become ready"


def receive(udp, count, **budget):
    """Exactly `count` datagrams."""
    result = []
    while len(result) < count:
        wait(udp)
        result += udp.receive(**budget)
    assert len(result) == count
    return result


def to(peer, payloads, local=None, ecn=0):
    return [(payload, peer, local, ecn) for payload in payloads]


def send_all(udp, datagrams):
    while datagrams:
        consumed = udp.send(datagrams)
        datagrams = datagrams[consumed:]
        if datagrams:
            wait(udp, select.POLLOUT)


def dead_port(host="127.0.0.1"):
    """A port that nobody listens on."""
    with socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
    ) as sock:
        sock.bind((host, 0))
        return sock.getsockname()[1]


def errors_after(udp, count=1):
    """take_errors() until there are `count`, reading the socket as an event loop would."""
    errors = udp.take_errors()
    while len(errors) < count:
        wait(udp)
        assert udp.receive() == []
        errors += udp.take_errors()
    return errors
