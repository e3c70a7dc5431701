"""A tick of the local fleet as a `Moment`: what the live view shows and the report draws."""

from __future__ import annotations

import math

from autoscaler.decision import Decision
from fleet.digest import NodeDigest
from local_fleet.cluster import LocalCluster
from local_fleet.nodes import POD_PROFILE, LocalNode
from local_fleet.pods import STARTING, Pods
from local_fleet.timeline import DecisionView, Moment, NodeView, PodView


def moment(
    t_s: float, cluster: LocalCluster, pods: Pods, decision: Decision, pod_rate_per_s: float, machine_cpu_ratio: float
) -> Moment:
    """What the fleet looked like when the decision was made."""
    alive = [pod for pod in pods.listing() if pod.stage != "stopped"]
    ready = sum(pod.stage == "ready" for pod in alive)
    resident = {
        seen.uid: tuple(scene.id for scene in seen.resident)
        for digest in cluster.digests.values()
        for seen in digest.pods
    }
    quantiles = decision.forecast.quantiles if decision.forecast is not None else {}
    working = decision.forecast.working_quantile if decision.forecast is not None else math.nan
    reading = cluster.reading
    return Moment(
        t_s=t_s,
        demand_per_s=decision.demand_per_s,
        forecast_per_s=quantiles.get(working),
        forecast_median_per_s=quantiles.get(0.5),
        capacity_per_s=ready * pod_rate_per_s,
        desired_replicas=decision.replicas,
        ready_replicas=ready,
        starting_replicas=sum(pod.stage in STARTING for pod in alive),
        floor_replicas=decision.floor,
        pending=reading.pending if reading is not None else None,
        queue_to_compute=reading.queue_to_compute if reading is not None else None,
        machine_cpu_ratio=machine_cpu_ratio,
        nodes=tuple(_node_view(node, cluster.digests.get(node.name), pods) for node in pods.nodes.values()),
        pods=tuple(
            PodView(pod.uid, pod.node, pod.stage, pod.slice, resident.get(pod.uid) or tuple(pod.scenes))
            for pod in alive
        ),
        decision=DecisionView(t_s, decision.replicas, str(decision.reason), decision.explanation),
    )


def _node_view(node: LocalNode, digest: NodeDigest | None, pods: Pods) -> NodeView:
    slices = node.slices(POD_PROFILE)
    used = sum(pod.node == node.name and pod.ended_s is None for pod in pods.listing())
    cache = digest.scene_cache if digest is not None else None
    return NodeView(
        name=node.name,
        slices_total=len(slices),
        slices_used=used,
        store_capacity_bytes=node.store_capacity_bytes,
        store_used_bytes=cache.capacity_bytes - cache.free_bytes if cache is not None else 0,
        scenes_on_disk=tuple(scene.id for scene in cache.scenes) if cache is not None else (),
    )
