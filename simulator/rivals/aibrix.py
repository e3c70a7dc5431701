"""AIBrix's APA, from vllm-project/aibrix: pkg/controller/podautoscaler/algorithm/apa.go."""

from __future__ import annotations

import math
from collections import deque

from simulator.world import Seen

WINDOW_S, DOWN_COOLDOWN_S = 180.0, 300.0


def apa_replicas(
    pods: int, use_per_pod: float, target: float, up_rate: float = 2.0, down_rate: float = 2.0, tolerance: float = 0.1
) -> int:
    """The target count; within the tolerance the count that is."""
    ratio = use_per_pod / target
    wanted = math.ceil(pods * ratio - 1e-9)
    if ratio > 1.0 + tolerance + 1e-12:
        return min(wanted, math.ceil(up_rate * pods))
    if ratio < 1.0 - tolerance - 1e-12:
        return max(wanted, math.floor(pods / down_rate))
    return pods


class Apa:
    """Mean concurrency a pod over 180 s; down only to the highest verdict of the last 300 s."""

    sync_s = 10.0

    def __init__(self, target: float) -> None:
        self.target = target
        self._verdicts: deque[tuple[float, int]] = deque()

    def replicas(self, seen: Seen) -> int:
        use = seen.concurrency(WINDOW_S) / max(seen.ready, 1)
        count = apa_replicas(seen.replicas, use, self.target)
        self._verdicts.append((seen.now_s, count))
        while self._verdicts[0][0] <= seen.now_s - DOWN_COOLDOWN_S:
            self._verdicts.popleft()
        if count < seen.replicas:
            count = min(seen.replicas, max(verdict for _, verdict in self._verdicts))
        return max(seen.min_replicas, min(count, seen.max_replicas))
