"""What rawquic adds to aioquic's control plane, whichever data plane carries it.

Connection IDs and reset tokens that the endpoint can route and recompute, transport parameters as
`Config` says, the peer's as it sent them, close reasons, and bounds that aioquic leaves open.
It never touches stream data.
"""

import hmac
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionId,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.tls import AlertDescription, Epoch, Group
from cryptography import x509

from ..certificates import fingerprint
from ..config import Config
from ..errors import CertificateInvalid, ClosedLocally, SessionError
from ..qlog import QlogTrace
from . import parameters
from .closing import closed_by_peer, closed_by_this_end
from .interface import Address, Event, EventTuple

logger = logging.getLogger("rawquic")

CONNECTION_ID_LENGTH = 8
MAX_PACKET = 16383  # aioquic writes the length of packets and of STREAM frames in two bytes
# Out of order per space (aioquic's own bound is eight times that), and in one TLS message.
MAX_CRYPTO_BYTES = 65536
MAX_REASON_BYTES = 900  # fits a 1,200-byte datagram behind Initial and Handshake packets
MAX_ALERT_BYTES = 256  # of the reason phrase of a transport close
ACTIVE_IDS = 4  # of the peer's that are kept (RFC 9000 §5.1.1); each costs a frame and its handling
# Frames that cost work and carry nothing: a peer may send so many at once, and so many a second.
GLITCH_BURST, GLITCH_RATE = 10_000, 330
# A client makes a key for each group that it offers. Each TLS 1.3 server has P-256 (RFC 8446 §9.1),
# most take X25519, which costs both ends least.
CLIENT_GROUPS = (Group.X25519, Group.SECP256R1)
GLITCH_FRAMES = (0x01, 0x04, 0x05, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A)


