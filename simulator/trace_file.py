"""Rate traces from files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from fleet.traffic import RateTrace, TraceError, parse_rate_trace


def read_trace(path: Path) -> RateTrace:
    """A rate trace from a CSV file, gzipped or not; raises OSError, and TraceError that names the file."""
    text = read_text(path)
    try:
        return parse_rate_trace(text.splitlines())
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error


def read_text(path: Path) -> str:
    """The text of a file, gzipped or not, without a byte order mark; raises as `read_trace` does."""
    raw = path.read_bytes()
    try:
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(f"{path}: the gzip file is cut or damaged ({error}), write or fetch it again") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: byte {error.start} is not UTF-8, expected CSV text in UTF-8") from error
