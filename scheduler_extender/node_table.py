"""The snapshot as arrays by row, one row per node, so that a call prices thousands of nodes at once.

Row 0 stands for every node of which nothing is known. A digest rewrites what a node holds, a pod event or a
reservation what is taken of it; each touches one row. Occupancy is per GPU, but the kubelet (or the driver) picks the
slice: the table assumes the first free one, and promises no more than the choice of a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.labels import GPU_RESOURCE
from fleet.mig import MigProfile
from fleet.partitions import Cutting
from fleet.snapshot import Node, Occupancy, Pod, cutting, occupancy
from scheduler_extender.offers import Ask, offers_of

UNKNOWN_ROW = 0
MOST_VICTIMS = 256  # scenes per node that eviction looks at, least recently used first
MOST_HELD = 256  # scenes per node that crowding looks at

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


class Tier(IntEnum):
    """Where a scene lies on a node, worst first."""

    REMOTE = 0
    FETCHING = 1
    DISK = 2
    RESIDENT = 3  # in the memory of a pod of the node, so its file is in the page cache and locked there


_FETCHING, _DISK, _RESIDENT = Tier.FETCHING, Tier.DISK, Tier.RESIDENT  # looked up for every scene of every digest


@dataclass(slots=True)
class ProfileColumns:
    """One kind of slice or device by row; `before`, `after`: the GPU's mask without and with the next one."""

    existing: NDArray[np.int32]
    healthy: NDArray[np.int32]
    free: NDArray[np.int32]
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    part: NDArray[np.uint8]

    @classmethod
    def empty(cls, rows: int) -> ProfileColumns:
        existing, healthy, free = np.zeros((3, rows), np.int32)
        before, after, part = np.zeros((3, rows), np.uint8)
        return cls(existing, healthy, free, before, after, part)

    def grow(self, rows: int) -> None:
        for name in self.__slots__:
            setattr(self, name, _grown(getattr(self, name), rows))

    def clear(self, row: int) -> None:
        for name in self.__slots__:
            getattr(self, name)[row] = 0


@dataclass(slots=True)
class SceneColumn:
    """One scene by row: where it lies and, where it is on its way, the bytes still to come."""

    index: int
    tier: NDArray[np.uint8]
    remaining_bytes: dict[int, float] = field(default_factory=dict)
    bytes: int = 0  # 0: no node knows
    holders: Rows = field(default_factory=lambda: np.zeros(0, np.int64))  # rows where it lies whole, in no order
    pods: dict[int, int] = field(default_factory=dict)  # row -> pods bound or reserved there that name the scene


@dataclass(slots=True)
class Warmth:
    """What lies on the nodes by its worth to later pods, under one demand."""

    scene_share: Mapping[str, float]
    other_share: float
    by_row: Floats

    def worth_bytes(self, scene: str, column: SceneColumn, copies: Floats) -> float:
        share = self.scene_share.get(scene, self.other_share)
        return share * column.bytes / max(1.0, float(copies[column.index]))


