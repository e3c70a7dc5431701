"""What a tick answers: a count, the closed-list reason, and every number that led there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fleet.scene import SceneId


class Reason(StrEnum):
    """Why the count is what it is; docs/autoscaler.md explains each."""

    FORECAST = "forecast"  # up: the forecast needs more than the present does
    DEMAND = "demand"  # up: recent demand
    PENDING = "pending"  # up: requests that wait
    QUEUE_RATIO = "queue_ratio"  # up: queue-to-compute ratio over its threshold
    HEADROOM = "headroom"  # up: the share of the demand that is to be kept free
    BACKLOG = "backlog"  # up: the forecast's need and the queue to drain
    STEADY = "steady"  # hold: as many as are needed
    STARTING = "starting"  # hold: enough are asked for, some still start
    KEEP = "keep"  # hold: a pod is needed again before a new one would pay
    SETTLING = "settling"  # hold: was needed a moment ago
    WHAT_IF = "what_if"  # hold: one pod fewer would miss the objective
    FLAP_BUDGET = "flap_budget"  # hold: a reversal would cost more than what is held
    WAKE = "wake"  # up from zero or kept from it: past days had traffic about now
    STOCK_OUT = "stock_out"  # hold: pods that were asked for get no machine, so no more are asked for
    GPU_BUDGET = "gpu_budget"  # fewer than wanted: the GPUs of all pools do not suffice
    PAUSED = "paused"  # hold: an override says so, until it ends
    SURPLUS = "surplus"  # down: more than are needed
    AT_MAX = "at_max"  # more are needed than max_replicas allows
    AT_MIN = "at_min"  # fewer would do, min_replicas or an override that holds the way down keeps them
    NO_DATA = "no_data"  # hold: there is no demand data
    STALE = "stale"  # hold: the demand data are too old to shrink by
    BLIND = "blind"  # the reactive floor alone, never down: no data for long
    OBSERVE_FAILED = "observe_failed"  # hold: the pool could not be observed, or its decision failed
    ACT_FAILED = "act_failed"  # the decision could not be carried out


@dataclass(frozen=True, slots=True)
class ForecastView:
    """The forecast of the highest demand inside the lead window, and how far it is to be trusted."""

    quantiles: Mapping[float, float]  # level -> requests/s
    working_quantile: float
    weights: Mapping[str, float]  # expert -> share of the mixture, sums to 1
    coverage: float | None = None  # share of past forecasts that demand stayed under; None: too few yet
    skill: float | None = None  # pinball loss of the mixture / persistence; below 1 it helps; None: too few yet
    gated: bool = False  # the mixture did not beat persistence, which stands in
    burst: bool = False  # demand left its forecast far behind: no step down for a lead


class WarmReason(StrEnum):
    """Why a scene is asked for somewhere; docs/autoscaler.md explains each."""

    COLD = "cold"  # memory: no ready pod holds it
    BUSY = "busy"  # memory: those that hold it would be too busy
    SPREAD = "spread"  # disk: too few nodes have it
    AWAITED = "awaited"  # disk: pods that will load it have a place kept on the node


@dataclass(frozen=True, slots=True)
class WarmAsk:
    """A scene to have warm somewhere by a time: on a node's disk or in a pod's memory."""

    scene: SceneId
    stage: str  # disk | memory
    by_s: float  # same clock as now_s
    node: str = ""  # stage disk
    pod_uid: str = ""  # stage memory
    reason: WarmReason | None = None


@dataclass(frozen=True, slots=True)
class PlaceAsk:
    """Places on nodes to have ready for pods that are not asked for yet."""

    count: int  # pods beyond the decision's replicas
    until_s: float  # same clock as now_s: then they go, whatever is foreseen
    ahead_s: float  # how far was looked: a lead, and the time that a node takes


@dataclass(frozen=True, slots=True)
class Decision:
    """What one pool should have, and why."""

    pool: str
    replicas: int
    reason: Reason
    explanation: str  # one line with the numbers
    now_s: float = 0.0
    current: int = 0  # spec replicas when it was decided
    floor: int = 0  # what reacting alone asks for
    need: int | None = None  # what the forecast asks for; None without one
    lead_s: float = 0.0
    demand_per_s: float | None = None  # over the last window; None: no data
    forecast: ForecastView | None = None
    scenes: tuple[tuple[SceneId, ...], ...] = ()  # one list for each new pod: what it loads before it is ready
    victims: tuple[str, ...] = ()  # pods to drain, first goes first
    warm: tuple[WarmAsk, ...] = field(default=())
    places: PlaceAsk | None = None  # None: no place is to be kept
    margin: float = 1.0  # what late requests made of the forecast's margin over its median
    leeway: float = 1.0  # x the objective's violation ratio is what this moment was sized for
    capacity: Mapping[str, int] = field(default_factory=dict)  # pods by capacity type, where the pool names any
    scene_shares: Mapping[SceneId, float] = field(default_factory=dict)  # of the forecast demand, the most wanted ones
    blind: Reason | None = None  # why the demand could not be decided by, whatever the reason is; None: it could

    @property
    def change(self) -> int:
        return self.replicas - self.current
