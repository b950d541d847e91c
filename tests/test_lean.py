"""The compiled helpers under aioquic's control plane do what aioquic's own do.

Each is held against the function or class of aioquic that it stands for, which is the oracle here.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest
from aioquic import tls
from aioquic.buffer import Buffer, encode_uint_var
from aioquic.quic import connection as aioquic_connection
from aioquic.quic.crypto import CryptoError, CryptoPair, KeyUnavailableError
from aioquic.quic.packet import (
    QuicFrameType,
    QuicPacketType,
    QuicPreferredAddress,
    QuicProtocolVersion,
    QuicTransportParameters,
    QuicVersionInformation,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
    pull_quic_transport_parameters,
    push_quic_transport_parameters,
)
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

if os.environ.get("RAWQUIC_BACKEND") == "python":
    pytest.skip("this run is for the Python backend", allow_module_level=True)
if importlib.util.find_spec("rawquic._fastpath") is None:
    pytest.skip("the compiled data plane was not built", allow_module_level=True)

from rawquic import _fastpath
from rawquic.connection import lean
from rawquic.connection.handshake_keys import HandshakeKeys
from rawquic.connection.rebound import names_of

SUITES = [
    tls.CipherSuite.AES_128_GCM_SHA256,
    tls.CipherSuite.AES_256_GCM_SHA384,
    tls.CipherSuite.CHACHA20_POLY1305_SHA256,
]
VERSIONS = [QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2]
CID = bytes(range(8))


# -- key derivation --------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384()], ids=lambda a: a.name)
@pytest.mark.parametrize("label", [b"derived", b"s hs traffic", b""])
def test_expand_label(algorithm: Any, label: bytes) -> None:
    for length in (1, 12, 16, algorithm.digest_size):
        for secret, context in ((bytes(48), b""), (b"secret", bytes(range(32)))):
            expected = tls.hkdf_expand_label(algorithm, secret, label, context, length)
            assert _fastpath.hkdf_expand_label(algorithm.name, secret, label, context, length) == (
                expected
            )


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384()], ids=lambda a: a.name)
def test_extract(algorithm: Any) -> None:
    for salt, material in ((b"", bytes(32)), (bytes(48), b"key"), (b"salt", bytes(200))):
        expected = tls.hkdf_extract(algorithm, salt, material)
        assert _fastpath.hkdf_extract(algorithm.name, salt, material) == expected


def test_what_cannot_be_derived_is_refused() -> None:
    with pytest.raises(ValueError, match="'md5'"):
        _fastpath.hkdf_extract("md5", b"", b"")
    for length in (0, 33, -1):
        with pytest.raises(ValueError, match="length"):
            _fastpath.hkdf_expand_label("sha256", bytes(32), b"key", b"", length)
    for label, context in ((bytes(250), b""), (b"", bytes(256))):
        with pytest.raises(ValueError, match="255"):
            _fastpath.hkdf_expand_label("sha256", bytes(32), label, context, 16)


# -- packet protection -----------------------------------------------------------------------------


def secret_of(suite: Any) -> bytes:
    return bytes(range(48 if suite is tls.CipherSuite.AES_256_GCM_SHA384 else 32))


def pairs(suite: Any, version: int) -> tuple[CryptoPair, HandshakeKeys]:
    """aioquic's and ours, both directions under one secret."""
    stock, lean_pair = CryptoPair(), HandshakeKeys()
    for each in (stock.send, stock.recv, lean_pair.send, lean_pair.recv):
        each.setup(cipher_suite=suite, secret=secret_of(suite), version=version)
    return stock, lean_pair


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("suite", SUITES)
def test_packets_are_the_same(suite: Any, version: int) -> None:
    stock, ours = pairs(suite, version)
    for size, number in ((1, 0), (2, 300), (3, 70_000), (4, 1 << 24)):
        header = bytes([0xE0 | size - 1]) + bytes(20) + number.to_bytes(4, "big")[-size:]
        for payload in (bytes(4), bytes(range(256)) * 4):
            packet = ours.encrypt_packet(header, payload, number)
            assert packet == stock.encrypt_packet(header, payload, number)
            opened = (header, payload, number)
            assert ours.decrypt_packet(packet, 21, number) == opened
            assert stock.decrypt_packet(packet, 21, number) == opened


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("is_client", [False, True])
def test_initial_keys(is_client: bool, version: int) -> None:
    stock, ours, peer = CryptoPair(), HandshakeKeys(), HandshakeKeys()
    assert not ours.send.is_valid() and not ours.recv.is_valid()
    stock.setup_initial(CID, is_client, version)
    ours.setup_initial(CID, is_client, version)
    peer.setup_initial(CID, not is_client, version)
    assert ours.send.is_valid() and ours.recv.is_valid()
    header = b"\xc1" + bytes(20) + bytes([0, 5])
    packet = ours.encrypt_packet(header, bytes(50), 5)
    assert packet == stock.encrypt_packet(header, bytes(50), 5)
    assert peer.decrypt_packet(packet, 21, 5) == (header, bytes(50), 5)


