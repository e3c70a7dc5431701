"""What a pool is told to be: plain settings, each with its unit, none read from the world."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from autoscaler.pool_limits import checks
from fleet.traffic import DAY_S


class Mode(StrEnum):
    """Predictive looks ahead; reactive is the same policy with its floor alone."""

    PREDICTIVE = "predictive"
    REACTIVE = "reactive"


@dataclass(frozen=True, slots=True)
class Objective:
    """At most `violation_ratio` of the requests may wait longer than `max_queue_wait_s`."""

    max_queue_wait_s: float = 0.5
    violation_ratio: float = 0.01


@dataclass(frozen=True, slots=True)
class Triggers:
    """What the reactive floor listens to; None switches a trigger off."""

    recent_s: float | None = (
        None  # mean demand over this window is the floor's; None: a third of the lead, 1 bin to 60 s
    )
    utilization: float = 0.7  # reactive mode: share of a pod's capacity that the recent demand may take
    pending_per_pod: float | None = (
        None  # waiting requests that one pod may have; None: max_queue_wait_s / service time
    )
    queue_to_compute: float | None = 1.0  # one pod more while the ratio is above this and nothing is starting


@dataclass(frozen=True, slots=True)
class Behavior:
    """How fast the count may move."""

    down_window_s: float = 300.0  # reactive mode: a pod goes when it was not needed for this long (HPA's default)
    settle_s: float | None = None  # predictive mode: the same; None: six start-ups, in a day of 24 h at most 20 minutes
    max_reversals: int = 10  # predictive mode: what reversals a day (the first season) are priced by; 0: none is
    stale_after_s: float = 180.0  # demand older than this is no reason to shrink
    blind_after_s: float = 900.0  # demand older than this is not forecast from: the reactive floor alone
    idle_s: float = 300.0  # min_replicas 0: so long without an arrival, and the pool may go to zero
    wake_probability: float = 0.5  # min_replicas 0: share of past days with traffic at this time that wakes or keeps it
    spend: float = 0.05  # of the late requests that the objective allows: to be spent on fewer pods
    headroom: float = 0.0  # predictive mode: share of the demand that is kept free on top of it
    max_margin: float = 2.0  # late requests widen the forecast's margin over its median up to this factor; 1: never


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """The forecaster's few knobs; everything else adapts."""

    season_s: tuple[float, ...] = (DAY_S, 7 * DAY_S)  # shortest first; the first is "a day"
    quantile: float = 0.9  # of the highest demand inside the lead window: what the pool is sized for
    average_s: float | None = None  # demand is averaged over this; None: as few bins as hold about 100 requests

    @property
    def day_s(self) -> float:
        """The shortest season, after which demand repeats; one of 24 h where there is none."""
        return min(self.season_s, default=DAY_S)


@dataclass(frozen=True, slots=True)
class Calendar:
    """Limits that hold at the same wall-clock time of some weekdays, daylight saving included."""

    name: str
    begin: str  # "HH:MM" in `zone`
    end: str  # "HH:MM"; at or before `begin` it is the next day's
    zone: str = "UTC"  # IANA name
    weekdays: tuple[int, ...] = ()  # of the beginning, 0 is Monday; empty: every day
    min_replicas: int | None = None
    max_replicas: int | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """Limits or a pause by hand; it ends by itself."""

    until_s: float  # Unix seconds
    from_s: float = 0.0  # Unix seconds
    min_replicas: int | None = None
    max_replicas: int | None = None
    paused: bool = False  # the count is held, whatever is seen
    hold_scale_down: bool = False  # nothing is taken away, whatever is seen
    note: str = ""


@dataclass(frozen=True, slots=True)
class CapacityType:
    """Pods that are paid for in one way."""

    name: str
    price_per_hour: float  # for one pod
    max_replicas: int | None = None  # None: as many as are wanted
    reserved: bool = False  # paid whether used or not, so it is filled first


@dataclass(frozen=True, slots=True)
class Pool:
    """One Deployment of renderer pods and what is asked of it."""

    name: str
    min_replicas: int = 1
    max_replicas: int = 10
    objective: Objective = field(default_factory=Objective)
    triggers: Triggers = field(default_factory=Triggers)
    behavior: Behavior = field(default_factory=Behavior)
    forecast: ForecastSettings = field(default_factory=ForecastSettings)
    mode: Mode = Mode.PREDICTIVE
    tick_s: float = 15.0  # how often decisions are made
    service_s: float = 0.25  # mean seconds of one frame until it is measured
    service_cv: float = 1.0  # standard deviation / mean of the same, until it is measured
    startup_s: float = 180.0  # from the ask for a pod until it is ready, until it is measured
    startup_quantile: float = 0.9
    node_startup_s: float | None = None  # from the ask for a node until a pod has a place on it, until it is measured;
    # None: nodes are not asked for ahead of pods
    pod_budget_bytes: int = 0  # scenes that one new pod may hold; 0: not known, no scenes are planned
    scenes_per_new_pod: int = 8  # at most; each one lengthens the start
    warm_asks_per_tick: int = 2
    calendars: tuple[Calendar, ...] = ()
    overrides: tuple[Override, ...] = ()
    capacity_types: tuple[CapacityType, ...] = ()
    priority: int = 0  # the higher, the earlier it gets GPUs where they do not suffice for all
    gpus_per_pod: float = 1.0  # 1/7 for the smallest MIG slice of seven
    carried_out: bool = True  # False: what is decided is reported alone, so it takes no GPU from anybody

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other; the message names field, value and fix."""
        for good, name, value, valid in checks(self):
            if not good:
                raise ValueError(f"pool {self.name!r}: {name} is {value!r}, expected {valid}")
