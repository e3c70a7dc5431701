"""Rate traces from files."""

from __future__ import annotations

import gzip
from pathlib import Path

from fleet.traffic import RateTrace, parse_rate_trace


def read_trace(path: Path) -> RateTrace:
    """A rate trace from a CSV file, gzipped or not; raises OSError and fleet.traffic.TraceError."""
    raw = path.read_bytes()
    text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    return parse_rate_trace(text.decode().splitlines())
