"""The Kubernetes Horizontal Pod Autoscaler, from pkg/controller/podautoscaler/{replica_calculator,horizontal}.go."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from simulator.world import Seen

TOLERANCE = 0.1
SYNC_S = 15.0


def _within(ratio: float) -> bool:
    return 1.0 - TOLERANCE <= ratio <= 1.0 + TOLERANCE  # to the last bit as the controller compares


def pods_metric_replicas(
    values: Sequence[float], target: float, replicas: int, missing: int = 0, pending: int = 0
) -> int:
    """Replicas for a metric of type Pods: `values` of the pods that have it, pods without it, pods in phase Pending."""
    if not values:
        return replicas  # no metric at all is an error: nothing changes
    ratio = sum(values) / len(values) / target
    up_with_pending = pending > 0 and ratio > 1.0
    if not up_with_pending and missing == 0:
        return replicas if _within(ratio) else math.ceil(ratio * len(values) - 1e-9)
    filled = sum(values) + (target * missing if ratio < 1.0 else 0.0)
    count = len(values) + missing + (pending if up_with_pending else 0)
    again = filled / count / target
    if _within(again) or (ratio < 1.0 < again) or (again < 1.0 < ratio):
        return replicas
    proposed = math.ceil(again * count - 1e-9)
    if (again < 1.0 and proposed > replicas) or (again > 1.0 and proposed < replicas):
        return replicas
    return proposed


def average_value_replicas(total: float, target: float, replicas: int) -> int:
    """Replicas for an object or external metric with an AverageValue target: total / target, outside the tolerance."""
    if replicas > 0 and _within(total / (target * replicas)):
        return replicas
    return math.ceil(total / target - 1e-9)


def value_replicas(value: float, target: float, replicas: int, ready: int) -> int:
    """Replicas for an object or external metric with a Value target: ratio x ready pods, outside the tolerance."""
    ratio = value / target
    return replicas if _within(ratio) else math.ceil(ratio * ready - 1e-9)


@dataclass
class HpaBehavior:
    """Stabilization windows and rate policies of autoscaling/v2, with its defaults."""

    down_window_s: float = 300.0
    up_pods: int = 4
    up_factor: float = 2.0
    period_s: float = 15.0
    _recommended: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: deque[tuple[float, int]] = field(default_factory=deque)

    def limit(self, now_s: float, current: int, desired: int, bounds: tuple[int, int]) -> int:
        """The desired count after stabilization, the rate limits and [min, max]."""
        if not self._recommended:
            self._recommended.append((now_s, current))  # what it finds is its first recommendation
        self._recommended.append((now_s, desired))
        while self._recommended[0][0] <= now_s - self.down_window_s:
            self._recommended.popleft()
        highest = max(count for _, count in self._recommended)
        stable = desired if desired >= current else min(current, highest)
        while self._changes and self._changes[0][0] <= now_s - self.period_s:
            self._changes.popleft()
        start = current - sum(change for _, change in self._changes)  # what it was a period ago
        most = max(start + self.up_pods, math.ceil(start * self.up_factor))
        limited = min(stable, max(most, current)) if stable > current else stable
        result = max(bounds[0], min(limited, bounds[1]))
        if result != current:
            self._changes.append((now_s, result - current))
        return result


class HpaRatio:
    """HPA on the queue-to-compute ratio of each pod, as Triton's tutorial has it."""

    sync_s = SYNC_S

    def __init__(self, target: float) -> None:
        self.target = target
        self.behavior = HpaBehavior()

    def metric(self, seen: Seen) -> float | None:
        return seen.queue_to_compute(60.0)

    def replicas(self, seen: Seen) -> int:
        value = self.metric(seen)
        values = [value] * seen.ready if value is not None else []
        missing = seen.starting - seen.pending_pods
        desired = pods_metric_replicas(values, self.target, seen.replicas, missing, seen.pending_pods)
        return self.behavior.limit(seen.now_s, seen.replicas, desired, (seen.min_replicas, seen.max_replicas))


class HpaRate(HpaRatio):
    """HPA on the requests a second that each pod answers; `target` is a share of what a pod can."""

    def metric(self, seen: Seen) -> float | None:
        duty = seen.duty(60.0)
        return None if duty is None else seen.answered_per_s(60.0) / seen.ready * seen.service_s


class HpaDuty(HpaRatio):
    """HPA on the GPU's duty cycle, as DCGM shows it."""

    def metric(self, seen: Seen) -> float | None:
        return seen.duty(60.0)
