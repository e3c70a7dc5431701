"""The loops of `placement` and `fit`: one pass over the rows of a call where arrays would need forty.

Each adds to arrays of one entry per row of the call, and each is written so that its sums are those of arrays, term by
term: a decision is the same to the last bit. Compiled when this is imported, so that no call waits for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from scheduler_extender.compiled import compiled
from scheduler_extender.scene_table import FETCHING, PEER, RESIDENT

FULLEST_FIRST = 0.02  # of GPUs that lose alike the fullest: memory slices lost for each that is free

_ROWS = types.Array(types.int64, 1, "C", readonly=True)
_FLOATS, _SMALL, _TIERS = types.float64[::1], types.uint8[::1], types.int8[::1]
_COUNTS, _MARKS = types.int32[::1], types.bool_[::1]
_SCENES, _BYTES, _TABLE = types.int32[:, ::1], types.float64[:, ::1], types.float64[:, ::1]
_SLICES = types.uint8[:, ::1]


@compiled(
    types.void(
        _ROWS, _SMALL, types.bool_, types.float64, _FLOATS, _FLOATS, types.float64, _FLOATS,
        _TIERS, _FLOATS, _FLOATS, _FLOATS, _FLOATS,
    )
)  # fmt: skip
def add_scene(
    rows: Any, tiers: Any, copied: bool, size_bytes: float, fetch: Any, read: Any, page_cache: float, remaining: Any,
    worst: Any, missing_bytes: Any, missing_s: Any, load_s: Any, arriving_bytes: Any,
) -> None:  # fmt: skip
    """What a pod finds of one scene. `copied`: nodes serve each other and one has it. `remaining` may be empty."""
    for number in range(rows.size):
        row = rows[number]
        tier = tiers[row]
        if copied and tier < PEER:
            tier = PEER
        worst[number] = min(worst[number], np.int8(tier))
        if tier < FETCHING:
            missing_bytes[number] += size_bytes
            missing_s[number] += size_bytes / fetch[row]
        elif tier == FETCHING and remaining.size:
            arriving_bytes[number] = max(arriving_bytes[number], remaining[row])
        load_s[number] += size_bytes / (page_cache if tier == RESIDENT else read[row])


@compiled(
    types.void(
        _ROWS, _FLOATS, _FLOATS, _FLOATS, _FLOATS, _FLOATS, _FLOATS, _FLOATS, _FLOATS,
        _SCENES, _BYTES, _FLOATS, types.int32[::1], types.float64, _FLOATS, _FLOATS,
    )
)  # fmt: skip
def ready_and_evicted(
    rows: Any, fetch: Any, queued_bytes: Any, free_bytes: Any, capacity_bytes: Any,
    missing_bytes: Any, missing_s: Any, load_s: Any, arriving_bytes: Any,
    victim_scene: Any, victim_bytes: Any, share: Any, own: Any, nodes: float, ready_s: Any, evicted_s: Any,
) -> None:  # fmt: skip
    """Seconds until all scenes are loaded, and seconds of later fetches that making room for them causes.

    Room for one scene of the pod is not made by throwing out another of its `own`.
    """
    for number in range(rows.size):
        row = rows[number]
        pull_s, need = 0.0, 0.0
        if missing_bytes[number] > 0.0:
            pull_s = queued_bytes[row] / fetch[row] + missing_s[number]
            need = missing_bytes[number] + queued_bytes[row] - free_bytes[row]
        ready_s[number] = max(pull_s, arriving_bytes[number] / fetch[row]) + load_s[number]
        if need <= 0.0 or capacity_bytes[row] <= 0.0:
            continue
        lost_bytes = 0.0
        for at in range(victim_scene.shape[0]):
            scene = victim_scene[at, row]
            if scene < 0:
                break
            thrown_bytes = victim_bytes[at, row]
            for index in own:
                if scene == index:
                    thrown_bytes = 0.0
            lost_bytes += thrown_bytes * share[scene]
            need -= thrown_bytes
            if need <= 0.0:
                break
        evicted_s[number] = lost_bytes * nodes / fetch[row]


@compiled(types.void(_ROWS, _SMALL, _SMALL, _SMALL, _TABLE, _SLICES, _FLOATS))
def add_risen(rows: Any, part: Any, before: Any, after: Any, fragmentation: Any, free_slices: Any, added: Any) -> None:
    """Memory slices that the next slice of a profile makes useless to others, the fullest GPU first."""
    for number in range(rows.size):
        row = rows[number]
        kind, taken = part[row], before[row]
        risen = fragmentation[kind, after[row]] - fragmentation[kind, taken]
        added[number] += risen + FULLEST_FIRST * free_slices[kind, taken]


@compiled(types.bool_(_ROWS, _MARKS, _COUNTS, types.int64))
def any_short(rows: Any, counts: Any, free: Any, asked: int) -> bool:
    """Whether any row that `counts` has less free than is asked for."""
    for row in rows:  # noqa: SIM110  # a generator cannot be compiled
        if counts[row] and free[row] < asked:
            return True
    return False


@compiled(types.bool_(_ROWS, _FLOATS, types.float64))
def any_too_small(rows: Any, capacity_bytes: Any, needed_bytes: float) -> bool:
    """Whether any row's cache, where it has one, holds less than is needed."""
    for row in rows:  # noqa: SIM110
        if 0.0 < capacity_bytes[row] < needed_bytes:
            return True
    return False


@compiled(types.void(_ROWS, _COUNTS, _SMALL, _FLOATS, _FLOATS))
def share_of_places(rows: Any, free: Any, part: Any, share: Any, taken: Any) -> None:
    """One of the free places, times the profile's `share` of requests by part; without one where that is empty."""
    for number in range(rows.size):
        row = rows[number]
        taken[number] = 1.0 / max(free[row], 1)
        if share.size:
            taken[number] *= share[part[row]]


@compiled(types.void(_ROWS, _FLOATS, types.float64, _FLOATS))
def weigh_warmth(rows: Any, warmth_bytes: Any, s_per_byte: float, taken: Any) -> None:
    """Times the seconds that the warmth of each row is worth.

    Rounded to the microsecond, so that sums kept in step and sums made anew agree to the last bit.
    """
    for number in range(rows.size):
        warmth_s = max(warmth_bytes[rows[number]], 0.0) * s_per_byte
        taken[number] = np.rint(warmth_s * taken[number] * 1e6) / 1e6
