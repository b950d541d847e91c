"""What is left of a closed connection: its IDs and, if this end closed, the packet that says so.

RFC 9000 §10.2: a closing endpoint repeats its CONNECTION_CLOSE when packets still come, ever more
rarely; a draining one answers nothing. Both for three probe timeouts. What comes from another
address than the peer's is discarded. The connection itself is free meanwhile: at most two datagrams
of it are kept.
"""

import math

from ..connection.interface import Address

MAX_PACKETS = 2


class Lingering:
    """A closing (with packets) or draining (without) connection.

    Attributes:
        address: the peer's. room: bytes that may still go there; None: it is validated (§8.1).
        round_trip: the connection's smoothed RTT in seconds.
    """

    __slots__ = (
        "_heard",
        "_repeated_at",
        "address",
        "ids",
        "local",
        "packets",
        "room",
        "round_trip",
    )

    def __init__(
        self,
        packets: list[bytes],
        address: Address,
        local: str | None,
        round_trip: float,
        room: int | None = None,
    ) -> None:
        self.packets = packets[-MAX_PACKETS:]
        self.address = address
        self.local = local
        self.round_trip = round_trip
        self.room = room
        self.ids: set[bytes] = set()
        self._heard = 0
        self._repeated_at = -math.inf

    def should_repeat(self, size: int, peer: Address, now: float) -> bool:
        """True for the 1st, 2nd, 4th, 8th … datagram that came since the close, of `size` bytes.

        Once at one time: what came together was sent before the peer could hear of an answer.
        """
        if peer != self.address:
            return False  # RFC 9000 §10.2.1: nobody has validated that one
        self._heard += 1
        if self.room is not None:
            self.room += 3 * size
        if not self.packets or self._heard & (self._heard - 1) or now == self._repeated_at:
            return False
        if self.room is not None:
            answer = sum(map(len, self.packets))
            if answer > self.room:
                return False
            self.room -= answer
        self._repeated_at = now
        return True
