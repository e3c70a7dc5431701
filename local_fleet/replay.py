"""The demo's traffic: three days of a trace played fast, and what lies before them as the forecaster's history."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fleet.traffic import (
    DAY_S,
    Floats,
    RateTrace,
    TraceError,
    compress,
    day_shape,
    drawn,
    fill_gaps,
    parse_rate_trace,
    rebin,
    scaled,
    window,
)

DAYS = 3
HISTORY_DAYS = 14  # two weeks: enough to see a day and a week
BIN_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class DemoTraffic:
    """`history` [n] is arrivals a bin of BIN_S as a counter saw them, NaN for no data; `traffic` is replayed."""

    day_s: float
    history: Floats
    traffic: RateTrace

    @property
    def first_per_s(self) -> float:
        """Rate at the start of the replay."""
        return float(np.mean(rebin(self.traffic, BIN_S).counts[:2])) / BIN_S

    @property
    def busiest_per_s(self) -> float:
        """Rate that all but the busiest 2 % of the seconds stay below."""
        return float(np.percentile(rebin(self.traffic, BIN_S).counts, 98)) / BIN_S


def read_trace(path: Path) -> RateTrace:
    """A rate trace from a CSV file, gzipped or not; raises OSError, and TraceError that names the file."""
    raw = path.read_bytes()
    try:
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        return parse_rate_trace(text.decode().splitlines())
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError, TraceError) as error:
        raise TraceError(f"{path}: {error}") from error


def demo_traffic(trace: RateTrace | None, duration_s: float, mean_per_s: float, seed: int) -> DemoTraffic:
    """Traffic of a demo: the last three days of `trace`, or of the built-in shape, played in `duration_s`."""
    trace = trace or day_shape(HISTORY_DAYS + DAYS, seed=seed)
    trace_days = trace.duration_s / DAY_S
    days = min(float(DAYS), 0.75 * trace_days)  # a short trace keeps a quarter of itself as history
    start_days = math.floor(trace_days - days) if trace_days >= DAYS + 1 else trace_days - days
    day_s = duration_s / days
    fast = compress(trace, day_s)
    traffic = window(fast, start_days * day_s, duration_s)
    if not traffic.mean_per_s > 0:
        raise TraceError(
            f"the replayed {days:g} days have a mean of {traffic.mean_per_s:g} requests/s, nothing to replay"
        )
    factor = mean_per_s / traffic.mean_per_s
    history = np.empty(0)
    if start_days * day_s >= 2 * BIN_S:
        before = scaled(window(fast, 0.0, start_days * day_s), factor)
        history = drawn(rebin(before, BIN_S), seed).counts[-round(HISTORY_DAYS * day_s / BIN_S) :]
    return DemoTraffic(day_s, history, fill_gaps(scaled(traffic, factor)))


def write_trace(traffic: RateTrace, path: Path) -> None:
    """The replay as the CSV that `splatfleet load --trace` reads."""
    rows = (f"{index * traffic.bin_s:.6f},{count:.6f}\n" for index, count in enumerate(traffic.counts))
    path.write_text("timestamp_s,requests\n" + "".join(rows))
