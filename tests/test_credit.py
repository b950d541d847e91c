"""Windows that grow with the pace of the reader, and the frames that tell of them.

One data plane against a peer that says what the test wants; the clock is the test's. The round trip
is 50 ms.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import views
from aioquic.buffer import Buffer
from aioquic.quic.packet import pull_quic_transport_parameters
from data_peer import DataPeer, ack, frame, stream
from pair import Pair as MemoryPair
from pair import Reader, Writer, our_pair, stock
from pair import fast as fast_connection
from wiretap import parse

from rawquic.config import Config
from rawquic.connection import seam

pytestmark = pytest.mark.usefixtures("fast_only")

KIB, MIB = 1 << 10, 1 << 20
MOST, FIRST, STREAM_MOST = 2 * MIB, 32 * KIB, 160 * KIB
TRIP = 0.05
MAX_DATA, MAX_STREAM_DATA = 0x10, 0x11


class Upload:
    """The peer sends on one stream; the plane's application reads at once."""

    def __init__(self, peer: DataPeer, stream_id: int = 0) -> None:
        self.peer, self.id, self.sent, self.read = peer, stream_id, 0, 0

    def send(self, size: int) -> None:
        for offset in range(self.sent, self.sent + size, KIB):
            assert self.peer.send(stream(self.id, offset, bytes(KIB)))
        self.sent += size
        assert self.peer.failure() is None

    def take(self) -> None:
        while data := self.peer.plane.read(self.id, 1 << 20):
            self.read += len(data)

    def move(self, size: int) -> dict[int, int]:
        """`size` more bytes are sent and read; what the plane says of credit, by frame type."""
        self.send(size)
        self.take()
        return told(self.peer)


def told(peer: DataPeer) -> dict[int, int]:
    """The credit frames that the plane sends now: MAX_DATA, and MAX_STREAM_DATA of any stream."""
    return {kind: fields[-1] for _, kind, *fields in credit_frames(peer)}


def credit_frames(peer: DataPeer) -> Iterator[tuple[Any, ...]]:
    for number, payload in peer.collect():
        for each in parse(payload):
            if each[0] in (MAX_DATA, MAX_STREAM_DATA):
                yield (number, *each)


def window(peer: DataPeer) -> int:
    """Of streams, now."""
    size: int = peer.plane.inspect()["stream_window"]
    return size


def narrow(**settings: Any) -> DataPeer:
    return DataPeer(
        **{"receive_window": MOST, "first_stream_window": FIRST, "stream_window": STREAM_MOST}
        | settings
    )


