"""The levels of the last bins, of fixed size: one ring for all that look back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Levels = NDArray[np.float32]
DAYS = 7  # that the same time of day is looked up in


class Past:
    """As many levels as are looked back to."""

    def __init__(self, bins: int) -> None:
        self.seen = 0  # bins
        self.highest = 0.0  # level that was ever seen
        self._levels = np.full(bins, math.nan, dtype=np.float32)  # by bin modulo size

    @classmethod
    def of(cls, lead: int, seasons: Sequence[int], day: int) -> Past:
        """As far as a week and an hour or a lead beside it, or the second season where that is longer; all in bins."""
        hour = max(1, day // 24)
        week = DAYS * day if seasons else 0
        return cls(max(week, *seasons[1:2], 3 * hour, lead) + lead + hour + 1)

    def __len__(self) -> int:
        return len(self._levels)

    def add(self, level: float) -> None:
        """The next bin's level, nan without data."""
        self.seen += 1
        self._levels[self.seen % len(self._levels)] = level
        if level == level:
            self.highest = max(self.highest, level)

    def back(self, bins: NDArray[np.int64]) -> Levels:
        """The levels so many bins before the newest, which is 0; nan before the first."""
        found: Levels = self._levels[(self.seen - bins) % len(self._levels)]
        return found
