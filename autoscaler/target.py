"""What is written to a target and its pods: the count, who goes first, who drains, what a new pod loads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from autoscaler.kubernetes_view import is_draining
from fleet.labels import DELETION_COST_ANNOTATION, DRAINING_ANNOTATION, SCENES_ANNOTATION
from fleet.scene import SceneId
from kube.connection import Connection
from kube.errors import KubeError, Refused
from kube.objects import DEPLOYMENTS, PODS, Anything, Pod, Resource
from kube.writes import ScaleTarget, patch

FIRST_TO_GO = -1_000_000  # deletion cost of the first victim
log = structlog.get_logger()


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
        self._plans: dict[str, deque[tuple[SceneId, ...]]] = {}  # pool -> scenes of pods that are to come

    def scale(self, namespace: str, name: str, current: int, replicas: int) -> None:
        """Change `current` into `replicas`, and only that: raises ScaleMoved where the count is another by now."""
        target = ScaleTarget(DEPLOYMENTS.path(namespace, name))
        found = target.get(self._connection)
        if found.spec.replicas != current:
            raise ScaleMoved(
                f"Deployment {namespace}/{name} has {found.spec.replicas} replicas, {current} were observed"
            )
        self._guard(self._write_s)
        # By the version that was read: of two writers one is refused, whatever either believes.
        target.set(self._connection, replicas, found.metadata.resource_version, self._write_s)

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

    def plan(self, pool: str, scenes: Sequence[tuple[SceneId, ...]]) -> None:
        """The next new pods of a pool load these."""
        with self._lock:
            self._plans[pool] = deque(plan for plan in scenes if plan)

    def pod_came(self, pool: str, pod: Pod) -> None:
        """Give a pod that does not run yet the scenes that are planned for the next one. Never raises."""
        if pod.terminating or pod.status.container_statuses or pod.metadata.annotation(SCENES_ANNOTATION):
            return
        with self._lock:
            plans = self._plans.get(pool)
            scenes = plans.popleft() if plans else ()
        if not scenes:
            return
        try:
            self._annotate(pod, {SCENES_ANNOTATION: ",".join(scenes)})
        except KubeError as error:
            log.warning("pod starts without planned scenes", pod=pod.metadata.key, error=str(error))

    def status(self, resource: Resource[Anything], name: str, namespace: str, status: Mapping[str, Any]) -> None:
        """Merge a status into that of an object."""
        self._guard(self._write_s)
        patch(self._connection, resource.path(namespace, name, "status"), {"status": status}, self._write_s)

    def pod_went(self, uid: str) -> None:
        self._draining_since.pop(uid, None)

    def _annotate(self, pod: Pod, annotations: Mapping[str, str | None]) -> None:
        self._guard(self._write_s)
        try:
            path = PODS.path(pod.metadata.namespace, pod.metadata.name)
            patch(self._connection, path, {"metadata": {"annotations": annotations}}, self._write_s)
        except Refused as error:
            if not error.absent:  # it went by itself
                raise
