"""What `Connection.stats()` and `Server.stats()` return."""

from dataclasses import dataclass

from .connection.interface import PathStatistics


@dataclass(frozen=True)
class ConnectionStats(PathStatistics):
    """Counters of one connection since its start; times in seconds, sizes in bytes.

    The fields that begin with `socket_` count for the whole UDP socket, which several connections
    may share.

    Attributes:
        udp_datagrams_received, udp_bytes_received, udp_datagrams_sent, udp_bytes_sent: UDP payloads
            of this connection.
        packets_sent, packets_lost, packets_acked: QUIC packets that count as in flight.
        bytes_in_flight, congestion_window, congestion_events: RFC 9002 §7.
        rtt, rtt_min, rtt_variance: RFC 9002 §5.
        mtu: the largest UDP payload that is sent now.
        ecn: whether packets are marked as ECT(0) (RFC 9000 §13.4): "off"; "testing", the first ones
            of a path are; "unknown", they were, and it is not known what became of the marks;
            "capable", all are; "failed", the path or the peer does not handle marks.
        ecn_ce: packets that met congestion, as the peer counted them.
        bytes_retransmitted: stream bytes that were sent again, or are about to be.
        bytes_given_up: written bytes that were not acknowledged when `aclose` stopped waiting.
        key_updates, peer_key_updates: changes of keys begun by this end, and by the peer.
        datagrams_dropped_send: the send buffer was full, the oldest went.
        datagrams_dropped_receive: the receive buffer was full, the oldest went.
        datagrams_dropped_mtu: the path's MTU went below their size while they waited.
        socket_receive_calls, socket_send_calls: system calls that carried datagrams.
        socket_datagrams_received, socket_datagrams_sent: UDP datagrams in them.
        socket_receive_buffer, socket_send_buffer: what the kernel granted.
    """

    bytes_given_up: int
    socket_receive_calls: int
    socket_send_calls: int
    socket_datagrams_received: int
    socket_datagrams_sent: int
    socket_receive_buffer: int
    socket_send_buffer: int


@dataclass(frozen=True)
class ServerStats:
    """Counters of one server since its start.

    Attributes:
        sessions: open now. sessions_total: since the start.
        refused: clients that got CONNECTION_REFUSED. retried: that got a Retry.
        dropped: Initial packets dropped above `Config.max_handshakes`.
        packets_unroutable: datagrams that belong to no connection.
        resets_sent: stateless resets (RFC 9000 §10.3).
        receive_buffer, send_buffer: what the kernel granted the socket, bytes.
        socket: counters of the UDP socket. `send_errors` are datagrams that the system refused, or
            dropped before they left the machine.
    """

    sessions: int
    sessions_total: int
    refused: int
    retried: int
    dropped: int
    packets_unroutable: int
    resets_sent: int
    receive_buffer: int
    send_buffer: int
    socket: dict[str, int]
