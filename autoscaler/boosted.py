"""The quantile gradient-boosting expert: features without a unit, rows kept for the next fit, trees to ask.

It sees what the other experts say, so it learns when each is to be believed, and lags and the calendar beside them.
Every value is divided by the forecast's scale: trees learned at one demand hold at ten times that demand.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from autoscaler.observation import Floats
from autoscaler.trees import FitTask, Trees

MOST_ROWS = 3000
FEWEST_ROWS = 200
HISTORY_DAYS = 21
_LARGEST = 60_000.0  # what a float16 holds


class Boosted:
    """Silent until trees are adopted. `lead` in bins, `seasons` in bins, shortest first."""

    name = "boosted"

    def __init__(self, lead: int, seasons: tuple[int, ...], experts: int) -> None:
        self._lead = lead
        self._day = seasons[0] if seasons else 60 * lead
        self._seasons = seasons
        self._lags = tuple(sorted({1, 2, 3, lead, 2 * lead, 4 * lead, 12}))
        self._back = tuple(dict.fromkeys(days * seasons[0] for days in (1, 2))) + seasons[1:2] if seasons else ()
        size = max((*self._back, *self._lags)) + 2 * lead + 1
        self._levels = np.full(size, math.nan, dtype=np.float32)  # [bins] by bin modulo size
        self._peaks = np.full(size, math.nan, dtype=np.float32)  # [bins] highest level over the lead after each bin
        self._rough = 0.0
        self._calm = 0.0
        self._last = math.nan
        self._highest = 0.0
        self.stride = max(1, lead // 3, math.ceil(HISTORY_DAYS * self._day / MOST_ROWS))
        self._width = experts + len(self._lags) + 4 * len(self._back) + 4 + len(seasons[:2])
        self._rows: NDArray[np.float16] = np.zeros((0, self._width), dtype=np.float16)
        self._learned: NDArray[np.float32] = np.zeros((0, 2), dtype=np.float32)  # target, weight
        self._filled = 0
        self._open: dict[int, tuple[NDArray[np.float16], float, float]] = {}
        self._due_rows = max(FEWEST_ROWS, 2 * self._day // self.stride)
        self._trees: Trees | None = None

    def update(self, bin_index: int, level: float, outcome: float) -> None:
        """The bin's level, and the highest level of the `lead` bins that end with it (nan without data)."""
        size = len(self._levels)
        self._levels[bin_index % size] = level
        then = bin_index - self._lead
        self._peaks[bin_index % size] = math.nan
        self._peaks[then % size] = outcome
        if level == level:
            move = abs(level - self._last) if self._last == self._last else 0.0
            self._rough += 0.2 * (move - self._rough)
            self._calm += (move - self._calm) / max(self._day, 20)
            self._last = level
            self._highest = max(self._highest, level)
        opened = self._open.pop(then, None)
        if opened is not None and outcome == outcome:
            row, start, scale = opened
            self._append(row, (outcome - start) / scale, scale)

    def row(self, bin_index: int, level: float, scale: float, mean: float, points: Floats) -> Floats:
        """[features] of this moment; `points` [experts] is what the other experts say, nan where silent."""
        size = len(self._levels)
        at = [(bin_index - lag) % size for lag in self._lags]
        values: list[Floats | NDArray[np.float32]] = [points, self._levels[at]]
        for back in self._back:
            then = bin_index - back
            values.append(self._peaks[[then % size, (then - self._lead) % size, (then + self._lead) % size]])
            values.append(self._levels[[then % size]])
        relative: Floats = (np.concatenate(values).astype(np.float64) - level) / scale
        rest = [(mean - level) / scale, level / (mean + 1e-9), self._rough / scale, self._calm / scale]
        rest += [bin_index % season / season for season in self._seasons[:2]]
        whole = np.concatenate((relative, rest))
        rounded: Floats = np.clip(whole, -_LARGEST, _LARGEST).astype(np.float16).astype(np.float64)
        return rounded

    def keep(self, bin_index: int, row: Floats, level: float, scale: float) -> None:
        """Remember a row until its outcome is known."""
        self._open[bin_index] = (row.astype(np.float16), level, scale)

    def _append(self, row: NDArray[np.float16], target: float, scale: float) -> None:
        if self._filled == len(self._rows):
            if self._filled >= MOST_ROWS:
                self._filled -= MOST_ROWS // 8
                self._rows[: self._filled] = self._rows[-self._filled :]
                self._learned[: self._filled] = self._learned[-self._filled :]
            else:
                more = min(max(2 * self._filled, 128), MOST_ROWS) - self._filled
                self._rows = np.concatenate((self._rows, np.zeros((more, self._width), dtype=np.float16)))
                self._learned = np.concatenate((self._learned, np.zeros((more, 2), dtype=np.float32)))
        self._rows[self._filled] = row
        self._learned[self._filled] = target, scale
        self._filled += 1
        self._due_rows -= 1

    @property
    def due(self) -> bool:
        """A day's worth of rows came since the last fit was asked for."""
        return self._due_rows <= 0

    def task(self, quantile: float) -> FitTask:
        """Values for a fit; the next one is due a day later."""
        self._due_rows = max(20, self._day // self.stride)
        learned = self._learned[: self._filled].astype(np.float64)
        # Weighted by its scale, an error counts in requests/s, as the pool feels it.
        weights = learned[:, 1] / learned[:, 1].mean()
        return FitTask(self._rows[: self._filled].astype(np.float64), learned[:, 0], weights, quantile)

    def adopt(self, trees: Trees) -> None:
        self._trees = trees

    def peak(self, row: Floats, level: float, scale: float) -> float:
        """The working quantile of the highest level inside the lead; nan without trees.

        More than twice what was ever seen is no answer either: trees cannot foresee it, so they are broken.
        """
        if self._trees is None:
            return math.nan
        peak = max(level + scale * self._trees.predict(row), 0.0)
        return peak if peak <= 2.0 * self._highest + scale else math.nan
