"""The price of a node against the same formula written out for one node, and the order that scores keep."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.digest import CachedScene, FetchingScene, NodeDigest, PodDigest, ResidentScene, SceneCache, Slice
from fleet.mig import PARTS, MigProfile
from fleet.scene import SceneId
from fleet.snapshot import Pod
from scheduler_extender.cluster import Cluster
from scheduler_extender.decision import Bound
from scheduler_extender.demand import demand_of
from scheduler_extender.fit import FITS, REASONS
from scheduler_extender.node_table import NodeTable, ProfileColumns
from scheduler_extender.offers import PART_INDEX
from scheduler_extender.placement import _part_taken, trust_in
from scheduler_extender.prices import Prices
from scheduler_extender.scores import scores
from tests.scheduler_extender.conftest import GB, digest

ONE_G = MigProfile.parse("1g.10gb")
PRICES = Prices(fragmentation_s_per_slice=0.1, eviction_weight=4.0, crowding_weight=0.0)
SCENES = ("a", "b", "c", "d", "e")


def asks(*scenes: str, uid: str = "uid-1", profiles: tuple[MigProfile, ...] = (ONE_G,), gpus: int = 0) -> Pod:
    return Pod(uid, profiles=profiles, gpus=gpus, scenes=tuple(SceneId(scene) for scene in scenes))


def cluster_of(*digests: NodeDigest, now_s: float = 0.0, prices: Prices = PRICES) -> Cluster:
    cluster = Cluster([said.node for said in digests], prices)
    for said in digests:
        cluster.apply_digest(said.node, said, now_s)
    return cluster


@st.composite
def nodes(draw: st.DrawFn) -> NodeDigest:
    """A node where each scene is nowhere, on its way, on disk or in memory."""
    sizes = {"a": 1 * GB, "b": 2 * GB, "c": 3 * GB, "d": 4 * GB, "e": 5 * GB}
    where = {scene: draw(st.sampled_from(["remote", "fetching", "disk", "resident"])) for scene in SCENES}
    order = draw(st.permutations(SCENES))
    held = tuple(
        CachedScene(scene, "0" * 64, sizes[scene], 1.0 + order.index(scene))
        for scene in SCENES
        if where[scene] in ("disk", "resident")
    )
    coming = tuple(
        FetchingScene(scene, draw(st.integers(0, sizes[scene])), sizes[scene])
        for scene in SCENES
        if where[scene] == "fetching"
    )
    fetch_bytes_per_s = float(draw(st.sampled_from([GB // 10, GB])))
    read_bytes_per_s = float(draw(st.sampled_from([GB, 3 * GB])))
    free_bytes = draw(st.integers(0, 6 * GB))
    cache = SceneCache(20 * GB, free_bytes, fetch_bytes_per_s, read_bytes_per_s, held, coming)
    made = replace(digest("node"), scene_cache=cache)
    memory = tuple(ResidentScene(scene, 3 * GB) for scene in SCENES if where[scene] == "resident")
    return replace(made, pods=(PodDigest("someone", "pool-1", 10 * GB, memory),))


def price_by_hand(pod: Pod, node: NodeDigest, sizes: dict[str, int]) -> tuple[float, float]:
    """time_to_ready_s and eviction_s of docs/extender.md for one fresh node that is alone in its cluster."""
    cache = node.scene_cache
    on_disk = {scene.id: scene for scene in cache.scenes}
    resident = {scene.id for of_pod in node.pods for scene in of_pod.resident}
    remaining = {scene.id: scene.total_bytes - scene.done_bytes for scene in cache.fetching}
    load_s = missing = arriving_s = 0.0
    for scene in pod.scenes:
        if scene in resident:
            load_s += sizes[scene] / 6e9
            continue
        load_s += sizes[scene] / cache.read_bytes_per_s
        if scene in remaining:
            arriving_s = max(arriving_s, remaining[scene] / cache.fetch_bytes_per_s)
        elif scene not in on_disk:
            missing += sizes[scene]
    if missing == 0:
        return arriving_s + load_s, 0.0
    queued = sum(remaining.values())
    ready_s = max((queued + missing) / cache.fetch_bytes_per_s, arriving_s) + load_s
    short = queued + missing - cache.free_bytes
    eviction_s = 0.0
    for victim in sorted(cache.scenes, key=lambda item: item.last_used_s):
        if short > 0 and victim.id not in resident and victim.id not in pod.scenes:
            short -= victim.bytes
            share, of_nodes, copies = 1.0, 1, 1  # nobody has started yet: all scenes are one in one
            eviction_s += 4.0 * victim.bytes / cache.fetch_bytes_per_s * share * of_nodes / copies
    return ready_s, eviction_s


@settings(max_examples=300, deadline=None)
@given(nodes(), st.sets(st.sampled_from(SCENES)))
def test_the_price_is_the_formula(node: NodeDigest, wanted: set[str]) -> None:
    cluster = cluster_of(node)
    known = {scene: cluster.table.scenes.bytes_of(scene) for scene in wanted}
    pod = replace(asks(*sorted(wanted)), scene_bytes=dict.fromkeys(wanted, 2 * GB))
    sizes = {scene: size or 2 * GB for scene, size in known.items()}
    cost = cluster.decide(pod, [node.node], 1.0).costs[0]
    ready_s, eviction_s = price_by_hand(pod, node, sizes)
    assert cost.time_to_ready_s == pytest.approx(ready_s)
    assert cost.eviction_s == pytest.approx(eviction_s)


def test_fragmentation_prefers_the_gpu_that_is_broken_already() -> None:
    taken = (Slice("1g.10gb", 0, True, "someone"), *(Slice("1g.10gb", start) for start in range(1, 7)))
    cluster = cluster_of(digest("empty"), digest("used", slices=taken))
    decision = cluster.decide(asks(), ["empty", "used"], 1.0)
    empty, used = decision.costs[0], decision.costs[1]
    assert decision.winner == "used"
    # No demand yet, so 1g, 2g, 3g, 4g and 7g count alike: weights 1, 4, 16, 16, 64 of 101. Of the seven slices that a
    # 1g at 0 leaves free, 2g loses slice 1, 3g and 4g lose 1 to 3 (4g had no use for 4 to 7 before), 7g all.
    weights = {"2g": 4, "3g": 16, "4g": 16, "7g": 64}
    lost_at_0 = {"2g": 1, "3g": 3, "4g": 3, "7g": 7}
    # And of GPUs that lose alike the fullest is taken: this one has eight slices free.
    expected = (sum(weights[role] * lost_at_0[role] for role in weights) / 101 + 0.02 * 8) * 0.1
    assert empty.fragmentation_s == pytest.approx(expected, abs=1e-9)
    assert used.fragmentation_s < empty.fragmentation_s


def test_eviction_of_what_others_want_costs_more() -> None:
    """Two full nodes: one would throw out a scene that starts every pod, the other one that nobody asks for."""
    full = {"capacity_bytes": 2 * GB, "free_bytes": 0}
    cluster = cluster_of(digest("hot", {"a": 2 * GB}, **full), digest("idle", {"b": 2 * GB}, **full))
    for number in range(10):
        cluster.set_pod(replace(asks("a", uid=f"old-{number}"), node="elsewhere", ready=True), 0.5)
    costs = cluster.decide(replace(asks("c"), scene_bytes={"c": GB}), ["hot", "idle"], 1.0).costs
    assert costs[0].eviction_s > 3 * costs[1].eviction_s > 0
    # 10 starts and one more of everything seen (a) and of everything else: shares 11/12 and 1/12; 2 nodes, 1 copy.
    assert costs[0].eviction_s == pytest.approx(4 * 20 * 11 / 12 * 2)
    assert costs[1].eviction_s == pytest.approx(4 * 20 * 1 / 12 * 2)


def test_eviction_of_the_last_copy_costs_more() -> None:
    full = {"capacity_bytes": 2 * GB, "free_bytes": 0}
    cluster = cluster_of(
        digest("last", {"a": 2 * GB}, **full),
        digest("one-of-two", {"b": 2 * GB}, **full),
        digest("other", {"b": 2 * GB}),
    )
    costs = cluster.decide(replace(asks("c"), scene_bytes={"c": GB}), ["last", "one-of-two"], 1.0).costs
    assert costs[0].eviction_s == pytest.approx(2 * costs[1].eviction_s)


def test_what_is_unknown_is_a_price_not_an_error() -> None:
    said = digest("blank", fetch_bytes_per_s=0.0, read_bytes_per_s=0.0, capacity_bytes=0, free_bytes=0)
    decision = cluster_of(said).decide(asks("never-heard-of"), ["blank", "stranger"], 1.0)
    prices = Prices()
    expected_s = prices.scene_bytes / prices.fetch_bytes_per_s + prices.scene_bytes / prices.read_bytes_per_s
    assert decision.costs[0].time_to_ready_s == pytest.approx(expected_s)
    assert decision.costs[1].time_to_ready_s == pytest.approx(expected_s)
    assert decision.verdict.tolist() == [FITS, FITS]


def test_a_node_without_bandwidth_takes_the_median_of_the_fleet() -> None:
    cluster = cluster_of(digest("a"), digest("b", fetch_bytes_per_s=0.0), digest("c", fetch_bytes_per_s=0.3 * GB))
    pod = replace(asks("x"), scene_bytes={"x": GB})
    costs = cluster.decide(pod, ["b"], 1.0).costs
    assert costs[0].time_to_ready_s == pytest.approx(1 / 0.2 + 1)


def test_what_another_node_has_comes_from_there() -> None:
    """Peers are asked before the object store: at the speed of the node, else at that of the others."""
    told = [digest("holder", {"x": GB}), digest("near"), digest("far")]
    alone = cluster_of(*told).decide(asks("x"), ["near"], 1.0)
    assert alone.costs[0].tier == "remote"  # no node ever fetched from another
    near, far = (replace(said.scene_cache, peer_bytes_per_s=rate) for said, rate in ((told[1], 0.5 * GB), (told[2], 0)))
    cluster = cluster_of(told[0], replace(told[1], scene_cache=near), replace(told[2], scene_cache=far))
    costs = cluster.decide(asks("x"), ["holder", "near", "far"], 1.0).costs
    assert [costs[index].tier for index in range(3)] == ["disk", "peer", "peer"]
    assert costs.time_to_ready_s == pytest.approx([1.0, 2.0 + 1.0, 2.0 + 1.0])
    nobody_has = cluster.decide(replace(asks("y"), scene_bytes={"y": GB}), ["near"], 1.0).costs
    assert (nobody_has[0].tier, nobody_has[0].time_to_ready_s) == ("remote", pytest.approx(10.0 + 1.0))
    assert cluster.set_pod(replace(asks("x"), node="near"), 1.0) == Bound(replace(asks("x"), node="near"), "peer")


def test_reasons_are_told_apart() -> None:
    some = (Slice("1g.10gb", 0), Slice("1g.10gb", 1, True, "someone"), Slice("1g.10gb", 2, False))
    cluster = cluster_of(
        digest("node", slices=some), digest("other", slices=(Slice("3g.40gb", 0), Slice("2g.20gb", 4)))
    )

    def reason(pod: Pod, name: str = "node") -> str | None:
        verdict = int(cluster.fit(pod, [name])[0])
        return None if verdict == FITS else REASONS[verdict].label

    assert reason(asks()) is None
    assert reason(asks(profiles=(ONE_G, ONE_G))) == "no_free_slice"
    assert reason(asks(profiles=(ONE_G,) * 3)) == "slices_unhealthy"
    assert reason(asks(profiles=(ONE_G,) * 4)) == "too_few_slices"
    assert reason(asks(), "other") == "no_such_profile"
    assert reason(asks(profiles=(), gpus=1), "other") == "too_few_gpus"
    assert reason(asks(profiles=(), gpus=1), "never heard of") is None


@given(st.lists(st.one_of(st.floats(0, 1e6), st.just(math.inf), st.sampled_from([1.0, 2.0, 2.5])), max_size=40))
def test_scores_keep_the_order(costs: list[float]) -> None:
    total_s = np.round(np.array(costs, dtype=float), 6)
    given_scores = scores(total_s)
    assert all(0 <= score <= 10 for score in given_scores.tolist())
    finite = sorted({cost for cost in total_s.tolist() if math.isfinite(cost)})
    for cost, score in zip(total_s.tolist(), given_scores.tolist(), strict=True):
        if not math.isfinite(cost):
            assert score == 0
            continue
        assert (score == 10) == (cost == finite[0])
        for other, other_score in zip(total_s.tolist(), given_scores.tolist(), strict=True):
            if cost == other:
                assert score == other_score
            elif cost < other:
                assert score >= other_score
                if len(finite) <= 11 and math.isfinite(other):
                    assert score > other_score


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([], []),
        ([3.0], [10]),
        ([1.0, 1.0, 1.0], [10, 10, 10]),
        ([0.0, 0.2, 0.4, 0.9, 1.9], [10, 9, 8, 7, 6]),
        ([0.0, 4.0, 1000.0], [10, 5, 1]),
        ([math.inf, math.inf], [0, 0]),
        ([2.0, math.inf], [10, 0]),
        ([float(number) for number in range(11)], list(range(10, -1, -1))),
    ],
)
def test_scores_by_hand(costs: list[float], expected: list[int]) -> None:
    assert scores(np.array(costs, dtype=float)).tolist() == expected


def test_trust_fades() -> None:
    ages_s = np.array([math.nan, 0.0, 15.0, 45.0, 75.0, 180.0, 1e9])
    assert trust_in(ages_s, Prices()).tolist() == [0.0, 1.0, 1.0, 0.5, 0.25, 0.0, 0.0]


def test_a_stale_full_node_is_neutral_in_eviction() -> None:
    """Its own terms fade into the mean of the nodes that are known: neither an advantage nor a punishment."""
    full = {"capacity_bytes": 2 * GB, "free_bytes": 0}
    cluster = cluster_of(digest("fresh", {"a": 2 * GB}, **full), digest("stale", {"b": 2 * GB}, **full), now_s=1000.0)
    cluster.confirm_digest("stale", 0.0)
    costs = cluster.decide(replace(asks("c"), scene_bytes={"c": GB}), ["fresh", "stale"], 1001.0).costs
    assert costs[1].trust == 0.0
    assert costs[1].eviction_s == pytest.approx(costs[0].eviction_s)
    assert costs[1].fragmentation_s == pytest.approx(costs[0].fragmentation_s)


def test_crowding_by_hand() -> None:
    """What lies there, at 0.1 GB/s and asked for as often as any, over the places left, by the profile's share."""
    taken = tuple(Slice("1g.10gb", start, True, f"pod-{start}" if start < 5 else "") for start in range(7))
    told = [
        digest("roomy", {"own": 1 * GB, "other": 2 * GB}),
        digest("tight", {"own": 1 * GB, "other": 2 * GB}, slices=taken),
        digest("plain", {"own": 1 * GB}, slices=taken),
    ]
    prices = replace(PRICES, fragmentation_s_per_slice=0.0, crowding_weight=0.5)
    cluster = cluster_of(*told, prices=prices)
    decision = cluster.decide(asks("own"), ["roomy", "tight", "plain"], 1.0)
    of_profile, nodes = 1 / 5, 3  # nobody has started yet: each plain role once, every scene the whole of nothing
    other_s = 2 / 0.1 * (nodes / 2 - 1)  # what lies on all three nodes has places everywhere
    weight = 0.5 * of_profile
    expected_s = [weight * other_s / 7, weight * other_s / 2, 0.0]
    assert decision.costs.crowding_s == pytest.approx(expected_s)
    assert decision.winner == "plain"
    cluster.apply_digest("roomy", replace(told[0], generation=2, scene_cache=told[2].scene_cache), 2.0)
    again = cluster.decide(asks("own"), ["roomy", "tight", "plain"], 2.0)
    other_s = 2 / 0.1 * (nodes - 1)
    assert again.costs.crowding_s == pytest.approx([0.0, weight * other_s / 2, 0.0])
    assert again.winner == "plain"