def test_what_does_not_open_is_aioquics_error() -> None:
    _, ours = pairs(SUITES[0], VERSIONS[0])
    header = b"\xe1" + bytes(20) + bytes(2)
    packet = ours.encrypt_packet(header, bytes(30), 0)
    for place in range(len(packet)):
        forged = bytearray(packet)
        forged[place] ^= 1
        with pytest.raises(CryptoError):
            ours.decrypt_packet(bytes(forged), 21, 0)
    for end in range(len(packet)):
        with pytest.raises(CryptoError):
            ours.decrypt_packet(packet[:end], 21, 0)
    ours.teardown()
    assert not ours.recv.is_valid() and not ours.send.is_valid()
    with pytest.raises(KeyUnavailableError):
        ours.decrypt_packet(packet, 21, 0)
    with pytest.raises(AssertionError):
        ours.encrypt_packet(header, bytes(30), 0)


def test_a_torn_down_pair_derives_nothing_any_more() -> None:
    ours = HandshakeKeys()
    ours.setup_initial(CID, True, 1)
    ours.teardown()
    with pytest.raises(KeyUnavailableError):
        ours.decrypt_packet(bytes(100), 21, 0)


def test_a_packet_without_room_for_a_sample_is_refused() -> None:
    key = _fastpath.derive_packet_key("aes-128-gcm", bytes(32), b"quic ")
    with pytest.raises(ValueError, match="short"):
        _fastpath.protect_packet(key, b"\xc0" + bytes(1), b"12", 0)
    with pytest.raises(ValueError, match="cannot"):
        _fastpath.protect_packet(key, b"", bytes(50), 0)
    for at in (0, -1, 90, 1 << 40):
        with pytest.raises(ValueError, match="short"):
            _fastpath.unprotect_packet(key, bytes(100), at, 0)


# -- headers ---------------------------------------------------------------------------------------


def initial(version: int, token: bytes = b"", kind: int = 0, rest: int = 30) -> bytes:
    bits = (kind + (version == QuicProtocolVersion.VERSION_2)) & 3
    head = bytes([0xC1 | bits << 4]) + version.to_bytes(4, "big") + b"\x08" + CID + b"\x02ab"
    if kind == 0:
        head += encode_uint_var(len(token)) + token
    return head + encode_uint_var(rest) + bytes(rest)


HEADERS = [
    *(initial(version, kind=kind) for version in VERSIONS for kind in range(3)),
    initial(1, b"token" * 20, rest=1200),
    encode_quic_retry(1, CID, b"ab", b"odcid", b"token"),
    encode_quic_version_negotiation(source_cid=CID, destination_cid=b"ab", supported_versions=[1]),
    b"\x41" + CID + bytes(30),
]


def read(pull: Callable[..., Any], data: bytes) -> Any:
    buffer = Buffer(data=data)
    try:
        header = pull(buffer, host_cid_length=8)
    except ValueError:
        return None
    names = ("version", "packet_type", "packet_length", "destination_cid", "source_cid", "token")
    return [getattr(header, name) for name in names], buffer.tell()


@pytest.mark.parametrize("data", HEADERS, ids=lambda data: data[:5].hex())
def test_headers_are_read_alike(data: bytes) -> None:
    assert read(lean._pull_header, data) == read(pull_quic_header, data) is not None
    for end in range(1, len(data)):
        assert read(lean._pull_header, data[:end]) == read(pull_quic_header, data[:end])


@given(st.sampled_from(HEADERS), st.integers(0, 60), st.integers(0, 255))
def test_damaged_headers_are_read_alike(data: bytes, place: int, value: int) -> None:
    damaged = bytearray(data)
    damaged[place % len(data)] = value
    assert read(lean._pull_header, bytes(damaged)) == read(pull_quic_header, bytes(damaged))


