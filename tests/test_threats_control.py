"""Errors that a conforming server must answer with (the h3spec list), a row each.

A stock client sends what is forbidden, well encrypted and in the right packet number space; the
server has to close with the code that RFC 9000, RFC 9001 or RFC 9221 names, and the client has to
hear it. Meanwhile a second connection goes on.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import views
from aioquic.quic.packet import QuicErrorCode, QuicPreferredAddress, QuicTransportParameters
from aioquic.tls import CipherSuite, Direction, Epoch
from pair import Pair, frame, make, our_server, ours, seal, stock, stream_frame, transfer

from rawquic.config import Config
from rawquic.connection.interface import Event
from rawquic.errors import HandshakeFailed, ProtocolViolation

pytestmark = pytest.mark.usefixtures("backend")

FLOW = QuicErrorCode.FLOW_CONTROL_ERROR
STREAM_LIMIT = QuicErrorCode.STREAM_LIMIT_ERROR
STREAM_STATE = QuicErrorCode.STREAM_STATE_ERROR
FINAL_SIZE = QuicErrorCode.FINAL_SIZE_ERROR
FRAME_ENCODING = QuicErrorCode.FRAME_ENCODING_ERROR
PARAMETER = QuicErrorCode.TRANSPORT_PARAMETER_ERROR
VIOLATION = QuicErrorCode.PROTOCOL_VIOLATION
ID_LIMIT = QuicErrorCode.CONNECTION_ID_LIMIT_ERROR
UNEXPECTED_MESSAGE, MISSING_EXTENSION, NO_APPLICATION_PROTOCOL = 0x10A, 0x16D, 0x178

MAX_VARINT = (1 << 62) - 1
STREAM_WINDOW, WINDOW, STREAMS = 10_000, 15_000, 10
CONFIG = Config(
    stream_receive_window=STREAM_WINDOW,
    receive_window=WINDOW,
    max_concurrent_bidi_streams=STREAMS,
    max_concurrent_uni_streams=STREAMS,
)
KEY_UPDATE = bytes([24, 0, 0, 1, 0])  # RFC 8446 §4.6.3


@pytest.fixture(scope="module")
def bystander() -> Iterator[Pair]:
    yield make().handshake()


@pytest.fixture(autouse=True)
def second_connection_goes_on(bystander: Pair) -> Iterator[None]:
    yield
    assert transfer(bystander, bystander.client, b"going on") == b"going on"
    assert bystander.client.close_reason is None and bystander.server.close_reason is None


def assert_closed(pair: Pair, code: int, *, established: bool = True) -> None:
    """The server ended it with this code, and told the client."""
    reason = pair.server.close_reason
    assert isinstance(reason, ProtocolViolation if established else HandshakeFailed), reason
    assert reason.code == code, reason
    assert pair.events[pair.server][-1] == (Event.CLOSED, 0)
    pair.flush()
    pair.run(1.0)
    event = pair.client._close_event
    assert event is not None and event.error_code == code, event


# -- transport parameters --------------------------------------------------------------------------


def setting(**values: Any) -> Callable[[QuicTransportParameters], None]:
    def edit(sent: QuicTransportParameters) -> None:
        for name, value in values.items():
            assert hasattr(sent, name)
            setattr(sent, name, value)

    return edit


ADDRESS = QuicPreferredAddress(("192.0.2.1", 4433), None, bytes(8), bytes(16))
PARAMETERS = {
    "no initial_source_connection_id": setting(initial_source_connection_id=None),
    "another initial_source_connection_id": setting(initial_source_connection_id=bytes(8)),
    "original_destination_connection_id": setting(original_destination_connection_id=bytes(8)),
    "preferred_address": setting(preferred_address=ADDRESS),
    "retry_source_connection_id": setting(retry_source_connection_id=bytes(8)),
    "stateless_reset_token": setting(stateless_reset_token=bytes(16)),
    "max_udp_payload_size 1090": setting(max_udp_payload_size=1090),
    "max_udp_payload_size 1199": setting(max_udp_payload_size=1199),
    "ack_delay_exponent 30": setting(ack_delay_exponent=30),
    "ack_delay_exponent 21": setting(ack_delay_exponent=21),
    "max_ack_delay 2^15": setting(max_ack_delay=1 << 15),
    "max_ack_delay 2^14": setting(max_ack_delay=1 << 14),
    "initial_max_streams_bidi 2^60+1": setting(initial_max_streams_bidi=(1 << 60) + 1),
    "initial_max_streams_uni 2^60+1": setting(initial_max_streams_uni=(1 << 60) + 1),
    "active_connection_id_limit 1": setting(active_connection_id_limit=1),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_transport_parameters(name: str) -> None:
    """RFC 9000 §7.3, §7.4, §18.2."""
    pair = our_server(CONFIG, edit=PARAMETERS[name])
    pair.start()
    pair.run_until(lambda: pair.server.close_reason is not None)
    assert_closed(pair, PARAMETER, established=False)


ENCODINGS = {
    "twice": lambda data: data + bytes([0x0A, 1, 3]) + bytes([0x0A, 1, 3]),
    "unknown, twice": lambda data: data + bytes([0x3F, 1, 3]) + bytes([0x3F, 1, 3]),
    "cut": lambda data: data + bytes([0x0A, 5, 3]),
    "length and value differ": lambda data: data + bytes([0x3E, 0]) + bytes([0x0A, 2, 3, 3]),
    "disable_active_migration with a value": lambda data: data + bytes([0x0C, 1, 1]),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_transport_parameter_encodings(name: str) -> None:
    pair = our_server(CONFIG, edit=setting(ack_delay_exponent=None), rewrite=ENCODINGS[name])
    pair.start()
    pair.run_until(lambda: pair.server.close_reason is not None)
    assert_closed(pair, PARAMETER, established=False)


@pytest.mark.parametrize(
    "values",
    [
        {"max_udp_payload_size": 1200},
        {"ack_delay_exponent": 20},
        {"max_ack_delay": (1 << 14) - 1},
        {"initial_max_streams_bidi": 1 << 60},
        {"active_connection_id_limit": 2},
        {"max_idle_timeout": MAX_VARINT},
        {"initial_max_data": MAX_VARINT},
    ],
    ids=str,
)
def test_transport_parameters_at_their_limits_are_fine(values: dict[str, int]) -> None:
    pair = our_server(CONFIG, edit=setting(**values)).handshake()
    assert pair.server.close_reason is None
    assert transfer(pair, pair.server, bytes(5000)) == bytes(5000)


def test_no_transport_parameters() -> None:
    """RFC 9001 §8.2."""
    client = stock(True)
    client.without_parameters = True
    pair = Pair(client, ours(False, odcid=client.original_destination_connection_id))
    pair.start()
    pair.run(1.0)
    assert_closed(pair, MISSING_EXTENSION, established=False)


def test_alpn_mismatch() -> None:
    """RFC 9001 §8.1."""
    pair = our_server(alpn=["spdy"])
    pair.start()
    pair.run(1.0)
    assert_closed(pair, NO_APPLICATION_PROTOCOL, established=False)


# -- frames ----------------------------------------------------------------------------------------

SERVER_UNI, SERVER_BIDI = 3, 1  # streams that only the server may open
FRAMES: dict[str, tuple[bytes, int]] = {
    # RFC 9000 §4.1
    "STREAM beyond the stream's window": (stream_frame(0, STREAM_WINDOW, b"x"), FLOW),
    "STREAM beyond the connection's window": (
        stream_frame(0, STREAM_WINDOW - 1, b"x") + stream_frame(4, STREAM_WINDOW - 1, b"x"),
        FLOW,
    ),
    "RESET_STREAM beyond the stream's window": (frame(0x04, 0, 0, STREAM_WINDOW + 1), FLOW),
    "RESET_STREAM beyond the connection's window": (
        frame(0x04, 0, 0, STREAM_WINDOW) + frame(0x04, 4, 0, STREAM_WINDOW),
        FLOW,
    ),
    # §4.6
    "STREAM over the limit": (stream_frame(4 * STREAMS, 0, b"x"), STREAM_LIMIT),
    "STREAM over the limit, one-way": (stream_frame(4 * STREAMS + 2, 0, b"x"), STREAM_LIMIT),
    "STREAM with the largest ID": (stream_frame(MAX_VARINT - 3, 0, b"x"), STREAM_LIMIT),
    "RESET_STREAM over the limit": (frame(0x04, 4 * STREAMS, 0, 0), STREAM_LIMIT),
    "STOP_SENDING over the limit": (frame(0x05, 4 * STREAMS, 0), STREAM_LIMIT),
    "MAX_STREAM_DATA over the limit": (frame(0x11, 4 * STREAMS, 9), STREAM_LIMIT),
    "STREAM_DATA_BLOCKED over the limit": (frame(0x15, 4 * STREAMS, 9), STREAM_LIMIT),
    # §4.5
    "STREAM behind the end": (
        stream_frame(0, 0, b"abc", fin=True) + stream_frame(0, 3, b"d"),
        FINAL_SIZE,
    ),
    "the end moved": (
        stream_frame(0, 5, b"", fin=True) + stream_frame(0, 4, b"", True),
        FINAL_SIZE,
    ),
    "the end before what came": (
        stream_frame(0, 0, b"abc") + stream_frame(0, 1, b"", True),
        FINAL_SIZE,
    ),
    "RESET_STREAM below what came": (stream_frame(0, 0, b"abc") + frame(0x04, 0, 0, 2), FINAL_SIZE),
    "RESET_STREAM with another end": (
        stream_frame(0, 2, b"c", fin=True) + frame(0x04, 0, 0, 9),
        FINAL_SIZE,
    ),
    # §12.4, §19
    "frame type 0x20": (frame(0x20), FRAME_ENCODING),
    "frame type 2^62-1": (frame(MAX_VARINT), FRAME_ENCODING),
    "MAX_STREAMS 2^60+1": (frame(0x12, (1 << 60) + 1), FRAME_ENCODING),
    "MAX_STREAMS 2^60+1, one-way": (frame(0x13, (1 << 60) + 1), FRAME_ENCODING),
    "STREAMS_BLOCKED 2^60+1": (frame(0x16, (1 << 60) + 1), FRAME_ENCODING),
    "STREAMS_BLOCKED 2^60+1, one-way": (frame(0x17, (1 << 60) + 1), FRAME_ENCODING),
    "NEW_CONNECTION_ID that retires later ones": (
        frame(0x18, 8, 9, bytes([8]), bytes(8), bytes(16)),
        FRAME_ENCODING,
    ),
    "NEW_CONNECTION_ID without an ID": (frame(0x18, 8, 0, bytes([0]), bytes(16)), FRAME_ENCODING),
    "NEW_CONNECTION_ID of 21 bytes": (
        frame(0x18, 8, 0, bytes([21]), bytes(21), bytes(16)),
        FRAME_ENCODING,
    ),
    "STREAM beyond 2^62": (stream_frame(0, MAX_VARINT, b"x"), FRAME_ENCODING),
    "ACK below 0": (frame(0x02, 1, 0, 0, 5), FRAME_ENCODING),
    "cut STREAM": (frame(0x0A, 0, 100, b"x"), FRAME_ENCODING),
    "cut CRYPTO": (frame(0x06, 0, 100, b"x"), FRAME_ENCODING),
    "cut NEW_CONNECTION_ID": (frame(0x18, 8, 0, bytes([8]), bytes(8)), FRAME_ENCODING),
    "cut PATH_CHALLENGE": (frame(0x1A, bytes(7)), FRAME_ENCODING),
    "cut CONNECTION_CLOSE": (frame(0x1C, 1, 0, 50, b"x"), FRAME_ENCODING),
    "cut ACK": (frame(0x02, 0, 0, 3, 0), FRAME_ENCODING),
    # §12.4, §19.7, §19.20
    "packet without frames": (b"", VIOLATION),
    "NEW_TOKEN from a client": (frame(0x07, 3, b"abc"), VIOLATION),
    "HANDSHAKE_DONE from a client": (frame(0x1E), VIOLATION),
    "ACK of a packet never sent": (frame(0x02, 1 << 20, 0, 0, 0), VIOLATION),
    "RETIRE_CONNECTION_ID of an ID never given": (frame(0x19, 99), VIOLATION),
    "RETIRE_CONNECTION_ID of the ID it came to": (frame(0x19, 0), VIOLATION),
    # §5.1.1
    "too many connection IDs": (
        b"".join(frame(0x18, 10 + n, 0, bytes([8]), bytes([n] * 8), bytes(16)) for n in range(9)),
        ID_LIMIT,
    ),
    # §19.4, §19.5, §19.8, §19.10, §19.13
    "RESET_STREAM on a send-only stream": (frame(0x04, SERVER_UNI, 0, 0), STREAM_STATE),
    "STREAM on a send-only stream": (stream_frame(SERVER_UNI, 0, b"x"), STREAM_STATE),
    "STREAM_DATA_BLOCKED on a send-only stream": (frame(0x15, SERVER_UNI, 0), STREAM_STATE),
    "STREAM on one not created": (stream_frame(SERVER_BIDI, 0, b"x"), STREAM_STATE),
    "RESET_STREAM on one not created": (frame(0x04, SERVER_BIDI, 0, 0), STREAM_STATE),
    "STOP_SENDING on one not created": (frame(0x05, SERVER_BIDI, 0), STREAM_STATE),
    "STOP_SENDING on one not created, one-way": (frame(0x05, SERVER_UNI, 0), STREAM_STATE),
    "MAX_STREAM_DATA on one not created": (frame(0x11, SERVER_BIDI, 9), STREAM_STATE),
    "MAX_STREAM_DATA on one not created, one-way": (frame(0x11, SERVER_UNI, 9), STREAM_STATE),
    "STOP_SENDING on a receive-only stream": (frame(0x05, 2, 0), STREAM_STATE),
    "MAX_STREAM_DATA on a receive-only stream": (frame(0x11, 2, 9), STREAM_STATE),
    # RFC 9001 §6
    "TLS KeyUpdate": (frame(0x06, 0, len(KEY_UPDATE), KEY_UPDATE), UNEXPECTED_MESSAGE),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_in_1_rtt_packets(name: str) -> None:
    payload, code = FRAMES[name]
    pair = our_server(CONFIG).handshake()
    pair.inject(pair.client, payload)
    assert_closed(pair, code)


@pytest.mark.parametrize("bits", [0x08, 0x10, 0x18])
def test_reserved_bits_in_1_rtt_packets(bits: int) -> None:
    """RFC 9000 §17.3.1."""
    pair = our_server(CONFIG).handshake()
    pair.inject(pair.client, frame(0x01), bits=bits)
    assert_closed(pair, VIOLATION)


def test_a_server_that_takes_no_datagrams() -> None:
    """RFC 9221 §3."""
    pair = our_server(Config(datagram_receive_buffer_size=None)).handshake()
    pair.inject(pair.client, frame(0x31, 1, b"x"))
    assert_closed(pair, VIOLATION)


@pytest.mark.plain_only  # it is larger than what a UDP datagram can hold
def test_a_datagram_larger_than_was_allowed() -> None:
    pair = our_server().handshake()
    pair.inject(pair.client, frame(0x30, bytes(65535)))
    assert_closed(pair, VIOLATION)


def test_datagrams_up_to_the_limit_are_taken() -> None:
    pair = our_server().handshake()
    pair.inject(pair.client, frame(0x30, bytes(60_000)))
    pair.inject(pair.client, frame(0x31, 0), frame(0x30))
    assert pair.server.read_datagrams(5) == [bytes(60_000), b"", b""]


# -- other packet number spaces --------------------------------------------------------------------


def in_handshake() -> Pair:
    """The client has Handshake keys, and the server has had nothing from it but its Initial."""
    pair = our_server(CONFIG)
    pair.start()
    client = pair.client
    pair.keep = lambda source, data: source is not client
    pair.run_until(lambda: client._cryptos[Epoch.HANDSHAKE].send.is_valid())
    pair.keep = None
    assert not pair.server.handshake_done
    return pair


HANDSHAKE: dict[str, tuple[bytes, int, int]] = {
    "packet without frames": (b"", 0, VIOLATION),
    "reserved bits": (frame(0x01), 0x04, VIOLATION),
    "PATH_CHALLENGE": (frame(0x1A, bytes(8)), 0, VIOLATION),
    "PATH_RESPONSE": (frame(0x1B, bytes(8)), 0, VIOLATION),
    "STREAM": (stream_frame(0, 0, b"x"), 0, VIOLATION),
    "DATAGRAM": (frame(0x31, 1, b"x"), 0, VIOLATION),
    "NEW_TOKEN": (frame(0x07, 1, b"x"), 0, VIOLATION),
    "HANDSHAKE_DONE": (frame(0x1E), 0, VIOLATION),
    "application close": (frame(0x1D, 5, 0), 0, VIOLATION),
    "MAX_DATA": (frame(0x10, 5), 0, VIOLATION),
    "NEW_CONNECTION_ID": (frame(0x18, 8, 0, bytes([8]), bytes(8), bytes(16)), 0, VIOLATION),
    "RETIRE_CONNECTION_ID": (frame(0x19, 0), 0, VIOLATION),
    "frame type 0x20": (frame(0x20), 0, FRAME_ENCODING),
    "TLS KeyUpdate": (frame(0x06, 0, len(KEY_UPDATE), KEY_UPDATE), 0, UNEXPECTED_MESSAGE),
    "ACK of a packet never sent": (frame(0x02, 1 << 20, 0, 0, 0), 0, VIOLATION),
}


@pytest.mark.parametrize("name", HANDSHAKE)
def test_frames_in_handshake_packets(name: str) -> None:
    """RFC 9000 §12.4, §17.2.4."""
    payload, bits, code = HANDSHAKE[name]
    pair = in_handshake()
    pair.inject(pair.client, payload, epoch=Epoch.HANDSHAKE, bits=bits)
    assert_closed(pair, code, established=False)


@pytest.mark.parametrize("name", ["PATH_CHALLENGE", "STREAM", "DATAGRAM", "HANDSHAKE_DONE"])
def test_frames_in_initial_packets(name: str) -> None:
    payload, _, code = HANDSHAKE[name]
    pair = our_server(CONFIG)
    pair.start()
    pair.run_until(lambda: bool(pair.server._network_paths))
    pair.deliver(pair.server, seal(pair.client, payload + bytes(1200), Epoch.INITIAL))
    assert_closed(pair, code, established=False)


def with_early_keys() -> Pair:
    """Both ends have 0-RTT keys, as if the server had given a ticket, which it does not."""
    pair = in_handshake()
    for connection, direction in (
        (pair.client, Direction.ENCRYPT),
        (pair.server, Direction.DECRYPT),
    ):
        connection._update_traffic_key(
            direction, Epoch.ZERO_RTT, CipherSuite.AES_128_GCM_SHA256, bytes(32)
        )
    return pair


@pytest.mark.plain_only  # the fast connection has no 0-RTT keys: it drops these packets
@pytest.mark.parametrize(
    "payload",
    [
        frame(0x06, 0, 1, b"x"),
        frame(0x02, 0, 0, 0, 0),
        frame(0x07, 1, b"x"),
        frame(0x1E),
    ],
    ids=["CRYPTO", "ACK", "NEW_TOKEN", "HANDSHAKE_DONE"],
)
def test_frames_in_0_rtt_packets(payload: bytes) -> None:
    """RFC 9000 §12.4, §12.5."""
    pair = with_early_keys()
    pair.inject(pair.client, payload, epoch=Epoch.ZERO_RTT)
    assert_closed(pair, VIOLATION, established=False)


def test_0_rtt_packets_without_keys_are_dropped() -> None:
    pair = with_early_keys()
    pair.server._cryptos[Epoch.ZERO_RTT].teardown()
    pair.inject(pair.client, frame(0x06, 0, 1, b"x"), epoch=Epoch.ZERO_RTT)
    assert pair.server.close_reason is None
    pair.run_until(lambda: pair.server.handshake_done)


# -- what must not close ---------------------------------------------------------------------------

HARMLESS = {
    "garbage": bytes(range(64)) * 20,
    "one byte": b"\x40",
    "a long header that ends": bytes([0xC0, 0, 0, 0, 1, 8]),
    "an unknown version": bytes([0xC0])
    + b"abcd"
    + bytes([8])
    + bytes(8)
    + bytes([0])
    + bytes(1200),
    "a Version Negotiation": bytes([0xC0, 0, 0, 0, 0, 8]) + bytes(8) + bytes([0]) + bytes(1200),
    "a long connection ID": bytes([0xC0, 0, 0, 0, 1, 255]) + bytes(1200),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_bytes_that_are_no_packet_are_dropped(name: str) -> None:
    pair = our_server(CONFIG).handshake()
    pair.deliver(pair.server, HARMLESS[name])
    assert pair.server.close_reason is None
    assert transfer(pair, pair.client, b"x" * 500) == b"x" * 500


def test_a_packet_that_was_changed_on_its_way_is_dropped() -> None:
    pair = our_server(CONFIG).handshake()
    packet = seal(pair.client, stream_frame(0, 0, b"hello"))
    for at in range(1, len(packet)):
        changed = packet[:at] + bytes([packet[at] ^ 1]) + packet[at + 1 :]
        pair.deliver(pair.server, changed)
    assert not views.streams(pair.server) and pair.server.close_reason is None
    pair.deliver(pair.server, packet)
    pair.deliver(pair.server, packet)  # a replay changes nothing
    assert pair.server.streams.read(0, 100) == b"hello" and pair.server.streams.read(0, 100) is None


def test_garbage_behind_a_packet_is_dropped() -> None:
    """RFC 9000 §12.2: other packets in a datagram, and what is none."""
    pair = in_handshake()
    packet = seal(pair.client, frame(0x01), Epoch.HANDSHAKE)
    other = bytes([0xE0, 0, 0, 0, 1, 8]) + bytes(8) + bytes([0]) + bytes(200)
    for behind in (b"\0", bytes(100), other, b"\xff" * 50):
        pair.deliver(pair.server, packet + behind)
        assert pair.server.close_reason is None
    pair.run_until(lambda: pair.server.handshake_done)
