"""Where a pod fits and what it costs there, in seconds.

    cost_s = time_to_ready_s + fragmentation_s + eviction_s + crowding_s + node_s

    time_to_ready_s  what the pod waits for its scenes:
                     queued bytes / fetch bandwidth + missing bytes / bandwidth (from peers, where another node has
                     them), or the rest of a download in flight if that ends later, then the load:
                     bytes / read bandwidth from disk, / page-cache bandwidth if another pod of the node holds the scene
    fragmentation_s  fragmentation_s_per_slice * (F(after) - F(before) + FULLEST_FIRST * free slices of the GPU),
                     F as in fleet.mig.fragmentation_table
    eviction_s       eviction_weight * sum over the scenes thrown out of
                     bytes / fetch bandwidth * share of requests * nodes / copies
    crowding_s       crowding_weight * sum over the scenes that lie there of
                     bytes / fetch bandwidth * share of requests * (nodes / copies - 1)
                     * the part of the node's places that the pod takes, each profile's by its share of requests:
                     they are for the pods of those scenes; one that lies on every node has places everywhere
    node_s           what the node itself is worth: unreserved_s where it is paid by the hour, empty_node_s where nobody
                     is on it (an empty node can go), hot_spot_s where it already has its share of a scene's pods,
                     spread_s for each pod of the pool that is there, where the pod asks to be spread

A pod that asks to be packed pays packed_fragmentation_s_per_slice.

A node whose digest is old is trusted less and less: each term fades into what it would be if nothing were known, which
is a cold node of average fragmentation, eviction and crowding. A node without a digest is that node. Bad or missing
data is a price, never an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fleet.mig import MigProfile
from fleet.scene import SceneId
from fleet.snapshot import Pod
from scheduler_extender.demand import Demand
from scheduler_extender.node_table import Bandwidths, NodeTable, ProfileColumns
from scheduler_extender.offers import FREE_SLICES, Ask
from scheduler_extender.price_loops import add_risen, add_scene, ready_and_evicted, share_of_places, weigh_warmth
from scheduler_extender.prices import Prices
from scheduler_extender.scene_table import RESIDENT, Floats, Rows, Tier

FORECAST_SCENES = 8  # of a pool's forecast, the most wanted ones: the rest weighs little
NOTHING_EXPECTED: Mapping[SceneId, float] = MappingProxyType({})
NOTHING_COMES: Floats = np.zeros(0)
NO_SHARE: Floats = np.zeros(0)
NO_PART: NDArray[np.uint8] = np.zeros(0, np.uint8)


@dataclass(frozen=True, slots=True)
class Cost:
    """One node's price for one pod."""

    tier: str  # resident, disk, fetching, peer, remote; none where the pod names no scene
    time_to_ready_s: float
    fragmentation_s: float
    eviction_s: float
    trust: float  # in the node's digest, 0 to 1
    crowding_s: float = 0.0
    node_s: float = 0.0

    @property
    def total_s(self) -> float:
        terms = (self.time_to_ready_s, self.fragmentation_s, self.eviction_s, self.crowding_s, self.node_s)
        return round(sum(terms), 6)


@dataclass(frozen=True, slots=True)
class Costs:
    """The prices of many nodes, one entry each; index them for a Cost."""

    tier: NDArray[np.int8]  # Tier, -1 where the pod names no scene
    time_to_ready_s: Floats
    fragmentation_s: Floats
    eviction_s: Floats
    trust: Floats
    crowding_s: Floats
    node_s: Floats

    @property
    def total_s(self) -> Floats:
        """Rounded to the microsecond, so that equal prices are equal whatever the order of their sums."""
        terms = (self.time_to_ready_s, self.fragmentation_s, self.eviction_s, self.crowding_s, self.node_s)
        total: Floats = np.round(sum(terms), 6)
        return total

    def __getitem__(self, index: int) -> Cost:
        tier = int(self.tier[index])
        return Cost(
            "none" if tier < 0 else Tier(tier).name.lower(),
            float(self.time_to_ready_s[index]),
            float(self.fragmentation_s[index]),
            float(self.eviction_s[index]),
            float(self.trust[index]),
            float(self.crowding_s[index]),
            float(self.node_s[index]),
        )


def scene_sizes(pod: Pod, table: NodeTable, prices: Prices) -> dict[str, float]:
    """The bytes of each of the pod's scenes: as a node knows them, else as the pod says, else the mean of all."""
    sizes: dict[str, float] = {
        scene: float(table.scenes.bytes_of(scene) or pod.scene_bytes.get(scene, 0)) for scene in pod.scenes
    }
    unknown = [scene for scene, size in sizes.items() if not size]
    if unknown:
        sizes |= dict.fromkeys(unknown, table.scenes.mean_bytes() or prices.scene_bytes)
    return sizes


def trust_in(age_s: Floats, prices: Prices) -> Floats:
    """[nodes]: how far a digest of that age is believed, 1 to 0; NaN (never seen) is 0."""
    if len(age_s) and age_s.max() <= prices.fresh_s:  # a NaN is no maximum
        return np.ones(len(age_s))
    faded = 0.5 ** (np.maximum(age_s - prices.fresh_s, 0.0) / prices.half_life_s)
    trust: Floats = np.where(np.isnan(age_s) | (age_s >= prices.lost_s), 0.0, faded)
    return trust


