"""What the gateway does with a request for a scene, compiled: which pod renders it, which loads what is waited for.

`renderer.gateway.routing.Router` is what is played, asked after every event; a test plays both on the same arrivals.
What its load bound says of two requests a pod at most is that an idle pod goes before one that renders, so the bound
itself is not needed. Unlike the real gateway it sees at once what a pod holds, and it refuses nobody.

numba's cache looks at the file of a loop alone: after an edit here touch scene_queue.py.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from renderer.gateway.routing import Limits
from simulator.scene_loads import ask_load, in_flight, visit
from simulator.scene_state import DISK, RESIDENT

_LIMITS = Limits()
MAX_IN_FLIGHT = _LIMITS.max_in_flight_per_pod
SPILL_PENDING = _LIMITS.spill_pending
SPILL_WAIT_S = _LIMITS.spill_wait_s
NO_SCENE, STARTING = 1, 2  # bits of what a request met


@numba.njit(cache=True)
def _hand(
    fleet: Any, terms: Any, books: Any, slot: int, scene: int, request: int, met: int, arrivals: Any, services: Any,
    now_s: float,
) -> None:  # fmt: skip
    """The pod renders the request now, or after the frame that it renders."""
    pod, all_of = fleet.pods[slot], fleet.fleet[0]
    begin_s = max(pod.later_s, now_s)
    service_s = services[request % services.size]
    pod.earlier_s, pod.earlier_scene = pod.later_s, pod.later_scene
    pod.later_s, pod.later_scene = begin_s + service_s, scene
    visit(fleet, slot, scene, now_s)
    wait_s = begin_s - arrivals[request]
    second, last = int(begin_s), books.seconds.shape[0] - 1
    row = books.seconds[min(second, last)]
    row[0] += wait_s
    row[1] += service_s
    row[2] += 1.0
    books.seconds[min(int(begin_s + service_s), last), 4] += 1.0
    day = books.days[int(arrivals[request] / 86_400.0)]
    day[0] += 1
    if wait_s > terms.max_wait_s:
        day[1] += 1
        row[3] += 1.0
        all_of.cold += met != 0
        all_of.scene_cold += (met & 1) != 0
    if wait_s > 1e-3:
        books.histogram[min(int((np.log10(wait_s) + 3.0) * 50.0) + 1, books.histogram.size - 1)] += 1
    else:
        books.histogram[0] += 1


@numba.njit(cache=True)
def serve_line(fleet: Any, terms: Any, books: Any, slot: int, arrivals: Any, services: Any, now_s: float) -> None:
    """Hand the pod the oldest requests of the scenes that it holds, until it has its two."""
    pod, all_of = fleet.pods[slot], fleet.fleet[0]
    while pod.usable and in_flight(pod, now_s) < MAX_IN_FLIGHT:
        best = -1
        for at in range(all_of.lines):
            scene = fleet.waited_for[at]
            older = best < 0 or fleet.lines[scene].first < fleet.lines[fleet.waited_for[best]].first
            if fleet.held[scene, slot].state == RESIDENT and older:
                best = at
        if best < 0:
            return
        scene = fleet.waited_for[best]
        line = fleet.lines[scene]
        request = line.first
        line.waiting -= 1
        all_of.waiting -= 1
        if line.waiting > 0:
            line.first = fleet.following[request]
        else:
            all_of.lines -= 1
            for at in range(best, all_of.lines):
                fleet.waited_for[at] = fleet.waited_for[at + 1]
        _hand(fleet, terms, books, slot, scene, request, fleet.met[request], arrivals, services, now_s)


@numba.njit(cache=True)
def arrive(
    fleet: Any, terms: Any, books: Any, scene: int, request: int, arrivals: Any, services: Any, now_s: float
) -> None:
    """To an idle pod with the scene, else to one that renders, by the scene's preference; else into the line."""
    all_of, line = fleet.fleet[0], fleet.lines[scene]
    met = STARTING if all_of.starting > 0 else 0
    best, best_load, holders = -1, MAX_IN_FLIGHT, 0
    for at in range(all_of.active):
        slot = fleet.active[at]
        if fleet.held[scene, slot].state != RESIDENT or not fleet.pods[slot].usable:
            continue
        holders += 1
        load = in_flight(fleet.pods[slot], now_s)
        if load < best_load or (
            best >= 0 and load == best_load and fleet.held[scene, slot].weight > fleet.held[scene, best].weight
        ):
            best, best_load = slot, load
    if holders == 0:
        met |= NO_SCENE
    if best >= 0:
        _hand(fleet, terms, books, best, scene, request, met, arrivals, services, now_s)
        return
    fleet.met[request] = met
    if line.waiting == 0:
        line.first = request
        fleet.waited_for[all_of.lines] = scene
        all_of.lines += 1
    else:
        fleet.following[line.last] = request
    line.last = request
    line.waiting += 1
    all_of.waiting += 1


