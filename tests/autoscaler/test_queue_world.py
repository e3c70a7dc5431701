"""The headline on a simulated queue: fewer requests that wait, for no more pod-seconds than a good reactive rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoscaler.decision import Reason
from autoscaler.pool import Behavior, ForecastSettings, Mode, Pool, Triggers
from tests.autoscaler.queue_world import QueueWorld, sinus_day

POOL = Pool(
    "p",
    max_replicas=14,
    tick_s=1.0,
    service_s=0.15,
    service_cv=0.2,
    startup_s=5.0,
    forecast=ForecastSettings(season_s=(40.0,)),
    behavior=Behavior(down_window_s=7.0),  # HPA's 300 s for starts of 180 s, on the scale of this world
)


def run(pool: Pool, startup_s: tuple[float, float], seed: int, days: np.ndarray | None = None) -> QueueWorld:
    """Three days of 40 s after three days of history."""
    history = np.random.default_rng(seed + 77).poisson(sinus_day(3, 50.0, 5.0)).astype(float)
    rates = sinus_day(3, 50.0, 5.0) if days is None else days
    return QueueWorld(pool, rates, history, startup_s, seed=seed).run(start_pods=2)


def totals(pool: Pool, startup_s: tuple[float, float], seeds: range) -> tuple[float, float]:
    """Mean violation ratio and mean pod-seconds over the seeds."""
    worlds = [run(pool, startup_s, seed) for seed in seeds]
    return float(np.mean([w.violation_ratio for w in worlds])), float(np.mean([w.pod_seconds for w in worlds]))


@pytest.mark.parametrize("startup_s", [(3.0, 3.0), (3.0, 6.0), (4.0, 5.0), (6.0, 6.0)])
def test_less_than_half_the_violations_at_no_more_than_a_tenth_more_cost(startup_s: tuple[float, float]) -> None:
    violations, cost = totals(POOL, startup_s, range(4))
    reactive, reactive_cost = totals(replace(POOL, mode=Mode.REACTIVE), startup_s, range(4))
    assert reactive >= 0.02
    assert violations < 0.5 * reactive
    assert cost <= 1.1 * reactive_cost


def test_no_tuning_of_the_reactive_rule_reaches_it() -> None:
    """Swept openly over utilisation and window: none violates as little for the same cost or less."""
    violations, cost = totals(POOL, (4.0, 5.0), range(3))
    for utilization in (0.4, 0.5, 0.6, 0.7, 0.85):
        for window_s in (2.0, 7.0):
            for recent_s in (1.0, 2.0):
                rival = replace(
                    POOL,
                    mode=Mode.REACTIVE,
                    triggers=Triggers(utilization=utilization, recent_s=recent_s),
                    behavior=Behavior(down_window_s=window_s),
                )
                other, other_cost = totals(rival, (4.0, 5.0), range(3))
                assert other_cost > cost or other > 2 * violations, (utilization, window_s, recent_s)


def test_a_day_that_differs_from_all_before_is_not_worse_than_reacting() -> None:
    """Twice the peak at another hour: history misleads, the floor and the calibration must save it."""
    shifted = np.roll(sinus_day(1, 60.0, 5.0), 13)
    days = np.concatenate((sinus_day(1, 50.0, 5.0), shifted, sinus_day(1, 50.0, 5.0)))
    ours = [run(POOL, (4.0, 5.0), seed, days) for seed in range(3)]
    rivals = [run(replace(POOL, mode=Mode.REACTIVE), (4.0, 5.0), seed, days) for seed in range(3)]
    assert sum(w.violation_ratio for w in ours) <= 1.1 * sum(w.violation_ratio for w in rivals)


def test_the_world_counts_what_it_should() -> None:
    """One pod, no scaling to do: busy as the demand asks, and every arrival is answered or waits."""
    world = run(replace(POOL, min_replicas=14), (3.0, 3.0), 1)
    assert world.violation_ratio == 0.0
    assert len(world.waits) == sum(world.counts[120:])
    assert 14 * 115 < world.pod_seconds <= 14 * 120
    assert {d.reason for d in world.decisions} <= {Reason.AT_MIN, Reason.AT_MAX, Reason.STEADY, Reason.STARTING}
