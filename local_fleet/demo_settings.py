"""What a demo is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from local_fleet.triton_files import DEFAULT_BACKENDS


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What a demo is told; the flags of `splatfleet demo`."""

    scenes: Path | None = None
    include_all: bool = False
    trace: Path | None = None
    duration_s: float = 120.0
    kubernetes: bool = False  # under a real control plane; `hpa` and `default` are what it does alone
    autoscaler: Literal["predictive", "reactive", "hpa"] = "predictive"
    placement: Literal["scenes", "spread", "default"] = "scenes"
    warm_up: Literal["on", "off"] = "on"
    seed: int = 1
    mean_rate_per_s: float = 25.0
    frame_floor_s: float = 0.15
    provision_s: float = 3.0
    fetch_bytes_per_s: float = 4e6
    max_pods: int = 18
    visit_lead_s: float = 60.0  # the first visitor of a new scene is predicted so long before; 0 is no such visit
    report: Path | None = None
    json_file: Path | None = None
    compare: Path | None = None
    keep: bool = False
    quiet_wait_s: float = 30.0  # at most so long for other programs to leave the machine to the demo
    frame_size: tuple[int, int] | None = None  # absent: the largest that this machine bears
    backends: Path = DEFAULT_BACKENDS
