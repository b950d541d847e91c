"""What can handle sessions: anything that is called with one and returns an awaitable.

It looks at the function, it never calls it. What only a call can tell, `Server` finds out then.
"""

import functools
import inspect
from collections.abc import Awaitable, Callable
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session import RawQuicSession

Handler = Callable[["RawQuicSession"], Awaitable[None]]


def check_handler(handler: Any) -> None:
    """TypeError for what certainly returns no awaitable, and what to do about it."""
    if not callable(handler):
        advice = "; give the function itself, without calling it"
        kind = type(handler).__name__ + (advice if inspect.isawaitable(handler) else "")
        raise TypeError(f"the handler must be an async function of a session, not {kind}")
    function = handler
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function) and not inspect.isclass(function):
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType) and code.co_flags & inspect.CO_ASYNC_GENERATOR:
        raise TypeError(f"the handler {handler!r} must not `yield`: that makes it a generator")


def check_awaitable(handler: Any, result: Any) -> None:
    """TypeError when what the handler returned cannot be awaited."""
    if not inspect.isawaitable(result):
        kind = type(result).__name__
        raise TypeError(f"the handler {handler!r} returned no awaitable but {kind}: make it async")
