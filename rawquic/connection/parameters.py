"""Transport parameters (RFC 9000 §18): ours as `Config` says, the peer's as it sent them.

aioquic writes fixed values for some of its own and forgets some of the peer's; this module builds
and reads the extension with aioquic's own codec.
"""

from functools import lru_cache
from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import (
    QuicTransportParameters,
    push_quic_transport_parameters,
)

from ..config import Config

MAX_UDP_PAYLOAD_SIZE, ACK_DELAY_EXPONENT = 0x03, 0x0A
INTEGERS = frozenset((0x01, *range(0x03, 0x0C), 0x0E, 0x20))


def encode(connection: QuicConnection, config: Config) -> bytes:
    """The extension that `connection` sends in its first flight."""
    is_client = connection._is_client
    idle = config.max_idle_timeout
    fixed = _encode_fixed(
        ack_delay_exponent=connection._local_ack_delay_exponent,
        active_connection_id_limit=connection._local_active_connection_id_limit,
        disable_active_migration=not is_client and not config.allow_migration,
        # RFC 9000 §10.1: absent or 0 means no limit.
        max_idle_timeout=None if idle is None else max(1, round(idle * 1000)),
        initial_max_data=connection._local_max_data.value,
        initial_max_stream_data_bidi_local=connection._local_max_stream_data_bidi_local,
        initial_max_stream_data_bidi_remote=connection._local_max_stream_data_bidi_remote,
        initial_max_stream_data_uni=connection._local_max_stream_data_uni,
        initial_max_streams_bidi=connection._local_max_streams_bidi.value,
        initial_max_streams_uni=connection._local_max_streams_uni.value,
        max_ack_delay=round(config.max_ack_delay * 1000),
        max_datagram_frame_size=connection.configuration.max_datagram_frame_size,
        max_udp_payload_size=65527,
    )
    versions = [connection._version or 0, *connection.configuration.supported_versions]
    own = {
        0x0F: connection._local_initial_source_connection_id,
        0x11: b"".join(each.to_bytes(4, "big") for each in versions),  # RFC 9368 §3
    }
    if not is_client:
        own[0x00] = connection._original_destination_connection_id
        own[0x02] = connection._host_cids[0].stateless_reset_token
        if connection._retry_source_connection_id is not None:
            own[0x10] = connection._retry_source_connection_id
    # Numbers and lengths below 64 are one byte (RFC 9000 §16).
    return fixed + b"".join(bytes((number, len(own[number]))) + own[number] for number in own)


@lru_cache(maxsize=64)
def _encode_fixed(**values: Any) -> bytes:
    """The parameters that are the same for many connections."""
    buffer = Buffer(capacity=4096)
    push_quic_transport_parameters(buffer, QuicTransportParameters(**values))
    return buffer.data


def values(data: bytes) -> dict[int, int | bytes]:
    """The values of the peer's extension by their numbers, integers as such.

    ValueError when malformed, or when one stands twice (RFC 9000 §7.4 forbids it; aioquic takes
    the last).
    """
    buffer, found = Buffer(data=data), dict[int, int | bytes]()
    while not buffer.eof():
        number = buffer.pull_uint_var()
        value = buffer.pull_bytes(buffer.pull_uint_var())
        if number in found:
            raise ValueError("a transport parameter stands twice")
        found[number] = Buffer(data=value).pull_uint_var() if number in INTEGERS else value
    return found
