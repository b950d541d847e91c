"""Every exception that rawquic raises on purpose; each says whose fault it was and what is allowed.

    RawQuicError
    ├── ConfigError(ValueError)
    ├── SessionError(ConnectionError)
    │   ├── HandshakeFailed
    │   │   ├── CertificateInvalid
    │   │   ├── ConnectionRefused
    │   │   └── HandshakeTimeout(TimeoutError)
    │   ├── ClosedByPeer, ClosedLocally
    │   ├── IdleTimeout(TimeoutError)
    │   ├── StatelessReset
    │   └── ProtocolViolation
    ├── StreamError
    │   └── StreamReset, StreamStopped, StreamFinished, StreamTooLong
    └── DatagramError
        └── DatagramTooLarge, DatagramUnsupported

All of them pickle. The session errors are `OSError`s by inheritance; their `errno` is None.
"""

from typing import Any


class RawQuicError(Exception):
    """Base of every error of this package."""


class ConfigError(RawQuicError, ValueError):
    """A certificate, key or option cannot be used; the message names it and says why."""


class _Picklable(RawQuicError):
    """Rebuilds from its attributes, since the constructor's arguments are not `args`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(
    kind: type[RawQuicError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> RawQuicError:
    error = kind.__new__(kind, *args)
    # OSError sets args in __new__ or __init__, depending on the subclass.
    Exception.__init__(error, *args)
    error.__dict__.update(attributes)
    return error


class SessionError(_Picklable, ConnectionError):
    """The session has ended, or never came to be."""

    def __init__(self, message: str = "the session has ended") -> None:
        super().__init__(message)


class HandshakeFailed(SessionError):
    """No session: TLS alert, ALPN mismatch, version or transport parameters.

    Attributes:
        code: the QUIC transport error code (RFC 9000 §20.1; 0x100 + alert for TLS), or None.
        by_peer: True when the peer said so, False when this end did.
    """

    def __init__(self, message: str, code: int | None = None, by_peer: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.by_peer = by_peer


class CertificateInvalid(HandshakeFailed):
    """The peer's certificate was not accepted: chain, name, dates or pin."""


class ConnectionRefused(HandshakeFailed):
    """The peer answered CONNECTION_REFUSED, or its host says that the port is unreachable."""


class HandshakeTimeout(HandshakeFailed, TimeoutError):
    """No answer in time; the message names the addresses tried and the time."""


class ClosedByPeer(SessionError):
    """The peer closed the connection (CONNECTION_CLOSE, RFC 9000 §19.19).

    Attributes:
        code: the error code, 0 .. 2^62-1.
        reason: the peer's reason phrase as bytes.
        is_application: True for an application close (0x1d), False for a transport close (0x1c).
    """

    def __init__(self, code: int, reason: bytes = b"", is_application: bool = True) -> None:
        kind = "application" if is_application else "transport"
        super().__init__(f"closed by the peer with {kind} error code {code}{reason_text(reason)}")
        self.code = code
        self.reason = reason
        self.is_application = is_application


class ClosedLocally(SessionError):
    """This end closed the session.

    Attributes:
        code: the application error code given to `close`.
        reason: the reason as bytes.
    """

    def __init__(self, code: int = 0, reason: bytes = b"") -> None:
        super().__init__(f"closed locally with code {code}{reason_text(reason)}")
        self.code = code
        self.reason = reason


class IdleTimeout(SessionError, TimeoutError):
    """Nothing was heard of the peer for the negotiated idle timeout (RFC 9000 §10.1)."""

    def __init__(
        self, message: str = "nothing came from the peer for Config.max_idle_timeout"
    ) -> None:
        super().__init__(message)


class StatelessReset(SessionError):
    """The peer has lost the connection's state and said so (RFC 9000 §10.3)."""

    def __init__(self, message: str = "the peer reset the connection statelessly") -> None:
        super().__init__(message)


class ProtocolViolation(SessionError):
    """The peer broke the protocol, and this end closed the connection for it.

    Attributes:
        code: the transport error code that was sent (RFC 9000 §20.1).
        frame_type: the type of the frame that caused it, or None.
        reason: what was wrong.
    """

    def __init__(self, code: int, frame_type: int | None, reason: str) -> None:
        frame = "" if frame_type is None else f", frame type 0x{frame_type:02x}"
        super().__init__(f"the peer broke the protocol (code 0x{code:x}{frame}): {reason}")
        self.code = code
        self.frame_type = frame_type
        self.reason = reason


class StreamError(RawQuicError):
    """One stream is affected; the session goes on."""


class _StreamCode(_Picklable, StreamError):
    _what = ""

    def __init__(self, code: int) -> None:
        super().__init__(f"{self._what} with code {code}")
        self.code = code


class StreamReset(_StreamCode):
    """The peer gave up sending (RESET_STREAM, RFC 9000 §19.4); `code` is its error code."""

    _what = "the peer reset the stream"


class StreamStopped(_StreamCode):
    """The peer reads no more (STOP_SENDING, RFC 9000 §19.5); `code` is its error code."""

    _what = "the peer stopped the stream"


class StreamFinished(StreamError):
    """This half of the stream was ended locally: finished, reset or stopped."""


class StreamTooLong(_Picklable, StreamError):
    """More bytes came than `read_to_end` was told to take; `limit` is that number of bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the stream is longer than the limit of {limit} bytes; it was stopped")
        self.limit = limit


class DatagramError(RawQuicError):
    """A datagram cannot be sent."""


class DatagramTooLarge(_Picklable, DatagramError):
    """`size` bytes do not fit one packet now; `limit` is `session.max_datagram_size`."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a datagram of {size} bytes is larger than the limit of {limit} bytes")
        self.size = size
        self.limit = limit


class DatagramUnsupported(DatagramError):
    """The peer takes no datagrams (RFC 9221 §3)."""

    def __init__(self, message: str = "the peer takes no datagrams (RFC 9221 §3)") -> None:
        super().__init__(message)


def reason_text(reason: bytes) -> str:
    """A reason phrase behind a message; what a peer wrote must not steer a log or a terminal."""
    text = reason.decode("utf-8", "replace")
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return f": {shown}" if reason else ""
