"""Other schedulers' rules, each as its source states it, reduced to what the rig has: MIG slices and scenes.

A rule that says nothing of the slice inside a node takes what its device layer takes: the first GPU with a free place,
the lowest start. Locality rules that have no slice rule of their own get the best packer's, which flatters them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from fleet.mig import EIGHT_SLICES, legal_starts
from simulator.gpu_cluster import (
    HAMI_START,
    LOWEST_START,
    NONE,
    POPCOUNT,
    ROOM,
    BestStarts,
    Place,
    best_starts,
    least,
    surviving_placements,
)
from simulator.placement import Fleet, Policy, Request
from simulator.placement_workload import ROLE_SLICES, ROLES, Floats

# kubernetes pkg/scheduler/framework/plugins/imagelocality: scores grow from 23 MB to 1000 MB a container.
_IMAGE_LOW_BYTES = 23e6
_IMAGE_HIGH_BYTES = 1000e6
BOUNDED_LOAD = 1.25  # Mirrokni et al., "Consistent Hashing with Bounded Loads": capacity over mean load


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy without memory."""

    place: Callable[[Fleet, Request], Place | None]

    def choose(self, fleet: Fleet, request: Request) -> Place | None:
        return self.place(fleet, request)

    def placed(self, request: Request, place: Place) -> None:
        """Nothing is remembered."""


def _keys(starts: Floats, score: Floats) -> Floats:
    """[nodes, gpus]: the score where a start is legal, else infinite."""
    return np.where(starts == NONE, np.inf, score)


def _fullest_first(fleet: Fleet) -> Floats:
    fullest: Floats = 8.0 - POPCOUNT[fleet.gpus.masks]
    return fullest


def _first(keys: Floats, starts: Floats) -> Place | None:
    at = least(keys)
    return None if at is None else Place(at[0], at[1], int(starts[at]))


def random_place(fleet: Fleet, request: Request) -> Place | None:
    """Any legal place with the same chance."""
    role = EIGHT_SLICES.role(ROLES[request.role])
    room = ROOM[request.role][fleet.gpus.masks].ravel()
    ends = np.cumsum(room)
    if not ends[-1]:
        return None
    pick = int(fleet.random.integers(ends[-1]))
    flat = int(np.searchsorted(ends, pick, side="right"))
    node, gpu = divmod(flat, fleet.gpus.masks.shape[1])
    starts = legal_starts(int(fleet.gpus.masks[node, gpu]), role)
    return Place(node, gpu, starts[pick - int(ends[flat] - room[flat])])


def dra_lexical(fleet: Fleet, request: Request) -> Place | None:
    """The first device in the order of names: node, GPU, start (KEP-4815's allocator, first fit)."""
    starts = LOWEST_START[request.role][fleet.gpus.masks]
    return _first(_keys(starts, np.zeros(starts.shape)), starts)


def best_fit(fleet: Fleet, request: Request) -> Place | None:
    """The fullest GPU of the fleet that has room, the lowest start."""
    starts = LOWEST_START[request.role][fleet.gpus.masks]
    return _first(_keys(starts, _fullest_first(fleet)), starts)


def hami(fleet: Fleet, request: Request) -> Place | None:
    """HAMi: the node used most, there the GPU used most, 1g and 3g from the top (`mig_topology.go`)."""
    starts = HAMI_START[request.role][fleet.gpus.masks]
    used = fleet.gpus.used_slices[:, None]
    return _first(_keys(starts, _fullest_first(fleet) - 100.0 * used), starts)


def gpushare(fleet: Fleet, request: Request) -> Place | None:
    """gpushare: no say in the node, so the default's least allocated; inside it the tightest GPU that fits."""
    starts = LOWEST_START[request.role][fleet.gpus.masks]
    used = fleet.gpus.used_slices[:, None]
    return _first(_keys(starts, _fullest_first(fleet) + 100.0 * used), starts)


def spread(fleet: Fleet, request: Request) -> Place | None:
    """The emptiest node, there the emptiest GPU."""
    starts = LOWEST_START[request.role][fleet.gpus.masks]
    used = fleet.gpus.used_slices[:, None]
    return _first(_keys(starts, 100.0 * used - _fullest_first(fleet)), starts)


def _node_then_first_slice(fleet: Fleet, request: Request, node_cost: Floats) -> Place | None:
    """The cheapest node with room, ties by a throw of dice as in kube-scheduler; the first GPU, the lowest start."""
    starts = LOWEST_START[request.role][fleet.gpus.masks]
    open_nodes = (starts != NONE).any(axis=1)
    if not open_nodes.any():
        return None
    cost = np.where(open_nodes, node_cost, np.inf)
    node = int(fleet.random.choice(np.flatnonzero(cost == cost.min())))
    gpu = int((starts[node] != NONE).argmax())
    return Place(node, gpu, int(starts[node, gpu]))


def _image_locality(fleet: Fleet, request: Request) -> Floats:
    """[nodes]: the plugin's score, 0 to 100, with the scene as if it were an image."""
    if request.scene < 0:
        return np.zeros(len(fleet.gpus.masks))
    here = fleet.caches.on_disk(request.scene)
    scaled_bytes = fleet.caches.scene_bytes[request.scene] * here.mean()
    clamped = np.clip(scaled_bytes, _IMAGE_LOW_BYTES, _IMAGE_HIGH_BYTES)
    score = 100.0 * (clamped - _IMAGE_LOW_BYTES) / (_IMAGE_HIGH_BYTES - _IMAGE_LOW_BYTES)
    scored: Floats = np.floor(np.where(here, score, 0.0))
    return scored