class NodeTable:
    """Every node's capacity, occupancy and scenes by row."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self._dropped: list[int] = []
        self.profiles: dict[Ask, ProfileColumns] = {}
        self.scenes: dict[str, SceneColumn] = {}
        self._allocate = 16
        self.seen_s: Floats = np.full(self._allocate, np.nan)
        self.capacity_bytes: Floats = np.zeros(self._allocate)
        self.free_bytes: Floats = np.zeros(self._allocate)
        self.fetch_bytes_per_s: Floats = np.zeros(self._allocate)
        self.read_bytes_per_s: Floats = np.zeros(self._allocate)
        self.queued_bytes: Floats = np.zeros(self._allocate)
        self.whole_gpus: NDArray[np.int32] = np.zeros(self._allocate, np.int32)
        self.whole_gpus_free: NDArray[np.int32] = np.zeros(self._allocate, np.int32)
        self.gpus_known: NDArray[np.bool_] = np.zeros(self._allocate, np.bool_)  # somebody said what GPUs it has
        self.partitioned: NDArray[np.bool_] = np.zeros(self._allocate, np.bool_)  # its GPUs are cut when asked for
        # Of GPUs that pods share: what one of them may fill, and what is left of all together; infinite where unknown.
        self.share_bytes: Floats = np.full(self._allocate, np.inf)
        self.unclaimed_bytes: Floats = np.full(self._allocate, np.inf)
        self.used: NDArray[np.bool_] = np.zeros(self._allocate, np.bool_)  # somebody holds a place there
        self.unreserved: NDArray[np.bool_] = np.zeros(self._allocate, np.bool_)  # known to be paid by the hour
        # [victims, rows]: what eviction takes first, second, ...; scene -1 where a node has no more.
        self.victim_bytes: Floats = np.zeros((1, self._allocate))
        self.victim_scene: NDArray[np.int32] = np.full((1, self._allocate), -1, np.int32)
        # [held, rows]: the scenes that lie whole on a node, in no order; -1 where it has no more.
        self.held_scene: NDArray[np.int32] = np.full((1, self._allocate), -1, np.int32)
        self._asked: list[str] | None = None  # whose rows are `_found`
        self._found: Rows = np.zeros(0, np.int64)
        self._priors: tuple[float | None, float | None] | None = None
        self.copies: Floats = np.zeros(16)  # by scene index
        self._by_scene: tuple[tuple[Mapping[str, float], float, int, int], Floats] | None = None
        self._known_bytes, self._known_scenes = 0, 0  # over the scenes whose size is known
        self._warmth: Warmth | None = None
        self._digest_scenes: dict[int, set[str]] = {}
        self._incoming: dict[int, dict[str, float]] = {}  # row -> scene -> bytes still to come
        self._claimed_scenes: dict[int, set[str]] = {}

    def rows_of(self, names: Sequence[str]) -> Rows:
        """The row of each name, `UNKNOWN_ROW` for a name never heard of; not to be written to."""
        # prioritize is asked about the very list that filter left: comparing it costs a tenth of looking it up.
        if names != self._asked:
            found = np.fromiter(map(self.rows.get, names, repeat(UNKNOWN_ROW)), np.int64, len(names))
            found.flags.writeable = False
            self._asked, self._found = list(names), found
        return self._found

    def row(self, name: str) -> int:
        """The row of a node, made where it has none."""
        row = self.rows.get(name)
        if row is None:
            row = self.rows[name] = self._dropped.pop() if self._dropped else len(self.rows) + 1
            self._asked = None
            if row >= self._allocate:
                self._grow()
        return row

    def slices_of(self, least_gb: int) -> list[ProfileColumns]:
        """The columns of every profile with so much memory, smallest first."""
        wide = sorted(ask for ask in self.profiles if isinstance(ask, MigProfile) and ask.memory_gb >= least_gb)
        wide.sort(key=lambda profile: (profile.memory_gb, profile.compute_slices))
        return [self.profiles[profile] for profile in wide]

    def drop(self, name: str) -> None:
        """Forget a node; its row, which must hold nothing any more, serves the next one that comes."""
        row = self.rows.pop(name)
        self.unreserved[row] = False
        self._dropped.append(row)
        self._asked = None

    def bytes_of(self, scene: str) -> int:
        """The size of a scene as any node knows it; 0 where none does."""
        column = self.scenes.get(scene)
        return column.bytes if column else 0

    def mean_scene_bytes(self) -> float:
        """The mean size of the scenes whose size is known; 0 where none is."""
        return self._known_bytes / self._known_scenes if self._known_scenes else 0.0

    def by_scene(self, values: Mapping[str, float], otherwise: float) -> Floats:
        """[scenes]: the value of each scene by its index, `otherwise` where `values` has none.

        Asked again with the same mapping it answers from memory; a mapping that changes must be another one.
        """
        asked = (values, otherwise, len(self.scenes), len(self.copies))
        if self._by_scene is None or self._by_scene[0][0] is not values or self._by_scene[0][1:] != asked[1:]:
            found = np.full(len(self.copies), otherwise)
            for scene, value in values.items():
                column = self.scenes.get(scene)
                if column is not None:
                    found[column.index] = value
            self._by_scene = asked, found
        return self._by_scene[1]

    def warmth_bytes(self, scene_share: Mapping[str, float], other_share: float) -> Floats:
        """[rows]: bytes of the scenes that lie on a node, each by its share of requests / copies.

        Made once for a mapping, then kept in step with every digest; a mapping that changes must be another one.
        """
        if self._warmth is None or self._warmth.scene_share is not scene_share:
            self._warmth = Warmth(scene_share, other_share, np.zeros(self._allocate))
            worth_bytes = np.zeros(len(self.copies) + 1)  # the last entry stands for no scene
            for scene, column in self.scenes.items():
                worth_bytes[column.index] = self._warmth.worth_bytes(scene, column, self.copies)
            self._warmth.by_row = worth_bytes[self.held_scene].sum(axis=0)
        return self._warmth.by_row

    def forget_warmth(self) -> None:
        """Scenes moved without a digest: count `warmth_bytes` anew."""
        self._warmth = None

    def measured_bytes_per_s(self) -> tuple[float | None, float | None]:
        """The medians of the fetch and the read bandwidths that nodes measured; None where none has."""
        if self._priors is None:
            self._priors = _median(self.fetch_bytes_per_s), _median(self.read_bytes_per_s)
        return self._priors

    def set_digest(self, node: Node) -> None:
        """Write what a node holds: its cache, its bandwidths and its scenes. `set_claims` must follow."""
        row = self.row(node.name)
        # It may have been confirmed since.
        self.seen_s[row] = np.nan if node.seen_s is None else np.fmax(self.seen_s[row], node.seen_s)
        self.gpus_known[row] = bool(node.gpus) or node.sharing is not None
        self.partitioned[row] = any(gpu.partitions is not None for gpu in node.gpus)
        self._priors = None
        cache = node.scene_cache
        self.capacity_bytes[row] = cache.capacity_bytes if cache else 0
        self.free_bytes[row] = cache.free_bytes if cache else 0
        self.fetch_bytes_per_s[row] = cache.fetch_bytes_per_s if cache else 0
        self.read_bytes_per_s[row] = cache.read_bytes_per_s if cache else 0
        tiers = dict.fromkeys((item.id for item in cache.scenes), _DISK) if cache else {}
        for pod in node.pods:
            tiers.update((item.id, _RESIDENT) for item in pod.resident)
            for item in pod.resident:
                self._learn_bytes(item.id, item.bytes, only_if_unknown=True)
        for cached in cache.scenes if cache else ():
            self._learn_bytes(cached.id, cached.bytes)
        for gone in self._digest_scenes.get(row, set()) - tiers.keys():
            self._set_tier(row, gone, Tier.REMOTE)
        for scene, tier in tiers.items():
            self._set_tier(row, scene, tier)
        self._digest_scenes[row] = set(tiers)
        self._set_victims(row, node, tiers)
        self._set_held(row, [self.scenes[scene].index for scene in tiers][:MOST_HELD])

    def set_claims(self, node: Node, claims: Iterable[Pod], departed: frozenset[str]) -> None:
        """Write what is taken of a node by its digest and by `claims`, the pods bound or reserved there."""
        row = self.row(node.name)
        claimed = list(claims)
        taken = occupancy(node, claimed, departed)
        for columns in self.profiles.values():
            columns.clear(row)
        cut = cutting(node, claimed, departed)
        self._set_offers(row, node, taken, cut)
        self._set_shares(row, node, claimed)
        self._set_incoming(row, node, claimed)
        self._set_scene_pods(row, claimed)
        self.used[row] = bool(claimed) or any(taken.holders) or bool(cut and cut.holders)

    def _set_scene_pods(self, row: int, claims: list[Pod]) -> None:
        """How many pods of each scene a node has, or is about to have."""
        counts: dict[str, int] = {}
        for pod in claims:
            for scene in pod.scenes:
                counts[scene] = counts.get(scene, 0) + 1
        for gone in self._claimed_scenes.get(row, set()) - counts.keys():
            self.scenes[gone].pods.pop(row, None)
        for named, count in counts.items():
            self._column(named).pods[row] = count
        self._claimed_scenes[row] = set(counts)

    def _set_offers(self, row: int, node: Node, taken: Occupancy, cut: Cutting | None) -> None:
        self.whole_gpus[row] = taken.whole_gpus
        self.whole_gpus_free[row] = taken.whole_gpus - taken.whole_gpus_used
        for ask, offer in offers_of(node, taken, cut).items():
            if ask == GPU_RESOURCE:
                self.whole_gpus[row] += offer.healthy
                self.whole_gpus_free[row] += offer.free
            columns = self._columns(ask)
            columns.existing[row], columns.healthy[row], columns.free[row] = offer.existing, offer.healthy, offer.free
            columns.before[row], columns.after[row], columns.part[row] = offer.before, offer.after, offer.part
        if taken.single is not None:
            self.whole_gpus[row] = self.profiles[taken.single].healthy[row]
            self.whole_gpus_free[row] = self.profiles[taken.single].free[row]

    def _set_shares(self, row: int, node: Node, claims: list[Pod]) -> None:
        """What a share of a GPU holds, and what nobody has claimed of all GPUs together; infinite where unknown."""
        sharing = node.sharing
        known = sharing is not None and sharing.gpu_memory_bytes > 0
        self.share_bytes[row] = sharing.share_bytes if sharing is not None and known else np.inf
        self.unclaimed_bytes[row] = np.inf
        if sharing is not None and known and sharing.strategy != "mps":
            gpus = sum(gpu.healthy and not gpu.slices for gpu in node.gpus) if node.gpus else sharing.gpus
            claimed_bytes = sum(pod.gpu_memory_bytes for pod in claims if pod.gpus)
            self.unclaimed_bytes[row] = gpus * sharing.gpu_memory_bytes - claimed_bytes

    def _set_incoming(self, row: int, node: Node, claims: list[Pod]) -> None:
        """Downloads in flight: those of the digest, and those that pods on their way are about to start."""
        incoming: dict[str, float] = {}
        for item in node.scene_cache.fetching if node.scene_cache else ():
            incoming[item.id] = float(max(0, item.total_bytes - item.done_bytes))
            self._learn_bytes(item.id, item.total_bytes, only_if_unknown=True)
        held = self._digest_scenes.get(row, set())
        for pod in claims:
            for scene in () if pod.ready else pod.scenes:
                if scene not in held and scene not in incoming:
                    size = self.bytes_of(scene) or pod.scene_bytes.get(scene, 0) or self.mean_scene_bytes()
                    incoming[scene] = float(size)
        for gone in self._incoming.get(row, {}).keys() - incoming.keys():
            self.scenes[gone].remaining_bytes.pop(row, None)
            if gone not in held:
                self._set_tier(row, gone, Tier.REMOTE)
        for coming, remaining_bytes in incoming.items():
            if coming not in held:
                self._set_tier(row, coming, Tier.FETCHING)
                self.scenes[coming].remaining_bytes[row] = remaining_bytes
        self._incoming[row] = incoming
        self.queued_bytes[row] = sum(incoming.values())

    def _set_victims(self, row: int, node: Node, tiers: dict[str, Tier]) -> None:
        """What eviction would take first: least recently used, without what a pod of the node holds open."""
        cached = sorted(node.scene_cache.scenes, key=lambda item: item.last_used_s) if node.scene_cache else []
        victims = [item for item in cached if tiers[item.id] is _DISK][:MOST_VICTIMS]
        if len(victims) > len(self.victim_bytes):
            more = min(MOST_VICTIMS, 2 * len(victims)) - len(self.victim_bytes)
            self.victim_bytes = np.pad(self.victim_bytes, ((0, more), (0, 0)))
            self.victim_scene = np.pad(self.victim_scene, ((0, more), (0, 0)), constant_values=-1)
        self.victim_bytes[:, row], self.victim_scene[:, row] = 0, -1
        self.victim_bytes[: len(victims), row] = [item.bytes for item in victims]
        self.victim_scene[: len(victims), row] = [self.scenes[item.id].index for item in victims]

    def _set_held(self, row: int, held: list[int]) -> None:
        if len(held) > len(self.held_scene):
            more = min(MOST_HELD, 2 * len(held)) - len(self.held_scene)
            self.held_scene = np.pad(self.held_scene, ((0, more), (0, 0)), constant_values=-1)
        self.held_scene[:, row] = -1
        self.held_scene[: len(held), row] = held

    def _columns(self, ask: Ask) -> ProfileColumns:
        columns = self.profiles.get(ask)
        if columns is None:
            columns = self.profiles[ask] = ProfileColumns.empty(self._allocate)
        return columns

    def _column(self, scene: str) -> SceneColumn:
        column = self.scenes.get(scene)
        if column is None:
            column = self.scenes[scene] = SceneColumn(len(self.scenes), np.zeros(self._allocate, np.uint8))
            if column.index >= len(self.copies):
                self.copies = _grown(self.copies, 2 * len(self.copies))
        return column

    def _learn_bytes(self, scene: str, size_bytes: int, only_if_unknown: bool = False) -> None:
        column = self._column(scene)
        if size_bytes > 0 and size_bytes != column.bytes and not (only_if_unknown and column.bytes):
            self._warmth = None
            self._known_bytes += size_bytes - column.bytes
            self._known_scenes += not column.bytes
            column.bytes = size_bytes

    def _set_tier(self, row: int, scene: str, tier: Tier) -> None:
        column = self._column(scene)
        here = tier >= _DISK
        if here == (column.tier[row] >= _DISK):
            column.tier[row] = tier
        else:
            self._move(row, scene, column, here)
            column.tier[row] = tier
        if tier is not _FETCHING:
            column.remaining_bytes.pop(row, None)

    def _move(self, row: int, scene: str, column: SceneColumn, here: bool) -> None:
        """A scene came to a node or left it: the worth of all its copies changes, and only theirs."""
        warmth = self._warmth
        before_bytes = warmth.worth_bytes(scene, column, self.copies) if warmth else 0.0
        column.holders = np.append(column.holders, row) if here else column.holders[column.holders != row]
        self.copies[column.index] = len(column.holders)
        if warmth is not None:
            warmth.by_row[row] += before_bytes if here else -before_bytes
            warmth.by_row[column.holders] += warmth.worth_bytes(scene, column, self.copies) - before_bytes

    def _grow(self) -> None:
        self._allocate *= 2
        self._warmth = None
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray) and value.ndim == 1 and name != "copies":
                setattr(self, name, _grown(value, self._allocate))
        more = ((0, 0), (0, self._allocate // 2))
        self.victim_bytes = np.pad(self.victim_bytes, more)
        self.victim_scene = np.pad(self.victim_scene, more, constant_values=-1)
        self.held_scene = np.pad(self.held_scene, more, constant_values=-1)
        self.seen_s[self._allocate // 2 :] = np.nan
        self.share_bytes[self._allocate // 2 :] = self.unclaimed_bytes[self._allocate // 2 :] = np.inf
        for columns in self.profiles.values():
            columns.grow(self._allocate)
        for column in self.scenes.values():
            column.tier = _grown(column.tier, self._allocate)


def _median(measured: Floats) -> float | None:
    known = measured[measured > 0]
    return float(np.median(known)) if len(known) else None


def _grown(array: NDArray[Any], rows: int) -> NDArray[Any]:  # zeros below what was there
    grown = np.zeros((rows, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
