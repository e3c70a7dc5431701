"""The placement rig: what must hold of any run, and orders between policies that are known from papers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fleet.mig import EIGHT_SLICES
from scheduler_extender.prices import Prices
from scheduler_extender.scene_table import Tier
from simulator.extender_policy import ExtenderPolicy
from simulator.gpu_cluster import HAMI_START, LOWEST_START, ROOM, GpuCluster, Place, best_starts
from simulator.placement import Figures, Fleet, Policy, Request, Run, demand_fragmentation, simulate
from simulator.placement_oracles import BELADY, POOLED, farthest_next_use, pooled
from simulator.placement_report import COST_ROW, OURS, Interval, make_policy, policy_names, run_one
from simulator.placement_workload import MIXES, ROLE_SLICES, ROLES, WorkloadError, WorkloadSpec, draw, scene_shares
from simulator.scene_caches import FETCH_BYTES_PER_S, READ_BYTES_PER_S, SceneCaches

PACKING = WorkloadSpec(mix="uniform", load=0.85, nodes=10, arrivals=3000, warm_up=600, scenes=0)
SCENES = WorkloadSpec(mix="small", load=0.85, nodes=6, arrivals=2500, warm_up=700, scenes=30)


def played(name: str, spec: WorkloadSpec, seed: int = 0, cache_bytes: float = 15e9) -> Figures:
    return simulate(draw(spec, seed), make_policy(name, spec.mix, Prices()), cache_bytes, seed)


def mean_acceptance(name: str, spec: WorkloadSpec) -> float:
    return float(np.mean([played(name, spec, seed).slice_acceptance for seed in range(3)]))


class Watched:
    """A policy that checks the fleet's books at every choice."""

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.choices = 0

    def choose(self, fleet: Fleet, request: Request) -> Place | None:
        self.choices += 1
        caches = fleet.caches
        for node in range(len(fleet.gpus.masks) if len(caches.scene_bytes) else 0):
            held = caches.tier[:, node + 1] != Tier.REMOTE
            used_bytes = float(caches.scene_bytes[held].sum())
            assert math.isclose(used_bytes, caches.capacity_bytes - caches.free_bytes[node + 1], abs_tol=1.0)
            assert used_bytes <= caches.capacity_bytes
        if len(caches.scene_bytes):
            assert caches.copies.tolist() == (caches.tier[:, 1:] == Tier.DISK).sum(axis=1).tolist()
        place = self.inner.choose(fleet, request)
        if place is not None:
            role = EIGHT_SLICES.role(ROLES[request.role])
            assert place.start in role.starts
            assert not fleet.gpus.masks[place.node, place.gpu] & role.mask(place.start)
        return place

    def placed(self, request: Request, place: Place) -> None:
        self.inner.placed(request, place)


@pytest.mark.parametrize("name", [name for name in policy_names() if name not in (BELADY, POOLED)])
def test_every_policy_keeps_the_books(name: str) -> None:
    spec = WorkloadSpec(
        mix="small",
        load=1.0,
        nodes=4,
        arrivals=400,
        warm_up=100,
        scenes=30,
        burst_pods=40,
        lost_nodes=1,
        drift_per_h=0.5,
    )
    watched = Watched(make_policy(name, spec.mix, Prices()))
    figures = simulate(draw(spec, 1), watched, 12e9, seed=1)
    assert watched.choices >= 440  # the pods of the lost node are asked about twice
    assert 0.3 < figures.slice_acceptance <= 1.0
    assert 0.0 <= figures.scene_hit_ratio <= 1.0


def test_same_seed_same_figures_and_another_seed_others() -> None:
    assert played(OURS, SCENES) == played(OURS, SCENES)
    assert played("random", SCENES) == played("random", SCENES)
    assert played(OURS, SCENES) != played(OURS, SCENES, seed=1)


def test_all_slices_are_free_once_every_pod_is_gone() -> None:
    workload = draw(SCENES, 0)
    run = Run(workload, make_policy(OURS, "small", Prices()), 15e9, 0)
    run.figures()
    run._end_pods(math.inf)
    assert run._fleet.gpus.masks.sum() == 0
    assert not run._running


