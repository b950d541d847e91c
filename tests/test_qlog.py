"""qlog files: what both backends write, frame by frame, and what a failing disk does.

The pair's clock is virtual and a log's is not, so that times are compared with each other only.
"""

import itertools
import json
import logging
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from loopback import Certificate
from loopback import pair as loopback
from pair import CLIENT, ELSEWHERE, SERVER, Pair, frame, our_pair, our_server, transfer

from rawquic import qlog
from rawquic.config import Config
from rawquic.qlog_frames import decode_frames

Record = dict[str, Any]
DATAGRAMS = 30
SIZE = 200_000


def read(path: Path) -> tuple[Record, list[Record]]:
    """The header of a log, and its events; every line parses, in the form of RFC 7464."""
    text = path.read_text()
    assert text.startswith("\x1e") and text.endswith("\n")
    header, *events = [json.loads(each) for each in text.split("\x1e")[1:]]
    return header, events


def logs(folder: Path) -> tuple[list[Record], list[Record]]:
    """The events of the client and of the server."""
    (client,) = folder.glob("*_client.sqlog")
    (server,) = folder.glob("*_server.sqlog")
    assert client.stem.split("_")[0] == server.stem.split("_")[0]
    return read(client)[1], read(server)[1]


def of(events: list[Record], name: str) -> list[Record]:
    return [each["data"] for each in events if each["name"].split(":")[1] == name]


def one_rtt(events: list[Record], name: str) -> list[Record]:
    return [data for data in of(events, name) if data["header"]["packet_type"] == "1RTT"]


def numbers(packets: list[Record]) -> list[int]:
    return [each["header"]["packet_number"] for each in packets]


def frames(packets: list[Record], kind: str) -> list[Record]:
    return [each for packet in packets for each in packet["frames"] if each["frame_type"] == kind]


def without_delays(frames: list[Record]) -> list[Record]:
    """aioquic logs what an ACK's delay is, not what it says."""
    return [{k: v for k, v in each.items() if k != "ack_delay"} for each in frames]


def logged_pair(folder: Path, **network: Any) -> Pair:
    config = Config(qlog_dir=folder)
    return our_pair(config, config, **network).handshake()


def exchange(pair: Pair) -> None:
    """Datagrams and a stream to the server; the pair is quiet afterwards."""
    for _ in range(DATAGRAMS):
        pair.client.send_datagrams([bytes(500)])
    assert transfer(pair, pair.client, bytes(SIZE)) == bytes(SIZE)
    pair.run(3)


def close(pair: Pair) -> None:
    pair.client.close_session(3, b"bye")
    pair.flush()
    pair.run(20)


@pytest.fixture
def transferred(backend: str, tmp_path: Path) -> tuple[Pair, Path]:
    pair = logged_pair(tmp_path, seed=5, loss=0.03)
    exchange(pair)
    close(pair)
    return pair, tmp_path


def test_files_are_what_qvis_reads(transferred: tuple[Pair, Path]) -> None:
    for path in transferred[1].iterdir():
        header, events = read(path)
        assert header["qlog_version"] == "0.3"  # one that it knows, in the first 1,000 bytes
        assert header["qlog_format"] == "JSON-SEQ"
        trace = header["trace"]
        role = path.stem.split("_")[1]
        assert trace["vantage_point"] == {"name": "rawquic", "type": role}
        assert trace["common_fields"]["time_format"] == "relative"
        assert trace["common_fields"]["ODCID"] == path.stem.split("_")[0]
        for event in events:
            assert event.keys() == {"time", "name", "data"}
            assert event["name"].count(":") == 1
        times = [event["time"] for event in events]
        assert times == sorted(times) and times[0] >= 0


def test_both_planes_are_in_it(transferred: tuple[Pair, Path]) -> None:
    for events in logs(transferred[1]):
        kinds = {each["header"]["packet_type"] for each in of(events, "packet_sent")}
        assert kinds == {"initial", "handshake", "1RTT"}
        assert of(events, "parameters_set")


