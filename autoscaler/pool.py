"""What a pool is told to be: plain settings, each with its unit, none read from the world."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from zoneinfo import available_timezones as _read_timezones

from fleet.traffic import DAY_S

_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


@cache
def available_timezones() -> frozenset[str]:
    """Names of the zones that this machine knows; looking costs a walk over files, so it is done once."""
    return frozenset(_read_timezones())


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
        checks = (
            (self.name != "", "name", self.name, "the pool's name"),
            (self.min_replicas >= 0, "min_replicas", self.min_replicas, "0 or more"),
            (
                self.max_replicas >= max(1, self.min_replicas),
                "max_replicas",
                self.max_replicas,
                ">= min_replicas and >= 1",
            ),
            (
                self.objective.max_queue_wait_s > 0,
                "objective.max_queue_wait_s",
                self.objective.max_queue_wait_s,
                "above 0",
            ),
            (
                0 < self.objective.violation_ratio < 1,
                "objective.violation_ratio",
                self.objective.violation_ratio,
                "0 to 1",
            ),
            (
                0 < self.triggers.utilization <= 1,
                "triggers.utilization",
                self.triggers.utilization,
                "above 0, at most 1",
            ),
            (0.5 <= self.forecast.quantile < 1, "forecast.quantile", self.forecast.quantile, "0.5 to below 1"),
            (
                all(s > 0 for s in self.forecast.season_s),
                "forecast.season_s",
                self.forecast.season_s,
                "seconds above 0",
            ),
            (self.tick_s > 0, "tick_s", self.tick_s, "above 0"),
            (self.service_s > 0, "service_s", self.service_s, "above 0"),
            (self.service_cv >= 0, "service_cv", self.service_cv, "0 or more"),
            (self.startup_s >= 0, "startup_s", self.startup_s, "0 or more"),
            (
                self.node_startup_s is None or 0 < self.node_startup_s < math.inf,
                "node_startup_s",
                self.node_startup_s,
                "above 0",
            ),
            (self.gpus_per_pod > 0, "gpus_per_pod", self.gpus_per_pod, "above 0"),
            (
                0 < self.behavior.wake_probability <= 1,
                "behavior.wake_probability",
                self.behavior.wake_probability,
                "above 0, at most 1",
            ),
            (0 <= self.behavior.spend <= 1, "behavior.spend", self.behavior.spend, "0 to 1"),
            (0 <= self.behavior.headroom <= 4, "behavior.headroom", self.behavior.headroom, "0 to 4"),
            (self.behavior.max_margin >= 1, "behavior.max_margin", self.behavior.max_margin, "1 or more"),
            (0 < self.startup_quantile <= 1, "startup_quantile", self.startup_quantile, "above 0, at most 1"),
        )
        for good, name, value, valid in (*checks, *self._list_checks()):
            if not good:
                raise ValueError(f"pool {self.name!r}: {name} is {value!r}, expected {valid}")

    def _list_checks(self) -> Iterator[tuple[bool, str, object, str]]:
        averages = (("triggers.recent_s", self.triggers.recent_s), ("forecast.average_s", self.forecast.average_s))
        for name, seconds in averages:
            yield seconds is None or seconds > 0, name, seconds, "seconds above 0"
        for name in ("down_window_s", "settle_s", "stale_after_s", "blind_after_s", "idle_s"):
            seconds = getattr(self.behavior, name)
            yield seconds is None or seconds >= 0, f"behavior.{name}", seconds, "seconds, 0 or more"
        for calendar in self.calendars:
            path = f"calendars[{calendar.name}]"
            for name, clock in (("begin", calendar.begin), ("end", calendar.end)):
                yield bool(_CLOCK.fullmatch(clock)), f"{path}.{name}", clock, 'a time as "08:30"'
            yield (
                calendar.zone in available_timezones(),
                f"{path}.zone",
                calendar.zone,
                'an IANA name as "Europe/Berlin"',
            )
            days = calendar.weekdays
            yield all(0 <= day <= 6 for day in days), f"{path}.weekdays", days, "0 (Monday) to 6"
        limits = [(f"calendars[{each.name}]", each.min_replicas, each.max_replicas) for each in self.calendars]
        limits += [("overrides", each.min_replicas, each.max_replicas) for each in self.overrides]
        for path, low, high in limits:
            yield low is None or low >= 0, f"{path}.min_replicas", low, "0 or more"
            yield high is None or high >= 1, f"{path}.max_replicas", high, "1 or more"
        for override in self.overrides:
            ends = override.until_s > override.from_s and math.isfinite(override.until_s)
            yield ends, "overrides.until_s", override.until_s, "a time after from_s: an override always ends"
        for kind in self.capacity_types:
            path = f"capacity_types[{kind.name}]"
            yield kind.price_per_hour >= 0, f"{path}.price_per_hour", kind.price_per_hour, "0 or more"
            bounded = kind.max_replicas is not None or not kind.reserved
            yield bounded, f"{path}.max_replicas", kind.max_replicas, "how many are reserved"
        for path, number in _numbers("", self):
            yield math.isfinite(number), path, number, "a finite number"


def _numbers(path: str, value: object) -> Iterator[tuple[str, float]]:
    """Every number of a setting and of those inside it, with its path."""
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _numbers(f"{path}[{index}]", item)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _numbers(f"{path}.{each.name}".lstrip("."), getattr(value, each.name))
