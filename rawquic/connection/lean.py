"""`LeanConnection`: aioquic's connection and TLS over compiled helpers, for the compiled backend.

What costs most in a handshake is not its logic but what that is written with: generators for each
length, key derivation and packet protection through layers of objects. Those have compiled
counterparts that do the same; see `rebound` for how aioquic's code finds them.
"""

import logging
from functools import cache, partial
from typing import Any, ClassVar

from aioquic import tls
from aioquic.buffer import Buffer
from aioquic.quic import connection as aioquic_connection
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import (
    NON_ACK_ELICITING_FRAME_TYPES,
    NON_IN_FLIGHT_FRAME_TYPES,
    PARAMS,
    QuicFrameType,
    QuicPacketType,
    QuicTransportParameters,
    encode_long_header_first_byte,
    pull_quic_header,
    pull_quic_transport_parameters,
    pull_quic_version_information,
)
from aioquic.quic.packet_builder import QuicPacketBuilderStop

from .. import _fastpath
from .handshake_keys import HandshakeKeys
from .rebound import as_module, names_of, rebound


def _expand_label(
    algorithm: Any, secret: bytes, label: bytes, hash_value: bytes, length: int
) -> bytes:
    return _fastpath.hkdf_expand_label(algorithm.name, secret, label, hash_value, length)


def _extract(algorithm: Any, salt: bytes, key_material: bytes) -> bytes:
    return _fastpath.hkdf_extract(algorithm.name, salt, key_material)


RARE_PARAMETERS = (0x0C, 0x0D)  # disable_active_migration, preferred_address
# aioquic's packet types, in the order in which `packet_header` takes them.
PACKET_TYPES = (QuicPacketType.INITIAL, QuicPacketType.ZERO_RTT, QuicPacketType.HANDSHAKE)


def _pull_header(buf: Any, host_cid_length: int | None = None) -> Any:
    start = buf.tell()
    data = buf.data_slice(start, buf.capacity)
    header = _fastpath.packet_header(data, 0, PACKET_TYPES)
    if header is None:  # of another kind, or malformed
        if not data[0]:
            raise ValueError("padding behind the last packet")
        return pull_quic_header(buf, host_cid_length)
    buf.seek(start + header.header_length)
    return header


def _pull_parameters(buf: Any) -> QuicTransportParameters:
    found = QuicTransportParameters()
    fields = vars(found)
    for number, value in _fastpath.transport_parameters(buf.data_slice(0, buf.capacity)).items():
        if number in RARE_PARAMETERS:
            return pull_quic_transport_parameters(buf)
        if number in PARAMS:
            fields[PARAMS[number][0]] = value
    versions = found.version_information
    if isinstance(versions, bytes):
        if len(versions) % 4:
            raise ValueError("version_information is cut off")
        information = pull_quic_version_information(Buffer(data=versions), len(versions))
        found.version_information = information
    return found


TLS = names_of(
    tls,
    hkdf_expand_label=_expand_label,
    hkdf_extract=_extract,
    pull_block=partial(_fastpath.PullBlock, tls.AlertDecodeError),
    pull_list=partial(_fastpath.pull_list, tls.AlertDecodeError, tls.SkipItem),
    pull_opaque=_fastpath.pull_opaque,
    push_block=_fastpath.PushBlock,
    push_extension=_fastpath.PushExtension,
    push_list=_fastpath.push_list,
    push_message=_fastpath.PushMessage,
    push_opaque=_fastpath.push_opaque,
)


@rebound(TLS)
class LeanKeySchedule(tls.KeySchedule):
    """RFC 8446 §7.1."""


@rebound(TLS)
class LeanKeyScheduleProxy(tls.KeyScheduleProxy):
    """The schedules of all suites that a client offers."""


@rebound(TLS)
class LeanContext(tls.Context):
    """TLS 1.3."""


TLS.update(KeySchedule=LeanKeySchedule, KeyScheduleProxy=LeanKeyScheduleProxy, Context=LeanContext)


class LeanPacketBuilder(_fastpath.PacketBuilder):
    """Builds Initial and Handshake packets."""

    buffer_type = Buffer
    stop = QuicPacketBuilderStop
    epochs: ClassVar = {
        QuicPacketType.INITIAL: tls.Epoch.INITIAL,
        QuicPacketType.HANDSHAKE: tls.Epoch.HANDSHAKE,
    }
    initial = QuicPacketType.INITIAL
    first_byte = staticmethod(encode_long_header_first_byte)
    outside = NON_IN_FLIGHT_FRAME_TYPES
    unasked = NON_ACK_ELICITING_FRAME_TYPES
    crypto = QuicFrameType.CRYPTO
    paths = frozenset((QuicFrameType.PATH_CHALLENGE, QuicFrameType.PATH_RESPONSE))


class LeanLogger(aioquic_connection.QuicConnectionAdapter):
    """aioquic's log; a debug line that nobody reads costs one look."""

    def debug(self, msg: object, *args: object, **more: Any) -> None:
        if self.logger.isEnabledFor(logging.DEBUG):
            super().debug(msg, *args, **more)


CONNECTION = names_of(
    aioquic_connection,
    tls=as_module("tls", TLS),
    CryptoPair=HandshakeKeys,
    EPOCHS=cache(aioquic_connection.EPOCHS),
    QuicConnectionAdapter=LeanLogger,
    QuicPacketBuilder=LeanPacketBuilder,
    pull_quic_header=_pull_header,
    pull_quic_transport_parameters=_pull_parameters,
)


@rebound(CONNECTION)
class LeanConnection(QuicConnection):
    """The control plane."""
