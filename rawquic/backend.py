"""Which backend runs, decided once, at import.

RAWQUIC_BACKEND=auto      (default) the compiled one; the Python one where it was not built
RAWQUIC_BACKEND=compiled  the compiled one, or an ImportError
RAWQUIC_BACKEND=python    the Python one

A build that is there and does not load is never passed over in silence: that is an ImportError
which says how to mend it. Nothing else in the package may try to import rawquic._fastpath.
"""

import functools
import importlib
import os
import socket
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from rawquic import stream_base_python
from rawquic.endpoint import turn_python, udp_python

CHOICES = ("auto", "compiled", "python")
EXTENSION = "rawquic._fastpath"
REBUILD = (
    f"RAWQUIC_BUILD=yes {sys.executable or 'python'} -m pip install "
    "--force-reinstall --no-deps --no-cache-dir --no-binary rawquic rawquic"
)
UDP_SEGMENT = 103
UDP_GRO = 104


def _choose() -> tuple[Literal["compiled", "python"], str | None]:
    """The backend to run, and for the Python one the reason."""
    choice = os.environ.get("RAWQUIC_BACKEND", "auto")
    if choice not in CHOICES:
        raise ValueError(f"RAWQUIC_BACKEND={choice!r}; allowed are {', '.join(CHOICES)}")
    if choice == "python":
        return "python", "asked for by RAWQUIC_BACKEND"
    try:
        importlib.import_module(EXTENSION)
    except Exception as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name == EXTENSION):
            raise ImportError(
                f"{EXTENSION} was built, but importing it failed: "
                f"{type(error).__name__}: {error}\n"
                "Likely cause: it was built for another Python, or a library that it uses "
                "(OpenSSL's libcrypto) was removed or replaced since.\n"
                f"Build it again: {REBUILD}\n"
                "Or run without it, many times slower: RAWQUIC_BACKEND=python",
                name=EXTENSION,
            ) from error
        if choice == "compiled":
            raise ImportError(
                f"RAWQUIC_BACKEND=compiled, but {EXTENSION} was not built for this Python "
                f"({sys.implementation.cache_tag} on {sys.platform}).\n"
                "Likely cause: rawquic was installed where a C compiler, Python's headers or "
                "OpenSSL's were missing, or with RAWQUIC_BUILD=no.\n"
                f"Build it, and see what is missing: {REBUILD}",
                name=EXTENSION,
            ) from error
        return "python", (
            f"{EXTENSION} was not built for this Python "
            f"({sys.implementation.cache_tag} on {sys.platform})"
        )
    return "compiled", None


BACKEND, _REASON = _choose()

if TYPE_CHECKING:
    from rawquic import _fastpath
if TYPE_CHECKING or BACKEND == "python":
    UdpSocket = udp_python.UdpSocket
    Turn = turn_python.Turn
    Waiter = turn_python.Waiter
    Waiters = turn_python.Waiters
    StreamTasks = turn_python.StreamTasks
    SendStreamBase = stream_base_python.SendStreamBase
    RecvStreamBase = stream_base_python.RecvStreamBase
else:
    from rawquic import _fastpath

    UdpSocket = _fastpath.UdpSocket
    Turn = _fastpath.Turn
    Waiter = _fastpath.Waiter
    Waiters = _fastpath.Waiters
    StreamTasks = _fastpath.StreamTasks
    SendStreamBase = _fastpath.SendStreamBase
    RecvStreamBase = _fastpath.RecvStreamBase


def version(package: str = "rawquic") -> str:
    """The version of an installed package; "unknown" where it runs from a tree."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def aead_providers() -> list[str]:
    """Who can seal the compiled data plane's packets, the default first; none on the fallback."""
    return list(_fastpath.aead_providers()) if BACKEND == "compiled" else []


@functools.cache
def _kernel_has(option: int, value: int) -> bool:
    """Whether UDP sockets take an option; tried on a socket that is thrown away."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_UDP, option, value)
    except OSError:
        return False
    return True


def backend_info() -> dict[str, object]:
    """What runs here: for bug reports, benchmark rows and test headers.

    Keys: `backend`, `version`, `aioquic`, `openssl` (None on the Python backend), `aead` (the
    providers of the compiled data plane), `gso` and `gro` (whether the compiled backend runs on a
    kernel that has them), `splice` (whether large trains leave without a copy, over IPv4), and on
    the Python backend `reason`: it was asked for, or why it is a fallback.
    """
    compiled = BACKEND == "compiled"
    info: dict[str, object] = {
        "backend": BACKEND,
        "version": version(),
        "aioquic": version("aioquic"),
        "openssl": _fastpath.openssl_version() if compiled else None,
        "aead": aead_providers(),
        "gso": compiled and _kernel_has(UDP_SEGMENT, 1200),
        "gro": compiled and _kernel_has(UDP_GRO, 1),
        "splice": compiled and _fastpath.sends_by_reference(),
    }
    if _REASON is not None:
        info["reason"] = _REASON
    return info
