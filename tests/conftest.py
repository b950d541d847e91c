"""What every test file shares: a certificate, both event loops, an echo server."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from loopback import Certificate, echo

import rawquic
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
