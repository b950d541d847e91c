"""`DataPeer`: the other end of one compiled `DataPlane`, which says whatever a test wants.

No handshake and no sockets: both have the same keys, and time is what the test says. What is sent
is encrypted as it should be, so that it gets past decryption.
"""

from typing import Any

from aioquic.buffer import encode_uint_var

from rawquic.connection.interface import Event

HOST_CID, PEER_CID = b"hostcid0", b"peercid1"
TAG, SAMPLE = 16, 16
KEY = {"key": bytes(range(16)), "iv": bytes(12), "hp": bytes(range(16, 32))}
OWN_KEY = {"key": bytes(range(32, 48)), "iv": bytes(12), "hp": bytes(range(48, 64))}
SETTINGS: dict[str, Any] = {
    "is_client": False,
    "receive_window": 1 << 20,
    "first_stream_window": 1 << 30,
    "stream_window": 1 << 19,
    "send_window": 1 << 20,
    "bidi_streams": 100,
    "uni_streams": 100,
    "datagram_receive_bound": 1 << 16,
    "datagram_send_bound": 1 << 16,
    "datagram_frame_limit": 65535,
    "initial_rtt": 0.05,
    "max_ack_delay": 0.025,
    "initial_mtu": 1200,
    "mtu_upper_bound": 1200,
    "congestion_control": "newreno",
    "ecn": True,
}
PARAMETERS: dict[str, Any] = {
    "max_data": 1 << 30,
    "max_stream_data_bidi_local": 1 << 28,
    "max_stream_data_bidi_remote": 1 << 28,
    "max_stream_data_uni": 1 << 28,
    "max_streams_bidi": 1000,
    "max_streams_uni": 1000,
    "ack_delay_exponent": 3,
    "max_ack_delay": 0.025,
    "max_datagram_frame_size": 65535,
    "max_udp_payload_size": 65527,
}


def packet_key(phase: int, *, own: bool) -> Any:
    """The packet key of a phase; `own`: of the packets that the plane sends."""
    from rawquic import _fastpath

    named = OWN_KEY if own else KEY
    key = bytes(byte ^ phase for byte in named["key"])
    return _fastpath.PacketKey("aes-128-gcm", key, named["iv"], named["hp"], provider="openssl")


class Control:
    """The control plane as the data plane sees it; it only notes what it is told."""

    def __init__(self) -> None:
        self.plane: Any = None
        self.failures: list[tuple[int, int, str]] = []
        self.frames: list[tuple[int, bytes]] = []
        self.cids: list[bytes] = []
        self.delivered_tokens: list[tuple[Any, bool]] = []
        self.phase = 1

    def control_frame(self, frame_type: int, frame: bytes, cid: bytes) -> None:
        self.frames.append((frame_type, frame))

    def delivered(self, token: Any, acked: bool) -> None:
        self.delivered_tokens.append((token, acked))

    def first_acknowledgement(self) -> None:
        pass

    def host_cid_changed(self, cid: bytes, number: int) -> None:
        self.cids.append(cid)

    def next_keys(self) -> None:
        self.phase += 1
        self.plane.set_next_keys(
            packet_key(self.phase, own=True), packet_key(self.phase, own=False)
        )

    def data_plane_failed(self, code: int, frame_type: int, reason: str) -> None:
        self.failures.append((code, frame_type, reason))


