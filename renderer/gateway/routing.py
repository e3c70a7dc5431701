"""Which request goes to which pod, what waits, and which scene is warmed where: the core of the gateway.

One `Router` a pool. It holds plain values; the time comes with every call that needs it. `assign` is asked after
every change and answers with what to do now; whoever asked does it and reports back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Literal

from renderer.gateway.rendezvous import choose, weight

Cold = Literal["none", "pod", "scene"]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as routing sees it; `usable` is ready, not draining and answering."""

    uid: str
    node: str
    usable: bool
    budget_bytes: int = 0  # 0 is not known


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a pod and the gateway take on."""

    max_in_flight_per_pod: int = 2  # one renders, one waits in Triton so that the pod never idles
    max_pending: int = 256
    spill_pending: int = 3  # requests that may wait for each copy of a scene before it gets another
    spill_wait_s: float = 0.15  # ... or the wait of the oldest of them
    failed_load_s: float = 5.0  # a pod that failed to load a scene is not asked again for so long


class QueueFull(Exception):
    """The pool holds as many waiting requests as it may."""


@dataclass(slots=True)
class Ticket:
    """A request that wants a pod."""

    number: int  # unique
    scene: str
    arrived_s: float
    avoid: str = ""  # a pod that failed this request; used again only where no other is
    turn: int = -1  # order of service; the number itself where nothing is said
    is_bounded: bool = True  # counts against `max_pending`

    def __post_init__(self) -> None:
        if self.turn < 0:
            self.turn = self.number


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now."""

    hands: list[tuple[Ticket, str]]  # to which pod
    warms: list[tuple[str, str]]  # scene, pod
    hopeless: list[Ticket]  # every usable pod failed to load the scene


@dataclass(slots=True)
class _PodState:
    pod: Pod
    in_flight: int = 0
    resident: dict[str, int] = field(default_factory=dict)  # bytes by scene
    learned_s: dict[str, float] = field(default_factory=dict)  # when an answer of the pod itself said so
    loading: set[str] = field(default_factory=set)
    failed_until_s: dict[str, float] = field(default_factory=dict)

    @property
    def free_bytes(self) -> int:
        return self.pod.budget_bytes - sum(self.resident.values())


