"""Traffic as plain numbers: rate traces, a built-in day, arrivals and the popularity of scenes.

Everything is a function of its arguments and a seed, so two runs with one seed differ in policy alone.
A bin without data is NaN and stays NaN: no data is not zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DAY_S = 86_400.0
MOST_REQUESTS = 1e9  # a bin of a trace may have; far above any service, far below what a Poisson draw can take
MOST_ARRIVALS = 5e8  # of one run: 8 GB while they are drawn

Floats = NDArray[np.float64]


class TraceError(ValueError):
    """A rate trace that cannot be used; says the line, the value and what would be valid."""


@dataclass(frozen=True, slots=True, eq=False)
class RateTrace:
    """Requests in bins of one width; `counts` [n] is NaN where the source has no data."""

    bin_s: float
    counts: Floats

    @property
    def duration_s(self) -> float:
        return self.bin_s * len(self.counts)

    @property
    def rates_per_s(self) -> Floats:
        """Requests a second in each bin [n], NaN without data."""
        return self.counts / self.bin_s

    @property
    def mean_per_s(self) -> float:
        """Mean rate over the bins that have data; NaN where none has."""
        seen = self.counts[np.isfinite(self.counts)]
        return float(seen.mean() / self.bin_s) if len(seen) else math.nan


def parse_rate_trace(lines: Iterable[str]) -> RateTrace:
    """Parse the CSV text `timestamp_s,requests`, a regular grid; an empty second cell is a bin without data.

    A byte order mark before the header is skipped. Raises TraceError for a wrong header, an irregular grid, a count
    below 0 or above MOST_REQUESTS, or fewer than two bins.
    """
    rows = (line.strip() for line in lines)
    header = next(rows, "").removeprefix("\ufeff").lstrip()
    if header.replace(" ", "") != "timestamp_s,requests":
        raise TraceError(f"line 1 is {header[:80]!r}, expected the header 'timestamp_s,requests'")
    times: list[float] = []
    counts: list[float] = []
    for number, row in enumerate(rows, start=2):
        if row:
            time_s, count = _parse_row(number, row)
            times.append(time_s)
            counts.append(count)
    if len(times) < 2:
        raise TraceError(f"{len(times)} bins, expected at least 2")
    return RateTrace(_grid_width_s(np.array(times)), np.array(counts))


def _parse_row(number: int, row: str) -> tuple[float, float]:
    first, comma, second = row.partition(",")
    try:
        time_s = float(first)
        count = float(second) if second.strip() else math.nan
    except ValueError as error:
        raise TraceError(f"line {number} is {row[:80]!r}, expected two numbers, the second may be empty") from error
    if not comma or not math.isfinite(time_s) or (second.strip() and not (math.isfinite(count) and count >= 0)):
        raise TraceError(f"line {number} is {row[:80]!r}, expected a time and a count of 0 or more")
    if count > MOST_REQUESTS:
        raise TraceError(f"line {number} is {row[:80]!r}, expected at most {MOST_REQUESTS:g} requests a bin")
    return time_s, count


def _grid_width_s(times_s: Floats) -> float:
    width = float(times_s[-1] - times_s[0]) / (len(times_s) - 1)
    if not width > 0 or times_s[1] <= times_s[0]:
        raise TraceError(f"the second bin starts at {times_s[1]:g} s, expected a time after {times_s[0]:g} s")
    # Times are text and may be rounded; a bin that is off by more than a hundredth belongs elsewhere.
    first_s = float(times_s[1] - times_s[0])
    off = np.flatnonzero(np.abs(np.diff(times_s) - first_s) > 0.01 * first_s)
    if len(off):
        at = int(off[0]) + 1
        raise TraceError(f"bin {at} starts at {times_s[at]:g} s, expected a regular grid of {first_s:g} s")
    return width


def scaled(trace: RateTrace, factor: float) -> RateTrace:
    """The same shape with every count multiplied by `factor`."""
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"factor is {factor}, expected a number above 0")
    return RateTrace(trace.bin_s, trace.counts * factor)


def window(trace: RateTrace, start_s: float, duration_s: float) -> RateTrace:
    """The bins from `start_s` on for `duration_s`, cut to whole bins and to what the trace holds."""
    first = max(0, round(start_s / trace.bin_s))
    last = min(len(trace.counts), round((start_s + duration_s) / trace.bin_s))
    if last <= first:
        raise ValueError(
            f"the window {start_s:g} s + {duration_s:g} s is empty, the trace holds 0 to {trace.duration_s:g} s"
        )
    return RateTrace(trace.bin_s, trace.counts[first:last])


def compress(trace: RateTrace, real_seconds_per_trace_day: float) -> RateTrace:
    """Play the same requests faster: a day of the trace in so many real seconds."""
    if not real_seconds_per_trace_day > 0:
        raise ValueError(f"real_seconds_per_trace_day is {real_seconds_per_trace_day}, expected a number above 0")
    return RateTrace(trace.bin_s * real_seconds_per_trace_day / DAY_S, trace.counts)


def rebin(trace: RateTrace, bin_s: float) -> RateTrace:
    """Counts in bins of another width; requests spread evenly inside a bin of the source.

    A new bin keeps the rate of its part with data, and is NaN where less than half of it has any.
    """
    bins = int(trace.duration_s / bin_s + 1e-9)
    if bins < 1:
        raise ValueError(f"bin_s is {bin_s:g}, expected at most the duration {trace.duration_s:g} s")
    edges = np.arange(len(trace.counts) + 1) * trace.bin_s
    seen = np.isfinite(trace.counts)
    targets = np.arange(bins + 1) * bin_s

    def spread(values: Floats) -> Floats:
        total = np.concatenate(([0.0], np.cumsum(values)))
        return np.diff(np.interp(targets, edges, total))

    counts = spread(np.where(seen, trace.counts, 0.0))
    share = spread(seen * trace.bin_s) / bin_s
    with np.errstate(invalid="ignore", divide="ignore"):
        return RateTrace(bin_s, np.where(share >= 0.5, counts / share, math.nan))


def fill_gaps(trace: RateTrace) -> RateTrace:
    """Bins without data by a straight line between their neighbours: for replay, never for a forecaster."""
    seen = np.flatnonzero(np.isfinite(trace.counts))
    if not len(seen):
        raise ValueError("the trace has no bin with data, nothing to replay")
    return RateTrace(trace.bin_s, np.interp(np.arange(len(trace.counts)), seen, trace.counts[seen]))


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """What is replayed, and what lies before it; times are those of the replay."""

    history: RateTrace | None
    traffic: RateTrace


def replay_days(trace: RateTrace, days: float, real_seconds_per_day: float, mean_per_s: float | None = None) -> Replay:
    """Compress the last whole `days` of `trace` into a replay; what lies before is its history.

    With `mean_per_s` both are scaled alike, so that the replayed part has this mean rate.
    """
    start_s = math.floor(max(0.0, trace.duration_s / DAY_S - days) + 1e-9) * DAY_S
    fast = compress(trace, real_seconds_per_day)
    squeeze = real_seconds_per_day / DAY_S
    traffic = window(fast, start_s * squeeze, days * real_seconds_per_day)
    history = window(fast, 0.0, start_s * squeeze) if start_s > 0 else None
    if mean_per_s is None:
        return Replay(history, traffic)
    if not traffic.mean_per_s > 0:
        raise ValueError(f"the replayed part has a mean of {traffic.mean_per_s} requests/s, nothing to scale")
    factor = mean_per_s / traffic.mean_per_s
    return Replay(scaled(history, factor) if history else None, scaled(traffic, factor))


def flat(duration_s: float, mean_per_s: float) -> RateTrace:
    """The same rate all along, in bins of a second or less."""
    bins = max(1, math.ceil(duration_s))
    bin_s = duration_s / bins
    return RateTrace(bin_s, np.full(bins, mean_per_s * bin_s))


def day_shape(days: int, bin_s: float = 300.0, mean_per_s: float = 1.0, seed: int = 0) -> RateTrace:
    """Built-in demand: low nights, a steep morning, an evening peak, days that differ, a burst now and then.

    The counts are expectations, not draws: `arrivals` and `drawn` add the Poisson noise.
    """
    random = np.random.default_rng((seed, 0xDA15))
    hours = (np.arange(round(days * DAY_S / bin_s)) * bin_s / 3600.0) % 24.0
    day = (np.arange(len(hours)) * bin_s / DAY_S).astype(np.int64)
    since_4 = (hours - 4.0) % 24.0  # the day of traffic begins at four
    # Levels in units of the daytime plateau; the morning climbs in about 2 h, the evening falls in about 5.
    morning = 1.0 / (1.0 + np.exp(-(since_4 - 4.0) / 0.45))
    night_fall = 1.0 / (1.0 + np.exp((since_4 - 18.5) / 1.2))
    evening = 0.9 * np.exp(-0.5 * ((since_4 - 15.5) / 2.2) ** 2)
    shape = 0.12 + morning * night_fall * (1.0 + evening)
    level = np.exp(random.normal(0.0, 0.10, days))[day]
    wobble = np.convolve(random.normal(0.0, 0.10, len(hours)), np.ones(6) / math.sqrt(6), mode="same")
    rates = shape * level * np.exp(wobble) + _bursts(len(hours), bin_s, random)
    rates *= mean_per_s / rates.mean()
    return RateTrace(bin_s, rates * bin_s)


def _bursts(bins: int, bin_s: float, random: np.random.Generator) -> Floats:
    """About one burst in two days, 0.5 to 1 of the plateau high, gone within an hour or so."""
    extra = np.zeros(bins)
    span_s = bins * bin_s
    times_s = np.arange(bins) * bin_s
    for _ in range(int(random.poisson(0.5 * span_s / DAY_S))):
        start_s, height = random.uniform(0.0, span_s), random.uniform(0.5, 1.0)
        after_s = times_s - start_s
        extra += np.where(after_s >= 0, height * np.exp(-np.maximum(after_s, 0.0) / 1500.0), 0.0)
    return extra


def drawn(trace: RateTrace, seed: int) -> RateTrace:
    """Poisson counts around the counts of `trace`, NaN kept: a history as a counter would have seen it."""
    random = np.random.default_rng((seed, 0x0B5E))
    seen = np.isfinite(trace.counts)
    counts = random.poisson(np.where(seen, trace.counts, 0.0)).astype(np.float64)
    return RateTrace(trace.bin_s, np.where(seen, counts, math.nan))


def arrivals(rates_per_s: Floats, bin_s: float, seed: int) -> Floats:
    """Sorted arrival times [m] in seconds of a Poisson process with these rates [n], one a bin of `bin_s`.

    Raises ValueError where a rate is NaN, infinite or negative (fill gaps first), and for more than MOST_ARRIVALS.
    """
    bad = np.flatnonzero(~(np.isfinite(rates_per_s) & (rates_per_s >= 0)))
    if len(bad):
        raise ValueError(f"rates_per_s[{bad[0]}] is {rates_per_s[bad[0]]}, expected 0 or more (fill_gaps fills NaN)")
    expected = float(rates_per_s.sum()) * bin_s
    if not expected <= MOST_ARRIVALS:
        raise ValueError(f"{expected:.3g} requests are too many to play one by one, expected at most {MOST_ARRIVALS:g}")
    random = np.random.default_rng((seed, 0xA221))
    counts = random.poisson(rates_per_s * bin_s)
    times: Floats = random.random(int(counts.sum()))  # in place from here: there may be many
    times += np.repeat(np.arange(len(counts)), counts)
    times *= bin_s
    times.sort()
    return times


def zipf_scenes(n_scenes: int, exponent: float, count: int, seed: int) -> NDArray[np.int64]:
    """Indices [count] of the scenes asked for, popularity ~ rank^-exponent; which scene has which rank is drawn too.

    A longer run with the same seed begins with the shorter one.
    """
    if n_scenes < 1:
        raise ValueError(f"n_scenes is {n_scenes}, expected at least 1")
    order = popularity_order(n_scenes, seed)
    weights = np.arange(1, n_scenes + 1, dtype=np.float64) ** -exponent
    edges = np.cumsum(weights) / weights.sum()
    ranks = np.searchsorted(edges, np.random.default_rng((seed, 0x21BF)).random(count), side="right")
    picked: NDArray[np.int64] = order[np.minimum(ranks, n_scenes - 1)]
    return picked


def popularity_order(n_scenes: int, seed: int) -> NDArray[np.int64]:
    """Scene indices from the most to the least popular, as `zipf_scenes` with this seed has them."""
    return np.random.default_rng((seed, 0x0DE2)).permutation(n_scenes).astype(np.int64)
