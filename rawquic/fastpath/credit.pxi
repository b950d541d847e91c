# The credit that this end gives (RFC 9000 §4): it follows what the application reads, never what
# arrives; and windows that grow with the pace at which it reads.
#
# A connection begins with a small window, which doubles while the application reads fast for the
# path, up to what Config allows. So a peer that nobody reads fills the first window and no more.
# Credit is never taken back, and never exceeds what was read + the window.


cdef void windows_begin(
    DataPlane self, uint64_t first, uint64_t connection, uint64_t stream
) noexcept:
    """Start with `first` for the connection; it and its streams may come to the other two."""
    self.flow.window_most = connection
    self.flow.window = self.flow.credit = min(connection, first)
    self.stream_window = stream
    self.stream_credit = plane_stream_window(self)


cdef inline uint64_t plane_stream_window(DataPlane self) noexcept:
    """Unread bytes that a stream may hold now: one that is not read leaves room for the others."""
    if self.flow.window == self.flow.window_most:
        return self.stream_window
    return min(self.stream_window, self.flow.window // 2)


cdef void plane_weigh_window(DataPlane self, double now) noexcept:
    """Double the window when the application read a quarter of it in less than two round trips.

    A quarter of the connection's is half of a stream's: the pace of Chromium's QUIC. In slow start
    that keeps the window ahead of a sender that doubles as well; a window of the whole in two round
    trips would fall behind. On local paths a round trip is less than what event loops wait.
    """
    cdef Flow *flow = &self.flow
    if flow.window == flow.window_most or flow.read - flow.read_before < flow.window // 4:
        return
    if now - flow.weighed_at < 2 * max(self.rtt.smoothed, RTT_LOCAL):
        flow.window = min(2 * flow.window, flow.window_most)
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
    """The same for a stream. One that is new lacks credit where windows have grown since."""
    cdef ReceiveHalf *receive = &stream.receive
    cdef uint64_t window = plane_stream_window(self)
    if not receive.exists or receive.size_known or receive.stopped:
        return
    if not receive.credit_due and receive.consumed + window >= receive.credit + window // 4:
        receive.credit_due = True
        plane_due(self, stream)
