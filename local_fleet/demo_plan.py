"""What a demo plays: scenes and traffic, fitted to this machine, and the pool that serves them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoscaler.loop import Behavior, ForecastSettings, Mode, Objective, Pool
from fleet.traffic import RateTrace, popularity_order
from local_fleet.calibration import Fit, fit
from local_fleet.demo_settings import DemoSettings
from local_fleet.replay import BIN_S, DemoTraffic, demo_traffic, read_trace
from local_fleet.scenes import DemoScenes, gather

POOL = "renderer"
ZIPF_EXPONENT = 1.0
WAIT_OBJECTIVE_S = 0.5


def prepare(settings: DemoSettings, folder: Path, note: Callable[[str], None]) -> tuple[DemoTraffic, DemoScenes, Fit]:
    """Scenes and traffic, fitted to this machine; raises ValueError and OSError for what cannot be used."""
    trace: RateTrace | None = read_trace(settings.trace) if settings.trace is not None else None
    scenes = gather(settings.scenes, settings.include_all, folder, settings.seed, note)
    total_mb = sum(scenes.resident_bytes.values()) / 1e6
    note(f"{len(scenes.ids)} scenes, {total_mb:.0f} MB once loaded")
    traffic = demo_traffic(trace, settings.duration_s, settings.mean_rate_per_s, settings.seed)
    cores = len(os.sched_getaffinity(0))
    measured = fit(scenes, popularity(scenes.ids, settings.seed), traffic.busiest_per_s, cores)
    if settings.frame_size is not None:
        measured = replace(measured, size=settings.frame_size)
    if measured.rate_factor < 1.0:
        traffic = demo_traffic(
            trace, settings.duration_s, settings.mean_rate_per_s * measured.rate_factor, settings.seed
        )
    note(
        f"calibrated: {measured.size[0]}x{measured.size[1]} frames, {1000 * measured.render_cpu_s:.1f} ms of one core; "
        f"{traffic.traffic.mean_per_s:.1f} requests/s on average, {traffic.busiest_per_s:.0f} at the busiest"
    )
    return traffic, scenes, measured


def popularity(scenes: list[str], seed: int) -> dict[str, float]:
    """Share of the requests for each scene, as the load client with this seed draws them."""
    weights = np.arange(1, len(scenes) + 1, dtype=np.float64) ** -ZIPF_EXPONENT
    weights /= weights.sum()
    return {
        scenes[index]: float(weight) for index, weight in zip(popularity_order(len(scenes), seed), weights, strict=True)
    }


def make_pool(settings: DemoSettings, frame_floor_s: float, day_s: float, pod_budget_bytes: int) -> Pool:
    """The pool's settings in demo time, where a day is `day_s` and a start-up a few seconds."""
    startup_s = settings.provision_s + 2.5
    return Pool(
        name=POOL,
        min_replicas=1,
        max_replicas=settings.max_pods,
        objective=Objective(max_queue_wait_s=WAIT_OBJECTIVE_S),
        # HPA holds for 300 s where a start takes about three minutes; the same proportion here.
        behavior=Behavior(down_window_s=1.7 * startup_s, stale_after_s=3 * BIN_S, blind_after_s=10 * BIN_S),
        forecast=ForecastSettings(season_s=(day_s, 7 * day_s)),
        mode=Mode.REACTIVE if settings.autoscaler == "reactive" else Mode.PREDICTIVE,
        tick_s=BIN_S,
        service_s=frame_floor_s,
        service_cv=0.2,
        startup_s=startup_s,
        pod_budget_bytes=pod_budget_bytes,
    )
