"""The impairing relay of the benchmarks: fates are seeded, and bytes pass between real sockets."""

import socket
import sys
import threading
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

from relay import Direction, Impairment, Relay

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
    direction = Direction(Impairment(rate=100_000, queue=1000), 1)
    told = [list(direction.fates(bytes(100), 0.0)) for _ in range(20)]
    passed = [fate[0][0] for fate in told if fate]
    assert len(passed) == 10
    assert direction.count.queue_full == 10
    assert passed == pytest.approx([0.001 * (i + 1) for i in range(10)])


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
            relay.close()
    assert relay.counts()["up"]["packets"] == relay.counts()["down"]["packets"] == 2