def test_a_header_outside_of_the_datagram_is_none() -> None:
    for start in (-1, 5, 1 << 40):
        assert _fastpath.packet_header(bytes(4), start, lean.PACKET_TYPES) is None


# -- TLS messages ----------------------------------------------------------------------------------


def test_messages_are_written_alike() -> None:
    hello = tls.ClientHello(
        random=bytes(32),
        legacy_session_id=b"",
        cipher_suites=[0x1301],
        legacy_compression_methods=[0],
        alpn_protocols=["perf", "h3"],
        key_share=[(0x1D, bytes(32))],
        server_name="localhost",
        signature_algorithms=[0x0403],
        supported_groups=[0x1D],
        supported_versions=[0x0304],
        other_extensions=[(0x39, b"parameters"), (1234, b"")],
    )
    written = Buffer(capacity=1000), Buffer(capacity=1000)
    tls.push_client_hello(written[0], hello)
    lean.TLS["push_client_hello"](written[1], hello)
    assert written[0].data == written[1].data
    assert lean.TLS["pull_client_hello"](Buffer(data=written[1].data)) == hello


def client_hello() -> bytes:
    context = tls.Context(is_client=True, alpn_protocols=["perf"], server_name="localhost")
    buffers = {epoch: Buffer(capacity=4096) for epoch in tls.Epoch}
    context.handle_message(b"", buffers)
    return buffers[tls.Epoch.INITIAL].data


CLIENT_HELLO = client_hello()


@given(st.integers(0, len(CLIENT_HELLO) - 1), st.integers(0, 255))
def test_damaged_messages_are_the_same_alert(place: int, value: int) -> None:
    damaged = bytearray(CLIENT_HELLO)
    damaged[place] = value
    results = []
    for pull in (tls.pull_client_hello, lean.TLS["pull_client_hello"]):
        try:
            results.append(pull(Buffer(data=bytes(damaged))))
        except Exception as error:
            results.append((type(error), str(error)))
    assert results[0] == results[1]


def test_a_block_that_breaks_off_writes_no_length() -> None:
    buffer = Buffer(capacity=10)
    with pytest.raises(KeyError), _fastpath.PushBlock(buffer, 2):
        raise KeyError
    assert buffer.tell() == 2


# -- transport parameters --------------------------------------------------------------------------

PARAMETERS = QuicTransportParameters(
    original_destination_connection_id=CID,
    max_idle_timeout=30_000,
    stateless_reset_token=bytes(16),
    max_udp_payload_size=65527,
    initial_max_data=1 << 40,
    initial_max_streams_uni=0,
    ack_delay_exponent=3,
    active_connection_id_limit=4,
    initial_source_connection_id=b"",
    version_information=QuicVersionInformation(1, [1, 0x6B3343CF]),
    max_datagram_frame_size=65535,
)


def encoded(**values: Any) -> bytes:
    buffer = Buffer(capacity=4096)
    push_quic_transport_parameters(
        buffer, QuicTransportParameters(**{**vars(PARAMETERS), **values})
    )
    return buffer.data


PREFERRED = QuicPreferredAddress(("192.0.2.1", 443), None, CID, bytes(16))
EXTENSIONS = [
    b"",
    encoded(),
    encoded(disable_active_migration=True, quantum_readiness=b"x"),
    encoded(preferred_address=PREFERRED),
    encoded() + encode_uint_var(27 + 31 * 1000) + b"\x03abc",
]
VERSIONS_CUT = [bytes((0x11, size)) + bytes((0, 0, 0, 1)) * 2 + bytes(2) for size in (3, 5, 9, 10)]


def parameters_of(pull: Callable[[Buffer], Any], data: bytes) -> Any:
    try:
        return pull(Buffer(data=data))
    except ValueError:
        return None


@pytest.mark.parametrize("data", EXTENSIONS)
def test_parameters_are_read_alike(data: bytes) -> None:
    read = parameters_of(lean._pull_parameters, data)
    assert read == parameters_of(pull_quic_transport_parameters, data) is not None


@pytest.mark.parametrize("data", VERSIONS_CUT)
def test_versions_that_are_cut_off_are_none(data: bytes) -> None:
    data = data[: 2 + data[1]]
    assert parameters_of(pull_quic_transport_parameters, data) is None
    assert parameters_of(lean._pull_parameters, data) is None


