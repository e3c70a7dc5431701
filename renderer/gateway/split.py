"""Requests split over pools by weight, so that a new version takes a share first. A core."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from itertools import accumulate

MOST_WEIGHT = 1e6  # sums stay finite, and a share of a millionth is the least that a canary needs


class Split:
    """Weights by pool; the same key always gets the same pool, so a session never changes version on the way."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Raises ValueError unless every weight is from 0 to MOST_WEIGHT and one is above 0."""
        for pool, weight in weights.items():
            if not 0 <= weight <= MOST_WEIGHT:
                raise ValueError(f"weight of pool {pool} is {weight:g}, expected 0 to {MOST_WEIGHT:,.0f}")
        if not sum(weights.values()):
            raise ValueError("the weights of all pools are 0, expected one above 0")
        self._pools = tuple(weights)
        self._bounds = tuple(accumulate(weights.values()))
        self._last = self._pools[self._bounds.index(self._bounds[-1])]  # what rounding puts on the very end

    def pool(self, key: str) -> str:
        """The pool of a key; over many keys each pool gets its share."""
        fraction = int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") / 2**64
        at = fraction * self._bounds[-1]
        return next((pool for pool, bound in zip(self._pools, self._bounds, strict=True) if at < bound), self._last)
