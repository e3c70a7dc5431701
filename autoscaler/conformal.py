"""Online conformal calibration: residual windows whose levels adapt until the asked coverage is met.

Gibbs and Candes, "Adaptive conformal inference under distribution shift" (2021): after every outcome the level moves
by gamma x (asked - covered), which gives the long-run coverage of any forecaster under any drift. What was missed of
late can be answered beside that, by a part that fades: the sum of all misses alone answers late, and goes too far.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise

# One-sided normal quantiles stand in until there are residuals enough: (level, z).
_PRIOR = ((0.5, 0.0), (0.8, 0.84), (0.9, 1.28), (0.95, 1.64), (0.99, 2.33), (1.0, 3.0))


_FEW = 200  # residuals below which none is left out
_REACH = 0.85  # of the way from a level to 1: so far a gain moves it at most, as the last residuals are bursts


def _prior(level: float) -> float:
    for (low, below), (high, above) in pairwise(_PRIOR):
        if level <= high:
            return below + (above - below) * (level - low) / (high - low)
    return _PRIOR[-1][1]


class Calibrator:
    """Offsets that turn one point forecast into quantiles. Residuals come divided by a scale of the caller's."""

    def __init__(
        self,
        levels: Sequence[float],
        window: int,
        gamma: float = 0.02,
        stride: int = 1,
        gain: float = 0.0,
        memory: float = 1.0,
    ) -> None:
        """The last `window` residuals are kept, each `stride`-th outcome's once there are some.

        With a `gain`, a level also moves by gain x the mean of (asked - covered), which halves its memory every
        `memory` outcomes.
        """
        self.levels = tuple(levels)
        self._window = window
        self._gamma = gamma
        self._adapted = list(levels)
        self._gain = gain
        self._forget = 0.5 ** (1.0 / max(memory, 1.0))
        self._late = [0.0] * len(levels)  # what coverage lacked of late
        self._stride = stride
        self._seen = 0
        self._order = array("f")  # ring of the residuals in the order of their coming
        self._oldest = 0
        self._sorted = array("f")

    @property
    def samples(self) -> int:
        return len(self._sorted)

    def offset(self, index: int) -> float:
        """What to add to the point, in scales, for `levels[index]`."""
        count = len(self._sorted)
        level = self.levels[index]
        if count < 2.0 / (1.0 - level):
            # Too few for this quantile: the prior, or the worst seen where that is worse.
            seen = self._sorted[-1] if count and level > 0.5 else -10.0
            return max(_prior(level), seen)
        rank = self._aim(index) * (count + 1) - 1.0
        if rank >= count - 1:
            # Beyond the worst seen: grow with the excess, so that the level can still act.
            return self._sorted[-1] + max(0.0, rank - (count - 1)) / count * abs(self._sorted[-1])
        if rank <= 0:
            return self._sorted[0]
        low = int(rank)
        below = self._sorted[low]
        return below + (self._sorted[low + 1] - below) * (rank - low)

    def _aim(self, index: int) -> float:
        """The quantile of the residuals that is taken for `levels[index]`."""
        if not self._gain:
            return self._adapted[index]
        level = self.levels[index]
        aim = self._adapted[index] + self._gain * self._late[index]
        return min(max(aim, 0.05), level + _REACH * (1.0 - level))

    def offsets(self) -> list[float]:
        return [self.offset(index) for index in range(len(self.levels))]

    def update(self, residual: float, covered: Sequence[bool]) -> None:
        """Learn one outcome: its residual, and for each level whether the quantile issued for it was met."""
        for index, level in enumerate(self.levels):
            lacked = level - covered[index]
            self._adapted[index] = min(max(self._adapted[index] + self._gamma * lacked, 0.05), 1.05)
            self._late[index] += (1.0 - self._forget) * (lacked - self._late[index])
        self._seen += 1
        if len(self._sorted) >= _FEW and self._seen % self._stride:
            return
        insort(self._sorted, residual)
        if len(self._order) < self._window:
            self._order.append(residual)
            return
        del self._sorted[bisect_left(self._sorted, self._order[self._oldest])]
        self._order[self._oldest] = residual
        self._oldest = (self._oldest + 1) % self._window
