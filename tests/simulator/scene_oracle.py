"""The fleet with scenes in plain Python: the gateway's own Router, the renderer's own eviction, event after event.

Slow on purpose, and it keeps a diary of every request and every load.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from renderer.eviction import SmallMainFifo
from renderer.gateway.routing import Limits, Pod, Router, Ticket
from simulator.scene_requests import SceneSetting

FRAME, ARRIVAL, FETCH, LOAD, BOOT = range(5)  # kinds of events


@dataclass
class OraclePod:
    uid: str
    node: int
    order: SmallMainFifo[str]
    told: list[str]
    is_ready: bool = False
    resident: set[str] = field(default_factory=set)
    states: dict[str, str] = field(default_factory=dict)  # of what is not resident
    asked: dict[str, int] = field(default_factory=dict)  # the number of the last ask for the scene
    preloads: set[str] = field(default_factory=set)
    used_s: dict[str, float] = field(default_factory=dict)
    frames: list[tuple[float, str]] = field(default_factory=list)  # ends, in order

    def running(self, now_s: float) -> list[str]:
        return [scene for end_s, scene in self.frames if end_s > now_s]


@dataclass
class OracleNode:
    disk: dict[str, float] = field(default_factory=dict)  # scene -> last used
    fetches: list[tuple[str, float, bool]] = field(default_factory=list)  # scene, seconds left, urgent; the first runs
    since_s: float = 0.0


class Oracle:
    """Times are seconds; every event is followed by one ask of the router."""

    def __init__(self, setting: SceneSetting, arrivals: list[tuple[float, str]], services: list[float]) -> None:
        self.setting = setting
        self.arrivals, self.services = arrivals, services
        self.router = Router(Limits(max_pending=1_000_000), dict.fromkeys({scene for _, scene in arrivals}, 1))
        self.pods: dict[str, OraclePod] = {}
        self.nodes = [OracleNode() for _ in range(setting.nodes)]
        self.events: list[tuple[float, int, int, int, Callable[[float], bool | None]]] = []
        self.planned = 0
        self.now_s = 0.0
        self.starts: dict[int, tuple[float, str]] = {}  # request -> begin and pod
        self.met: dict[int, tuple[bool, bool]] = {}  # no ready pod had the scene; a pod was starting
        self.held: dict[tuple[str, str], list[list[float]]] = {}  # pod and scene -> from, until
        self.loads = self.fetched = 0
        for number, (at_s, scene) in enumerate(arrivals):
            self.at(at_s, ARRIVAL, number, lambda now_s, number=number, scene=scene: self._arrive(number, scene, now_s))  # type: ignore[misc]

    def play(self, until_s: float) -> None:
        """Everything that happens before `until_s`."""
        for pod in self.pods.values():
            self._retry(pod, self.now_s)
        self._route(self.now_s)
        while self.events and self.events[0][0] < until_s:
            now_s, *_, act = heappop(self.events)
            if act(now_s) is not False:
                self._route(now_s)
        self.now_s = until_s

    def at(self, when_s: float, kind: int, number: int, act: Callable[[float], bool | None]) -> None:
        """What happens in one moment happens by kind, then by number: frames end first."""
        self.planned += 1
        heappush(self.events, (when_s, kind, number, self.planned, act))

    # Pods.

    def add(self, uid: str, node: int, boot_s: float, told: list[str]) -> None:
        self.pods[uid] = OraclePod(uid, node, SmallMainFifo(self.setting.per_pod), told)
        self.at(boot_s, BOOT, 0, lambda now_s: self._start(uid, now_s))

    def remove(self, uid: str) -> None:
        for scene in self.pods.pop(uid).resident:
            self.held[uid, scene][-1][1] = math.inf
        self._tell_pods()

    def preload(self, uid: str, scene: str, now_s: float) -> None:
        pod = self.pods[uid]
        if scene not in pod.resident and scene not in pod.states:
            self._note(pod, scene)
            pod.states[scene] = "queued"
            pod.preloads.add(scene)
            if all(state == "queued" for state in pod.states.values()):
                self._begin(pod, scene, now_s)

    def _start(self, uid: str, now_s: float) -> bool:
        pod = self.pods.get(uid)
        if pod is None or pod.is_ready:
            return False
        missing = [scene for scene in pod.told if scene not in pod.resident]
        if missing:
            if missing[0] not in pod.states:
                self._load(pod, missing[0], now_s)
            return True
        pod.is_ready = True
        self._tell_pods()
        self.router.set_resident(uid, dict.fromkeys(pod.resident, 1), now_s)
        return True

    def _tell_pods(self) -> None:
        budget = self.setting.per_pod
        self.router.set_pods(Pod(p.uid, str(p.node), True, budget) for p in self.pods.values() if p.is_ready)

    def _load(self, pod: OraclePod, scene: str, now_s: float) -> None:
        """Somebody waits for it."""
        pod.preloads.discard(scene)
        state = pod.states.get(scene)
        if state in (None, "queued"):
            if state is None:
                self._note(pod, scene)
            self._begin(pod, scene, now_s)
        elif state == "crowded":
            self._read(pod, scene, now_s)

    def _note(self, pod: OraclePod, scene: str) -> None:
        self.planned += 1
        pod.asked[scene] = self.planned

    def _begin(self, pod: OraclePod, scene: str, now_s: float) -> None:
        pod.states[scene] = "fetching"
        if scene in self.nodes[pod.node].disk:
            self._read(pod, scene, now_s)
        else:
            self.fetch(pod.node, scene, True, now_s)

    def _read(self, pod: OraclePod, scene: str, now_s: float) -> None:
        if scene in self.nodes[pod.node].disk:
            self.nodes[pod.node].disk[scene] = now_s
        if not self._make_room(pod, scene in pod.preloads, now_s):
            pod.states[scene] = "crowded"
            return
        pod.states[scene] = "loading"
        self.at(now_s + self.setting.load_s, LOAD, pod.asked[scene], lambda now_s: self._loaded(pod, scene, now_s))

    def _make_room(self, pod: OraclePod, preload: bool, now_s: float) -> bool:
        spared_s = now_s - 5.0 if preload else math.inf
        while True:
            running = set(pod.running(now_s))
            held = len(pod.resident) + sum(state == "loading" for state in pod.states.values())
            if held + len(running - pod.resident) + 1 <= self.setting.per_pod:
                return True
            if held + 1 <= self.setting.per_pod:
                return False
            fresh = {scene for scene, used_s in pod.used_s.items() if used_s >= spared_s}
            scene = pod.order.next_to_go(lambda scene: scene not in running | fresh)  # noqa: B023
            scene = scene or pod.order.next_to_go(lambda scene: scene not in fresh)  # noqa: B023
            if scene is None:
                return False
            pod.order.went(scene)
            pod.resident.remove(scene)
            self.held[pod.uid, scene][-1][1] = now_s
            self.router.set_resident(pod.uid, dict.fromkeys(pod.resident, 1), math.inf)

    def _loaded(self, pod: OraclePod, scene: str, now_s: float) -> bool:
        if self.pods.get(pod.uid) is not pod:
            return False
        del pod.states[scene]
        pod.preloads.discard(scene)
        self.loads += 1
        pod.resident.add(scene)
        pod.order.came(scene, 1)
        pod.used_s[scene] = -math.inf
        self.held.setdefault((pod.uid, scene), []).append([now_s, math.inf])
        self.router.warm_ended(pod.uid, scene, now_s, resident=True)
        self.router.set_resident(pod.uid, dict.fromkeys(pod.resident, 1), math.inf)
        self._start(pod.uid, now_s)
        self._retry(pod, now_s)
        return True

    def _retry(self, pod: OraclePod, now_s: float) -> None:
        for scene, state in list(pod.states.items()):
            if state == "crowded":
                self._read(pod, scene, now_s)
            elif state == "queued" and not any(other != "queued" for other in pod.states.values()):
                self._begin(pod, scene, now_s)

    # Nodes.

    def fetch(self, number: int, scene: str, urgent: bool, now_s: float) -> None:
        node = self.nodes[number]
        if scene in node.disk:
            return
        if node.fetches:
            name, left_s, was_urgent = node.fetches[0]
            node.fetches[0] = (name, left_s - (now_s - node.since_s), was_urgent)
        node.since_s = now_s
        left_s = self.setting.fetch_s
        before = next((entry for entry in node.fetches if entry[0] == scene), None)
        if before is not None:
            if before[2] or not urgent:
                self._run_fetch(number)
                return
            node.fetches.remove(before)
            left_s = before[1]
        ahead = sum(entry[2] for entry in node.fetches) if urgent else len(node.fetches)
        node.fetches.insert(ahead, (scene, left_s, urgent))
        self._run_fetch(number)

    def _run_fetch(self, number: int) -> None:
        node = self.nodes[number]
        if node.fetches:
            scene, left_s, _ = node.fetches[0]
            began_s, end_s = node.since_s, node.since_s + left_s
            self.at(end_s, FETCH, number, lambda now_s: self._fetched(number, scene, began_s, now_s))

    def _fetched(self, number: int, scene: str, began_s: float, now_s: float) -> bool:
        node = self.nodes[number]
        if not node.fetches or node.fetches[0][0] != scene or node.since_s != began_s:
            return False  # was put back meanwhile
        node.fetches.pop(0)
        node.since_s = now_s
        self.fetched += 1
        if len(node.disk) == self.setting.per_node:
            del node.disk[min(node.disk, key=lambda name: (node.disk[name], name))]
        node.disk[scene] = now_s
        self._run_fetch(number)
        waiting = [p for p in self.pods.values() if p.node == number and p.states.get(scene) == "fetching"]
        for pod in sorted(waiting, key=lambda pod: pod.asked[scene]):  # their loads end in one moment, in this order
            self._read(pod, scene, now_s)
        return True

    # Requests.

    def _arrive(self, number: int, scene: str, now_s: float) -> None:
        starting = any(not pod.is_ready for pod in self.pods.values())
        cold = self.router.arrive(Ticket(number, scene, now_s)) != "none"
        self.met[number] = (cold, starting)

    def _route(self, now_s: float) -> None:
        for number, node in enumerate(self.nodes):
            self.router.set_on_disk(str(number), node.disk)
        step = self.router.assign(now_s)
        for ticket, uid in step.hands:
            pod = self.pods[uid]
            begin_s = max(pod.frames[-1][0] if pod.frames else 0.0, now_s)
            end_s = begin_s + self.services[ticket.number % len(self.services)]
            pod.frames.append((end_s, ticket.scene))
            if now_s - pod.used_s[ticket.scene] >= 10.0 and pod.used_s[ticket.scene] != -math.inf:
                pod.order.visited(ticket.scene)
            pod.used_s[ticket.scene] = now_s
            self.starts[ticket.number] = (begin_s, uid)
            self.at(end_s, FRAME, 0, lambda now_s, pod=pod: self._done(pod, now_s))  # type: ignore[misc]
        for scene, uid in step.warms:
            self._load(self.pods[uid], scene, now_s)

    def _done(self, pod: OraclePod, now_s: float) -> bool:
        self.router.release(pod.uid)
        if self.pods.get(pod.uid) is not pod:
            return False
        self._retry(pod, now_s)
        return True
