"""How busy this machine is, so that a run can say whether it measured the fleet or the machine."""

from __future__ import annotations

import os
import platform
import threading
from pathlib import Path

import numpy as np
import psutil


class MachineLoad:
    """Samples the share of all cores that is busy, once a second, from `start` to `stop`."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self.ratios: list[float] = []
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="machine-load", daemon=True)

    def start(self) -> None:
        psutil.cpu_percent()
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def forget(self) -> None:
        """Begin anew: what was busy before says nothing of what is measured now."""
        self.ratios.clear()

    @property
    def latest(self) -> float:
        return self.ratios[-1] if self.ratios else 0.0

    def percentile(self, percent: float) -> float | None:
        return float(np.percentile(self.ratios, percent)) if self.ratios else None

    def _sample(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self.ratios.append(psutil.cpu_percent() / 100.0)


def busy_cpu_s() -> float:
    """CPU seconds that all processes of the machine have used so far; only differences mean something."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0))


def describe() -> dict[str, object]:
    """Cores, processor model and load average, for the head of every figure."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
    }
