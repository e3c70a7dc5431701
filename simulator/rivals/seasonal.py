"""A Holt-Winters forecaster with a daily season and empirical error quantiles.

It stands for the forecasters of systems whose own (an LSTM, N-HiTS, a closed service) cannot be had: on recorded
traffic it beats persistence, ARIMA and Prophet-like trends, so no rival is made weaker by it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

BIN_S = 300.0
DAY = 288
ERRORS = 3 * DAY


class HoltWinters:
    """Additive level and daily season; smoothing chosen by one-step error on the history."""

    def __init__(self, history: Sequence[float], day: int = DAY) -> None:
        self._day = day
        self._level, self._season, self._at = 0.0, [0.0] * day, 0
        choices = [(alpha, gamma) for alpha in (0.2, 0.5, 0.8) for gamma in (0.1, 0.3)]
        self._alpha, self._gamma = min(choices, key=lambda choice: self._fit(history, *choice))
        self._fit(history, self._alpha, self._gamma)

    def _fit(self, history: Sequence[float], alpha: float, gamma: float) -> float:
        """Mean squared one-step error over the history, the first day left out; leaves the state behind."""
        self._alpha, self._gamma = alpha, gamma
        first = list(history[: self._day]) or [0.0]
        self._level = sum(first) / len(first)
        full = len(first) == self._day
        self._season = [value - self._level for value in first] if full else [0.0] * self._day
        self._at = len(first) % self._day
        errors = [self.update(value) ** 2 for value in history[len(first) :]]
        return sum(errors) / max(len(errors), 1)

    def update(self, value: float) -> float:
        """The next bin's value; returns the error of the forecast for it."""
        error = value - self._level - self._season[self._at]
        self._level += self._alpha * error
        self._season[self._at] += self._gamma * (1.0 - self._alpha) * error
        self._at = (self._at + 1) % self._day
        return error

    def peak(self, bins: int) -> float:
        """The highest forecast of the next `bins` bins."""
        return self._level + max(self._season[(self._at + ahead) % self._day] for ahead in range(bins))


class PeakForecast:
    """The highest rate of the next `bins` bins of 300 s, with the quantiles of its past errors."""

    def __init__(self, history: Sequence[float], bins: int) -> None:
        self._bins = bins
        self._recent: deque[float] = deque(maxlen=bins)
        self._issued: deque[float] = deque()
        self._errors: deque[float] = deque(maxlen=ERRORS)
        cut = max(len(history) - ERRORS - bins, min(len(history), DAY))
        self._model = HoltWinters(history[:cut])
        for value in history[cut:]:
            self.update(value)

    def update(self, value: float) -> float | None:
        """The next bin's value; returns the error that came due with it."""
        self._model.update(value)
        self._recent.append(value)
        error = None
        if len(self._issued) == self._bins:
            error = max(self._recent) - self._issued.popleft()
            self._errors.append(error)
        self._issued.append(self._model.peak(self._bins))
        return error

    def quantile(self, level: float) -> float:
        """The rate that the highest of the next bins stays under with this probability."""
        margin = float(np.quantile(np.array(self._errors), min(max(level, 0.0), 1.0))) if self._errors else 0.0
        return max(0.0, self._model.peak(self._bins) + margin)
