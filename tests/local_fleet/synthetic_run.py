"""A run with the shape of a real one, made without a fleet: traffic of three days, pods that follow, cold starts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from local_fleet.load import FrameRecord
from local_fleet.report import FrameSample, Run
from local_fleet.scorecard import RunTotals, score
from local_fleet.timeline import DecisionView, Moment, NodeView, PodView, Timeline

SCENES = ("playbot-l2", "garden", "playcanvas-logo", "train-1000", "bonsai", "lighthouse-at-dusk")
GPU = "GPU-5f1c2d34-aaaa-5bbb-8ccc-0123456789ab"
FRAMES_PER_POD = 6.0
STARTUP_S = 4.0
DAY_S = 40.0


def demand_per_s(t_s: float) -> float:
    """A night, a morning and a peak."""
    daily = 0.5 - 0.5 * math.cos(2 * math.pi * (t_s / DAY_S))
    return 4.0 + 40.0 * daily**2 + 3.0 * math.sin(t_s * 1.7)


def make_timeline(duration_s: float = 120.0, step_s: float = 1.0, seed: int = 1) -> Timeline:
    """A predictive run; the pods follow the demand of a start-up time later."""
    timeline = Timeline("synthetic", "predictive", "scenes", duration_s, DAY_S, step_s)
    rng = np.random.default_rng(seed)
    timeline.history_per_s = [float(rng.poisson(demand_per_s(t_s))) for t_s in np.arange(-3 * DAY_S, 0, step_s)]
    pods: list[dict[str, object]] = []
    made = 0
    for t_s in np.arange(0.0, duration_s, step_s).tolist():
        want = max(2, math.ceil(demand_per_s(t_s + STARTUP_S) * 1.2 / FRAMES_PER_POD))
        pods = [pod for pod in pods if pod["end_s"] is None or t_s < float(str(pod["end_s"]))]
        alive = [pod for pod in pods if pod["end_s"] is None]
        for _ in range(want - len(alive)):
            made += 1
            place = _free_place(pods)
            pods.append({"uid": f"demo-{made:03d}", "place": place, "born_s": t_s, "end_s": None, "n": made})
        if want < len(alive) - 1:
            alive[0]["end_s"] = t_s + 2.0
        decision = _decide(timeline, t_s, want, len(alive))
        timeline.moments.append(_moment(t_s, step_s, pods, want, decision))
    return timeline


def make_records(timeline: Timeline, count: int = 2500, seed: int = 2) -> list[FrameRecord]:
    """Requests of which a few are cold, slow, refused or unanswered."""
    rng = np.random.default_rng(seed)
    times_s = np.sort(rng.uniform(0, timeline.duration_s, count))
    records = []
    for t_s, scene in zip(times_s.tolist(), rng.zipf(1.7, count).tolist(), strict=True):
        busy = demand_per_s(t_s) / 44
        wait_s = float(rng.lognormal(math.log(0.006 + 0.05 * busy**4), 0.8))
        cold = "none"
        if rng.random() < 0.012:
            cold, wait_s = ("pod" if rng.random() < 0.3 else "scene"), wait_s + float(rng.uniform(0.2, 1.6))
        status = 200 if rng.random() > 0.002 else int(rng.choice([0, 503]))
        records.append(
            FrameRecord(
                round(t_s, 4),
                SCENES[(scene - 1) % len(SCENES)],
                status,
                wait_s + 0.16,
                0.001,
                wait_s=wait_s if status == 200 else None,
                service_s=0.16 if status == 200 else None,
                cold=cold if status == 200 else "",
                cache=("miss" if cold != "none" else "hit") if status == 200 else "",
                bytes=9000,
                pod="demo-001",
            )
        )
    return records


def make_run(folder: Path, duration_s: float = 120.0) -> Run:
    """A whole run with rendered frames on disk."""
    timeline = make_timeline(duration_s)
    records = make_records(timeline)
    totals = RunTotals(
        pod_seconds=612.4,
        bytes_fetched=41_300_000,
        forecast_coverage=0.93,
        first_frame_s=11.2,
        machine={"cores": 2, "cpu": "Example CPU @ 2.6 GHz", "load_average": [0.4, 0.5, 0.3], "python": "3.11.9"},
        load_average_end=(1.31, 0.8, 0.5),
        settings={"frame_size": "192x144", "provision_s": 3.0, "fetch_bytes_per_s": 8e6, "rate_factor": 1.0},
        seed=7,
    )
    frames = make_frames(folder, 10)
    credits = {"garden": "Mip-NeRF 360, garden, CC-BY 4.0", "playbot-l2": "PlayCanvas Ltd, CC-BY-4.0"}
    return Run(timeline, score(records, totals, timeline), records, frames, credits)


def make_frames(folder: Path, count: int) -> list[FrameSample]:
    """Small pictures with a coloured disc each."""
    frames = []
    for number in range(count):
        y, x = np.mgrid[0:144, 0:192]
        near = np.exp(-(((x - 60 - 8 * number) / 40.0) ** 2 + ((y - 72) / 36.0) ** 2))
        tint = np.array([0.9, 0.4 + 0.05 * number, 0.2 + 0.07 * number])
        path = folder / f"{number:03d}.jpg"
        Image.fromarray((near[..., None] * tint * 255).clip(0, 255).astype(np.uint8)).save(path)
        scene = SCENES[number % len(SCENES)]
        frames.append(FrameSample(path, scene, 11.0 * number, f"demo-{number + 1:03d}", f"credit of {scene}"))
    return frames


def _free_place(pods: list[dict[str, object]]) -> tuple[int, int]:
    held = {pod["place"] for pod in pods}
    places = [(node, start) for start in range(7) for node, size in ((1, 7), (2, 4), (3, 7)) if start < size]
    return next(place for place in places if place not in held)


def _decide(timeline: Timeline, t_s: float, want: int, alive: int) -> DecisionView:
    reason = "forecast" if want > alive else "surplus" if want < alive - 1 else "steady"
    text = f"forecast {demand_per_s(t_s + STARTUP_S):.1f}/s within {STARTUP_S:g} s needs {want}, {alive} are there"
    decision = DecisionView(t_s, want, reason, text)
    timeline.decisions.append(decision)
    return decision


def _moment(t_s: float, step_s: float, pods: list[dict[str, object]], want: int, decision: DecisionView) -> Moment:
    views = []
    for pod in pods:
        age_s = t_s - float(str(pod["born_s"]))
        stage = "provisioning" if age_s < 2 else "booting" if age_s < STARTUP_S else "ready"
        place = pod["place"]
        assert isinstance(place, tuple)
        node, start = place
        number = int(str(pod["n"]))
        scenes = tuple(sorted({SCENES[number % 6], SCENES[(number // 2) % 6]}))
        stage = "draining" if pod["end_s"] is not None else stage
        ratio = 0.1 * (number % 4) if stage == "ready" else None
        views.append(PodView(str(pod["uid"]), f"node-{node}", stage, f"{GPU}/1g.10gb@{start}", scenes, ratio))
    ready = sum(view.stage == "ready" for view in views)
    nodes = tuple(
        NodeView(
            f"node-{n}",
            total,
            sum(v.node == f"node-{n}" for v in views),
            60_000_000,
            9_000_000 + 13_000_000 * n,
            SCENES[: n + 2],
        )
        for n, total in ((1, 7), (2, 4), (3, 7))
    )
    rate = demand_per_s(t_s) if t_s >= step_s else None
    ahead = max(demand_per_s(t_s + lead) for lead in (0, 2, STARTUP_S))
    return Moment(
        t_s,
        rate,
        ahead * 1.15,
        ahead,
        ready * FRAMES_PER_POD,
        want,
        ready,
        sum(view.stage in ("scheduling", "provisioning", "booting") for view in views),
        max(1, want - 1),
        max(0.0, (rate or 0) - ready * FRAMES_PER_POD),
        0.1 + 0.02 * ready if ready else None,
        0.35 + 0.25 * demand_per_s(t_s) / 44,
        nodes,
        tuple(views),
        decision,
    )