@given(st.sampled_from(EXTENSIONS[1:]), st.integers(0, 200), st.integers(0, 255))
def test_damaged_parameters_are_read_alike(data: bytes, place: int, value: int) -> None:
    damaged = bytearray(data)
    damaged[place % len(data)] = value
    read = parameters_of(lean._pull_parameters, bytes(damaged))
    if read is None:  # also for what stands twice, which aioquic takes
        try:
            _fastpath.transport_parameters(bytes(damaged))
        except ValueError as error:
            if "twice" in str(error):
                return
    assert read == parameters_of(pull_quic_transport_parameters, bytes(damaged))


# -- packets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flight", [None, 1400, 300, 60, 30])
@pytest.mark.parametrize("total", [None, 3600, 1300, 100])
@pytest.mark.parametrize("is_client", [False, True])
def test_the_builder_builds_the_same(is_client: bool, total: int | None, flight: Any) -> None:
    """A server's first flight, and a client's: CRYPTO data over several datagrams, then ACKs."""
    assert build(QuicPacketBuilder, is_client, total, flight) == build(
        lean.LeanPacketBuilder, is_client, total, flight
    )


def builder_of(kind: Any, is_client: bool) -> Any:
    return kind(
        host_cid=CID,
        peer_cid=b"peer",
        version=1,
        is_client=is_client,
        max_datagram_size=1280,
        packet_number=7,
        peer_token=b"token",
    )


def build(kind: Any, is_client: bool, total: int | None, flight: int | None) -> Any:
    _, crypto = pairs(SUITES[0], VERSIONS[0])
    builder = builder_of(kind, is_client)
    builder.max_total_bytes, builder.max_flight_bytes = total, flight
    seen: list[Any] = []
    initial, handshake = QuicPacketType.INITIAL, QuicPacketType.HANDSHAKE
    try:
        for packet_type, frame, size in (
            (initial, QuicFrameType.ACK, 5),
            (initial, QuicFrameType.CRYPTO, 90),
            (handshake, QuicFrameType.CRYPTO, 500),
            (handshake, QuicFrameType.PING, 0),
            (handshake, QuicFrameType.PADDING, 0),
            (initial, None, 0),
            (handshake, QuicFrameType.CRYPTO, 1100),
            (handshake, QuicFrameType.TRANSPORT_CLOSE, 20),
        ):
            builder.start_packet(packet_type, crypto)
            seen += [builder.packet_is_empty, builder.packet_number]
            if frame is not None:
                buffer = builder.start_frame(frame, size + 1, print, (1,))
                buffer.push_bytes(bytes(size))
            seen += [builder.packet_is_empty, builder.remaining_buffer_space]
            seen += [builder.remaining_flight_space, builder.quic_logger_frames]
    except QuicPacketBuilderStop:
        seen.append("stop")
    datagrams, packets = builder.flush()
    names = ("epoch", "in_flight", "is_ack_eliciting", "is_crypto_packet", "packet_number")
    names += ("packet_type", "sent_time", "sent_bytes", "delivery_handlers", "quic_logger_frames")
    told = [[getattr(packet, name) for name in names] for packet in packets]
    return seen, datagrams, told, builder.packet_number, builder.flush()


# -- how aioquic finds them ------------------------------------------------------------------------


def test_aioquic_itself_is_as_it_was() -> None:
    assert tls.push_block is not _fastpath.PushBlock
    assert aioquic_connection.QuicConnection.__init__.__globals__ is vars(aioquic_connection)
    assert aioquic_connection.CryptoPair is CryptoPair


def test_methods_of_aioquic_look_things_up_elsewhere() -> None:
    for cls in (lean.LeanConnection, lean.LeanContext, lean.LeanKeySchedule):
        (base,) = cls.__bases__
        for name, value in vars(base).items():
            if callable(value) and hasattr(value, "__code__"):
                copy = vars(cls)[name]
                assert copy.__code__ is value.__code__ and copy.__globals__ is not value.__globals__
                assert copy.__kwdefaults__ == value.__kwdefaults__
                assert copy.__defaults__ == value.__defaults__


def test_a_name_that_aioquic_does_not_have_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        names_of(tls, no_such_name=1)


def test_a_frame_needs_a_packet() -> None:
    builder = builder_of(lean.LeanPacketBuilder, True)
    with pytest.raises(RuntimeError, match="start_packet"):
        builder.start_frame(QuicFrameType.CRYPTO, 1, print, (1,))