def test_each_packet_is_logged_once(transferred: tuple[Pair, Path]) -> None:
    pair, folder = transferred
    client, server = logs(folder)
    for ours, theirs, connection in ((client, server, pair.client), (server, client, pair.server)):
        sent, received = one_rtt(ours, "packet_sent"), one_rtt(theirs, "packet_received")
        assert max(Counter(numbers(sent)).values()) == 1
        assert max(Counter(numbers(received)).values()) == 1
        assert numbers(sent) == sorted(numbers(sent))
        assert set(numbers(received)) < set(numbers(sent))  # 3 % are lost
        by_number = dict(zip(numbers(sent), sent, strict=True))
        for packet in received:
            same = by_number[packet["header"]["packet_number"]]
            assert without_delays(packet["frames"]) == without_delays(same["frames"])
            assert packet["raw"] == same["raw"]
        if connection.backend == "compiled":
            assert len(sent) == connection.statistics().packets_sent


def test_lost_packets_are_reported(transferred: tuple[Pair, Path]) -> None:
    pair, folder = transferred
    client, server = logs(folder)
    sent = one_rtt(client, "packet_sent")
    arrived = set(numbers(one_rtt(server, "packet_received")))
    lost = set(numbers(one_rtt(client, "packet_lost")))
    eliciting = [
        number
        for number, packet in zip(numbers(sent), sent, strict=True)
        if {each["frame_type"] for each in packet["frames"]} - {"ack", "connection_close"}
    ]
    missing = set(eliciting) - arrived
    assert missing and missing <= lost <= set(numbers(sent))
    if pair.client.backend == "compiled":  # aioquic reports ACKs as well
        assert lost <= set(eliciting)


def test_frames_add_up(transferred: tuple[Pair, Path]) -> None:
    client, server = logs(transferred[1])
    sent, received = one_rtt(client, "packet_sent"), one_rtt(server, "packet_received")
    covered = bytearray(SIZE)
    for each in frames(received, "stream"):
        assert each["stream_id"] == 2
        end = each["offset"] + each["length"]
        covered[each["offset"] : end] = b"\1" * each["length"]
        assert not each["fin"] or end == SIZE
    assert all(covered)
    assert any(each["fin"] for each in frames(received, "stream"))
    assert [each["length"] for each in frames(sent, "datagram")] == [500] * DATAGRAMS
    for each in frames(one_rtt(client, "packet_received"), "ack"):
        for low, high in each["acked_ranges"]:
            assert set(range(low, high + 1)) <= set(numbers(sent))
        assert 0 <= each["ack_delay"] < 1000
    (end,) = frames(sent[-1:], "connection_close")
    assert (end["error_space"], end["error_code"], end["reason"]) == ("application", 3, "bye")


def test_metrics_follow_recovery(transferred: tuple[Pair, Path]) -> None:
    client, _ = logs(transferred[1])
    metrics: Record = {}
    for data in of(client, "metrics_updated"):
        metrics |= data
    assert metrics["congestion_window"] > 2400
    assert metrics["bytes_in_flight"] >= 0
    assert 20 <= metrics["min_rtt"] <= metrics["smoothed_rtt"] < 60  # ms; latency is 10 each way
    assert {"latest_rtt", "rtt_variance"} <= metrics.keys()


