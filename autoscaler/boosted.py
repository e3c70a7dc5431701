"""The quantile gradient-boosting expert: rows of features kept for the next fit, trees to ask.

It sees what the other experts say, so it learns when each is to be believed, and past levels and the calendar beside.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from autoscaler.features import Features
from autoscaler.observation import Floats
from autoscaler.past import Past
from autoscaler.trees import FitTask, Trees

MOST_ROWS = 2160
FEWEST_ROWS = 200
HISTORY_DAYS = 7.5


class Boosted:
    """Silent until trees are adopted. `lead` in bins, `seasons` in bins, shortest first."""

    name = "boosted"

    def __init__(self, lead: int, seasons: tuple[int, ...], experts: int, past: Past) -> None:
        self._lead = lead
        self._day = seasons[0] if seasons else 60 * lead
        self._past = past
        self._features = Features(lead, seasons, self._day, experts, past)
        self.stride = max(1, math.ceil(HISTORY_DAYS * self._day / MOST_ROWS))
        self._width = self._features.width
        self._rows: NDArray[np.float16] = np.zeros((0, self._width), dtype=np.float16)
        self._learned: NDArray[np.float32] = np.zeros((0, 2), dtype=np.float32)  # target, weight
        self._filled = 0
        self._open: dict[int, tuple[NDArray[np.float16], float, float]] = {}
        self._due_rows = max(FEWEST_ROWS, 2 * self._day // self.stride)
        self._trees: Trees | None = None

    def update(self, bin_index: int, level: float, outcome: float) -> None:
        """The bin's level, and the highest level of the `lead` bins that end with it (nan without data)."""
        self._features.update(bin_index, level, outcome)
        opened = self._open.pop(bin_index - self._lead, None)
        if opened is not None and outcome == outcome:
            row, start, scale = opened
            self._append(row, (outcome - start) / scale, scale)

    def row(self, bin_index: int, level: float, scale: float, mean: float, points: Floats) -> Floats:
        """[features] of this moment; `points` [experts] is what the other experts say, nan where silent."""
        return self._features.row(bin_index, level, scale, mean, points)

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
        return peak if peak <= 2.0 * self._past.highest + scale else math.nan
