"""A Gaussian budget: an even sample of the scene, each of its Gaussians grown to stand for those that are left out.

By its place in the file a Gaussian is in or out, the same on every rasterizer, without a table or a copy. The growth of
the covariances, (left out and drawn / drawn)^0.75, is fitted (docs/decisions/0011): with it the sample is closer to the
whole picture than the Gaussians of largest opacity and area are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_WHOLE = 1 << 32
_HASH = 2654435761  # Knuth's multiplicative hash, 2^32 over the golden ratio: any stretch of the file is sampled evenly
_SLACK = 3  # Gaussians by which an even share of places may miss a whole number
_GROWTH = 0.75
_MOST_GROWTH = 16.0  # beyond it the few that are left would be fog


@dataclass(frozen=True, slots=True)
class Sample:
    """Which Gaussians are drawn, and by what their covariances are multiplied."""

    limit: int
    growth: float


def sample_of(count: int, budget: int | None) -> Sample:
    """The sample of at most `budget` out of `count` Gaussians; all of them where it is None or large enough."""
    if budget is None or budget >= count:
        return Sample(_WHOLE, 1.0)
    share = max(budget - _SLACK, 0.5) / count
    return Sample(int(share * _WHOLE), min(share**-_GROWTH, _MOST_GROWTH))


def is_drawn(place: Any, limit: Any) -> Any:
    """Whether the Gaussian at that place of the file is in the sample; int64, or an array or tensor of them."""
    return ((place * _HASH) & 0xFFFFFFFF) < limit
