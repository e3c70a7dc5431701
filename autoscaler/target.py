"""What is written to a target and its pods: the count, who goes first, who drains, what a new pod loads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from autoscaler.kubernetes_view import is_draining
from fleet.labels import DELETION_COST_ANNOTATION, DRAINING_ANNOTATION, SCENES_ANNOTATION, SCENES_GATE
from fleet.scene import SceneId
from kube.connection import Connection
from kube.errors import KubeError, Refused
from kube.objects import DEPLOYMENTS, PODS, Anything, Pod, Resource
from kube.writes import ScaleTarget, patch

GATE_RETRY_S = 2.0
SCALE_TRIES = 5
FIRST_TO_GO = -1_000_000  # deletion cost of the first victim
log = structlog.get_logger()


def is_gated(pod: Pod) -> bool:
    """Whether a pod waits for us before it may be scheduled."""
    return any(gate.get("name") == SCENES_GATE for gate in pod.spec.scheduling_gates or ())


class ScaleMoved(Exception):
    """Somebody else wrote the count since it was observed."""


class Writes:
    """Every write asks `guard(seconds)` first, which raises where we may not write. Threads may share it."""

    def __init__(
        self, connection: Connection, guard: Callable[[float], object], write_s: float, drain_s: float
    ) -> None:
        """`write_s` is the longest that one write may take: a leader begins none that could outlast its lease."""
        self._connection = connection
        self._guard = guard
        self._write_s = write_s
        self._drain_s = drain_s
        self._lock = threading.Lock()
        self._draining_since: dict[str, float] = {}  # pod uid -> monotonic seconds
        self._opened_s: dict[str, float] = {}  # pod uid -> monotonic seconds of the last try
        self._plans: dict[str, deque[tuple[SceneId, ...]]] = {}  # pool -> scenes of pods that are to come

    def scale(self, namespace: str, name: str, current: int, replicas: int) -> None:
        """Change `current` into `replicas`, and only that: raises ScaleMoved where the count is another by now."""
        target = ScaleTarget(DEPLOYMENTS.path(namespace, name))
        for tries_left in reversed(range(SCALE_TRIES)):
            found = target.get(self._connection)
            if found.spec.replicas != current:
                raise ScaleMoved(
                    f"Deployment {namespace}/{name} has {found.spec.replicas} replicas, {current} were observed"
                )
            self._guard(self._write_s)
            try:
                # By the version that was read: of two writers one is refused, whatever either believes.
                target.set(self._connection, replicas, found.metadata.resource_version, self._write_s)
                return
            except Refused as error:
                if not error.conflict or not tries_left:  # mostly the controller, that wrote the status meanwhile
                    raise
                log.info("count not written, the object moved; read again", deployment=f"{namespace}/{name}")

    def drain(self, pods: Sequence[Pod], victims: Sequence[str]) -> int:
        """Make the victims drain and go first; how many of them have drained long enough, or serve nobody."""
        by_uid = {pod.metadata.uid: pod for pod in pods}
        now_s = time.monotonic()
        drained = 0
        for rank, uid in enumerate(victims):
            pod = by_uid.get(uid)
            if pod is None:
                continue
            cost = str(FIRST_TO_GO + rank)
            if not is_draining(pod) or pod.metadata.annotation(DELETION_COST_ANNOTATION) != cost:
                self._annotate(pod, {DRAINING_ANNOTATION: "true", DELETION_COST_ANNOTATION: cost})
            since_s = self._draining_since.setdefault(uid, now_s)
            drained += not pod.ready or now_s - since_s >= self._drain_s
        return drained

    def keep(self, pods: Sequence[Pod], victims: Sequence[str]) -> None:
        """Take back the draining of pods that are no victims any more."""
        for pod in pods:
            if is_draining(pod) and pod.metadata.uid not in victims and not pod.terminating:
                self._annotate(pod, {DRAINING_ANNOTATION: None, DELETION_COST_ANNOTATION: None})
                self._draining_since.pop(pod.metadata.uid, None)

    def plan(self, pool: str, scenes: Sequence[tuple[SceneId, ...]], to_come: int = 0) -> None:
        """The next new pods of a pool load these, after the `to_come` pods that were asked for before them."""
        with self._lock:
            earlier = list(self._plans.get(pool, ()))[-to_come:] if to_come > 0 else []
            self._plans[pool] = deque([*earlier, *(plan for plan in scenes if plan)])

    def pod_came(self, pool: str, pod: Pod) -> None:
        """Give a pod that does not run yet the scenes that are planned for the next one, and open its gate.

        kube-scheduler binds within milliseconds; only a pod with our gate in its template is sure to be placed by what
        it will load. Never raises; a gate that could not be opened is tried again.
        """
        gated, told = is_gated(pod), pod.metadata.annotation(SCENES_ANNOTATION)
        if pod.terminating or pod.status.container_statuses or (told and not gated):
            return
        uid, now_s = pod.metadata.uid, time.monotonic()
        with self._lock:
            if now_s - self._opened_s.get(uid, -GATE_RETRY_S) < GATE_RETRY_S:
                return  # the watch has not brought it back yet
            plans = self._plans.get(pool)
            scenes = plans.popleft() if plans else ()  # they win over those of a gated template
            if not scenes and not gated:
                return
            self._opened_s[uid] = now_s
        change: dict[str, Any] = {"metadata": {"annotations": {SCENES_ANNOTATION: ",".join(scenes)}}} if scenes else {}
        if gated:
            others = [gate for gate in pod.spec.scheduling_gates or () if gate.get("name") != SCENES_GATE]
            change["spec"] = {"schedulingGates": others}
        try:
            self._patch_pod(pod, change)
        except KubeError as error:
            if gated and scenes:  # it waits for the next try, and so does what it is to load
                with self._lock:
                    self._plans.setdefault(pool, deque()).appendleft(scenes)
            log.warning("pod not told its scenes", pod=pod.metadata.key, error=str(error))

    def status(self, resource: Resource[Anything], name: str, namespace: str, status: Mapping[str, Any]) -> None:
        """Merge a status into that of an object."""
        self._guard(self._write_s)
        patch(self._connection, resource.path(namespace, name, "status"), {"status": status}, self._write_s)

    def pod_went(self, uid: str) -> None:
        self._draining_since.pop(uid, None)
        self._opened_s.pop(uid, None)

    def _annotate(self, pod: Pod, annotations: Mapping[str, str | None]) -> None:
        self._patch_pod(pod, {"metadata": {"annotations": annotations}})

    def _patch_pod(self, pod: Pod, change: Mapping[str, Any]) -> None:
        self._guard(self._write_s)
        try:
            patch(self._connection, PODS.path(pod.metadata.namespace, pod.metadata.name), change, self._write_s)
        except Refused as error:
            if not error.absent:  # it went by itself
                raise
