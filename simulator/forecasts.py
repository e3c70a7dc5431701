"""Rivals' forecasts as calibrated quantiles, scored over a trace: what is said of the highest demand ahead.

Every point forecast gets the same online conformal step, so that forecasts are compared and not their margins.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoscaler.conformal import Calibrators
from fleet.traffic import DAY_S, Floats
from simulator.rivals.predictors import Arima, Constant, Kalman, Predictor, ProphetLike
from simulator.rivals.seasonal import HoltWinters


@dataclass(frozen=True, slots=True)
class Score:
    """One method at one horizon, over the second half of a trace; the loss is the mean pinball loss in requests/s."""

    method: str
    horizon_s: float
    loss: float
    coverage: float
    worst_day_coverage: float
    days_near: float  # share of the days whose coverage is within 6 points of what was asked
    ms_per_step: float


class _Seasonal:
    """Holt-Winters with a daily season as a point forecast of the highest of the next bins."""

    def __init__(self, day: int, lead: int) -> None:
        self._day, self._lead = day, lead
        self._first: list[float] = []
        self._model: HoltWinters | None = None

    def add(self, value: float) -> None:
        if self._model is not None:
            self._model.update(value)
            return
        self._first.append(value)
        if len(self._first) == 2 * self._day:
            self._model = HoltWinters(self._first, self._day)

    def next(self) -> float:
        if self._model is None:
            return self._first[-1] if self._first else 0.0
        return max(0.0, self._model.peak(self._lead))


class _NaiveDay:
    """The highest of the same bins a day ago."""

    def __init__(self, day: int, lead: int) -> None:
        self._values: deque[float] = deque(maxlen=day)
        self._lead = lead

    def add(self, value: float) -> None:
        self._values.append(value)

    def next(self) -> float:
        if not self._values:
            return 0.0
        full = len(self._values) == self._values.maxlen
        return max(self._values[index] for index in range(min(self._lead, len(self._values)))) if full else self._last()

    def _last(self) -> float:
        return self._values[-1]


METHODS: dict[str, Callable[[int, int], Predictor]] = {
    "persistence": lambda _day, _lead: Constant(),
    "dynamo-arima": lambda _day, _lead: Arima(),
    "dynamo-kalman": lambda _day, _lead: Kalman(),
    "dynamo-prophet-like": lambda _day, _lead: ProphetLike(),
    "naive-day": _NaiveDay,
    "holt-winters-day": _Seasonal,
}


def score(method: str, rates: Floats, bin_s: float, horizon_s: float, quantile: float) -> Score:
    """Roll over `rates` [bins] in requests/s (nan: no data, stands for the last value) and score the second half."""
    lead, day = max(1, round(horizon_s / bin_s)), max(2, round(DAY_S / bin_s))
    predictor = METHODS[method](day, lead)
    calibrator = Calibrators([[quantile]], 3 * day)
    issued: deque[tuple[float, float, float]] = deque()  # point, quantile, scale
    recent: deque[float] = deque(maxlen=lead)
    mean, last = math.nan, 0.0
    results: list[tuple[int, float, float]] = []
    began_s = time.process_time()
    for index, rate in enumerate(rates.tolist()):
        last = rate if rate == rate else last
        recent.append(rate)
        if len(issued) == lead:
            point, asked, scale = issued.popleft()
            known = [value for value in recent if value == value]
            if 2 * len(known) >= lead:
                actual = max(known)
                calibrator.update(np.array([(actual - point) / scale]), np.array([[actual <= asked]]))
                results.append((index, actual, asked))
        predictor.add(last)
        mean = last if mean != mean else mean + (last - mean) / min(index + 1, day)
        scale = math.sqrt((last + 0.1 * mean) / bin_s + (0.1 * (last + 0.1 * mean)) ** 2) + 1e-9
        point = predictor.next()
        issued.append((point, max(0.0, point + scale * float(calibrator.offsets()[0, 0])), scale))
    spent_ms = (time.process_time() - began_s) * 1e3
    return _summary(
        method, horizon_s, [row for row in results if row[0] >= rates.size // 2], quantile, bin_s, spent_ms / rates.size
    )


def _summary(
    method: str,
    horizon_s: float,
    results: list[tuple[int, float, float]],
    quantile: float,
    bin_s: float,
    step_ms: float,
) -> Score:
    index, actual, asked = (np.array(column) for column in zip(*results, strict=True))
    error = actual - asked
    met = error <= 0
    days = (index * bin_s // DAY_S).astype(int)
    whole = [float(met[days == day].mean()) for day in np.unique(days) if (days == day).sum() * bin_s > DAY_S / 2]
    loss = float(np.maximum(quantile * error, (quantile - 1.0) * error).mean())
    return Score(
        method, horizon_s, loss, float(met.mean()), min(whole, default=math.nan), days_near(whole, quantile), step_ms
    )


def days_near(coverage_by_day: Sequence[float], asked: float, points: float = 0.06) -> float:
    """Share of the days whose coverage is within so much of what was asked; nan without a day."""
    near = [abs(coverage - asked) <= points + 1e-9 for coverage in coverage_by_day]
    return sum(near) / len(near) if near else math.nan
