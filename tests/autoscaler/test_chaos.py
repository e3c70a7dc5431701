"""What goes wrong in a world: none of it takes a pod away, none of it asks for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from autoscaler.loop import (
    Behavior,
    Decision,
    ForecastSettings,
    Memory,
    Observation,
    Pool,
    Reason,
    ServiceTime,
    StartingPod,
    WarmAsk,
    tick,
)
from autoscaler.trees import Trees

DAY = 288  # bins
BIN_S = 60.0
POOL = Pool(
    "p",
    min_replicas=1,
    max_replicas=200,
    tick_s=60.0,
    service_s=0.25,
    startup_s=180.0,
    forecast=ForecastSettings(season_s=(DAY * BIN_S,)),
    behavior=Behavior(stale_after_s=180.0, blind_after_s=900.0),
)
SERVICE = ServiceTime(0.25, 0.5, 500)


@dataclass
class World:
    """Twenty requests a second with a mild day; pods are ready three bins after they were asked for."""

    pool: Pool = POOL
    now_s: float = 1_700_000_000.0
    desired: int = 9
    counts: list[float] = field(default_factory=list)
    starting: list[tuple[float, int]] = field(default_factory=list)
    spoil: Callable[[Observation], Observation] | None = None
    startup_s: float = 180.0
    ever_ready: bool = True
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(11)
        self.counts = [self.arrivals(index) for index in range(6 * DAY)]
        self.memory = Memory()
        self.startups = [175.0, 180.0, 178.0, 181.0]
        self.factor = 1.0

    def arrivals(self, index: int) -> float:
        mean = 20.0 * BIN_S * (1 - 0.1 * math.cos(2 * math.pi * index / DAY))
        return float(self.random.poisson(mean))

    def pools(self) -> Sequence[Pool]:
        return [self.pool]

    def observe(self, pool: Pool, now_s: float) -> Observation:
        if self.ever_ready:
            done = [entry for entry in self.starting if now_s - entry[0] >= self.startup_s]
            self.startups += [self.startup_s] * len(done)
            self.starting = [entry for entry in self.starting if entry not in done]
        waiting = tuple(
            StartingPod(f"s{at:.0f}-{i}", now_s - at, "provisioning") for at, n in self.starting for i in range(n)
        )
        seen = Observation(
            pool.name,
            now_s,
            BIN_S,
            np.array(self.counts[-10 * DAY :]),
            ready=max(0, self.desired - len(waiting)),
            desired=self.desired,
            starting=waiting,
            pending=0.0,
            service=SERVICE,
            startup_s=tuple(self.startups),
        )
        return self.spoil(seen) if self.spoil else seen

    def scale(self, pool: Pool, decision: Decision) -> None:
        if decision.change > 0:
            self.starting.append((self.now_s, decision.change))
        self.desired = decision.replicas

    def warm(self, pool: Pool, asks: Sequence[WarmAsk]) -> None:
        del pool, asks

    def run(self, minutes: int, spoil: Callable[[Observation], Observation] | None = None) -> list[Decision]:
        """Minutes of ordinary traffic, seen through `spoil`."""
        self.spoil = spoil
        first = len(self.decisions)
        for _ in range(minutes):
            self.now_s += BIN_S
            self.counts.append(self.factor * self.arrivals(len(self.counts)))
            self.decisions += tick(self, self.memory, self.now_s)
        return self.decisions[first:]

    @property
    def needed(self) -> int:
        return max(decision.need or decision.floor for decision in self.decisions)


@pytest.fixture
def world() -> World:
    world = World()
    world.run(30)
    assert 6 <= world.desired <= 14
    world.decisions.clear()
    return world


def no_harm(decisions: Sequence[Decision]) -> None:
    assert min(decision.change for decision in decisions) >= 0
    assert max(decision.replicas for decision in decisions) <= 20


def spoiled(**changes: object) -> Callable[[Observation], Observation]:
    return lambda seen: replace(seen, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("minutes", [5, 30, 120])
def test_prometheus_is_down_and_comes_back(world: World, minutes: int) -> None:
    """The history stands still and ages; when it is back the count goes on from where it stood."""
    before, frozen = world.desired, list(world.counts)

    def down(seen: Observation) -> Observation:
        old_s = (len(world.counts) - len(frozen)) * BIN_S
        return replace(seen, demand=np.array(frozen), data_age_s=old_s, trusted=False, note="unreachable")

    decisions = world.run(minutes, down)
    no_harm(decisions)
    assert {d.reason for d in decisions} <= {Reason.STALE, Reason.BLIND}
    back = world.run(5)
    assert max(abs(d.replicas - before) for d in back) <= 3


def test_stale_by_ten_minutes(world: World) -> None:
    decisions = world.run(15, lambda seen: replace(seen, demand=seen.demand[:-10], data_age_s=600.0))
    no_harm(decisions)
    assert {d.reason for d in decisions} == {Reason.STALE}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -5.0])
def test_values_that_are_no_counts(world: World, value: float) -> None:
    """The newest bins are no counts at all; afterwards the forecast is what it was."""
    before = world.desired

    def broken(seen: Observation) -> Observation:
        demand = seen.demand.copy()
        demand[-10:] = value
        return replace(seen, demand=demand)

    decisions = world.run(10, broken)
    no_harm(decisions)
    assert {d.reason for d in decisions} == {Reason.NO_DATA}
    back = world.run(20)
    assert all(math.isfinite(v) for d in back if d.forecast for v in d.forecast.quantiles.values())
    assert max(abs(d.replicas - before) for d in back) <= 3


@pytest.mark.parametrize("demand", [np.zeros(0), np.full(50, math.nan)])
def test_an_empty_answer_and_an_absent_gateway_metric(world: World, demand: np.ndarray) -> None:
    decisions = world.run(10, spoiled(demand=demand))
    no_harm(decisions)
    assert {d.reason for d in decisions} == {Reason.NO_DATA}


def test_metrics_of_the_pods_are_missing(world: World) -> None:
    no_harm(world.run(15, spoiled(service=None, pending=None, queue_to_compute=None, startup_s=())))


@pytest.mark.parametrize("ratio", [math.nan, math.inf, -1.0])
def test_a_ratio_that_is_none(world: World, ratio: float) -> None:
    no_harm(world.run(15, spoiled(queue_to_compute=ratio)))


def test_all_pods_are_unready(world: World) -> None:
    """They exist and do not serve: more of the same is no answer, fewer neither."""
    no_harm(world.run(20, spoiled(ready=0)))


def test_pods_crash_in_a_loop(world: World) -> None:
    turn = iter(range(1000))
    crash = tuple(StartingPod(f"c{i}", 30.0, "loading") for i in range(9))

    def flapping(seen: Observation) -> Observation:
        if next(turn) % 2:
            return seen
        return replace(seen, ready=0, starting=crash, service=None)

    no_harm(world.run(30, flapping))


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, 86_400.0])
def test_the_clock_jumps(world: World, jump_s: float) -> None:
    """An hour for daylight saving, a day for a wrong clock: bins carry on, nothing is taken away at once."""
    world.now_s += jump_s
    no_harm(world.run(10))


def test_somebody_scales_by_hand(world: World) -> None:
    """Too few: repaired in one step. Too many: kept until they have settled, then let go."""
    right = world.desired
    world.desired = 2
    assert abs(world.run(1)[0].replicas - right) <= 3
    world.desired = 30
    decisions = world.run(40)
    assert max(d.replicas for d in decisions) <= 30
    assert decisions[-1].replicas <= 20


def test_two_controllers_agree(world: World) -> None:
    """A second one with a memory of its own asks for the same and so changes nothing."""
    other = Memory()
    for _ in range(20):
        world.run(1)
        again = tick(world, other, world.now_s)[0]
        assert abs(again.replicas - world.decisions[-1].replicas) <= 1
        world.desired = world.decisions[-1].replicas


@pytest.mark.parametrize("after", [1, 7, 13])
def test_the_controller_is_killed(world: World, after: int) -> None:
    """A fresh memory rebuilds from the history and takes nothing away until it has settled."""
    world.run(after)
    world.memory = Memory()
    decisions = world.run(1)
    no_harm(decisions)
    assert abs(decisions[0].replicas - world.decisions[-2].replicas) <= 2


def test_garbage_from_the_boosted_expert(world: World) -> None:
    """Trees that answer nan, infinite or a million do not get through to the count."""
    forecaster = world.memory.pools["p"].forecaster
    assert forecaster is not None
    zero = np.zeros(1, dtype=np.int32)
    for value in (math.nan, math.inf, 1e6):
        forecaster.adopt(Trees(value, 0, zero, zero, np.zeros(1), zero, zero, np.zeros(1, dtype=np.bool_), np.zeros(1)))
        no_harm(world.run(10))


def test_no_machine_is_to_be_had(world: World) -> None:
    """Stock-out: the ask stands, no more is asked for, and it is said; when machines come, it goes on."""
    world.ever_ready, world.factor = False, 2.0
    decisions = world.run(30)
    asked = max(d.replicas for d in decisions)
    world.factor = 2.5  # at 2.0 the twelve pods that were asked for are just what is wanted
    assert {(d.replicas, d.reason) for d in world.run(10)[1:]} == {(asked, Reason.STOCK_OUT)}
    assert asked < 60
    world.factor = 4.0
    late = world.run(20)
    assert {d.replicas for d in late} == {asked}
    assert "without a machine" in late[-1].explanation
    world.ever_ready = True
    assert world.run(10)[-1].replicas > asked


def test_start_ups_triple(world: World) -> None:
    before = world.run(1)[0].lead_s
    world.startups += [540.0] * 10
    assert world.run(1)[0].lead_s > 2.2 * before


def test_twenty_times_the_traffic_within_a_minute(world: World) -> None:
    """Up at once, and not further than it needs."""
    world.pool = replace(POOL, max_replicas=2000)
    world.factor = 20.0
    decisions = world.run(3)
    needed = 20 * 20 * 0.25
    assert decisions[0].replicas >= 0.9 * needed
    assert max(d.replicas for d in decisions) <= 2.5 * needed


def test_eight_hours_of_nothing_and_back(world: World) -> None:
    world.factor = 0.0
    quiet = world.run(480)
    assert quiet[-1].replicas == 1
    assert sum(d.change > 0 for d in quiet) <= 10
    world.factor = 1.0
    back = world.run(5)
    assert 5 <= back[-1].replicas <= 20


def test_a_maximum_that_is_too_small_is_said(world: World) -> None:
    world.pool = replace(POOL, max_replicas=4)
    decision = world.run(1)[0]
    assert (decision.reason, decision.replicas) == (Reason.AT_MAX, 4)
    assert "wanted, max 4" in decision.explanation
