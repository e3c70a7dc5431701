"""What a run of the local fleet looked like, second by second: written by the demo, read by live view and report."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod at one moment. `stage` is scheduling, provisioning, booting, ready, draining or stopped."""

    uid: str
    node: str
    stage: str
    slice: str
    scenes: tuple[str, ...]  # resident; while it starts, those that it will load
    queue_to_compute: float | None = None


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node at one moment: its slices and the scenes on its disk."""

    name: str
    slices_total: int
    slices_used: int
    store_capacity_bytes: int
    store_used_bytes: int
    scenes_on_disk: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DecisionView:
    """A decision with its reason, as the autoscaler gave it."""

    t_s: float
    replicas: int
    reason: str
    explanation: str


@dataclass(frozen=True, slots=True)
class Moment:
    """One tick. Rates are requests per second; None is no data, never 0."""

    t_s: float  # since the replay began
    demand_per_s: float | None
    forecast_per_s: float | None  # working quantile of the highest demand inside the lead window
    forecast_median_per_s: float | None
    capacity_per_s: float  # ready pods x frames a pod can render per second
    desired_replicas: int
    ready_replicas: int
    starting_replicas: int
    floor_replicas: int | None
    pending: float | None
    queue_to_compute: float | None
    machine_cpu_ratio: float
    nodes: tuple[NodeView, ...]
    pods: tuple[PodView, ...]
    decision: DecisionView | None


@dataclass(slots=True)
class Timeline:
    """A whole run: the settings that shaped it, its moments and the forecaster's history before it."""

    title: str
    autoscaler: str  # predictive | reactive
    placement: str  # scenes | spread
    duration_s: float
    day_s: float
    bin_s: float
    history_per_s: list[float] = field(default_factory=list)  # one value a bin, the newest last
    moments: list[Moment] = field(default_factory=list)
    decisions: list[DecisionView] = field(default_factory=list)
