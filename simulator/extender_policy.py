"""The extender as a policy of the rig: its own `fits` and `cost_s` over its own node table, its own demand.

The table's arrays are filled from the simulated fleet as fresh digests would fill them. Inside the node that wins, the
slice goes where the demand's fragmentation rises least; where a driver insists on its own order, it goes there.
"""

from __future__ import annotations

from collections import Counter, deque

import numpy as np

from fleet.mig import PARTS
from fleet.scene import SceneId
from fleet.snapshot import Pod
from scheduler_extender.demand import Demand, demand_of
from scheduler_extender.fit import FITS, fits
from scheduler_extender.node_table import UNKNOWN_ROW, NodeTable, ProfileColumns
from scheduler_extender.offers import PART_INDEX
from scheduler_extender.placement import Basis, Costs, cost_s
from scheduler_extender.prices import Prices
from scheduler_extender.recent_requests import PODS_REMEMBERED
from scheduler_extender.scene_table import MOST_VICTIMS, SceneColumn
from simulator.gpu_cluster import LOWEST_START, NONE, POPCOUNT, ROOM, BestStarts, Place, best_starts, slice_bits
from simulator.placement import Fleet, Request
from simulator.placement_workload import ROLES, Floats
from simulator.scene_caches import FETCH_BYTES_PER_S, READ_BYTES_PER_S

PART = PARTS["H100-80"]
DEMAND_EVERY = 25  # pods between two counts of the demand: the extender counts at each, which changes little


