# DataPlane: the 1-RTT packet number space of one connection.
#
# This file is the table of contents: the state, grouped, and what Python may call. What happens to
# packets is in packet_in, frames_in, recovery, packet_out. The control plane (Python, aioquic) is
# asked only when one of its frames came, was delivered, or was lost, and for keys.


@cython.final
cdef class DataPlane:
    """Packets, streams and datagrams of one connection after its handshake; see rawquic.connection.

    `control` answers: control_frame(type, frame, cid), delivered(token, acked),
    next_keys(), both without fail; and gets data_plane_failed(code, frame_type, reason).
    """

    # Who, and whether it still runs.
    cdef object control
    cdef public object qlog        # QlogTrace; None: nothing is logged
    cdef readonly bint is_client
    cdef bint confirmed            # the handshake is: PTO may be armed (RFC 9002 §6.2.1)
    cdef public bint closing       # nothing is processed, nothing but the close is sent
    cdef bint failed               # the peer broke the protocol, and the control plane knows
    # Keys (RFC 9001 §6). A phase is 0 or 1.
    cdef PacketKey seal_key, open_key, seal_next, open_next, open_previous
    cdef unsigned int seal_phase, open_phase
    cdef uint64_t open_first       # the lowest number that came in the phase of open_key
    cdef uint64_t seal_first       # the first number sent in the phase of seal_key
    cdef bint phase_acked          # the peer acknowledged a packet of seal_key's phase
    cdef bint phase_answered       # we acknowledged a packet of open_key's phase
    cdef bint phase_changed        # at least once
    cdef bint update_wanted
    cdef public uint64_t packets_per_key  # long before the limit, a key update is begun
    cdef public uint64_t confidentiality_limit, integrity_limit  # RFC 9001 §6.6
    cdef double previous_until     # open_previous is dropped then
    # Connection IDs.
    cdef uint8_t peer_cid[CID_MOST]
    cdef uint8_t peer_cid_length
    cdef uint8_t host_cid[HOST_CID_LENGTH]  # that the peer used last
    # Packet numbers, loss, congestion.
    cdef ReceivedPackets received
    cdef Placing placing
    cdef SentPackets sent
    cdef uint64_t flight_first     # no packet below it is IN_FLIGHT
    cdef BlockQueue blocks         # with packets whose pages the kernel may still have
    cdef bint bulk                 # the last batch was large
    cdef uint64_t path_first       # packets below it were sent on another path
    cdef uint64_t eliciting_in_flight
    cdef bint any_acked
    cdef uint64_t largest_acked
    cdef uint64_t skip_at          # the next number to leave out
    cdef uint64_t skip_distance
    cdef uint64_t skipped[SKIPPED_KEPT]  # the last ones, newest first
    cdef unsigned int skipped_count
    cdef Rtt rtt
    cdef Congestion congestion
    cdef Pacer pacer
    cdef Mtu mtu
    cdef Ecn ecn
    cdef bint search_mtu
    cdef uint16_t initial_mtu, mtu_upper_bound, peer_udp_limit  # of every path
    cdef uint64_t event_first      # the first packet lost in the last loss event
    cdef uint64_t event_losses     # packets from there on that are still believed lost
    cdef double loss_at            # when the next packet is lost by time; 0: none
    cdef double last_eliciting_at
    cdef unsigned int pto_count
    cdef unsigned int probes       # packets that may leave whatever the window says
    cdef double pacing_at          # when more may leave; 0: not held back
    cdef double ack_at             # when a delayed ACK is due; 0: none
    cdef double max_ack_delay      # ours
    cdef unsigned int ack_delay_exponent, peer_ack_delay_exponent
    # Idle time (RFC 9000 §10.1).
    cdef readonly double last_received_at
    cdef readonly double last_sent_at
    cdef readonly double idle_from     # restarts with a packet received, and the first sent since
    cdef bint eliciting_sent_since
    cdef double idle_limit         # the lower of both ends' timeouts; 0: none
    # Anti-amplification: bytes that may still be sent; negative: no limit (RFC 9000 §8.1).
    cdef public int64_t allowance
    # Bytes in flight of Initial and Handshake packets, until their keys are gone.
    cdef public uint64_t handshake_in_flight
    # Streams and flow control.
    cdef StreamTable streams
    cdef SendQueue queue
    cdef Stream *due               # streams with RESET_STREAM, STOP_SENDING or MAX_STREAM_DATA due
    cdef StreamCounts counts[2]    # 0 bidirectional, 1 unidirectional
    cdef Flow flow
    cdef uint64_t stream_window    # the most unread bytes of a stream, now
    cdef uint64_t stream_window_most  # and when it has grown
    cdef uint64_t stream_credit    # of ours at their birth: what the transport parameters say
    cdef uint64_t peer_stream_credit[3]  # ours bidi, the peer's bidi, ours uni: at their birth
    cdef list write_blocked        # IDs of streams whose write was short
    # Datagrams (RFC 9221).
    cdef DatagramQueue datagrams_in, datagrams_out
    cdef uint64_t datagram_frame_limit   # ours: 0, or the transport parameter
    cdef uint64_t peer_datagram_limit
    cdef bint datagrams_announced
    cdef bint datagram_room_wanted
    cdef uint64_t datagrams_too_large
    # Control frames that wait to be sent, as (bytes, token), and pings.
    cdef list control_frames
    cdef list pings
    cdef bint ping_due
    # What happened, for the session layer.
    cdef EventQueue events
    cdef double glitches, glitch_at
    cdef Counters counters
    # The last packet that was opened, for the control plane's path logic.
    cdef readonly uint64_t last_number
    cdef readonly bint last_was_probing
    # Codepoints of the packets of build(), by packet, for a caller that can mark them; None: they
    # stay unmarked.
    cdef public dict marks
    # Where it sends. Reactor: a cdef class; borrowed, it outlives its planes' registration.
    cdef public object owner       # the endpoint's record of this connection
    cdef object reactor            # Reactor; None: packets are built for a sans-IO caller
    cdef SocketAddress peer
    cdef IpAddress local
    cdef readonly bint routed      # reactor, peer and local are set
    cdef bint dirty                # something to send was queued since the last build
    cdef bint listed               # among those that wait for the socket
    cdef bint touched              # among those that got packets in this batch
    cdef public double armed       # the deadline that Python's timer stands at; 0: none
    cdef public bint control_called  # the control plane was called since Python looked
    cdef public bint control_dirty   # it has something to send
    cdef public bint control_sends   # Python has a part in all that is sent

    def __init__(
        self, control, *, bint is_client, uint64_t receive_window, uint64_t first_stream_window,
        uint64_t stream_window, uint64_t send_window, uint64_t bidi_streams, uint64_t uni_streams,
        uint64_t datagram_receive_bound, uint64_t datagram_send_bound,
        uint64_t datagram_frame_limit, double initial_rtt, double max_ack_delay,
        uint16_t initial_mtu, uint16_t mtu_upper_bound, str congestion_control, bint ecn,
    ):
        self.control = control
        self.is_client = is_client
        self.allowance = -1
        self.packets_per_key, self.confidentiality_limit = <uint64_t>1 << 22, <uint64_t>1 << 23
        self.control_dirty = self.control_sends = True
        self.flow.send_window = send_window
        windows_begin(self, receive_window, first_stream_window, stream_window)
        self.counts[0].peer_limit = self.counts[0].peer_allowed = bidi_streams
        self.counts[1].peer_limit = self.counts[1].peer_allowed = uni_streams
        self.datagrams_in.bound = datagram_receive_bound
        self.datagrams_out.bound = datagram_send_bound
        self.datagram_frame_limit = datagram_frame_limit
        self.max_ack_delay = max_ack_delay
        self.ack_delay_exponent = self.peer_ack_delay_exponent = 3
        self.control_frames, self.pings, self.write_blocked = [], [], []
        self.skip_distance = 128
        self.skip_at = 1 + random_below(255)
        self.glitches = GLITCH_BURST
        rtt_begin(&self.rtt, initial_rtt, 0.025)
        initial_mtu = min(initial_mtu, <uint16_t>OUT_BYTES)
        mtu_upper_bound = min(mtu_upper_bound, <uint16_t>OUT_BYTES)
        self.initial_mtu, self.mtu_upper_bound = initial_mtu, max(initial_mtu, mtu_upper_bound)
        self.peer_udp_limit = 65527
        mtu_begin(&self.mtu, self.initial_mtu, self.mtu_upper_bound)
        congestion_begin(
            &self.congestion, CUBIC if congestion_control == "cubic" else NEWRENO, initial_mtu)
        pacer_begin(&self.pacer)
        self.ecn.state = ECN_TESTING if ecn else ECN_OFF

    def __dealloc__(self):
        plane_free(self)

    # -- keys, IDs, parameters: the control plane --------------------------------------------------

    def set_seal_key(self, PacketKey key not None, PacketKey following not None):
        """1-RTT keys for sending: now, and in the next key phase."""
        self.seal_key, self.seal_next = key, following

    def set_open_key(self, PacketKey key not None, PacketKey following not None):
        """1-RTT keys for receiving: now, and in the next key phase."""
        self.open_key, self.open_next = key, following
        self.integrity_limit = <uint64_t>1 << (36 if key._cipher == CHACHA20_POLY1305 else 52)

    def set_next_keys(self, PacketKey seal not None, PacketKey open not None):
        """Keys of the phase behind the current one."""
        self.seal_next, self.open_next = seal, open

    def can_open(self):
        """True once there are keys for receiving."""
        return self.open_key is not None

    def set_peer_cid(self, bytes cid not None):
        """The connection ID in the packets that we send."""
        if len(cid) > CID_MOST:
            raise ValueError(f"a connection ID of {len(cid)} bytes; at most 20 are allowed")
        memcpy(self.peer_cid, PyBytes_AS_STRING(cid), <size_t>len(cid))
        self.peer_cid_length = <uint8_t>len(cid)

    def set_host_cid(self, bytes cid not None):
        """Our connection ID that the peer is expected to use."""
        if len(cid) != HOST_CID_LENGTH:
            raise ValueError(f"our connection IDs have {HOST_CID_LENGTH} bytes, not {len(cid)}")
        memcpy(self.host_cid, PyBytes_AS_STRING(cid), HOST_CID_LENGTH)

    def set_peer_parameters(
        self, *, uint64_t max_data, uint64_t max_stream_data_bidi_local,
        uint64_t max_stream_data_bidi_remote, uint64_t max_stream_data_uni,
        uint64_t max_streams_bidi, uint64_t max_streams_uni, unsigned int ack_delay_exponent,
        double max_ack_delay, uint64_t max_datagram_frame_size, uint64_t max_udp_payload_size,
    ):
        """The peer's transport parameters, in its own words: "local" is what it opens."""
        self.flow.peer_credit = max_data
        self.peer_stream_credit[0] = max_stream_data_bidi_remote
        self.peer_stream_credit[1] = max_stream_data_bidi_local
        self.peer_stream_credit[2] = max_stream_data_uni
        self.counts[0].own_limit = max_streams_bidi
        self.counts[1].own_limit = max_streams_uni
        self.peer_ack_delay_exponent = ack_delay_exponent
        self.rtt.max_ack_delay = max_ack_delay
        self.peer_datagram_limit = max_datagram_frame_size
        self.peer_udp_limit = <uint16_t>min(max_udp_payload_size, <uint64_t>65527)
        mtu_limit(&self.mtu, self.peer_udp_limit)
        congestion_set_datagram_size(&self.congestion, self.mtu.current)

    def initial_credit(self):
        """(initial_max_data, initial_max_stream_data_*) of our transport parameters."""
        return self.flow.credit, self.stream_credit

    def begin(self, double now, double rtt, double idle_limit):
        """The handshake is complete. `rtt`: its sample; `idle_limit`: seconds; 0: there is none."""
        self.idle_limit = idle_limit
        if rtt > 0:
            rtt_sample(&self.rtt, rtt, 0.0, False, now)
        self.last_received_at = self.last_sent_at = self.idle_from = self.flow.weighed_at = now

    def confirm(self):
        """The handshake is confirmed (RFC 9001 §4.1.2)."""
        self.confirmed = True
        self.search_mtu = True
        self.dirty = True

    def packet_refused(self, uint16_t size, double now):
        """The system sends no UDP payload of `size` bytes here. False: that is no news."""
        if not mtu_refused(&self.mtu, size, now):
            return False
        congestion_set_datagram_size(&self.congestion, self.mtu.current)
        self.dirty = True  # a smaller probe
        return True

    def limit_window(self, uint64_t size):
        """On local paths, slow start ends at `size`; the window goes on only while nothing is lost."""
        self.congestion.soft_ceiling = size

    def path_changed(self):
        """The peer is elsewhere: RTT, window, pace, MTU and ECN start afresh (RFC 9000 §9.4)."""
        rtt_begin(&self.rtt, self.rtt.initial, self.rtt.max_ack_delay)
        mtu_begin(&self.mtu, self.initial_mtu, self.mtu_upper_bound)
        mtu_limit(&self.mtu, self.peer_udp_limit)
        pacer_begin(&self.pacer)
        self.pacing_at = 0
        self.pto_count = 0
        congestion_path_changed(&self.congestion, self.mtu.current)
        ecn_begin(&self.ecn)
        self.path_first = self.sent.next
        self.event_losses = 0

    def request_key_update(self):
        """Change to the next keys as soon as the rules allow it (RFC 9001 §6.1)."""
        self.update_wanted = self.ping_due = self.dirty = True

    def discard(self):
        """Wipe the keys and let go of everything; the plane is dead."""
        self.closing = True
        for key in (self.seal_key, self.open_key, self.seal_next, self.open_next,
                    self.open_previous):
            if key is not None:
                (<PacketKey>key).discard()
        self.control = None
        self.owner = None
        self.reactor = None
        self.routed = False
        # Tokens hold the control plane, and the garbage collector does not see them here.
        sent_free(&self.sent)
        blocks_free(&self.blocks)
        self.control_frames = []

    def detach(self):
        """No packets come from or go to the reactor until it attaches the plane again."""
        self.routed = False

    def control_queue(self, bytes frame not None, token):
        """Send a frame of the control plane; `token` comes back with delivered(token, acked)."""
        self.control_frames.append((frame, token))
        self.dirty = True

    def control_waiting(self):
        """How many frames of the control plane wait to be sent."""
        return PyList_GET_SIZE(self.control_frames)

    # -- packets, for a sans-IO caller -------------------------------------------------------------

    def receive(self, bytes packet not None, double now, int ecn=0, size_t segment_size=0):
        """Take one packet with a short header; False when it did not open or was a duplicate.

        `ecn`: the codepoint that its datagram came with. `segment_size`: `packet` is several on
        end, each this long but for the last; 0: one.
        """
        cdef bytearray scratch = bytearray(packet)
        cdef uint64_t before = self.counters.packets_received
        plane_receive(
            self, <uint8_t *>PyByteArray_AS_STRING(scratch), <size_t>len(packet),
            segment_size or <size_t>len(packet), ecn, now)
        return self.counters.packets_received != before

    def build(self, double now):
        """The packets to send now, as bytes."""
        return plane_build_list(self, now)

    def build_single(self, bytes payload not None, bytes cid not None, double now, size_t pad_to):
        """One packet with `payload`, not tracked for loss: closes and path probes.

        b"": there is no room to remember its number. For a close, which has no `pad_to`, there is.
        """
        return plane_seal_single(self, payload, cid, now, pad_to)

    def timer(self):
        """When on_timer is due; None: not at all."""
        cdef double deadline = plane_deadline(self)
        return deadline if deadline else None

    def on_timer(self, double now):
        plane_on_timer(self, now)
        if self.qlog is not None:
            qlog_state(self)

    def has_news(self):
        """True when the control plane or the session has to look at this connection."""
        return plane_has_news(self)

    def take_events(self):
        """What happened since the last call, as (Event, number) tuples."""
        cdef EventQueue events = self.events
        cdef list result = []
        memset(&self.events, 0, sizeof(EventQueue))
        try:
            for i in range(events.count):
                result.append((EVENTS[events.items[i].kind], events.items[i].number))
        finally:
            free(events.items)
        return result

    def wants_flush(self):
        """True when something is to be sent that was queued since the last flush."""
        return self.dirty or self.control_dirty

    def sends_itself(self):
        """True when the reactor's flush sends all there is."""
        return plane_sends_itself(self)

    @property
    def largest_received(self):
        """The largest packet number that was processed; -1 before the first."""
        return received_largest_acked(&self.received) if self.received.ranges.count else -1

    def pto(self):
        """The probe timeout in seconds, without backoff."""
        return rtt_pto(&self.rtt)

    # -- streams and datagrams: the session layer --------------------------------------------------

    def open_stream(self, bint unidirectional):
        """The ID of a new stream; None until STREAMS_AVAILABLE."""
        return plane_open_stream(self, unidirectional)

    def write(self, uint64_t stream_id, bytes data not None, Py_ssize_t offset):
        """Take what fits of data[offset:]; how much. WRITABLE tells of room after a short write.

        Raises StreamStopped, StreamFinished.
        """
        return plane_write(self, stream_id, data, offset)

    def finish(self, uint64_t stream_id):
        """The end is behind what was written. Raises as `write` does."""
        plane_finish(self, stream_id)

    def reset(self, uint64_t stream_id, uint64_t code):
        plane_reset(self, stream_id, code)

    def stop(self, uint64_t stream_id, uint64_t code):
        plane_stop(self, stream_id, code)

    def read(self, uint64_t stream_id, uint64_t most):
        """bytes; b"" at the end; None when there is nothing yet. Raises StreamReset.

        Credit that is to be given for it asks `owner` for a flush.
        """
        return plane_take(self, stream_id, most)

    def stop_code(self, uint64_t stream_id):
        cdef Stream *stream = stream_find(&self.streams, stream_id)
        return stream.send.stop_code if stream != NULL and stream.send.stopped else None

    def set_priority(self, uint64_t stream_id, int priority):
        cdef Stream *stream = stream_find(&self.streams, stream_id)
        cdef bint queued = stream != NULL and stream.queued
        if queued:
            queue_remove(&self.queue, stream)
        if stream != NULL:
            stream.priority = priority
        if queued:
            queue_add(&self.queue, stream)

    def unacknowledged(self, uint64_t stream_id):
        cdef Stream *stream = stream_find(&self.streams, stream_id)
        return send_half_buffered(&stream.send) if stream != NULL else 0

    def max_datagram_size(self):
        """The most bytes of a datagram now; None: the peer takes none."""
        if self.peer_datagram_limit < 2 or self.closing:  # the frame's type and length
            return None
        return plane_datagram_limit(self)

    def send_datagrams(self, datagrams):
        """See connection.interface."""
        for data in datagrams:
            plane_send_datagram(self, data if type(data) is bytes else _as_bytes(data))

    def datagram_room(self, uint64_t size):
        """True when `size` more bytes can wait; else DATAGRAM_ROOM will tell."""
        cdef DatagramQueue *out = &self.datagrams_out
        cdef bint room = out.count == 0 or (
            out.size + size + DATAGRAM_COST * <uint64_t>(out.count + 1) <= out.bound)
        self.datagram_room_wanted = not room
        return room

    def read_datagrams(self, most):
        """The datagrams that wait, at most `most`, in a list."""
        cdef list result = []
        cdef uint64_t room = most_of(most)
        while self.datagrams_in.count and <uint64_t>PyList_GET_SIZE(result) < room:
            result.append(datagrams_pop(&self.datagrams_in))
        if not self.datagrams_in.count:
            self.datagrams_announced = False
        return result

    def ping(self, number):
        self.pings.append(number)
        self.dirty = True

    def keep_alive(self):
        """Send a PING that nobody waits for."""
        self.ping_due = self.dirty = True

    def set_max_streams(self, bint unidirectional, uint64_t count):
        self.counts[unidirectional].peer_allowed = count
        plane_stream_credit(self, unidirectional)

    def set_receive_window(self, uint64_t size):
        self.flow.window = size
        plane_consumed(self, NULL, 0)

    def set_send_window(self, uint64_t size):
        self.flow.send_window = size
        plane_wake_writers(self)

    def inspect(self):
        """What is inside, as plain values: for tests and for debugging."""
        return plane_inspect(self)

    def statistics(self):
        """Counters, for connection.interface.PathStatistics."""
        return plane_statistics(self)


cdef object plane_take(DataPlane self, uint64_t stream_id, uint64_t most):
    """See `DataPlane.read`."""
    cdef bint before = self.dirty
    data = plane_read(self, stream_id, most)
    if self.dirty and not before and self.owner is not None:
        self.owner.flush_soon()
    return data


cdef int plane_fail(
    DataPlane self, uint64_t code, uint64_t frame_type, const char *reason
) except? -1:
    """The peer broke the protocol: stop, and tell the control plane, once. Always -1."""
    if not self.failed:
        self.failed = self.closing = True
        if self.control is not None:
            self.control.data_plane_failed(code, frame_type, (<bytes>reason).decode())
    return -1


cdef inline bint plane_sends_itself(DataPlane self) noexcept:
    return self.routed and not (self.control_dirty or self.control_sends or self.closing)


cdef void plane_free(DataPlane self) noexcept:
    """Give everything back, tokens included; from __dealloc__ only."""
    sent_free(&self.sent)
    blocks_free(&self.blocks)
    free(self.events.items)
    ranges_free(&self.received.ranges)
    stream_table_free(&self.streams)
    datagrams_free(&self.datagrams_in)
    datagrams_free(&self.datagrams_out)
