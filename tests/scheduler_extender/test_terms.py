"""The terms of the node itself, demand that is only forecast, and a burst of pods that all want one scene."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from fleet.digest import GpuDigest, NodeDigest, Slice
from fleet.mig import MigProfile
from fleet.scene import SceneId
from fleet.snapshot import Pod
from scheduler_extender.cluster import Cluster
from scheduler_extender.fit import FITS
from scheduler_extender.prices import Prices
from tests.scheduler_extender.conftest import GB, Rig, digest
from tests.scheduler_extender.conftest import pod as pod_object

Start = Callable[..., Rig]
ONE_G = MigProfile.parse("1g.10gb")


def asks(uid: str, *scenes: str, pool: str = "web") -> Pod:
    return Pod(uid, pool=pool, profiles=(ONE_G,), scenes=tuple(SceneId(scene) for scene in scenes))


def cluster_of(*digests: NodeDigest, prices: Prices | None = None) -> Cluster:
    cluster = Cluster([said.node for said in digests], prices)
    for said in digests:
        cluster.apply_digest(said.node, said, 0.0)
    return cluster


def test_reserved_before_on_demand_before_nothing_else(rig: Start) -> None:
    started = rig(od=digest("od"), res=digest("res"), far=digest("far"))
    labels = {"od": "on-demand", "res": "reserved", "far": "spot"}
    for name, kind in labels.items():
        event = {
            "type": "ADDED",
            "object": {"metadata": {"name": name, "labels": {"karpenter.sh/capacity-type": kind}}},
        }
        assert started.client.post("/v1/node-events", json=event).json() == {"nodes": 1}
    names = ["od", "res", "far"]
    lines = started.explain(pod_object("uid-1"), names)
    assert lines["winner"] == "res"
    prices = Prices()
    assert lines["by_node"]["od"]["node_s"] == pytest.approx(prices.unreserved_s + prices.empty_node_s)
    assert lines["by_node"]["res"]["node_s"] == pytest.approx(prices.empty_node_s)
    assert "node +0.250 s" in lines["why"]
    # A label that went away counts no more; a list says it of all nodes at once.
    listed = {"kind": "NodeList", "items": [{"metadata": {"name": name, "labels": {}}} for name in names]}
    assert started.client.post("/v1/node-events", json=listed).json() == {"nodes": 3}
    assert len({line["node_s"] for line in started.explain(pod_object("uid-1"), names)["nodes"]}) == 1


def test_a_used_node_before_an_empty_one() -> None:
    """Also where the MIG layout would be indifferent: whole GPUs."""
    gpus = tuple(GpuDigest(f"GPU-{number}", "H100-80") for number in range(4))
    cluster = cluster_of(replace(digest("empty"), gpus=gpus), replace(digest("used"), gpus=gpus))
    assert cluster.decide(Pod("p", gpus=1), ["empty", "used"], 1.0).winner == "empty"
    cluster.set_pod(Pod("old", node="used", gpus=1, ready=True), 0.5)
    assert cluster.decide(Pod("p", gpus=1), ["empty", "used"], 1.0).winner == "used"


def test_a_workload_that_is_spread_shares_no_node_and_one_that_is_packed_leaves_wide_slices() -> None:
    wide = tuple(Slice("1g.10gb", start, True) for start in range(7))  # an empty GPU: a slice of it costs the widest
    narrow = tuple(Slice("1g.10gb", start, True, f"taken-{start}" if start < 6 else "") for start in range(7))
    prices = Prices(fragmentation_s_per_slice=0.1, spread_s=3.0)
    cluster = cluster_of(digest("warm", {"a": 200_000_000}, slices=wide), digest("cold", slices=narrow), prices=prices)
    names = ["warm", "cold"]
    plain = replace(asks("p", "a"), scene_bytes={"a": 200_000_000})
    assert cluster.decide(plain, names, 1.0).winner == "warm"
    assert cluster.decide(replace(plain, packing="pack"), names, 1.0).winner == "cold"
    spread = replace(plain, packing="spread")
    assert cluster.decide(spread, names, 1.0).winner == "warm"
    cluster.set_pod(replace(plain, uid="first", node="warm"), 1.0)
    assert cluster.decide(plain, names, 1.0).winner == "warm"
    decision = cluster.decide(spread, names, 1.0)
    assert decision.winner == "cold"
    assert decision.costs[0].node_s == pytest.approx(prices.spread_s)
    assert cluster.decide(replace(spread, pool="other"), names, 1.0).winner == "warm"
    cluster.remove_pod("first", 2.0)
    assert cluster.decide(spread, names, 2.0).winner == "warm"
    assert cluster.table.pool_pods == {}


def test_warmth_outweighs_both() -> None:
    cluster = cluster_of(digest("warm", {"a": GB}), digest("used"))
    cluster.set_capacity_type("warm", "on-demand")
    cluster.set_pod(replace(asks("old"), node="used", ready=True), 0.5)
    assert cluster.decide(asks("p", "a"), ["warm", "used"], 1.0).winner == "warm"


def test_forecast_demand_stands_for_scenes_that_are_not_named() -> None:
    cluster = cluster_of(digest("robots", {"robot": 2 * GB}), digest("trains", {"train": 2 * GB}))
    names = ["robots", "trains"]
    before = cluster.decide(asks("p"), names, 1.0)
    assert before.costs.time_to_ready_s.tolist() == [0.0, 0.0]
    cluster.set_forecast("web", {SceneId("train"): 3.0, SceneId("robot"): 1.0})
    decision = cluster.decide(asks("p"), names, 1.0)
    assert decision.winner == "trains"
    # 2 s to read what lies there, 22 s to fetch and read what does not, by the shares 3/4 and 1/4.
    assert decision.costs.time_to_ready_s.tolist() == pytest.approx([0.75 * 22 + 0.25 * 2, 0.75 * 2 + 0.25 * 22])
    assert cluster.decide(asks("p", "robot"), names, 1.0).winner == "robots"  # what a pod names counts alone
    assert cluster.decide(asks("p", pool="other"), names, 1.0).costs.time_to_ready_s.tolist() == [0.0, 0.0]
    cluster.set_forecast("web", {})
    assert cluster.decide(asks("p"), names, 1.0).costs.time_to_ready_s.tolist() == [0.0, 0.0]


def test_forecast_over_http(rig: Start) -> None:
    started = rig(one=digest("one", {"scene-a": GB}), two=digest("two"))
    assert started.client.put("/v1/forecast", json={"pool-1": {"scene-a": 2.5}}).json() == {"pools": 1}
    assert started.explain(pod_object("uid-1"), ["two", "one"])["winner"] == "one"
    for bad in ({"pool-1": {"../x": 1}}, {"pool-1": {"a": -1}}, {"pool-1": 5}, [], {"pool-1": {"a": "x"}}):
        assert started.client.put("/v1/forecast", json=bad).status_code == 400
    assert started.client.post("/v1/node-events", content=b"{").status_code == 400
    assert started.client.post("/v1/node-events", json={"type": "ADDED"}).status_code == 400


def big_node(name: str, scenes: dict[str, int]) -> NodeDigest:
    """Eight H100 of seven slices."""
    slices = tuple(Slice("1g.10gb", start) for start in range(7))
    gpus = tuple(GpuDigest(f"GPU-{name}-{number}", "H100-80", slices=slices) for number in range(8))
    return replace(digest(name, scenes), gpus=gpus)


def test_a_burst_of_a_thousand_pods_for_one_scene() -> None:
    """No place is given twice, the warm node is not all that is used, and nothing is left over."""
    names = [f"gpu-{number}" for number in range(20)]
    cluster = cluster_of(*(big_node(name, {"a": 2 * GB} if name == "gpu-3" else {}) for name in names))
    prices, counts = cluster.prices, Counter[str]()
    for number in range(1000):
        now_s = number * 0.001
        asked = asks(f"burst-{number}", "a")
        left = [name for name, verdict in zip(names, cluster.fit(asked, names), strict=True) if verdict == FITS]
        decision = cluster.decide(asked, left, now_s)
        cluster.reserve(decision, now_s)
        counts[decision.winner] += 1
        bound = max(prices.hot_spot_pods, math.ceil(prices.hot_spot_share * (number + 1)))
        assert counts[decision.winner] <= bound
        if number % 3:  # most are seen bound at once, others late or never
            cluster.set_pod(replace(asked, node=decision.winner), now_s)
    assert max(counts.values()) <= 56
    assert counts["gpu-3"] == 56
    cluster.settle()
    assert len(cluster.reservations) == 334
    assert sum(int(cluster.table.profiles[ONE_G].free[cluster.table.rows[name]]) for name in names) == 1120 - 1000
    for number in range(0, 1000, 6):
        cluster.remove_pod(f"burst-{number}", 2.0)  # half of the rest was deleted, the other half is never heard of
    cluster.expire(40.0)
    assert len(cluster.reservations) == 0
    assert cluster.reservations.expired == 167
    assert sum(int(cluster.table.profiles[ONE_G].free[cluster.table.rows[name]]) for name in names) == 1120 - 666


def test_the_hot_spot_bound_gives_way_where_nobody_else_has_room() -> None:
    cluster = cluster_of(big_node("only", {"a": GB}))
    for number in range(56):
        decision = cluster.decide(asks(f"p-{number}", "a"), ["only"], 1.0)
        assert decision.winner == "only"
        cluster.reserve(decision, 1.0)
    assert cluster.decide(asks("p-56", "a"), ["only"], 1.0).winner == ""
