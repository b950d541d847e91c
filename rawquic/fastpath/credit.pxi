# The credit that this end gives (RFC 9000 §4): it follows what the application reads, never what
# arrives; and stream windows that grow with the pace at which it reads.
#
# The connection's window is that of Config from the start. A stream's begins small, and doubles while
# the application reads fast for the path, up to what Config allows. So a stream that nobody reads
# takes little of what the others share. Credit is never taken back, and never exceeds what was read
# + the window.


cdef void windows_begin(
    DataPlane self, uint64_t connection, uint64_t first_stream, uint64_t stream
) noexcept:
    """Start with `connection`, and `first_stream` for a stream, which may come to `stream`."""
    self.flow.window = self.flow.credit = connection
    self.stream_window_most = stream
    self.stream_window = self.stream_credit = min(stream, first_stream)


cdef void plane_weigh_window(DataPlane self, double now) noexcept:
    """Double the streams' window when half of it was read, of any, in less than two round trips.

    The pace of Chromium's QUIC. In slow start that keeps the window ahead of a sender that doubles as
    well; the whole in two round trips would fall behind. On local paths a round trip is less than
    what event loops wait.
    """
    cdef Flow *flow = &self.flow
    if (
        self.stream_window == self.stream_window_most
        or flow.read - flow.read_before < self.stream_window // 2
    ):
        return
    if now - flow.weighed_at < 2 * max(self.rtt.smoothed, RTT_LOCAL):
        self.stream_window = min(2 * self.stream_window, self.stream_window_most)
    flow.read_before, flow.weighed_at = flow.read, now


cdef void plane_consumed(DataPlane self, Stream *stream, uint64_t size) noexcept:
    """`size` bytes of credit came back: enough of them, and the peer is told (RFC 9000 §4.2)."""
    cdef Flow *flow = &self.flow
    flow.consumed += size
    # A quarter of the window: the peer has three quarters left for the round trip, and a byte
    # costs it no more than four frames a window. An eighth measured no faster.
    if not flow.credit_due and (
        flow.consumed + flow.window >= flow.credit + flow.window // 4
    ):
        flow.credit_due = self.dirty = True
    if stream != NULL:
        plane_stream_consumed(self, stream)


cdef void plane_stream_consumed(DataPlane self, Stream *stream) noexcept:
    """The same for a stream. One that is new lacks credit where the window has grown since."""
    cdef ReceiveHalf *receive = &stream.receive
    cdef uint64_t window = self.stream_window
    if not receive.exists or receive.size_known or receive.stopped:
        return
    if not receive.credit_due and receive.consumed + window >= receive.credit + window // 4:
        receive.credit_due = True
        plane_due(self, stream)
