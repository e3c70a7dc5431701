"""The loop on a real clock: a tick every interval until it is told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from autoscaler.boosting import Refitter
from autoscaler.decision import Decision
from autoscaler.decision_log import DecisionLog
from autoscaler.exposition import DecisionMetrics
from autoscaler.loop import Cluster, Memory, tick

Report = Callable[[Sequence[Decision]], None]


class Runner:
    """Ticks a cluster; `healthy` is False once no tick has ended for three intervals."""

    def __init__(
        self,
        cluster: Cluster,
        interval_s: float,
        metrics: DecisionMetrics,
        gpu_budget: float | None = None,
        log: TextIO | None = None,
    ) -> None:
        """`log` gets every tick with all that went into it."""
        self._cluster = cluster
        self._interval_s = interval_s
        self._metrics = metrics
        self._memory = Memory(gpu_budget=gpu_budget)
        self._refitter = Refitter()
        if log is not None:
            recorder = DecisionLog(log, self._memory)
            self._memory.record = recorder.record
            self._refitter.adopted = recorder.adopted
        self._last_end_s: float | None = None
        self._started_s = time.monotonic()
        self.stopping = threading.Event()

    def healthy(self) -> bool:
        since_s = time.monotonic() - (self._last_end_s or self._started_s)
        return since_s < max(3 * self._interval_s, 10.0)

    def ready(self) -> bool:
        return self._last_end_s is not None

    def tick(self) -> list[Decision]:
        """One tick now, recorded in the metrics."""
        begin_s = time.monotonic()
        self._refitter.exchange(self._memory)
        decisions = tick(self._cluster, self._memory, time.time())
        self._last_end_s = time.monotonic()
        self._metrics.record(decisions, self._last_end_s - begin_s)
        return decisions

    def run(self, report: Report) -> None:
        """Tick until `stopping` is set; a tick that took too long is followed at once, never twice."""
        while not self.stopping.is_set():
            due_s = time.monotonic() + self._interval_s
            report(self.tick())
            self.stopping.wait(max(0.0, due_s - time.monotonic()))

    def close(self) -> None:
        """End the background fits."""
        self._refitter.close()
