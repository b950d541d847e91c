"""`Link`: a connection's place in an endpoint, and the session layer's handle on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..connection.interface import Address, Connection, EventTuple

if TYPE_CHECKING:
    from ..backend import StreamTasks
    from .udp_endpoint import UdpEndpoint


def ignore(events: list[EventTuple]) -> None:
    """What hears of the events of a connection that nobody has."""


class Link:
    """One connection, the endpoint that carries it, and who hears of its events.

    Attributes:
        on_events: called with readiness events, after each batch that brought some.
        tasks: of the session, that wait for its streams; events for them may take this way.
        local: the local address that the peer sent to, for the answers' source; None: any.
        ids: our connection IDs that are routed here.
        armed: the earliest deadline that stands in the endpoint's timer queue for it.
    """

    __slots__ = (
        "address",
        "armed",
        "connection",
        "endpoint",
        "ids",
        "initial_key",
        "is_client",
        "local",
        "on_events",
        "tasks",
    )

    def __init__(self, endpoint: UdpEndpoint, connection: Connection, is_client: bool) -> None:
        self.endpoint = endpoint
        self.connection = connection
        self.is_client = is_client
        self.on_events: Callable[[list[EventTuple]], None] = ignore
        self.tasks: StreamTasks | None = None
        self.address: Address = ("", 0)
        self.local: str | None = None
        self.ids: set[bytes] = set()
        self.initial_key: tuple[bytes, Address] | None = None
        self.armed: float | None = None

    def flush_soon(self) -> None:
        """What the connection has queued leaves at the end of this turn of the loop."""
        self.endpoint.turn.flush_soon(self)

    def flush_if_wanted(self) -> None:
        if self.connection.wants_flush():
            self.endpoint.turn.flush_soon(self)
