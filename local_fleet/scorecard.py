"""The score of a run: what the requests met, what the fleet cost, what the machine was doing meanwhile."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from local_fleet.first_visitor import Visits
from local_fleet.load import WAIT_OBJECTIVE_S, FrameRecord
from local_fleet.timeline import Timeline

OK, REFUSED = 200, 503


@dataclass(frozen=True, slots=True)
class RunTotals:
    """What is counted beside the requests. None is not known; `machine` is what `machine.describe` says."""

    pod_seconds: float
    bytes_fetched: int
    scene_hits: int | None = None  # None: counted from the requests' own answers
    scene_misses: int | None = None
    failed_starts: int = 0
    forecast_coverage: float | None = None
    machine_cpu_ratio_p95: float | None = None  # None: taken from the timeline
    others_cpu_ratio_p95: float | None = None
    first_frame_s: float | None = None  # from the start of the command
    warm_peer_bytes: int = 0
    warm_deadlines_missed: int | None = None  # None: no warm-up
    machine: Mapping[str, Any] = field(default_factory=dict)  # described at the start
    load_average_end: Sequence[float] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    visits: Visits | None = None


@dataclass(frozen=True, slots=True)
class Scorecard:
    """A run in figures. None is no data: the quantile of nothing is not 0. Ratios are 0-1."""

    autoscaler: str
    placement: str
    requests: int
    violations: int  # waited over the objective, failed or refused
    violation_ratio: float | None
    refused: int  # 503: queue full, or held too long
    errors: int  # neither a frame nor refused, no answer at all included
    wait_p50_s: float | None  # of all requests; one without a frame counts with all the time it took
    wait_p99_s: float | None
    frame_p50_s: float | None  # of frames, from when they were due
    frame_p99_s: float | None
    service_p50_s: float | None  # of frames, from the start of the render
    pod_seconds: float
    peak_pods: int
    mean_pods: float | None
    scene_hits: int
    scene_misses: int
    bytes_fetched: int
    cold_requests: int
    cold_pod_requests: int
    cold_scene_requests: int
    failed_starts: int
    decisions: Mapping[str, int]  # reason -> count
    forecast_coverage: float | None
    machine_cpu_ratio_p95: float | None
    first_frame_s: float | None
    duration_s: float
    wait_objective_s: float
    seed: int | None
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    first_visit_wait_max_s: float | None = None  # of the first request for each scene
    warm_peer_bytes: int = 0  # came from another node's agent instead of the object store
    warm_deadlines_missed: int | None = None  # None: no warm-up
    # The first visitors of two scenes that lay nowhere, before the traffic; None: there were none.
    predicted_visit_wait_s: float | None = None
    unpredicted_visit_wait_s: float | None = None
    visit_fetch_s: float | None = None  # what the scene's bytes take on the node's line
    visit_lead_s: float | None = None
    others_cpu_ratio_p95: float | None = None  # of all cores, used by programs that are no part of the run

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Width and height in pixels; a run that is compared with this one takes them over. None: not told."""
        width, x, height = str(self.settings.get("frame_size", "")).partition("x")
        return (int(width), int(height)) if x and width.isdecimal() and height.isdecimal() else None


