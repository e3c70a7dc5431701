"""Costs in seconds as the integers that kube-scheduler takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler_extender.scene_table import Floats


def scores(total_s: Floats) -> NDArray[np.int64]:
    """[nodes] integers 0 to 10, the cheapest 10; infinite costs 0.

    kube-scheduler takes integers of 0 to 10 and multiplies them, so costs need an order and a measure. Equal costs get
    equal scores: a difference that we made up would outweigh real ones of other plugins. A cheaper node never
    scores less, and with at most eleven different costs it always scores more, so our choice survives the rounding.
    The measure is what a node loses against the cheapest: each step down doubles the seconds (up to 0.25 s is 9, 0.5 s
    8, 64 s 1), so one hopeless node does not squeeze all others together, as a linear scale would.
    """
    result = np.zeros(len(total_s), np.int64)
    finite = np.isfinite(total_s)
    if not finite.any():
        return result
    costs_s = total_s[finite]
    ordered_s = np.sort(costs_s)
    steps = ordered_s[1:] != ordered_s[:-1]
    if np.count_nonzero(steps) > 10:
        result[finite] = _measured_scores(costs_s - ordered_s[0])
        return result
    levels_s = ordered_s[np.append(True, steps)]
    level_scores = _measured_scores(levels_s - levels_s[0])
    # Room for every cost: each is at least one below the one before, and leaves room for those that follow.
    for index in range(1, len(levels_s)):
        room = len(levels_s) - 1 - index
        level_scores[index] = max(room, min(level_scores[index], level_scores[index - 1] - 1))
    result[finite] = level_scores[np.searchsorted(levels_s, costs_s)]
    return result


_STEPS_S = np.array([0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])  # above each of them a score is one less


def _measured_scores(lost_s: Floats) -> NDArray[np.int64]:
    measured: NDArray[np.int64] = 10 - np.searchsorted(_STEPS_S, lost_s)
    return measured
