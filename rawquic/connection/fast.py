"""The fast connection: aioquic's control plane, and the compiled data plane for 1-RTT packets.

This is its face for the endpoint and the session layer, which mostly passes calls on to the data
plane; how the two planes work together is in `seam`.
"""

import math
from typing import Any

from aioquic.quic.connection import QuicConnectionState

from ..errors import (
    SessionError,
    StatelessReset,
)
from .interface import EventTuple, PathStatistics
from .seam import JoinedPlanes

SMALL_BUFFER = 2 << 20  # bytes granted to a socket, below which bursts must be bounded


class FastConnection(JoinedPlanes):
    """One connection with compiled packets; see `interface.Connection` for what it offers."""

    backend = "compiled"

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.streams = plane = self.plane
        # What needs nothing but the data plane is its own method: a call less for each.
        self.wants_flush = plane.wants_flush
        self.sends_itself = plane.sends_itself
        self.has_news = plane.has_news
        self.send_datagrams = plane.send_datagrams
        self.datagram_room = plane.datagram_room
        self.read_datagrams = plane.read_datagrams
        self.ping = plane.ping
        self.set_max_streams = plane.set_max_streams
        self.set_receive_window = plane.set_receive_window
        self.set_send_window = plane.set_send_window

    # -- the endpoint's loop -------------------------------------------------------------------

    def attach(self, reactor: Any, link: Any) -> None:
        """The endpoint calls this connection `link`; `reactor`, if any, reads and sends for it."""
        self._reactor = reactor
        self.plane.owner = link
        if reactor is None:
            return
        # Small buffers are most likely small at the other end of a local path too: a burst above
        # them is lost without a word. The kernel charges a train that passes whole little more than
        # its bytes, and datagrams one by one up to twice that.
        granted = link.endpoint.receive_buffer
        if granted < SMALL_BUFFER:
            payload = granted if reactor.grouped else granted // 2
            self.plane.limit_window(payload * 3 // 4)

    def after_batch(self, now: float) -> bool:
        """The reactor gave packets to the data plane; True when that was of the control plane's."""
        self._now = now
        if self.plane.control_called or self.plane.closing:
            self._after_call()
            return True
        return False

    def flush(self) -> bool:
        """Send what the data plane may send now; True when there is more for another turn."""
        if not self.plane.routed:
            return False
        more: bool = self._reactor.flush(self.plane)
        if self.plane.control_called:
            self._after_call()
        return more or self._close_pending

    def armed(self, deadline: float | None) -> None:
        """The endpoint's timer stands at `deadline`: an earlier one is news."""
        self.plane.armed = deadline or 0.0

    def let_go(self) -> None:
        super().let_go()
        self.plane.discard()
        self._reactor = None

    def events(self) -> list[EventTuple]:
        found = self.plane.take_events()
        if self._session_events:
            # Data that came with the close is reported before it.
            found += self._session_events
            self._session_events.clear()
        return found

    # -- time ----------------------------------------------------------------------------------

    def timer(self) -> float | None:
        if self.is_ending():
            return self._close_at
        deadlines = [self.plane.timer()]
        if not self._handshake_confirmed or self._control_timers():
            deadlines.append(self.get_timer())
        if self.handshake_done and self.config.keep_alive_interval is not None:
            deadlines.append(self._kept_alive_at() + self.config.keep_alive_interval)
        if len(deadlines) == 1:  # nearly always
            return deadlines[0]
        earliest = min((each for each in deadlines if each is not None), default=math.inf)
        return None if math.isinf(earliest) else earliest

    def _control_timers(self) -> bool:
        """True when aioquic has something to wait for besides idleness: a path's validation."""
        return not self._network_paths[0].is_validated

    def handle_timer(self, now: float) -> None:
        if self._state is QuicConnectionState.TERMINATED:
            return
        self._now = now
        idle_at = self.plane.idle_from + self._idle_timeout() if self.handshake_done else 0.0
        control = not self._handshake_confirmed or self._control_timers() or self.is_ending()
        if control or now >= idle_at:
            if self.handshake_done and not self.is_ending():
                # aioquic sees no 1-RTT packet: idle time is the data plane's to know.
                self._close_at = idle_at
            self.get_timer()
            super().handle_timer(now)
            self.plane.control_dirty = True
        self.plane.on_timer(now)
        interval = self.config.keep_alive_interval
        kept = interval is not None and self.handshake_done
        if kept and now >= self._kept_alive_at() + (interval or 0.0):
            self.plane.keep_alive()
            self._last_sent = now  # also when the congestion window holds it back for now
        self._after_call()

    def _kept_alive_at(self) -> float:
        return max(self.plane.last_sent_at, self._last_sent)

    def fail(self, reason: SessionError) -> None:
        super().fail(reason)
        self.plane.closing = True

    def stateless_reset(self) -> None:
        self.fail(StatelessReset())

    def packet_refused(self, size: int, now: float) -> bool:
        of_aioquic = super().packet_refused(size, now)
        return self.plane.packet_refused(min(size, 65535), now) or of_aioquic

    # -- streams and datagrams -----------------------------------------------------------------

    def set_priority(self, stream_id: int, priority: int) -> None:
        self.plane.set_priority(stream_id, max(-(1 << 31), min(priority, (1 << 31) - 1)))

    def max_datagram_size(self) -> int | None:
        if self.close_reason is not None:
            return None
        return self.plane.max_datagram_size()

    # -- the rest ------------------------------------------------------------------------------

    def update_keys(self) -> None:
        self.plane.request_key_update()

    def probe_timeout(self) -> float:
        return self.plane.pto() if self.handshake_done else super().probe_timeout()

    def statistics(self) -> PathStatistics:
        counted = self.plane.statistics()
        counted["udp_datagrams_received"] += self._received_datagrams
        counted["udp_bytes_received"] += self._received_bytes
        counted["udp_datagrams_sent"] += self._sent_datagrams
        counted["udp_bytes_sent"] += self._sent_bytes
        if not self.handshake_done and self._loss._rtt_initialized:
            counted["rtt"] = self._loss._rtt_smoothed  # the data plane has not begun yet
        return PathStatistics(**counted)
