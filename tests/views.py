"""What a connection of any kind knows, read where that kind keeps it: for assertions."""

from typing import Any

from aioquic.tls import Epoch


def _plane(connection: Any) -> dict[str, Any] | None:
    plane = getattr(connection, "plane", None)
    return None if plane is None else plane.inspect()


def data_credit(connection: Any) -> int:
    """The peer's MAX_DATA."""
    plane = _plane(connection)
    return connection._remote_max_data if plane is None else plane["peer_credit"]


def stream_limit(connection: Any, unidirectional: bool = True) -> int:
    """The peer's MAX_STREAMS."""
    plane = _plane(connection)
    if plane is not None:
        limit: int = plane["peer_stream_limits"][unidirectional]
        return limit
    return (
        connection._remote_max_streams_uni
        if unidirectional
        else connection._remote_max_streams_bidi
    )


def streams(connection: Any) -> set[int]:
    """IDs of the streams whose state it keeps."""
    plane = _plane(connection)
    return set(connection._streams if plane is None else plane["streams"])


def stream_credit(connection: Any, stream_id: int) -> int:
    """The peer's MAX_STREAM_DATA."""
    plane = _plane(connection)
    if plane is None:
        return connection._streams[stream_id].max_stream_data_remote
    return plane["streams"][stream_id]["send_credit"]


def sent_up_to(connection: Any, stream_id: int) -> int:
    """The offset behind the last byte that was ever sent."""
    plane = _plane(connection)
    if plane is None:
        # A stream that is gone was sent whole.
        stream = connection._streams.get(stream_id)
        return 1 << 62 if stream is None else stream.sender.highest_offset
    return plane["streams"][stream_id]["sent"] if stream_id in plane["streams"] else 1 << 62


def holes(connection: Any, stream_id: int) -> int:
    """Disjoint ranges that arrived out of order."""
    plane = _plane(connection)
    if plane is None:
        return len(connection._streams[stream_id].receiver._ranges)
    return plane["streams"][stream_id]["ranges"]


def waiting(connection: Any, stream_id: int) -> int:
    """Bytes in order that nobody has read."""
    plane = _plane(connection)
    if plane is None:
        return connection._streams[stream_id].receiver.waiting
    return plane["streams"][stream_id]["waiting"]


def written(connection: Any) -> int:
    """Bytes that use up the peer's MAX_DATA."""
    plane = _plane(connection)
    return connection._written if plane is None else plane["written"]


def buffered(connection: Any) -> int:
    """Bytes that are written and not acknowledged."""
    plane = _plane(connection)
    return connection._buffered if plane is None else plane["buffered"]


def consumed(connection: Any) -> int:
    """Bytes that were read or given up."""
    plane = _plane(connection)
    return connection._consumed if plane is None else plane["consumed"]


def received(connection: Any) -> int:
    """Sum of the highest offsets of all streams."""
    plane = _plane(connection)
    return connection._local_max_data.used if plane is None else plane["received"]


def next_number(connection: Any) -> int:
    """The next packet number of the 1-RTT space."""
    plane = _plane(connection)
    return connection._packet_number if plane is None else plane["next_number"]


def key_phase(connection: Any) -> int:
    """Of the keys that the peer's last packet used."""
    plane = _plane(connection)
    return (
        connection._cryptos[Epoch.ONE_RTT].recv.key_phase if plane is None else plane["phases"][1]
    )


def largest_received(connection: Any) -> int:
    """The largest packet number of the 1-RTT space that was processed."""
    if getattr(connection, "plane", None) is not None:
        return connection.plane.largest_received
    return connection._spaces[Epoch.ONE_RTT].largest_received_packet


def datagrams_waiting(connection: Any) -> tuple[int, int]:
    """(to be sent, to be read)"""
    plane = _plane(connection)
    if plane is None:
        return connection._datagrams.waiting()
    return plane["datagrams_out"], plane["datagrams_in"]


def glitches(connection: Any) -> float:
    plane = _plane(connection)
    return connection._glitches if plane is None else plane["glitches"]


def latest_rtt(connection: Any) -> float:
    plane = _plane(connection)
    return connection._loss._rtt_latest if plane is None else plane["latest_rtt"]
