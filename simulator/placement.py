"""One run of the placement rig: pods arrive, a policy places each or none, and five figures come out."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fleet.mig import EIGHT_SLICES, fragmentation_table
from scheduler_extender.scene_table import Tier
from simulator.gpu_cluster import GpuCluster, Place
from simulator.placement_workload import MIXES, ROLE_SLICES, ROLES, Floats, Workload
from simulator.scene_caches import SceneCaches

NODE_LOST_FOR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Request:
    """What a pod asks for."""

    uid: int
    role: int
    scene: int  # -1: none


@dataclass(slots=True)
class Fleet:
    """What a policy may look at."""

    gpus: GpuCluster
    caches: SceneCaches
    demand_fragmentation: Floats  # [256]: fragmentation of a mask under the mix that is drawn from
    random: np.random.Generator
    now_s: float = 0.0


class Policy(Protocol):
    """Where a pod goes; `placed` tells it what came of it."""

    def choose(self, fleet: Fleet, request: Request) -> Place | None: ...

    def placed(self, request: Request, place: Place) -> None: ...


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run came to, past its warm-up; NaN where the workload has no scenes."""

    slice_acceptance: float  # memory slices of accepted pods over those asked for
    scene_hit_ratio: float  # accepted pods whose scene lay whole on their node's disk
    bytes_pulled_ratio: float  # over one download of each scene that was asked for
    ready_p95_s: float  # download queue, download and load of accepted pods
    stranded_slices: float  # free memory slices of no use to the demand, whole fleet, mean over arrivals


@dataclass(slots=True)
class _Count:
    asked_slices: int = 0
    taken_slices: int = 0
    accepted: int = 0
    hits: int = 0
    ready_s: list[float] = field(default_factory=list)
    stranded: float = 0.0
    arrivals: int = 0


def demand_fragmentation(mix: str) -> Floats:
    """[256]: F of a mask, size squared, under a mix (fleet.mig.fragmentation_table)."""
    return fragmentation_table(EIGHT_SLICES, dict(zip(ROLES, MIXES[mix], strict=True)))


class Run:
    """The event queue of one run: pods end, nodes are lost and come back, pods arrive."""

    def __init__(self, workload: Workload, policy: Policy, cache_bytes: float, seed: int) -> None:
        spec = workload.spec
        self._workload = workload
        self._policy = policy
        self._fleet = Fleet(
            GpuCluster(spec.nodes, spec.gpus_per_node),
            SceneCaches(spec.nodes, cache_bytes, workload.scene_bytes),
            demand_fragmentation(spec.mix),
            np.random.default_rng((seed, 0x7135)),
        )
        self._running: dict[int, tuple[Request, Place, float]] = {}  # uid -> what, where, until when
        self._ends: list[tuple[float, int, Place]] = []
        self._turns: list[tuple[float, bool, int]] = [(when_s, False, node) for when_s, node in workload.node_losses]
        self._next_uid = len(workload.arrive_s)
        self._count = _Count()

    def figures(self) -> Figures:
        """Play the workload to its last arrival."""
        work, fleet = self._workload, self._fleet
        pulled_before = 0.0
        first_measured = int(np.argmax(work.measured))
        for uid in range(len(work.arrive_s)):
            if uid == first_measured:
                pulled_before = fleet.caches.pulled_bytes
            self._advance(float(work.arrive_s[uid]))
            request = Request(uid, int(work.role[uid]), int(work.scene[uid]))
            measured = bool(work.measured[uid])
            if measured:
                self._count.arrivals += 1
                self._count.stranded += float(fleet.demand_fragmentation[fleet.gpus.masks[fleet.gpus.alive]].sum())
            self._start(request, fleet.now_s + float(work.life_s[uid]), measured)
        return self._summary(fleet.caches.pulled_bytes - pulled_before)

    def _advance(self, now_s: float) -> None:
        fleet = self._fleet
        while self._turns and self._turns[0][0] <= now_s:
            when_s, back, node = heapq.heappop(self._turns)
            self._end_pods(when_s)
            self._turn(when_s, back, node)
        self._end_pods(now_s)
        fleet.now_s = now_s
        fleet.caches.advance(now_s)

    def _end_pods(self, now_s: float) -> None:
        while self._ends and self._ends[0][0] <= now_s:
            _, uid, place = heapq.heappop(self._ends)
            running = self._running.pop(uid, None)
            if running is not None:
                self._fleet.gpus.free(running[0].role, place)

    def _turn(self, when_s: float, back: bool, node: int) -> None:
        """A node is lost, and its pods are made anew elsewhere; or it is back, empty."""
        fleet = self._fleet
        fleet.now_s = when_s
        fleet.caches.advance(when_s)
        if back:
            fleet.gpus.restore(node)
            return
        homeless = [uid for uid, (_, place, _) in self._running.items() if place.node == node]
        gone = [self._running.pop(uid) for uid in homeless]
        fleet.gpus.lose(node)
        fleet.caches.lose(node)
        heapq.heappush(self._turns, (when_s + NODE_LOST_FOR_S, True, node))
        for request, _, end_s in gone:
            self._start(Request(self._next_uid, request.role, request.scene), end_s, measured=True)
            self._next_uid += 1

    def _start(self, request: Request, end_s: float, measured: bool) -> None:
        fleet, count = self._fleet, self._count
        slices = ROLE_SLICES[request.role]
        if measured:
            count.asked_slices += slices
        place = self._policy.choose(fleet, request)
        if place is None:
            return
        fleet.gpus.take(request.role, place)
        self._running[request.uid] = (request, place, end_s)
        heapq.heappush(self._ends, (end_s, request.uid, place))
        hit, ready_s = False, 0.0
        if request.scene >= 0:
            hit = fleet.caches.tier_of(place.node, request.scene) is Tier.DISK
            ready_s = fleet.caches.use(place.node, request.scene, fleet.now_s)
        self._policy.placed(request, place)
        if measured:
            count.taken_slices += slices
            count.accepted += 1
            count.hits += hit
            count.ready_s.append(ready_s)

    def _summary(self, pulled_bytes: float) -> Figures:
        work, count = self._workload, self._count
        asked = np.unique(work.scene[work.measured])
        scenes = len(work.scene_bytes) > 0
        compulsory_bytes = float(work.scene_bytes[asked].sum()) if scenes else 1.0
        return Figures(
            slice_acceptance=count.taken_slices / count.asked_slices,
            scene_hit_ratio=count.hits / max(1, count.accepted) if scenes else float("nan"),
            bytes_pulled_ratio=pulled_bytes / compulsory_bytes if scenes else float("nan"),
            ready_p95_s=float(np.percentile(count.ready_s, 95)) if scenes and count.ready_s else float("nan"),
            stranded_slices=count.stranded / max(1, count.arrivals),
        )


def simulate(workload: Workload, policy: Policy, cache_bytes: float, seed: int) -> Figures:
    """Play `workload` under `policy`; `seed` is for the policy's own dice."""
    return Run(workload, policy, cache_bytes, seed).figures()
