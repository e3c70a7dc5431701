"""What the policy would have done on one's own traffic, and which settings to take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from autoscaler.loop import Behavior, Objective, Pool
from autoscaler.pool_limits import MOST_REPLICAS
from fleet.traffic import DAY_S, MOST_ARRIVALS, RateTrace
from simulator.comparison import pareto
from simulator.contenders import FAMILIES
from simulator.scaling import Row, Setting, play_all, preference
from simulator.traffic import Service
from simulator.world import StartUp

SCORED_DAYS = 3.0
MOST_REQUESTS = 1e8  # a row plays them in seconds, and a gigabyte holds them; of more a day is played where it can be
LEAST_DAYS = 0.25
REACTIVE_DAYS = 2.0  # below, a day has not been seen twice and nothing is recommended but the reactive policy
CONTENDERS = [
    *(("splatfleet", level) for level in (0.8, 0.95, 0.99)),
    ("splatfleet-headroom", 0.3),
    ("splatfleet-median-headroom", 0.3),
    ("splatfleet-settle", 3600.0),
    *(("keda", share) for share in (0.35, 0.5, 0.7, 0.85)),
    *(("static", level) for level in (0.95, 1.0)),
    ("oracle-clairvoyant", 0.95),
]
REACTIVE = ("splatfleet-reactive", 0.7)  # its default share of a pod's capacity


@dataclass(frozen=True, slots=True)
class Backtest:
    """Rows over the last days of the history, the best of them, and what a pool should be told."""

    rows: list[Row]
    front: list[Row]
    recommended: Row  # ours, the cheapest that meets the objective, else the one that misses it least; or the reactive
    met: bool  # it meets the objective
    settings: dict[str, object]
    days: float  # that were played


def backtest(
    trace: RateTrace,
    service: Service,
    start_up: StartUp,
    objective: Objective,
    report: Callable[[Row], None] = lambda _: None,
    workers: int = 1,
) -> Backtest:
    """Play the last days at the demand that was, with a tick and bins of 60 s, in so many processes.

    Raises ValueError where there is less than half a day, or no demand.
    """
    days = trace.duration_s / DAY_S
    if days < 0.5:
        raise ValueError(f"{days * 24:.1f} hours of history, expected at least 12")
    pods = trace.mean_per_s * service.mean_s
    if not pods > 0:
        raise ValueError("the history has no request, nothing to play")
    first = days - played_days(trace)
    setting = Setting(
        trace, "history", service, start_up, objective, pods, first, train_days=0.0, bin_s=60.0, tick_s=60.0
    )
    rows = play_all(setting, [(policy, knob, 1, False) for policy, knob in contenders(trace)], workers, report)
    told = [row for row in rows if (row.policy, row.knob) == REACTIVE] or [row for row in rows if row.kind == "ours"]
    best = min(told, key=lambda row: preference(row, objective))
    highest = max((row.highest_pods for row in rows if row.policy == "static"), default=1)
    settings: dict[str, object] = {
        "name": "renderer",
        "min_replicas": 1,
        "max_replicas": most_replicas(highest, trace, service),
        "service_s": service.mean_s,
        "service_cv": service.cv,
        "startup_s": start_up.median_s,
        "objective": {"max_queue_wait_s": objective.max_queue_wait_s, "violation_ratio": objective.violation_ratio},
    }
    settings |= {"mode": "reactive"} if best.policy == REACTIVE[0] else settings_of(best.policy, best.knob)
    front = pareto([row for row in rows if row.kind != "oracle"])
    return Backtest(rows, front, best, best.violation_ratio <= objective.violation_ratio, settings, days - first)


def contenders(trace: RateTrace) -> list[tuple[str, float]]:
    """Policy and knob of all that play; where the history is short the reactive policy too, as it is recommended."""
    return CONTENDERS if trace.duration_s / DAY_S >= REACTIVE_DAYS else [*CONTENDERS, REACTIVE]


def played_days(trace: RateTrace) -> float:
    """The last three days, fewer where they hold more requests than are played; at most half of the history."""
    of_a_day = trace.mean_per_s * DAY_S
    enough = max(min(1.0, MOST_ARRIVALS / 2.0 / of_a_day), MOST_REQUESTS / of_a_day, LEAST_DAYS)
    return min(SCORED_DAYS, enough, trace.duration_s / DAY_S / 2.0)


def settings_of(policy: str, knob: float) -> dict[str, object]:
    """What a pool is told to be as a row of ours was: the quantile, and what of its behaviour is not the default."""
    make = FAMILIES[policy].pool
    assert make is not None  # ours have one
    pool = make(Pool("told"), knob)
    default = asdict(Behavior())
    behavior = {name: value for name, value in asdict(pool.behavior).items() if value != default[name]}
    told: dict[str, object] = {"forecast": {"quantile": pool.forecast.quantile}}
    return told | ({"behavior": behavior} if behavior else {})


def most_replicas(highest: int, trace: RateTrace, service: Service) -> int:
    """Twice what was ever needed, or the most that a pool may have: a limit for accidents, not for demand."""
    peak = math.ceil(float(np.nanmax(trace.rates_per_s)) * service.mean_s)
    return min(2 * max(highest, peak), MOST_REPLICAS)
