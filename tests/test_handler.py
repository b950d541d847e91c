"""rawquic.handler: what can handle sessions, and what `serve` says of what cannot."""

import asyncio
import functools
import logging
import types
import unittest.mock
from collections.abc import Callable
from typing import Any

import pytest
from loopback import Certificate, until, within

import rawquic
from rawquic.handler import check_handler

pytestmark = pytest.mark.timeout(30)


async def handle(session: rawquic.RawQuicSession, answer: bytes = b"handled") -> None:
    async with await session.open_uni() as send:
        await send.write(answer)


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


def maybe(session: rawquic.RawQuicSession) -> Any:
    if session is None:
        return None
    return handle(session)


def one_of_two(session: rawquic.RawQuicSession) -> Any:
    return session is None or handle(session)


def task(session: rawquic.RawQuicSession) -> "asyncio.Task[None]":
    return asyncio.ensure_future(handle(session))


@types.coroutine
def old_style(session: rawquic.RawQuicSession) -> Any:
    yield from handle(session).__await__()


class Application:
    async def __call__(self, session: rawquic.RawQuicSession) -> None:
        await handle(session)

    async def method(self, session: rawquic.RawQuicSession) -> None:
        await handle(session)

    def plain(self, session: rawquic.RawQuicSession) -> Any:
        return handle(session)

    @staticmethod
    async def static(session: rawquic.RawQuicSession) -> None:
        await handle(session)

    @classmethod
    async def of_class(cls, session: rawquic.RawQuicSession) -> None:
        await handle(session)


class Run:
    """An awaitable itself."""

    def __init__(self, session: rawquic.RawQuicSession) -> None:
        self.session = session

    def __await__(self) -> Any:
        return handle(self.session).__await__()


GOOD: dict[str, Callable[..., Any]] = {
    "async": handle,
    "partial": functools.partial(handle, answer=b"handled"),
    "partial of partial": functools.partial(functools.partial(handle), answer=b"handled"),
    "lambda": lambda session: handle(session),
    "decorated": traced(handle),
    "may return none": maybe,
    "one of two": one_of_two,
    "task": task,
    "old style": old_style,
    "object": Application(),
    "method": Application().method,
    "plain method": Application().plain,
    "static method": Application.static,
    "class method": Application.of_class,
    "class": Run,
    "partial of an object": functools.partial(Application()),
    "mock": unittest.mock.AsyncMock(side_effect=handle),
}


@pytest.mark.parametrize("name", GOOD)
async def test_what_returns_an_awaitable_handles(certificate: Certificate, name: str) -> None:
    handler = GOOD[name]
    async with (
        rawquic.serve(handler, "127.0.0.1", 0, **certificate.server) as server,
        rawquic.connect(*server.local_address, **certificate.client) as session,
    ):
        assert await within((await within(session.accept_uni())).read(-1)) == b"handled"


def nothing(session: rawquic.RawQuicSession) -> None:
    session.accept_bi().close()


def generator(session: rawquic.RawQuicSession) -> Any:
    yield session


async def async_generator(session: rawquic.RawQuicSession) -> Any:
    yield await session.accept_bi()


BAD: dict[str, tuple[Any, str]] = {
    "async generator": (async_generator, "must not `yield`"),
    "none": (None, "must be an async function of a session, not NoneType$"),
    "text": ("handle", "not str$"),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_does_not_is_a_type_error_at_serve(certificate: Certificate, name: str) -> None:
    handler, message = BAD[name]
    with pytest.raises(TypeError, match=message):
        rawquic.serve(handler, "127.0.0.1", 0, **certificate.server)
    with pytest.raises(TypeError, match=message):
        rawquic.ServerOptions(handler=handler, **certificate.server)
    with pytest.raises(TypeError, match=message):
        await rawquic.serve_with_shutdown(
            handler, "127.0.0.1", 0, asyncio.sleep(0), **certificate.server
        )


async def test_a_handler_that_was_called_already() -> None:
    called = handle(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not coroutine; give the function itself, without calling"):
        check_handler(called)
    called.close()


@pytest.mark.parametrize(
    ("handler", "returned"),
    [(nothing, "NoneType"), (generator, "generator"), (lambda session: session.closed, "bool")],
)
async def test_what_only_a_call_can_tell_is_logged(
    certificate: Certificate, caplog: pytest.LogCaptureFixture, handler: Any, returned: str
) -> None:
    async with (
        rawquic.serve(handler, "127.0.0.1", 0, **certificate.server) as server,
        rawquic.connect(*server.local_address, **certificate.client) as session,
    ):
        await within(session.wait_closed())
        assert isinstance(session.close_reason, rawquic.ClosedByPeer)
        assert session.close_reason.code == 1
        await until(lambda: not server.sessions)
    (logged,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert logged.exc_info is not None
    assert isinstance(logged.exc_info[1], TypeError)
    assert f"returned no awaitable but {returned}: make it async" in str(logged.exc_info[1])
