# Acknowledgements in, loss detection, probe timeouts (RFC 9002), and what follows for frames.
#
# A frame is settled exactly once: acknowledged, or lost and queued again. Cost follows what an ACK
# newly acknowledges or loses, not what is in flight.

cdef enum:
    PACKET_THRESHOLD = 3      # RFC 9002 §6.1.1
    LOST_KEPT = 1024          # packets for which a lost one's late ACK is still noticed
    PROBES = 2                # packets per PTO (§6.2.4)
    PTO_BACKOFF_MOST = 12

cdef extern from *:
    """
    #define AT_ONCE 4e-3  /* what a peer's event loop takes to acknowledge "at once" */
    """
    const double AT_ONCE

# What an ACK frame brought.
cdef struct AckFacts:
    uint64_t bytes            # newly acknowledged, in flight
    uint64_t packets
    uint64_t largest          # newly acknowledged
    double largest_sent_at
    bint any
    bint window_used
    bint full                 # one of at least the size of the path's MTU was among them
    uint64_t largest_full
    uint64_t marked           # sent as ECT(0), on this path


cdef FrameResult on_ack(DataPlane self, bint with_ecn, Cursor *cursor, double now) except *:
    cdef uint64_t largest, delay, count, first, gap, length, low, newest, ect0 = 0, ect1 = 0, ce = 0
    cdef uint64_t frame_type = 0x03 if with_ecn else 0x02
    cdef AckFacts facts
    memset(&facts, 0, sizeof(AckFacts))
    if not (
        take_varint(cursor, &largest) and take_varint(cursor, &delay)
        and take_varint(cursor, &count) and take_varint(cursor, &first)
    ) or first > largest:
        return malformed(self, frame_type)
    if largest >= self.sent.next:  # RFC 9000 §13.1
        return violated(self, PROTOCOL_VIOLATION, frame_type, b"ACK of a packet never sent")
    low = largest - first
    newest = largest
    if not ack_range(self, low, largest, &facts):
        return violated(self, PROTOCOL_VIOLATION, frame_type, b"ACK of a packet number left out")
    while count:
        count -= 1
        if not take_varint(cursor, &gap) or not take_varint(cursor, &length):
            return malformed(self, frame_type)
        if low < gap + 2 or low - gap - 2 < length:
            return malformed(self, frame_type)  # §19.3.1: a negative packet number
        largest = low - gap - 2
        low = largest - length
        if not ack_range(self, low, largest, &facts):
            return violated(self, PROTOCOL_VIOLATION, frame_type, b"ACK of a number left out")
    if with_ecn and not (
        take_varint(cursor, &ect0) and take_varint(cursor, &ect1) and take_varint(cursor, &ce)
    ):
        return malformed(self, frame_type)
    if facts.any:
        if with_ecn or facts.marked:
            on_ecn_counts(
                self, &facts, not self.any_acked or newest > self.largest_acked, with_ecn,
                ect0, ect1, ce, now)
        after_ack(self, &facts, delay, now)
    if self.any_acked and newest > self.largest_acked:
        # An acknowledged ACK shows what is lost as well (RFC 9002 §6.1); and the ring moves on, so
        # that the next ACK frame does not walk what this one has.
        self.largest_acked = newest
        plane_detect_loss(self, now)
    if self.qlog is not None:
        qlog_state(self)
    return FRAME_OK


cdef bint ack_range(DataPlane self, uint64_t low, uint64_t high, AckFacts *facts) except *:
    """Packets low..high are acknowledged; False when one of them was left out."""
    cdef SentPackets *sent = &self.sent
    cdef SentPacket *packet
    cdef unsigned int i
    cdef uint64_t number
    for i in range(self.skipped_count):
        if self.skipped[i] < low:
            break
        if self.skipped[i] <= high:
            return False  # RFC 9000 §21.4: an optimistic acknowledgement
    number = low if low > sent.first else sent.first
    while number <= high:
        packet = sent_at(sent, number)
        if packet.state == IN_FLIGHT:
            packet.state = SETTLED
            facts.any = True
            facts.packets += 1
            if number >= self.path_first:
                facts.bytes += packet.size
                facts.window_used |= packet.window_used
                facts.marked += <unsigned int>packet.marked
                if packet.size >= self.mtu.current and not packet.is_probe:
                    facts.full = True
                    facts.largest_full = max(facts.largest_full, number)
            if number >= facts.largest:
                facts.largest, facts.largest_sent_at = number, packet.sent_at
            self.eliciting_in_flight -= 1
            if number >= self.seal_first:
                self.phase_acked = True
            settle_frame(self, &packet.frame, True)
            settle_others(self, packet, True)
            if packet.is_probe and mtu_probe_acked(&self.mtu, number):
                congestion_set_datagram_size(&self.congestion, self.mtu.current)
        elif packet.state == LOST:
            packet.state = SETTLED
            settle_frame(self, &packet.frame, True)
            self.counters.spurious += 1
            if self.event_losses and number >= self.event_first:
                self.event_losses -= 1
                if self.event_losses == 0:
                    congestion_spurious(&self.congestion)
        number += 1
    return True


