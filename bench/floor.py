"""The floor: what the same bytes cost with rawquic's own primitives and no protocol.

Two processes on loopback. The sender seals a train of packets and sends it with one GSO call; the
receiver takes it with one GRO call, opens it, and copies it once to where a reader would have it.
The receiver grants credit after each call, so that the loop is closed and nothing is lost.

The calls are made from Python, one per train of up to 64 packets. `overhead` measures what one
costs: about 0.2 us of the 15 to 20 us that a train takes at each end, all in all under 3 %. Not in
it are header protection (one AES block a packet, about 8 ns) and every rule of QUIC. So nothing
with the same AEAD and one core at each end can be expected above it, but for two copies: here the
kernel copies each train, while the data plane lends it the pages of large ones; and what was opened
is copied, while the data plane opens packets of a transfer to where the reader gets them.

    python bench/floor.py --provider ipsec-mb --payload 1452 --seconds 1
"""

import argparse
import json
import multiprocessing
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rawquic._fastpath import PacketKey, aead_providers

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
HEADER, TAG = 12, 16
NUMBER = struct.Struct("!Q")
NUMBER_AT = 4  # in the header of a train's first packet
GSO_SEGMENTS, GSO_BYTES = 64, 65507
IN_FLIGHT = 1 << 20  # bytes
BUFFER = 4 << 20
CHUNK = 1 << 18  # where the reader would have it
SILENCE = 1.0
KEY_LENGTH = {"aes-128-gcm": 16, "aes-256-gcm": 32, "chacha20-poly1305": 32}


def packet_key(provider: str, cipher: str) -> PacketKey:
    length = KEY_LENGTH[cipher]
    return PacketKey(cipher, bytes(length), bytes(12), bytes(length), provider=provider)


def train_count(payload: int, gso: bool = True) -> int:
    return max(1, min(GSO_SEGMENTS, GSO_BYTES // payload)) if gso else 1


def udp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    sock.bind(("127.0.0.1", 0))
    return sock


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def receive(
    pipe: Connection, provider: str, cipher: str, payload: int, count: int, gro: bool
) -> None:
    """The receiver's process."""
    sock = udp_socket()
    if gro:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    pipe.send(sock.getsockname()[1])
    sock.connect(("127.0.0.1", pipe.recv()))
    sock.settimeout(SILENCE)
    key, chunk = packet_key(provider, cipher), bytearray(CHUNK)
    train = bytearray(count * payload) if gro else bytearray(payload)
    view, size = memoryview(train), len(train)
    packets = size // payload
    received = failed = filled = number = 0
    started = ended = used = 0.0
    credit = packets.to_bytes(4)
    try:
        while True:
            got = sock.recv_into(train)
            if not started:
                started, used = time.perf_counter(), cpu()
            if got != size:
                # Something was joined otherwise: count it, do not measure it.
                failed += 1
                sock.send((got // payload).to_bytes(4))
                continue
            if gro:
                number = NUMBER.unpack_from(train, NUMBER_AT)[0]
            failed += key.open_train(train, payload, HEADER, number, packets)
            if filled + size > CHUNK:
                filled = 0
            chunk[filled : filled + size] = view
            filled += size
            received += packets
            number += packets
            sock.send(credit)
            ended = time.perf_counter()
    except TimeoutError:
        pass
    pipe.send((received, failed, ended - started, cpu() - used))


def send(
    sock: socket.socket, key: PacketKey, payload: int, count: int, gso: bool, seconds: float
) -> float:
    """The sender's loop; the CPU seconds it took."""
    if gso:
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, payload)
    # Sealed again and again in place: a data plane seals out of the application's buffer.
    train = bytearray(count * payload)
    number, in_flight, limit = 0, 0, IN_FLIGHT // payload
    used, end = cpu(), time.perf_counter() + seconds
    sock.settimeout(SILENCE)
    while time.perf_counter() < end:
        while in_flight + count <= limit:
            # The header of the first packet says the number: it is not encrypted, only proved.
            NUMBER.pack_into(train, NUMBER_AT, number)
            key.seal_train(train, payload, HEADER, number, count)
            sock.send(train)
            number += count
            in_flight += count
        try:
            in_flight -= int.from_bytes(sock.recv(4))
            while in_flight >= limit // 2:
                in_flight -= int.from_bytes(sock.recv(4))
        except TimeoutError:
            in_flight = 0  # lost: begin afresh
    return cpu() - used


def floor(
    provider: str = "auto",
    payload: int = 1452,
    *,
    cipher: str = "aes-128-gcm",
    seconds: float = 1.0,
    gso: bool = True,
    gro: bool = True,
) -> dict[str, object]:
    """Measure once; megabytes_per_second is of application bytes that were opened and copied."""
    count = train_count(payload, gso)
    key = packet_key(provider, cipher)
    # fork: nothing is imported again, and each process makes its keys itself.
    processes = multiprocessing.get_context("fork")
    here, there = processes.Pipe()
    process = processes.Process(
        target=receive, args=(there, provider, cipher, payload, count, gso and gro)
    )
    process.start()
    with udp_socket() as sock:
        port = here.recv()
        here.send(sock.getsockname()[1])
        sock.connect(("127.0.0.1", port))
        sender_cpu = send(sock, key, payload, count, gso, seconds)
        received, failed, elapsed, receiver_cpu = here.recv()
    process.join()
    moved = received * (payload - HEADER - TAG)
    return {
        "provider": key.provider,
        "cipher": cipher,
        "payload": payload,
        "gso": gso,
        "gro": gso and gro,
        "train": count,
        "bytes": moved,
        "failed": failed,
        "seconds": elapsed,
        "client_cpu": receiver_cpu,
        "server_cpu": sender_cpu,
        "megabytes_per_second": round(moved / elapsed / 1e6, 1) if elapsed else 0.0,
    }


def overhead(provider: str, payload: int = 1452, cipher: str = "aes-128-gcm") -> dict[str, float]:
    """The share of one call per train that is Python: an empty call against a full one."""
    key, count = packet_key(provider, cipher), train_count(payload)
    full, least = bytearray(count * payload), bytearray(HEADER + TAG)

    def best(call: Callable[[], object]) -> float:
        times = []
        for _ in range(200):
            started = time.perf_counter()
            for _ in range(20):
                call()
            times.append((time.perf_counter() - started) / 20)
        return min(times)

    seal = best(lambda: key.seal_train(full, payload, HEADER, 0, count))
    # One packet without a payload: all of the call's cost, and the AEAD's fixed cost once.
    call = best(lambda: key.seal_train(least, len(least), HEADER, 0, 1))
    return {"train_us": seal * 1e6, "call_us": call * 1e6, "share": call / seal}


def main() -> None:
    parser = argparse.ArgumentParser(description="The floor of rawquic's data plane.")
    parser.add_argument("--provider", choices=aead_providers(), default=aead_providers()[0])
    parser.add_argument("--cipher", choices=KEY_LENGTH, default="aes-128-gcm")
    parser.add_argument("--payload", type=int, default=1452, help="bytes of UDP payload")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--no-gso", dest="gso", action="store_false")
    parser.add_argument("--no-gro", dest="gro", action="store_false")
    arguments = vars(parser.parse_args())
    result = floor(arguments.pop("provider"), arguments.pop("payload"), **arguments)
    python = overhead(str(result["provider"]), int(str(result["payload"])))
    print(json.dumps({**result, "python": python}))


if __name__ == "__main__":
    main()
