"""Weighted quantiles and the bins that a boosted fit sees: the values of scikit-learn, all quantiles from one sort.

scikit-learn's own serve tables of any kind and sort anew for every quantile, which took four fifths of a fit here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoscaler.observation import Floats

MOST_BINS = 64


def weighted_quantile(values: Floats, weights: Floats, quantile: float) -> np.float64:
    """The least of `values` that has so much of the weight at or below it: the inverse of the distribution function."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    # By a hundred and back, as scikit-learn does: the last bit may decide.
    wanted = 100.0 * quantile / 100.0 * below[-1]
    found: np.float64 = values[order[min(np.searchsorted(below, wanted), len(order) - 1)]]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Where each feature is cut: a value lies in bin i where cuts[i - 1] < value <= cuts[i]."""

    cuts: tuple[Floats, ...]  # [features][fewer than MOST_BINS], rising

    @classmethod
    def of(cls, features: Floats, weights: Floats) -> Bins:
        """Cuts of [rows, features], nan = not known: in parts of equal weight, or between all values that are few."""
        pairs = zip(features.T, ~np.isnan(features.T), strict=True)
        return cls(tuple(_cuts(column[known], weights[known]) for column, known in pairs))

    def numbers(self, features: Floats) -> Floats:
        """[rows, features]: the bin of each value; nan stays."""
        pairs = zip(self.cuts, features.T, strict=True)
        numbers = np.column_stack([np.searchsorted(cuts, column) for cuts, column in pairs])
        return np.where(np.isnan(features), np.nan, numbers)

    def cut_between(self, feature: int, number: float) -> float:
        """The value that parts what a threshold between two bins' numbers parts; infinite stays."""
        return number if np.isinf(number) else float(self.cuts[feature][int(np.ceil(number)) - 1])


def _cuts(values: Floats, weights: Floats) -> Floats:
    order = np.argsort(values)
    rising = values[order]
    distinct = np.unique(rising)
    if len(distinct) <= MOST_BINS:
        between: Floats = (distinct[:-1] + distinct[1:]) / 2.0
        return between
    below = np.cumsum(weights[order])
    wanted = np.linspace(0, 100, MOST_BINS + 1)[1:-1] / 100.0 * below[-1]
    at = np.minimum(np.searchsorted(below, wanted), len(order) - 1)
    # A quantile that lies on a value is the mean of it and the next.
    beyond = below[at] - wanted > np.finfo(float).eps
    upper = rising[np.minimum(at + 1, len(order) - 1)]
    cuts: Floats = np.unique(np.where(beyond, rising[at], (rising[at] + upper) / 2.0))
    return cuts
