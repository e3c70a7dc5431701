"""Fit frames and rates to this machine, so that the queueing measured is the fleet's and not the machine's.

The frame *size* shrinks first: it changes no arrival, so two runs with one seed stay comparable. Only where the
smallest size is still too dear does the rate fall, in fixed steps, and a frame then keeps its slice busy longer in
proportion: the number of pods that the traffic needs stays the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from local_fleet.scenes import DemoScenes
from renderer.camera import look_at
from renderer.catalogue import UP_OF_TRAINED_SCENES, DefaultCamera
from renderer.constants import DEFAULT
from renderer.rasterizer import choose
from renderer.splats import Splats

SIZES = ((320, 240), (256, 192), (192, 144), (160, 120), (128, 96))
RATE_STEPS = (1.0, 0.7, 0.5, 0.35, 0.25)
BUSY_RATIO_GOAL = 0.4  # of all cores at the busiest seconds; pod starts and the control loop come on top
REQUEST_CPU_S = 0.008  # one frame in client, gateway, Triton and encoder; measured over a whole demo


@dataclass(frozen=True, slots=True)
class Fit:
    """What the demo will use, and what it cost in the trial."""

    size: tuple[int, int]
    rate_factor: float
    render_cpu_s: float  # mean over the scenes by popularity, one thread


def fit(scenes: DemoScenes, popularity: Mapping[str, float], busiest_per_s: float, cores: int) -> Fit:
    """The largest frame size and rate whose busiest second stays below the goal on this machine."""
    budget_cpu_s = BUSY_RATIO_GOAL * cores
    cost_s = 0.0
    for size in SIZES:
        cost_s = sum(
            popularity[entry.id] * render_cpu_s(scenes.splats[entry.id], entry.default_camera, size)
            for entry in scenes.catalogue.entries.values()
            if entry.default_camera is not None
        )
        if busiest_per_s * (cost_s + REQUEST_CPU_S) <= budget_cpu_s:
            return Fit(size, 1.0, cost_s)
    return Fit(SIZES[-1], rate_factor(busiest_per_s, cost_s + REQUEST_CPU_S, budget_cpu_s), cost_s)


def rate_factor(
    busiest_per_s: float, request_cpu_s: float, budget_cpu_s: float, steps: Sequence[float] = RATE_STEPS
) -> float:
    """The largest step that fits; the last one where none does."""
    return next((step for step in steps if step * busiest_per_s * request_cpu_s <= budget_cpu_s), steps[-1])


def render_cpu_s(splats: Splats, view: DefaultCamera, size: tuple[int, int], frames: int = 2) -> float:
    """CPU seconds of one frame from the scene's default camera, the best of a few."""
    camera = look_at(view.eye, view.target, UP_OF_TRAINED_SCENES, view.fov_y_degrees, *size)
    rasterize = choose("cpu")
    best_s = float("inf")
    for _ in range(frames):
        begun_s = time.process_time()
        rasterize(splats, camera, (0.0, 0.0, 0.0), None, frozenset({"rgb"}), DEFAULT)
        best_s = min(best_s, time.process_time() - begun_s)
    return best_s
