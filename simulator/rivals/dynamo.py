"""NVIDIA Dynamo's planner, from ai-dynamo/dynamo: planner/core/{load_scaling,throughput_scaling,state_machine}.py.

Made for engines with KV caches; here the waiting line of a renderer stands for their queued tokens.
"""

from __future__ import annotations

import math

from simulator.rivals.predictors import Predictor
from simulator.world import Seen

LOAD_S, THROUGHPUT_S = 5.0, 180.0
SENSITIVITY = 0.8  # of the SLA that a queue may take after a step down


def load_step(queued_per_pod: float, up: float, down: float) -> int:
    """The easy mode: +1 where a pod's queue reaches `up` of its capacity, -1 where all are under `down`."""
    return 1 if queued_per_pod >= up else -1 if queued_per_pod < down else 0


def sla_step(load_per_pod: float, pods: int, service_s: float, max_wait_s: float) -> int:
    """The SLA mode: +1 where the time predicted from the load misses the SLA; -1 where N - 1 pods keep 0.8 of it."""
    if max(0.0, load_per_pod - 1.0) * service_s > max_wait_s:
        return 1
    if pods > 1 and max(0.0, load_per_pod * pods / (pods - 1) - 1.0) * service_s < SENSITIVITY * max_wait_s:
        return -1
    return 0


class DynamoLoad:
    """One step at a time, and none while a pod starts."""

    sync_s = LOAD_S

    def __init__(self, up: float = 1.0, down: float = 0.1) -> None:
        self.up, self.down = up, down

    def step(self, seen: Seen) -> int:
        return load_step(seen.queued / seen.ready, self.up, self.down)

    def replicas(self, seen: Seen) -> int:
        if seen.starting or not seen.ready:
            return seen.replicas
        return max(seen.min_replicas, min(seen.replicas + self.step(seen), seen.max_replicas))


class DynamoSla(DynamoLoad):
    """The same by predicted times, with the check of one pod fewer."""

    def __init__(self, max_wait_s: float) -> None:
        super().__init__()
        self._max_wait_s = max_wait_s

    def step(self, seen: Seen) -> int:
        return sla_step(seen.concurrency(LOAD_S) / seen.ready, seen.ready, seen.service_s, self._max_wait_s)


class DynamoThroughput:
    """The predicted rate of the next interval over what a pod can at the SLA."""

    sync_s = THROUGHPUT_S

    def __init__(self, predictor: Predictor, share: float) -> None:
        self.predictor, self.share = predictor, share
        self._warm = False

    def replicas(self, seen: Seen) -> int:
        if not self._warm:
            for rate in seen.history(THROUGHPUT_S, 2000):
                self.predictor.add(rate)
            self._warm = True
        self.predictor.add(seen.rate_per_s(THROUGHPUT_S))
        count = math.ceil(self.predictor.next() * seen.service_s / self.share - 1e-9)
        return max(seen.min_replicas, min(count, seen.max_replicas))


class DynamoBoth:
    """Throughput gives the floor, load moves above it."""

    sync_s = LOAD_S

    def __init__(self, throughput: DynamoThroughput, load: DynamoLoad) -> None:
        self._throughput, self._load = throughput, load
        self._due_s = 0.0
        self._floor = 0

    def replicas(self, seen: Seen) -> int:
        if seen.now_s >= self._due_s:
            self._floor = self._throughput.replicas(seen)
            self._due_s = seen.now_s + THROUGHPUT_S
        return max(self._floor, self._load.replicas(seen))
