"""Online conformal calibration: residual windows whose levels adapt until the asked coverage is met.

Gibbs and Candes, "Adaptive conformal inference under distribution shift" (2021): after every outcome the level moves
by gamma x (asked - covered), which gives the long-run coverage of any forecaster under any drift. What was missed of
late can be answered beside that, by a part that fades: the sum of all misses alone answers late, and goes too far.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autoscaler.observation import Floats

# One-sided normal quantiles stand in until there are residuals enough: (level, z).
_PRIOR = ((0.5, 0.0), (0.8, 0.84), (0.9, 1.28), (0.95, 1.64), (0.99, 2.33), (1.0, 3.0))
_FEW = 200  # residuals below which none is left out
_REACH = 0.7  # of the way from a level to 1: so far a gain moves it at most, as the last residuals are bursts


def _prior(level: float) -> float:
    for (low, below), (high, above) in pairwise(_PRIOR):
        if level <= high:
            return below + (above - below) * (level - low) / (high - low)
    return _PRIOR[-1][1]


class Calibrators:
    """Offsets that turn point forecasts into quantiles, for several forecasters that are told of together.

    Residuals come divided by a scale of the caller's. What belongs to one forecaster is a row, so that an array
    operation serves all of them.
    """

    def __init__(
        self,
        levels: ArrayLike,
        window: int,
        gamma: ArrayLike = 0.02,
        stride: int = 1,
        gain: float = 0.0,
        memory: float = 1.0,
    ) -> None:
        """`levels` [forecasters, levels]; `gamma` of all, or one a forecaster.

        Of each forecaster the last `window` residuals are kept, each `stride`-th outcome's once there are some. With a
        `gain`, a level also moves by gain x the mean of (asked - covered), which halves its memory every `memory`
        outcomes.
        """
        self.levels: Floats = np.array(levels, dtype=np.float64, ndmin=2)
        self._window = window
        self._gamma: Floats = np.array(gamma, dtype=np.float64).reshape(-1, 1)
        self._gain = gain
        self._forget = 0.5 ** (1.0 / max(memory, 1.0))
        self._lacked = np.zeros_like(self.levels)  # of the coverage, of late
        self._furthest = self.levels + _REACH * (1.0 - self.levels)
        self._stride = stride
        self._adapted = self.levels.copy()
        self._enough = 2.0 / (1.0 - self.levels)  # residuals below which the prior holds
        self._prior = np.vectorize(_prior, otypes=[np.float64])(self.levels)
        self._upper = self.levels > 0.5
        rows = len(self.levels)
        self._counts: NDArray[np.int64] = np.zeros((rows, 1), dtype=np.int64)
        self._few: NDArray[np.bool_] = self._counts < self._enough
        self._some_few = True
        self._seen = [0] * rows
        self._kept = [0] * rows  # the same as in `_counts`
        self._oldest = [0] * rows  # place in the ring, which is full
        # Both hold one row of `_width` places a forecaster. As `array`, whose search and shift of a few hundred values
        # take half a microsecond; numpy reads it without a copy.
        self._width = 0
        self._order = array("f")  # rings of the residuals in the order of their coming
        self._sorted = array("f")
        self._widen(min(64, window))

    @property
    def samples(self) -> int:
        """Residuals of the first forecaster that are kept."""
        return self._kept[0]

    def offsets(self) -> Floats:
        """[forecasters, levels] what to add to the points, in scales."""
        last = self._counts - 1
        residuals = np.frombuffer(self._sorted, dtype=np.float32)
        aim = self._adapted
        if self._gain:
            aim = np.minimum(np.maximum(aim + self._gain * self._lacked, 0.05), self._furthest)
        rank = aim * (self._counts + 1) - 1.0
        inside = np.maximum(np.minimum(rank, last), 0.0)
        low = inside.astype(np.int64)
        at = self._begins + low
        below = residuals.take(at).astype(np.float64)
        above = residuals.take(at + (low < last)).astype(np.float64)
        result: Floats = below + (above - below) * (inside - low)
        worst = residuals.take(self._begins + np.maximum(last, 0)).astype(np.float64)
        # Beyond the worst seen: grow with the excess, so that the level can still act.
        result += np.maximum(rank - last, 0.0) / np.maximum(self._counts, 1) * np.abs(worst)
        if self._some_few:
            # Too few for this quantile: the prior, or the worst seen where that is worse.
            seen = np.where(self._upper & (self._counts > 0), worst, -10.0)
            result = np.where(self._few, np.maximum(self._prior, seen), result)
        return result

    def update(self, residuals: Floats, covered: NDArray[np.bool_]) -> None:
        """Learn one outcome.

        `residuals` [forecasters] are nan where one was silent, who learns nothing; `covered` [forecasters, levels] says
        whether the quantile that was issued was met.
        """
        known = (residuals == residuals)[:, None]
        missed = (self.levels - covered) * known
        self._adapted = np.minimum(np.maximum(self._adapted + self._gamma * missed, 0.05), 1.05)
        if self._gain:
            self._lacked += (1.0 - self._forget) * (missed - self._lacked) * known
        for row, residual in enumerate(residuals.tolist()):
            if residual == residual:
                self._seen[row] += 1
                if self._seen[row] % self._stride == 0 or self._kept[row] < _FEW:
                    self._keep(row, residual)

    def _keep(self, row: int, residual: float) -> None:
        if self._kept[row] == self._window:
            self._replace(row, residual)
            return
        if self._kept[row] == self._width:
            self._widen(min(2 * self._width, self._window))
        ordered, begin, count = self._sorted, row * self._width, self._kept[row]
        at = bisect_right(ordered, residual, begin, begin + count)
        ordered[at + 1 : begin + count + 1] = ordered[at : begin + count]
        ordered[at] = residual
        self._order[begin + count] = residual
        self._kept[row] = self._counts[row, 0] = count + 1
        if self._some_few:
            self._few = self._counts < self._enough
            self._some_few = bool(self._few.any())

    def _replace(self, row: int, residual: float) -> None:
        """The oldest residual of a full window goes."""
        ordered, begin, end = self._sorted, row * self._width, (row + 1) * self._width
        place = begin + self._oldest[row]
        gone = bisect_left(ordered, self._order[place], begin, end)
        at = bisect_right(ordered, residual, begin, end)
        if at > gone:
            at -= 1
            ordered[gone:at] = ordered[gone + 1 : at + 1]
        else:
            ordered[at + 1 : gone + 1] = ordered[at:gone]
        ordered[at] = self._order[place] = residual
        self._oldest[row] = (self._oldest[row] + 1) % self._window

    def _widen(self, width: int) -> None:
        """More places a row: who knows little takes little memory."""
        rows, old = len(self.levels), self._width
        more = array("f", bytes(4 * (width - old)))
        wide = [array("f"), array("f")]
        for row in range(rows):
            for values, ring in zip(wide, (self._order, self._sorted), strict=True):
                values += ring[row * old : (row + 1) * old] + more
        self._order, self._sorted = wide
        self._width = width
        self._begins = np.arange(0, rows * width, width)[:, None]
