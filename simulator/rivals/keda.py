"""KEDA's Prometheus scaler on the request rate: the operator takes 0 to 1 and back, an HPA the rest.

From kedacore/keda: pkg/scalers/prometheus_scaler.go, pkg/scaling/executor/scale_scaledobjects.go.
"""

from __future__ import annotations

from simulator.rivals.hpa import SYNC_S, HpaBehavior, average_value_replicas
from simulator.world import Seen

COOLDOWN_S = 300.0


class Keda:
    """sum(rate(requests[1m])) against `share` of what a pod can answer, AverageValue."""

    sync_s = SYNC_S

    def __init__(self, share: float) -> None:
        self.share = share
        self.behavior = HpaBehavior()
        self._active_s = 0.0

    def total_per_s(self, seen: Seen) -> float:
        return seen.rate_per_s(60.0)

    def replicas(self, seen: Seen) -> int:
        total = self.total_per_s(seen)
        if total > 0:
            self._active_s = seen.now_s
        elif seen.min_replicas == 0 and seen.now_s - self._active_s > COOLDOWN_S:
            return 0
        if seen.replicas == 0:
            return max(1, seen.min_replicas) if total > 0 else 0
        desired = average_value_replicas(total, self.share / seen.service_s, seen.replicas)
        return self.behavior.limit(seen.now_s, seen.replicas, desired, (max(1, seen.min_replicas), seen.max_replicas))