class Router:
    """The pods of one pool, what they hold, and who waits for them."""

    def __init__(self, limits: Limits, scene_bytes: Mapping[str, int] | None = None) -> None:
        """`scene_bytes` is what scenes are said to take in memory, where somebody knows it beforehand."""
        self._limits = limits
        self._scene_bytes = scene_bytes or {}
        self._pods: dict[str, _PodState] = {}
        self._on_disk: dict[str, frozenset[str]] = {}  # scenes by node
        self._pending: dict[str, deque[Ticket]] = {}
        self.waiting = 0
        self._bounded = 0  # of those that wait, the ones that count against `max_pending`

    # What is known of the pods.

    def set_pods(self, pods: Iterable[Pod]) -> None:
        """Replace the pods; what is known of those that stay is kept."""
        known = self._pods
        self._pods = {}
        for pod in pods:
            state = known.get(pod.uid) or _PodState(pod)
            state.pod = pod
            self._pods[pod.uid] = state

    def set_on_disk(self, node: str, scenes: Iterable[str]) -> None:
        """Replace what lies on the disk of a node."""
        self._on_disk[node] = frozenset(scenes)

    def set_resident(self, uid: str, scenes: Mapping[str, int], asked_s: float) -> None:
        """Replace what a pod holds by what its metrics said when they were asked at `asked_s`.

        What the pod's own answers said after that stays: the scrape may not have seen it.
        """
        state = self._pods.get(uid)
        if state is None:
            return
        newer = {scene: when for scene, when in state.learned_s.items() if when >= asked_s}
        state.resident = {scene: state.resident[scene] for scene in newer if scene in state.resident} | dict(scenes)
        state.learned_s = newer

    def learn_resident(self, uid: str, scene: str, now_s: float) -> None:
        """A pod's own answer said that it holds the scene."""
        state = self._pods.get(uid)
        if state is not None:
            state.resident.setdefault(scene, self._bytes_of(scene))
            state.learned_s[scene] = now_s
            state.failed_until_s.pop(scene, None)

    def warm_ended(self, uid: str, scene: str, now_s: float, resident: bool) -> None:
        """The load that `assign` asked for came to an end."""
        state = self._pods.get(uid)
        if state is None:
            return
        state.loading.discard(scene)
        if resident:
            self.learn_resident(uid, scene, now_s)
        else:
            state.failed_until_s[scene] = now_s + self._limits.failed_load_s

    # Requests.

    def arrive(self, ticket: Ticket) -> Cold:
        """Queue a request and say what it met; raises QueueFull."""
        if ticket.is_bounded and self._bounded >= self._limits.max_pending:
            raise QueueFull
        self.come_back(ticket)
        usable = self._usable()
        if not usable:
            return "pod"
        return "none" if any(ticket.scene in state.resident for state in usable) else "scene"

    def come_back(self, ticket: Ticket) -> None:
        """Queue a request again, before those of its scene that came later; it does not count against the bound."""
        queue = self._pending.setdefault(ticket.scene, deque())
        if not queue or queue[-1].turn < ticket.turn:
            queue.append(ticket)
        else:
            queue.insert(next(i for i, other in enumerate(queue) if other.turn >= ticket.turn), ticket)
        self.waiting += 1
        self._bounded += ticket.is_bounded

    def abandon(self, ticket: Ticket) -> None:
        """Take a request out of the queue, if it is still there."""
        queue = self._pending.get(ticket.scene)
        if queue is not None and ticket in queue:
            queue.remove(ticket)
            self._took(ticket)

    def drop_scene(self, scene: str) -> list[Ticket]:
        """Take every waiting request of a scene out of the queue."""
        dropped = list(self._pending.get(scene, ()))
        if dropped:
            self._pending[scene].clear()
            self._took(*dropped)
        return dropped

    def release(self, uid: str) -> None:
        """A request that was handed to the pod is answered or failed."""
        state = self._pods.get(uid)
        if state is not None:
            state.in_flight = max(0, state.in_flight - 1)

    def assign(self, now_s: float) -> Step:
        """Hand over what can be, and ask for the scenes that somebody waits for; the oldest request first."""
        if not self._pending:
            return Step([], [], [])
        usable = self._usable()
        step = Step([], [], [])
        heads = [(queue[0].turn, scene) for scene, queue in self._pending.items()]
        heapify(heads)
        while heads:
            _, scene = heappop(heads)
            ticket, uid = self._next_of(scene, usable)
            if uid is None:
                continue
            self._pending[scene].remove(ticket)
            self._pods[uid].in_flight += 1
            step.hands.append((ticket, uid))
            if self._took(ticket):
                heappush(heads, (self._pending[scene][0].turn, scene))
        for scene in list(self._pending) if usable else []:
            self._warm(scene, usable, now_s, step)
        return step

    # For people and metrics.

    @property
    def in_flight(self) -> int:
        return sum(state.in_flight for state in self._pods.values())

    @property
    def pending_by_scene(self) -> dict[str, int]:
        return {scene: len(queue) for scene, queue in self._pending.items()}

    @property
    def resident_scenes(self) -> set[str]:
        return {scene for state in self._pods.values() for scene in state.resident}

    def view(self, uid: str) -> dict[str, object]:
        """What is known of a pod, for a status page; empty for a pod that is not here."""
        state = self._pods.get(uid)
        if state is None:
            return {}
        return {
            "usable": state.pod.usable,
            "in_flight": state.in_flight,
            "resident": dict(state.resident),
            "loading": sorted(state.loading),
        }

    def knows(self, scene: str) -> bool:
        """Whether some pod holds the scene or some node has it on disk."""
        return any(scene in state.resident for state in self._pods.values()) or any(
            scene in scenes for scenes in self._on_disk.values()
        )

    # Inside.

    def _usable(self) -> list[_PodState]:
        return [state for state in self._pods.values() if state.pod.usable]

    def _took(self, *tickets: Ticket) -> bool:
        """Bookkeeping after tickets left the queue of their one scene; whether some are left."""
        scene = tickets[0].scene
        self.waiting -= len(tickets)
        self._bounded -= sum(ticket.is_bounded for ticket in tickets)
        if self._pending[scene]:
            return True
        del self._pending[scene]
        return False

    def _next_of(self, scene: str, usable: list[_PodState]) -> tuple[Ticket, str | None]:
        """The request of a scene that goes next, and where to: the oldest, unless it avoids the only open pod."""
        queue = self._pending[scene]
        uid = self._holder(queue[0], usable)
        if uid is None and queue[0].avoid:
            other = next((ticket for ticket in queue if not ticket.avoid), None)
            if other is not None:
                return other, self._holder(other, usable)
        return queue[0], uid

    def _holder(self, ticket: Ticket, usable: list[_PodState]) -> str | None:
        holders = {state.pod.uid: state.in_flight for state in usable if ticket.scene in state.resident}
        if len(holders) > 1:
            holders.pop(ticket.avoid, None)
            holders = self._elsewhere(ticket.avoid, holders) or holders
        elif ticket.avoid in holders and len(usable) > 1:
            return None  # the only copy lies where it failed: `_warm` brings another
        return choose(ticket.scene, holders, self._limits.max_in_flight_per_pod) if holders else None

    def _elsewhere(self, failed: str, holders: Mapping[str, int]) -> dict[str, int]:
        """The holders on other nodes than that of the pod that failed: it may be the node that is gone."""
        node = self._pods[failed].pod.node if failed in self._pods else ""
        return {uid: in_flight for uid, in_flight in holders.items() if not node or self._pods[uid].pod.node != node}

    def _warm(self, scene: str, usable: list[_PodState], now_s: float, step: Step) -> None:
        head = self._pending[scene][0]
        avoiding = len(usable) > 1
        copies = [s for s in usable if scene in s.resident and not (avoiding and s.pod.uid == head.avoid)]
        loads = sum(scene in state.loading for state in usable)
        if copies or loads:
            target = self._spill_target(scene, usable, (len(copies), loads), now_s)
        else:
            target = self._cold_target(head, usable, now_s)
            if target is None:
                step.hopeless.extend(self.drop_scene(scene))
        if target is not None:
            target.loading.add(scene)
            step.warms.append((scene, target.pod.uid))

    def _cold_target(self, head: Ticket, usable: list[_PodState], now_s: float) -> _PodState | None:
        """Where a scene that no pod holds is loaded: disk first, then room, then most free bytes."""
        able = self._able_to_load(head.scene, usable, now_s)
        if len(able) > 1:
            able = [state for state in able if state.pod.uid != head.avoid]
        return min(able, key=lambda state: self._load_rank(state, head.scene), default=None)

    def _spill_target(
        self, scene: str, usable: list[_PodState], copies_and_loads: tuple[int, int], now_s: float
    ) -> _PodState | None:
        """Where a scene gets one more copy, None while its queue is short or no other pod stands idle.

        An eviction for it needs twice the queue: it makes another scene cold.
        """
        copies, loads = copies_and_loads
        queue = self._pending[scene]
        fair = self._limits.spill_pending * (copies + loads)
        if not copies or (loads and len(queue) <= fair):
            return None  # a copy is on its way, and may do
        if len(queue) <= fair and now_s - queue[0].arrived_s <= self._limits.spill_wait_s:
            return None
        need = self._bytes_of(scene)
        idle = [
            state
            for state in self._able_to_load(scene, usable, now_s)
            if state.in_flight == 0 and not state.loading and (self._fits(state, need) or len(queue) > 2 * fair)
        ]
        return min(idle, key=lambda state: self._load_rank(state, scene), default=None)

    def _able_to_load(self, scene: str, usable: list[_PodState], now_s: float) -> list[_PodState]:
        return [
            state
            for state in usable
            if scene not in state.resident
            and scene not in state.loading
            and state.failed_until_s.get(scene, 0.0) <= now_s
        ]

    def _load_rank(self, state: _PodState, scene: str) -> tuple[bool, bool, int, int, int]:
        on_disk = scene in self._on_disk.get(state.pod.node, ())
        fits = self._fits(state, self._bytes_of(scene))
        return (not on_disk, not fits, len(state.loading), -state.free_bytes, -weight(scene, state.pod.uid))

    def _fits(self, state: _PodState, need_bytes: int) -> bool:
        return state.pod.budget_bytes == 0 or need_bytes + self._loading_bytes(state) <= state.free_bytes

    def _loading_bytes(self, state: _PodState) -> int:
        return sum(self._bytes_of(scene) for scene in state.loading)

    def _bytes_of(self, scene: str) -> int:
        """The resident bytes of a scene as the first pod that holds it says, else as the catalogue does, else 0."""
        said = self._scene_bytes.get(scene, 0)
        return next((s.resident[scene] for s in self._pods.values() if s.resident.get(scene)), said)
