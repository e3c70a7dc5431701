"""A second of the fleet on Kubernetes as a `Moment`: what the live view shows and the report draws."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import structlog

from autoscaler.demand import Reading
from fleet.digest import DIGEST_PATH, NodeDigest
from local_fleet.control_plane.plane import ControlPlane
from local_fleet.kubernetes.ledger import Ledger
from local_fleet.kubernetes.manifests import NAMESPACE, PROFILE
from local_fleet.nodes import LocalNode
from local_fleet.timeline import DecisionView, Moment, NodeView, PodView

STARTING = ("scheduling", "provisioning", "booting")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Decided:
    """What the autoscaler of a run last said, ours or the HPA."""

    replicas: int
    reason: str
    explanation: str
    at_s: float = 0.0  # Unix time
    floor: int | None = None
    demand_per_s: float | None = None
    quantiles: Mapping[float, float] = field(default_factory=dict)
    working_quantile: float = math.nan
    coverage: float | None = None


def our_decision(file: Path) -> Decided | None:
    """The newest decision in the autoscaler's `--json` file; None before there is one."""
    try:
        rows = json.loads(file.read_text())["decisions"]
    except (OSError, ValueError, KeyError):
        return None
    if not rows:
        return None
    row: dict[str, Any] = rows[0]
    forecast = row.get("forecast") or {}
    return Decided(
        replicas=int(row["replicas"]),
        reason=str(row["reason"]),
        explanation=str(row["explanation"]),
        at_s=float(row["now_s"]),
        floor=row.get("floor"),
        demand_per_s=row.get("demand_per_s"),
        quantiles={float(level): value for level, value in (forecast.get("quantiles") or {}).items()},
        working_quantile=float(forecast.get("working_quantile") or math.nan),
        coverage=forecast.get("coverage"),
    )


def hpa_decision(plane: ControlPlane, pool: str, now_s: float) -> Decided | None:
    """What the HorizontalPodAutoscaler's status says; None before it says anything."""
    path = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/{pool}"
    try:
        status = plane.request("GET", path).get("status") or {}
    except OSError:
        return None
    if "desiredReplicas" not in status:
        return None
    told = {found["type"]: found for found in status.get("conditions") or ()}
    limited = told.get("ScalingLimited", {})
    chosen = limited if limited.get("status") == "True" else told.get("AbleToScale", {})
    desired = int(status["desiredReplicas"])
    text = f"{desired} of {status.get('currentReplicas', 0)}: {chosen.get('message', 'no word yet')}"
    return Decided(desired, str(chosen.get("reason") or "hpa"), text, now_s)


class NodeDigests:
    """The last digest of each node; one that does not answer keeps its last."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = dict(urls)
        self._client = httpx2.Client(timeout=1.0, trust_env=False)
        self.latest: dict[str, NodeDigest] = {}

    def close(self) -> None:
        self._client.close()

    def refresh(self) -> None:
        for node, url in self._urls.items():
            try:
                answer = self._client.get(url + DIGEST_PATH)
                answer.raise_for_status()
                self.latest[node] = msgspec.json.decode(answer.content, type=NodeDigest)
            except (httpx2.HTTPError, msgspec.MsgspecError) as error:
                log.warning("no digest", node=node, reason=str(error))


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that one moment is made of."""

    t_s: float
    decided: Decided | None
    replicas: int  # what the Deployment is asked for
    reading: Reading
    demand_per_s: float | None
    pod_rate_per_s: float
    machine_cpu_ratio: float


def moment(seen: Seen, ledger: Ledger, nodes: Mapping[str, LocalNode], digests: Mapping[str, NodeDigest]) -> Moment:
    """What the fleet looks like."""
    lives = [life for life in ledger.listing() if life.stage != "stopped"]
    ready = sum(life.stage == "ready" for life in lives)
    resident = {pod.uid: tuple(scene.id for scene in pod.resident) for found in digests.values() for pod in found.pods}
    cuts = {
        cut.pod_uid: f"{gpu.uuid}/{cut.profile}@{cut.start}"
        for found in digests.values()
        for gpu in found.gpus
        for cut in gpu.slices
        if cut.pod_uid
    }
    decided = seen.decided
    quantiles = decided.quantiles if decided is not None else {}
    return Moment(
        t_s=seen.t_s,
        demand_per_s=seen.demand_per_s,
        forecast_per_s=quantiles.get(decided.working_quantile) if decided is not None else None,
        forecast_median_per_s=quantiles.get(0.5),
        capacity_per_s=ready * seen.pod_rate_per_s,
        desired_replicas=seen.replicas,
        ready_replicas=ready,
        starting_replicas=sum(life.stage in STARTING for life in lives),
        floor_replicas=decided.floor if decided is not None else None,
        pending=seen.reading.pending,
        queue_to_compute=seen.reading.queue_to_compute,
        machine_cpu_ratio=seen.machine_cpu_ratio,
        nodes=tuple(_node_view(node, digests.get(name), ledger) for name, node in nodes.items()),
        pods=tuple(
            PodView(life.name, life.node, life.stage, cuts.get(life.uid, ""), resident.get(life.uid) or life.scenes)
            for life in lives
        ),
        decision=(
            DecisionView(seen.t_s, decided.replicas, decided.reason, decided.explanation)
            if decided is not None
            else None
        ),
    )


def _node_view(node: LocalNode, digest: NodeDigest | None, ledger: Ledger) -> NodeView:
    cache = digest.scene_cache if digest is not None else None
    return NodeView(
        name=node.name,
        slices_total=len(node.slices(PROFILE)),
        slices_used=sum(life.node == node.name and life.ended_s is None for life in ledger.listing()),
        store_capacity_bytes=node.store_capacity_bytes,
        store_used_bytes=cache.capacity_bytes - cache.free_bytes if cache is not None else 0,
        scenes_on_disk=tuple(scene.id for scene in cache.scenes) if cache is not None else (),
    )
