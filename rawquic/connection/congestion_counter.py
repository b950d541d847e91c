"""Counts what aioquic's congestion controller is told; it changes nothing of it."""

from collections.abc import Iterable
from typing import Any


class CongestionCounter:
    """Stands in front of a `QuicCongestionControl`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.sent = self.acked = self.lost = self.congestion_events = 0

    @property
    def bytes_in_flight(self) -> int:
        return int(self._inner.bytes_in_flight)

    @property
    def congestion_window(self) -> int:
        return int(self._inner.congestion_window)

    def on_packet_sent(self, *, packet: Any) -> None:
        self.sent += 1
        self._inner.on_packet_sent(packet=packet)

    def on_packet_acked(self, *, now: float, packet: Any) -> None:
        self.acked += 1
        self._inner.on_packet_acked(now=now, packet=packet)

    def on_packets_lost(self, *, now: float, packets: Iterable[Any]) -> None:
        packets = list(packets)
        self.lost += len(packets)
        before = self._inner.congestion_window
        self._inner.on_packets_lost(now=now, packets=packets)
        if self._inner.congestion_window < before:
            self.congestion_events += 1

    def on_packets_expired(self, *, packets: Iterable[Any]) -> None:
        self._inner.on_packets_expired(packets=packets)

    def on_persistent_congestion(self) -> None:
        self._inner.on_persistent_congestion()

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        self._inner.on_rtt_measurement(now=now, rtt=rtt)

    def get_log_data(self) -> dict[str, Any]:
        data: dict[str, Any] = self._inner.get_log_data()
        return data
