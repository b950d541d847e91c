"""What every test file shares: a certificate, both event loops, an echo server."""

import asyncio
import contextlib
import importlib.util
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import cable as cables
import pair
import pytest
from loopback import Certificate, echo
from namespaces import CannotIsolate, Namespace
from udp_sockets import compiled

import rawquic
from rawquic.endpoint import udp_python
from rawquic.selfsigned import self_signed

try:
    import uvloop
except ImportError:  # not on Windows
    uvloop = None


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every asynchronous test runs on both loops; `loop_factories` of its marker picks one."""
    loops: dict[str, Callable[[], Any]] = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None:
        loops["uvloop"] = uvloop.new_event_loop
    return loops


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    """For localhost, 127.0.0.1 and ::1; its own trust anchor."""
    return Certificate(*self_signed(["localhost", "127.0.0.1", "::1"]))


@pytest.fixture
async def echo_server(certificate: Certificate) -> AsyncIterator[rawquic.Server]:
    """A server on a free port of 127.0.0.1 that echoes streams and datagrams."""
    server = await rawquic.serve(echo, "127.0.0.1", 0, **certificate.server)
    yield server
    server.close()
    await server.wait_closed()


def pytest_report_header():
    info = rawquic.backend_info()
    return "rawquic: " + ", ".join(f"{key} {value}" for key, value in info.items())


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


@pytest.fixture
def cable(monkeypatch: pytest.MonkeyPatch) -> Iterator[cables.Cable]:
    with contextlib.ExitStack() as stack:
        try:
            cable = stack.enter_context(cables.laid(monkeypatch))
        except CannotIsolate as reason:
            pytest.skip(str(reason))
        yield cable


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that use `backend` run on both connections; those marked `plain_only`, on one."""
    if "backend" in metafunc.fixturenames:
        one = metafunc.definition.get_closest_marker("plain_only")
        metafunc.parametrize("backend", ["plain"] if one else ["plain", "fast"], indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """What `pair.ours` makes in this test."""
    name: str = request.param
    if name == "fast" and importlib.util.find_spec("rawquic._fastpath") is None:
        pytest.skip("rawquic._fastpath was not built: there is no fast connection to test")
    pair.use(name)
    yield name
    pair.use("plain")


@pytest.fixture
def fast_only() -> Iterator[None]:
    """For tests of the fast connection alone."""
    if importlib.util.find_spec("rawquic._fastpath") is None:
        pytest.skip("rawquic._fastpath was not built: there is no fast connection to test")
    pair.use("fast")
    yield
    pair.use("plain")
