"""Counters turned into arrivals a bin: resets, new series and gaps kept apart from "nothing happened"."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

import numpy as np

from autoscaler.observation import Floats

Key = TypeVar("Key", bound=Hashable)


class CounterBook(Generic[Key]):
    """The last value of every series, also of those that were missing for no more than `kept_looks`."""

    def __init__(self, kept_looks: int = 0) -> None:
        self._values: dict[Key, float] | None = None
        self._missing: dict[Key, int] = {}  # looks since a kept series was there
        self._kept_looks = kept_looks
        self.resets = 0
        self.appeared: set[Key] = set()  # series of the last look with no value to compare with

    def increments(self, values: Mapping[Key, float]) -> dict[Key, float] | None:
        """What each series grew by since the last call; None the first time, when there is nothing to compare.

        A value below the last one is a reset and counts from zero, as Prometheus does; so does a series without a last
        one, which is in `appeared`. Values that are no counts (negative, nan, inf) raise ValueError.
        """
        for key, value in values.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"counter {key!r} is {value!r}, expected a finite number of 0 or more")
        before, self._values = self._values, dict(values)
        self.appeared = values.keys() - (before or {}).keys()
        if before is None:
            return None
        looks = {key: self._missing.get(key, 0) + 1 for key in before.keys() - values.keys()}
        self._missing = {key: missed for key, missed in looks.items() if missed <= self._kept_looks}
        self._values |= {key: before[key] for key in self._missing}
        grown = {}
        for key, value in values.items():
            last = before.get(key, 0.0)
            self.resets += value < last
            grown[key] = value if value < last else value - last
        return grown


class DemandLog:
    """Arrivals by bin on a fixed grid; a bin that less than half was seen of is nan."""

    def __init__(self, bin_s: float, max_bins: int = 50_000) -> None:
        self.bin_s = bin_s
        self._max_bins = max_bins
        self._bins: dict[int, list[float]] = {}  # bin index -> [arrivals, seconds seen]
        self._last_s: float | None = None

    def add(self, from_s: float, to_s: float, count: float) -> None:
        """`count` arrivals between two moments, spread evenly; a span over three bins is left out."""
        self._last_s = to_s
        if not 0 < to_s - from_s <= 3 * self.bin_s:
            return
        index = math.floor(from_s / self.bin_s)
        while index * self.bin_s < to_s:
            overlap_s = min(to_s, (index + 1) * self.bin_s) - max(from_s, index * self.bin_s)
            if overlap_s > 0:
                cell = self._bins.setdefault(index, [0.0, 0.0])
                cell[0] += count * overlap_s / (to_s - from_s)
                cell[1] += overlap_s
            index += 1
        while len(self._bins) > self._max_bins:
            del self._bins[min(self._bins)]

    def full_bins(self) -> tuple[Floats, float]:
        """Arrivals of every full bin, oldest first, and the end of the last one (nan without any)."""
        if self._last_s is None or not self._bins:
            return np.zeros(0), math.nan
        first, end = min(self._bins), math.floor(self._last_s / self.bin_s + 1e-9)
        counts = np.full(max(0, end - first), math.nan)
        for index, (arrivals, seen_s) in self._bins.items():
            if index < end and 2 * seen_s >= self.bin_s:
                counts[index - first] = arrivals * self.bin_s / seen_s
        return counts, end * self.bin_s if counts.size else math.nan
