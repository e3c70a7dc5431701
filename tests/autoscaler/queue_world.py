"""A tiny world of pods behind `Cluster`: one queue, c servers, start-up delays, one-second bins."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autoscaler.loop import (
    Decision,
    Memory,
    Observation,
    PodState,
    Pool,
    ServiceTime,
    StartingPod,
    WarmAsk,
    tick,
)


@dataclass
class SimulatedPod:
    uid: str
    asked_s: float
    ready_s: float
    free_s: float


@dataclass
class QueueWorld:
    """Poisson arrivals at `rates` (requests/s, one a second) after `history` counts; a tick every second."""

    pool: Pool
    rates: np.ndarray
    history: np.ndarray
    startup_s: tuple[float, float]
    service_s: float = 0.15
    service_cv: float = 0.2
    max_wait_s: float = 0.5
    seed: int = 0
    pods: list[SimulatedPod] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Separate streams: two policies meet the same arrivals.
        self.arrival_random = np.random.default_rng(self.seed)
        self.service_random = np.random.default_rng(self.seed + 1000)
        self.start_random = np.random.default_rng(self.seed + 2000)
        self.counts = list(self.history)
        self.queue: deque[float] = deque()
        self.waits: list[float] = []
        self.pod_seconds = 0.0
        self.startups: list[float] = []
        self.window: deque[tuple[float, float]] = deque(maxlen=400)
        self.names = 0
        self.now_s = 0.0

    def pools(self) -> Sequence[Pool]:
        return [self.pool]

    def observe(self, pool: Pool, now_s: float) -> Observation:
        ready = [pod for pod in self.pods if pod.ready_s <= now_s]
        recent = list(self.window)[-100:]
        compute = sum(service for _, service in recent)
        return Observation(
            pool=pool.name,
            now_s=now_s,
            bin_s=1.0,
            demand=np.array(self.counts[-400:], dtype=np.float64),
            ready=len(ready),
            desired=len(self.pods),
            starting=tuple(StartingPod(p.uid, now_s - p.asked_s) for p in self.pods if p.ready_s > now_s),
            pending=float(len(self.queue)),
            queue_to_compute=sum(wait for wait, _ in recent) / compute if compute else None,
            service=ServiceTime(self.service_s, self.service_cv, len(self.window)),
            startup_s=tuple(self.startups),
            pods=tuple(PodState(p.uid, ready=p.ready_s <= now_s) for p in self.pods),
        )

    def scale(self, pool: Pool, decision: Decision) -> None:
        del pool
        for _ in range(decision.replicas - len(self.pods)):
            delay = float(self.start_random.uniform(*self.startup_s))
            self.add(delay)
            self.startups.append(delay)
        for uid in decision.victims[: max(0, len(self.pods) - decision.replicas)]:
            gone = next(pod for pod in self.pods if pod.uid == uid)
            self.pods.remove(gone)
            self.pod_seconds += (
                max(self.now_s, gone.free_s if gone.ready_s <= self.now_s else self.now_s) - gone.asked_s
            )

    def warm(self, pool: Pool, asks: Sequence[WarmAsk]) -> None:
        del pool, asks

    def add(self, delay: float) -> None:
        self.names += 1
        ready_s = self.now_s + delay
        self.pods.append(SimulatedPod(f"pod-{self.names}", self.now_s, ready_s, ready_s))

    def run(self, start_pods: int) -> QueueWorld:
        for _ in range(start_pods):
            self.add(0.0)
        memory = Memory()
        for second, rate in enumerate(self.rates):
            self.now_s = float(second)
            self.decisions += tick(self, memory, self.now_s)
            count = int(self.arrival_random.poisson(rate))
            self.serve(np.sort(self.arrival_random.uniform(0, 1, count)) + second, second + 1.0)
            self.counts.append(count)
        self.now_s = float(len(self.rates))
        self.pod_seconds += sum(self.now_s - pod.asked_s for pod in self.pods)
        self.waits += [self.now_s - arrival for arrival in self.queue]
        return self

    def serve(self, arrivals: np.ndarray, until_s: float) -> None:
        heap = [(pod.free_s, index) for index, pod in enumerate(self.pods)]
        heapq.heapify(heap)
        self.queue.extend(arrivals.tolist())
        while self.queue and heap:
            free_s, index = heap[0]
            start = max(free_s, self.queue[0])
            if start >= until_s:
                break
            service = float(self.service_random.gamma(1 / self.service_cv**2, self.service_s * self.service_cv**2))
            self.pods[index].free_s = start + service
            heapq.heapreplace(heap, (start + service, index))
            wait = start - self.queue.popleft()
            self.waits.append(wait)
            self.window.append((wait, service))

    @property
    def violation_ratio(self) -> float:
        return sum(wait > self.max_wait_s for wait in self.waits) / len(self.waits)


def sinus_day(days: float, peak_per_s: float, trough_per_s: float, day_s: int = 40) -> np.ndarray:
    """Requests/s of each second, lowest at the start of a day."""
    phase = 2 * np.pi * np.arange(round(days * day_s)) / day_s
    return trough_per_s + (peak_per_s - trough_per_s) * (1 - np.cos(phase)) / 2
