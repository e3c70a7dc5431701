"""What comes after data were missing, a clock was set, or one pool could not be decided for: no step down, no stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from autoscaler.boosting import Refitter
from autoscaler.decision import Decision, Reason
from autoscaler.flaps import Flaps
from autoscaler.loop import Memory, tick
from autoscaler.memory import PoolMemory
from autoscaler.observation import Observation, ServiceTime, StartingPod
from autoscaler.pacing import Budget
from autoscaler.policy import decide
from autoscaler.pool import Behavior, CapacityType, ForecastSettings, Mode, Override, Pool, Triggers

POOL = Pool("p", max_replicas=20, tick_s=15.0, startup_s=180.0)
REACTIVE = replace(POOL, mode=Mode.REACTIVE)
NOW_S = 1_700_000_040.0


def seen(rate_per_s: float, desired: int, now_s: float, **more: object) -> Observation:
    """Two hours of a demand of 15 requests/s, and for the last minutes another."""
    demand = np.concatenate((np.full(120, 900.0), np.full(3, 60.0 * rate_per_s)))
    fields: dict[str, object] = {"ready": desired, "pending": 0.0, "service": ServiceTime(0.25, 1.0, 500)} | more
    age_s = now_s % 60.0
    return Observation("p", now_s, 60.0, demand, desired=desired, data_age_s=age_s, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", [POOL, REACTIVE])
def test_a_restart_whose_first_looks_see_nothing_settles_first(pool: Pool) -> None:
    memory = PoolMemory()
    for number in range(3):
        first = decide(pool, seen(1.0, 8, NOW_S + 15.0 * number, trusted=False), memory)
        assert (first.reason, first.replicas) == (Reason.STALE, 8)
    then = decide(pool, seen(1.0, 8, NOW_S + 45.0), memory)
    assert (then.reason, then.replicas) == (Reason.SETTLING, 8)


@pytest.mark.parametrize("unseen", ["untrusted", "unreachable", "refused", "asleep"])
@pytest.mark.parametrize("pool", [POOL, REACTIVE])
def test_time_in_which_nobody_knew_settles_nothing(pool: Pool, unseen: str) -> None:
    """After half an hour of demand nothing is known for long: the way down takes as long as without the outage.

    Also where the pool's resource is refused meanwhile, and where the machine sleeps.
    """
    pool, first_s = replace(pool, forecast=ForecastSettings(season_s=())), {}
    longest_s = 1800.0 if unseen == "refused" else 7200.0  # one that is gone for an hour is forgotten
    for outage_s in (0.0, longest_s):
        world, memory, desired = World([pool]), Memory(), 1
        for number in range(120):
            world.look = seen(20.0, desired, NOW_S + 15.0 * number)
            desired = tick(world, memory, NOW_S + 15.0 * number)[0].replicas
        begin_s = NOW_S + 15.0 * 120
        for number in range(int(outage_s / 15.0)):
            now_s = begin_s + 15.0 * number
            world.look = None if unseen == "unreachable" else seen(0.2, desired, now_s, trusted=False)
            if unseen == "refused":
                tick(World([]), memory, now_s)
            elif unseen != "asleep":
                assert tick(world, memory, now_s)[0].replicas == desired
        for number in range(200):
            now_s = begin_s + outage_s + 15.0 * number
            world.look = seen(0.2, desired, now_s)
            if tick(world, memory, now_s)[0].replicas < desired:
                first_s[outage_s] = 15.0 * number
                break
    assert first_s[longest_s] == first_s[0.0] > 180.0


class World:
    """Pools that are seen as they are told to be; nothing is carried out."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._pools = pools
        self.look: Observation | None = None
        self.decided: list[Decision] = []

    def pools(self) -> Sequence[Pool]:
        return self._pools

    def observe(self, pool: Pool, now_s: float) -> Observation:
        if self.look is None:
            raise ConnectionError("no route")
        return replace(self.look, pool=pool.name, now_s=now_s)

    def scale(self, pool: Pool, decision: Decision) -> None:
        del pool
        self.decided.append(decision)

    def warm(self, pool: Pool, asks: object) -> None:
        del pool, asks


