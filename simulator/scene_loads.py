"""How scenes come into pods, compiled: the node's link, its disk, the pod's memory.

The renderer's rules, counted in scenes of one size. A node fetches one scene after another, what a pod loads before
what is only asked onto the disk; what runs is put back for it and keeps what it has. A pod reads any number of scenes
at once, beside its frames; the ones that it is told at its start one after another. Memory is renderer.eviction's
S3-FIFO. A scene that a frame uses goes last of all, and its room is free when the frame ends.

numba's cache looks at the file of a loop alone: after an edit here touch scene_queue.py.
"""

from __future__ import annotations

from typing import Any

import numba

from simulator.scene_state import (
    ABSENT,
    COMING,
    CROWDED,
    DISK,
    FETCHING,
    LOADING,
    MOST_VISITS,
    NEVER_S,
    PRELOAD_SPARES_S,
    QUEUED,
    REMOTE,
    RESIDENT,
    SMALL_SHARE,
    VISIT_S,
)


@numba.njit(cache=True)
def in_flight(pod: Any, now_s: float) -> int:
    return int(pod.earlier_s > now_s) + int(pod.later_s > now_s)


@numba.njit(cache=True)
def _in_use(pod: Any, scene: int, now_s: float) -> bool:
    earlier = pod.earlier_s > now_s and pod.earlier_scene == scene
    return bool(earlier or (pod.later_s > now_s and pod.later_scene == scene))


@numba.njit(cache=True)
def visit(fleet: Any, slot: int, scene: int, now_s: float) -> None:
    """A frame uses the scene."""
    held = fleet.held[scene, slot]
    before_s = held.used_s
    held.used_s = now_s
    if before_s != NEVER_S and now_s - before_s >= VISIT_S:
        held.visits = min(held.visits + 1, MOST_VISITS)


@numba.njit(cache=True)
def _came(fleet: Any, slot: int, scene: int) -> None:
    pod, held = fleet.pods[slot], fleet.held[scene, slot]
    held.state, held.used_s, held.visits = RESIDENT, NEVER_S, 0
    pod.resident += 1
    pod.sequence += 1
    held.order = pod.sequence
    held.main = held.ghost > 0
    if held.main:
        held.ghost = 0
        pod.ghosts -= 1
    else:
        pod.small += 1


@numba.njit(cache=True)
def _went(fleet: Any, terms: Any, slot: int, scene: int) -> None:
    pod, held = fleet.pods[slot], fleet.held[scene, slot]
    held.state = ABSENT
    pod.resident -= 1
    if held.main:
        return
    pod.small -= 1
    pod.sequence += 1
    held.ghost = pod.sequence
    pod.ghosts += 1
    while pod.ghosts > terms.per_pod - SMALL_SHARE * terms.per_pod:
        oldest = -1
        for other in range(fleet.held.shape[0]):
            ghost = fleet.held[other, slot].ghost
            if ghost > 0 and (oldest < 0 or ghost < fleet.held[oldest, slot].ghost):
                oldest = other
        fleet.held[oldest, slot].ghost = 0
        pod.ghosts -= 1


@numba.njit(cache=True)
def _next_to_go(fleet: Any, terms: Any, slot: int, now_s: float, unused: bool, before_s: float) -> int:
    """The scene to evict, -1 where none may go; `before_s`: one that was used since then may not."""
    pod = fleet.pods[slot]
    while True:
        small = main = -1
        for scene in range(fleet.held.shape[0]):
            held = fleet.held[scene, slot]
            if held.state != RESIDENT or held.used_s >= before_s or (unused and _in_use(pod, scene, now_s)):
                continue
            if held.main:
                if main < 0 or held.order < fleet.held[main, slot].order:
                    main = scene
            elif small < 0 or held.order < fleet.held[small, slot].order:
                small = scene
        if small < 0 and main < 0:
            return -1
        pod.sequence += 1
        if small >= 0 and (main < 0 or pod.small >= SMALL_SHARE * terms.per_pod):
            held = fleet.held[small, slot]
            if held.visits <= 1:
                return small
            held.visits, held.main, held.order = 0, True, pod.sequence
            pod.small -= 1
        else:
            held = fleet.held[main, slot]
            if held.visits == 0:
                return main
            held.visits -= 1
            held.order = pod.sequence


@numba.njit(cache=True)
def _draining(fleet: Any, slot: int, now_s: float) -> int:
    """Scenes that frames use and that are in memory on paper no longer."""
    pod = fleet.pods[slot]
    earlier = pod.earlier_s > now_s and fleet.held[pod.earlier_scene, slot].state != RESIDENT
    later = pod.later_s > now_s and fleet.held[pod.later_scene, slot].state != RESIDENT
    if earlier and later and pod.earlier_scene == pod.later_scene:
        return 1
    return int(earlier) + int(later)


