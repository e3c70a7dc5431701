"""Reversals, paced: the more often up followed down of late, the more a superfluous pod must have cost before it goes.

Ski rental at a price that is learned: holding pods that nobody needs costs their time, taking them away risks a
reversal. Each reversal makes the next one dearer and time makes it cheaper, so that as many are made as the budget
allows and they are made where the surplus is greatest: noise of one pod is sat out, a great surplus never stays long.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

STEP = 0.35  # of the price's logarithm: up for each reversal, down for each that the budget would have allowed
TARGET = 0.7  # of the budget is what the price aims at
LOWEST, HIGHEST = 0.003, 5.0  # x the pods that are usual x a day / budget: bounds of the price in pod-seconds
FIRST = 0.006
CROWDING = 4.0  # power at which the price grows once the day has had more reversals than it aims at
BELIEF_STEP = 0.2  # towards what the last promise was worth


@dataclass
class Flaps:
    """The changes of one pool that matter: when up followed down, and what was held since the last step up."""

    reversals: deque[float] = field(default_factory=deque)  # times at which up followed down, of the last day
    direction: int = 0  # of the last change: 1 up, -1 down
    held_pod_s: float = 0.0  # surplus since the last step up
    price: float = FIRST  # of the next reversal, x the pods that are usual x a day / budget
    priced_s: float | None = None
    usual: float = 0.0  # pods that were needed, over a day or as long as it is known
    known_s: float = 0.0  # for how long, a day at most
    belief: float = 0.1  # share of what forecasts promised to save until a reversal that was saved
    promised_pod_s: float = 0.0  # by the last first step down
    top: int = 0  # pods before it
    saved_pod_s: float = 0.0  # since

    def need(self, needed: int, tick_s: float, day_s: float) -> None:
        """Count what is needed for one tick."""
        self.known_s = min(self.known_s + tick_s, day_s)
        self.usual += tick_s / self.known_s * (needed - self.usual)

    def hold(self, surplus: int, tick_s: float) -> None:
        """Count what is held for one tick; `surplus` is how many pods could go."""
        self.held_pod_s += max(surplus, 0) * tick_s

    def save(self, pods: int, tick_s: float) -> None:
        """Count what is saved for one tick since the first step down, with `pods` running."""
        if self.direction == -1:
            self.saved_pod_s += max(0, self.top - pods) * tick_s

    def promise(self, pods: int, saving_pod_s: float) -> None:
        """The next step down is made because the forecast says that so much is saved before `pods` are needed again."""
        self.top, self.promised_pod_s, self.saved_pod_s = pods, saving_pod_s, 0.0

    def moved(self, now_s: float, change: int) -> None:
        """The count was changed by `change`."""
        if change > 0:
            if self.direction == -1:
                self.reversals.append(now_s)
                self.price = min(self.price * math.exp(STEP), HIGHEST)
                if self.promised_pod_s > 0:
                    kept = min(self.saved_pod_s / self.promised_pod_s, 1.0)
                    self.belief += BELIEF_STEP * (kept - self.belief)
                    self.promised_pod_s = 0.0
            self.held_pod_s = 0.0
        if change:
            self.direction = 1 if change > 0 else -1

    def price_pod_s(self, now_s: float, day_s: float, budget: int, needed: int) -> float:
        """Surplus to be held before the next step down may follow a step up; 0 after a step down."""
        while self.reversals and self.reversals[0] <= now_s - day_s:
            self.reversals.popleft()
        if budget <= 0:
            return 0.0
        if self.priced_s is not None:
            passed = max(0.0, now_s - self.priced_s) / day_s  # a clock may be set back
            self.price = max(self.price * math.exp(-STEP * TARGET * budget * passed), LOWEST)
        self.priced_s = now_s
        if self.direction != 1:
            return 0.0
        # A day that is more restless than the price expects still ends within its budget, or nearly so.
        crowded = math.pow(max(1.0, len(self.reversals) / (TARGET * budget)), CROWDING)
        return self.price * crowded * max(self.usual, needed, 1.0) * day_s / budget