class ControlPlane(QuicConnection):
    """aioquic's connection with our connection IDs, parameters, bounds and close reasons.

    Args:
        new_connection_id: draws a connection ID that the endpoint does not route yet.
        reset_token: the stateless reset token of a connection ID (RFC 9000 §10.3.2).
        pins: accepted SHA-256 fingerprints of the peer's certificate; empty: no pinning.
    """

    def __init__(
        self,
        *,
        config: Config,
        configuration: QuicConfiguration,
        new_connection_id: Callable[[], bytes],
        reset_token: Callable[[bytes], bytes],
        pins: frozenset[bytes] = frozenset(),
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._max_datagram_size = min(self._max_datagram_size, MAX_PACKET)
        self.config = config
        self.close_reason: SessionError | None = None
        self.handshake_done = False
        self.peer_max_udp_payload = 65527  # RFC 9000 §18.2: the default
        self._new_connection_id = new_connection_id
        self._reset_token = reset_token
        self._pins = pins
        self._id_changes: list[tuple[bytes, bool]] = []
        self._session_events: dict[EventTuple, None] = {}  # an ordered set
        self._peer_reason = b""
        self._local_reason = b""
        self._glitches = float(GLITCH_BURST)
        self._glitch_time = 0.0
        self._last_sent = -math.inf

        # Before the transport parameters are written: IDs that the endpoint can route, reset
        # tokens that it can recompute, and limits from the configuration.
        first = self._host_cids[0]
        first.cid = new_connection_id()
        if not self._is_client:
            first.stateless_reset_token = reset_token(first.cid)
        self.host_cid = self._local_initial_source_connection_id = first.cid
        self._id_changes.append((first.cid, True))
        self._local_active_connection_id_limit = ACTIVE_IDS
        self._ack_delay = 0.0  # one ACK per receive batch; the endpoint flushes after each
        for limit, count in (
            (self._local_max_streams_bidi, config.max_concurrent_bidi_streams),
            (self._local_max_streams_uni, config.max_concurrent_uni_streams),
        ):
            limit.value = limit.sent = count
        handlers = self._QuicConnection__frame_handlers  # type: ignore[attr-defined]
        for frame_type in GLITCH_FRAMES:
            handler, epochs = handlers[frame_type]
            handlers[frame_type] = (partial(self._on_glitch, handler), epochs)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self._is_client:
            self.tls._supported_groups = list(CLIENT_GROUPS)

    # -- connection IDs ------------------------------------------------------------------------

    def take_id_changes(self) -> list[tuple[bytes, bool]]:
        """(connection ID, True: route it here, False: no more) since the last call."""
        changes, self._id_changes = self._id_changes, []
        return changes

    def connection_id(self) -> bytes:
        return self.original_destination_connection_id

    def is_reset_token(self, token: bytes) -> bool:
        """True when `token` is one that the peer gave for an ID in use (RFC 9000 §10.3.1)."""
        reserved = [path.peer_cid for path in self._network_paths if path.peer_cid is not None]
        known = [self._peer_cid, *self._peer_cid_available, *reserved]
        # Compare with each, in constant time, so that timing tells nothing about them.
        matches = [
            hmac.compare_digest(each.stateless_reset_token, token)
            for each in known
            if each.stateless_reset_token
        ]
        return any(matches)

    def _replenish_connection_ids(self) -> None:
        # aioquic draws both at random; ours can be routed, and recomputed after a restart.
        while len(self._host_cids) < min(8, self._remote_active_connection_id_limit):
            cid = self._new_connection_id()
            self._host_cids.append(
                QuicConnectionId(
                    cid=cid,
                    sequence_number=self._host_cid_seq,
                    stateless_reset_token=self._reset_token(cid),
                )
            )
            self._host_cid_seq += 1
            self._id_changes.append((cid, True))

    # -- transport parameters ------------------------------------------------------------------

    _parameter_values = staticmethod(parameters.values)

    def _serialize_transport_parameters(self) -> bytes:
        return parameters.encode(self, self.config)

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        try:
            received = self._parameter_values(data)
        except ValueError as error:
            raise QuicConnectionError(
                error_code=QuicErrorCode.TRANSPORT_PARAMETER_ERROR,
                frame_type=QuicFrameType.CRYPTO,
                reason_phrase=str(error),
            ) from None
        exponent = received.get(parameters.ACK_DELAY_EXPONENT)
        if isinstance(exponent, int):
            self._remote_ack_delay_exponent = exponent
        if self._remote_max_idle_timeout == 0:
            self._remote_max_idle_timeout = None  # RFC 9000 §10.1: 0 is no limit
        size = received.get(parameters.MAX_UDP_PAYLOAD_SIZE)
        if isinstance(size, int):
            self.peer_max_udp_payload = size
            self._max_datagram_size = min(self._max_datagram_size, max(size, 1200))

    def _idle_timeout(self) -> float:
        local = self.config.max_idle_timeout
        limits = [t for t in (local, self._remote_max_idle_timeout) if t is not None]
        # RFC 9000 §10.1: at least three probe timeouts, so that a loss can be repaired.
        return max(min(limits), 3 * self._loss.get_probe_timeout()) if limits else math.inf

    def packet_refused(self, size: int, now: float) -> bool:
        if not 1200 < size <= self._max_datagram_size:
            return False
        self._max_datagram_size = 1200  # what every path carries: RFC 9000 §14
        return True

    # -- bounds on the peer --------------------------------------------------------------------

    def _on_glitch(
        self,
        handler: Callable[..., None],
        context: QuicReceiveContext,
        frame_type: int,
        buf: Buffer,
    ) -> None:
        self._count_glitch(context.time, frame_type)
        handler(context, frame_type, buf)

    def _count_glitch(self, now: float, frame_type: int) -> None:
        gained = (now - self._glitch_time) * GLITCH_RATE
        self._glitches = min(float(GLITCH_BURST), self._glitches + gained) - 1.0
        self._glitch_time = now
        if self._glitches < 0:
            raise QuicConnectionError(
                error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type=frame_type,
                reason_phrase="too many frames that carry nothing",
            )

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        if buf.pull_uint_var() >= self._packet_number:
            # RFC 9000 §13.1: an acknowledgement of a packet that was never sent.
            raise QuicConnectionError(
                error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type=frame_type,
                reason_phrase="ACK of a packet that was never sent",
            )
        buf.seek(start)
        super()._handle_ack_frame(context, frame_type, buf)

    def _handle_crypto_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(start)
        if end - self._crypto_streams[context.epoch].receiver.starting_offset() > MAX_CRYPTO_BYTES:
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=frame_type,
                reason_phrase=f"more than {MAX_CRYPTO_BYTES} bytes of CRYPTO data out of order",
            )
        try:
            super()._handle_crypto_frame(context, frame_type, buf)
        except x509.InvalidVersion as error:  # the one fault of a certificate that is no ValueError
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_ERROR + AlertDescription.bad_certificate,
                frame_type=frame_type,
                reason_phrase=f"the certificate could not be parsed: {error}",
            ) from error
        if len(self.tls._receive_buffer) > MAX_CRYPTO_BYTES:  # in order, but one message
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=frame_type,
                reason_phrase=f"a TLS message of more than {MAX_CRYPTO_BYTES} bytes",
            )

    def _handle_padding_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        # aioquic looks at byte after byte, in Python, and a ClientHello has hundreds behind it.
        start = buf.tell()
        rest = buf.data_slice(start, buf.capacity)
        buf.seek(start + len(rest) - len(rest.lstrip(b"\0")))
        if self._quic_logger is not None and context.quic_logger_frames is not None:
            context.quic_logger_frames.append(self._quic_logger.encode_padding_frame())

    def _handle_new_connection_id_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        sequence_number, retire_prior_to = buf.pull_uint_var(), buf.pull_uint_var()
        buf.seek(start)
        if retire_prior_to > sequence_number:  # RFC 9000 §19.15; aioquic has another code
            raise QuicConnectionError(
                error_code=QuicErrorCode.FRAME_ENCODING_ERROR,
                frame_type=frame_type,
                reason_phrase="Retire Prior To is greater than Sequence Number",
            )
        try:
            super()._handle_new_connection_id_frame(context, frame_type, buf)
        except IndexError:
            # RFC 9000 §5.1.2: the peer has to give an ID in place of those that it retires.
            raise QuicConnectionError(
                error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type=frame_type,
                reason_phrase="all connection IDs are retired",
            ) from None

    # -- the end -------------------------------------------------------------------------------

    def let_go(self) -> None:
        """The endpoint has forgotten the connection; what it has for readers can still be read.

        aioquic's callbacks are cut: they refer to the connection, which would stay until the
        garbage collector finds it. A server of short connections spends much of its time there.
        """
        self._QuicConnection__frame_handlers.clear()  # type: ignore[attr-defined]
        if Epoch.ONE_RTT in self._cryptos:
            self._cryptos[Epoch.ONE_RTT].teardown()
        self._cryptos.clear()
        self._cryptos_initial.clear()
        for space in self._loss.spaces:
            space.sent_packets.clear()
        self._loss._send_probe = None  # type: ignore[assignment]
        vars(self._loss).pop("get_probe_timeout", None)
        if isinstance(self._quic_logger, QlogTrace):
            self._quic_logger.close()
        tls = getattr(self, "tls", None)  # which begins with the first packet
        if tls is not None:
            tls.alpn_cb = tls.get_session_ticket_cb = tls.new_session_ticket_cb = None
            tls.update_traffic_key_cb = lambda *_: None

    def close_session(self, code: int, reason: bytes) -> None:
        """Close with an application error code; the packet leaves with the next flush."""
        if self.close_reason is None:
            self._local_reason = reason[:MAX_REASON_BYTES]
            self._end(ClosedLocally(code, reason))
            self.close(error_code=code)

    def fail(self, reason: SessionError) -> None:
        """End with `reason`, telling the peer nothing: it is gone, or never was."""
        if self.close_reason is not None:
            return
        self._end(reason)
        self.close(error_code=QuicErrorCode.INTERNAL_ERROR)
        self._close_pending = False
        # RFC 9000 §10.3.1: after a stateless reset, no packet at all is sent.
        self._close_end()

    def close_with_transport_error(self, code: int, reason: str, error: SessionError) -> None:
        """Close with a transport error code of RFC 9000 §20.1, and end the session with `error`."""
        if self.close_reason is None:
            self._end(error)
            self.close(error_code=code, frame_type=QuicFrameType.PADDING, reason_phrase=reason)

    def broke(self, error: Exception) -> None:
        """An error inside the connection, which is ours: it ends, and says so."""
        logger.error("connection %s broke", self.connection_id().hex(), exc_info=error)
        reason = SessionError(f"internal error: {error!r}")
        self.close_with_transport_error(QuicErrorCode.INTERNAL_ERROR, "", reason)

    def _end(self, reason: SessionError) -> None:
        self.close_reason = reason
        self._session_events[(Event.CLOSED, 0)] = None

    def _settle(self) -> None:
        """After any call into aioquic: note whether the handshake, or everything, is over."""
        event = self._close_event
        if event is not None and self.close_reason is None:
            if self._state is QuicConnectionState.DRAINING:
                error = closed_by_peer(event, self._peer_reason, self.handshake_done)
            else:
                error = closed_by_this_end(event, self._state, self.handshake_done)
            self._end(error)
        if self._handshake_complete and not self.handshake_done and self.close_reason is None:
            self._check_pins()
            if self.close_reason is None:
                self.handshake_done = True
                self._session_events[(Event.CONNECTED, 0)] = None

    def _check_pins(self) -> None:
        if not self._pins:
            return
        certificates = self.peer_certificates()
        seen = fingerprint(certificates[0]) if certificates else b""
        if seen not in self._pins:
            text = f"its SHA-256 is {seen.hex()}, which is not in pinned_sha256"
            error = CertificateInvalid(f"the peer's certificate is not accepted: {text}", 0x12A)
            self.close_with_transport_error(0x12A, "certificate is not pinned", error)

    def _handle_connection_close_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()  # aioquic keeps the reason only when it is UTF-8
        buf.pull_uint_var()
        if frame_type == QuicFrameType.TRANSPORT_CLOSE:
            buf.pull_uint_var()
        reason = buf.pull_bytes(buf.pull_uint_var())
        if self._close_event is None:
            self._peer_reason = reason
        buf.seek(start)
        super()._handle_connection_close_frame(context, frame_type, buf)

    def _write_connection_close_frame(
        self,
        builder: Any,
        epoch: Epoch,
        error_code: int,
        frame_type: int | None,
        reason_phrase: str,
    ) -> None:
        if frame_type is not None or epoch is not Epoch.ONE_RTT:
            # TLS alerts quote the peer's certificate; up to three of these share one datagram.
            reason_phrase = reason_phrase.encode()[:MAX_ALERT_BYTES].decode(errors="ignore")
            super()._write_connection_close_frame(
                builder, epoch, error_code, frame_type, reason_phrase
            )
            return
        reason = self._local_reason  # bytes as the application gave them, UTF-8 or not
        if self._quic_logger is not None:
            text = reason.decode(errors="replace")
            builder.quic_logger_frames.append(
                self._quic_logger.encode_connection_close_frame(error_code, None, text)
            )
        buffer = builder.start_frame(QuicFrameType.APPLICATION_CLOSE, capacity=17 + len(reason))
        buffer.push_uint_var(error_code)
        buffer.push_uint_var(len(reason))
        buffer.push_bytes(reason)

    def _write_crypto_frame(self, builder: Any, space: Any, stream: Any) -> bool:
        written = super()._write_crypto_frame(builder, space, stream)
        # aioquic fills the datagram of a ClientHello with zeros behind the packet: an invalid one,
        # which a receiver discards (RFC 9000 §14.1), but with which qh3's server answers only when
        # all of it comes again, a second later. So: PADDING frames inside the packet.
        sender, room = stream.sender, builder.remaining_flight_space
        first = self._is_client and not self._cryptos[Epoch.HANDSHAKE].send.is_valid()
        if written and first and sender.next_offset == sender._buffer_stop and room > 0:
            builder.start_frame(QuicFrameType.PADDING, capacity=room).push_bytes(bytes(room - 1))
        return written

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        if not self._network_paths:
            return []  # a server whose first datagram did not decrypt
        room = self.unvalidated_room() if self._close_pending else None
        packets = super().datagrams_to_send(now)
        if room is not None:  # RFC 9000 §8.1 also of a close, which aioquic sends in any case
            path, built = self._network_paths[0], packets
            packets = [packet for packet in built if (room := room - len(packet[0])) >= 0]
            path.bytes_sent -= sum(len(packet[0]) for packet in built[len(packets) :])
        return packets

    def unvalidated_room(self) -> int | None:
        """Bytes that may still go to the peer's address; None: it is validated (RFC 9000 §8.1)."""
        if not self._network_paths or self._network_paths[0].is_validated:
            return None
        path = self._network_paths[0]
        return max(0, 3 * path.bytes_received - path.bytes_sent)

    # -- what the peer is ----------------------------------------------------------------------

    def alpn(self) -> str | None:
        return self.tls.alpn_negotiated

    def peer_certificates(self) -> list[x509.Certificate]:
        leaf = self.tls._peer_certificate
        return [] if leaf is None else [leaf, *self.tls._peer_certificate_chain]

    def peer_address(self) -> Address:
        address: Address = self._network_paths[0].addr
        return address

    def _is_elsewhere(self, address: Address) -> bool:
        """RFC 9000 §9: without migration, packets from elsewhere are not this peer's."""
        fixed = bool(self._network_paths) and not self.config.allow_migration
        return fixed and address != self.peer_address()

    def probe_timeout(self) -> float:
        """The PTO in seconds, without backoff (RFC 9002 §6.2.1)."""
        return self._loss.get_probe_timeout()

    def is_ending(self) -> bool:
        """True once CONNECTION_CLOSE was sent or received, or the connection timed out."""
        return self._state in END_STATES

    def is_gone(self) -> bool:
        """True when the peer need not be told anything: it timed out."""
        return self._state is QuicConnectionState.TERMINATED
