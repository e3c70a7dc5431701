"""How busy this machine is and by whom, so that a run can say whether it measured the fleet or the machine."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

QUIET_RATIO = 0.25  # of all cores: so much in other programs' hands leaves a run what it is
_QUIET_LOOKS = 2  # one after the other: a program that is busy now and then is not gone


@dataclass(frozen=True, slots=True)
class CpuUse:
    """CPU seconds that were used until a moment; only differences mean something."""

    at_s: float
    machine_s: float  # of the cores that this process may run on, time stolen from a virtual machine included
    own_s: float  # of this process and of all below it, those that ended included

    @classmethod
    def now(cls) -> CpuUse:
        cores = os.sched_getaffinity(0)
        every = psutil.cpu_times(percpu=True)
        # Cores of a container's host may be numbered with holes: then all are looked at.
        seen = [every[core] for core in cores] if max(cores) < len(every) else every
        machine_s = sum(sum(t) - t.idle - getattr(t, "iowait", 0.0) - getattr(t, "guest", 0.0) for t in seen)
        this = psutil.Process()
        own_s = sum(_used_s(process) for process in (this, *this.children(recursive=True)))
        return cls(time.monotonic(), machine_s, own_s)

    def ratios(self, later: CpuUse) -> tuple[float, float]:
        """Shares of all cores between two moments that were busy, and that were busy for others."""
        cores_s = len(os.sched_getaffinity(0)) * max(later.at_s - self.at_s, 1e-9)
        busy_s = later.machine_s - self.machine_s
        others_s = busy_s - (later.own_s - self.own_s)
        return min(max(busy_s / cores_s, 0.0), 1.0), min(max(others_s / cores_s, 0.0), 1.0)


class MachineLoad:
    """Samples the share of all cores that is busy, once a second, from `start` to `stop`."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self.ratios: list[float] = []
        self.others: list[float] = []  # of `ratios`, what is not this process's nor its children's
        self._looks: list[tuple[float, float]] = []  # monotonic moment, others' share until then
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="machine-load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def forget(self) -> None:
        """Begin anew: what was busy before says nothing of what is measured now."""
        self.ratios.clear()
        self.others.clear()

    @property
    def latest(self) -> float:
        return self.ratios[-1] if self.ratios else 0.0

    def percentile(self, percent: float) -> float | None:
        return _percentile(self.ratios, percent)

    def others_percentile(self, percent: float) -> float | None:
        return _percentile(self.others, percent)

    def starved(self, from_s: float, until_s: float) -> bool:
        """Whether other programs had much of the machine between two monotonic moments; not where nobody looked."""
        seen = [others for at_s, others in list(self._looks) if from_s <= at_s <= until_s + self._interval_s]
        return bool(seen) and sum(seen) / len(seen) > QUIET_RATIO

    def _sample(self) -> None:
        last = CpuUse.now()
        while not self._stopped.wait(self._interval_s):
            now = CpuUse.now()
            busy, others = last.ratios(now)
            self.ratios.append(busy)
            self.others.append(others)
            self._looks.append((now.at_s, others))
            last = now


def look_at_others(seconds: float = 1.0) -> tuple[float, str]:
    """Share of all cores that is in other programs' hands, and the two busiest of them in words."""
    before, used_s = CpuUse.now(), _others_used_s()
    time.sleep(seconds)
    now = CpuUse.now()
    grown_s = {
        key: (seconds_now - used_s[key]) / (now.at_s - before.at_s)
        for key, seconds_now in _others_used_s().items()
        if key in used_s
    }
    busiest = sorted(grown_s.items(), key=lambda item: -item[1])[:2]
    words = [f"{name} {ratio:.0%} of a core" for (_, name), ratio in busiest if ratio >= 0.05]
    return before.ratios(now)[1], ", ".join(words) or "nobody for long"


def wait_until_quiet(
    most_s: float, note: Callable[[str], None], look: Callable[[], tuple[float, str]] = look_at_others
) -> bool:
    """Wait until other programs leave this machine to us, at most so long, and note it; whether it is quiet.

    What is measured beside other programs is the machine and not the fleet. Takes a second where it is quiet.
    """
    ratio, who = look()
    if ratio <= QUIET_RATIO:
        return True
    if most_s > 0:
        note(f"other programs use {ratio:.0%} of this machine's CPU ({who}): waiting up to {most_s:.0f} s for quiet")
    begun_s, quiet = time.monotonic(), 0
    while time.monotonic() - begun_s < most_s:
        ratio, who = look()
        quiet = quiet + 1 if ratio <= QUIET_RATIO else 0
        if quiet == _QUIET_LOOKS:
            note(f"quiet after {time.monotonic() - begun_s:.0f} s")
            return True
    note(f"WARNING: other programs use {ratio:.0%} of this machine's CPU ({who}): this run's figures will not hold")
    return False


def _others_used_s() -> dict[tuple[int, str], float]:
    """CPU seconds by process id and name, of all that are not this process or below it."""
    this = psutil.Process()
    ours = {this.pid, *(process.pid for process in this.children(recursive=True))}
    found = psutil.process_iter(["name", "cpu_times"])
    return {
        (process.pid, process.info["name"] or "?"): process.info["cpu_times"].user + process.info["cpu_times"].system
        for process in found
        if process.pid not in ours and process.info["cpu_times"] is not None
    }


def _used_s(process: psutil.Process) -> float:
    """CPU seconds of a process and of its children that ended."""
    with contextlib.suppress(psutil.Error):
        return float(sum(process.cpu_times()[:4]))
    return 0.0


def _percentile(ratios: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(ratios, percent)) if ratios else None


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
