"""`JoinedPlanes`: aioquic's control plane with the compiled data plane for its 1-RTT packets.

aioquic keeps TLS, the Initial and Handshake spaces, connection IDs, paths, and what a close says.
Everything in 1-RTT packets is the data plane's: aioquic's frames travel through a sink, its
handlers get the frames that are theirs, one at a time. See docs/architecture.md for the rules.
Nothing here runs for each packet once the compiled loop carries them.
"""

from typing import Any

from aioquic.quic import events as aioquic_events
from aioquic.quic.connection import QuicConnectionError, QuicNetworkPath, QuicReceiveContext
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.tls import Epoch

from .. import _fastpath
from ..config import MIN_MTU
from .coalesced import split_datagram
from .control import ControlPlane
from .frame_sink import FrameSink, Token
from .interface import Address
from .lean import LeanConnection
from .one_rtt_gate import OneRttGate
from .one_rtt_keys import OneRttKeys
from .shared_window import SharedWindow

MAX_EARLY_PACKETS = 32  # 1-RTT packets that came before their keys
PATH_FRAME = 9  # bytes of a PATH_CHALLENGE or PATH_RESPONSE
PROBE_OVERHEAD = 1 + 20 + 4 + 16  # of a packet that carries them
MAX_CONTROL_FRAMES = 256  # that wait to be sent
# Of a stream, before reading has shown that it needs more. Below, the first megabytes over loopback
# come visibly later.
FIRST_STREAM_WINDOW = 1 << 19


