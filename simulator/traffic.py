"""A rate trace as the simulator plays it: a history of counts, then arrivals one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fleet.traffic import (
    DAY_S,
    Floats,
    RateTrace,
    arrivals,
    drawn,
    fill_gaps,
    rebin,
    scaled,
    window,
)

SERVICE_TABLE = 1_000_003  # service times are drawn once and used in turn; a prime, so that days do not repeat


@dataclass(frozen=True, slots=True)
class Service:
    """Seconds of one render: log-normal with this mean and variation (standard deviation / mean)."""

    mean_s: float = 0.25
    cv: float = 0.3

    def draw(self, count: int, seed: int) -> Floats:
        variance = math.log1p(self.cv**2)
        random = np.random.default_rng((seed, 0x5E2F))
        draws: Floats = random.lognormal(math.log(self.mean_s) - variance / 2.0, math.sqrt(variance), count)
        return draws


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """What every policy meets alike. Second 0 is the first of the played part."""

    rates: RateTrace  # of the played part, requests a bin of the source, gaps filled: the truth, for oracles alone
    counts: Floats  # [bins] of `bin_s`, the history before second 0 first; nan without data
    history_bins: int
    bin_s: float
    arrivals: Floats  # [n] sorted
    arrived: Floats  # [seconds + 1] requests before each second
    services: Floats  # [m] used in turn
    service: Service

    @property
    def end_s(self) -> float:
        return self.rates.duration_s

    def seen(self, now_s: float, history_s: float = math.inf) -> Floats:
        """[bins] counts of the history (at most its end) and of the full bins played until `now_s`, oldest first."""
        last = self.history_bins + int(now_s / self.bin_s + 1e-9)
        first = 0 if math.isinf(history_s) else max(0, last - round(history_s / self.bin_s))
        return self.counts[first:last]

    def rate_per_s(self, now_s: float, window_s: float) -> float:
        """Mean arrivals a second over the last whole seconds of the window; 0 before the first."""
        end = min(int(now_s), self.arrived.size - 1)
        first = max(0, end - round(window_s))
        return float(self.arrived[end] - self.arrived[first]) / max(end - first, 1)


def scale_to_pods(trace: RateTrace, service: Service, mean_pods: float) -> RateTrace:
    """The trace with a mean demand of `mean_pods` busy pods."""
    if not trace.mean_per_s > 0:
        raise ValueError(f"the trace has a mean of {trace.mean_per_s} requests/s, nothing to scale")
    return scaled(trace, mean_pods / service.mean_s / trace.mean_per_s)


def play(trace: RateTrace, service: Service, days: tuple[float, float], seed: int, bin_s: float = 15.0) -> Traffic:
    """Arrivals for the days [from, to) of `trace`, Poisson inside its bins, after the history of what lies before.

    The history is drawn alike, in bins of `bin_s` (a whole number of seconds), and at most 28 days of it.
    """
    start_s, end_s = days[0] * DAY_S, min(days[1] * DAY_S, trace.duration_s)
    if not 0 <= start_s < end_s:
        raise ValueError(
            f"days {days[0]:g} to {days[1]:g} are not in the trace, which has {trace.duration_s / DAY_S:g}"
        )
    if bin_s != round(bin_s) or bin_s < 1:
        raise ValueError(f"bin_s is {bin_s:g}, expected a whole number of seconds")
    played = fill_gaps(window(trace, start_s, end_s - start_s))
    times = arrivals(played.rates_per_s, played.bin_s, seed)
    seconds = np.arange(math.ceil(played.duration_s) + 1, dtype=np.float64)
    before = max(0.0, start_s - 28 * DAY_S)
    history = drawn(rebin(window(trace, before, start_s - before), bin_s), seed).counts if start_s > 0 else np.zeros(0)
    arrived = np.searchsorted(times, seconds).astype(np.float64)
    edges = np.arange(int(played.duration_s / bin_s) + 1) * int(bin_s)
    return Traffic(
        rates=played,
        counts=np.concatenate((history, np.diff(arrived[edges]))),
        history_bins=history.size,
        bin_s=bin_s,
        arrivals=times,
        arrived=arrived,
        services=service.draw(SERVICE_TABLE, seed),
        service=service,
    )