def test_spread_is_worst_and_size_squared_beats_the_order_of_names() -> None:
    accepted = {name: mean_acceptance(name, PACKING) for name in ("spread", "random", "dra-lexical", "fgd-size2")}
    assert accepted["spread"] < accepted["random"] - 0.05
    assert accepted["random"] < accepted["dra-lexical"] - 0.03
    assert accepted["dra-lexical"] < accepted["fgd-size2"] - 0.005


def test_without_scenes_ours_packs_as_the_best_packer_though_it_learns_the_mix() -> None:
    assert mean_acceptance(OURS, PACKING) > mean_acceptance("fgd-size2", PACKING) - 0.004


def test_nobody_beats_the_pool() -> None:
    for name in ("fgd-size2", OURS):
        assert played(name, PACKING).slice_acceptance <= pooled(draw(PACKING, 0)).slice_acceptance + 0.003


def test_locality_of_ours_is_far_above_packers_and_packing_far_above_affinity() -> None:
    ours, packer, affinity = (played(name, SCENES) for name in (OURS, "fgd-size2", "node-affinity"))
    assert ours.scene_hit_ratio > packer.scene_hit_ratio + 0.1
    assert ours.bytes_pulled_ratio < packer.bytes_pulled_ratio / 2
    assert ours.slice_acceptance > affinity.slice_acceptance + 0.01


@pytest.mark.timeout(600)  # plays 48 clusters
def test_ours_is_no_worse_than_time_and_eviction_alone_on_any_axis() -> None:
    """The claim of docs/benchmarks/placement.md on a rig of a tenth, where one seed's hits scatter by a point.

    The last bits of a price are the processor's, and who wins by them changes all that follows: three seeds were a
    coin's throw.
    """
    spec = WorkloadSpec(mix="uniform", nodes=12, arrivals=2500, warm_up=800, scenes=60)
    ours, row = ([played(name, spec, seed) for seed in range(24)] for name in (OURS, COST_ROW))

    def mean(figures: list[Figures], name: str) -> float:
        return float(np.mean([getattr(one, name) for one in figures]))

    assert mean(ours, "scene_hit_ratio") > mean(row, "scene_hit_ratio")
    assert mean(ours, "slice_acceptance") > mean(row, "slice_acceptance") - 0.01
    assert mean(ours, "bytes_pulled_ratio") < mean(row, "bytes_pulled_ratio")


def test_time_only_and_the_cost_row_agree_where_nothing_is_ever_evicted() -> None:
    row, time_only = (played(name, SCENES, cache_bytes=1e15) for name in (COST_ROW, "time-only"))
    assert abs(row.scene_hit_ratio - time_only.scene_hit_ratio) < 0.02
    assert row.bytes_pulled_ratio < 2 * time_only.bytes_pulled_ratio


def test_a_lost_node_takes_its_scenes_with_it() -> None:
    """The same pods with and without the loss: what lay there is fetched again."""
    calm, storm = (
        simulate(
            draw(WorkloadSpec(nodes=6, arrivals=1500, warm_up=500, scenes=30, lost_nodes=lost), 3),
            make_policy(OURS, "small", Prices()),
            40e9,
            3,
        )
        for lost in (0, 3)
    )
    assert storm.bytes_pulled_ratio > calm.bytes_pulled_ratio
    assert storm.slice_acceptance < calm.slice_acceptance


def test_caches_evict_the_least_recently_used_and_queue_their_downloads() -> None:
    caches = SceneCaches(1, 10e9, np.array([4e9, 4e9, 4e9, 12e9]))
    assert caches.use(0, 0, 0.0) == pytest.approx(4e9 / FETCH_BYTES_PER_S + 4e9 / READ_BYTES_PER_S)
    assert caches.use(0, 1, 0.0) == pytest.approx(8e9 / FETCH_BYTES_PER_S + 4e9 / READ_BYTES_PER_S)
    assert caches.tier_of(0, 1) is Tier.FETCHING
    assert caches.use(0, 1, 3.0) == pytest.approx(5.0 + 4e9 / READ_BYTES_PER_S)  # joins the download
    caches.advance(20.0)
    caches.use(0, 0, 20.0)
    caches.use(0, 2, 21.0)
    assert [caches.tier_of(0, scene) for scene in range(3)] == [Tier.DISK, Tier.REMOTE, Tier.FETCHING]
    caches.use(0, 3, 22.0)  # larger than the cache: fetched, never kept, nobody thrown out for it
    assert caches.tier_of(0, 3) is Tier.REMOTE
    assert caches.tier_of(0, 0) is Tier.DISK
    assert caches.pulled_bytes == 24e9


