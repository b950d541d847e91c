"""Bytes-like objects that an application gives, as `bytes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]


def as_bytes(data: Buffer) -> bytes:
    """The bytes of a bytes-like object: itself when they cannot change, else a copy.

    TypeError for anything else; `bytes(5)` would be five zeros.
    """
    return data if type(data) is bytes else copied(data)


def copied(data: Buffer) -> bytes:
    """As `as_bytes`, for what is no `bytes`."""
    try:
        return memoryview(data).tobytes()
    except TypeError:
        advice = ": encode it first, as in text.encode()" if isinstance(data, str) else ""
        message = f"a bytes-like object is required, not {type(data).__name__}{advice}"
        raise TypeError(message) from None