@numba.njit(cache=True)
def _make_room(fleet: Any, terms: Any, slot: int, preload: bool, now_s: float) -> bool:
    pod = fleet.pods[slot]
    before_s = now_s - PRELOAD_SPARES_S if preload else 1e300
    while True:
        draining = _draining(fleet, slot, now_s)
        held = pod.resident + pod.loading
        if held + draining + 1 <= terms.per_pod:
            return True
        if held + 1 <= terms.per_pod:
            return False  # enough drains
        scene = _next_to_go(fleet, terms, slot, now_s, True, before_s)
        if scene < 0:
            scene = _next_to_go(fleet, terms, slot, now_s, False, before_s)
        if scene < 0:
            return False
        _went(fleet, terms, slot, scene)


@numba.njit(cache=True)
def _read(fleet: Any, terms: Any, slot: int, scene: int, now_s: float) -> None:
    """The scene lies on the node's disk: read it, where there is room for it."""
    held, all_of = fleet.held[scene, slot], fleet.fleet[0]
    fleet.on_node[fleet.pods[slot].node, scene].used_s = now_s
    crowded = held.state == CROWDED
    if _make_room(fleet, terms, slot, held.preload, now_s):
        all_of.crowded -= crowded
        held.state, held.end_s = LOADING, now_s + terms.load_s
        all_of.stirred = True
        fleet.pods[slot].loading += 1
    elif not crowded:
        held.state = CROWDED
        all_of.crowded += 1


@numba.njit(cache=True)
def _begin(fleet: Any, terms: Any, slot: int, scene: int, now_s: float) -> None:
    pod, held = fleet.pods[slot], fleet.held[scene, slot]
    pod.under_way += 1
    if fleet.on_node[pod.node, scene].state == DISK:
        _read(fleet, terms, slot, scene, now_s)
    else:
        held.state = FETCHING
        fetch(fleet, terms, pod.node, scene, True, now_s)


@numba.njit(cache=True)
def ask_load(fleet: Any, terms: Any, slot: int, scene: int, preload: bool, now_s: float) -> None:
    """Have the scene in the pod's memory; a preload waits until the pod loads nothing, and evicts nothing in use."""
    all_of, held = fleet.fleet[0], fleet.held[scene, slot]
    if held.state == ABSENT:
        held.preload = preload
        held.state = QUEUED
        fleet.loads[all_of.loads].pod, fleet.loads[all_of.loads].scene = slot, scene
        all_of.loads += 1
    elif not preload:
        held.preload = False  # somebody waits for it now
    if held.state == QUEUED and (not preload or fleet.pods[slot].under_way == 0):
        _begin(fleet, terms, slot, scene, now_s)
    elif held.state == CROWDED:
        _read(fleet, terms, slot, scene, now_s)


@numba.njit(cache=True)
def fetch(fleet: Any, terms: Any, node: int, scene: int, urgent: bool, now_s: float) -> None:
    """Have the scene on the node's disk."""
    at_node, queue = fleet.nodes[node], fleet.fetches[node]
    place = fleet.on_node[node, scene]
    if place.state == DISK:
        return
    if at_node.fetches > 0:
        queue[0].left_s = at_node.end_s - now_s
    at, left_s = at_node.fetches, terms.fetch_s
    if place.state == COMING:
        at = 0
        while queue[at].scene != scene:
            at += 1
        if queue[at].urgent or not urgent:
            return
        left_s = queue[at].left_s
    else:
        place.state = COMING
        at_node.fetches += 1
    while urgent and at > 0 and not queue[at - 1].urgent:
        queue[at].scene, queue[at].left_s = queue[at - 1].scene, queue[at - 1].left_s
        queue[at].urgent = False
        at -= 1
    queue[at].scene, queue[at].left_s, queue[at].urgent = scene, left_s, urgent
    at_node.end_s = now_s + queue[0].left_s
    fleet.fleet[0].stirred = True


