"""Transport parameters (RFC 9000 §18): ours as `Config` says, the peer's as it sent them.

aioquic writes fixed values for some of its own and forgets some of the peer's; this module builds
and reads the extension with aioquic's own codec.
"""

from aioquic.buffer import Buffer
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import (
    QuicTransportParameters,
    QuicVersionInformation,
    pull_quic_transport_parameters,
    push_quic_transport_parameters,
)

from ..config import Config


def encode(connection: QuicConnection, config: Config) -> bytes:
    """The extension that `connection` sends in its first flight."""
    is_client = connection._is_client
    idle = config.max_idle_timeout
    parameters = QuicTransportParameters(
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
        initial_source_connection_id=connection._local_initial_source_connection_id,
        max_ack_delay=round(config.max_ack_delay * 1000),
        max_datagram_frame_size=connection.configuration.max_datagram_frame_size,
        max_udp_payload_size=65527,
        stateless_reset_token=None if is_client else connection._host_cids[0].stateless_reset_token,
        version_information=QuicVersionInformation(
            chosen_version=connection._version or 0,
            available_versions=connection.configuration.supported_versions,
        ),
    )
    if not is_client:
        parameters.original_destination_connection_id = (
            connection._original_destination_connection_id
        )
        parameters.retry_source_connection_id = connection._retry_source_connection_id
    buffer = Buffer(capacity=4096)
    push_quic_transport_parameters(buffer, parameters)
    return buffer.data


def decode(data: bytes) -> QuicTransportParameters:
    """The peer's extension. ValueError when malformed."""
    return pull_quic_transport_parameters(Buffer(data=data))


def has_duplicate(data: bytes) -> bool:
    """True when a parameter stands twice (RFC 9000 §7.4 forbids it; aioquic takes the last)."""
    buffer, seen = Buffer(data=data), set()
    while not buffer.eof():
        number = buffer.pull_uint_var()
        if number in seen:
            return True
        seen.add(number)
        buffer.pull_bytes(buffer.pull_uint_var())
    return False
