# qlog of 1-RTT packets: what the data plane tells the QlogTrace of its connection (rawquic.qlog).
#
# Callers test `self.qlog is not None`, which is all that it costs when it is off. Nothing here may
# hurt the connection: what the trace raises ends its log.


cdef void qlog_tell(DataPlane self, str method, tuple arguments) noexcept:
    trace = self.qlog
    if trace is None:
        return  # since the caller looked
    try:
        getattr(trace, method)(*arguments)
    except Exception as error:
        trace.give_up(error)
    if trace.ended:
        self.qlog = None


cdef bytes qlog_plaintext(const Outbox *out):
    """The batch before it is sealed. STREAM data that lies elsewhere is not in it.

    The trace is called when all is sealed, not here: Python may free the application's bytes.
    """
    return PyBytes_FromStringAndSize(<const char *>out.plain, <Py_ssize_t>out.used)


cdef void qlog_sent(DataPlane self, const Outbox *out, bytes plaintext) noexcept:
    cdef const SealJob *job
    cdef Py_ssize_t at
    cdef uint64_t number
    cdef unsigned int i
    cdef bint probe
    for i in range(out.count):
        job = &out.jobs[i]
        at = job.plain - out.plain
        number = job.packet_number
        probe = self.sent.first <= number < self.sent.next and sent_at(&self.sent, number).is_probe
        packet = plaintext[at:at + <Py_ssize_t>job.length - AEAD_TAG_LENGTH]
        qlog_tell(
            self, "packet_sent",
            (number, packet, job.header_length, self.ack_delay_exponent, probe))
    qlog_state(self)


cdef void qlog_received(DataPlane self, const Segment *segment) noexcept:
    packet = PyBytes_FromStringAndSize(
        <const char *>segment.start, <Py_ssize_t>(segment.length - AEAD_TAG_LENGTH))
    qlog_tell(
        self, "packet_received",
        (segment.number, packet, segment.header_length, self.peer_ack_delay_exponent))


cdef void qlog_dropped(DataPlane self, const OpenJob *job) noexcept:
    qlog_tell(self, "packet_dropped", (job.length,))


cdef void qlog_lost(DataPlane self, uint64_t number, bint by_time, bint probe) noexcept:
    qlog_tell(self, "packet_lost", (number, by_time, probe))


cdef void qlog_key_updated(DataPlane self, bint sending, bint local) noexcept:
    qlog_tell(self, "key_updated", (sending, local))


cdef void qlog_timer(DataPlane self, bint pto) noexcept:
    qlog_tell(self, "timer_expired", (pto,))


cdef void qlog_state(DataPlane self) noexcept:
    """Recovery metrics, congestion state, MTU and ECN; the trace sorts out what has changed."""
    cdef Congestion *congestion = &self.congestion
    cdef Rtt *rtt = &self.rtt
    cdef uint64_t first
    cdef dict metrics = {
        "congestion_window": congestion.window,
        "bytes_in_flight": congestion.bytes_in_flight,
        "packets_in_flight": self.eliciting_in_flight,
        "pto_count": self.pto_count,
    }
    if rtt.valid:
        metrics["smoothed_rtt"] = rtt.smoothed * 1e3
        metrics["latest_rtt"] = rtt.latest * 1e3
        metrics["rtt_variance"] = rtt.variance * 1e3
        if rtt.minimum != INFINITY:
            metrics["min_rtt"] = rtt.minimum * 1e3
    if congestion.ssthresh != UINT64_MAX:
        metrics["ssthresh"] = congestion.ssthresh
    first = max(self.flight_first, self.sent.first)
    # RFC 9002 §7.3.2, but for a round trip in which what was sent before it is still in flight.
    if first < self.sent.next and sent_at(&self.sent, first).sent_at <= congestion.recovery_start:
        state = "recovery"
    elif congestion_in_slow_start(congestion):
        state = "slow_start"
    else:
        state = "congestion_avoidance"
    qlog_tell(self, "state", (metrics, state, self.mtu.current, ECN_NAMES[self.ecn.state]))
