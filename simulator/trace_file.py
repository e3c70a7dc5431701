"""Rate traces and sequences of objects from files."""

from __future__ import annotations

import csv
import gzip
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fleet.traffic import RateTrace, parse_rate_trace


def read_trace(path: Path) -> RateTrace:
    """A rate trace from a CSV file, gzipped or not; raises OSError and fleet.traffic.TraceError."""
    return parse_rate_trace(_lines(path))


class SequenceError(ValueError):
    """A file that is no sequence of objects; says what it lacks."""


@lru_cache(4)
def read_objects(path: Path) -> NDArray[np.int64]:
    """Which object each request of a CSV file asked for, numbered as they appear; raises OSError, SequenceError."""
    rows = csv.DictReader(_lines(path))
    columns = rows.fieldnames or []
    if "object" not in columns or "requests" in columns:
        raise SequenceError(
            f"{path.name} has columns {', '.join(columns)[:120]}: expected one row a request, with object"
        )
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(row["object"], len(numbers)) for row in rows], np.int64)


def _lines(path: Path) -> list[str]:
    raw = path.read_bytes()
    return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode().splitlines()
