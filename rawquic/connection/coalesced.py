"""Which packets of a datagram with long headers are whose (RFC 9000 §12.2). No keys here."""

from aioquic.quic.packet import QuicPacketType

from .. import _fastpath
from .lean import PACKET_TYPES


def split_datagram(data: bytes) -> tuple[bytes, bytes]:
    """(the datagram without 0-RTT and short-header packets, the short-header packet).

    The first keeps its length: aioquic would stop at a blank in the middle, so that it is at the
    end.
    """
    at, kept = 0, []
    while at < len(data):
        if not data[at] & 0x80:
            break
        header = _fastpath.packet_header(data, at, PACKET_TYPES)
        if header is None:  # Retry, Version Negotiation, or malformed: aioquic stops there too
            kept.append(data[at:])
            at = len(data)
            break
        if header.packet_type is not QuicPacketType.ZERO_RTT:
            kept.append(data[at : at + header.packet_length])
        at += header.packet_length
    tail = data[at:] if at < len(data) and data[at] & 0x40 else b""
    handshake = b"".join(kept)
    return handshake + bytes(len(data) - len(handshake)), tail