def test_a_slice_that_is_cut_takes_places_of_all_profiles() -> None:
    """A GPU cut on demand: one place of seven 1g, of three 2g one, one of two 3g, the only 4g and the only 7g."""
    table = NodeTable()
    row = table.row("node")
    table.partitioned[row] = True
    part = PARTS["H100-80"]
    for role in part.layout.roles:
        profile = part.profile_of(role)
        assert profile is not None
        columns = table.profiles[profile] = ProfileColumns.empty(len(table.seen_s))
        columns.free[row] = role.at_most
        columns.part[row], columns.before[row], columns.after[row] = PART_INDEX["H100-80"], 0, 0b1
    demand = demand_of({"H100-80": {"2g": 5, "7g": 3, "4g": 1}}, {})
    requests = 5 + 5 + 3 + 1  # one of each plain role is added
    expected = (1 / 7 + 6 / 3 + 1 / 2 + 2 / 1 + 4 / 1) / requests
    rows = np.array([row])
    assert _part_taken(asks(), rows, table, demand) == pytest.approx([expected])
    table.partitioned[row] = False  # the same slice, where it was cut before
    assert _part_taken(asks(), rows, table, demand) == pytest.approx([1 / 7 / requests])


@given(st.lists(st.tuples(st.integers(0, 3), nodes()), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_warmth_kept_in_step_is_warmth_made_anew(changes: list[tuple[int, NodeDigest]]) -> None:
    names = [f"node-{number}" for number in range(4)]
    cluster = Cluster(names, PRICES)
    demand = cluster.demand
    for number, made in changes:
        cluster.apply_digest(names[number], replace(made, node=names[number]), 1.0)
        kept = cluster.table.scenes.warmth_bytes(demand.scene_share, demand.other_share, 4).copy()
        cluster.table.scenes.forget_worth()
        anew = cluster.table.scenes.warmth_bytes(demand.scene_share, demand.other_share, 4)
        assert kept == pytest.approx(anew, abs=1.0)