class ExtenderPolicy:
    """Least cost wins, the first row of equals, as in the extender; `packed_ties` breaks them by fragmentation."""

    def __init__(self, prices: Prices, packed_ties: bool = False, driver_order: bool = False) -> None:
        self._prices = prices
        self._packed_ties = packed_ties
        self._driver_order = driver_order
        self._requests: deque[Request] = deque(maxlen=PODS_REMEMBERED)
        self._since_count = DEMAND_EVERY
        self._demand: Demand = demand_of({}, {})
        self._best: BestStarts = best_starts(self._fragmentation())
        self._table: NodeTable | None = None
        self._pods: dict[tuple[int, int], Pod] = {}
        self._rows = np.zeros(0, np.int64)
        named = (PART.profile_of(PART.layout.role(name)) for name in ROLES)
        self._profiles = [profile for profile in named if profile is not None]

    def choose(self, fleet: Fleet, request: Request) -> Place | None:
        """The node that the extender would give the best score, and a slice there."""
        table = self._table or self._new_table(fleet)
        self._requests.append(request)
        self._since_count += 1
        if self._since_count >= DEMAND_EVERY:
            self._count_demand()
        gpu, start, added = self._slices(fleet, request.role)
        self._write_slices(fleet, table, request.role, gpu, start)
        self._write_caches(fleet, table, request.scene)
        pod = self._pod(request)
        verdict = fits(pod, self._rows, table)
        costs = cost_s(pod, self._rows, Basis(table, self._demand, self._prices, fleet.now_s))
        node = self._winner(verdict == FITS, costs, added)
        return None if node is None else Place(node, int(gpu[node]), int(start[node]))

    def placed(self, request: Request, place: Place) -> None:
        """Nothing: a pod counts when it comes."""

    def _winner(self, feasible: Floats, costs: Costs, added: Floats) -> int | None:
        total_s = np.where(feasible, costs.total_s, np.inf)
        least_s = total_s.min()
        if not np.isfinite(least_s):
            return None
        if not self._packed_ties:
            return int(total_s.argmin())
        equal = np.flatnonzero(total_s == least_s)
        return int(equal[added[equal].argmin()])

    def _slices(self, fleet: Fleet, role: int) -> tuple[Floats, Floats, Floats]:
        """[nodes]: the GPU and the start that the next slice of the role takes, and what that adds to F."""
        masks = fleet.gpus.masks
        nodes = np.arange(len(masks))
        if self._driver_order:
            starts = LOWEST_START[role][masks]
            gpu = (starts != NONE).argmax(axis=1)
            start = starts[nodes, gpu]
            bits = np.array([slice_bits(role, int(one)) if one != NONE else 0 for one in start])
            before = masks[nodes, gpu]
            table = self._fragmentation()
            return gpu, start, table[before | bits] - table[before]
        added = self._best.added[role][masks]
        # Of equal rises the fullest GPU: an empty one is worth more whole.
        gpu = (np.round(added, 9) * 1e3 - POPCOUNT[masks]).argmin(axis=1)
        return gpu, self._best.start[role][masks[nodes, gpu]], added[nodes, gpu]

    def _write_slices(self, fleet: Fleet, table: NodeTable, role: int, gpu: Floats, start: Floats) -> None:
        masks = fleet.gpus.masks
        for profile, free in zip(self._profiles, ROOM[:, masks].sum(axis=2), strict=True):
            table.profiles[profile].free[1:] = free
        columns = table.profiles[self._profiles[role]]
        before = masks[np.arange(len(masks)), gpu]
        first = slice_bits(role, 0)
        columns.before[1:] = before
        columns.after[1:] = np.where(start == NONE, before, before | (first << np.maximum(start, 0)))

    def _write_caches(self, fleet: Fleet, table: NodeTable, scene: int) -> None:
        caches, scenes = fleet.caches, table.scenes
        table.seen_s[1:] = fleet.now_s
        if scene < 0:
            return
        queued = np.maximum(caches.queue_end_s - fleet.now_s, 0.0) * FETCH_BYTES_PER_S
        table.queued_bytes[:] = queued
        # A digest counts the room of a download in flight as free until the bytes have come.
        table.free_bytes[:] = caches.free_bytes + queued
        column = scenes.columns[f"scene-{scene}"]
        arriving = caches.arriving(scene, fleet.now_s)
        column.remaining_bytes = {node + 1: wait_s * FETCH_BYTES_PER_S for node, wait_s in arriving.items()}
        for node in caches.changed:
            victims = caches.victims(node)[:MOST_VICTIMS]
            if len(victims) > len(scenes.victim_bytes):
                more = 2 * len(victims) - len(scenes.victim_bytes)
                scenes.victim_bytes = np.pad(scenes.victim_bytes, ((0, more), (0, 0)))
                scenes.victim_scene = np.pad(scenes.victim_scene, ((0, more), (0, 0)), constant_values=-1)
                scenes.held_scene = scenes.victim_scene  # no pod holds a file open: what lies there can be evicted
            scenes.victim_bytes[:, node + 1], scenes.victim_scene[:, node + 1] = 0, -1
            scenes.victim_scene[: len(victims), node + 1] = victims
            scenes.victim_bytes[: len(victims), node + 1] = caches.scene_bytes[victims]
        if caches.changed:
            scenes.forget_worth()
        caches.changed.clear()

    def _new_table(self, fleet: Fleet) -> NodeTable:
        """The extender's table over the very arrays of the simulated caches."""
        caches, nodes = fleet.caches, len(fleet.gpus.masks)
        table = NodeTable()
        for node in range(nodes):
            table.row(f"node-{node}")
        length = nodes + 1
        table.seen_s = np.full(length, fleet.now_s)
        table.seen_s[UNKNOWN_ROW] = np.nan
        table.gpus_known, table.partitioned = np.ones((2, length), np.bool_)
        for profile, room in zip(self._profiles, ROOM, strict=True):
            columns = table.profiles[profile] = ProfileColumns.empty(length)
            columns.existing[1:] = columns.healthy[1:] = room[0]
            columns.part[1:] = PART_INDEX[PART.name]
        table.capacity_bytes = np.full(length, caches.capacity_bytes)
        table.fetch_bytes_per_s = np.full(length, FETCH_BYTES_PER_S)
        table.read_bytes_per_s = np.full(length, READ_BYTES_PER_S)
        table.free_bytes, table.queued_bytes = np.zeros((2, length))
        table.whole_gpus, table.whole_gpus_free = np.zeros((2, length), np.int32)
        scenes = table.scenes
        scenes.victim_bytes = np.zeros((1, length))
        scenes.victim_scene = np.full((1, length), -1, np.int32)
        scenes.held_scene = scenes.victim_scene
        scenes.copies = caches.copies
        scenes.size_bytes = np.floor(caches.scene_bytes)
        for scene, tier in enumerate(caches.tier):
            scenes.columns[f"scene-{scene}"] = SceneColumn(scene, tier)
        self._rows = np.arange(1, length)
        self._table = table
        return table

    def _pod(self, request: Request) -> Pod:
        key = (request.role, request.scene)
        pod = self._pods.get(key)
        if pod is None:
            profile = self._profiles[request.role]
            scenes = (SceneId(f"scene-{request.scene}"),) if request.scene >= 0 else ()
            pod = self._pods[key] = Pod(uid="pod", profiles=(profile,), scenes=scenes)
        return pod

    def _count_demand(self) -> None:
        self._since_count = 0
        profiles = Counter(ROLES[request.role] for request in self._requests)
        scenes = Counter(f"scene-{request.scene}" for request in self._requests if request.scene >= 0)
        self._demand = demand_of({PART.name: profiles}, scenes)
        self._best = best_starts(self._fragmentation())

    def _fragmentation(self) -> Floats:
        table: Floats = self._demand.fragmentation[PART_INDEX[PART.name]]
        return table
