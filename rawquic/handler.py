"""What can handle sessions: anything that is called with one and returns an awaitable.

It looks at the function, it never calls it. What only a call can tell, `Server` finds out then.
"""

import dis
import functools
import inspect
from collections.abc import Awaitable, Callable
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session import RawQuicSession

Handler = Callable[["RawQuicSession"], Awaitable[None]]

AWAITABLE = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE


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
    if not isinstance(code, CodeType) or code.co_flags & AWAITABLE:
        return
    if code.co_flags & inspect.CO_ASYNC_GENERATOR:
        raise TypeError(f"the handler {handler!r} must not `yield`: that makes it a generator")
    if _returns_only_none(code):
        raise TypeError(f"the handler {handler!r} is not async: define it with `async def`")


def check_awaitable(handler: Any, result: Any) -> None:
    """TypeError when what the handler returned cannot be awaited."""
    if not inspect.isawaitable(result):
        kind = type(result).__name__
        raise TypeError(f"the handler {handler!r} returned no awaitable but {kind}: make it async")


def _returns_only_none(code: CodeType) -> bool:
    """True for a function without `return`, or with a bare one only: it cannot return an awaitable.

    One that hands on what another function returns does not look like that.
    """
    returned = []
    before = None
    for now in dis.get_instructions(code):
        if now.opname == "RETURN_CONST":  # Python 3.12 and 3.13
            returned.append(now.argval)
        elif now.opname == "RETURN_VALUE":
            known = before is not None and before.opname == "LOAD_CONST" and not now.is_jump_target
            returned.append(before.argval if known and before else ...)
        before = now
    return bool(returned) and all(value is None for value in returned)
