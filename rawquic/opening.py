"""`Opening`: what `connect` and `serve` return, to be awaited, or used with `async with`."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=AbstractAsyncContextManager[Any])


class Opening(Generic[T]):
    """Starts when it is awaited or entered; leaving it leaves what was made."""

    def __init__(self, maker: str, start: Callable[[], Awaitable[T]]) -> None:
        self._maker = maker  # named in errors
        self._start = start
        self._made: T | None = None

    def __await__(self) -> Generator[Any, None, T]:
        return self._start().__await__()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{self._maker}() is to be awaited, or used with `async with`, before .{name}"
        )

    async def __aenter__(self) -> T:
        self._made = await self._start()
        return self._made

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._made is not None
        await self._made.__aexit__(kind, error, traceback)
