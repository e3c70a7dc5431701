"""When a pool at zero is wanted again: how often recent days had traffic at this time of day."""

from __future__ import annotations

import numpy as np

from autoscaler.observation import Floats

DAYS = 14
FADE = 0.8  # weight of a day over that of the day after it
SAME_WEEKDAY = 2.0  # a day a whole week ago counts so much more


def wake_probability(demand: Floats, day_bins: int, ahead_bins: int) -> float | None:
    """Share of past days with an arrival within `ahead_bins` of this time; None before the first whole day."""
    hits, weights = 0.0, 0.0
    for days in range(1, DAYS + 1):
        start = demand.size - days * day_bins
        if start < 0:
            break
        window = demand[start : start + ahead_bins]
        known = window[np.isfinite(window)]
        if 2 * known.size < window.size or known.size == 0:
            continue
        weight = FADE ** (days - 1) * (SAME_WEEKDAY if days % 7 == 0 else 1.0)
        hits += weight * bool((known > 0).any())
        weights += weight
    return hits / weights if weights else None


def is_quiet(demand: Floats, idle_bins: int) -> bool:
    """No arrival over the last `idle_bins` that are known, at most as many between them: no data is not quiet."""
    recent = demand[-2 * idle_bins :]
    known = recent[np.isfinite(recent)][-idle_bins:]
    return known.size == idle_bins and not (known > 0).any()
