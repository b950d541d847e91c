"""`Datagrams`: the DATAGRAM payloads of a plain connection that wait, and those that were dropped.

Both queues are bounded in bytes: the oldest makes room for the newest. No frames here: aioquic
takes what is to be sent from `outgoing`.
"""

from collections import deque

from ..config import Config

DATAGRAM_COST = 64  # bytes that a waiting datagram counts for besides its own


class DatagramQueue(deque[bytes]):
    """A deque that knows its size in bytes; an empty datagram costs memory too."""

    size = 0

    def append(self, data: bytes, /) -> None:
        super().append(data)
        self.size += len(data) + DATAGRAM_COST

    def popleft(self) -> bytes:
        data = super().popleft()
        self.size -= len(data) + DATAGRAM_COST
        return data

    def push(self, data: bytes, bound: int) -> int:
        """Append, then drop the oldest while there are more than `bound` bytes; how many."""
        self.append(data)
        dropped = 0
        while self.size > bound and len(self) > 1:
            self.popleft()
            dropped += 1
        return dropped


class Datagrams:
    """What waits to be sent and to be read.

    Attributes:
        outgoing: aioquic's queue of those to send.
        dropped_send, dropped_receive: of a full queue.
        dropped_mtu: too large for a packet by the time they would have left.
    """

    def __init__(self, config: Config) -> None:
        self.outgoing, self._incoming = DatagramQueue(), DatagramQueue()
        self._send_bound = config.datagram_send_buffer_size
        self._receive_bound = config.datagram_receive_buffer_size or 0
        self._limit = 0  # what waits to be sent fits, unless this has changed
        self.dropped_send = self.dropped_receive = self.dropped_mtu = 0

    def waiting(self) -> tuple[int, int]:
        """How many wait to be sent, and to be read."""
        return len(self.outgoing), len(self._incoming)

    def send(self, data: bytes) -> None:
        self.dropped_send += self.outgoing.push(data, self._send_bound)

    def room(self, size: int) -> bool:
        """True when `size` more bytes can wait."""
        room = self._send_bound - self.outgoing.size
        return not self.outgoing or size + DATAGRAM_COST <= room

    def received(self, data: bytes) -> None:
        self.dropped_receive += self._incoming.push(data, self._receive_bound)

    def read(self, most: int) -> list[bytes]:
        return [self._incoming.popleft() for _ in range(min(most, len(self._incoming)))]

    def fit(self, limit: int | None) -> None:
        """Drop those queued before the packet size went down: they would block those behind."""
        if limit is None or limit == self._limit:
            return
        self._limit = limit
        for _ in range(len(self.outgoing)):
            data = self.outgoing.popleft()
            if len(data) <= limit:
                self.outgoing.append(data)
            else:
                self.dropped_mtu += 1