cdef void on_ecn_counts(
    DataPlane self, const AckFacts *facts, bint newest, bint counted, uint64_t ect0, uint64_t ect1,
    uint64_t ce, double now,
) noexcept:
    if facts.largest < self.path_first:
        if newest and counted:
            ecn_counted(&self.ecn, ect0, ect1, ce)  # the new path begins there
    elif ecn_acked(&self.ecn, facts.marked, newest, counted, ect0, ect1, ce):
        congestion_ce(&self.congestion, facts.largest_sent_at, now)


cdef int after_ack(DataPlane self, AckFacts *facts, uint64_t delay, double now) except -1:
    cdef bint newest = not self.any_acked or facts.largest > self.largest_acked
    if newest:
        self.largest_acked = facts.largest
        if facts.largest >= self.path_first:
            rtt_sample(
                &self.rtt, now - facts.largest_sent_at,
                <double>(min(delay, <uint64_t>1 << 40) << self.peer_ack_delay_exponent) * 1e-6,
                self.confirmed, now)
    if not self.any_acked:
        self.any_acked = True
        self.control_called = True
        self.control.first_acknowledgement()
    self.counters.packets_acked += facts.packets
    if facts.bytes:
        congestion_acked(
            &self.congestion, &self.rtt, facts.bytes, facts.largest, facts.largest_sent_at,
            facts.window_used, now)
    if facts.full:
        mtu_packet_acked(&self.mtu, self.mtu.current, facts.largest_full)
    plane_detect_loss(self, now)
    self.pto_count = 0
    self.dirty = True
    if self.write_blocked and self.flow.buffered <= self.flow.send_window // 2:
        plane_wake_writers(self)
    return 0


cdef int plane_detect_loss(DataPlane self, double now) except -1:
    """RFC 9002 §6.1, for packets older than the largest acknowledged."""
    cdef SentPackets *sent = &self.sent
    cdef SentPacket *packet
    cdef uint64_t number, bytes_lost = 0, first_lost = 0, packets = 0
    cdef double delay = rtt_loss_delay(&self.rtt), first_at = 0, last_at = 0
    cdef double longest = 0  # between two lost packets, with none acknowledged in between
    cdef bint black_hole = False
    self.loss_at = 0
    number = max(self.flight_first, sent.first)
    while number < sent.next and self.any_acked and number < self.largest_acked:
        packet = sent_at(sent, number)
        if packet.state == IN_FLIGHT:
            if number + PACKET_THRESHOLD > self.largest_acked and packet.sent_at + delay > now:
                self.loss_at = packet.sent_at + delay
                break
            packet.state = LOST
            self.blocks.lost_behind = max(self.blocks.lost_behind, number + 1)
            self.eliciting_in_flight -= 1
            self.counters.packets_lost += 1
            if self.qlog is not None:
                qlog_lost(
                    self, number, number + PACKET_THRESHOLD > self.largest_acked, packet.is_probe)
            if packet.marked and number >= self.path_first:
                ecn_lost(&self.ecn)
            if number < self.path_first:
                pass  # RFC 9000 §9.4: it says nothing about this path
            elif packet.is_probe:
                packet.state = SETTLED
                congestion_discarded(&self.congestion, packet.size)
                mtu_probe_lost(&self.mtu, number)
                packet.size = 0
            else:
                if packets == 0:
                    first_lost = number
                bytes_lost += packet.size
                packets += 1
                if first_at == 0 and packet.sent_at > self.rtt.first_sample_at:
                    first_at = packet.sent_at
                last_at = packet.sent_at
                if first_at:
                    longest = max(longest, last_at - first_at)
                if mtu_packet_lost(&self.mtu, packet.size, number, sent.next - 1):
                    black_hole = True
            settle_frame(self, &packet.frame, False)
            settle_others(self, packet, False)
        elif packet.state == SETTLED and packet.size:
            first_at = 0  # acknowledged
        number += 1
    self.flight_first = number
    while self.flight_first < sent.next and (
        sent_at(sent, self.flight_first).state != IN_FLIGHT
    ):
        self.flight_first += 1
    if packets:
        if congestion_lost(&self.congestion, bytes_lost, last_at, now):
            self.event_first, self.event_losses = first_lost, 0
        self.event_losses += packets
        # RFC 9002 §7.6: everything lost over more than three probe timeouts.
        if longest > 3 * rtt_pto(&self.rtt):
            congestion_persistent(&self.congestion)
            rtt_forget_minimum(&self.rtt)
        if black_hole:
            congestion_set_datagram_size(&self.congestion, self.mtu.current)
        self.dirty = True
    forget_lost(self)
    if self.eliciting_in_flight == 0:
        blocks_give_back(&self.blocks, sent.next)
    return 0


