"""The one-step load predictors of NVIDIA Dynamo's planner, from planner/core/load/predictors.py."""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MIN_POINTS = 5
WINDOW = 50


class Predictor(Protocol):
    """Fed one value an interval; says the next, 0 before there is any."""

    def add(self, value: float) -> None: ...

    def next(self) -> float: ...


class Constant:
    """The last value."""

    def __init__(self) -> None:
        self._last = 0.0

    def add(self, value: float) -> None:
        self._last = value

    def next(self) -> float:
        return self._last


class Kalman:
    """A local linear trend: level noise 1, trend noise 0.1, observation noise 10; the last value before 5 points."""

    def __init__(self) -> None:
        self._state = np.zeros(2)
        self._spread = np.eye(2) * 1e3
        self._points = 0
        self._last = 0.0

    def add(self, value: float) -> None:
        move = np.array([[1.0, 1.0], [0.0, 1.0]])
        self._last = value
        if self._points == 0:
            self._state = np.array([value, 0.0])
        self._points += 1
        state = move @ self._state
        spread = move @ self._spread @ move.T + np.diag([1.0, 0.1])
        gain = spread[:, 0] / (spread[0, 0] + 10.0)
        self._state = state + gain * (value - state[0])
        self._spread = spread - np.outer(gain, spread[0])

    def next(self) -> float:
        if self._points < MIN_POINTS:
            return self._last
        return max(0.0, float(self._state[0] + self._state[1]))


class Arima:
    """ARIMA(p, d, 0), p <= 3 and d <= 1 by AIC once, then refitted by least squares on what was seen since.

    Moving-average terms are left out: an autoregression of enough lags stands for them.
    """

    def __init__(self, keep: int = 2000) -> None:
        self._values: deque[float] = deque(maxlen=keep)
        self._order: tuple[int, int] | None = None
        self._coefficients = np.zeros(1)
        self._since = 0

    def add(self, value: float) -> None:
        self._values.append(value)
        self._since += 1

    def next(self) -> float:
        if len(self._values) < 4 * MIN_POINTS:
            return self._values[-1] if self._values else 0.0
        if self._order is None or self._since >= WINDOW:
            self._fit(np.array(self._values))
        assert self._order is not None  # the fit set it
        lags, differences = self._order
        recent = np.array([self._values[index] for index in range(-lags - differences - 1, 0)])
        series = np.diff(recent, n=differences)
        step = float(self._coefficients[0] + self._coefficients[1:] @ series[::-1][:lags])
        return max(0.0, step + (float(recent[-1]) if differences else 0.0))

    def _fit(self, values: NDArray[np.float64]) -> None:
        orders = [self._order] if self._order else [(lags, d) for d in (0, 1) for lags in (0, 1, 2, 3)]
        best = math.inf
        for lags, differences in orders:
            series = np.diff(values, n=differences)
            rows = np.column_stack([np.ones(series.size - 3), *(series[3 - lag - 1 : -lag - 1] for lag in range(lags))])
            solution = np.linalg.lstsq(rows, series[3:], rcond=None)[0]
            error = float(((series[3:] - rows @ solution) ** 2).mean()) + 1e-12
            criterion = (series.size - 3) * math.log(error) + 2 * (lags + 1)
            if criterion < best:
                best, self._order, self._coefficients = criterion, (lags, differences), solution
        self._since = 0


class ProphetLike:
    """A straight trend through the last 50 points: what Prophet can see in 2.5 hours at 180 s a point."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=WINDOW)

    def add(self, value: float) -> None:
        self._values.append(value)

    def next(self) -> float:
        count = len(self._values)
        if count < MIN_POINTS:
            return self._values[-1] if self._values else 0.0
        slope, level = np.polyfit(np.arange(count), np.array(self._values), 1)
        return max(0.0, float(level + slope * count))