def _allocated(fleet: Fleet, request: Request) -> Floats:
    """[nodes]: the share of memory slices that is taken once the pod is there, 0 to 100."""
    slices = 8.0 * fleet.gpus.masks.shape[1]
    share: Floats = np.floor(100.0 * (fleet.gpus.used_slices + ROLE_SLICES[request.role]) / slices)
    return share


def default_scheduler(fleet: Fleet, request: Request) -> Place | None:
    """kube-scheduler as it comes: LeastAllocated + ImageLocality, weight 1 each."""
    return _node_then_first_slice(fleet, request, _allocated(fleet, request) - _image_locality(fleet, request))


def most_allocated(fleet: Fleet, request: Request) -> Place | None:
    """kube-scheduler set to MostAllocated, with ImageLocality."""
    return _node_then_first_slice(fleet, request, -_allocated(fleet, request) - _image_locality(fleet, request))


class Packed:
    """The slice whose taking raises a score of masks least, of equals on the fullest GPU; `node_cost` goes first."""

    def __init__(self, score: Floats, node_cost: Callable[[Fleet, Request], Floats] | None = None) -> None:
        self._best: BestStarts = best_starts(score)
        self._node_cost = node_cost

    def choose(self, fleet: Fleet, request: Request) -> Place | None:
        masks = fleet.gpus.masks
        starts = self._best.start[request.role][masks]
        keys = np.round(self._best.added[request.role][masks], 9) * 1e3 + _fullest_first(fleet)
        if self._node_cost is not None:
            cost = np.where((starts != NONE).any(axis=1), self._node_cost(fleet, request), np.inf)
            keys = np.where((cost == cost.min())[:, None], keys, np.inf)
        return _first(keys, starts)

    def placed(self, request: Request, place: Place) -> None:
        """Nothing is remembered."""


def fgd(mix_frequency: tuple[float, ...], size_power: int) -> Packed:
    """Fragmentation gradient descent (Weng et al.), each role weighted by frequency * size^power of the drawn mix."""
    layout_rows = [row for row, role in enumerate(EIGHT_SLICES.roles) if role.name in ROLES]
    order = [ROLES.index(EIGHT_SLICES.roles[row].name) for row in layout_rows]
    weights = np.array([mix_frequency[index] * ROLE_SLICES[index] ** size_power for index in order], np.float64)
    score: Floats = (weights / weights.sum()) @ EIGHT_SLICES.stranded[layout_rows].astype(np.float64)
    return Packed(score)


def fewest_lost_placements() -> Packed:
    """MFI as its abstract reads: the slice that leaves the most legal placements, no knowledge of the demand."""
    return Packed(surviving_placements())


def _absent(fleet: Fleet, request: Request) -> Floats:
    if request.scene < 0:
        return np.zeros(len(fleet.gpus.masks))
    absent: Floats = (~fleet.caches.on_disk(request.scene)).astype(np.float64)
    return absent


def node_affinity(fleet: Fleet, request: Request) -> Place | None:
    """A label per scene and preferred node affinity (Fluid): labelled nodes first, then the default's spread."""
    return _node_then_first_slice(fleet, request, 1000.0 * _absent(fleet, request) + _allocated(fleet, request))


def affinity_packed(demand: Floats) -> Packed:
    """Nodes that hold the scene first, then the best packer."""
    return Packed(demand, _absent)


def _ready(fleet: Fleet, request: Request) -> Floats:
    if request.scene < 0:
        return np.zeros(len(fleet.gpus.masks))
    ready: Floats = np.round(fleet.caches.ready_s(request.scene, fleet.now_s), 6)
    return ready


def time_only(demand: Floats) -> Packed:
    """Least time to ready (ServerlessLLM's rule, remote fetches allowed), then the best packer."""
    return Packed(demand, _ready)


def _ring(fleet: Fleet, request: Request) -> Floats:
    """[nodes]: rendezvous order of the scene's nodes, those above the load bound behind all others."""
    nodes = len(fleet.gpus.masks)
    key = request.scene if request.scene >= 0 else request.uid
    order = np.array([crc32(f"{key}/{node}".encode()) for node in range(nodes)], np.float64)
    used = np.where(fleet.gpus.alive, fleet.gpus.used_slices, 0) + ROLE_SLICES[request.role]
    bound = BOUNDED_LOAD * used[fleet.gpus.alive].mean()
    ring: Floats = order + np.where(used > bound, 2.0**33, 0.0)
    return ring


def bounded_hashing(demand: Floats) -> Packed:
    """Consistent hashing with bounded load, then the best packer inside the node."""
    return Packed(demand, _ring)


def rivals(mix_frequency: tuple[float, ...], demand: Floats) -> dict[str, Callable[[], Policy]]:
    """Every rival by its name in reports; `demand` is F of the drawn mix [256]."""
    return {
        "random": lambda: Rule(random_place),
        "spread": lambda: Rule(spread),
        "default-scheduler": lambda: Rule(default_scheduler),
        "most-allocated": lambda: Rule(most_allocated),
        "gpushare": lambda: Rule(gpushare),
        "hami": lambda: Rule(hami),
        "dra-lexical": lambda: Rule(dra_lexical),
        "best-fit": lambda: Rule(best_fit),
        "mfi": fewest_lost_placements,
        "fgd": lambda: fgd(mix_frequency, 0),
        "fgd-size2": lambda: fgd(mix_frequency, 2),
        "bounded-hashing": lambda: bounded_hashing(demand),
        "node-affinity": lambda: Rule(node_affinity),
        "affinity-packed": lambda: affinity_packed(demand),
        "time-only": lambda: time_only(demand),
    }
