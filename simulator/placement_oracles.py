"""Bounds that no scheduler reaches: geometry ignored, caches shared. Their names in reports begin with `oracle-`."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from simulator.gpu_cluster import Place
from simulator.placement import Figures, Fleet, Policy, Request
from simulator.placement_workload import ROLE_SLICES, Floats, Workload
from simulator.scene_caches import READ_BYTES_PER_S

POOLED = "oracle-pooled"
BELADY = "oracle-belady"


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


@dataclass(slots=True)
class Recorded:
    """A policy that remembers where it put each scene: (pod, node, scene) in the order of the starts."""

    policy: Policy
    starts: list[tuple[int, int, int]] = field(default_factory=list)

    def choose(self, fleet: Fleet, request: Request) -> Place | None:
        return self.policy.choose(fleet, request)

    def placed(self, request: Request, place: Place) -> None:
        self.policy.placed(request, place)
        if request.scene >= 0:
            self.starts.append((request.uid, place.node, request.scene))


def with_caches_that_know(workload: Workload, figures: Figures, recorded: Recorded, cache_bytes: float) -> Figures:
    """The same placements over caches that evict what is wanted again last (Belady): what foresight there is worth.

    Scenes differ in size, so it is no strict bound, and the placements stay those that were made for caches without it.
    """
    if not recorded.starts:
        return figures
    by_node: dict[int, list[tuple[bool, int]]] = {}
    for uid, node, scene in recorded.starts:
        counted = uid >= len(workload.measured) or bool(workload.measured[uid])
        by_node.setdefault(node, []).append((counted, scene))
    pulled_bytes, misses, starts = 0.0, 0, 0
    for sequence in by_node.values():
        missed = farthest_next_use([scene for _, scene in sequence], workload.scene_bytes, cache_bytes)
        for (counted, scene), miss in zip(sequence, missed, strict=True):
            starts += counted
            misses += counted and miss
            pulled_bytes += float(workload.scene_bytes[scene]) * (counted and miss)
    compulsory_bytes = float(workload.scene_bytes[np.unique(workload.scene[workload.measured])].sum())
    return replace(
        figures,
        scene_hit_ratio=1 - misses / max(1, starts),
        bytes_pulled_ratio=pulled_bytes / compulsory_bytes,
        ready_p95_s=float("nan"),
    )


def farthest_next_use(scenes: Sequence[int], scene_bytes: Floats, capacity_bytes: float) -> list[bool]:
    """Which starts of one node miss where the cache throws out what is wanted again last, the new scene included."""
    never = len(scenes)
    next_use = [never] * len(scenes)
    seen: dict[int, int] = {}
    for place in range(len(scenes) - 1, -1, -1):
        next_use[place] = seen.get(scenes[place], never)
        seen[scenes[place]] = place
    held: dict[int, int] = {}  # scene -> when it is wanted again
    free_bytes = capacity_bytes
    missed: list[bool] = []
    for place, scene in enumerate(scenes):
        missed.append(scene not in held)
        if scene not in held:
            free_bytes -= float(scene_bytes[scene])
        held[scene] = next_use[place]
        while free_bytes < 0:
            last = max(held, key=held.__getitem__)
            free_bytes += float(scene_bytes[last])
            del held[last]
    return missed
