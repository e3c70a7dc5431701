"""The scheduling cycle of kube-scheduler as far as an extender sees it: filter, prioritize, pick, bind.

Messages are those that a real kube-scheduler sends with `nodeCacheCapable: true`; the pod is a v1.Pod.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import httpx2

from fleet.labels import MIG_RESOURCE_PREFIX, POOL_LABEL, SCENES_ANNOTATION
from fleet.scene import SceneId


class Unschedulable(Exception):
    """No node fits; says why, node by node."""


class Scheduler(Protocol):
    """Chooses a node for a pod; `load` says how many pods each candidate with a free slice runs.

    `event` tells it of pods as a watch would, `expect` which share of a pool's demand each scene is forecast to have.
    """

    def place(self, pod: Mapping[str, Any], load: Mapping[str, int]) -> str: ...

    def event(self, kind: str, pod: Mapping[str, Any]) -> None: ...

    def expect(self, pool: str, shares: Mapping[SceneId, float]) -> None: ...


def pod_manifest(
    uid: str, pool: str, profile: str, scenes: Sequence[str], node: str = "", phase: str = "Pending"
) -> dict[str, Any]:
    """A v1.Pod as the API server would hold it, with what placement reads."""
    resource = f"{MIG_RESOURCE_PREFIX}{profile}"
    return {
        "metadata": {
            "name": uid,
            "namespace": "default",
            "uid": uid,
            "labels": {POOL_LABEL: pool},
            "annotations": {SCENES_ANNOTATION: ",".join(scenes)},
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "renderer", "resources": {"limits": {resource: "1"}, "requests": {resource: "1"}}}],
        },
        "status": {"phase": phase},
    }


def _fewest_pods(names: Sequence[str], load: Mapping[str, int]) -> str:
    return min(names, key=lambda name: (load[name], name))


class SpreadScheduler:
    """kube-scheduler's default leaning: the node with the fewest pods, whatever lies on its disk."""

    def place(self, pod: Mapping[str, Any], load: Mapping[str, int]) -> str:
        if not load:
            raise Unschedulable(f"no node has a free slice for pod {pod['metadata']['name']}")
        return _fewest_pods(list(load), load)

    def event(self, kind: str, pod: Mapping[str, Any]) -> None:
        """Nobody listens."""

    def expect(self, pool: str, shares: Mapping[SceneId, float]) -> None:
        """Nobody asks which scene a pod will serve."""


class ExtenderScheduler:
    """Asks our extender over HTTP with kube-scheduler's messages and tells it of pods as a watch would."""

    # kube-scheduler skips an ignorable extender that is slow or gone; so does this one, and counts it.
    TIMEOUT_S = 2.0

    def __init__(self, extender_url: str) -> None:
        self._client = httpx2.Client(base_url=extender_url, timeout=self.TIMEOUT_S)
        self.failed_calls = 0

    def place(self, pod: Mapping[str, Any], load: Mapping[str, int]) -> str:
        if not load:
            raise Unschedulable(f"no node has a free slice for pod {pod['metadata']['name']}")
        names = list(load)
        answer = self._call("filter", pod, names)
        if answer is not None:
            if answer.get("Error"):
                raise Unschedulable(f"extender: {answer['Error']}")
            names = [name for name in answer.get("NodeNames") or [] if name in load]
            if not names:
                reasons = {**(answer.get("FailedNodes") or {}), **(answer.get("FailedAndUnresolvableNodes") or {})}
                raise Unschedulable(
                    "; ".join(f"{name}: {why}" for name, why in sorted(reasons.items())) or "no node fits"
                )
        if len(names) == 1:
            return names[0]  # kube-scheduler does not ask prioritize about a single node
        scored = self._call("prioritize", pod, names)
        if scored is None:
            return _fewest_pods(names, load)
        scores = {entry["Host"]: int(entry["Score"]) for entry in scored}
        best = max(scores.get(name, 0) for name in names)
        return _fewest_pods([name for name in names if scores.get(name, 0) == best], load)

    def event(self, kind: str, pod: Mapping[str, Any]) -> None:
        try:
            self._client.post("/v1/pod-events", json={"type": kind, "pod": pod}).raise_for_status()
        except httpx2.HTTPError:
            self.failed_calls += 1

    def expect(self, pool: str, shares: Mapping[SceneId, float]) -> None:
        """Pass on what the autoscaler expects of a pool, as the status of its resource does on Kubernetes."""
        try:
            self._client.put("/v1/forecast", json={pool: dict(shares)}).raise_for_status()
        except httpx2.HTTPError:
            self.failed_calls += 1

    def _call(self, verb: str, pod: Mapping[str, Any], names: Sequence[str]) -> Any:
        try:
            reply = self._client.post(f"/{verb}", json={"Pod": pod, "Nodes": None, "NodeNames": names})
            reply.raise_for_status()
            return reply.json()
        except (httpx2.HTTPError, ValueError):
            self.failed_calls += 1
            return None