def test_the_data_planes_own_events(fast_only: None, tmp_path: Path) -> None:
    pair = logged_pair(tmp_path, seed=5, loss=0.03)
    pair.client.update_keys()
    exchange(pair)
    dark = pair.now + 1
    pair.keep = lambda source, data: pair.now > dark  # a probe timeout
    pair.client.ping(1)
    pair.flush()
    pair.run(4)
    pair.keep = None
    close(pair)
    client, server = logs(tmp_path)
    states = of(client, "congestion_state_updated")
    assert states[0] == {"new": "slow_start"}
    assert {"recovery", "congestion_avoidance"} <= {each["new"] for each in states}
    for before, after in itertools.pairwise(states):
        assert after["old"] == before["new"]
    assert of(client, "mtu_updated") == [{"new": 1200}, {"old": 1200, "new": 1452}]
    probes = [each for each in one_rtt(client, "packet_sent") if "is_mtu_probe_packet" in each]
    assert probes and all(each["raw"]["length"] == 1452 for each in probes)
    assert frames(probes, "padding")[0]["payload_length"] > 1000
    updates = [each for each in of(client, "key_updated") if each["trigger"] != "tls"]
    assert updates == [
        {"key_type": "client_1rtt_secret", "trigger": "local_update"},
        {"key_type": "server_1rtt_secret", "trigger": "local_update"},
    ]
    updates = [each for each in of(server, "key_updated") if each["trigger"] != "tls"]
    assert updates == [
        {"key_type": "client_1rtt_secret", "trigger": "remote_update"},
        {"key_type": "server_1rtt_secret", "trigger": "remote_update"},
    ]
    timers = of(client, "loss_timer_updated")
    assert {"event_type": "expired", "timer_type": "pto"} in timers
    assert {1, 2} <= {data.get("pto_count") for data in of(client, "metrics_updated")}


@pytest.mark.parametrize("end", ["capable", "failed"])
def test_what_became_of_ecn(fast_only: None, tmp_path: Path, end: str) -> None:
    pair = our_pair(*[Config(qlog_dir=tmp_path)] * 2)
    if end == "failed":
        pair.remark = lambda source, codepoint: 0
    pair.handshake()
    exchange(pair)
    pair.addresses[pair.client] = ELSEWHERE  # a new path
    pair.client.ping(1)
    exchange(pair)
    close(pair)
    states = of(logs(tmp_path)[1], "ecn_state_updated")
    assert "old" not in states[0]
    assert [after["old"] for after in states[1:]] == [before["new"] for before in states[:-1]]
    seen = [each["new"] for each in states if each["new"] != "unknown"]
    assert seen == ["testing", end] * 2


def test_nothing_of_ecn_where_it_is_off(fast_only: None, tmp_path: Path) -> None:
    pair = our_pair(*[Config(qlog_dir=tmp_path, enable_ecn=False)] * 2).handshake()
    exchange(pair)
    close(pair)
    assert not of(logs(tmp_path)[1], "ecn_state_updated")


def test_packets_that_do_not_open_are_dropped(fast_only: None, tmp_path: Path) -> None:
    pair = logged_pair(tmp_path)
    packet = bytes([0x40]) + pair.server.host_cid + bytes(50)
    pair.deliver(pair.server, packet, CLIENT)
    close(pair)
    dropped = of(logs(tmp_path)[1], "packet_dropped")
    assert {
        "header": {"packet_type": "1RTT"},
        "raw": {"length": len(packet)},
        "trigger": "payload_decrypt_error",
    } in dropped


def test_coalesced_packets_are_not_called_dropped(fast_only: None, tmp_path: Path) -> None:
    pair = our_server(Config(qlog_dir=tmp_path))
    pair.client.connect(SERVER, 0.0)
    pair.client.send_stream_data(0, bytes(300))  # leaves behind the end of its handshake
    pair.flush()
    pair.run(1)
    pair.server.close_session(0, b"")
    pair.flush()
    pair.run(20)
    (path,) = tmp_path.iterdir()
    events = read(path)[1]
    assert frames(one_rtt(events, "packet_received"), "stream")
    # The zeros behind the client's first packet, which fill the datagram.
    assert [data["trigger"] for data in of(events, "packet_dropped")] == ["header_parse_error"]


