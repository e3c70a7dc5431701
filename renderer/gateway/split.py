"""Requests split over pools by weight, so that a new version takes a share first. A core."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from itertools import accumulate


class Split:
    """Weights by pool; the same key always gets the same pool, so a session never changes version on the way."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Raises ValueError unless every weight is 0 or more and one is more."""
        for pool, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"weight of pool {pool} is {weight:g}, expected 0 or more")
        if not sum(weights.values()):
            raise ValueError("the weights of all pools are 0, expected one above 0")
        self._pools = tuple(weights)
        self._bounds = tuple(accumulate(weights.values()))

    def pool(self, key: str) -> str:
        """The pool of a key; over many keys each pool gets its share."""
        fraction = int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") / 2**64
        at = fraction * self._bounds[-1]
        return next(pool for pool, bound in zip(self._pools, self._bounds, strict=True) if at < bound)
