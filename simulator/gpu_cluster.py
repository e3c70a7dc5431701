"""MIG GPUs as occupancy masks [nodes, gpus]: where a slice of a role may go, and how good each place is.

Slices are cut when a pod starts and freed when it ends, as a driver with dynamic partitions (DRA) does; nothing moves.
Every rule is a table over the 256 masks, so one look-up answers for all GPUs at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fleet.mig import EIGHT_SLICES, legal_starts
from simulator.placement_workload import ROLES, Floats

Masks = NDArray[np.uint8]
NONE = -1  # no legal start
POPCOUNT: NDArray[np.int64] = np.array([mask.bit_count() for mask in range(256)])


def _table(choose: Callable[[tuple[int, ...], str], int]) -> NDArray[np.int8]:
    roles = [EIGHT_SLICES.role(name) for name in ROLES]
    rows = [[legal_starts(mask, role) for mask in range(256)] for role in roles]
    return np.array(
        [[choose(starts, name) if starts else NONE for starts in row] for name, row in zip(ROLES, rows, strict=True)],
        np.int8,
    )


# [roles, masks]: the start that a rule takes, NONE where no legal one is free.
LOWEST_START = _table(lambda starts, _: starts[0])
# HAMi (`mig_topology.go`): 1g and 3g from the top, the others from the bottom.
HAMI_START = _table(lambda starts, role: starts[-1] if role in ("1g", "3g") else starts[0])
# [roles, masks]: how many slices of the role still fit; legal starts of one role never overlap.
ROOM = EIGHT_SLICES.places[[EIGHT_SLICES.roles.index(EIGHT_SLICES.role(name)) for name in ROLES]].astype(np.int64)
_BITS = np.array([[EIGHT_SLICES.role(name).mask(0) << start for start in range(8)] for name in ROLES])


def slice_bits(role: int, start: int) -> int:
    """The memory slices that a role takes from `start` on."""
    return int(_BITS[role, start])


@dataclass(frozen=True, slots=True, eq=False)
class BestStarts:
    """Per role and mask the start that raises a score of masks least, and by how much; infinite where none is legal."""

    start: NDArray[np.int8]
    added: Floats


def best_starts(score: Floats) -> BestStarts:
    """The starts that raise `score` [256] least, the lowest of equals."""
    start = np.full((len(ROLES), 256), NONE, np.int8)
    added = np.full((len(ROLES), 256), np.inf)
    every = np.arange(256)
    for row, name in enumerate(ROLES):
        role = EIGHT_SLICES.role(name)
        for candidate in role.starts:
            bits = role.mask(candidate)
            rise = np.where(every & bits, np.inf, score[every | bits] - score)
            better = rise < added[row] - 1e-12
            added[row] = np.where(better, rise, added[row])
            start[row] = np.where(better, candidate, start[row])
    return BestStarts(start, added)


@lru_cache(1)
def surviving_placements() -> Floats:
    """[256]: minus how many legal placements of any role are left: the fewer, the higher."""
    counted: Floats = -ROOM.sum(axis=0).astype(np.float64)
    return counted


@dataclass(frozen=True, slots=True)
class Place:
    """Where a slice goes."""

    node: int
    gpu: int
    start: int


class GpuCluster:
    """What is taken of every GPU; a node that is lost has no GPU free."""

    def __init__(self, nodes: int, gpus_per_node: int) -> None:
        self.masks: Masks = np.zeros((nodes, gpus_per_node), np.uint8)
        self.alive = np.ones(nodes, np.bool_)

    @property
    def used_slices(self) -> NDArray[np.int64]:
        """[nodes]: memory slices taken; all of them on a lost node."""
        used: NDArray[np.int64] = POPCOUNT[self.masks].sum(axis=1)
        return used

    def take(self, role: int, place: Place) -> None:
        bits = slice_bits(role, place.start)
        if self.masks[place.node, place.gpu] & bits:
            raise AssertionError(f"{ROLES[role]} at {place} overlaps mask {self.masks[place.node, place.gpu]:08b}")
        self.masks[place.node, place.gpu] |= bits

    def free(self, role: int, place: Place) -> None:
        self.masks[place.node, place.gpu] &= 0xFF ^ slice_bits(role, place.start)

    def lose(self, node: int) -> None:
        self.alive[node] = False
        self.masks[node] = 0xFF

    def restore(self, node: int) -> None:
        self.alive[node] = True
        self.masks[node] = 0


def least(keys: Floats) -> tuple[int, int] | None:
    """(node, GPU) of the least finite key of [nodes, gpus], the first of equals; None where none is finite."""
    flat = int(keys.argmin())
    node, gpu = divmod(flat, keys.shape[1])
    return (node, gpu) if np.isfinite(keys[node, gpu]) else None
