"""How long pods take to start, stage by stage, from what a watch of pods and nodes shows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from kube.objects import Node, Pod, time_s

KEPT = 50  # starts of one pool
YOUNG_S = 600.0  # a pod that was ready when it was first seen counts only where it is younger: readiness may come back
AGREEING = 6  # so many newest starts may take back older ones, where each of them was under half as long
LATE_S = 5.0  # a watch that shows readiness later than this was away meanwhile
TRUNCATION_S = 1.5  # the API's times are whole seconds; a pod seen so soon after its creation is timed by our clock


@dataclass(frozen=True, slots=True)
class Startup:
    """Seconds of one start. The stages sum to the whole; a stage whose times are not known is None."""

    pool: str
    total_s: float
    provisioning_s: float | None = None  # until it had a node; with a new node also until that node was there
    fetching_s: float | None = None  # image and volumes, until the container ran
    loading_s: float | None = None  # scenes, until it was ready
    new_node: bool = False  # the node was made after the pod was asked for

    def stages(self) -> dict[str, float]:
        named = {"provisioning": self.provisioning_s, "fetching": self.fetching_s, "loading": self.loading_s}
        return {stage: seconds for stage, seconds in named.items() if seconds is not None}


def stage_of(pod: Pod) -> str:
    """Where a pod that is not ready stands: provisioning, fetching, loading or failing."""
    if not pod.spec.node_name:
        return "provisioning"
    states = [status.state for status in pod.status.container_statuses or () if status.state is not None]
    waiting = [str((state.waiting or {}).get("reason", "")) for state in states if state.waiting is not None]
    if any(reason.endswith("BackOff") and reason != "ImagePullBackOff" for reason in waiting):
        return "failing"
    if waiting or not states:
        return "fetching"
    return "loading"


def asked_s(pod: Pod, first_seen_s: float) -> float:
    """When a pod was asked for, Unix seconds."""
    created_s = time_s(pod.metadata.creation_timestamp)
    if created_s is None or 0.0 <= first_seen_s - created_s < TRUNCATION_S:
        return first_seen_s
    return created_s


@dataclass
class StartupBook:
    """Told of every change of a pod, it knows the recent starts of each pool."""

    starts: dict[str, deque[Startup]] = field(default_factory=dict)
    nodes: dict[str, deque[float]] = field(default_factory=dict)  # seconds until a new node had a place
    _waiting: dict[str, float] = field(default_factory=dict)  # uid -> when it was asked for
    _done: dict[str, None] = field(default_factory=dict)  # uids that were ready, oldest first

    def saw(self, pod: Pod, pool: str, node: Node | None, now_s: float) -> Startup | None:
        """One state of a pod; the start that it ends, where it ends one."""
        uid = pod.metadata.uid
        if uid in self._done:
            return None
        first = uid not in self._waiting
        asked = self._waiting.setdefault(uid, asked_s(pod, now_s))
        if pod.terminating or pod.finished:
            return None
        if not pod.ready:
            return None
        del self._waiting[uid]
        self._done[uid] = None
        while len(self._done) > 100 * KEPT:
            del self._done[next(iter(self._done))]
        ready_s = _ready_s(pod, now_s, first)
        if first and now_s - asked > YOUNG_S:
            return None
        start = _measure(pod, pool, node, asked, max(ready_s, asked))
        self.starts.setdefault(pool, deque(maxlen=KEPT)).append(start)
        if start.new_node and start.provisioning_s is not None:
            self.nodes.setdefault(pool, deque(maxlen=KEPT)).append(start.provisioning_s)
        return start

    def placed(self, placeholder: Pod, pool: str, node: Node | None) -> None:
        """One state of a pod that holds a place: how long it waited for a node that came for it."""
        uid, scheduled = placeholder.metadata.uid, _changed_s(placeholder, "PodScheduled")
        created = time_s(placeholder.metadata.creation_timestamp)
        made = time_s(node.metadata.creation_timestamp) if node is not None else None
        if uid in self._done or scheduled is None or created is None or made is None:
            return
        self._done[uid] = None
        if made > created:
            self.nodes.setdefault(pool, deque(maxlen=KEPT)).append(max(0.0, scheduled - created))

    def forget(self, pod: Pod) -> None:
        """The pod is gone."""
        self._waiting.pop(pod.metadata.uid, None)
        self._done.pop(pod.metadata.uid, None)

    def age_s(self, pod: Pod, now_s: float) -> float:
        """Seconds since a pod that is not ready was asked for."""
        return max(0.0, now_s - self._waiting.get(pod.metadata.uid, asked_s(pod, now_s)))

    def seconds(self, pool: str) -> tuple[float, ...]:
        """Whole starts of a pool that are still believed, oldest first."""
        return believed_s(list(self.starts.get(pool, ())))

    def node_seconds(self, pool: str) -> tuple[float, ...]:
        """Waits for a place of those pods that a new node came for, oldest first."""
        return tuple(self.nodes.get(pool, ()))


def believed_s(starts: Sequence[Startup]) -> tuple[float, ...]:
    """Seconds of those starts, oldest first, that say how long the next one may take.

    A start that took more than twice as long as each of the newest ones is forgotten: it was measured while the machine
    was busy or the image was new. Starts that waited for a new node stay, however many without one came since: the next
    peak needs nodes again. So nothing shorter than the newest starts is ever believed, and no run of luck hides a node.
    """
    usual_s = [start.total_s for start in starts if not start.new_node]
    most_s = 2.0 * max(usual_s[-AGREEING:]) if len(usual_s) >= AGREEING else math.inf
    return tuple(start.total_s for start in starts if start.new_node or start.total_s <= most_s)


def _measure(pod: Pod, pool: str, node: Node | None, asked: float, ready_s: float) -> Startup:
    scheduled = _within(_changed_s(pod, "PodScheduled"), asked, ready_s)
    running = _within(_running_s(pod), scheduled if scheduled is not None else asked, ready_s)
    made_s = time_s(node.metadata.creation_timestamp) if node is not None else None
    return Startup(
        pool,
        ready_s - asked,
        None if scheduled is None else scheduled - asked,
        None if scheduled is None or running is None else running - scheduled,
        None if running is None else ready_s - running,
        made_s is not None and made_s > asked,
    )


def _within(at_s: float | None, low_s: float, high_s: float) -> float | None:
    """A time of the API between two others: whole seconds and another machine's clock may leave them by a little."""
    return None if at_s is None else min(max(at_s, low_s), high_s)


def _changed_s(pod: Pod, kind: str) -> float | None:
    for condition in pod.status.conditions or ():
        if condition.type == kind and condition.status == "True":
            return time_s(condition.last_transition_time)
    return None


def _ready_s(pod: Pod, now_s: float, first: bool) -> float:
    """When a pod became ready: by our clock where the watch showed it happen, by the API's where it was late."""
    told_s = _changed_s(pod, "Ready")
    if told_s is None or (not first and now_s - told_s < LATE_S):
        return now_s
    return min(told_s, now_s)


def _running_s(pod: Pod) -> float | None:
    """When the last container of the pod began to run."""
    states = [status.state for status in pod.status.container_statuses or ()]
    begun = [time_s((state.running or {}).get("startedAt")) for state in states if state is not None]
    known = [at_s for at_s in begun if at_s is not None]
    return max(known) if known and len(known) == len(states) else None
