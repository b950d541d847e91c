"""Fixtures that several test files use."""

import socket

import pytest
from namespaces import CannotIsolate, Namespace
from udp_sockets import compiled

from rawquic.endpoint import udp_python


@pytest.fixture(params=["compiled", "python"])
def udp_class(request):
    return compiled() if request.param == "compiled" else udp_python.UdpSocket


@pytest.fixture
def make(udp_class):
    """make(host) -> (UdpSocket, its address); make(sock=...) for one's own socket."""
    made = []

    def make(host="127.0.0.1", *, sock=None, **options):
        if sock is None:
            sock = socket.socket(
                socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
            )
            if ":" in host:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind((host, 0))
        made.append(sock)
        return udp_class(sock, **options), (host, sock.getsockname()[1])

    yield make
    for sock in made:
        sock.close()


@pytest.fixture
def namespace():
    try:
        namespace = Namespace()
    except CannotIsolate as reason:
        pytest.skip(str(reason))
    yield namespace
    namespace.close()