@dataclass(frozen=True, slots=True)
class Basis:
    """What a price follows from, beside the pod; `now_s` is on the clock of the digests' `seen_s`."""

    table: NodeTable
    demand: Demand
    prices: Prices
    now_s: float


def cost_s(pod: Pod, rows: Rows, basis: Basis, expected: Mapping[SceneId, float] = NOTHING_EXPECTED) -> Costs:
    """What the pod would cost on each of `rows`.

    A pod that names no scene is priced by those that are `expected` of it, each by its share of one
    (`expected_shares`); without any, its scenes cost nothing.
    """
    table, demand, prices = basis.table, basis.demand, basis.prices
    trust = trust_in(basis.now_s - table.seen_s[rows], prices)
    certain = trust >= 1.0
    known = None if certain.all() else certain  # None: every digest is trusted whole, so nothing fades
    bandwidths = table.bandwidths(prices.fetch_bytes_per_s, prices.read_bytes_per_s)
    sizes = scene_sizes(pod, table, prices)
    fading = None if known is None else trust
    scenes = _scene_terms(sizes, rows, basis, bandwidths, fading)
    ready_s, evicted_s = scenes.ready_s, scenes.evicted_s
    for scene, share in expected.items() if not pod.scenes else ():
        alone = scene_sizes(replace(pod, scenes=(scene,)), table, prices)
        terms = _scene_terms(alone, rows, basis, bandwidths, fading)
        ready_s = ready_s + share * terms.ready_s
        evicted_s = evicted_s + share * terms.evicted_s
    packed = pod.packing == "pack"
    per_slice_s = prices.packed_fragmentation_s_per_slice if packed else prices.fragmentation_s_per_slice
    fragmentation_s = per_slice_s * _added_fragmentation(pod, rows, table, demand)
    crowding_s = prices.crowding_weight * _crowded_s(pod, rows, table, demand, bandwidths.fetch_median)
    return Costs(
        tier=scenes.worst_tier,
        time_to_ready_s=ready_s,
        fragmentation_s=_faded(fragmentation_s, trust, known),
        eviction_s=_faded(prices.eviction_weight * evicted_s, trust, known),
        trust=trust,
        crowding_s=_faded(crowding_s, trust, known),
        node_s=_node_s(pod, rows, table, prices, trust, known),
    )


def expected_shares(demand: Mapping[SceneId, float]) -> dict[SceneId, float]:
    """The most wanted scenes of a pool's forecast, each by its share of theirs; empty where nothing is wanted."""
    most = sorted(demand.items(), key=lambda item: (-item[1], item[0]))[:FORECAST_SCENES]
    total = sum(share for _, share in most)
    return {scene: share / total for scene, share in most} if total > 0.0 else {}


@dataclass(frozen=True, slots=True)
class _SceneTerms:
    """What the scenes of a pod cost, by row."""

    worst_tier: NDArray[np.int8]
    ready_s: Floats
    evicted_s: Floats


def _scene_terms(
    sizes: Mapping[str, float], rows: Rows, basis: Basis, bandwidths: Bandwidths, fading: Floats | None
) -> _SceneTerms:
    """`fading`: how far each digest is trusted, None where all of them are."""
    table, scenes = basis.table, basis.table.scenes
    missing_bytes, missing_s, load_s, arriving_bytes, ready_s, evicted_s = np.zeros((6, len(rows)))
    worst = np.full(len(rows), RESIDENT if sizes else -1, np.int8)
    for scene, size_bytes in sizes.items():
        column = scenes.get(scene)
        tiers = np.zeros(len(table.seen_s), np.uint8) if column is None else column.tier
        copied = column is not None and bandwidths.peer is not None and bool(scenes.copies[column.index])
        # Peers are asked before the object store.
        fetch = bandwidths.peer if copied and bandwidths.peer is not None else bandwidths.fetch
        coming = _dense(column.remaining_bytes, len(tiers)) if column is not None else NOTHING_COMES
        page_cache = basis.prices.page_cache_bytes_per_s
        add_scene(
            rows, tiers, copied, size_bytes, fetch, bandwidths.read, page_cache, coming,
            worst, missing_bytes, missing_s, load_s, arriving_bytes,
        )  # fmt: skip
    share = scenes.share_per_copy(basis.demand.scene_share, basis.demand.other_share, table.known_nodes)
    # Room for one scene of the pod is not made by throwing out another; what is not there cannot be thrown out.
    own = [column.index for scene in sizes if len(sizes) > 1 and (column := scenes.get(scene)) is not None]
    ready_and_evicted(
        rows, bandwidths.fetch, table.queued_bytes, table.free_bytes, table.capacity_bytes,
        missing_bytes, missing_s, load_s, arriving_bytes,
        scenes.victim_scene, scenes.victim_bytes, share, np.array(own, np.int32), table.known_nodes, ready_s, evicted_s,
    )  # fmt: skip
    if fading is not None:
        cold_s = sum(size / bandwidths.fetch_median + size / bandwidths.read_median for size in sizes.values())
        ready_s = fading * ready_s + (1 - fading) * cold_s
    return _SceneTerms(worst, ready_s, evicted_s)


