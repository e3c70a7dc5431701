"""Exact search on small instances: the most slices that who knows the future could accept without moving a pod."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from fleet.mig import EIGHT_SLICES, legal_starts
from scheduler_extender.prices import Prices
from simulator.gpu_cluster import slice_bits
from simulator.placement import simulate
from simulator.placement_oracles import pooled
from simulator.placement_report import make_policy
from simulator.placement_workload import ROLE_SLICES, ROLES, Workload, WorkloadSpec, draw

SMALL = WorkloadSpec(mix="uniform", load=1.2, nodes=1, gpus_per_node=2, arrivals=11, warm_up=0, scenes=0)


def most_slices(work: Workload) -> int:
    """The best over every way to accept or refuse each pod and to place it, by arrival order."""
    count = len(work.arrive_s)
    ends_s = work.arrive_s + work.life_s
    Placed = tuple[tuple[int, int, int], ...]  # (pod, GPU, bits)

    @lru_cache(None)
    def best(index: int, running: Placed) -> int:
        if index == count:
            return 0
        running = tuple(one for one in running if ends_s[one[0]] > work.arrive_s[index])
        role = int(work.role[index])
        most = best(index + 1, running)
        for gpu in range(work.spec.gpus_per_node):
            mask = sum(bits for _, of_gpu, bits in running if of_gpu == gpu)
            for start in legal_starts(mask, EIGHT_SLICES.role(ROLES[role])):
                after = tuple(sorted((*running, (index, gpu, slice_bits(role, start)))))
                most = max(most, ROLE_SLICES[role] + best(index + 1, after))
        return most

    return best(0, ())


@pytest.mark.parametrize("seed", range(3))
def test_nobody_accepts_more_than_the_exact_optimum(seed: int) -> None:
    work = draw(SMALL, seed)
    asked = int(np.array(ROLE_SLICES)[work.role].sum())
    optimum = most_slices(work) / asked
    assert optimum <= 1.0
    for name in ("splatfleet", "fgd-size2", "best-fit", "dra-lexical", "random", "spread"):
        accepted = simulate(work, make_policy(name, "uniform", Prices()), 1e9, seed).slice_acceptance
        assert accepted <= optimum + 1e-12, name


def test_the_optimum_refuses_a_small_pod_for_a_large_one() -> None:
    """A 1g in the way of a 7g: who accepts all that fits loses 8 slices, so the pooled figure is no bound of it."""
    spec = WorkloadSpec(mix="uniform", nodes=1, gpus_per_node=1, arrivals=2, warm_up=0, scenes=0)
    none, asks = np.full(2, -1), np.array([ROLES.index("1g"), ROLES.index("7g")])
    work = Workload(spec, np.array([0.0, 1.0]), np.full(2, 9.0), asks, none, np.zeros(0), np.ones(2, np.bool_), ())
    assert most_slices(work) == 8
    assert pooled(work).slice_acceptance == pytest.approx(1 / 9)
    assert simulate(work, make_policy("splatfleet", "uniform", Prices()), 1e9, 0).slice_acceptance == pytest.approx(
        1 / 9
    )
