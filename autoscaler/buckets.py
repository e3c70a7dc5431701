"""What cumulative histogram buckets say: how many were over a bound, and how widely values vary."""

from __future__ import annotations

import math
from collections.abc import Mapping

FEWEST = 20.0  # observations below which nothing is said of a variation


def over(buckets: Mapping[float, float], bound: float) -> tuple[float, float] | None:
    """(all, those above `bound`) of buckets upper edge -> count up to it; None without the bucket of all.

    Inside a bucket values are taken as evenly spread, as Prometheus' histogram_quantile takes them.
    """
    if math.inf not in buckets or not all(count >= 0 for count in buckets.values()):
        return None
    total, below, low, before = buckets[math.inf], 0.0, 0.0, 0.0
    for edge, count in sorted(buckets.items()):
        if bound < edge:
            inside = (bound - low) / (edge - low) if math.isfinite(edge) else 0.0
            below = before + inside * (count - before)
            break
        low, before, below = edge, count, count
    return total, max(0.0, total - below)


def variation(buckets: Mapping[float, float]) -> float | None:
    """Standard deviation / mean; None where too few were seen or some lie beyond the last edge.

    Inside a bucket values are taken as evenly spread: what lies in one bucket then varies by its width / sqrt(12).
    """
    edges = sorted(edge for edge in buckets if math.isfinite(edge))
    total = buckets.get(math.inf, 0.0)
    if not edges or total < FEWEST or buckets[edges[-1]] < total:
        return None
    first = second = low = before = 0.0
    for edge in edges:
        count = max(0.0, buckets[edge] - before)
        first += count * (low + edge) / 2.0
        second += count * (low * low + low * edge + edge * edge) / 3.0
        low, before = edge, max(before, buckets[edge])
    mean = first / total
    return math.sqrt(max(second / total - mean * mean, 0.0)) / mean if mean > 0 else None
