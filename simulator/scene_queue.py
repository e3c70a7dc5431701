"""The waiting line before pods that hold scenes, event by event, compiled: arrivals, frames, loads, fetches, starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from renderer.gateway.rendezvous import weight
from simulator.queue import Floats, RenderQueue
from simulator.scene_gateway import NO_SCENE, arrive, ask_for_scenes, serve_line
from simulator.scene_loads import ask_load, fetch, fetched, leave, loaded, put, retry, start
from simulator.scene_requests import Scenes
from simulator.scene_state import DISK, HELD, LOADING, NEVER_S, POD, RESIDENT, Books, Terms, empty_fleet


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
            serve_line(fleet, terms, books, fleet.active[at], arrivals, services, all_of.now_s)
        ask_for_scenes(fleet, terms, arrivals, all_of.now_s)
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
            arrive(fleet, terms, books, int(scenes[request]), request, arrivals, services, now_s)
        elif frame < 0:
            slot = _happen(fleet, terms, now_s)
            all_of.stirred = True
        all_of.now_s = now_s
        if slot >= 0:
            serve_line(fleet, terms, books, slot, arrivals, services, now_s)
        if all_of.lines > 0:
            ask_for_scenes(fleet, terms, arrivals, now_s)
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
