"""`SharedWindow`: one congestion window for the packets of both planes.

RFC 9002 §7 knows one window of a path, whatever packet number space its packets are of. It lasts
until the Handshake keys are gone; what aioquic's controller makes of losses stays its own.
"""

from typing import Any


class SharedWindow:
    """Stands in front of aioquic's congestion controller, with the data plane's window."""

    def __init__(self, inner: Any, plane: Any) -> None:
        self._inner, self._plane = inner, plane

    @property
    def handshake_in_flight(self) -> int:
        """Bytes of Initial and Handshake packets."""
        return int(self._inner.bytes_in_flight)

    @property
    def bytes_in_flight(self) -> int:
        in_flight: int = self._plane.statistics()["bytes_in_flight"]
        return self.handshake_in_flight + in_flight

    @property
    def congestion_window(self) -> int:
        window: int = self._plane.statistics()["congestion_window"]
        return window

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
