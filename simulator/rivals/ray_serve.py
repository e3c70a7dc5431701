"""Ray Serve's replica autoscaler, from ray-project/ray: python/ray/serve/autoscaling_policy.py."""

from __future__ import annotations

import math

from simulator.world import Seen

LOOK_BACK_S, UP_DELAY_S, DOWN_DELAY_S = 30.0, 30.0, 600.0


class RayServe:
    """Mean ongoing requests over 30 s against a target a replica, after a row of equal verdicts."""

    sync_s = 5.0

    def __init__(self, target: float) -> None:
        self.target = target
        self._verdicts = 0  # in a row: above 0 up, below 0 down

    def decide(self, ongoing: float, current: int) -> int:
        """The count, once the verdict has stood long enough; from zero at once."""
        if current == 0:
            return math.ceil(ongoing / self.target - 1e-9) if ongoing > 0 else 0
        wanted = math.ceil(ongoing / self.target - 1e-9)
        if wanted > current:
            self._verdicts = max(self._verdicts, 0) + 1
            if self._verdicts > UP_DELAY_S / self.sync_s:
                self._verdicts = 0
                return wanted
        elif wanted < current:
            self._verdicts = min(self._verdicts, 0) - 1
            if self._verdicts < -DOWN_DELAY_S / self.sync_s:
                self._verdicts = 0
                return wanted
        else:
            self._verdicts = 0
        return current

    def replicas(self, seen: Seen) -> int:
        count = self.decide(seen.concurrency(LOOK_BACK_S), seen.replicas)
        return max(seen.min_replicas, min(count, seen.max_replicas))
