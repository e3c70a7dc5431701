"""How far forecasts miss at each time of day: a restless hour gets a wide margin and a calm one a narrow one."""

from __future__ import annotations

import numpy as np

BUCKETS = 48  # of a day
FADE = 0.85  # a day's outcomes weigh so much less a day later
PRIOR = 0.5  # buckets' worth of outcomes that speak for "as at any other time"
MOST = 20.0  # x the mean: what one outcome counts at most
BOUNDS = (0.5, 4.0)


class Volatility:
    """Mean absolute error by time of day, relative to the whole day's."""

    def __init__(self, day: int) -> None:
        """`day` in bins."""
        self._day = max(day, 1)
        self._buckets = min(BUCKETS, self._day)
        self._sums = np.zeros(self._buckets)
        self._weights = np.zeros(self._buckets)
        self._fade = FADE ** (1.0 / self._day)
        self._grown = 1.0  # newer outcomes weigh more, which is the same as older ones fading
        self._sum = self._weight = 0.0

    def _bucket(self, bin_index: int) -> int:
        return bin_index % self._day * self._buckets // self._day

    def learn(self, bin_index: int, residual: float) -> None:
        """The error, in scales, of what was said after bin `bin_index`."""
        size = abs(residual)
        if self._weight > 0:
            size = min(size, MOST * self._sum / self._weight)
        self._grown /= self._fade
        if self._grown > 1e6:
            for values in (self._sums, self._weights):
                values /= self._grown
            self._sum, self._weight, self._grown = self._sum / self._grown, self._weight / self._grown, 1.0
        bucket = self._bucket(bin_index)
        self._sums[bucket] += self._grown * size
        self._weights[bucket] += self._grown
        self._sum += self._grown * size
        self._weight += self._grown

    def ratio(self, bin_index: int) -> float:
        """The mean error at this time of day over the mean error at any; 1 before a day was seen."""
        if self._weight <= 0 or self._sum <= 0 or self._weight / self._grown < 0.5 * self._day:
            return 1.0
        b = self._bucket(bin_index)
        at = [(b - 1) % self._buckets, b, (b + 1) % self._buckets]
        near = np.array([0.5, 1.0, 0.5])
        whole = self._sum / self._weight
        prior = PRIOR * self._weight / self._buckets
        here = (float(near @ self._sums[at]) + prior * whole) / (float(near @ self._weights[at]) + prior)
        return min(max(here / whole, BOUNDS[0]), BOUNDS[1])
