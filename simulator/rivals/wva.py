"""llm-d's workload variant autoscaler, saturation mode: one pod up or down by the mean spare queue."""

from __future__ import annotations

from collections import deque

from simulator.world import Seen

QUEUE_LIMIT = 5.0  # a replica with this many waiting is saturated


def saturation_step(queue_per_pod: float, pods: int, spare_trigger: float = 3.0) -> int:
    """+1 where the spare queue is under the trigger, -1 where spreading over one pod fewer keeps it."""
    if QUEUE_LIMIT - queue_per_pod < spare_trigger:
        return 1
    if pods > 1 and QUEUE_LIMIT - queue_per_pod * pods / (pods - 1) >= spare_trigger:
        return -1
    return 0


class Wva:
    """Every 60 s by the highest queue of that minute; nothing while a pod starts."""

    sync_s = 15.0

    def __init__(self, spare_trigger: float) -> None:
        self.spare_trigger = spare_trigger
        self._queues: deque[float] = deque(maxlen=4)
        self._ticks = 0

    def replicas(self, seen: Seen) -> int:
        self._queues.append(seen.queued / max(seen.ready, 1))
        self._ticks += 1
        if self._ticks % 4 or seen.starting:
            return seen.replicas
        step = saturation_step(max(self._queues), seen.ready, self.spare_trigger)
        return max(seen.min_replicas, min(seen.replicas + step, seen.max_replicas))