@numba.njit(cache=True)
def _comes_first(fleet: Any, terms: Any, scene: int, slot: int, best: int) -> bool:
    """Whether the scene is rather loaded into `slot`: on its disk, room, fewest loads, most free, preference."""
    if best < 0:
        return True
    one, other = fleet.pods[slot], fleet.pods[best]
    on_disk = fleet.on_node[one.node, scene].state == DISK
    if on_disk != (fleet.on_node[other.node, scene].state == DISK):
        return bool(on_disk)
    fits = one.resident + one.asked + 1 <= terms.per_pod
    if fits != (other.resident + other.asked + 1 <= terms.per_pod):
        return bool(fits)
    if one.asked != other.asked:
        return bool(one.asked < other.asked)
    if one.resident != other.resident:
        return bool(one.resident < other.resident)
    return bool(fleet.held[scene, slot].weight > fleet.held[scene, best].weight)


@numba.njit(cache=True)
def _pod_for(fleet: Any, terms: Any, scene: int, spill_above: int, now_s: float) -> int:
    """Where the scene is loaded, -1: nowhere.

    `spill_above` >= 0: for one more copy, so the pod is idle and has room, unless more than that many wait.
    """
    best = -1
    for at in range(fleet.fleet[0].active):
        slot = fleet.active[at]
        pod, held = fleet.pods[slot], fleet.held[scene, slot]
        if not pod.usable or held.state == RESIDENT or held.asked:
            continue
        if spill_above >= 0:
            crowded = pod.resident + pod.asked + 1 > terms.per_pod and fleet.lines[scene].waiting <= spill_above
            if crowded or pod.asked > 0 or in_flight(pod, now_s) > 0:
                continue
        if _comes_first(fleet, terms, scene, slot, best):
            best = slot
    return best


@numba.njit(cache=True)
def _waits_enough(fleet: Any, scene: int, arrivals: Any, now_s: float) -> int:
    """Whether a pod should load the scene: -2 none, -1 because none has it, else to spill, as _pod_for takes it."""
    line = fleet.lines[scene]
    copies = asked = 0
    for at in range(fleet.fleet[0].active):
        slot = fleet.active[at]
        if fleet.pods[slot].usable:
            copies += fleet.held[scene, slot].state == RESIDENT
            asked += fleet.held[scene, slot].asked
    if copies + asked == 0:
        return -1
    fair = SPILL_PENDING * (copies + asked)
    if copies == 0 or (asked > 0 and line.waiting <= fair):
        return -2
    if line.waiting <= fair and now_s - arrivals[line.first] <= SPILL_WAIT_S:
        return -2
    return 2 * fair


@numba.njit(cache=True)
def ask_for_scenes(fleet: Any, terms: Any, arrivals: Any, now_s: float) -> None:
    """Scenes that somebody waits for: into one pod where none has them, into one more where those are busy."""
    asks = 0
    for at in range(fleet.fleet[0].lines):
        scene = fleet.waited_for[at]
        spill_above = _waits_enough(fleet, scene, arrivals, now_s)
        slot = _pod_for(fleet, terms, scene, spill_above, now_s) if spill_above > -2 else -1
        if slot >= 0:
            fleet.held[scene, slot].asked = True
            fleet.pods[slot].asked += 1
            fleet.asks[asks].pod, fleet.asks[asks].scene = slot, scene
            asks += 1
    for at in range(asks):  # after all were chosen: a load may evict what another choice was made by
        ask_load(fleet, terms, fleet.asks[at].pod, fleet.asks[at].scene, False, now_s)
