"""qlog: a file for each connection, in which the events of both planes stand in order.

The format is qlog 0.3 as JSON text sequences (draft-ietf-quic-qlog-main-schema-02; RFC 7464), which
is what aioquic writes its events for and the newest that qvis opens. aioquic logs through
`log_event`; the compiled data plane calls the other methods for its 1-RTT packets.

At most `WRITE_AT` bytes of events wait in memory; no file stays open. Nothing here may hurt a
connection: when a write fails, logging of that connection ends with a warning.
"""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from aioquic.quic.logger import QuicLogger, QuicLoggerTrace

from .qlog_frames import decode_frames

logger = logging.getLogger("rawquic")

WRITE_AT = 65536
RECORD_SEPARATOR = "\x1e"


class QlogTrace(QuicLoggerTrace):
    """The log of one connection. Times are milliseconds since its first line was made.

    Attributes:
        handed_on: bytes at the end of the datagram in hand that aioquic drops, since they are the
            data plane's.
        ended: nothing is logged any more.
    """

    def __init__(self, folder: Path, *, is_client: bool, odcid: bytes) -> None:
        super().__init__(is_client=is_client, odcid=odcid)
        role = "client" if is_client else "server"
        self.path = folder / f"{odcid.hex()}_{role}.sqlog"
        self._is_client = is_client
        self._written = self.ended = False
        self._process = os.getpid()
        self.handed_on = 0
        self._begin = time.monotonic()
        self._held: list[dict[str, Any]] = []
        self._lines: list[str] = []
        self._waiting = 0  # bytes in `_lines`
        self._metrics: dict[str, float] = {}
        self._states: dict[str, object] = {}  # by event, what its last one said
        self._append(
            {
                "qlog_version": "0.3",
                "qlog_format": "JSON-SEQ",
                "trace": {
                    "vantage_point": {"name": "rawquic", "type": role},
                    "common_fields": {
                        "ODCID": odcid.hex(),
                        "protocol_type": ["QUIC"],
                        "time_format": "relative",
                        "reference_time": round(time.time() * 1000, 3),
                    },
                },
            }
        )

    def __del__(self) -> None:
        self.close()

    # -- aioquic -------------------------------------------------------------------------------

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        """An event of aioquic's, with the names of the draft where aioquic has older ones."""
        if event == "packet_lost":
            number = data["packet_number"]
            data = {"header": {"packet_type": data["type"], "packet_number": number}}
        elif event == "metrics_updated":
            if self._states:
                return  # of the handshake alone; the data plane has its own
            if "cwnd" in data:
                data["congestion_window"] = data.pop("cwnd")
        elif event == "packet_dropped" and data["raw"]["length"] == self.handed_on:
            return
        self._log(f"{category}:{event}", data)

    # -- the compiled data plane ---------------------------------------------------------------

    def packet_sent(
        self, number: int, packet: bytes, header_length: int, exponent: int, mtu_probe: bool
    ) -> None:
        """`packet`: without protection and tag; `exponent`: of the delays in its ACKs."""
        data = self._packet(number, packet, header_length, exponent)
        if mtu_probe:
            data["is_mtu_probe_packet"] = True
        self._log("transport:packet_sent", data)

    def packet_received(
        self, number: int, packet: bytes, header_length: int, exponent: int
    ) -> None:
        self._log(
            "transport:packet_received", self._packet(number, packet, header_length, exponent)
        )

    def packet_dropped(self, size: int) -> None:
        """It did not open."""
        data = {
            "header": {"packet_type": "1RTT"},
            "raw": {"length": size},
            "trigger": "payload_decrypt_error",
        }
        self._log("transport:packet_dropped", data)

    def packet_lost(self, number: int, by_time: bool, mtu_probe: bool) -> None:
        data: dict[str, Any] = {
            "header": {"packet_type": "1RTT", "packet_number": number},
            "trigger": "time_threshold" if by_time else "reordering_threshold",
        }
        if mtu_probe:
            data["is_mtu_probe_packet"] = True
        self._log("recovery:packet_lost", data)

    def timer_expired(self, pto: bool) -> None:
        data = {"event_type": "expired", "timer_type": "pto" if pto else "ack"}
        self._log("recovery:loss_timer_updated", data)

    def key_updated(self, sending: bool, local: bool) -> None:
        """The keys of one direction are those of the next phase."""
        data = {
            "key_type": f"{'client' if sending is self._is_client else 'server'}_1rtt_secret",
            "trigger": "local_update" if local else "remote_update",
        }
        self._log("security:key_updated", data)

    def state(self, metrics: dict[str, float], state: str, mtu: int, ecn: str) -> None:
        """Log what has changed since the last call. Times are in milliseconds, sizes in bytes."""
        rounded = {name: round(value, 3) for name, value in metrics.items()}
        changed = {name: v for name, v in rounded.items() if self._metrics.get(name) != v}
        if changed:
            self._metrics.update(changed)
            self._log("recovery:metrics_updated", changed)
        self._moved("recovery:congestion_state_updated", state)
        self._moved("connectivity:mtu_updated", mtu)
        if ecn != "off":
            self._moved("recovery:ecn_state_updated", ecn)

    def _moved(self, name: str, new: object) -> None:
        """Log the event if its value is another than at the last call."""
        before = self._states.get(name)
        if new != before:
            self._states[name] = new
            self._log(name, {"new": new} if before is None else {"old": before, "new": new})

    def _packet(
        self, number: int, packet: bytes, header_length: int, exponent: int
    ) -> dict[str, Any]:
        destination = packet[1 : header_length - (packet[0] & 3) - 1]
        return {
            "frames": decode_frames(packet[header_length:], exponent),
            "header": {
                "packet_type": "1RTT",
                "packet_number": number,
                "dcid": destination.hex(),
                "scid": "",
            },
            "raw": {"length": len(packet) + 16},  # and the AEAD's tag
        }

    # -- the file ------------------------------------------------------------------------------

    def close(self) -> None:
        """Write what waits; nothing is logged from here on."""
        if not self.ended:
            self._release()
            self._write()
            self.ended = True

    def _log(self, name: str, data: dict[str, Any]) -> None:
        if "frames" in data and not self.ended:
            self._release()  # aioquic adds frames to the last packet while it handles them
        if self.ended:
            return
        now = (time.monotonic() - self._begin) * 1000
        self._held.append({"time": round(now, 3), "name": name, "data": data})

    def _release(self) -> None:
        for event in self._held:
            self._append(event)
        self._held.clear()
        if self._waiting >= WRITE_AT:
            self._write()

    def _append(self, record: dict[str, Any]) -> None:
        line = f"{RECORD_SEPARATOR}{json.dumps(record, separators=(',', ':'), default=str)}\n"
        self._lines.append(line)
        self._waiting += len(line)

    def _write(self) -> None:
        if os.getpid() != self._process:
            return  # after a fork the file is the parent's
        text, self._lines, self._waiting = "".join(self._lines), [], 0
        try:
            if not self._written:
                self._create()
            with self.path.open("a") as file:
                file.write(text)
        except OSError as error:
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """Log nothing any more, and say so."""
        self.ended = True
        self._held.clear()
        self._lines.clear()
        logger.warning("qlog of a connection ends: %s", error)

    def _create(self) -> None:
        """Make the file, and never write to one that is there: a client chooses the name."""
        if self.path.exists():
            self.path = self.path.with_stem(f"{self.path.stem}_{time.time_ns()}")
        self.path.open("x").close()
        self._written = True


class QlogFolder(QuicLogger):
    """What aioquic's configuration takes as `quic_logger`: one file per connection in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def start_trace(self, is_client: bool, odcid: bytes) -> QlogTrace:
        return QlogTrace(self._folder, is_client=is_client, odcid=odcid)

    def end_trace(self, trace: QuicLoggerTrace) -> None:
        assert isinstance(trace, QlogTrace)
        trace.close()