cdef void forget_lost(DataPlane self) noexcept:
    """Stop remembering lost packets whose ACK would be far too late."""
    cdef SentPackets *sent = &self.sent
    cdef SentPacket *packet
    sent.most = max(sent.most, sent.next - sent.first)
    while sent.first < sent.next:
        packet = sent_at(sent, sent.first)
        if packet.state == IN_FLIGHT:
            return
        if packet.state == LOST and sent.first + LOST_KEPT > self.largest_acked:
            return
        sent.first += 1
    sent_give_back(sent)


cdef int settle_frame(DataPlane self, Record *record, bint acked) except -1:
    """A STREAM frame was acknowledged or lost."""
    cdef Stream *stream
    cdef uint64_t stop
    if record.kind != STREAM_RECORD:
        return 0
    stream = stream_find(&self.streams, record.stream_id)
    if stream == NULL:
        return 0
    stop = record.offset + record.length
    if not acked:
        self.flow.retransmitted += record.length
        send_half_lost(&stream.send, record.offset, stop, record.fin)
        if send_half_has_data(&stream.send):
            queue_add(&self.queue, stream)
        return 0
    self.flow.buffered -= send_half_acked(&stream.send, record.offset, stop)
    if record.fin:
        stream.send.fin_acked = True
        stream.send.fin_lost = False
    if stream.send.fin_acked:
        plane_settle_stream(self, stream)
    return 0


cdef int settle_others(DataPlane self, SentPacket *packet, bint acked) except -1:
    """Everything else in a packet was acknowledged or lost; its records are given back."""
    cdef Record *record
    while packet.others != NULL:
        record = packet.others
        packet.others = record.next
        try:
            settle_record(self, record, acked)
        finally:
            record_free(&self.sent, record)
    return 0


cdef int settle_record(DataPlane self, Record *record, bint acked) except -1:
    cdef Stream *stream
    if record.kind == STREAM_RECORD:
        settle_frame(self, record, acked)
    elif record.kind == CONTROL_RECORD:
        token = <object>record.token
        Py_DECREF(token)
        record.token = NULL
        self.control_called = True
        self.control.delivered(token, acked)
    elif record.kind == ACK_RECORD:
        if acked:
            received_ack_delivered(&self.received, record.offset)
    elif record.kind == PING_RECORD:
        if acked:
            plane_event(self, EVENT_PING_ACKED, record.offset)
        else:
            self.pings.append(record.offset)
    elif record.kind == MAX_DATA_RECORD:
        self.flow.credit_due |= not acked and record.offset == self.flow.credit
    elif record.kind == MAX_STREAMS_RECORD:
        self.counts[record.stream_id].limit_due |= not acked
    elif record.kind == BLOCKED_RECORD:
        self.counts[record.stream_id].blocked_due |= (
            not acked and self.counts[record.stream_id].blocked)
    else:
        stream = stream_find(&self.streams, record.stream_id)
        if stream != NULL:
            settle_stream_control(self, stream, record, acked)
    if not acked:
        self.dirty = True
    return 0


