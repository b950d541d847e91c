"""`FrameSink`: collects the control frames that aioquic wants to send in 1-RTT packets.

It stands in for aioquic's packet builder, so that aioquic writes its frames as ever and the data
plane carries them. It builds no packet and takes no packet number.
"""

from collections.abc import Callable, Sequence
from typing import Any

from aioquic.buffer import Buffer

FRAME_CAPACITY = 1300
# What an 1,200-byte packet holds behind the longest header and an ACK of many ranges.
SPACE = 1000

Token = tuple[Callable[..., None] | None, Sequence[Any]]


class FrameSink:
    """The members of `QuicPacketBuilder` that aioquic's frame writers touch."""

    remaining_flight_space = remaining_buffer_space = SPACE
    packet_number = 0

    def __init__(self) -> None:
        self._frames: list[tuple[bytes, Token]] = []
        self.quic_logger_frames: list[Any] = []  # aioquic's; the data plane logs what it sends
        self._open: tuple[Buffer, Token] | None = None
        self._mark = 0

    def start_packet(self, packet_type: Any, crypto: Any) -> None:
        self._finish_frame()
        self._mark = len(self._frames)

    @property
    def packet_is_empty(self) -> bool:
        self._finish_frame()
        return len(self._frames) == self._mark

    def start_frame(
        self,
        frame_type: int,
        capacity: int = 1,
        handler: Callable[..., None] | None = None,
        handler_args: Sequence[Any] = (),
    ) -> Buffer:
        self._finish_frame()
        buffer = Buffer(FRAME_CAPACITY)
        buffer.push_uint_var(frame_type)
        self._open = (buffer, (handler, handler_args))
        return buffer

    def take(self) -> list[tuple[bytes, Token]]:
        """The frames so far, each with its delivery handler and that one's arguments."""
        self._finish_frame()
        frames, self._frames = self._frames, []
        return frames

    def _finish_frame(self) -> None:
        if self._open is not None:
            buffer, token = self._open
            self._frames.append((buffer.data, token))
            self._open = None