def test_a_pool_whose_decision_fails_is_held_and_the_other_goes_on() -> None:
    broken = replace(POOL, name="broken")
    object.__setattr__(broken, "startup_s", math.inf)  # as a check that is missing would let it through
    world = World([broken, POOL])
    world.look = seen(15.0, 2, NOW_S)
    first, second = tick(world, Memory(), NOW_S)
    assert (first.reason, first.replicas) == (Reason.OBSERVE_FAILED, 2)
    assert "the decision failed (" in first.explanation
    assert second.replicas > 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"startup_s": math.inf}, "startup_s is inf, expected 0 or more, at most 86400"),
        (
            {"forecast": ForecastSettings(season_s=(math.inf,))},
            r"forecast.season_s is \(inf,\), expected seconds above 0",
        ),
        ({"forecast": ForecastSettings(average_s=math.nan)}, "forecast.average_s is nan, expected seconds above 0"),
        ({"overrides": (Override(9e9, min_replicas=-1),)}, "overrides.min_replicas is -1, expected 0 or more"),
        ({"startup_s": 1e15}, "startup_s is 1000000000000000.0, expected 0 or more, at most 86400"),
        ({"forecast": ForecastSettings(average_s=1e9)}, "forecast.average_s is 1000000000.0, expected seconds above 0"),
        ({"max_replicas": 2**31}, "max_replicas is 2147483648, expected >= min_replicas and >= 1, at most 100000"),
        ({"service_cv": 1e308}, "service_cv is 1e.308, expected 0 or more, at most 100"),
        ({"triggers": Triggers(queue_to_compute=-1.0)}, "triggers.queue_to_compute is -1.0, expected 0 or more"),
        ({"behavior": Behavior(max_reversals=-1)}, "behavior.max_reversals is -1, expected 0 or more"),
        ({"capacity_types": (CapacityType("", 1.0),)}, "a name of its own"),
        ({"capacity_types": (CapacityType("a", 1.0), CapacityType("a", 2.0))}, "a name of its own"),
        ({"overrides": (Override(9e9, max_replicas=0),)}, "overrides.max_replicas is 0, expected 1 or more"),
    ],
)
def test_settings_that_would_stop_a_decision_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(POOL, **changes)  # type: ignore[arg-type]


def test_a_clock_that_is_set_back_by_a_year_moves_no_price() -> None:
    flaps = Flaps(direction=1, price=1.0, priced_s=NOW_S)
    assert flaps.price_pod_s(NOW_S - 400 * 86_400.0, 86_400.0, 10, 5) > 0.0
    assert flaps.price == 1.0


def test_pools_that_are_gone_are_forgotten() -> None:
    world, memory = World([POOL, replace(POOL, name="preview")]), Memory()
    world.look = seen(15.0, 2, NOW_S)
    tick(world, memory, NOW_S)
    world = World([POOL])
    world.look = seen(15.0, 2, NOW_S)
    tick(world, memory, NOW_S + 60.0)
    assert set(memory.pools) == {"p", "preview"}  # a resource that was broken for a moment loses nothing
    tick(world, memory, NOW_S + 7200.0)
    assert set(memory.pools) == {"p"}


def test_a_pod_that_fails_for_days_is_not_on_its_way() -> None:
    """The ratio asks for one pod more while nothing starts."""
    strained = {"ready": 4, "pending": 3.0, "queue_to_compute": 5.0, "startup_s": (180.0, 180.0, 180.0)}
    for pod in (StartingPod("x", 864_000.0, "failing"), StartingPod("x", 60.0, "failing"), StartingPod("x", 864_000.0)):
        decision = decide(REACTIVE, seen(4.0, 5, NOW_S, starting=(pod,), **strained), PoolMemory())
        assert decision.floor == 5, pod
    young = (StartingPod("x", 60.0, "loading"),)
    assert decide(REACTIVE, seen(4.0, 5, NOW_S, starting=young, **strained), PoolMemory()).floor < 5


def test_the_forecaster_that_looks_further_gets_trees_too() -> None:
    bins = np.arange(4 * 1440)
    demand = 60.0 * (10.0 + 8.0 * np.sin(2 * np.pi * bins / 1440)) + bins % 7
    world, memory, refitter = World([replace(POOL, node_startup_s=600.0)]), Memory(), Refitter()
    world.look = replace(seen(15.0, 4, NOW_S), demand=demand)
    adopted: list[tuple[str, int]] = []
    refitter.adopted = lambda pool, forecaster, _: adopted.append((pool, forecaster))
    try:
        tick(world, memory, NOW_S)
        refitter.settle(memory)
    finally:
        refitter.close()
    assert sorted(adopted) == [("p", 0), ("p", 1)]


def test_the_margin_rests_while_nobody_counts_late_requests() -> None:
    memory = PoolMemory(budget=Budget(served=1e6, late=1e5, known=1.0))
    for number in range(400):
        decide(POOL, seen(15.0, 8, NOW_S + 15.0 * number, served=1000.0, late=100.0), memory)
    widened = memory.budget.margin
    assert widened > 1.0
    for number in range(400, 800):
        decide(POOL, seen(15.0, 8, NOW_S + 15.0 * number), memory)
    assert memory.budget.margin == widened
