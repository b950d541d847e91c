"""What the figures were measured on."""

import os
import platform
import socket
from pathlib import Path

UDP_SEGMENT, UDP_GRO = 103, 104


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _sysctl(name: str) -> int | None:
    try:
        return int(Path("/proc/sys", *name.split(".")).read_text())
    except (OSError, ValueError):
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
        "rmem_max": _sysctl("net.core.rmem_max"),
        "wmem_max": _sysctl("net.core.wmem_max"),
        "receive_buffer_granted": _granted(socket.SO_RCVBUF, wanted),
        "send_buffer_granted": _granted(socket.SO_SNDBUF, wanted),
        "gso": _takes(UDP_SEGMENT, 1200),
        "gro": _takes(UDP_GRO, 1),
        "load": list(os.getloadavg()),
    }