@numba.njit(cache=True)
def fetched(fleet: Any, terms: Any, node: int, now_s: float) -> None:
    """The first fetch of the node ends: the scene lies there, what was used least goes, and pods read it."""
    at_node, queue, all_of = fleet.nodes[node], fleet.fetches[node], fleet.fleet[0]
    scene = queue[0].scene
    at_node.fetches -= 1
    all_of.fetches_done += 1
    for at in range(at_node.fetches):
        queue[at].scene, queue[at].left_s, queue[at].urgent = (
            queue[at + 1].scene, queue[at + 1].left_s, queue[at + 1].urgent,
        )  # fmt: skip
    at_node.end_s = now_s + queue[0].left_s if at_node.fetches > 0 else 1e300
    if at_node.scenes == terms.per_node:
        oldest = -1
        for other in range(fleet.held.shape[0]):
            place = fleet.on_node[node, other]
            if place.state == DISK and (oldest < 0 or place.used_s < fleet.on_node[node, oldest].used_s):
                oldest = other
        fleet.on_node[node, oldest].state = REMOTE
        at_node.scenes -= 1
    fleet.on_node[node, scene].state, fleet.on_node[node, scene].used_s = DISK, now_s
    at_node.scenes += 1
    for at in range(all_of.loads):
        slot = fleet.loads[at].pod
        waits = fleet.loads[at].scene == scene and fleet.held[scene, slot].state == FETCHING
        if waits and fleet.pods[slot].node == node:
            _read(fleet, terms, slot, scene, now_s)


@numba.njit(cache=True)
def _forget(fleet: Any, at: int) -> None:
    all_of = fleet.fleet[0]
    all_of.loads -= 1
    for other in range(at, all_of.loads):
        fleet.loads[other].pod, fleet.loads[other].scene = fleet.loads[other + 1].pod, fleet.loads[other + 1].scene


@numba.njit(cache=True)
def loaded(fleet: Any, terms: Any, at: int, now_s: float) -> int:
    """A load ends; the pod's slot."""
    slot, scene, all_of = fleet.loads[at].pod, fleet.loads[at].scene, fleet.fleet[0]
    pod, held = fleet.pods[slot], fleet.held[scene, slot]
    _forget(fleet, at)
    all_of.loads_done += 1
    pod.loading -= 1
    pod.under_way -= 1
    pod.asked -= held.asked
    held.asked = False
    _came(fleet, slot, scene)
    if not pod.usable:
        pod.loaded += 1
    start(fleet, terms, slot, now_s)
    retry(fleet, terms, slot, now_s)
    return int(slot)


@numba.njit(cache=True)
def retry(fleet: Any, terms: Any, slot: int, now_s: float) -> None:
    """Something changed in the pod: loads that had no room, or let others go first, may go on."""
    for at in range(fleet.fleet[0].loads):
        if fleet.loads[at].pod == slot:
            scene = fleet.loads[at].scene
            if fleet.held[scene, slot].state == CROWDED:
                _read(fleet, terms, slot, scene, now_s)
            elif fleet.held[scene, slot].state == QUEUED and fleet.pods[slot].under_way == 0:
                _begin(fleet, terms, slot, scene, now_s)


@numba.njit(cache=True)
def start(fleet: Any, terms: Any, slot: int, now_s: float) -> None:
    """The pod's process runs: it loads what it was told, one after another, and is ready then."""
    pod = fleet.pods[slot]
    if pod.usable or pod.boot_s > now_s:
        return
    pod.booted = True
    if pod.loaded < pod.told:
        scene = fleet.told[slot, pod.loaded]
        if fleet.held[scene, slot].state == ABSENT:
            ask_load(fleet, terms, slot, scene, False, now_s)
        return
    pod.usable, pod.ready_s = True, now_s
    fleet.fleet[0].starting -= 1


@numba.njit(cache=True)
def leave(fleet: Any, slot: int) -> None:
    """The pod is gone with its loads; its node goes on with what it fetches."""
    all_of = fleet.fleet[0]
    all_of.starting -= not fleet.pods[slot].usable
    at = 0
    while at < all_of.loads:
        if fleet.loads[at].pod == slot:
            all_of.crowded -= fleet.held[fleet.loads[at].scene, slot].state == CROWDED
            _forget(fleet, at)
        else:
            at += 1
    at = 0
    while fleet.active[at] != slot:
        at += 1
    all_of.active -= 1
    fleet.active[at] = fleet.active[all_of.active]
    fleet.pods[slot].usable = False


@numba.njit(cache=True)
def put(fleet: Any, terms: Any, slot: int, scene: int) -> None:
    """The pod has the scene, and so has its node where there is room, without anything being moved."""
    node = fleet.pods[slot].node
    _came(fleet, slot, scene)
    if fleet.on_node[node, scene].state == REMOTE and fleet.nodes[node].scenes < terms.per_node:
        fleet.on_node[node, scene].state, fleet.on_node[node, scene].used_s = DISK, -scene  # the rarest goes first
        fleet.nodes[node].scenes += 1