def test_the_log_is_written_as_it_goes(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a connection lasts, a bounded part of its log is in memory."""
    monkeypatch.setattr(qlog, "WRITE_AT", 4096)
    pair = logged_pair(tmp_path)
    sizes = []
    for _ in range(3):
        exchange(pair)
        sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
        trace = pair.client._quic_logger
        assert trace._waiting < 8192 and len(trace._held) < 50
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_nothing_is_logged_without_a_folder(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QLOGDIR", raising=False)
    pair = our_pair()
    assert pair.client._quic_logger is None
    assert pair.client.plane is None or pair.client.plane.qlog is None


def test_the_variable_names_a_folder(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLOGDIR", str(tmp_path))
    close(our_pair().handshake())
    logs(tmp_path)


def test_a_failing_disk_ends_the_log_and_nothing_else(
    backend: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qlog, "WRITE_AT", 4096)
    folder = tmp_path / "logs"
    folder.mkdir()
    pair = logged_pair(folder)
    exchange(pair)
    shutil.rmtree(folder)
    with caplog.at_level(logging.WARNING, "rawquic"):
        exchange(pair)
        exchange(pair)
    warnings = [each for each in caplog.records if "qlog" in each.message]
    assert len(warnings) == 2  # one at each end
    assert pair.client.close_reason is None
    assert not pair.client._quic_logger._held and not folder.exists()
    assert pair.client.plane is None or pair.client.plane.qlog is None


def test_a_log_that_raises_does_not_end_the_connection(
    fast_only: None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = logged_pair(tmp_path)

    def broken(*arguments: Any) -> None:
        raise RuntimeError("out of ideas")

    for name in ("packet_sent", "packet_received", "state"):
        monkeypatch.setattr(pair.client._quic_logger, name, broken)
    with caplog.at_level(logging.WARNING, "rawquic"):
        exchange(pair)
    assert [each.message for each in caplog.records] == ["qlog of a connection ends: out of ideas"]
    assert pair.client.plane.qlog is None and pair.client.close_reason is None


def test_no_log_is_overwritten(backend: str, tmp_path: Path) -> None:
    """A client chooses the ID that names the file."""
    folder = qlog.QlogFolder(tmp_path)
    for _ in range(2):
        folder.start_trace(False, b"\1" * 8).close()
    assert len(list(tmp_path.iterdir())) == 2


def test_what_was_not_closed_is_written_in_the_end(tmp_path: Path) -> None:
    trace = qlog.QlogFolder(tmp_path).start_trace(True, b"\2" * 8)
    trace.log_event(category="transport", event="x", data={})
    del trace
    (path,) = tmp_path.iterdir()
    assert len(read(path)[1]) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_does_not_write_the_parents_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = qlog.QlogFolder(tmp_path).start_trace(True, b"\3" * 8)
    monkeypatch.setattr(os, "getpid", lambda: 0)
    trace.close()
    assert not list(tmp_path.iterdir())


FRAMES: dict[str, tuple[bytes, Record]] = {
    "padding": (bytes(7), {"payload_length": 7}),
    "ping": (frame(1), {}),
    "ack": (
        frame(2, 90, 50, 1, 10, 3, 20),
        {"ack_delay": 0.4, "acked_ranges": [[55, 75], [80, 90]]},
    ),
    "ack with ECN": (
        frame(3, 9, 0, 0, 9, 1, 2, 3),
        {"ack_delay": 0.0, "acked_ranges": [[0, 9]], "ect0": 1, "ect1": 2, "ce": 3},
    ),
    "reset_stream": (frame(4, 1, 2, 3), {"stream_id": 1, "error_code": 2, "final_size": 3}),
    "stop_sending": (frame(5, 1, 2), {"stream_id": 1, "error_code": 2}),
    "crypto": (frame(6, 7, 3, b"abc"), {"offset": 7, "length": 3}),
    "new_token": (frame(7, 3, b"abc"), {"length": 3, "token": "616263"}),
    "stream": (
        frame(15, 4, 1000, 3, b"abc"),
        {"stream_id": 4, "offset": 1000, "length": 3, "fin": True},
    ),
    "stream to the end": (
        frame(8, 4, b"abcd"),
        {"stream_id": 4, "offset": 0, "length": 4, "fin": False},
    ),
    "max_data": (frame(16, 1 << 40), {"maximum": 1 << 40}),
    "max_stream_data": (frame(17, 4, 9), {"stream_id": 4, "maximum": 9}),
    "max_streams": (frame(18, 9), {"maximum": 9, "stream_type": "bidirectional"}),
    "max_streams uni": (frame(19, 9), {"maximum": 9, "stream_type": "unidirectional"}),
    "data_blocked": (frame(20, 9), {"limit": 9}),
    "stream_data_blocked": (frame(21, 4, 9), {"stream_id": 4, "limit": 9}),
    "streams_blocked": (frame(22, 9), {"limit": 9, "stream_type": "bidirectional"}),
    "streams_blocked uni": (frame(23, 9), {"limit": 9, "stream_type": "unidirectional"}),
    "new_connection_id": (
        frame(24, 2, 1, b"\x08" + b"c" * 8 + b"t" * 16),
        {
            "sequence_number": 2,
            "retire_prior_to": 1,
            "length": 8,
            "connection_id": "63" * 8,
            "reset_token": "74" * 16,
        },
    ),
    "retire_connection_id": (frame(25, 2), {"sequence_number": 2}),
    "path_challenge": (frame(26, b"d" * 8), {"data": "64" * 8}),
    "path_response": (frame(27, b"d" * 8), {"data": "64" * 8}),
    "connection_close": (
        frame(28, 7, 6, 2, b"no"),
        {
            "error_space": "transport",
            "error_code": 7,
            "raw_error_code": 7,
            "trigger_frame_type": 6,
            "reason": "no",
        },
    ),
    "connection_close app": (
        frame(29, 7, 2, b"\xff!"),
        {
            "error_space": "application",
            "error_code": 7,
            "raw_error_code": 7,
            "reason": "\ufffd!",
        },
    ),
    "handshake_done": (frame(30), {}),
    "datagram": (frame(49, 3, b"abc"), {"length": 3}),
    "datagram to the end": (frame(48, b"abc"), {"length": 3}),
}


async def test_sessions_on_a_socket(certificate: Certificate, tmp_path: Path) -> None:
    """Whole when the session is over, with what the compiled loop carried."""
    config = Config(qlog_dir=tmp_path)
    async with loopback(certificate, config=config, server_config=config) as ends:
        send = await ends.client.open_uni()
        await send.write(bytes(SIZE))
        send.finish()
        assert len(await (await ends.peer.accept_uni()).read_to_end(SIZE)) == SIZE
    client, server = logs(tmp_path)
    received = frames(one_rtt(server, "packet_received"), "stream")
    assert sum(each["length"] for each in received) >= SIZE
    for events in (client, server):
        times = [event["time"] for event in events]
        assert times == sorted(times)
        sent = numbers(one_rtt(events, "packet_sent"))
        assert sent == sorted(set(sent))
    assert frames(one_rtt(client, "packet_sent"), "connection_close")
    assert frames(one_rtt(server, "packet_received"), "connection_close")


@pytest.mark.parametrize("name", FRAMES)
def test_frames(name: str) -> None:
    data, fields = FRAMES[name]
    (found,) = decode_frames(data, 3)
    assert found == {"frame_type": name.split()[0], **fields}
    if "end" not in name and "padding" not in name:
        assert decode_frames(data + frame(1), 3) == [found, {"frame_type": "ping"}]


@pytest.mark.parametrize("name", FRAMES)
def test_frames_cut_short(name: str) -> None:
    """What a peer sends may end anywhere, and is logged before it is judged."""
    data = FRAMES[name][0]
    for size in range(1, len(data)):
        found = decode_frames(frame(1) + data[:size], 3)
        assert found[0] == {"frame_type": "ping"}
        whole = "end" in name or "padding" in name
        assert whole or found[-1]["frame_type"] == "unknown"


def test_unknown_frames_end_the_list() -> None:
    assert decode_frames(frame(1) + frame(0x4000) + frame(1), 3) == [
        {"frame_type": "ping"},
        {"frame_type": "unknown", "raw_frame_type": 0x4000, "raw_length": 5},
    ]


def test_large_ack_delays_stay_numbers() -> None:
    (found,) = decode_frames(frame(2, 1, (1 << 62) - 1, 0, 0), 20)
    assert json.loads(json.dumps(found)) == found
