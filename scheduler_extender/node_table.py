"""The snapshot as arrays by row, one row per node, so that a call prices thousands of nodes at once.

Row 0 stands for every node of which nothing is known. A digest rewrites what a node holds, a pod event or a
reservation what is taken of it; each touches one row. Occupancy is per GPU, but the kubelet (or the driver) picks the
slice: the table assumes the first free one, and promises no more than the choice of a node.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from fleet.labels import GPU_RESOURCE
from fleet.mig import MigProfile
from fleet.partitions import Cutting
from fleet.snapshot import Gpu, Node, Occupancy, Pod, Sharing, cutting, occupancy
from scheduler_extender.names import Index, Names
from scheduler_extender.offers import Ask, masks_of, offers_of
from scheduler_extender.scene_table import Floats, Rows, SceneTable, grown

UNKNOWN_ROW = 0
MOST_GPUS = 16  # of a node that are counted as stranded or not


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
            setattr(self, name, grown(getattr(self, name), rows))

    def clear(self, row: int) -> None:
        for name in self.__slots__:
            getattr(self, name)[row] = 0


@dataclass(frozen=True, slots=True, eq=False)
class Bandwidths:
    """Bytes per second by row; a node that has measured nothing yet is taken for the median of those that have."""

    asked: tuple[float, float]
    fetch: Floats
    read: Floats
    peer: Floats | None  # None where no node ever fetched from another
    fetch_median: float
    read_median: float

    @classmethod
    def of(cls, table: NodeTable, asked: tuple[float, float]) -> Bandwidths:
        fetch, read = _median(table.fetch_bytes_per_s) or asked[0], _median(table.read_bytes_per_s) or asked[1]
        peer = _median(table.peer_bytes_per_s)
        return cls(
            asked,
            np.where(table.fetch_bytes_per_s > 0, table.fetch_bytes_per_s, fetch),
            np.where(table.read_bytes_per_s > 0, table.read_bytes_per_s, read),
            None if peer is None else np.where(table.peer_bytes_per_s > 0, table.peer_bytes_per_s, peer),
            fetch,
            read,
        )


@dataclass(slots=True)
class _Measured:
    """What follows from the digests of all nodes, until the next one comes."""

    known_nodes: int
    bandwidths: Bandwidths | None = None


class NodeTable:
    """Every node's capacity, occupancy and scenes by row."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self._dropped: list[int] = []
        self.profiles: dict[Ask, ProfileColumns] = {}
        self._allocate = 16
        self.scenes = SceneTable(self._allocate)
        self.seen_s: Floats = np.full(self._allocate, np.nan)
        self.capacity_bytes: Floats = np.zeros(self._allocate)
        self.free_bytes: Floats = np.zeros(self._allocate)
        self.fetch_bytes_per_s: Floats = np.zeros(self._allocate)
        self.read_bytes_per_s: Floats = np.zeros(self._allocate)
        self.peer_bytes_per_s: Floats = np.zeros(self._allocate)
        self.queued_bytes: Floats = np.zeros(self._allocate)
        self.whole_gpus: NDArray[np.int32] = np.zeros(self._allocate, np.int32)
        self.whole_gpus_free: NDArray[np.int32] = np.zeros(self._allocate, np.int32)
        self.gpus_known: NDArray[np.bool_] = np.zeros(self._allocate, np.bool_)  # somebody said what GPUs it has
        self.partitioned: NDArray[np.bool_] = np.zeros(self._allocate, np.bool_)  # its GPUs are cut when asked for
        # Of GPUs that pods share: what one of them may fill, and what is left of all together; infinite where unknown.
        self.share_bytes: Floats = np.full(self._allocate, np.inf)
        self.unclaimed_bytes: Floats = np.full(self._allocate, np.inf)
        self.used: NDArray[np.bool_] = np.zeros(self._allocate, np.bool_)  # somebody holds a place there
        self.pool_pods: dict[str, dict[int, int]] = {}  # pool -> row -> its pods that are bound or reserved there
        self._pools_on: dict[int, set[str]] = {}
        # row -> what its offers and masks were written from, so that they are not written again from the same
        self._claimed: dict[int, tuple[tuple[Gpu, ...], Sharing | None, tuple[Pod, ...], frozenset[str]]] = {}
        self.unreserved: NDArray[np.bool_] = np.zeros(self._allocate, np.bool_)  # known to be paid by the hour
        # [rows, GPUs]: PART_INDEX of the GPUs that have slices, and which of their memory slices are taken.
        self.gpu_part: NDArray[np.uint8] = np.zeros((self._allocate, MOST_GPUS), np.uint8)
        self.gpu_mask: NDArray[np.uint8] = np.zeros((self._allocate, MOST_GPUS), np.uint8)
        self._index: Index | None = None  # None where rows came or went since it was made
        self._lately: deque[tuple[Sequence[str], Rows]] = deque(maxlen=2)  # names and their rows, as last asked for
        self._measured: _Measured | None = None

    def rows_of(self, names: Sequence[str]) -> Rows:
        """The row of each name, `UNKNOWN_ROW` for a name never heard of; not to be written to."""
        # What filter is asked about changes little, and prioritize is asked about the very list that filter left:
        # comparing costs a tenth of looking up.
        for asked, found in self._lately:
            if asked == names:
                return found
        if isinstance(names, Names):
            if self._index is None:
                self._index = Index(self.rows)
            found = names.rows(self._index, UNKNOWN_ROW)
        else:
            found = np.fromiter(map(self.rows.get, names, repeat(UNKNOWN_ROW)), np.int64, len(names))
        found.flags.writeable = False
        self._lately.append((names if isinstance(names, Names) else list(names), found))
        return found

    def row(self, name: str) -> int:
        """The row of a node, made where it has none."""
        row = self.rows.get(name)
        if row is None:
            row = self.rows[name] = self._dropped.pop() if self._dropped else len(self.rows) + 1
            self._forget_rows()
            if row >= self._allocate:
                self._grow()
        return row

    def _forget_rows(self) -> None:
        self._lately.clear()
        self._index = None

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
        self._forget_rows()

    def bandwidths(self, fetch_bytes_per_s: float, read_bytes_per_s: float) -> Bandwidths:
        """By row; the arguments stand for what no node of the fleet has measured yet."""
        figures = self._figures()
        asked = fetch_bytes_per_s, read_bytes_per_s
        if figures.bandwidths is None or figures.bandwidths.asked != asked:
            figures.bandwidths = Bandwidths.of(self, asked)
        return figures.bandwidths

    @property
    def known_nodes(self) -> int:
        """How many nodes a digest was ever seen of."""
        return self._figures().known_nodes

    def _figures(self) -> _Measured:
        if self._measured is None:
            self._measured = _Measured(int((~np.isnan(self.seen_s)).sum()))
        return self._measured

    def set_digest(self, node: Node) -> None:
        """Write what a node holds: its cache, its bandwidths and its scenes. `set_claims` must follow."""
        row = self.row(node.name)
        cache = node.scene_cache
        measured = (
            [cache.fetch_bytes_per_s, cache.read_bytes_per_s, cache.peer_bytes_per_s] if cache else [0.0, 0.0, 0.0]
        )
        before = [float(of[row]) for of in (self.fetch_bytes_per_s, self.read_bytes_per_s, self.peer_bytes_per_s)]
        if measured != before or (node.seen_s is None) != bool(np.isnan(self.seen_s[row])):
            self._measured = None  # medians over all nodes, that most digests leave as they are
        # It may have been confirmed since.
        self.seen_s[row] = np.nan if node.seen_s is None else np.fmax(self.seen_s[row], node.seen_s)
        self.gpus_known[row] = bool(node.gpus) or node.sharing is not None
        self.partitioned[row] = any(gpu.partitions is not None for gpu in node.gpus)
        self.capacity_bytes[row] = cache.capacity_bytes if cache else 0
        self.free_bytes[row] = cache.free_bytes if cache else 0
        self.fetch_bytes_per_s[row], self.read_bytes_per_s[row], self.peer_bytes_per_s[row] = measured
        self.scenes.set_held(row, node)

    def set_claims(self, node: Node, claims: Iterable[Pod], departed: frozenset[str]) -> None:
        """Write what is taken of a node by its digest and by `claims`, the pods bound or reserved there."""
        row = self.row(node.name)
        claimed = tuple(claims)
        self.queued_bytes[row] = self.scenes.set_claims(row, node, claimed)
        written = node.gpus, node.sharing, claimed, departed
        if self._claimed.get(row) == written:  # as after most digests: a scene came or went, and no pod
            return
        self._claimed.pop(row, None)
        taken = occupancy(node, claimed, departed)
        for columns in self.profiles.values():
            columns.clear(row)
        cut = cutting(node, claimed, departed)
        self._set_offers(row, node, taken, cut)
        self._set_shares(row, node, claimed)
        self.gpu_part[row] = 0
        for index, (part, mask) in enumerate(masks_of(node, taken, cut)[:MOST_GPUS]):
            self.gpu_part[row, index], self.gpu_mask[row, index] = part, mask
        self._count_pools(row, claimed)
        self.used[row] = bool(claimed) or any(taken.holders) or bool(cut and cut.holders)
        self._claimed[row] = written

    def _count_pools(self, row: int, claims: Sequence[Pod]) -> None:
        counts = Counter(pod.pool for pod in claims if pod.pool)
        for gone in self._pools_on.pop(row, set()) - counts.keys():
            del self.pool_pods[gone][row]
            if not self.pool_pods[gone]:
                del self.pool_pods[gone]
        for pool, count in counts.items():
            self.pool_pods.setdefault(pool, {})[row] = count
        if counts:
            self._pools_on[row] = set(counts)

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

    def _set_shares(self, row: int, node: Node, claims: Sequence[Pod]) -> None:
        """What a share of a GPU holds, and what nobody has claimed of all GPUs together; infinite where unknown."""
        sharing = node.sharing
        known = sharing is not None and sharing.gpu_memory_bytes > 0
        self.share_bytes[row] = sharing.share_bytes if sharing is not None and known else np.inf
        self.unclaimed_bytes[row] = np.inf
        if sharing is not None and known and sharing.strategy != "mps":
            gpus = sum(gpu.healthy and not gpu.slices for gpu in node.gpus) if node.gpus else sharing.gpus
            claimed_bytes = sum(pod.gpu_memory_bytes for pod in claims if pod.gpus)
            self.unclaimed_bytes[row] = gpus * sharing.gpu_memory_bytes - claimed_bytes

    def _columns(self, ask: Ask) -> ProfileColumns:
        columns = self.profiles.get(ask)
        if columns is None:
            columns = self.profiles[ask] = ProfileColumns.empty(self._allocate)
        return columns

    def _grow(self) -> None:
        self._allocate *= 2
        self._measured = None
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, grown(value, self._allocate))
        self.seen_s[self._allocate // 2 :] = np.nan
        self.share_bytes[self._allocate // 2 :] = self.unclaimed_bytes[self._allocate // 2 :] = np.inf
        self.scenes.grow(self._allocate)
        for columns in self.profiles.values():
            columns.grow(self._allocate)


def _median(measured: Floats) -> float | None:
    known = measured[measured > 0]
    return float(np.median(known)) if len(known) else None
