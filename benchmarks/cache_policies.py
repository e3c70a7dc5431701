"""Eviction policies of a cache bounded in bytes, as plain values: what the scene cache does and what it could do.

Each `request` returns whether it was a hit; a miss brings the object in. GDSF is Cherkasova's of 1998: frequency times
cost over size, plus an age.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from renderer.eviction import SmallMainFifo


class Policy(Protocol):
    """A cache that keeps what it thinks best."""

    def request(self, name: int, size: int) -> bool: ...


class LeastRecentlyUsed:
    """The plain contract."""

    def __init__(self, budget: int) -> None:
        self._budget, self._held = budget, 0
        self._sizes: OrderedDict[int, int] = OrderedDict()

    def request(self, name: int, size: int) -> bool:
        if name in self._sizes:
            self._sizes.move_to_end(name)
            return True
        while self._held + size > self._budget:
            self._held -= self._sizes.popitem(last=False)[1]
        self._sizes[name] = size
        self._held += size
        return False


class GreedyDualSizeFrequency:
    """Evicts what has the least of frequency x seconds to load / bytes, aged by what was evicted before."""

    def __init__(self, budget: int, cost_s: Callable[[int], float]) -> None:
        self._budget, self._held, self._age = budget, 0, 0.0
        self._cost_s = cost_s
        self._kept: dict[int, tuple[float, int, int]] = {}  # value, frequency, size
        self._heap: list[tuple[float, int]] = []

    def request(self, name: int, size: int) -> bool:
        kept = self._kept.get(name)
        while kept is None and self._held + size > self._budget:
            value, other = heapq.heappop(self._heap)
            if other in self._kept and self._kept[other][0] == value:
                self._held -= self._kept.pop(other)[2]
                self._age = value
        frequency = 1 if kept is None else kept[1] + 1
        value = self._age + frequency * self._cost_s(size) / size
        self._kept[name] = (value, frequency, size)
        heapq.heappush(self._heap, (value, name))
        self._held += size if kept is None else 0
        return kept is not None


class SceneCachePolicy:
    """What renderer.scene_cache does (renderer.eviction)."""

    def __init__(self, budget: int) -> None:
        self._budget, self._held = budget, 0
        self._sizes: dict[int, int] = {}
        self._order: SmallMainFifo[int] = SmallMainFifo(budget)

    def request(self, name: int, size: int) -> bool:
        if name in self._sizes:
            self._order.visited(name)
            return True
        while self._held + size > self._budget:
            gone = self._order.next_to_go(lambda _: True)
            assert gone is not None
            self._order.went(gone)
            self._held -= self._sizes.pop(gone)
        self._order.came(name, size)
        self._sizes[name] = size
        self._held += size
        return False


class FarthestNextUse:
    """Clairvoyant: evicts what is needed last (Belady's rule; with sizes no longer the optimum, but a mark)."""

    def __init__(self, budget: int, names: Sequence[int]) -> None:
        self._budget, self._held, self._now = budget, 0, 0
        self._sizes: dict[int, int] = {}
        self._next_use: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []
        self._following = [len(names)] * len(names)
        last: dict[int, int] = {}
        for at in range(len(names) - 1, -1, -1):
            self._following[at] = last.get(names[at], len(names))
            last[names[at]] = at

    def request(self, name: int, size: int) -> bool:
        hit = name in self._sizes
        while not hit and self._held + size > self._budget:
            negative, other = heapq.heappop(self._heap)
            if other in self._sizes and self._next_use[other] == -negative:
                self._held -= self._sizes.pop(other)
        if not hit:
            self._sizes[name] = size
            self._held += size
        self._next_use[name] = self._following[self._now]
        heapq.heappush(self._heap, (-self._next_use[name], name))
        self._now += 1
        return hit
