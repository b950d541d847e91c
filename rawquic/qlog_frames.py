"""The frames of a 1-RTT packet as qlog has them: of those that the compiled data plane carried.

The bytes may be a peer's: what cannot be read ends the list with an unknown frame. Names and fields
are those of aioquic's own logger, so that both backends' files look alike.
"""

from collections.abc import Callable
from typing import Any

from aioquic.buffer import Buffer, BufferReadError

Frame = dict[str, Any]

# Those that are integers alone: type, name, their fields.
INTEGERS: dict[int, tuple[str, tuple[str, ...]]] = {
    0x01: ("ping", ()),
    0x04: ("reset_stream", ("stream_id", "error_code", "final_size")),
    0x05: ("stop_sending", ("stream_id", "error_code")),
    0x10: ("max_data", ("maximum",)),
    0x11: ("max_stream_data", ("stream_id", "maximum")),
    0x12: ("max_streams", ("maximum",)),
    0x13: ("max_streams", ("maximum",)),
    0x14: ("data_blocked", ("limit",)),
    0x15: ("stream_data_blocked", ("stream_id", "limit")),
    0x16: ("streams_blocked", ("limit",)),
    0x17: ("streams_blocked", ("limit",)),
    0x19: ("retire_connection_id", ("sequence_number",)),
    0x1E: ("handshake_done", ()),
}
UNIDIRECTIONAL = {0x12: False, 0x13: True, 0x16: False, 0x17: True}


def decode_frames(payload: bytes, ack_delay_exponent: int) -> list[Frame]:
    """All frames of a packet's payload."""
    buffer = Buffer(data=payload)
    frames: list[Frame] = []
    while not buffer.eof():
        frame_type = 0
        start = buffer.tell()
        try:
            frame_type = buffer.pull_uint_var()
            frame = _frame(frame_type, buffer, ack_delay_exponent)
        except BufferReadError:
            frame = None
        if frame is None:
            unknown = {"frame_type": "unknown", "raw_frame_type": frame_type}
            return [*frames, unknown | {"raw_length": len(payload) - start}]
        frames.append(frame)
    return frames


def _frame(frame_type: int, buffer: Buffer, exponent: int) -> Frame | None:
    if frame_type & ~7 == 0x08:
        return _stream(frame_type, buffer)
    if frame_type in INTEGERS:
        name, fields = INTEGERS[frame_type]
        frame: Frame = {"frame_type": name}
        for field in fields:
            frame[field] = buffer.pull_uint_var()
        if frame_type in UNIDIRECTIONAL:
            one_way = UNIDIRECTIONAL[frame_type]
            frame["stream_type"] = "unidirectional" if one_way else "bidirectional"
        return frame
    if frame_type in (0x02, 0x03):
        return _ack(frame_type, buffer, exponent)
    reader = OTHERS.get(frame_type)
    return None if reader is None else reader(frame_type, buffer)


def _padding(frame_type: int, buffer: Buffer) -> Frame:
    rest = buffer.data_slice(buffer.tell(), buffer.capacity)
    more = len(rest) - len(rest.lstrip(b"\0"))
    buffer.seek(buffer.tell() + more)
    return {"frame_type": "padding", "payload_length": 1 + more}


def _skip(buffer: Buffer, size: int) -> int:
    if size > buffer.capacity - buffer.tell():
        raise BufferReadError
    buffer.seek(buffer.tell() + size)
    return size


def _stream(frame_type: int, buffer: Buffer) -> Frame:
    stream_id = buffer.pull_uint_var()
    offset = buffer.pull_uint_var() if frame_type & 4 else 0
    size = buffer.pull_uint_var() if frame_type & 2 else buffer.capacity - buffer.tell()
    return {
        "frame_type": "stream",
        "stream_id": stream_id,
        "offset": offset,
        "length": _skip(buffer, size),
        "fin": bool(frame_type & 1),
    }


def _ack(frame_type: int, buffer: Buffer, exponent: int) -> Frame:
    largest = buffer.pull_uint_var()
    delay, count = buffer.pull_uint_var(), buffer.pull_uint_var()
    low = largest - buffer.pull_uint_var()
    ranges = [[low, largest]]
    for _ in range(count):
        largest = low - buffer.pull_uint_var() - 2
        low = largest - buffer.pull_uint_var()
        ranges.append([low, largest])
    frame: Frame = {
        "frame_type": "ack",
        "ack_delay": (delay << exponent) / 1000,
        "acked_ranges": ranges[::-1],
    }
    if frame_type == 0x03:
        frame |= {name: buffer.pull_uint_var() for name in ("ect0", "ect1", "ce")}
    return frame


def _datagram(frame_type: int, buffer: Buffer) -> Frame:
    size = buffer.pull_uint_var() if frame_type & 1 else buffer.capacity - buffer.tell()
    return {"frame_type": "datagram", "length": _skip(buffer, size)}


def _crypto(frame_type: int, buffer: Buffer) -> Frame:
    offset, size = buffer.pull_uint_var(), buffer.pull_uint_var()
    return {"frame_type": "crypto", "offset": offset, "length": _skip(buffer, size)}


def _new_token(frame_type: int, buffer: Buffer) -> Frame:
    token = buffer.pull_bytes(buffer.pull_uint_var())
    return {"frame_type": "new_token", "length": len(token), "token": token.hex()}


def _new_connection_id(frame_type: int, buffer: Buffer) -> Frame:
    number, retired = buffer.pull_uint_var(), buffer.pull_uint_var()
    cid = buffer.pull_bytes(buffer.pull_uint8())
    return {
        "frame_type": "new_connection_id",
        "sequence_number": number,
        "retire_prior_to": retired,
        "length": len(cid),
        "connection_id": cid.hex(),
        "reset_token": buffer.pull_bytes(16).hex(),
    }


def _path(frame_type: int, buffer: Buffer) -> Frame:
    name = "path_challenge" if frame_type == 0x1A else "path_response"
    return {"frame_type": name, "data": buffer.pull_bytes(8).hex()}


def _connection_close(frame_type: int, buffer: Buffer) -> Frame:
    transport = frame_type == 0x1C
    code = buffer.pull_uint_var()
    frame: Frame = {
        "frame_type": "connection_close",
        "error_space": "transport" if transport else "application",
        "error_code": code,
        "raw_error_code": code,
    }
    if transport:
        frame["trigger_frame_type"] = buffer.pull_uint_var()
    frame["reason"] = buffer.pull_bytes(buffer.pull_uint_var()).decode(errors="replace")
    return frame


OTHERS: dict[int, Callable[[int, Buffer], Frame]] = {
    0x00: _padding,
    0x06: _crypto,
    0x07: _new_token,
    0x18: _new_connection_id,
    0x1A: _path,
    0x1B: _path,
    0x1C: _connection_close,
    0x1D: _connection_close,
    0x30: _datagram,
    0x31: _datagram,
}
