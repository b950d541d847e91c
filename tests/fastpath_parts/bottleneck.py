"""A sender with endless data behind one bottleneck, in virtual time.

The sender is the data plane's rtt, congestion and pacing; detection of loss is the packet
threshold of RFC 9002 §6.1.1, and what is left when no ACK comes any more is lost after a PTO. The
link is a queue of whole packets in front of a fixed rate, then a fixed delay. Lost bytes are not
sent again: goodput is what arrived.
"""

import math
import random
from collections import deque
from dataclasses import dataclass
from types import ModuleType
from typing import Any

SIZE = 1200
TIMER = 1e-3  # the resolution of an event loop's timers


@dataclass
class Bottleneck:
    parts: ModuleType
    algorithm: str
    rate: float  # bytes per second
    rtt: float  # without the queue
    queue: float = math.inf  # packets that wait
    loss: float = 0.0  # of packets, at random
    seed: int = 1
    ack_every: int = 2
    soft_ceiling: int = 0
    blind: bool = False  # congestion control gets no RTT samples but the first: no HyStart++

    now: float = 0.0
    delivered: int = 0
    lost: int = 0
    sent: int = 0
    first_loss_at: float = math.inf
    slow_start_cautious_at: float = math.inf  # when HyStart++ first went conservative

    def __post_init__(self) -> None:
        self.path_rtt = self.parts.PathRtt()
        self._first_rtt = self.parts.PathRtt()
        self._first_rtt.sample(self.rtt)
        self.congestion = self.parts.PathCongestion(
            self.algorithm, SIZE, soft_ceiling=self.soft_ceiling
        )
        self.pacer = self.parts.PathPacer()
        self._random = random.Random(self.seed)
        self._link_free = 0.0
        self._flight: deque[tuple[int, float]] = deque()  # number, sent at
        self._acks: deque[tuple[float, int]] = deque()  # when the sender has it, number
        self._number = 0
        self._full = False  # the window held the last packet back

    def run(self, until: float) -> "Bottleneck":
        while self.now < until:
            wake = self._send()
            due = [wake]
            if self._acks:
                due.append(self._acks[min(self.ack_every, len(self._acks)) - 1][0])
            elif self._flight:
                due.append(self.now + self.path_rtt.pto())
            self.now = min(due)
            if self._acks and self._acks[0][0] <= self.now:
                self._acknowledge()
            elif self._flight and not self._acks and self.now < wake:
                self._give_up(self._number)
        return self

    @property
    def goodput(self) -> float:
        return self.delivered / self.now

    @property
    def utilisation(self) -> float:
        return self.goodput / self.rate

    def _send(self) -> float:
        """Send what may leave; return when the pacer lets the next one go (inf: not its doing)."""
        control = self.congestion
        window = control.window
        allowance = self.pacer.allowance(
            self.path_rtt, window, control.in_slow_start(), SIZE, self.now
        )
        room = control.room()
        while room >= SIZE and allowance >= SIZE:
            control.sent(SIZE, self._number)
            self.pacer.sent(SIZE)
            self._transmit()
            room -= SIZE
            allowance -= SIZE
        self._full = room < SIZE
        if self._full:
            return math.inf
        ready = self.pacer.ready_at()
        return max(math.ceil(ready / TIMER) * TIMER, self.now + TIMER)

    def _transmit(self) -> None:
        self._flight.append((self._number, self.now))
        waiting = max(0.0, self._link_free - self.now) * self.rate / SIZE
        if waiting <= self.queue and self._random.random() >= self.loss:
            self._link_free = max(self._link_free, self.now) + SIZE / self.rate
            self._acks.append((self._link_free + self.rtt, self._number))
        self._number += 1
        self.sent += 1

    def _acknowledge(self) -> None:
        numbers = set()
        while self._acks and self._acks[0][0] <= self.now:
            numbers.add(self._acks.popleft()[1])
        largest = max(numbers)
        acked: list[tuple[int, float]] = []
        kept: deque[tuple[int, float]] = deque()
        while self._flight and self._flight[0][0] <= largest:
            packet = self._flight.popleft()
            (acked if packet[0] in numbers else kept).append(packet)
        self._flight.extendleft(reversed(kept))
        sent_at = acked[-1][1]
        used = self._full or (
            self.congestion.in_slow_start()
            and self.congestion.bytes_in_flight * 2 >= self.congestion.window
        )
        self.path_rtt.sample(self.now - sent_at, now=self.now)
        size = SIZE * len(acked)
        self.delivered += size
        seen = self._first_rtt if self.blind else self.path_rtt
        self.congestion.acked(seen, size, largest, sent_at, used, self.now)
        self._give_up(largest - 2)  # RFC 9002 §6.1.1: kPacketThreshold is 3
        if self.slow_start_cautious_at == math.inf and self.congestion.hystart["conservative"]:
            self.slow_start_cautious_at = self.now

    def _give_up(self, below: int) -> None:
        """What was sent before number `below` and is in flight is lost."""
        gone: list[tuple[int, float]] = []
        while self._flight and self._flight[0][0] < below:
            gone.append(self._flight.popleft())
        if gone:
            self.first_loss_at = min(self.first_loss_at, self.now)
            self.lost += len(gone)
            self.congestion.lost(SIZE * len(gone), gone[-1][1], self.now)


def reno_segments(loss: float) -> float:
    """The average window of Reno at loss rate p: sqrt(3 / (2 p)) (Mathis et al., 1997)."""
    return math.sqrt(1.5 / loss)


def snapshot(control: Any) -> dict[str, Any]:
    """The fields of a congestion controller that an undone event must leave as they were."""
    names = ("window", "ssthresh", "credit", "ceiling_hit", "recovery_start")
    return {name: getattr(control, name) for name in names}
