"""Which scenes are warmed where, under budgets, without displacing what is in use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoscaler.decision import WarmReason
from autoscaler.kubernetes_view import scene_bytes
from autoscaler.observation import NodeState, Observation, PodState
from autoscaler.pool import Pool
from autoscaler.scenes import SceneShares
from autoscaler.warmup import WarmMemory, plan_new_pods, plan_warm_asks
from exporter.store_reader import StoreReader
from fleet.digest import NodeDigest, SceneCache
from fleet.scene import SceneId, parse_scene_id
from renderer import made
from renderer.catalogue import Catalogue, CatalogueEntry, save_catalogue
from renderer.formats import ply
from renderer.pod import CannotStart, RendererPod
from renderer.pod_settings import PodSettings
from renderer.scene_source import digest_of
from renderer.scene_store import SceneStore
from tests.renderer.scenes import Uncounted

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
    assert plan_new_pods(replace(POOL, pod_budget_bytes=400), seen(pods=pods), DEMAND, 1) == ((B, A),)


def test_beside_pods_that_hold_scenes_a_new_one_keeps_room_for_what_is_waited_for() -> None:
    """A quarter of its memory is told, the first scene in any case; the first pods of a pool are told all that fits."""
    sizes = {SceneId(f"s{number}"): 10 for number in range(9)}
    demand = {scene: 9.0 - number for number, scene in enumerate(sizes)}

    def told(pool_bytes: int, *pods: PodState) -> list[int]:
        pool = replace(POOL, pod_budget_bytes=pool_bytes)
        return [len(plan) for plan in plan_new_pods(pool, replace(seen(pods=pods), scene_bytes=sizes), demand, 2)]

    holder = PodState("x", resident=(SceneId("s0"),))
    assert told(80) == told(80, PodState("empty"), replace(holder, draining=True)) == [8, 8]
    assert told(80, holder) == [2, 2]
    assert told(30, holder) == [1, 1]
    assert told(5, holder) == [0, 0]


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
    assert [(ask.scene, ask.stage, ask.pod_uid) for ask in asks] == [(A, "memory", "roomy")], "no room for c beside it"
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


def test_bytes_that_are_on_their_way_are_spoken_for() -> None:
    """a (60 bytes) goes to the node and the pod first; b and c would fit beside nothing else, so they wait."""
    pods, nodes = (PodState("x", node="n1", budget_bytes=80),), (NodeState("n2", free_bytes=90),)
    memory = WarmMemory()
    pool = replace(POOL, warm_asks_per_tick=9)
    asks = plan_warm_asks(pool, seen(pods=pods, nodes=nodes), DEMAND, 6.0, memory)
    assert [(ask.scene, ask.stage) for ask in asks] == [(A, "memory"), (A, "disk")]
    again = replace(seen(pods=pods, nodes=nodes), now_s=105.0)
    assert plan_warm_asks(pool, again, DEMAND, 6.0, memory) == ()
    there = (replace(pods[0], resident=(A,), budget_bytes=120),), (replace(nodes[0], on_disk=(A,), free_bytes=45),)
    later = plan_warm_asks(pool, replace(again, pods=there[0], nodes=there[1]), DEMAND, 6.0, memory)
    assert [(ask.scene, ask.stage) for ask in later] == [(B, "memory"), (B, "disk")]


def test_a_pod_beside_the_scene_on_disk_comes_before_a_roomier_one() -> None:
    pods = (PodState("near", node="n1", budget_bytes=60), PodState("roomy", node="n2", budget_bytes=100))
    nodes = (NodeState("n1", on_disk=(A,), free_bytes=10), NodeState("n2", free_bytes=500))
    asks = plan_warm_asks(
        replace(POOL, warm_asks_per_tick=1), seen(pods=pods, nodes=nodes), {A: 1.0}, 6.0, WarmMemory()
    )
    assert [(ask.pod_uid, ask.reason) for ask in asks] == [("near", WarmReason.COLD)]


def test_the_node_of_a_pod_that_loads_a_scene_is_not_asked_for_it_as_well() -> None:
    pods = (PodState("x", node="n1", budget_bytes=100),)
    nodes = (NodeState("n1", free_bytes=500), NodeState("n2", free_bytes=100))
    asks = plan_warm_asks(POOL, seen(pods=pods, nodes=nodes), {A: 1.0}, 6.0, WarmMemory())
    assert [(ask.stage, ask.pod_uid or ask.node) for ask in asks] == [("memory", "x"), ("disk", "n2")]


def test_scenes_of_pods_that_are_awaited_come_to_their_node_first() -> None:
    """Two nodes have a already, which is enough; the pod that is to come loads a and b (100 bytes)."""
    nodes = tuple(NodeState(name, on_disk=(A, B, C), free_bytes=500) for name in ("n1", "n2"))
    new = NodeState("new", free_bytes=150, awaits=1)
    memory = WarmMemory()
    asks = plan_warm_asks(POOL, seen(nodes=(*nodes, new)), DEMAND, 6.0, memory)
    assert [(ask.scene, ask.node, ask.reason) for ask in asks] == [
        (A, "new", WarmReason.AWAITED), (B, "new", WarmReason.AWAITED)
    ]  # fmt: skip
    again = replace(seen(nodes=(*nodes, new)), now_s=101.0)
    assert plan_warm_asks(POOL, again, DEMAND, 6.0, memory) == ()
    full = replace(new, free_bytes=90)
    asks = plan_warm_asks(POOL, seen(nodes=(*nodes, full)), DEMAND, 6.0, WarmMemory())
    assert [ask.scene for ask in asks] == [A]


def test_each_ask_says_why() -> None:
    pods = (PodState("x", resident=(A,), budget_bytes=100), PodState("y", budget_bytes=200))
    nodes = (NodeState("n1", free_bytes=500),)
    pool = replace(POOL, warm_asks_per_tick=9)
    asks = plan_warm_asks(pool, seen(pods=pods, nodes=nodes), {A: 6.0, B: 0.1}, 6.0, WarmMemory())
    assert {(ask.scene, ask.reason) for ask in asks} == {
        (A, WarmReason.BUSY), (A, WarmReason.SPREAD), (B, WarmReason.COLD), (B, WarmReason.SPREAD)
    }  # fmt: skip


def test_a_plan_made_from_disks_alone_fits_into_a_pod(tmp_path: Path) -> None:
    """No pod has held the scenes yet and none is packed: a source is smaller than the scene in memory."""
    for number in range(3):
        ply.write(tmp_path / f"scene-{number}.ply", made.make("knot", 500, number))
    entries = [
        CatalogueEntry(parse_scene_id(path.stem), path.as_uri(), digest_of(path), path.stat().st_size)
        for path in sorted(tmp_path.glob("*.ply"))
    ]
    save_catalogue(Catalogue(entries), tmp_path / "catalogue.json")
    store = SceneStore(tmp_path / "store", 1 << 30)
    sizes = [(entry.source_bytes or 0, store.ensure(entry, pack=False).record.resident_bytes) for entry in entries]
    budget_bytes = sum(source for source, _ in sizes)
    assert budget_bytes < sum(resident for _, resident in sizes), "sources as large as scenes show nothing"
    found = StoreReader(tmp_path / "store").read()
    digest = NodeDigest("node-1", 1, 0.0, SceneCache(1 << 30, 1 << 30, 0.0, 0.0, found.scenes))
    observation = replace(seen(), scene_bytes=scene_bytes([digest]))
    demand = {entry.id: 1.0 for entry in entries}
    (plan,) = plan_new_pods(replace(POOL, pod_budget_bytes=budget_bytes), observation, demand, 1)
    assert len(plan) == 2
    settings = PodSettings(
        tmp_path / "catalogue.json", tmp_path / "store", plan, budget_bytes=budget_bytes, rasterizer="cpu"
    )
    assert set(RendererPod(settings, Uncounted()).cache.resident()) == set(plan)
    with pytest.raises(CannotStart, match="do not fit together"):
        RendererPod(replace(settings, scenes=tuple(entry.id for entry in entries)), Uncounted())


def test_a_plan_stays_under_the_budget_that_pods_say() -> None:
    pods = (PodState("pod-1", budget_bytes=SIZES[A]), PodState("pod-2"))
    plans = plan_new_pods(replace(POOL, pod_budget_bytes=1000), seen(pods=pods), {A: 5.0, B: 4.0}, 1)
    assert sum(SIZES[scene] for scene in plans[0]) <= SIZES[A]
