"""Costs in seconds as the integers that kube-scheduler takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from scheduler_extender.compiled import compiled
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
    _fill(total_s, _STEPS_S, result)
    return result


_STEPS_S = np.array([0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])  # above each of them a score is one less
_MOST_COSTS = 11  # different ones that eleven scores can keep apart


@compiled(types.void(types.Array(types.float64, 1, "C", readonly=True), types.float64[::1], types.int64[::1]))
def _fill(total_s: Any, steps_s: Any, result: Any) -> None:
    levels_s, level_scores = np.empty(_MOST_COSTS), np.empty(_MOST_COSTS, np.int64)
    count, cheapest_s = 0, np.inf
    for cost_s in total_s:
        cheapest_s = min(cheapest_s, cost_s)
    for cost_s in total_s:  # the different costs in their order, as long as there are few
        if not np.isfinite(cost_s) or count > _MOST_COSTS:
            continue
        at = np.searchsorted(levels_s[:count], cost_s)
        if at < count and levels_s[at] == cost_s:
            continue
        if count == _MOST_COSTS:
            count += 1
            continue
        for above in range(count, at, -1):
            levels_s[above] = levels_s[above - 1]
        levels_s[at] = cost_s
        count += 1
    few = count <= _MOST_COSTS
    for index in range(count if few else 0):
        measured = 10 - np.searchsorted(steps_s, levels_s[index] - cheapest_s)
        # Room for every cost: each is at least one below the one before, and leaves room for those that follow.
        below = level_scores[index - 1] - 1 if index else np.int64(10)
        level_scores[index] = max(count - 1 - index, min(measured, below))
    for number in range(total_s.size):
        if not np.isfinite(total_s[number]):
            continue
        if few:
            result[number] = level_scores[np.searchsorted(levels_s[:count], total_s[number])]
        else:
            result[number] = 10 - np.searchsorted(steps_s, total_s[number] - cheapest_s)
