"""The waiting line before pods that hold scenes, event by event: the gateway's rule, compiled.

`renderer.gateway.routing.Router` is what is played, asked after every event; a test plays both on the same arrivals.
What its load bound says of two requests a pod at most is that an idle pod goes before one that renders, so the bound
itself is not needed. Unlike the real gateway it sees at once what a pod holds, and it refuses nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from renderer.gateway.rendezvous import weight
from renderer.gateway.routing import Limits
from simulator.queue import Floats, RenderQueue
from simulator.scene_loads import ask_load, fetch, fetched, in_flight, leave, loaded, put, retry, start, visit
from simulator.scene_requests import Scenes
from simulator.scene_state import (
    DISK,
    HELD,
    LOADING,
    NEVER_S,
    POD,
    RESIDENT,
    Books,
    Terms,
    empty_fleet,
)

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
def _serve_line(fleet: Any, terms: Any, books: Any, slot: int, arrivals: Any, services: Any, now_s: float) -> None:
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
def _arrive(
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
def _ask_for_scenes(fleet: Any, terms: Any, arrivals: Any, now_s: float) -> None:
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


@numba.njit(cache=True)
def _look_ahead(fleet: Any) -> None:
    """When the next thing happens but for arrivals and frames that end."""
    all_of = fleet.fleet[0]
    next_s = 1e300
    for node in range(fleet.nodes.size):
        next_s = min(next_s, fleet.nodes[node].end_s)
    for at in range(all_of.loads):
        held = fleet.held[fleet.loads[at].scene, fleet.loads[at].pod]
        if held.state == LOADING:
            next_s = min(next_s, held.end_s)
    if all_of.starting > 0:
        for at in range(all_of.active):
            pod = fleet.pods[fleet.active[at]]
            if not pod.booted:
                next_s = min(next_s, pod.boot_s)
    all_of.next_s, all_of.stirred = next_s, False


@numba.njit(cache=True)
def _happen(fleet: Any, terms: Any, now_s: float) -> int:
    """What is due now besides arrivals and frames; the slot of a pod that may have got something to render, or -1."""
    all_of = fleet.fleet[0]
    all_of.now_s = now_s
    for node in range(fleet.nodes.size):
        if fleet.nodes[node].end_s <= now_s:
            fetched(fleet, terms, node, now_s)
            return -1
    for at in range(all_of.loads):
        held = fleet.held[fleet.loads[at].scene, fleet.loads[at].pod]
        if held.state == LOADING and held.end_s <= now_s:
            return loaded(fleet, terms, at, now_s)
    for at in range(all_of.active):
        slot = fleet.active[at]
        if not fleet.pods[slot].booted and fleet.pods[slot].boot_s <= now_s:
            start(fleet, terms, slot, now_s)
            return int(slot)
    return -1


@numba.njit(cache=True)
def _first_frame(fleet: Any, until_s: float) -> int:
    """The pod whose frame ends first, until then; -1 where none does, or nobody waits for one."""
    all_of, first = fleet.fleet[0], -1
    if all_of.waiting == 0 and all_of.crowded == 0:
        return first
    for at in range(all_of.active):
        end_s = _next_end_s(fleet.pods[fleet.active[at]], all_of.now_s)
        if all_of.now_s < end_s <= until_s:
            first, until_s = fleet.active[at], end_s
    return first


@numba.njit(cache=True)
def _next_end_s(pod: Any, now_s: float) -> float:
    return float(pod.earlier_s if pod.earlier_s > now_s else pod.later_s)


@numba.njit(cache=True)
def _resume(fleet: Any, terms: Any, books: Any, arrivals: Any, services: Any) -> None:
    """Pods came and went since, and what a preload spares may be in use no longer."""
    all_of = fleet.fleet[0]
    for at in range(all_of.active if all_of.crowded > 0 else 0):
        retry(fleet, terms, fleet.active[at], all_of.now_s)
    if all_of.lines > 0:
        for at in range(all_of.active):
            _serve_line(fleet, terms, books, fleet.active[at], arrivals, services, all_of.now_s)
        _ask_for_scenes(fleet, terms, arrivals, all_of.now_s)
    all_of.stirred = True


@numba.njit(cache=True)
def _play(fleet: Any, terms: Any, books: Any, arrivals: Any, services: Any, scenes: Any, until_s: float) -> None:
    """Everything that happens before `until_s`."""
    all_of = fleet.fleet[0]
    _resume(fleet, terms, books, arrivals, services)
    while True:
        if all_of.stirred:
            _look_ahead(fleet)
        arrive_s = arrivals[all_of.head] if all_of.head < arrivals.size else 1e300
        now_s = min(arrive_s, all_of.next_s)
        slot = frame = _first_frame(fleet, now_s)
        if frame >= 0:
            now_s = _next_end_s(fleet.pods[frame], all_of.now_s)
        if now_s >= until_s:
            break
        if frame >= 0 and all_of.crowded > 0:
            retry(fleet, terms, frame, now_s)
        elif frame < 0 and arrive_s <= all_of.next_s:
            request = all_of.head
            all_of.head += 1
            _arrive(fleet, terms, books, int(scenes[request]), request, arrivals, services, now_s)
        elif frame < 0:
            slot = _happen(fleet, terms, now_s)
            all_of.stirred = True
        all_of.now_s = now_s
        if slot >= 0:
            _serve_line(fleet, terms, books, slot, arrivals, services, now_s)
        if all_of.lines > 0:
            _ask_for_scenes(fleet, terms, arrivals, now_s)
    all_of.now_s = until_s


class SceneQueue(RenderQueue):
    """The line and its pods, where every request asks for a scene."""

    def __init__(
        self, arrivals: Floats, arrived: Floats, services: Floats, end_s: float, scenes: Scenes, max_wait_s: float,
        slots: int,
    ) -> None:  # fmt: skip
        """As a RenderQueue; `slots`: pods that there may be at once."""
        super().__init__(arrivals, arrived, services, end_s, max_wait_s)
        setting = scenes.setting
        self._scenes = scenes
        self.fleet = empty_fleet(setting.scenes, slots, setting.nodes, arrivals.size, setting.per_pod)
        self._terms = Terms(setting.per_pod, setting.per_node, setting.load_s, setting.fetch_s, max_wait_s)
        self._books = Books(self._seconds, self._days, self._histogram)
        self._slot: dict[int, int] = {}
        self._free_slots = list(range(slots))[::-1]

    def add(self, pod: int, ready_s: float, node: int = 0, told: Sequence[int] = (), uid: str = "") -> None:
        """A pod whose process runs from `ready_s` on and then loads what it is told."""
        slot = self._slot[pod] = self._free_slots.pop()
        all_of = self.fleet.fleet[0]
        fresh, column = np.zeros(1, POD), np.zeros(self.fleet.held.shape[0], HELD)
        fresh["number"], fresh["node"], fresh["boot_s"], fresh["told"] = pod, node, ready_s, len(told)
        fresh["earlier_s"] = fresh["later_s"] = NEVER_S
        column["weight"] = np.array([weight(name, uid) for name in self._scenes.names], dtype=np.uint64)
        self.fleet.pods[slot], self.fleet.held[:, slot] = fresh[0], column
        self.fleet.told[slot, : len(told)] = told
        self.fleet.active[all_of["active"]] = slot
        all_of["active"] += 1
        all_of["starting"] += 1

    def remove(self, pod: int) -> float:
        slot = self._slot.pop(pod)
        leave(self.fleet, slot)
        self._free_slots.append(slot)
        return float(self.fleet.pods[slot]["later_s"])

    def advance(self, until_s: float, starting_until_s: float) -> None:
        """Play until `until_s`; which pods start is known here."""
        all_of = self.fleet.fleet[0]
        _play(
            self.fleet, self._terms, self._books, self._arrivals, self._services, self._scenes.asked, until_s
        )  # fmt: skip
        self._head, self.cold_requests = int(all_of["head"]), int(all_of["cold"])
        self._sum_until(until_s)

    def begin_with(self, pod: int, node: int, scenes: Sequence[int]) -> None:
        """The pod is ready now and has the scenes; its node has them on its disk, as far as there is room."""
        fleet, slot = self.fleet, self._slot[pod]
        for scene in scenes:
            put(fleet, self._terms, slot, scene)
        start(fleet, self._terms, slot, self.now_s)

    def preload(self, pod: int, scene: int) -> None:
        """Ask a ready pod for a scene that nobody waits for yet."""
        ask_load(self.fleet, self._terms, self._slot[pod], scene, True, self.now_s)

    def fetch(self, node: int, scene: int) -> None:
        """Ask a node for a scene on its disk."""
        fetch(self.fleet, self._terms, node, scene, False, self.now_s)

    def ready_s(self, pod: int) -> float | None:
        """When the pod became ready; None while it is not."""
        state = self.fleet.pods[self._slot[pod]]
        return float(state["ready_s"]) if state["usable"] else None

    def resident(self, pod: int) -> list[int]:
        """Scenes in the pod's memory."""
        return [int(scene) for scene in np.flatnonzero(self.fleet.held["state"][:, self._slot[pod]] == RESIDENT)]

    def told(self, pod: int) -> list[int]:
        """Scenes that the pod loads before it is ready."""
        slot = self._slot[pod]
        return [int(scene) for scene in self.fleet.told[slot, : self.fleet.pods[slot]["told"]]]

    def on_disk(self, node: int) -> list[int]:
        """Scenes that lie whole on the node."""
        return [int(scene) for scene in np.flatnonzero(self.fleet.on_node["state"][node] == DISK)]

    def room_on_disk(self, node: int) -> int:
        """Scenes that the node has room for, beside those on their way."""
        at_node = self.fleet.nodes[node]
        return max(0, self._terms.per_node - int(at_node["scenes"]) - int(at_node["fetches"]))

    def asked_for(self, window_s: float) -> NDArray[np.int64]:
        """[scenes] arrivals over the window."""
        first, last = np.searchsorted(self._arrivals, (self.now_s - window_s, self.now_s))
        return np.bincount(self._scenes.asked[first:last], minlength=len(self._scenes.names))

    def free_times(self) -> dict[int, float]:
        pods = self.fleet.pods
        return {
            pod: float(pods[slot]["later_s"] if pods[slot]["usable"] else max(pods[slot]["boot_s"], self.now_s))
            for pod, slot in self._slot.items()
        }

    @property
    def queued(self) -> int:
        """Requests that have arrived and do not render: in the gateway, and behind a frame in a pod."""
        all_of = self.fleet.fleet[0]
        slots = self.fleet.active[: all_of["active"]]
        return int(all_of["waiting"]) + int((self.fleet.pods["earlier_s"][slots] > self.now_s).sum())

    def finish(self) -> None:
        """Count those who never started as having waited until the end."""
        waiting = []
        all_of = self.fleet.fleet[0]
        for scene in self.fleet.waited_for[: all_of["lines"]]:
            request, line = int(self.fleet.lines[scene]["first"]), self.fleet.lines[scene]
            for _ in range(line["waiting"]):
                waiting.append(request)
                request = int(self.fleet.following[request])
        for scene_cold, request in ((self.fleet.met[request] & NO_SCENE, request) for request in waiting):
            late = self.now_s - self._arrivals[request] > self._max_wait_s
            all_of["cold"] += late and self.fleet.met[request] != 0
            all_of["scene_cold"] += late and scene_cold
        self.cold_requests = int(all_of["cold"])
        self._count_unserved(self.now_s - self._arrivals[waiting], self._arrivals[waiting])

    @property
    def scene_cold_requests(self) -> int:
        """Requests that waited too long and found no ready pod with their scene when they came."""
        return int(self.fleet.fleet[0]["scene_cold"])

    @property
    def scene_loads(self) -> int:
        return int(self.fleet.fleet[0]["loads_done"])

    @property
    def scene_fetches(self) -> int:
        return int(self.fleet.fleet[0]["fetches_done"])