# -- what the peer is told at first ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "connection", "of_stream"),
    [
        (Config(), 8 * MIB, MIB // 2),
        (Config(stream_receive_window=100_000), 8 * MIB, 100_000),
        (Config(receive_window=1 << 30), 1 << 30, MIB // 2),
        (Config(receive_window=9000, stream_receive_window=8000), 9000, 8000),
        (Config(receive_window=9000), 9000, MIB // 2),
    ],
)
@pytest.mark.parametrize("is_client", [False, True])
def test_the_transport_parameters_tell_the_first_windows(
    config: Config, connection: int, of_stream: int, is_client: bool
) -> None:
    if is_client:
        ours = fast_connection(True, config)
        peer = stock(False, odcid=ours.original_destination_connection_id)
        MemoryPair(ours, peer).handshake()
    else:
        peer = stock(True)
        ours = fast_connection(False, config, odcid=peer.original_destination_connection_id)
        MemoryPair(peer, ours).handshake()
    (data,) = (value for kind, value in peer.tls.received_extensions if kind == 0x39)
    told = pull_quic_transport_parameters(Buffer(data=data))
    assert told.initial_max_data == connection
    assert told.initial_max_stream_data_bidi_local == of_stream
    assert told.initial_max_stream_data_bidi_remote == of_stream
    assert told.initial_max_stream_data_uni == of_stream
    assert ours.plane.inspect()["credit"] == connection


def test_streams_that_nobody_reads_fill_their_first_windows_and_then_the_connections() -> None:
    pair = our_pair().handshake()
    writers = [Writer(pair, pair.client, bytes(3 * MIB)) for _ in range(4)]
    pair.run(5.0)
    assert [writer.offset for writer in writers] == [MIB // 2] * 4
    writers += [Writer(pair, pair.client, bytes(3 * MIB)) for _ in range(20)]
    pair.run(5.0)
    assert sum(writer.offset for writer in writers) == 8 * MIB
    assert views.data_credit(pair.client) == 8 * MIB


def test_others_go_on_beside_streams_that_nobody_reads() -> None:
    class OnlyTheLast(Reader):
        def _read(self, stream_id: int) -> None:
            if stream_id == 26:
                super()._read(stream_id)

    pair = our_pair(None, Config(receive_window=4 * MIB)).handshake()
    for _ in range(6):
        Writer(pair, pair.client, bytes(3 * MIB))
    pair.run(1.0)
    reader = OnlyTheLast(pair, pair.server)
    data = os.urandom(16 * MIB)
    assert Writer(pair, pair.client, data).stream_id == 26
    pair.run_until(lambda: 26 in reader.ended)
    assert reader.data[26] == data


# -- growth ----------------------------------------------------------------------------------------


def test_the_window_doubles_while_half_is_read_within_two_round_trips() -> None:
    peer = narrow()
    upload = Upload(peer)
    peer.now += 1.9 * TRIP
    assert upload.move(FIRST // 2) == {MAX_STREAM_DATA: upload.read + 2 * FIRST}
    assert window(peer) == 2 * FIRST
    peer.now += 1.9 * TRIP
    upload.move(FIRST // 2)
    assert window(peer) == 2 * FIRST  # a quarter of what it is now
    assert upload.move(FIRST // 2)[MAX_STREAM_DATA] == upload.read + 4 * FIRST
    peer.now += 1.9 * TRIP
    assert upload.move(2 * FIRST)[MAX_STREAM_DATA] == upload.read + STREAM_MOST
    for _ in range(5):
        assert upload.move(40 * KIB)[MAX_STREAM_DATA] == upload.read + STREAM_MOST
    assert window(peer) == STREAM_MOST


def test_what_is_read_of_any_stream_counts() -> None:
    peer = narrow()
    uploads = [Upload(peer, 4 * number) for number in range(4)]
    for upload in uploads:
        upload.move(FIRST // 8)
    assert window(peer) == FIRST
    uploads[0].move(FIRST // 8)
    assert window(peer) == 2 * FIRST


def test_the_window_stays_where_the_reader_is_slower() -> None:
    peer = narrow()
    upload = Upload(peer)
    for _ in range(20):
        peer.now += 2.1 * TRIP
        assert upload.move(FIRST // 2)[MAX_STREAM_DATA] == upload.read + FIRST
    assert window(peer) == FIRST


def test_a_pause_counts_against_the_first_quarter_behind_it() -> None:
    peer = narrow()
    upload = Upload(peer)
    peer.now += 60.0
    upload.move(FIRST // 2)
    assert window(peer) == FIRST
    upload.move(FIRST // 2)
    assert window(peer) == 2 * FIRST


def test_what_is_given_up_unread_is_no_pace() -> None:
    """A peer that resets its streams gets their credit back, and no larger window by that."""
    peer = narrow()
    for number in range(20):
        assert peer.send(frame(0x04, 2 + 4 * number, 0, FIRST))
        told(peer)
    assert peer.plane.inspect()["consumed"] == 20 * FIRST
    assert Upload(peer).move(FIRST // 4) == {MAX_STREAM_DATA: FIRST // 4 + FIRST}
    assert window(peer) == FIRST


@pytest.mark.parametrize(("gap", "grows"), [(0.0039, True), (0.0041, False)])
def test_on_a_local_path_two_round_trips_are_four_milliseconds(gap: float, grows: bool) -> None:
    peer = narrow()
    for _ in range(200):  # the smoothed round trip goes down to that of the path
        peer.plane.begin(peer.now, 1e-6, 0.0)
    upload = Upload(peer)
    peer.now += gap
    upload.move(FIRST // 2)
    assert window(peer) == (2 * FIRST if grows else FIRST)


def test_a_window_that_is_set_holds_at_once() -> None:
    peer = narrow()
    peer.plane.set_receive_window(4 * MIB)
    assert told(peer)[MAX_DATA] == 4 * MIB
    upload = Upload(peer)
    peer.plane.set_receive_window(KIB)
    assert told(peer) == {}  # what was given stays given
    upload.move(FIRST)
    assert peer.plane.inspect()["credit"] == 4 * MIB
    assert peer.plane.inspect()["window"] == KIB


def test_the_cap_is_reached_on_a_path_of_100_ms_and_nothing_is_lost_by_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As fast as with the full windows from the start, but for a tenth."""
    seconds = []
    for first in (seam.FIRST_STREAM_WINDOW, 4 * MIB):
        monkeypatch.setattr(seam, "FIRST_STREAM_WINDOW", first)
        pair = our_pair(Config(send_window=64 * MIB), latency=0.05).handshake()
        began, reader = pair.now, Reader(pair, pair.server)
        writer = Writer(pair, pair.client, bytes(8 * MIB))
        pair.run_until(lambda: writer.stream_id in reader.ended)  # noqa: B023
        seconds.append(pair.now - began)
        assert pair.server.plane.inspect()["stream_window"] == 4 * MIB
    assert seconds[0] < 1.1 * seconds[1]


# -- streams ---------------------------------------------------------------------------------------


def test_a_stream_beyond_its_credit_is_an_error_also_below_the_cap() -> None:
    peer = narrow()
    peer.send(stream(0, FIRST, b"x"))
    assert peer.failure() == 0x3  # FLOW_CONTROL_ERROR


def test_new_streams_get_what_the_connection_has_learnt() -> None:
    peer = narrow()
    upload = Upload(peer)
    while window(peer) < STREAM_MOST:
        upload.move(FIRST // 4)
    upload.move(KIB)
    # One of the peer's: told when something of it is read.
    assert Upload(peer, 4).move(KIB) == {MAX_STREAM_DATA: KIB + STREAM_MOST}
    # One of ours: told with its first bytes, and not before the application sends them.
    own = peer.plane.open_stream(False)
    assert not list(credit_frames(peer))
    peer.plane.write(own, b"request", 0)
    assert [each[1:] for each in credit_frames(peer)] == [(MAX_STREAM_DATA, own, STREAM_MOST)]
    # A whole one needs none.
    peer.send(stream(8, 0, bytes(KIB), fin=True))
    assert peer.plane.read(8, MIB) and not list(credit_frames(peer))


def test_a_stream_whose_end_is_known_gets_no_credit() -> None:
    peer = narrow()
    upload = Upload(peer)
    upload.send(FIRST // 4)
    upload.take()  # MAX_STREAM_DATA is due
    peer.send(stream(0, upload.sent, b"", fin=True))
    assert not list(credit_frames(peer))


# -- how often, and again --------------------------------------------------------------------------


def test_credit_is_told_once_a_quarter_of_the_window() -> None:
    peer = narrow(receive_window=320 * KIB, first_stream_window=STREAM_MOST)
    upload = Upload(peer)
    kinds: list[int] = []
    for _ in range(1000):
        upload.send(2 * KIB)
        upload.take()
        found = [kind for _, kind, *_ in credit_frames(peer)]
        if found:
            peer.send(acknowledgement(peer, but=-1))
        kinds += found
    assert abs(kinds.count(MAX_DATA) - upload.read // (80 * KIB)) <= 1
    assert abs(kinds.count(MAX_STREAM_DATA) - upload.read // (40 * KIB)) <= 1


@pytest.mark.parametrize("kind", [MAX_DATA, MAX_STREAM_DATA])
@pytest.mark.parametrize("lost", ["older", "newest"])
def test_the_newest_credit_is_told_again_when_it_is_lost_and_no_older_one(
    kind: int, lost: str
) -> None:
    peer = narrow(receive_window=2 * FIRST)
    upload = Upload(peer)
    sent: list[tuple[int, int]] = []
    for _ in range(2):
        peer.now += 0.01
        upload.send(FIRST // 2)
        upload.take()
        sent += [(number, each[-1]) for number, *each in credit_frames(peer) if each[0] == kind]
    for _ in range(5):  # enough later packets to take an earlier one for lost
        peer.plane.ping(1)
        peer.collect()
    number, credit = sent[0 if lost == "older" else -1]
    assert peer.send(acknowledgement(peer, but=number))
    assert peer.plane.statistics()["packets_lost"] == 1
    assert told(peer).get(kind) == (None if lost == "older" else credit)


def acknowledgement(peer: DataPeer, *, but: int) -> bytes:
    """An ACK frame of all that the plane sent except one packet."""
    left_out = {but, *peer.plane.inspect()["skipped"]}
    numbers = [each for each in range(peer.largest, -1, -1) if each not in left_out]
    ranges: list[tuple[int, int]] = []
    for each in numbers:
        if ranges and ranges[-1][0] == each + 1:
            ranges[-1] = (each, ranges[-1][1])
        else:
            ranges.append((each, each))
    return ack(*ranges)
