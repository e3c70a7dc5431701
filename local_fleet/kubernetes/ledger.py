"""What became of every pod of a pool, as the API server told it: for scorecards and for what tests assert."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from fleet.labels import POOL_LABEL, SCENES_ANNOTATION
from kube.connection import Connection
from kube.objects import PODS, Pod
from kube.reflector import Reflector, Scope, Timings
from kube.watch_store import Change


@dataclass(slots=True)
class PodLife:
    """Monotonic moments of one pod, None where it did not come to them."""

    uid: str
    name: str
    pool: str
    asked_s: float
    node: str = ""
    scenes: tuple[str, ...] = ()  # as they stood when it was bound
    bound_s: float | None = None
    running_s: float | None = None
    ready_s: float | None = None
    draining_s: float | None = None  # told to end
    ended_s: float | None = None
    ready: bool = False
    admission_failed: bool = False

    @property
    def stage(self) -> str:
        """As a PodView says it."""
        if self.ended_s is not None:
            return "stopped"
        if self.draining_s is not None:
            return "draining"
        if self.ready:
            return "ready"
        if self.bound_s is None:
            return "scheduling"
        return "provisioning" if self.running_s is None else "booting"


class Ledger:
    """Follows the pods of all pools of a namespace; thread-safe."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self.lives: dict[str, PodLife] = {}  # by UID
        self._lock = threading.Lock()
        scope = Scope(namespace, label_selector=POOL_LABEL)
        timings = Timings(watch_s=20.0, slack_s=3.0, backoff_first_s=0.1, backoff_most_s=1.0)
        self._pods: Reflector[Pod] = Reflector(connection, PODS, scope, self._changed, timings)

    def start(self) -> Ledger:
        self._pods.start()
        return self

    def stop(self) -> None:
        self._pods.stop()

    def listing(self) -> list[PodLife]:
        with self._lock:
            return list(self.lives.values())

    def alive(self) -> list[PodLife]:
        """Pods that were asked for and not told to end."""
        return [life for life in self.listing() if life.draining_s is None and life.ended_s is None]

    def ready(self) -> int:
        return sum(life.stage == "ready" for life in self.listing())

    def pod_seconds(self, start_s: float, end_s: float) -> float:
        """Seconds between two moments that pods existed, from the ask to the end of their process."""
        return sum(
            max(0.0, min(end_s, life.ended_s if life.ended_s is not None else end_s) - max(start_s, life.asked_s))
            for life in self.listing()
        )

    def _changed(self, change: Change[Pod]) -> None:
        pod, now_s = change.object, time.monotonic()
        uid = pod.metadata.uid
        with self._lock:
            life = self.lives.get(uid)
            if life is None:
                pool = pod.metadata.label(POOL_LABEL)
                life = self.lives[uid] = PodLife(uid, pod.metadata.name, pool, now_s)
            if change.kind == "deleted":
                life.ended_s = life.ended_s or now_s
                return
            if pod.spec.node_name and life.bound_s is None:
                life.node, life.bound_s = pod.spec.node_name, now_s
                life.scenes = tuple(filter(None, pod.metadata.annotation(SCENES_ANNOTATION).split(",")))
            if pod.status.phase == "Running" and life.running_s is None:
                life.running_s = now_s
            if pod.status.reason == "UnexpectedAdmissionError":
                life.admission_failed = True
            life.ready = pod.ready
            if pod.ready and life.ready_s is None:
                life.ready_s = now_s
            if pod.terminating and life.draining_s is None:
                life.draining_s = now_s
