"""Places on nodes are asked for before the pods, end by themselves, and are nobody's demand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from autoscaler.decision import Decision, PlaceAsk, Reason
from autoscaler.memory import PoolMemory
from autoscaler.observation import Observation, ServiceTime, StartingPod
from autoscaler.policy import decide
from autoscaler.pool import ForecastSettings, Override, Pool

SEASON_S = 120
RISE_S = 60  # of every season; the peak lasts half of it
NODE_S = 20.0
LEAD_S = 6.0
POOL = Pool(
    "p",
    max_replicas=30,
    tick_s=1.0,
    service_s=0.25,
    startup_s=5.0,
    node_startup_s=NODE_S,
    forecast=ForecastSettings(season_s=(SEASON_S,), average_s=2.0),
)


@dataclass
class World:
    """Five requests a second, and forty from `RISE_S` of each season on, six seasons of them past."""

    pool: Pool = POOL
    peak_per_s: float = 40.0
    replicas: int = 0
    memory: PoolMemory = field(default_factory=PoolMemory)
    asked: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(3)
        self.counts = [self.arrivals(second, 40.0) for second in range(6 * SEASON_S)]
        self.replicas = self.replicas or 12

    def arrivals(self, second: int, peak_per_s: float) -> float:
        return float(self.random.poisson(peak_per_s if second % SEASON_S >= RISE_S else 5.0))

    def play(self, seconds: int, **spoiled: object) -> list[Decision]:
        made = []
        for _ in range(seconds):
            self.counts.append(self.arrivals(len(self.counts), self.peak_per_s))
            seen = Observation(
                "p",
                float(len(self.counts)),
                1.0,
                np.array(self.counts),
                self.replicas,
                self.replicas,
                pending=0.0,
                service=ServiceTime(0.25, 0.3, 500),
                startup_s=(5.0, 5.0, 5.0),
            )
            made.append(decide(self.pool, replace(seen, **spoiled), self.memory))  # type: ignore[arg-type]
            self.replicas = made[-1].replicas
        self.asked += made
        return made


def first_places(season: list[Decision]) -> int:
    """The second of the first ask for three places or more."""
    return next(second for second, decision in enumerate(season) if decision.places and decision.places.count >= 3)


def first_pods(season: list[Decision]) -> int:
    """The second, in the low half of the season or later, of the first ask for three pods more at once."""
    return next(second for second, decision in enumerate(season) if second > RISE_S / 2 and decision.change >= 3)


def test_places_are_asked_for_as_much_before_the_pods_as_a_node_takes() -> None:
    world = World()
    season = world.play(SEASON_S)
    places, pods = first_places(season), first_pods(season)
    assert NODE_S * 0.7 <= pods - places <= NODE_S * 2
    assert NODE_S <= RISE_S - places <= 2.5 * NODE_S
    before = (decision.places.count for decision in season[: RISE_S - round(2.5 * NODE_S)] if decision.places)
    assert max(before, default=0) <= 1
    most = max(decision.replicas for decision in season[RISE_S:])
    assert max(d.replicas + d.places.count for d in season if d.places) <= most + 2, "no more than the peak ever took"
    peak = season[RISE_S + 15 : SEASON_S - 30]
    assert max((decision.places.count for decision in peak if decision.places), default=0) <= 1, "what is needed runs"
    ask = season[places].places
    assert ask is not None
    assert f"places on nodes for {ask.count} more" in season[places].explanation


def test_no_place_without_the_time_that_a_node_takes() -> None:
    assert not any(d.places for d in World(replace(POOL, node_startup_s=None)).play(SEASON_S))


def test_a_measured_node_takes_the_place_of_the_configured_time() -> None:
    world = World(replace(POOL, node_startup_s=1.0))
    season = world.play(SEASON_S, node_s=(NODE_S, NODE_S + 1, NODE_S))
    assert first_pods(season) - first_places(season) >= NODE_S * 0.7


def test_an_ask_that_nobody_comes_to_ends_whatever_is_foreseen() -> None:
    """The peak stays away: the ask ends with its own time at the latest, and no later ask stands for longer."""
    world = World(peak_per_s=5.0)
    season = world.play(SEASON_S)
    asks = [(index, decision.places) for index, decision in enumerate(season) if decision.places]
    assert asks
    for index, ask in asks:
        now_s = 6 * SEASON_S + index + 1
        assert now_s < ask.until_s <= now_s + 2 * (NODE_S + LEAD_S)
    assert season[-1].places is None


def until_asked(world: World) -> PlaceAsk:
    while not (world.asked and world.asked[-1].places):
        assert len(world.asked) < SEASON_S
        world.play(1)
    assert world.asked[-1].places is not None
    return world.asked[-1].places


def test_no_data_is_no_reason_to_give_a_place_away_nor_to_keep_it_for_ever() -> None:
    world = World()
    ask = until_asked(world)
    held = world.play(5, data_age_s=10_000.0)
    assert {decision.places for decision in held} == {ask}
    late = world.play(round(2 * (NODE_S + LEAD_S)) + 1, data_age_s=10_000.0)
    assert late[-1].places is None


@pytest.mark.parametrize("limit", [3, 5])
def test_places_stay_within_the_most_pods(limit: int) -> None:
    world = World(replace(POOL, max_replicas=limit))
    season = world.play(SEASON_S)
    assert max((d.replicas + d.places.count for d in season if d.places), default=limit) <= limit


def test_no_place_is_asked_for_while_pods_that_were_asked_for_get_no_machine() -> None:
    world = World()
    until_asked(world)
    waiting = (StartingPod("s", 60.0, "provisioning"),)
    assert not any(decision.places for decision in world.play(5, starting=waiting))


def test_a_paused_pool_asks_for_none() -> None:
    world = World(replace(POOL, overrides=(Override(1e9, paused=True),)))
    season = world.play(SEASON_S)
    assert {decision.reason for decision in season} == {Reason.PAUSED}
    assert not any(decision.places for decision in season)
