"""A network namespace of our own, for what loopback does not do: small MTU, no answer to ARP."""

import concurrent.futures
import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time

CLONE_NEWNET = 0x40000000


class CannotIsolate(Exception):
    """Why there can be no namespace here."""


class Namespace:
    """A fresh network namespace, held by a thread; its sockets work in every thread."""

    def __init__(self):
        if shutil.which("ip") is None:
            raise CannotIsolate("needs the ip command")
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        try:
            self.pid = self._thread.submit(self._enter).result()  # what `ip` knows it by
        except OSError as error:
            self._thread.shutdown()
            raise CannotIsolate(f"needs root for a network namespace ({error})") from error

    @staticmethod
    def _enter():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return threading.get_native_id()

    def ip(self, *words):
        """Run `ip` in the namespace; what it prints."""
        return self.run("ip", *words)

    def run(self, *words):
        """Run a command in the namespace; what it prints."""
        command = [*map(str, words)]
        run = self._thread.submit(subprocess.run, command, check=True, capture_output=True)
        return run.result().stdout

    def wait_until_up(self, name, seconds=10):
        """Until the interface has a carrier; what was set before that is begun afresh then."""
        end = time.monotonic() + seconds
        while b"state UP" not in self.ip("link", "show", name):
            assert time.monotonic() < end, f"{name} did not come up"

    def wait_until_usable(self, name, seconds=10):
        """Until no IPv6 address of the interface is tentative: packets to those are dropped."""
        end = time.monotonic() + seconds
        while b"tentative" in self.ip("-6", "addr", "show", "dev", name):
            assert time.monotonic() < end, f"an address of {name} stays tentative"

    def socket(self, family=socket.AF_INET):
        return self._thread.submit(socket.socket, family, socket.SOCK_DGRAM).result()

    def interface(self, name):
        """The number of an interface."""
        return self._thread.submit(socket.if_nametoindex, name).result()

    def close(self):
        self._thread.shutdown()
