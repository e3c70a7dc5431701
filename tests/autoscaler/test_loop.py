"""The tick: what fails in one pool stays there, and nothing is done that need not be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoscaler.loop import Decision, Memory, Observation, Pool, Reason, ServiceTime, WarmAsk, read_on, tick


class World:
    """Two pools that want more pods; one of them may be broken."""

    def __init__(self, blind: bool = False, stuck: bool = False) -> None:
        self.blind = blind
        self.stuck = stuck
        self.desired = {"first": 1, "second": 1}

    def pools(self) -> Sequence[Pool]:
        return [Pool(name, service_s=0.15, tick_s=1.0, startup_s=5.0) for name in self.desired]

    def observe(self, pool: Pool, now_s: float) -> Observation:
        if self.blind and pool.name == "first":
            raise ConnectionError("no route to the API server")
        count = self.desired[pool.name]
        return Observation(pool.name, now_s, 1.0, np.full(60, 30.0), count, count, service=ServiceTime(0.15, 0.2, 99))

    def scale(self, pool: Pool, decision: Decision) -> None:
        if self.stuck and pool.name == "first":
            raise TimeoutError("the API server did not answer")
        self.desired[pool.name] = decision.replicas

    def warm(self, pool: Pool, asks: Sequence[WarmAsk]) -> None:
        raise AssertionError(f"nothing to warm in {pool.name}, asked for {asks}")


def test_a_tick_scales_every_pool() -> None:
    world = World()
    decisions = tick(world, Memory(), 100.0)
    assert [d.reason for d in decisions] == [Reason.DEMAND, Reason.DEMAND]
    assert world.desired == {d.pool: d.replicas for d in decisions}
    assert min(world.desired.values()) >= 5


def test_a_pool_that_cannot_be_seen_is_held_and_the_other_goes_on() -> None:
    world, memory = World(), Memory()
    tick(world, memory, 100.0)
    held = world.desired["first"]
    world.blind = True
    first, second = tick(world, memory, 101.0)
    assert (first.reason, first.replicas) == (Reason.OBSERVE_FAILED, held)
    assert "ConnectionError: no route" in first.explanation
    assert second.reason is not Reason.OBSERVE_FAILED
    assert world.desired["first"] == held


def test_a_pool_that_cannot_be_scaled_says_so_and_is_tried_again() -> None:
    world, memory = World(stuck=True), Memory()
    first, second = tick(world, memory, 100.0)
    assert first.reason is Reason.ACT_FAILED
    assert "the API server did not answer" in first.explanation
    assert second.reason is Reason.DEMAND
    world.stuck = False
    tick(world, memory, 101.0)
    assert world.desired["first"] == world.desired["second"]


def test_histories_are_read_a_piece_a_tick() -> None:
    """After a restart no tick feeds more than it may, and a pool whose history is still being read is not shrunk."""
    world, memory = World(), Memory(build_bins=90)
    world.desired = {"first": 9, "second": 9}
    known = []
    for second in range(4):
        decisions = tick(world, memory, 100.0 + 60 * second)
        known.append([decision.forecast is not None for decision in decisions])
        if not known[-1][1]:
            assert world.desired["second"] == 9
            assert decisions[1].reason is Reason.SETTLING
    assert known[0] == [True, False]
    assert known[-1] == [True, True]
    assert world.desired["second"] < 9


def test_histories_are_read_on_between_two_ticks() -> None:
    """In pieces of 25 bins: afterwards the second pool is forecast as if a tick had read it whole."""
    world, memory, whole = World(), Memory(build_bins=90), Memory()
    world.desired = {"first": 9, "second": 9}
    first = tick(world, memory, 100.0)
    assert first[1].forecast is None
    read = 0
    while step := read_on(memory, 25):
        assert sum(step.values()) <= 25
        read += sum(step.values())
    assert read == 2 * 60 - 90
    world.desired = {"first": 9, "second": 9}
    tick(world, whole, 100.0)
    after, at_once = (tick(world, memory, 101.0)[1].forecast, tick(world, whole, 101.0)[1].forecast)
    assert after is not None
    assert after == at_once
