"""Two network namespaces with a cable between them, which can be cut.

What the server sends waits in the kernel while it does not know the client's link-layer address.
"""

import contextlib
import shutil
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from namespaces import CannotIsolate, Namespace

import rawquic.client
from rawquic import Config
from rawquic.endpoint.io import set_buffers

SERVER, CLIENT = "10.9.0.1", "10.9.0.2"


class Cable:
    """The server's socket, and clients' at the other end; `cut` keeps what the server sends."""

    def __init__(self, near: Namespace, far: Namespace) -> None:
        self._near, self._far = near, far
        near.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", far.pid)
        near.ip("addr", "add", f"{SERVER}/24", "dev", "v0")
        near.ip("link", "set", "v0", "address", "02:00:00:00:00:01", "up")
        far.ip("addr", "add", f"{CLIENT}/24", "dev", "v1")
        far.ip("link", "set", "v1", "address", "02:00:00:00:00:02", "arp", "off", "up")
        far.ip("neigh", "replace", SERVER, "lladdr", "02:00:00:00:00:01", "dev", "v1")
        # It asks for the address once a minute, and has room: what waits for an answer is not given
        # up meanwhile.
        waits = ("retrans", 60_000, "queue", 10_000)
        near.ip("ntable", "change", "name", "arp_cache", "dev", "v0", *waits)
        self.mend()
        self.server_socket = near.socket()
        self.server_socket.bind((SERVER, 0))
        self.client_socket = far.socket

    def cut(self) -> None:
        self._near.ip("neigh", "del", CLIENT, "dev", "v0")

    def mend(self) -> None:
        self._near.ip("neigh", "replace", CLIENT, "lladdr", "02:00:00:00:00:02", "dev", "v0")

    def narrow(self, mtu: int, *, both: bool = False) -> None:
        """The server's packets may be no larger; clients' are dropped at its end, or refused."""
        self._near.ip("link", "set", "v0", "mtu", mtu)
        if both:
            self._far.ip("link", "set", "v1", "mtu", mtu)

    def clog(self) -> None:
        """What the server sends is dropped before it leaves the machine, and it is told so."""
        if shutil.which("tc") is None:
            raise CannotIsolate("needs the tc command")
        self._near.run("tc", "qdisc", "add", "dev", "v0", "root", "pfifo", "limit", 0)

    def unclog(self) -> None:
        self._near.run("tc", "qdisc", "del", "dev", "v0", "root")


def across(cable: Cable) -> dict[str, Any]:
    """What `pair` needs for it."""
    return {"sock": cable.server_socket, "server_name": "localhost"}


@contextlib.contextmanager
def laid(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cable]:
    """A cable; meanwhile clients have their sockets at its other end. Raises CannotIsolate."""
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(contextlib.closing(Namespace())) for _ in range(2)]
        cable = Cable(*ends)

        async def bind(*_: Any, **__: Any) -> socket.socket:
            sock = cable.client_socket()
            set_buffers(sock, Config())
            sock.bind((CLIENT, 0))
            return sock

        monkeypatch.setattr(rawquic.client, "bind", bind)
        yield cable
