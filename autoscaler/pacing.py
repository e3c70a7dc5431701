"""The budget of late requests, paced: what was spent moves the margin above the forecast's median.

After BACC's pacing of a violation budget (research on budgeted conformal control): a bounded integral step in the
logarithm, quick to widen, slow to narrow, and silent while nobody counts late requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LOWEST_MARGIN, HIGHEST_MARGIN = 0.6, 2.0
WIDEN = 0.2  # of the margin in one lead, when ten times too many requests are late
NARROW = 0.02  # of the margin in one lead
KNOWN_REQUESTS = 3.0  # x 1 / violation_ratio served requests before a clean record narrows


@dataclass
class Budget:
    """What was served and what was late, fading over a day."""

    served: float = 0.0
    late: float = 0.0
    margin: float = 1.0  # x (working quantile - median) is added to the median

    def spend(self, late: float | None, served: float | None, fade: float) -> None:
        """Count the requests of one tick; `fade` is what a day leaves of the record in one tick."""
        if late is None or served is None or not (0 <= late <= served) or not math.isfinite(served):
            return
        self.served = self.served * fade + served
        self.late = self.late * fade + late

    def pace(self, asked_ratio: float, share: float) -> None:
        """Move the margin; `share` is the part of a lead that a tick stands for."""
        if self.served <= 0:
            return
        overspent = self.late / self.served / asked_ratio
        if overspent > 1.0 and self.late >= 1.0:
            pressure = min(math.log10(overspent), 1.0)
            self.margin = min(self.margin * math.exp(WIDEN * pressure * share), HIGHEST_MARGIN)
        elif overspent < 0.5 and self.served >= KNOWN_REQUESTS / asked_ratio:
            self.margin = max(self.margin * math.exp(-NARROW * share), LOWEST_MARGIN)