class JoinedPlanes(ControlPlane, LeanConnection):
    """What passes between the planes. `FastConnection` is what the layers above see of it."""

    _parameter_values = staticmethod(_fastpath.transport_parameters)

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        config = self.config
        frame_limit = self.configuration.max_datagram_frame_size or 0
        self.plane = _fastpath.DataPlane(
            self,
            is_client=self._is_client,
            receive_window=config.receive_window,
            first_stream_window=FIRST_STREAM_WINDOW,
            stream_window=config.stream_receive_window,
            send_window=config.send_window,
            bidi_streams=config.max_concurrent_bidi_streams,
            uni_streams=config.max_concurrent_uni_streams,
            datagram_receive_bound=config.datagram_receive_buffer_size or 0,
            datagram_send_bound=config.datagram_send_buffer_size,
            datagram_frame_limit=frame_limit,
            initial_rtt=config.initial_rtt,
            max_ack_delay=config.max_ack_delay,
            initial_mtu=config.initial_mtu,
            mtu_upper_bound=config.mtu_upper_bound,
            congestion_control=config.congestion_control,
            ecn=config.enable_ecn,
        )
        self.plane.qlog = self._quic_logger
        connection, stream = self.plane.initial_credit()
        self._local_max_data.value = connection
        self._local_max_stream_data_bidi_local = stream
        self._local_max_stream_data_bidi_remote = self._local_max_stream_data_uni = stream
        self._keys = OneRttKeys(self.plane, config.aead)
        self._early: list[tuple[bytes, QuicNetworkPath, int]] = []
        self._now = 0.0
        self._receiving_from: QuicNetworkPath | None = None
        # Datagrams of the handshake; the data plane counts its own, and path probes.
        self._received_datagrams = self._received_bytes = 0
        self._sent_datagrams = self._sent_bytes = self._probes_sent = 0
        self._reactor: Any = None

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._gate = OneRttGate(self._on_secret)
        self._cryptos[Epoch.ONE_RTT] = self._gate  # type: ignore[assignment]

    def _on_secret(self, is_send: bool, suite: Any, secret: bytes, version: int) -> None:
        self._keys.begin(is_send, suite, secret, version)

    # -- packets in ----------------------------------------------------------------------------

    def receive(self, data: bytes, address: Address, now: float, ecn: int = 0) -> None:
        if self.is_ending() or self.close_reason is not None or self._is_elsewhere(address):
            return
        self._now = now
        long = data[0] & 0x80
        if long and not (self._handshake_confirmed and self.plane.qlog is None):
            self._receive_long(data, address, now, ecn)
        else:
            path = self._find_network_path(address)
            if not path.is_validated:
                path.bytes_received += len(data)
            if long:  # RFC 9001 §4.9: there are no keys any more for what stands before the tail
                handshake, data = len(data), split_datagram(data)[1]
                self._received_datagrams += 1
                self._received_bytes += handshake - len(data)
            if data:
                self._receive_short(data, path, now, ecn)
        self._after_call()

    def _receive_long(self, data: bytes, address: Address, now: float, ecn: int) -> None:
        """aioquic gets the whole datagram's length, with what is the data plane's blanked."""
        handshake, tail = split_datagram(data)
        if self.plane.qlog is not None:
            self.plane.qlog.handed_on = len(tail)
        self._received_datagrams += 1
        self._received_bytes += len(data) - len(tail)
        self.receive_datagram(handshake, address, now)
        self.plane.control_dirty = True
        if tail or self._early:
            self._settle()
        if tail and self.close_reason is None:
            self._receive_short(tail, self._find_network_path(address), now, ecn)
        self._open_early(now)

    def _receive_short(self, data: bytes, path: QuicNetworkPath, now: float, ecn: int) -> None:
        if not self.plane.can_open():
            if len(self._early) < MAX_EARLY_PACKETS:
                self._early.append((data, path, ecn))
            return
        if self._is_client and path not in self._network_paths:
            return  # RFC 9000 §9: a client drops packets from unknown server addresses
        if all(each.cid != data[1:9] for each in self._host_cids):
            return  # §12.2: behind a packet of ours, but not ours
        self._receiving_from = path
        opened = self.plane.receive(data, now, ecn)
        self._receiving_from = None
        if opened and not self._is_client:
            self._follow_peer(path)

    def _open_early(self, now: float) -> None:
        if self._early and self.plane.can_open() and self.close_reason is None:
            early, self._early = self._early, []
            for data, path, ecn in early:
                self._receive_short(data, path, now, ecn)

    def _follow_peer(self, path: QuicNetworkPath) -> None:
        """The tail of aioquic's receive_datagram, for 1-RTT packets: RFC 9000 §9."""
        if path not in self._network_paths:
            self._add_network_path(path)
        index = self._network_paths.index(path)
        newest = self.plane.last_number == self.plane.largest_received
        if not index or self.plane.last_was_probing or not newest:
            return
        before = self._network_paths[0].addr
        self._network_paths.insert(0, self._network_paths.pop(index))
        if path.peer_cid is not None:
            self._use_reserved_peer_cid(path)
        if not path.is_validated:
            path.local_challenge_sent = False
            path.validation_deadline = None
        if before[0] != path.addr[0]:
            self.plane.path_changed()  # §9.4: not when only the port changed
        self.plane.control_dirty = True

    # -- what the data plane asks --------------------------------------------------------------

    def control_frame(self, frame_type: int, frame: bytes, host_cid: bytes) -> None:
        """A frame of the control plane's: to aioquic's handler."""
        context = QuicReceiveContext(
            epoch=Epoch.ONE_RTT,
            host_cid=host_cid,
            network_path=self._receiving_from or self._network_paths[0],
            quic_logger_frames=[],
            time=self._now,
            version=None,
        )
        try:
            self._payload_received(context, frame)
        except QuicConnectionError as error:
            self.close(
                error_code=error.error_code,
                frame_type=error.frame_type,
                reason_phrase=error.reason_phrase,
            )
        self.plane.control_dirty = True
        if self.is_ending() or self._close_pending:
            self.plane.closing = True

    def next_keys(self) -> None:
        """It went on to the next phase."""
        self._keys.follow()

    def delivered(self, token: Token, acked: bool) -> None:
        handler, arguments = token
        if handler is not None:
            handler(QuicDeliveryState.ACKED if acked else QuicDeliveryState.LOST, *arguments)
            self.plane.control_dirty = self.plane.control_dirty or not acked

    def first_acknowledgement(self) -> None:
        self._loss.peer_completed_address_validation = True

    def host_cid_changed(self, cid: bytes, number: int) -> None:
        """The peer uses another of our IDs: answer under another of its (RFC 9000 §9.5)."""
        if not self._is_client and cid != self.host_cid:
            self.host_cid = cid
            self.change_connection_id()
            self.plane.control_dirty = True

    def close(self, *arguments: Any, **options: Any) -> None:
        super().close(*arguments, **options)
        self.plane.control_dirty = True  # the close is to be sent

    def data_plane_failed(self, code: int, frame_type: int, reason: str) -> None:
        self.close(error_code=code, frame_type=frame_type, reason_phrase=reason)

    # -- after anything ------------------------------------------------------------------------

    def _after_call(self) -> None:
        plane = self.plane
        plane.control_called = False
        self._take_aioquic_events()
        self._settle()
        self._follow_cid()
        plane.control_sends = not self._handshake_confirmed or len(self._network_paths) != 1
        if self._reactor is not None and self.handshake_done:
            self._follow_path()

    def _follow_cid(self) -> None:
        if self._peer_cid.cid != self._sealed_cid:
            self._sealed_cid = self._peer_cid.cid
            self.plane.set_peer_cid(self._sealed_cid)

    _sealed_cid = b""

    def _follow_path(self) -> None:
        """The reactor carries packets to a validated address only; else each passes through here,
        where the anti-amplification limit is kept (RFC 9000 §8.1).
        """
        path = self._network_paths[0]
        if not path.is_validated:
            self.plane.detach()
        elif not self.plane.routed or path.addr != self._routed_to:
            self._routed_to = path.addr
            self._reactor.attach(self.plane, path.addr, self.plane.owner.local)

    _routed_to: Address | None = None

    def _settle(self) -> None:
        connected = self.handshake_done
        super()._settle()
        if self.handshake_done and not connected:
            self._begin_data()
        self._share_window()
        if self._handshake_confirmed and not self._confirmed_data:
            self._confirmed_data = True
            self.plane.confirm()
            self._loss.get_probe_timeout = lambda **_: self.plane.pto()  # type: ignore[method-assign]

    _confirmed_data = False
    _window: SharedWindow | None = None

    def _share_window(self) -> None:
        """Tell the data plane what aioquic has in flight; the Handshake keys go at confirmation."""
        if self._window is not None:
            self.plane.handshake_in_flight = self._window.handshake_in_flight
            if self._handshake_confirmed:
                self._window = None

    def _begin_data(self) -> None:
        """The handshake is complete: the data plane knows the peer's parameters from here on."""
        self.plane.set_peer_parameters(
            max_data=self._remote_max_data,
            max_stream_data_bidi_local=self._remote_max_stream_data_bidi_local,
            max_stream_data_bidi_remote=self._remote_max_stream_data_bidi_remote,
            max_stream_data_uni=self._remote_max_stream_data_uni,
            max_streams_bidi=self._remote_max_streams_bidi,
            max_streams_uni=self._remote_max_streams_uni,
            ack_delay_exponent=self._remote_ack_delay_exponent,
            max_ack_delay=self._loss.max_ack_delay,
            max_datagram_frame_size=self._remote_max_datagram_frame_size or 0,
            max_udp_payload_size=self.peer_max_udp_payload,
        )
        self._window = SharedWindow(self._loss._cc, self.plane)
        self._loss._cc = self._window  # type: ignore[assignment]
        self._sealed_cid = self._peer_cid.cid
        self.plane.set_peer_cid(self._sealed_cid)
        self.plane.set_host_cid(self.host_cid)
        rtt = self._loss._rtt_smoothed if self._loss._rtt_initialized else 0.0
        limits = (self.config.max_idle_timeout, self._remote_max_idle_timeout)
        self.plane.begin(self._now, rtt, min((t for t in limits if t is not None), default=0.0))

    def _take_aioquic_events(self) -> None:
        while (event := self.next_event()) is not None:
            if isinstance(event, aioquic_events.ConnectionIdRetired):
                self._id_changes.append((event.connection_id, False))

    # -- packets out ---------------------------------------------------------------------------

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """Handshake packets, closes, path probes; without a reactor all 1-RTT packets too."""
        self._now = now
        if self.is_ending() or not self._network_paths:
            return []
        if self._close_pending:
            return self._close_packets(now)
        packets: list[tuple[bytes, Address]] = []
        if not self._handshake_confirmed or len(self._network_paths) > 1:
            packets = self._handshake_packets(now)
            self._share_window()
        path = self._network_paths[0]
        if self.plane.control_dirty and self.handshake_done:
            if path.remote_challenges:
                packets += self._probe(path, self._peer_cid.cid, now, challenge=False)
                path.remote_challenges.clear()  # what did not fit is asked again
            self._write_control(now)
        if not path.is_validated:
            self.plane.allowance = max(0, path.bytes_received * 3 - path.bytes_sent)
        else:
            self.plane.allowance = -1
        if self.handshake_done and not self.plane.routed:
            before = self.plane.allowance
            sealed = [(packet, path.addr) for packet in self.plane.build(now)]
            packets += sealed
            if before >= 0:
                path.bytes_sent += before - self.plane.allowance
        self._after_call()
        return packets

    def _handshake_packets(self, now: float) -> list[tuple[bytes, Address]]:
        """What aioquic builds itself: Initial and Handshake packets."""
        probes = self._probes_sent
        if not self._builder_needed():
            return []
        packets = super().datagrams_to_send(now)
        self._sent_datagrams += len(packets) - (self._probes_sent - probes)
        self._sent_bytes += sum(len(packet) for packet, _ in packets)
        return packets

    def _builder_needed(self) -> bool:
        """False when aioquic would set up a packet builder and find nothing to write."""
        return (
            self._close_pending
            or self._probe_pending
            or self._has_frames(Epoch.INITIAL)
            or self._has_frames(Epoch.HANDSHAKE)
            or len(self._network_paths) > 1
            or self._remote_preferred_address is not None
        )

    def _has_frames(self, epoch: Epoch) -> bool:
        """An ACK or CRYPTO data wait to be sent in an Initial or a Handshake packet."""
        if not self._cryptos[epoch].send.is_valid():
            return False
        stream = self._crypto_streams[epoch]
        return self._spaces[epoch].ack_at is not None or not stream.sender.buffer_is_empty

    def _write_handshake(self, builder: Any, epoch: Epoch, now: float) -> None:
        if self._probe_pending or self._has_frames(epoch):
            super()._write_handshake(builder, epoch, now)

    def _write_control(self, now: float) -> None:
        """Let aioquic write its 1-RTT frames into a sink, and queue them in the data plane."""
        if self.plane.control_waiting() >= MAX_CONTROL_FRAMES:
            return  # until those have left, which takes a peer that acknowledges
        self.plane.control_dirty = False
        sink = FrameSink()
        self._loss._pacer.packet_time = None  # the handshake's pacer would hold frames back
        self._gate.send.writing_frames = True
        try:
            ControlPlane._write_application(self, sink, self._network_paths[0], now)  # type: ignore[arg-type]
        finally:
            self._gate.send.writing_frames = False
        for frame, token in sink.take():
            self.plane.control_queue(frame, token)
        self._follow_cid()  # RFC 9000 §19.16: the ID that a frame retires carries it no more

    def _write_application(self, builder: Any, network_path: Any, now: float) -> None:
        """aioquic builds no 1-RTT packet itself."""

    def _write_connection_limits(self, builder: Any, space: Any) -> None:
        """Flow control is the data plane's."""

    def _close_packets(self, now: float) -> list[tuple[bytes, Address]]:
        """CONNECTION_CLOSE in the spaces that the peer can read (RFC 9000 §10.2.3)."""
        event = self._close_event
        assert event is not None
        packets = self._handshake_packets(now) if not self._handshake_confirmed else []
        if self.handshake_done:
            sink = FrameSink()
            self._write_connection_close_frame(
                builder=sink,
                epoch=Epoch.ONE_RTT,
                error_code=event.error_code,
                frame_type=event.frame_type,
                reason_phrase=event.reason_phrase,
            )
            payload = b"".join(frame for frame, _ in sink.take())
            path = self._network_paths[0]
            packet = self.plane.build_single(payload, self._peer_cid.cid, now, 0)
            if packet and path.can_send(len(packet)):
                path.bytes_sent += len(packet)
                last = packets.pop()[0] if packets else b""
                if last and len(last) + len(packet) > MIN_MTU:
                    packets.append((last, path.addr))
                    last = b""
                elif last:
                    self._sent_datagrams -= 1  # RFC 9000 §12.2: both go in one
                packets.append((last + packet, path.addr))
        if self._close_pending:
            self._close_pending = False
            self._close_begin(is_initiator=True, now=now)
        self.plane.closing = True
        return packets

    def _send_probing_frames(
        self, network_path: QuicNetworkPath, now: float
    ) -> list[tuple[bytes, Address]]:
        """Path validation on another path than the active one (RFC 9000 §8.2)."""
        if not self.handshake_done or network_path.peer_cid is None:
            return []
        challenge = not (network_path.is_validated or network_path.local_challenge_sent)
        packets = self._probe(network_path, network_path.peer_cid.cid, now, challenge=challenge)
        self._probes_sent += len(packets)
        self._sent_bytes -= sum(len(packet) for packet, _ in packets)
        return packets

    def _probe(
        self, path: QuicNetworkPath, cid: bytes, now: float, *, challenge: bool
    ) -> list[tuple[bytes, Address]]:
        """PATH_RESPONSE, and PATH_CHALLENGE where `challenge` says so, on the path they are for.

        They have a datagram of their own, which is never sent again.
        """
        room = MIN_MTU
        if not path.is_validated:  # RFC 9000 §8.1, which goes before the padding of §8.2.1
            room = min(room, 3 * path.bytes_received - path.bytes_sent)
        fit = (room - PROBE_OVERHEAD) // PATH_FRAME
        sink = FrameSink()
        if challenge and fit > 0:
            self._write_path_challenge_frame(builder=sink, network_path=path)  # type: ignore[arg-type]
            fit -= 1
        while path.remote_challenges and fit > 0:
            data = path.remote_challenges.popleft()
            self._write_path_response_frame(builder=sink, challenge=data)  # type: ignore[arg-type]
            fit -= 1
        payload = b"".join(frame for frame, _ in sink.take())
        packet = self.plane.build_single(payload, cid, now, room) if payload else b""
        if not packet:
            return []
        path.bytes_sent += len(packet)
        return [(packet, path.addr)]