def score(records: Sequence[FrameRecord], totals: RunTotals, timeline: Timeline) -> Scorecard:
    """Score a run; one without requests has counts of 0 and no quantiles."""
    frames = [record for record in records if record.status == OK]
    violations = sum(violates(record) for record in records)
    refused = sum(record.status == REFUSED for record in records)
    cold = Counter(record.cold for record in records)
    hits = sum(record.cache == "hit" for record in frames)
    waits_s = [record.waited_s for record in records]
    latencies_s = [record.latency_s for record in frames]
    cpu_ratio = totals.machine_cpu_ratio_p95
    if cpu_ratio is None:
        cpu_ratio = quantile([moment.machine_cpu_ratio for moment in timeline.moments], 0.95)
    pods = [live_pods for _, live_pods in pods_over_time(timeline)]
    return Scorecard(
        autoscaler=timeline.autoscaler,
        placement=timeline.placement,
        requests=len(records),
        violations=violations,
        violation_ratio=violations / len(records) if records else None,
        refused=refused,
        errors=len(records) - len(frames) - refused,
        wait_p50_s=quantile(waits_s, 0.5),
        wait_p99_s=quantile(waits_s, 0.99),
        frame_p50_s=quantile(latencies_s, 0.5),
        frame_p99_s=quantile(latencies_s, 0.99),
        service_p50_s=quantile([record.service_s for record in frames], 0.5),
        pod_seconds=totals.pod_seconds,
        peak_pods=max(pods, default=0),
        mean_pods=_time_mean(timeline),
        scene_hits=hits if totals.scene_hits is None else totals.scene_hits,
        scene_misses=len(frames) - hits if totals.scene_misses is None else totals.scene_misses,
        bytes_fetched=totals.bytes_fetched,
        cold_requests=cold["pod"] + cold["scene"],
        cold_pod_requests=cold["pod"],
        cold_scene_requests=cold["scene"],
        failed_starts=totals.failed_starts,
        decisions=dict(Counter(str(decision.reason) for decision in timeline.decisions).most_common()),
        forecast_coverage=totals.forecast_coverage,
        machine_cpu_ratio_p95=cpu_ratio,
        first_frame_s=totals.first_frame_s,
        duration_s=timeline.duration_s,
        wait_objective_s=WAIT_OBJECTIVE_S,
        seed=totals.seed,
        machine=_machine(totals),
        settings=dict(totals.settings),
        first_visit_wait_max_s=max((record.waited_s for record in first_visits(records)), default=None),
        warm_peer_bytes=totals.warm_peer_bytes,
        warm_deadlines_missed=totals.warm_deadlines_missed,
        predicted_visit_wait_s=totals.visits.predicted_wait_s if totals.visits else None,
        unpredicted_visit_wait_s=totals.visits.unpredicted_wait_s if totals.visits else None,
        visit_fetch_s=totals.visits.fetch_s if totals.visits else None,
        visit_lead_s=totals.visits.lead_s if totals.visits else None,
        others_cpu_ratio_p95=totals.others_cpu_ratio_p95,
    )


def first_visits(records: Iterable[FrameRecord]) -> list[FrameRecord]:
    """The first request for each scene."""
    first: dict[str, FrameRecord] = {}
    for record in sorted(records, key=lambda record: record.t_s):
        first.setdefault(record.scene, record)
    return list(first.values())


def violates(record: FrameRecord) -> bool:
    """Whether a request waited over the objective, failed or was refused."""
    return record.status != OK or record.waited_s > WAIT_OBJECTIVE_S


def quantile(values: Iterable[float | None], at: float) -> float | None:
    """The quantile of the values that are there; None where there is none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.quantile(known, at)) if known else None


def pods_over_time(timeline: Timeline) -> list[tuple[float, int]]:
    """(t_s, pods that exist) at every tick: from the ask to the end of the process, draining included."""
    return [(moment.t_s, sum(pod.stage != "stopped" for pod in moment.pods)) for moment in timeline.moments]


def to_json(card: Scorecard) -> str:
    """The scorecard as indented JSON; what is not known is null."""
    return json.dumps(_plain(dataclasses.asdict(card)), indent=1, allow_nan=False)


def read_scorecard(path: Path) -> Scorecard:
    """Read what `to_json` wrote; raises ValueError naming the file where it is no scorecard."""
    try:
        return msgspec.convert(json.loads(path.read_bytes()), Scorecard)
    except (ValueError, msgspec.ValidationError) as error:
        raise ValueError(f"{path} is no scorecard: {error}; write one with --json") from error


def read_records(path: Path) -> list[FrameRecord]:
    """Read the requests that the load client wrote, one JSON object a line."""
    decode = msgspec.json.Decoder(FrameRecord).decode
    return [decode(line) for line in path.read_bytes().splitlines() if line.strip()]


def _time_mean(timeline: Timeline) -> float | None:
    """Mean of the pods that exist, each tick weighted with the time until the next."""
    points = pods_over_time(timeline)
    span_s = points[-1][0] - points[0][0] if points else 0.0
    if span_s <= 0:
        return float(points[-1][1]) if points else None
    return sum(pods * (until_s - from_s) for (from_s, pods), (until_s, _) in pairwise(points)) / span_s


def _machine(totals: RunTotals) -> dict[str, Any]:
    facts = dict(totals.machine)
    start = facts.pop("load_average", None)
    return facts | {"load_average_start": start, "load_average_end": list(totals.load_average_end) or None}


def _plain(value: Any) -> Any:
    """JSON's own types; NaN and infinity become null, anything else its text."""
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float():
            return round(value, 6) if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case np.generic():
            return _plain(value.item())
    return str(value)