def test_tables_of_starts() -> None:
    one, three, seven = ROLES.index("1g"), ROLES.index("3g"), ROLES.index("7g")
    assert (LOWEST_START[one, 0], HAMI_START[one, 0], HAMI_START[three, 0]) == (0, 6, 4)
    assert ROOM[:, 0].tolist() == [7, 4, 3, 2, 1, 1]
    assert LOWEST_START[seven, 1] == -1
    best = best_starts(demand_fragmentation("uniform"))
    # A lone 1g at 0 to 3 takes the place of the 4g; at 6 it takes only what the 3g beside it takes too.
    assert best.start[one, 0] >= 4
    gpus = GpuCluster(1, 1)
    gpus.take(one, Place(0, 0, 6))
    with pytest.raises(AssertionError, match="overlaps"):
        gpus.take(seven, Place(0, 0, 0))


def test_workload_asks_for_what_it_says() -> None:
    spec = WorkloadSpec(mix="large", load=0.9, arrivals=20_000, scenes=87)
    work = draw(spec, 5)
    slices = np.array(ROLE_SLICES)[work.role]
    offered = float((slices * work.life_s).sum() / work.arrive_s[-1]) / (25 * 4 * 8)
    assert offered == pytest.approx(0.9, rel=0.04)
    shares = np.sort(scene_shares(87))[::-1]
    assert shares[0] == pytest.approx(0.307, abs=0.005)
    assert shares[:5].sum() == pytest.approx(0.704, abs=0.01)
    assert shares[:20].sum() == pytest.approx(0.939, abs=0.015)
    assert np.bincount(work.role, minlength=6) / len(work.role) == pytest.approx(MIXES["large"], abs=0.015)


def test_bad_specifications_name_the_field() -> None:
    with pytest.raises(WorkloadError, match="mix is 'tiny', expected one of small"):
        WorkloadSpec(mix="tiny")
    with pytest.raises(WorkloadError, match="warm_up is 9"):
        WorkloadSpec(arrivals=9, warm_up=9)


def test_intervals_are_students() -> None:
    interval = Interval.of([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.high - interval.mean == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert math.isnan(Interval.of([1.0]).low)


def test_prices_of_the_policy_are_the_extenders() -> None:
    """With a huge price of fragmentation the extender's own cost packs; with none it does not look."""
    spec = WorkloadSpec(mix="uniform", nodes=8, arrivals=2000, warm_up=500, scenes=30)
    accepted = [
        simulate(draw(spec, 2), ExtenderPolicy(Prices(fragmentation_s_per_slice=price)), 15e9, 2).slice_acceptance
        for price in (0.0, 50.0)
    ]
    assert accepted[1] > accepted[0] + 0.005


def test_a_cache_that_knows_keeps_what_is_wanted_first() -> None:
    sizes = np.ones(3)
    # Room for two: 2 is wanted last of all, so it is not kept; least recently used would miss all six.
    assert farthest_next_use([0, 1, 2, 1, 0, 2], sizes, 2.0) == [True, True, True, False, False, True]
    # A scene that nobody wants again is not kept in the place of one that is.
    assert farthest_next_use([0, 1, 2, 0, 1], sizes, 2.0) == [True, True, True, False, False]
    assert farthest_next_use([0, 0], np.array([5.0]), 2.0) == [True, True]  # never fits


def test_caches_that_know_pull_no_more_than_ours() -> None:
    spec = WorkloadSpec(nodes=6, arrivals=1500, warm_up=300)
    ours, known = (run_one(name, spec, 15e9, Prices(), 5) for name in (OURS, BELADY))
    assert known.slice_acceptance == ours.slice_acceptance
    assert known.bytes_pulled_ratio < ours.bytes_pulled_ratio
    assert known.scene_hit_ratio > ours.scene_hit_ratio
