"""Which scenes lie on which nodes, as arrays by row: what a pod finds there, what eviction takes, what is warm.

The rows are those of `node_table.NodeTable`. A digest rewrites what a node holds, pods on their way what it is about
to fetch; each touches one row, and of the worth of scenes only what concerns those that moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.snapshot import Node, Pod

MOST_VICTIMS = 256  # scenes per node that eviction looks at, least recently used first
MOST_HELD = 256  # scenes per node that crowding looks at

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


class Tier(IntEnum):
    """Where a scene lies on a node, worst first."""

    REMOTE = 0
    PEER = 1  # not there, but another node has it; where nodes serve each other
    FETCHING = 2
    DISK = 3
    RESIDENT = 4  # in the memory of a pod of the node, so its file is in the page cache and locked there


# Plain numbers: they are looked up for every scene of every digest.
REMOTE, PEER, FETCHING, DISK, RESIDENT = (int(tier) for tier in Tier)


@dataclass(slots=True)
class SceneColumn:
    """One scene by row: where it lies and, where it is on its way, the bytes still to come."""

    index: int
    tier: NDArray[np.uint8]
    remaining_bytes: dict[int, float] = field(default_factory=dict)
    holders: Rows = field(default_factory=lambda: np.zeros(0, np.int64))  # rows where it lies whole, in no order
    pods: dict[int, int] = field(default_factory=dict)  # row -> pods bound or reserved there that name the scene


@dataclass(frozen=True, slots=True, eq=False)
class _Worth:
    """What scenes are worth under one demand."""

    scene_share: Mapping[str, float]
    nodes: int
    share: Floats  # [scenes], by index: of requests
    per_copy: Floats  # [scenes]: the same over the copies there are
    rarity: Floats  # [scenes]: `per_copy` less what it would be if every node had one
    warmth_bytes: Floats  # [rows]: of what lies there, bytes times `rarity`


class SceneTable:
    """Every scene's place by row, the copies of each, and per row what eviction would take."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.columns: dict[str, SceneColumn] = {}
        self.copies: Floats = np.zeros(16)  # by scene index
        self.size_bytes: Floats = np.zeros(16)  # by scene index; 0: no node knows
        # [victims, rows]: what eviction takes first, second, ...; scene -1 where a node has no more.
        self.victim_bytes: Floats = np.zeros((1, rows))
        self.victim_scene: NDArray[np.int32] = np.full((1, rows), -1, np.int32)
        # [held, rows]: the scenes that lie whole on a node, in no order; -1 where it has no more.
        self.held_scene: NDArray[np.int32] = np.full((1, rows), -1, np.int32)
        self._known_bytes, self._known_scenes = 0, 0  # over the scenes whose size is known
        self._worth: _Worth | None = None
        self._held: dict[int, dict[str, int]] = {}  # row -> scene -> tier, as the digest says
        self._incoming: dict[int, dict[str, float]] = {}  # row -> scene -> bytes still to come
        self._claimed: dict[int, set[str]] = {}

    def get(self, scene: str) -> SceneColumn | None:
        """The column of a scene; None where nobody ever named it."""
        return self.columns.get(scene)

    def tiers(self, column: SceneColumn, rows: Rows, peers: bool) -> NDArray[np.uint8]:
        """[rows]: where the scene lies, as a pod finds it; `peers`: nodes serve each other."""
        tier: NDArray[np.uint8] = column.tier[rows]
        return np.maximum(tier, PEER) if peers and self.copies[column.index] else tier

    def bytes_of(self, scene: str) -> int:
        """The size of a scene as any node knows it; 0 where none does."""
        column = self.columns.get(scene)
        return int(self.size_bytes[column.index]) if column else 0

    def mean_bytes(self) -> float:
        """The mean size of the scenes whose size is known; 0 where none is."""
        return self._known_bytes / self._known_scenes if self._known_scenes else 0.0

    def share_per_copy(self, scene_share: Mapping[str, float], other_share: float, nodes: int) -> Floats:
        """[scenes]: share of requests / copies, by the scene's index.

        Made once for a mapping, then kept in step with every digest; a mapping that changes must be another one.
        """
        return self._worth_under(scene_share, other_share, nodes).per_copy

    def warmth_bytes(self, scene_share: Mapping[str, float], other_share: float, nodes: int) -> Floats:
        """[rows]: bytes of the scenes that lie on a node, each by its share of requests * (1 / copies - 1 / nodes).

        What lies on every node makes none of them warmer than another. Kept as `share_per_copy` is.
        """
        return self._worth_under(scene_share, other_share, nodes).warmth_bytes

    def forget_worth(self) -> None:
        """Scenes moved without a digest: count `warmth_bytes` and `share_per_copy` anew."""
        self._worth = None

    def _worth_under(self, scene_share: Mapping[str, float], other_share: float, nodes: int) -> _Worth:
        worth = self._worth
        if worth is None or worth.scene_share is not scene_share or worth.nodes != nodes:
            share = np.full(len(self.copies), other_share)
            for scene, value in scene_share.items():
                column = self.columns.get(scene)
                if column is not None:
                    share[column.index] = value
            per_copy = share / np.maximum(self.copies, 1.0)
            rarity = per_copy - share / max(nodes, 1)
            worth_bytes = np.append(rarity * self.size_bytes, 0.0)  # the last entry stands for no scene
            warmth_bytes = worth_bytes[self.held_scene].sum(axis=0)
            worth = self._worth = _Worth(scene_share, nodes, share, per_copy, rarity, warmth_bytes)
        return worth

    def set_held(self, row: int, node: Node) -> None:
        """Write what a node's digest says that it holds. `set_claims` must follow."""
        cache = node.scene_cache
        tiers = dict.fromkeys((item.id for item in cache.scenes), DISK) if cache else {}
        for pod in node.pods:
            tiers.update((item.id, RESIDENT) for item in pod.resident)
            for item in pod.resident:
                self._learn_bytes(item.id, item.bytes, only_if_unknown=True)
        for cached in cache.scenes if cache else ():
            self._learn_bytes(cached.id, cached.bytes)
        before = self._held.get(row, {})
        for gone in before.keys() - tiers.keys():
            self._set_tier(row, gone, REMOTE)
        for scene, tier in tiers.items():
            if before.get(scene) != tier:
                self._set_tier(row, scene, tier)
        self._held[row] = tiers
        self._set_victims(row, node, tiers)
        indices = [self.columns[scene].index for scene in tiers][:MOST_HELD]
        if len(indices) > len(self.held_scene):
            more = min(MOST_HELD, 2 * len(indices)) - len(self.held_scene)
            self.held_scene = np.pad(self.held_scene, ((0, more), (0, 0)), constant_values=-1)
        self.held_scene[:, row] = -1
        self.held_scene[: len(indices), row] = indices

    def set_claims(self, row: int, node: Node, claims: Iterable[Pod]) -> float:
        """Write which scenes the pods bound or reserved there name; the bytes that are on their way to the node."""
        counts: dict[str, int] = {}
        incoming: dict[str, float] = {}
        for item in node.scene_cache.fetching if node.scene_cache else ():
            incoming[item.id] = float(max(0, item.total_bytes - item.done_bytes))
            self._learn_bytes(item.id, item.total_bytes, only_if_unknown=True)
        held = self._held.get(row, {})
        for pod in claims:
            for scene in pod.scenes:
                counts[scene] = counts.get(scene, 0) + 1
                # A pod that is not ready yet is about to start the download.
                if not pod.ready and scene not in held and scene not in incoming:
                    incoming[scene] = float(self.bytes_of(scene) or pod.scene_bytes.get(scene, 0) or self.mean_bytes())
        for gone in self._claimed.get(row, set()) - counts.keys():
            self.columns[gone].pods.pop(row, None)
        for named, count in counts.items():
            self._column(named).pods[row] = count
        self._claimed[row] = set(counts)
        self._set_incoming(row, incoming, held)
        return sum(incoming.values())

    def grow(self, rows: int) -> None:
        """Room for so many rows."""
        more = ((0, 0), (0, rows - self._rows))
        self.victim_bytes = np.pad(self.victim_bytes, more)
        self.victim_scene = np.pad(self.victim_scene, more, constant_values=-1)
        self.held_scene = np.pad(self.held_scene, more, constant_values=-1)
        for column in self.columns.values():
            column.tier = grown(column.tier, rows)
        self._rows = rows
        self._worth = None

    def _set_incoming(self, row: int, incoming: dict[str, float], held: Mapping[str, int]) -> None:
        for gone in self._incoming.get(row, {}).keys() - incoming.keys():
            self.columns[gone].remaining_bytes.pop(row, None)
            if gone not in held:
                self._set_tier(row, gone, REMOTE)
        for coming, remaining_bytes in incoming.items():
            if coming not in held:
                self._set_tier(row, coming, FETCHING)
                self.columns[coming].remaining_bytes[row] = remaining_bytes
        self._incoming[row] = incoming

    def _set_victims(self, row: int, node: Node, tiers: Mapping[str, int]) -> None:
        """What eviction would take first: least recently used, without what a pod of the node holds open."""
        cached = sorted(node.scene_cache.scenes, key=lambda item: item.last_used_s) if node.scene_cache else []
        victims = [item for item in cached if tiers[item.id] == DISK][:MOST_VICTIMS]
        if len(victims) > len(self.victim_bytes):
            more = min(MOST_VICTIMS, 2 * len(victims)) - len(self.victim_bytes)
            self.victim_bytes = np.pad(self.victim_bytes, ((0, more), (0, 0)))
            self.victim_scene = np.pad(self.victim_scene, ((0, more), (0, 0)), constant_values=-1)
        self.victim_bytes[:, row], self.victim_scene[:, row] = 0, -1
        self.victim_bytes[: len(victims), row] = [item.bytes for item in victims]
        self.victim_scene[: len(victims), row] = [self.columns[item.id].index for item in victims]

    def _column(self, scene: str) -> SceneColumn:
        column = self.columns.get(scene)
        if column is None:
            column = self.columns[scene] = SceneColumn(len(self.columns), np.zeros(self._rows, np.uint8))
            self._worth = None
            if column.index >= len(self.copies):
                self.copies = grown(self.copies, 2 * len(self.copies))
                self.size_bytes = grown(self.size_bytes, len(self.copies))
        return column

    def _learn_bytes(self, scene: str, size_bytes: int, only_if_unknown: bool = False) -> None:
        index = self._column(scene).index
        known_bytes = int(self.size_bytes[index])
        if size_bytes > 0 and size_bytes != known_bytes and not (only_if_unknown and known_bytes):
            self._worth = None
            self._known_bytes += size_bytes - known_bytes
            self._known_scenes += not known_bytes
            self.size_bytes[index] = size_bytes

    def _set_tier(self, row: int, scene: str, tier: int) -> None:
        column = self._column(scene)
        here = tier >= DISK
        if here != (int(column.tier[row]) >= DISK):
            self._move(row, scene, column, here)
        column.tier[row] = tier
        if tier != FETCHING:
            column.remaining_bytes.pop(row, None)

    def _move(self, row: int, scene: str, column: SceneColumn, here: bool) -> None:
        """A scene came to a node or left it: the worth of all its copies changes, and only theirs."""
        index, worth = column.index, self._worth
        before = worth.rarity[index] if worth else 0.0
        column.holders = np.append(column.holders, row) if here else column.holders[column.holders != row]
        self.copies[index] = len(column.holders)
        if worth is not None:
            size_bytes = self.size_bytes[index]
            share = worth.share[index]
            worth.per_copy[index] = share / max(1.0, self.copies[index])
            worth.rarity[index] = worth.per_copy[index] - share / max(worth.nodes, 1)
            worth.warmth_bytes[row] += before * size_bytes if here else -before * size_bytes
            worth.warmth_bytes[column.holders] += (worth.rarity[index] - before) * size_bytes


def grown(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """The array with zeros below what was there."""
    longer = np.zeros((rows, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer
