"""Knative's pod autoscaler, from knative/serving: pkg/autoscaler/scaling/autoscaler.go."""

from __future__ import annotations

import math

from simulator.world import Seen

STABLE_S, PANIC_S = 60.0, 6.0


class Kpa:
    """Mean concurrency over 60 s, and over 6 s once that asks for twice the ready pods: then never down."""

    sync_s = 2.0

    def __init__(
        self, target: float, panic_threshold: float = 2.0, max_up_rate: float = 1000.0, max_down_rate: float = 2.0
    ) -> None:
        self.target = target
        self._panic_threshold = panic_threshold
        self._max_up_rate, self._max_down_rate = max_up_rate, max_down_rate
        self._panic_since_s: float | None = None
        self._panic_most = 0

    def decide(self, now_s: float, stable: float, panic: float, ready: int) -> int:
        """The count for the mean concurrency over both windows."""
        counted = max(ready, 1)
        most = math.ceil(self._max_up_rate * counted)
        least = math.floor(counted / self._max_down_rate)
        raw_panic = math.ceil(panic / self.target - 1e-9)
        desired = min(max(math.ceil(stable / self.target - 1e-9), least), most)
        desired_panic = min(max(raw_panic, least), most)
        over = raw_panic / counted >= self._panic_threshold
        if over:
            if self._panic_since_s is None:
                self._panic_most = 0
            self._panic_since_s = now_s
        elif self._panic_since_s is not None and now_s > self._panic_since_s + STABLE_S:
            self._panic_since_s, self._panic_most = None, 0
        if self._panic_since_s is None:
            return desired
        self._panic_most = max(self._panic_most, desired_panic)
        return self._panic_most

    def replicas(self, seen: Seen) -> int:
        count = self.decide(seen.now_s, seen.concurrency(STABLE_S), seen.concurrency(PANIC_S), seen.ready)
        return max(seen.min_replicas, min(count, seen.max_replicas))
