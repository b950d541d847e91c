"""What the figures were measured on, and how its cores are kept awake."""

import contextlib
import functools
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path

UDP_SEGMENT, UDP_GRO = 103, 104
# The kernel's promise of a wake-up time (PM QoS): while a process has it open and has asked for
# 0 µs, cores wait for work in a loop and do not halt.
LATENCY = Path("/dev/cpu_dma_latency")


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Cores do not halt meanwhile. Raises OSError."""
    with LATENCY.open("r+b", buffering=0) as latency:  # "wb" would make a file of that name
        latency.write(bytes(4))  # µs, 32 bits
        yield


@functools.cache
def not_awake() -> str | None:
    """Why cores cannot be kept awake here; None where they can."""
    try:
        with awake():
            return None
    except OSError as error:
        return f"cores cannot be kept awake: {LATENCY}: {error.strerror}"


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _sysctl(name: str) -> int | None:
    try:
        return int(_text("/proc/sys/" + name.replace(".", "/")) or "")
    except ValueError:
        return None


def _takes(option: int, value: int) -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_UDP, option, value)
    except OSError:
        return False
    return True


def _granted(option: int, wanted: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, option, wanted)
        return sock.getsockopt(socket.SOL_SOCKET, option)


def facts() -> dict[str, object]:
    """Cores, kernel, processor, what the kernel grants a UDP socket that asks for 4 MiB."""
    wanted = 4 << 20
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "idle": _text("/sys/devices/system/cpu/cpuidle/current_driver"),
        "guest_halt_poll_ns": _text("/sys/module/haltpoll/parameters/guest_halt_poll_ns"),
        "rmem_max": _sysctl("net.core.rmem_max"),
        "wmem_max": _sysctl("net.core.wmem_max"),
        "receive_buffer_granted": _granted(socket.SO_RCVBUF, wanted),
        "send_buffer_granted": _granted(socket.SO_SNDBUF, wanted),
        "gso": _takes(UDP_SEGMENT, 1200),
        "gro": _takes(UDP_GRO, 1),
        "load": list(os.getloadavg()),
    }
