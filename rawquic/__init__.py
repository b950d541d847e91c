"""rawquic: raw QUIC sessions for Python.

Two programs connect over QUIC (RFC 9000) with TLS 1.3, and exchange bidirectional and
unidirectional streams and unreliable datagrams (RFC 9221), through asyncio. Raw QUIC: no HTTP/3,
no W3C WebTransport.
"""

from typing import TYPE_CHECKING

from . import aio
from .backend import backend_info
from .backend import version as _version
from .client import Endpoint, connect
from .config import Config
from .connection_view import Connection
from .endpoint.accept import Incoming
from .errors import (
    CertificateInvalid,
    ClosedByPeer,
    ClosedLocally,
    ConfigError,
    ConnectionRefused,
    DatagramError,
    DatagramTooLarge,
    DatagramUnsupported,
    HandshakeFailed,
    HandshakeTimeout,
    IdleTimeout,
    ProtocolViolation,
    RawQuicError,
    SessionError,
    StatelessReset,
    StreamError,
    StreamFinished,
    StreamReset,
    StreamStopped,
    StreamTooLong,
)
from .server import Server, ServerOptions, serve, serve_with_shutdown
from .session import RawQuicSession
from .stats import ConnectionStats, ServerStats
from .streams import RecvStream, SendStream

__all__ = [
    "CertificateInvalid",
    "ClosedByPeer",
    "ClosedLocally",
    "Config",
    "ConfigError",
    "Connection",
    "ConnectionRefused",
    "ConnectionStats",
    "DatagramError",
    "DatagramTooLarge",
    "DatagramUnsupported",
    "Endpoint",
    "HandshakeFailed",
    "HandshakeTimeout",
    "IdleTimeout",
    "Incoming",
    "ProtocolViolation",
    "RawQuicError",
    "RawQuicSession",
    "RecvStream",
    "SendStream",
    "Server",
    "ServerOptions",
    "ServerStats",
    "SessionError",
    "StatelessReset",
    "StreamError",
    "StreamFinished",
    "StreamReset",
    "StreamStopped",
    "StreamTooLong",
    "aio",
    "backend_info",
    "connect",
    "serve",
    "serve_with_shutdown",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name):
        if name == "__version__":  # not at import: it is read from a file
            return _version()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
