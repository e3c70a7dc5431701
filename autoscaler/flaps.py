"""Reversals, paced: the more often up followed down today, the more a superfluous pod must have cost before it goes.

Ski rental between two prices: holding pods that nobody needs costs their time, taking them away risks a reversal. A
reversal is cheap while few were made and dear once the day's budget is spent, so a restless demand is followed more
slowly and a great surplus never stays for long.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

SURPLUS_SHARE = 0.25  # of the pods that are needed: so much surplus is held for a day / budget once the budget is spent
STEEPNESS = 4.0


@dataclass
class Flaps:
    """The changes of one pool that matter: when up followed down, and what was held since the last step up."""

    reversals: deque[float] = field(default_factory=deque)  # times at which up followed down
    direction: int = 0  # of the last change: 1 up, -1 down
    held_pod_s: float = 0.0  # surplus since the last step up

    def hold(self, surplus: int, tick_s: float) -> None:
        """Count what is held for one tick; `surplus` is how many pods could go."""
        self.held_pod_s += max(surplus, 0) * tick_s

    def moved(self, now_s: float, change: int) -> None:
        """The count was changed by `change`."""
        if change > 0:
            if self.direction == -1:
                self.reversals.append(now_s)
            self.held_pod_s = 0.0
        if change:
            self.direction = 1 if change > 0 else -1

    def price_pod_s(self, now_s: float, day_s: float, budget: int, needed: int) -> float:
        """Surplus to be held before the next step down may follow a step up; 0 after a step down."""
        while self.reversals and self.reversals[0] <= now_s - day_s:
            self.reversals.popleft()
        if self.direction != 1 or budget <= 0:
            return 0.0
        spent = len(self.reversals) / budget
        return float(SURPLUS_SHARE * max(needed, 1) * day_s / budget * spent**STEEPNESS)
