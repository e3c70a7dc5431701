"""What the policy would have done on one's own traffic, and which settings to take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autoscaler.loop import Objective, Pool
from fleet.traffic import DAY_S, RateTrace
from simulator.comparison import pareto
from simulator.contenders import FAMILIES
from simulator.scaling import Row, Setting, play_all
from simulator.traffic import Service
from simulator.world import StartUp

SCORED_DAYS = 3.0
REACTIVE_DAYS = 2.0  # below, a day has not been seen twice and nothing is recommended but the reactive policy
CONTENDERS = [
    *(("splatfleet", level) for level in (0.8, 0.95, 0.99)),
    ("splatfleet-headroom", 0.3),
    ("splatfleet-median-headroom", 0.3),
    *(("keda", share) for share in (0.35, 0.5, 0.7, 0.85)),
    *(("static", level) for level in (0.95, 1.0)),
    ("oracle-clairvoyant", 0.95),
]


@dataclass(frozen=True, slots=True)
class Backtest:
    """Rows over the last days of the history, the best of them, and what a pool should be told."""

    rows: list[Row]
    front: list[Row]
    recommended: Row | None  # ours, the cheapest that meets the objective; None: none does
    settings: dict[str, object]
    days: float  # that were played


def backtest(
    trace: RateTrace,
    service: Service,
    start_up: StartUp,
    objective: Objective,
    report: Callable[[Row], None] = lambda _: None,
) -> Backtest:
    """Play the last three days (at most half of the history) at the demand that was, with a tick and bins of 60 s.

    Raises ValueError where there is less than half a day, or no demand.
    """
    days = trace.duration_s / DAY_S
    if days < 0.5:
        raise ValueError(f"{days * 24:.1f} hours of history, expected at least 12")
    pods = trace.mean_per_s * service.mean_s
    if not pods > 0:
        raise ValueError("the history has no request, nothing to play")
    first = days - min(SCORED_DAYS, days / 2.0)
    setting = Setting(
        trace, "history", service, start_up, objective, pods, first, train_days=0.0, bin_s=60.0, tick_s=60.0
    )
    rows = play_all(setting, [(policy, knob, 1, False) for policy, knob in CONTENDERS], report=report)
    ours = [row for row in rows if row.kind == "ours" and row.violation_ratio <= objective.violation_ratio]
    best = min(ours, key=lambda row: row.cost_ratio, default=None)
    # Twice what was ever needed: a limit for accidents, not for demand.
    highest = max((row.highest_pods for row in rows if row.policy == "static"), default=1)
    peak = max(highest, int(np.ceil(_peak_pods(trace, service))))
    settings: dict[str, object] = {
        "name": "renderer",
        "min_replicas": 1,
        "max_replicas": 2 * peak,
        "service_s": service.mean_s,
        "service_cv": service.cv,
        "startup_s": start_up.median_s,
        "objective": {"max_queue_wait_s": objective.max_queue_wait_s, "violation_ratio": objective.violation_ratio},
    }
    if best is not None and days >= REACTIVE_DAYS:
        settings |= _told(best)
    else:
        settings["mode"] = "reactive"
    return Backtest(rows, pareto([row for row in rows if row.kind != "oracle"]), best, settings, days - first)


def _told(best: Row) -> dict[str, object]:
    """What a pool is told to be as the row was: the quantile, and the share kept free where there is one."""
    make = FAMILIES[best.policy].pool
    assert make is not None  # ours have one
    pool = make(Pool("told"), best.knob)
    told: dict[str, object] = {"forecast": {"quantile": pool.forecast.quantile}}
    return told | ({"behavior": {"headroom": pool.behavior.headroom}} if pool.behavior.headroom else {})


def _peak_pods(trace: RateTrace, service: Service) -> float:
    return float(np.nanmax(trace.rates_per_s)) * service.mean_s
