# What is inside a data plane, as plain Python values: counters for the application; all of it for
# tests, and for whoever looks for a fault.
#
# It walks everything and changes nothing; no packet ever waits for it.


# Of EcnState, in its order.
cdef tuple ECN_NAMES = ("off", "testing", "unknown", "capable", "failed")


cdef dict plane_inspect(DataPlane self):
    cdef Flow *flow = &self.flow
    cdef Stream *stream
    cdef uint64_t i, chain, longest = 0
    cdef dict streams = {}
    cdef Block *block = self.blocks.head
    cdef unsigned int blocks = 0
    while block != NULL:
        blocks += 1
        block = block.next
    for i in range(self.streams.room):
        stream = self.streams.buckets[i]
        chain = 0
        while stream != NULL:
            streams[stream.id] = {
                "sent": stream.send.next,
                "send_credit": stream.send.credit,
                "receive_credit": stream.receive.credit,
                "waiting": stream.receive.next - stream.receive.consumed,
                "ranges": stream.receive.ahead.count,
            }
            stream = stream.bucket_next
            chain += 1
        longest = max(longest, chain)
    return {
        "streams": streams,
        "longest_chain": longest,
        "peer_credit": flow.peer_credit,
        "peer_stream_limits": (self.counts[0].own_limit, self.counts[1].own_limit),
        "stream_limits": (self.counts[0].peer_limit, self.counts[1].peer_limit),
        "credit": flow.credit,
        "window": flow.window,
        "stream_window": self.stream_window,
        "received": flow.received,
        "consumed": flow.consumed,
        "written": flow.written,
        "buffered": flow.buffered,
        "next_number": self.sent.next,
        "largest_acked": self.largest_acked if self.any_acked else -1,
        "blocks_lent": blocks,
        "failed_opens": self.counters.failed_opens,
        "placed": self.counters.placed,
        "skipped": [self.skipped[i] for i in range(self.skipped_count)],
        "ring": self.sent.next - self.sent.first,
        "eliciting_in_flight": self.eliciting_in_flight,
        "window_ceiling": self.congestion.soft_ceiling,
        "phases": (self.seal_phase, self.open_phase),
        "ptos": self.counters.ptos,
        "spurious": self.counters.spurious,
        "glitches": self.glitches,
        "latest_rtt": self.rtt.latest,
        "black_holes": self.mtu.black_holes,
        "ecn_received": (self.received.ect0, self.received.ect1, self.received.ce),
        "pings": PyList_GET_SIZE(self.pings),
        "control_frames": PyList_GET_SIZE(self.control_frames),
        "datagrams_out": self.datagrams_out.count,
        "datagrams_in": self.datagrams_in.count,
    }


cdef dict plane_statistics(DataPlane self):
    cdef Counters *c = &self.counters
    return {
        "rtt": self.rtt.smoothed,
        "rtt_min": self.rtt.minimum if self.rtt.valid else self.rtt.smoothed,
        "rtt_variance": self.rtt.variance,
        "congestion_window": self.congestion.window,
        "bytes_in_flight": self.congestion.bytes_in_flight,
        "congestion_events": self.congestion.events,
        "mtu": self.mtu.current,
        "ecn": ECN_NAMES[self.ecn.state],
        "ecn_ce": self.ecn.ce,
        "packets_sent": c.packets_sent,
        "packets_lost": c.packets_lost,
        "packets_acked": c.packets_acked,
        "udp_datagrams_received": c.datagrams_received,
        "udp_bytes_received": c.bytes_received,
        "udp_datagrams_sent": c.packets_sent,
        "udp_bytes_sent": c.bytes_sent,
        "bytes_retransmitted": self.flow.retransmitted,
        "key_updates": c.key_updates,
        "peer_key_updates": c.peer_key_updates,
        "datagrams_dropped_send": self.datagrams_out.dropped,
        "datagrams_dropped_receive": self.datagrams_in.dropped,
        "datagrams_dropped_mtu": self.datagrams_too_large,
    }
