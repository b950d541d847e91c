"""The impairing relay of the benchmarks: fates are seeded, and bytes pass between real sockets."""

import socket
import sys
import threading
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

from relay import Direction, Impairment, Relay, running

PACKETS = [bytes([i % 256]) * 100 for i in range(2000)]


def fates(impairment, seed=1, packets=PACKETS):
    direction = Direction(impairment, seed)
    return [list(direction.fates(p, i * 0.001)) for i, p in enumerate(packets)], direction.count


def test_nothing_is_done_where_nothing_is_asked():
    told, _ = fates(Impairment())
    assert told == [[(i * 0.001, packet)] for i, packet in enumerate(PACKETS)]


def test_the_same_seed_gives_the_same_fates_and_another_others():
    impairment = Impairment(loss=0.1, jitter=0.01, duplication=0.1, corruption=0.1, reordering=0.1)
    assert fates(impairment)[0] == fates(impairment)[0]
    assert fates(impairment)[0] != fates(impairment, seed=2)[0]


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("loss", "lost"),
        ("duplication", "duplicated"),
        ("corruption", "corrupted"),
        ("reordering", "reordered"),
    ],
)
def test_each_probability_is_kept(name, counted):
    told, count = fates(Impairment(**{name: 0.1}))
    assert 120 < getattr(count, counted) < 280
    sent = sum(map(len, told))
    assert sent == len(PACKETS) - count.lost + count.duplicated


def test_a_corrupted_packet_has_one_bit_changed():
    told, _ = fates(Impairment(corruption=1.0))
    for packet, [(_, spoiled)] in zip(PACKETS, told, strict=True):
        difference = int.from_bytes(packet) ^ int.from_bytes(spoiled)
        assert difference.bit_count() == 1


def test_delay_is_added():
    told, _ = fates(Impairment(delay=0.05))
    assert told[7][0][0] == pytest.approx(0.007 + 0.05)


def test_a_bottleneck_spaces_packets_and_its_queue_overflows():
    """One is being sent while nine wait; the size of those that wait is no matter."""
    direction = Direction(Impairment(rate=100_000, queue=9), 1)
    told = [list(direction.fates(bytes(100), 0.0)) for _ in range(20)]
    passed = [fate[0][0] for fate in told if fate]
    assert len(passed) == 10
    assert direction.count.queue_full == 10
    assert passed == pytest.approx([0.001 * (i + 1) for i in range(10)])


def test_a_bottleneck_takes_packets_again_when_others_have_left_it():
    direction = Direction(Impairment(rate=100_000, queue=1), 1)
    assert [len(list(direction.fates(bytes(100), 0.0))) for _ in range(3)] == [1, 1, 0]
    [(at, _)] = direction.fates(bytes(200), 0.0015)
    assert at == pytest.approx(0.004)  # behind the second one, which leaves at 0.002
    [(at, _)] = direction.fates(bytes(100), 1.0)
    assert at == pytest.approx(1.001)


def test_packets_of_two_clients_go_there_and_back():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        relay = Relay(server.getsockname(), Impairment(delay=0.005))
        stop = threading.Event()
        thread = threading.Thread(target=relay.run, args=(stop.is_set,))
        thread.start()
        try:
            clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
            for number, client in enumerate(clients):
                client.settimeout(10)
                client.sendto(b"hello %d" % number, ("127.0.0.1", relay.port))
                data, address = server.recvfrom(100)
                assert data == b"hello %d" % number
                server.sendto(data.upper(), address)
                assert client.recv(100) == b"HELLO %d" % number
                client.close()
        finally:
            stop.set()
            thread.join()
        assert relay.counts()["up"]["packets"] == relay.counts()["down"]["packets"] == 2
        assert relay.counts()["unmeant"] == 0
        relay.close()


def test_what_the_relay_loses_itself_is_counted(monkeypatch):
    monkeypatch.setattr("relay.BUFFER", 4096)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        relay = Relay(("127.0.0.1", 9), Impairment())
        for _ in range(200):  # nobody reads them
            client.sendto(bytes(1400), ("127.0.0.1", relay.port))
        for _ in range(200):
            relay.turn(0.0)
        taken = relay.counts()["up"]["packets"]
        assert 0 < taken < 200
        assert relay.counts()["unmeant"] == 200 - taken
        relay.close()


def test_in_a_process_of_its_own_it_does_what_it_is_told_and_counts():
    impairment = Impairment(duplication=1.0, rate=1e6, queue=7)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        with running(server.getsockname(), impairment, seed=3) as relay:
            client.sendto(b"twice", ("127.0.0.1", relay.port))
            assert [server.recv(100) for _ in range(2)] == [b"twice"] * 2
        assert relay.counts["up"]["duplicated"] == relay.counts["up"]["packets"] == 1
        assert relay.counts["down"]["packets"] == 0
    assert Impairment().arguments() == []
    assert impairment.arguments() == ["--duplication", "1.0", "--rate", "1000000.0", "--queue", "7"]