class DataPeer:
    """Sends packets to `plane`, and reads what it sends."""

    def __init__(self, *, parameters: dict[str, Any] | None = None, **settings: Any) -> None:
        from rawquic import _fastpath

        self.control = Control()
        self.plane = _fastpath.DataPlane(self.control, **SETTINGS | settings)
        self.control.plane = self.plane
        self.now = 1.0
        self.number = 0
        self.largest = -1
        self.phase = 0
        self.plane.set_seal_key(packet_key(0, own=True), packet_key(1, own=True))
        self.plane.set_open_key(packet_key(0, own=False), packet_key(1, own=False))
        self.plane.set_peer_cid(PEER_CID)
        self.plane.set_host_cid(HOST_CID)
        self.plane.set_peer_parameters(**PARAMETERS | (parameters or {}))
        self.plane.begin(self.now, 0.05, 0.0)
        self.plane.confirm()

    # -- to the plane --------------------------------------------------------------------------

    def packet(
        self,
        payload: bytes,
        *,
        number: int | None = None,
        phase: int | None = None,
        bits: int = 0,
        cid: bytes = HOST_CID,
    ) -> bytes:
        if number is None:
            number = self.number
        self.number = max(self.number, number + 1)
        phase = self.phase if phase is None else phase
        key = packet_key(phase, own=False)
        header = bytes([(0x43 | (phase & 1) << 2) ^ bits]) + cid
        header += (number & 0xFFFFFFFF).to_bytes(4, "big")
        sealed = bytearray(key.seal(header, number, payload))
        (mask,) = (key.masks(bytes(sealed[13 : 13 + SAMPLE])),)
        sealed[0] ^= mask[0] & 0x1F
        for i in range(4):
            sealed[9 + i] ^= mask[1 + i]
        return bytes(sealed)

    def send(self, *frames: bytes, ecn: int = 0, **how: Any) -> bool:
        """One packet with these frames; True when it was taken."""
        taken: bool = self.plane.receive(self.packet(b"".join(frames), **how), self.now, ecn)
        return taken

    # -- from the plane ------------------------------------------------------------------------

    def collect(self) -> list[tuple[int, bytes]]:
        """(number, payload) of each packet that the plane sends now."""
        return [self.opened(packet) for packet in self.plane.build(self.now)]

    def opened(self, packet: bytes) -> tuple[int, bytes]:
        raw = bytearray(packet)
        key = packet_key(0, own=True)
        mask = key.masks(bytes(raw[13 : 13 + SAMPLE]))
        raw[0] ^= mask[0] & 0x1F
        length = (raw[0] & 3) + 1
        for i in range(length):
            raw[9 + i] ^= mask[1 + i]
        window = 1 << 8 * length
        number = int.from_bytes(raw[9 : 9 + length], "big")
        expected = self.largest + 1
        number |= expected & ~(window - 1)
        number += window if number + window // 2 <= expected else 0
        number -= window if number > expected + window // 2 and number >= window else 0
        self.largest = max(self.largest, number)
        for phase in range(self.control.phase, -1, -1):
            if phase & 1 != raw[0] >> 2 & 1:
                continue
            try:
                text = packet_key(phase, own=True).open(bytes(raw), 9 + length, number)
            except ValueError:
                continue
            return number, text
        raise AssertionError("a packet of the plane's does not open")

    def failure(self) -> int | None:
        """The error code that the plane ended the connection with."""
        return self.control.failures[0][0] if self.control.failures else None

    def happened(self) -> list[tuple[Event, int]]:
        return [(Event(kind), number) for kind, number in self.plane.take_events()]


def frame(kind: int, *values: int | bytes) -> bytes:
    """A frame: integers as variable-length integers, bytes as they are."""
    parts = [value if isinstance(value, bytes) else encode_uint_var(value) for value in values]
    return encode_uint_var(kind) + b"".join(parts)


def stream(stream_id: int, offset: int, data: bytes, fin: bool = False) -> bytes:
    return frame(0x0E | fin, stream_id, offset, len(data), data)


def ack(*ranges: tuple[int, int], counts: tuple[int, int, int] | None = None) -> bytes:
    """An ACK frame of (lowest, highest) ranges, the highest range first.

    `counts`: of packets that came as ECT(0), ECT(1) and CE.
    """
    low, high = ranges[0]
    values = [high, 0, len(ranges) - 1, high - low]
    for next_low, next_high in ranges[1:]:
        values += [low - next_high - 2, next_high - next_low]
        low = next_low
    return frame(0x02, *values) if counts is None else frame(0x03, *values, *counts)


PING = b"\x01"
