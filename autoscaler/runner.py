"""The loop on a real clock: a tick every interval until it is told to stop."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from autoscaler.boosting import Refitter
from autoscaler.decision import Decision
from autoscaler.decision_log import DecisionLog
from autoscaler.exposition import DecisionMetrics
from autoscaler.loop import Cluster, Memory, read_on, tick

TICK_BINS = 25_000  # of histories that a tick itself may read, two weeks of minutes and some: a second
STEP_BINS = 3_000  # read at once between two ticks: a tenth of a second
STEP_S = 0.3  # before a tick no step begins any more
READ_SHARE = 0.8  # of a core, while histories are read

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
        self._memory = Memory(gpu_budget=gpu_budget, build_bins=TICK_BINS)
        self._read: Callable[[dict[str, int]], None] = lambda _: None
        self._refitter = Refitter()
        if log is not None:
            recorder = DecisionLog(log, self._memory, _log_ended)
            self._memory.record = recorder.record
            self._refitter.adopted = recorder.adopted
            self._read = recorder.read_on
        self._last_end_s: float | None = None
        self._started_s = time.monotonic()
        self.tick_s = 0.0  # that the last tick took
        self.stopping = threading.Event()

    def healthy(self) -> bool:
        since_s = time.monotonic() - (self._last_end_s or self._started_s)
        return since_s < max(3 * self._interval_s, 10.0)

    def ready(self) -> bool:
        return self._last_end_s is not None

    def tick(self, now: Callable[[], float] = time.time) -> list[Decision]:
        """One tick now, by the clock `now` of the cluster, recorded in the metrics."""
        begin_s = time.monotonic()
        self._refitter.exchange(self._memory)
        decisions = tick(self._cluster, self._memory, now())
        self._last_end_s = time.monotonic()
        self.tick_s = self._last_end_s - begin_s
        self._metrics.record(decisions, self.tick_s)
        return decisions

    def run(self, report: Report, now: Callable[[], float] = time.time) -> None:
        """Tick until `stopping` is set; a tick that took too long is followed at once, never twice."""
        while not self.stopping.is_set():
            due_s = time.monotonic() + self._interval_s
            report(self.tick(now))
            self._read_on(due_s)
            self.stopping.wait(max(0.0, due_s - time.monotonic()))

    def _read_on(self, due_s: float) -> None:
        """After a restart: read histories while the next tick is not due, with a part of one core."""
        while not self.stopping.is_set():
            begin_s, begin_cpu_s = time.monotonic(), time.thread_time()
            if begin_s >= due_s - STEP_S or not (read := read_on(self._memory, STEP_BINS)):
                return
            self._read(read)
            rest_s = (time.thread_time() - begin_cpu_s) / READ_SHARE - (time.monotonic() - begin_s)
            self.stopping.wait(max(0.0, rest_s))

    def close(self) -> None:
        """End the background fits."""
        self._refitter.close()


def _log_ended(error: OSError) -> None:
    print(f"decision log: {error}; no further tick is written to it", file=sys.stderr, flush=True)
