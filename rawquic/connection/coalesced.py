"""Which packets of a datagram with long headers are whose (RFC 9000 §12.2). No keys here."""

from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from .control import CONNECTION_ID_LENGTH


def split_datagram(data: bytes) -> tuple[bytes, bytes]:
    """(the datagram without 0-RTT and short-header packets, the short-header packet).

    The first keeps its length: aioquic would stop at a blank in the middle, so that it is at the
    end.
    """
    buffer = Buffer(data=data)
    keep, tail = bytearray(), b""
    while not buffer.eof():
        start = buffer.tell()
        if not data[start] & 0x80:
            tail = data[start:] if data[start] & 0x40 else b""
            break
        try:
            header = pull_quic_header(buffer, host_cid_length=CONNECTION_ID_LENGTH)
        except ValueError:
            keep += data[start:]
            break
        if header.packet_type in (QuicPacketType.RETRY, QuicPacketType.VERSION_NEGOTIATION):
            keep += data[start:]
            break
        if header.packet_type is not QuicPacketType.ZERO_RTT:
            keep += data[start : start + header.packet_length]
        buffer.seek(start + header.packet_length)
    return bytes(keep) + bytes(len(data) - len(keep)), tail
