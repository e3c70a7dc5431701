"""What the boosted expert sees of a moment: what other experts say, the last hours, the same time of past days.

Every level is taken relative to the demand of the moment and divided by the forecast's scale: trees learned at one
demand hold at ten times that demand.
"""

from __future__ import annotations

import math

import numpy as np

from autoscaler.observation import Floats
from autoscaler.past import DAYS, Levels, Past

_LAST = np.array([1, 2])  # bins before the newest
_LARGEST = 60_000.0  # what a float16 holds
_GROWTH = (0.1, 10.0)  # bounds of the last hour over the same hour a season ago


class Features:
    """What rows are made from, of fixed size. `lead` in bins, `seasons` in bins, shortest first."""

    def __init__(self, lead: int, seasons: tuple[int, ...], day: int, experts: int, past: Past) -> None:
        """Whoever tells `past` of a bin does so before `update`."""
        self._past = past
        self._lead = lead
        self._day = day
        self._seasons = seasons
        self._back = np.array([day, 2 * day, *seasons[1:2]] if seasons else [], dtype=np.int64)
        self._days = np.arange(1, DAYS + 1 if seasons else 1) * day
        self._hours = np.arange(3 * max(1, day // 24))
        self._hour = len(self._hours) // 3
        # [bins] highest level over the lead after each bin, by bin modulo size
        self._peaks = np.full(len(past), math.nan, dtype=np.float32)
        self._rough = 0.0
        self._calm = 0.0
        self._last = math.nan
        self.width = experts + 2 * len(self._back) + 3 * len(seasons[:2]) + 13

    def update(self, bin_index: int, level: float, outcome: float) -> None:
        """The bin's level, and the highest level of the `lead` bins that end with it (nan without data)."""
        size = len(self._peaks)
        self._peaks[bin_index % size] = math.nan
        self._peaks[(bin_index - self._lead) % size] = outcome
        if level == level:
            move = abs(level - self._last) if self._last == self._last else 0.0
            self._rough += 0.2 * (move - self._rough)
            self._calm += (move - self._calm) / max(self._day, 20)
            self._last = level

    def row(self, bin_index: int, level: float, scale: float, mean: float, points: Floats) -> Floats:
        """[width] features of this moment; `points` [experts] is what the other experts say, nan where silent."""
        size = len(self._peaks)
        back, days = (bin_index - self._back) % size, (bin_index - self._days) % size
        recent = self._past.back(self._hours)
        hour = recent[: self._hour]
        seasons = self._seasons[:2]
        growths = [self._growth(hour, season) for season in seasons]
        low, high = _GROWTH
        levels = [float(self._peaks[(bin_index - season) % size]) for season in seasons]
        levels = [min(max(growth, low), high) * then for growth, then in zip(growths, levels, strict=True)]
        levels += self._past.back(_LAST).tolist()
        levels += [float(pick.reduce(part)) for part in (hour, recent) for pick in (np.fmax, np.fmin)]
        peaks = self._peaks[days]
        rises = peaks - self._past.back(self._days)
        levels += [mean, float(np.fmin.reduce(peaks, initial=math.nan))]
        past = np.concatenate((self._peaks[back], self._past.back(self._back)))
        relative = (np.concatenate((points, past, levels)) - level) / scale
        rest = [_middle(rises) / scale, float(np.fmax.reduce(rises, initial=math.nan)) / scale]
        rest += [level / (mean + 1e-9), self._rough / scale, self._calm / scale]
        rest += [growth if growth != growth else min(growth, 2.0 * high) for growth in growths]
        rest += [bin_index % season / season for season in seasons]
        whole = np.concatenate((relative, rest))
        rounded: Floats = np.clip(whole, -_LARGEST, _LARGEST).astype(np.float16).astype(np.float64)
        return rounded

    def _growth(self, hour: Levels, season: int) -> float:
        """The mean of the last hour over that of the same hour a season ago."""
        then = self._past.back(season + self._hours[: self._hour])
        return _mean(hour) / (_mean(then) + 1e-9)


def _mean(levels: Levels) -> float:
    known = levels[levels == levels]
    return float(known.sum()) / known.size if known.size else math.nan


def _middle(values: Floats) -> float:
    """The median of what is known, of an even number the higher of the two."""
    known = np.sort(values[values == values])
    return float(known[known.size // 2]) if known.size else math.nan
