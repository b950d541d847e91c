"""The "QUIC performance" protocol, both ends: what `rawquic perf` and the benchmarks run.

draft-banks-quic-performance with ALPN "perf", and additions that it has no words for (see
`protocol`). Everything here runs on a small interface (`interface`) that `RawQuicSession` has, so
that the same works can be run on other QUIC stacks.
"""

from .measure import Result, Usage, percentiles
from .protocol import ALPN
from .server import serve_perf
from .verify import verify
from .works import WORKS, Options, run

__all__ = [
    "ALPN",
    "WORKS",
    "Options",
    "Result",
    "Usage",
    "percentiles",
    "run",
    "serve_perf",
    "verify",
]
