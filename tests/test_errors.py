"""The exceptions: who derives from whom, what they keep, and that they survive a pickle."""

import copy
import pickle

import pytest

import rawquic
from rawquic import errors
from rawquic.errors import (
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

# class: (the class above it, the class of Python that it is as well)
HIERARCHY: dict[type[Exception], tuple[type[Exception], type[Exception] | None]] = {
    RawQuicError: (Exception, None),
    ConfigError: (RawQuicError, ValueError),
    SessionError: (RawQuicError, ConnectionError),
    HandshakeFailed: (SessionError, None),
    CertificateInvalid: (HandshakeFailed, None),
    ConnectionRefused: (HandshakeFailed, None),
    HandshakeTimeout: (HandshakeFailed, TimeoutError),
    ClosedByPeer: (SessionError, None),
    ClosedLocally: (SessionError, None),
    IdleTimeout: (SessionError, TimeoutError),
    StatelessReset: (SessionError, None),
    ProtocolViolation: (SessionError, None),
    StreamError: (RawQuicError, None),
    StreamReset: (StreamError, None),
    StreamStopped: (StreamError, None),
    StreamFinished: (StreamError, None),
    StreamTooLong: (StreamError, None),
    DatagramError: (RawQuicError, None),
    DatagramTooLarge: (DatagramError, None),
    DatagramUnsupported: (DatagramError, None),
}
PUBLIC = {name: cls for name, cls in vars(errors).items() if isinstance(cls, type)}
PUBLIC = {
    name: cls
    for name, cls in PUBLIC.items()
    if not name.startswith("_") and issubclass(cls, BaseException)
}

SAMPLES: list[tuple[RawQuicError, dict[str, object], str]] = [
    (ConfigError("bad file"), {}, "bad file"),
    (SessionError(), {}, "the session has ended"),
    (SessionError("why"), {}, "why"),
    (HandshakeFailed("no", 0x178, True), {"code": 0x178, "by_peer": True}, "no"),
    (HandshakeFailed("no"), {"code": None, "by_peer": False}, "no"),
    (CertificateInvalid("bad", 0x12A), {"code": 0x12A, "by_peer": False}, "bad"),
    (ConnectionRefused("port"), {"code": None, "by_peer": False}, "port"),
    (HandshakeTimeout("10 s"), {"code": None, "by_peer": False}, "10 s"),
    (
        ClosedByPeer(5, b"by\xff", True),
        {"code": 5, "reason": b"by\xff", "is_application": True},
        "closed by the peer with application error code 5: by\ufffd",
    ),
    (
        ClosedByPeer((1 << 62) - 1, b"", False),
        {"code": (1 << 62) - 1, "reason": b"", "is_application": False},
        f"closed by the peer with transport error code {(1 << 62) - 1}",
    ),
    (ClosedLocally(), {"code": 0, "reason": b""}, "closed locally with code 0"),
    (ClosedLocally(3, b"x"), {"code": 3, "reason": b"x"}, "closed locally with code 3: x"),
    (IdleTimeout(), {}, "nothing came from the peer for Config.max_idle_timeout"),
    (StatelessReset(), {}, "the peer reset the connection statelessly"),
    (
        ProtocolViolation(0x0A, 0x1E, "no"),
        {"code": 0x0A, "frame_type": 0x1E, "reason": "no"},
        "the peer broke the protocol (code 0xa, frame type 0x1e): no",
    ),
    (
        ProtocolViolation(0x07, None, "no"),
        {"code": 7, "frame_type": None, "reason": "no"},
        "the peer broke the protocol (code 0x7): no",
    ),
    (StreamReset(9), {"code": 9}, "the peer reset the stream with code 9"),
    (StreamStopped(8), {"code": 8}, "the peer stopped the stream with code 8"),
    (StreamFinished("over"), {}, "over"),
    (
        StreamTooLong(7),
        {"limit": 7},
        "the stream is longer than the limit of 7 bytes; it was stopped",
    ),
    (
        DatagramTooLarge(9, 8),
        {"size": 9, "limit": 8},
        "a datagram of 9 bytes is larger than the limit of 8 bytes",
    ),
    (DatagramUnsupported(), {}, "the peer takes no datagrams (RFC 9221 §3)"),
]
IDS = [repr(sample[0]) for sample in SAMPLES]


def test_the_hierarchy_is_complete() -> None:
    assert set(PUBLIC.values()) == set(HIERARCHY)


@pytest.mark.parametrize("cls", HIERARCHY, ids=lambda cls: cls.__name__)
def test_the_hierarchy(cls: type[Exception]) -> None:
    above, python = HIERARCHY[cls]
    assert issubclass(cls, above)
    ours = [base for base in cls.__mro__[1:] if base in HIERARCHY]
    assert above is Exception or ours[0] is above
    for builtin in (ValueError, ConnectionError, TimeoutError):
        inherited = any(
            each is not cls and issubclass(cls, each) and HIERARCHY[each][1] is builtin
            for each in HIERARCHY
        )
        assert issubclass(cls, builtin) is (python is builtin or inherited)


@pytest.mark.parametrize("cls", HIERARCHY, ids=lambda cls: cls.__name__)
def test_each_is_exported_and_documented(cls: type[Exception]) -> None:
    assert getattr(rawquic, cls.__name__) is cls
    assert cls.__name__ in rawquic.__all__
    assert cls.__doc__ and cls.__name__ in (errors.__doc__ or "")


def test_every_class_has_a_sample() -> None:
    abstract = {RawQuicError, StreamError, DatagramError}
    assert {type(sample[0]) for sample in SAMPLES} == set(HIERARCHY) - abstract


@pytest.mark.parametrize(("error", "attributes", "message"), SAMPLES, ids=IDS)
def test_message_and_attributes(
    error: RawQuicError, attributes: dict[str, object], message: str
) -> None:
    assert str(error) == message
    assert vars(error) == attributes
    for name in attributes:
        assert name in (type(error).__doc__ or "") + "".join(
            base.__doc__ or "" for base in type(error).__mro__ if base in HIERARCHY
        )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", [sample[0] for sample in SAMPLES], ids=IDS)
def test_pickling(error: RawQuicError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error) and repr(again) == repr(error)
    assert again.args == error.args and vars(again) == vars(error)


@pytest.mark.parametrize("error", [sample[0] for sample in SAMPLES], ids=IDS)
def test_copying_leaves_the_traceback_behind(error: RawQuicError) -> None:
    try:
        raise error
    except RawQuicError as caught:
        again = copy.copy(caught)
    assert type(again) is type(error) and again is not error
    assert again.__traceback__ is None and again.args == error.args
    assert vars(again) == vars(error)


SESSION_ERRORS = [sample[0] for sample in SAMPLES if isinstance(sample[0], SessionError)]


@pytest.mark.parametrize("error", SESSION_ERRORS, ids=repr)
def test_session_errors_are_os_errors_without_a_number(error: SessionError) -> None:
    assert isinstance(error, OSError)
    assert error.errno is None and error.strerror is None and error.filename is None
    assert len(error.args) == 1
    again = pickle.loads(pickle.dumps(error))
    assert again.errno is None and again.strerror is None


def test_they_can_be_caught_as_what_python_knows() -> None:
    for error, kinds in (
        (HandshakeTimeout("x"), (TimeoutError, ConnectionError, OSError)),
        (IdleTimeout(), (TimeoutError, ConnectionError, OSError)),
        (ClosedByPeer(1), (ConnectionError, OSError)),
        (ConfigError("x"), (ValueError,)),
    ):
        for kind in kinds:
            with pytest.raises(kind):
                raise error
    assert not isinstance(ClosedByPeer(1), TimeoutError)
    assert not isinstance(StreamReset(1), OSError)


def test_codes_tell_errors_apart() -> None:
    assert StreamReset(1).code != StreamStopped(2).code
    assert not isinstance(StreamReset(1), StreamStopped)


def test_a_reason_steers_neither_log_nor_terminal() -> None:
    reason = b"a\nERROR b\r\x1b[2J\x00\xe2\x80\xa8\xff \xc3\xa9"
    for error in (ClosedByPeer(1, reason), ClosedLocally(1, reason)):
        assert str(error).isprintable()
        assert str(error).endswith("code 1: a\\nERROR b\\r\\x1b[2J\\x00\\u2028\ufffd \xe9")
        assert error.reason == reason