def _dense(by_row: Mapping[int, float] | Mapping[int, int], length: int) -> Floats:
    """[length], or nothing where there is nothing."""
    if not by_row:
        return NOTHING_COMES
    dense = np.zeros(length)
    dense[list(by_row)] = list(by_row.values())
    return dense


def _faded(term_s: Floats, trust: Floats, known: NDArray[np.bool_] | None) -> Floats:
    """The term where the digest is trusted, the mean of the fully trusted where it is not: neither good nor bad."""
    if known is None:
        return term_s
    neutral_s = float(term_s[known].mean()) if known.any() else 0.0
    faded: Floats = trust * term_s + (1 - trust) * neutral_s
    return faded


def _node_s(
    pod: Pod,
    rows: Rows,
    table: NodeTable,
    prices: Prices,
    trust: Floats,
    known: NDArray[np.bool_] | None,
) -> Floats:
    """[rows]: what the node itself is worth, whatever lies on it."""
    node_s = _faded(prices.empty_node_s * ~table.used[rows], trust, known)
    node_s = node_s + prices.unreserved_s * table.unreserved[rows]
    if pod.packing == "spread" and pod.pool in table.pool_pods:
        node_s = node_s + prices.spread_s * _dense(table.pool_pods[pod.pool], len(table.seen_s))[rows]
    for scene in pod.scenes:
        column = table.scenes.get(scene)
        if column is None or not column.pods:
            continue
        bound = max(prices.hot_spot_pods, math.ceil(prices.hot_spot_share * (sum(column.pods.values()) + 1)))
        if max(column.pods.values()) >= bound:
            node_s = node_s + prices.hot_spot_s * (_dense(column.pods, len(table.seen_s))[rows] >= bound)
    return node_s


def _added_fragmentation(pod: Pod, rows: Rows, table: NodeTable, demand: Demand) -> Floats:
    """[rows]: memory slices that the pod's slices make useless to others.

    Several slices of a profile are priced as so many times the first: their GPUs are the driver's choice anyway.
    """
    added = np.zeros(len(rows))
    asks: tuple[Ask, ...] = (*pod.profiles, *pod.devices)
    for ask in asks:
        columns = table.profiles.get(ask)
        if columns is not None:
            added += _risen(columns, rows, demand)
    if pod.any_slice_gb:
        chosen = np.zeros(len(rows), np.bool_)
        for columns in table.slices_of(pod.any_slice_gb):  # smallest first: what a thrifty DeviceClass would be given
            here = ~chosen & (columns.free[rows] > 0)
            added += np.where(here, _risen(columns, rows, demand), 0.0)
            chosen |= here
    return added


def _risen(columns: ProfileColumns, rows: Rows, demand: Demand) -> Floats:
    risen = np.zeros(len(rows))
    add_risen(rows, columns.part, columns.before, columns.after, demand.fragmentation, FREE_SLICES, risen)
    return risen


def _crowded_s(pod: Pod, rows: Rows, table: NodeTable, demand: Demand, fetch_bytes_per_s: float) -> Floats:
    """[rows]: what the scenes of a node save later pods, times the part of the node's places that the pod takes."""
    nodes = table.known_nodes
    warmth_bytes = table.scenes.warmth_bytes(demand.scene_share, demand.other_share, nodes)
    crowded_s = _part_taken(pod, rows, table, demand)
    weigh_warmth(rows, warmth_bytes, nodes / fetch_bytes_per_s, crowded_s)
    return crowded_s


def _part_taken(pod: Pod, rows: Rows, table: NodeTable, demand: Demand) -> Floats:
    """[rows]: of the places that are left there, the part that goes with the pod's first slice.

    Each profile's places count by its share of the requests. A slice that exists takes one place of its own profile;
    one that is cut takes places of every profile that its memory could have served.
    """
    asks: tuple[Ask, ...] = (*pod.profiles[:1], *pod.devices[:1])
    columns = next((table.profiles[ask] for ask in asks if ask in table.profiles), None)
    taken = np.empty(len(rows))
    if columns is None:
        share_of_places(rows, table.whole_gpus_free, NO_PART, NO_SHARE, taken)
        return taken
    share = demand.share(asks[0]) if isinstance(asks[0], MigProfile) else NO_SHARE
    share_of_places(rows, columns.free, columns.part, share, taken)
    cut = table.partitioned[rows]
    if not cut.any():
        return taken
    part, before, after = columns.part[rows], columns.before[rows], columns.after[rows]
    profiles = tuple(ask for ask in table.profiles if isinstance(ask, MigProfile))
    places = demand.places(profiles)
    left = np.array([table.profiles[profile].free[rows] for profile in profiles]).reshape(len(profiles), len(rows))
    lost: Floats = ((places[:, part, before] - places[:, part, after]) / np.maximum(left, 1)).sum(axis=0)
    return np.where(cut, lost, taken)