cdef void settle_stream_control(
    DataPlane self, Stream *stream, Record *record, bint acked
) noexcept:
    """MAX_STREAM_DATA, RESET_STREAM and STOP_SENDING."""
    if record.kind == RESET_RECORD and acked:
        stream.send.reset_acked = True
        plane_settle_stream(self, stream)
        return
    if acked:
        return
    if record.kind == RESET_RECORD:
        stream.send.reset_due = True
    elif record.kind == STOP_RECORD and not stream.receive.size_known:
        stream.receive.stop_due = True
    elif (
        record.kind == MAX_STREAM_DATA_RECORD and record.offset == stream.receive.credit
        and not stream.receive.size_known
    ):
        stream.receive.credit_due = True
    plane_due(self, stream)


cdef double plane_pto_at(DataPlane self) noexcept:
    """When the probe timeout fires; 0: it is not armed (RFC 9002 §6.2.1, §6.2.2.1)."""
    if self.eliciting_in_flight == 0 or not self.confirmed or (
        0 <= self.allowance < ALLOWANCE_LEAST
    ):
        return 0
    # RFC 9000 §13.2.2: a second packet is acknowledged at once. So the first probe need not wait
    # for the peer's longest delay where more than one is in flight (as RFC 8985 §7.2 has it): else
    # a lost ACK of all of a small window costs many round trips.
    if self.pto_count == 0 and self.eliciting_in_flight > 1:
        return self.last_eliciting_at + rtt_pto(&self.rtt) - max(
            0.0, self.rtt.max_ack_delay - AT_ONCE)
    return self.last_eliciting_at + rtt_pto(&self.rtt) * <double>(
        1 << min(self.pto_count, <unsigned int>PTO_BACKOFF_MOST))


cdef double plane_deadline(DataPlane self) noexcept:
    """The earliest time at which there is something to do, or the connection is idle; 0: none."""
    cdef double earliest = self.loss_at if self.loss_at else plane_pto_at(self)
    cdef double idle_at
    if self.ack_at and (earliest == 0 or self.ack_at < earliest):
        earliest = self.ack_at
    if self.pacing_at and (earliest == 0 or self.pacing_at < earliest):
        earliest = self.pacing_at
    if self.idle_limit:  # RFC 9000 §10.1: at least three PTO
        idle_at = self.idle_from + max(self.idle_limit, 3 * rtt_pto(&self.rtt))
        if earliest == 0 or idle_at < earliest:
            earliest = idle_at
    return 0 if self.closing else earliest


cdef int plane_on_timer(DataPlane self, double now) except -1:
    cdef double pto_at
    if self.closing:
        return 0
    if self.pacing_at and now >= self.pacing_at:
        self.pacing_at = 0
        self.dirty = True
    if self.ack_at and now >= self.ack_at:
        self.ack_at = 0
        self.received.urgent = self.dirty = True
    if self.loss_at:
        if now >= self.loss_at:
            if self.qlog is not None:
                qlog_timer(self, False)
            plane_detect_loss(self, now)
        return 0
    pto_at = plane_pto_at(self)
    if pto_at and now >= pto_at:
        self.pto_count += 1
        self.last_eliciting_at = now  # also where nothing may leave: the next one is later still
        self.counters.ptos += 1
        if self.qlog is not None:
            qlog_timer(self, True)
        self.probes = PROBES
        self.dirty = True
        plane_probe(self)
    return 0


cdef int plane_probe(DataPlane self) except -1:
    """RFC 9002 §6.2.4: probes carry the oldest data again; the packets are not declared lost."""
    cdef SentPackets *sent = &self.sent
    cdef SentPacket *packet
    cdef uint64_t number = max(self.flight_first, sent.first)
    cdef unsigned int found = 0
    while number < sent.next and found < PROBES:
        packet = sent_at(sent, number)
        if packet.state == IN_FLIGHT and not packet.is_probe:
            found += 1
            settle_frame(self, &packet.frame, False)
            settle_others(self, packet, False)
        number += 1
    self.ping_due = True  # when there is nothing else, and harmless when there is
    return 0
