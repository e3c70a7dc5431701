"""What a figure was measured on: without it a number of frames a second says nothing."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, how busy it was, and how fast it ran a fixed loop."""

    cpu: str
    cpus: int
    load_average_1min: float
    python: str
    calibration_s: float  # a fixed loop in pure Python; compare runs only where it agrees


def describe() -> Machine:
    """Look at this machine now."""
    return Machine(
        _cpu_name(),
        len(os.sched_getaffinity(0)),
        os.getloadavg()[0],
        platform.python_version(),
        min(_calibrate() for _ in range(5)),
    )


def _calibrate() -> float:
    started_s = time.perf_counter()
    total = 0
    for i in range(1_000_000):
        total += i * i & 1023
    return time.perf_counter() - started_s if total else 0.0


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
