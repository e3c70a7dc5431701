"""The budget of late requests, paced: what was spent moves the margin above the median, and how tightly pods are cut.

After BACC's pacing of a violation budget (research on budgeted conformal control): bounded integral steps in the
logarithm, silent while nobody counts late requests.

- `margin` widens while more are late than the objective allows, over days: a single burst does not make every later
  hour dearer, bursts that keep coming do. It goes back once they stop.
- `leeway` multiplies the objective's ratio where pods are counted for one moment. A pool that is sized at 1 % of late
  requests for a quantile of the highest demand of a lead delivers a twentieth of that; leeway grows until what is
  asked to be spent is spent. A burst that nobody foresaw counts little here: no leeway would have avoided it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HIGHEST_MARGIN = 2.0
WIDEN = 0.2  # of the margin in one lead, when ten times too many requests are late
NARROW = 0.02  # of the margin in one lead, back to 1
HIGHEST_RATIO = 0.2
LEEWAY_PER_SPEND = 40.0  # so much leeway is what an ordinary day needs to spend it; more would only be wound up in calm
LOOSEN, TIGHTEN = 0.06, 0.06  # of the leeway in one lead, when a tenth, or ten times, of what is asked is spent
BURST_RATIO = 0.1  # of the requests of a tick: beyond it, late ones are a burst's
BUDGET_DAYS, ORDINARY_DAYS = 3.0, 0.5  # memory of all ticks and of the ordinary ones
KNOWN_REQUESTS = 3.0  # x 1 / violation_ratio served requests before a clean record loosens


@dataclass
class Budget:
    """What was served and what was late, fading over days; of ordinary ticks over half of one."""

    served: float = 0.0
    late: float = 0.0
    known: float = 0.0  # part of the memory that is filled; what lies before is taken for clean
    margin: float = 1.0  # x (working quantile - median) is added to the median
    ordinary_served: float = 0.0
    ordinary_late: float = 0.0
    leeway: float = 1.0  # x the objective's violation ratio is what a moment is sized for

    def spend(self, late: float | None, served: float | None, fade: float) -> bool:
        """Count the requests of one tick, and whether they were known; `fade` is what a day leaves of the record."""
        if late is None or served is None or not (0 <= late <= served) or not math.isfinite(served):
            return False
        slow, quick = fade ** (1.0 / BUDGET_DAYS), fade ** (1.0 / ORDINARY_DAYS)
        self.served = self.served * slow + served
        self.late = self.late * slow + late
        self.known = self.known * slow + 1.0 - slow
        self.ordinary_served = self.ordinary_served * quick + served
        self.ordinary_late = self.ordinary_late * quick + min(late, BURST_RATIO * served)
        return True

    def pace(self, asked_ratio: float, spend: float, share: float) -> None:
        """Move margin and leeway; `share` is the part of a lead that a tick stands for.

        `asked_ratio` is the objective's, `spend` the part of it that is to be spent on fewer pods.
        """
        if self.served <= 0:
            return
        overspent = self.known * self.late / self.served / asked_ratio
        known = self.served >= KNOWN_REQUESTS / asked_ratio
        if overspent > 1.0 and self.late >= 1.0:
            pressure = min(math.log10(overspent), 1.0)
            self.margin = min(self.margin * math.exp(WIDEN * pressure * share), HIGHEST_MARGIN)
        elif overspent < 0.5 and known:
            self.margin = max(self.margin * math.exp(-NARROW * share), 1.0)
        if spend <= 0 or not known:
            return
        ordinary = self.ordinary_late / self.ordinary_served / (asked_ratio * spend)
        if overspent > 1.0:  # bursts alone spent it all
            ordinary = max(ordinary, 10.0)
        pressure = min(max(math.log10(max(ordinary, 0.1)), -1.0), 1.0)
        step = math.exp(-(TIGHTEN if pressure > 0 else LOOSEN) * pressure * share)
        highest = max(1.0, min(1.0 + LEEWAY_PER_SPEND * spend, HIGHEST_RATIO / asked_ratio))
        self.leeway = min(max(self.leeway * step, 1.0), highest)
