"""Why a connection ended, in the words of `rawquic.errors`.

It reads aioquic's close event; it never changes the connection.
"""

import re

from aioquic.quic.connection import QuicConnectionState
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from ..errors import (
    CertificateInvalid,
    ClosedByPeer,
    ConnectionRefused,
    HandshakeFailed,
    HandshakeTimeout,
    IdleTimeout,
    ProtocolViolation,
    SessionError,
    reason_text,
)

_CERTIFICATE_ALERTS = frozenset(
    {
        AlertDescription.bad_certificate,
        AlertDescription.unsupported_certificate,
        AlertDescription.certificate_revoked,
        AlertDescription.certificate_expired,
        AlertDescription.certificate_unknown,
        AlertDescription.unknown_ca,
    }
)

# As service_identity shows the names of a certificate.
_PATTERN = re.compile(r"\w+Pattern\(pattern=(?:b|IPv[46]Address\()?'([^']*)'\)+")

TRUST = " (to trust it: cafile= or cadata=, or pinned_sha256= with its hash)"
NAME = " (server_name= is the name to expect in place of the host; pinned_sha256= looks at none)"


def without_advice(error: CertificateInvalid) -> str:
    """The message, for who has advice of its own."""
    return str(error).removesuffix(TRUST).removesuffix(NAME)


def _certificate_invalid(reason: str, code: int) -> CertificateInvalid:
    told, others = _PATTERN.subn(r"\1", reason)
    not_trusted = code == 0x100 + AlertDescription.bad_certificate  # and not one that has expired
    advice = NAME if others else TRUST if not_trusted else ""
    return CertificateInvalid(f"the peer's certificate is not accepted: {told}{advice}", code)


def transport_error_name(code: int) -> str:
    """The RFC 9000 §20.1 name of a transport error code, with the TLS alert's where it is one."""
    if 0x100 <= code <= 0x1FF:
        try:
            return f"TLS alert {AlertDescription(code - 0x100).name}"
        except ValueError:
            return f"TLS alert {code - 0x100}"
    try:
        return QuicErrorCode(code).name
    except ValueError:
        return f"transport error 0x{code:x}"


def closed_by_peer(
    event: ConnectionTerminated, reason: bytes, handshake_done: bool
) -> SessionError:
    """The error for a CONNECTION_CLOSE that arrived (RFC 9000 §19.19)."""
    is_application = event.frame_type is None
    if handshake_done or (is_application and event.error_code != QuicErrorCode.APPLICATION_ERROR):
        return ClosedByPeer(event.error_code, reason, is_application)
    name = transport_error_name(event.error_code)
    detail = reason_text(reason)
    if event.error_code == QuicErrorCode.CONNECTION_REFUSED:
        return ConnectionRefused(
            f"the peer refused the connection ({name}){detail}", event.error_code, by_peer=True
        )
    if event.error_code == 0x100 + AlertDescription.no_application_protocol:
        detail += " (none of the ALPN protocols offered is served there)"
    return HandshakeFailed(
        f"the peer ended the handshake with {name}{detail}", event.error_code, by_peer=True
    )


def closed_by_this_end(
    event: ConnectionTerminated, state: QuicConnectionState, handshake_done: bool
) -> SessionError:
    """The error for a close that aioquic itself decided on: time-outs and the peer's mistakes."""
    code, reason = event.error_code, event.reason_phrase
    if state is QuicConnectionState.TERMINATED:
        if reason == "Idle timeout":
            return IdleTimeout() if handshake_done else HandshakeTimeout("no answer from the peer")
        if code == QuicErrorCode.NO_VIABLE_PATH:
            return SessionError(
                "the peer's new address did not validate, and no other path is left"
            )
        return HandshakeFailed(reason, code)
    if handshake_done:
        return ProtocolViolation(code, event.frame_type, reason)
    if 0x100 <= code <= 0x1FF and code - 0x100 in _CERTIFICATE_ALERTS:
        return _certificate_invalid(reason, code)
    return HandshakeFailed(f"the handshake failed: {transport_error_name(code)}: {reason}", code)
