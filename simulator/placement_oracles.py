"""Bounds that no scheduler reaches: geometry ignored, caches shared. Their names in reports begin with `oracle-`."""

from __future__ import annotations

import heapq

import numpy as np

from simulator.placement import Figures
from simulator.placement_workload import ROLE_SLICES, Workload
from simulator.scene_caches import READ_BYTES_PER_S

POOLED = "oracle-pooled"


def pooled(workload: Workload) -> Figures:
    """All memory slices in one pool, all caches in one that never evicts: each scene is fetched once.

    Accepts a pod wherever so many slices are free anywhere. An upper bound of acceptance for policies that accept
    whatever fits, not for one that turns small pods away to keep room for large ones.
    """
    spec = workload.spec
    free = spec.nodes * spec.gpus_per_node * 8
    ends: list[tuple[float, int]] = []
    asked = taken = 0
    for arrive_s, life_s, role, measured in zip(
        workload.arrive_s, workload.life_s, workload.role, workload.measured, strict=True
    ):
        while ends and ends[0][0] <= arrive_s:
            free += heapq.heappop(ends)[1]
        slices = ROLE_SLICES[int(role)]
        asked += slices * bool(measured)
        if free >= slices:
            free -= slices
            heapq.heappush(ends, (float(arrive_s + life_s), slices))
            taken += slices * bool(measured)
    if not len(workload.scene_bytes):
        nothing = float("nan")
        return Figures(taken / asked, nothing, nothing, nothing, 0.0)
    load_s = workload.scene_bytes[workload.scene[workload.measured]] / READ_BYTES_PER_S
    seen_before = np.isin(workload.scene[workload.measured], workload.scene[~workload.measured])
    fresh = np.unique(workload.scene[workload.measured][~seen_before])
    return Figures(
        slice_acceptance=taken / asked,
        scene_hit_ratio=1 - len(fresh) / int(workload.measured.sum()),
        bytes_pulled_ratio=1.0,
        ready_p95_s=float(np.percentile(load_s, 95)),
        stranded_slices=0.0,
    )
