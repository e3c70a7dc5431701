"""Which scenes are warmed where, under budgets, without displacing what is in use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoscaler.observation import NodeState, Observation, PodState
from autoscaler.pool import Pool
from autoscaler.scenes import SceneShares
from autoscaler.warmup import WarmMemory, plan_new_pods, plan_warm_asks
from fleet.scene import SceneId

A, B, C, D = (SceneId(text) for text in "abcd")
POOL = Pool("p", service_s=0.15, pod_budget_bytes=100, warm_asks_per_tick=2)
DEMAND = {A: 6.0, B: 3.0, C: 1.0, D: 0.0}
SIZES = {A: 60, B: 40, C: 50, D: 10}


def seen(**fields: object) -> Observation:
    return Observation(
        pool="p",
        now_s=100.0,
        bin_s=1.0,
        demand=np.zeros(1),
        ready=1,
        desired=1,
        scene_bytes=SIZES,
        **fields,  # type: ignore[arg-type]
    )


def test_new_pods_take_scenes_by_demand_per_copy_within_their_budget() -> None:
    """Per copy, first pod: a 6 (60 bytes), c 5 (50, no room), b 1 (40). Second: c 5, a 3 (no room), b 1/2."""
    assert plan_new_pods(POOL, seen(), DEMAND, 1) == ((A, B),)
    assert plan_new_pods(POOL, seen(), {A: 6.0, B: 1.0, C: 5.0}, 3) == ((A, B), (C, B), (A, B))


def test_scenes_that_pods_hold_already_come_later() -> None:
    pods = (PodState("x", resident=(A,)), PodState("y", resident=(A,)), PodState("z", resident=(B,), draining=True))
    assert plan_new_pods(POOL, seen(pods=pods), DEMAND, 1) == ((B, A),)


@pytest.mark.parametrize("pool", [replace(POOL, pod_budget_bytes=0), replace(POOL, scenes_per_new_pod=0)])
def test_no_budget_no_plan(pool: Pool) -> None:
    assert plan_new_pods(pool, seen(), DEMAND, 2) == ((), ())


def test_scenes_of_unknown_size_are_left_to_the_pod() -> None:
    assert plan_new_pods(POOL, seen(), {SceneId("unheard"): 9.0, C: 1.0}, 1) == ((C,),)


def test_a_missing_scene_is_asked_into_the_pod_with_the_most_room() -> None:
    pods = (
        PodState("full", resident=(A, B), budget_bytes=100),
        PodState("roomy", resident=(D,), budget_bytes=100),
    )
    asks = plan_warm_asks(POOL, seen(pods=pods), DEMAND, 6.0, WarmMemory())
    assert [(ask.scene, ask.stage, ask.pod_uid) for ask in asks][:2] == [(A, "memory", "roomy"), (C, "memory", "roomy")]
    assert asks[0].by_s == 106.0


def test_a_scene_in_use_is_never_displaced() -> None:
    pods = (PodState("full", resident=(A, B), budget_bytes=100),)
    assert plan_warm_asks(POOL, seen(pods=pods), DEMAND, 6.0, WarmMemory()) == ()
    idle = (PodState("idle", resident=(A, D), budget_bytes=100),)
    asks = plan_warm_asks(POOL, seen(pods=idle), {A: 6.0, B: 3.0, D: 0.0}, 6.0, WarmMemory())
    assert [ask.scene for ask in asks] == [B]  # d is not asked for any more: its bytes count as free


def test_disk_asks_go_to_the_node_with_the_most_room() -> None:
    nodes = (
        NodeState("n1", on_disk=(A, B), free_bytes=500),
        NodeState("n2", on_disk=(B,), free_bytes=90),
        NodeState("n3", free_bytes=30),
    )
    asks = plan_warm_asks(POOL, seen(nodes=nodes), DEMAND, 6.0, WarmMemory())
    assert [(ask.scene, ask.stage, ask.node) for ask in asks] == [(A, "disk", "n2"), (C, "disk", "n1")]


def test_an_ask_is_not_repeated_at_once_and_few_are_made_a_tick() -> None:
    nodes = tuple(NodeState(f"n{i}", free_bytes=500) for i in range(3))
    memory = WarmMemory()
    pool = replace(POOL, warm_asks_per_tick=1)
    first, second = (plan_warm_asks(pool, seen(nodes=nodes), DEMAND, 6.0, memory) for _ in range(2))
    assert [ask.scene for ask in (*first, *second)] == [A, B]
    later = replace(seen(nodes=nodes), now_s=113.0)
    assert [ask.scene for ask in plan_warm_asks(pool, later, DEMAND, 6.0, memory)] == [A]


def test_shares_decay_and_scale_with_the_total() -> None:
    shares = SceneShares(half_life_s=10.0)
    shares.update({A: 30.0, B: 10.0}, 0.0)
    assert shares.forecast(8.0) == {A: 6.0, B: 2.0}
    shares.update({B: 5.0}, 10.0)  # one half-life: half of the old, half of the new
    assert shares.forecast(8.0) == pytest.approx({B: 5.0, A: 3.0})
    shares.update({}, 1000.0)  # no data teaches nothing
    assert shares.forecast(8.0) == pytest.approx({B: 5.0, A: 3.0})
    assert SceneShares(10.0).forecast(8.0) == {}
    assert shares.most_wanted() == pytest.approx({B: 5 / 8, A: 3 / 8})
    assert shares.most_wanted(1) == pytest.approx({B: 5 / 8})
    assert SceneShares(10.0).most_wanted() == {}
