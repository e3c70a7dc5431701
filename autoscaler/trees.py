"""Boosted regression trees as plain arrays: what a fit leaves behind, small, comparable and fast to ask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoscaler.observation import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """The nodes of all trees in one row; a leaf leads to itself."""

    base: float
    depth: int  # steps after which every path has reached its leaf
    roots: NDArray[np.int32]  # [trees]
    feature: NDArray[np.int32]  # [nodes]
    threshold: Floats  # [nodes] a value at or below it goes left
    left: NDArray[np.int32]  # [nodes]
    right: NDArray[np.int32]  # [nodes]
    missing_left: NDArray[np.bool_]  # [nodes] where a value that is not known goes
    value: Floats  # [nodes]

    def predict(self, row: Floats) -> float:
        """The answer for one row of features [features]; nan is "not known"."""
        unknown, feature = np.isnan(row), self.feature
        if unknown.any():
            # What is not known is below no threshold; in a second row, for the nodes that send it left, below each.
            row = np.concatenate((row, np.where(unknown, -np.inf, row)))
            feature = feature + unknown.size * self.missing_left
        node = self.roots
        for _ in range(self.depth):
            goes_left = row.take(feature.take(node)) <= self.threshold.take(node)
            node = np.where(goes_left, self.left.take(node), self.right.take(node))
        return self.base + float(self.value.take(node).sum())


@dataclass(frozen=True, slots=True, eq=False)
class FitTask:
    """All that a fit needs: the same task gives the same trees."""

    features: Floats  # [rows, features], oldest first, nan = not known
    targets: Floats  # [rows]
    weights: Floats  # [rows]
    quantile: float
