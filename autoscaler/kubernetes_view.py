"""Pods, nodes and digests of a cluster as the Observation of one pool."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from autoscaler.cost import capacity_type
from autoscaler.demand import Outcome, Reading
from autoscaler.observation import NodeState, Observation, PodState, StartingPod
from autoscaler.pod_stages import StartupBook, stage_of
from autoscaler.pool import Pool
from fleet.digest import NodeDigest
from fleet.labels import DRAINING_ANNOTATION, PLACEHOLDER_LABEL, SCENES_ANNOTATION
from fleet.scene import SceneId, SceneIdError, parse_scene_id
from kube.objects import Node, Pod


@dataclass(frozen=True, slots=True)
class World:
    """What is known of the cluster at one moment."""

    pods: Sequence[Pod]  # of one pool
    nodes: Mapping[str, Node] = field(default_factory=dict)
    digests: Mapping[str, NodeDigest] = field(default_factory=dict)
    placeholders: Sequence[Pod] = ()  # of every pool


def observation_of(
    pool: Pool, now_s: float, bin_s: float, replicas: int, reading: Reading, world: World, book: StartupBook
) -> Observation:
    """What the pool saw; `replicas` is what the target's spec asks for."""
    alive = [pod for pod in world.pods if not pod.terminating and not pod.finished]
    awaited = Counter(
        held.spec.node_name
        for held in world.placeholders
        if held.metadata.label(PLACEHOLDER_LABEL) == pool.name and not held.terminating and not held.finished
    )
    sick = sick_pods(world.digests.values())
    sound = [pod for pod in alive if pod.metadata.uid not in sick]
    good = reading.outcome in (Outcome.OK, Outcome.RESET)
    starting = [StartingPod(pod.metadata.uid, book.age_s(pod, now_s), stage_of(pod)) for pod in sound if not pod.ready]
    return Observation(
        pool=pool.name,
        now_s=now_s,
        bin_s=bin_s,
        demand=reading.demand if reading.demand.size else np.zeros(0),
        ready=sum(pod.ready and not is_draining(pod) for pod in sound),
        desired=replicas,
        starting=tuple(starting),
        pending=reading.pending,
        queue_to_compute=reading.queue_to_compute,
        served=reading.served,
        late=reading.late,
        service=reading.service,
        startup_s=book.seconds(pool.name),
        node_s=book.node_seconds(pool.name),
        data_age_s=0.0 if math.isnan(reading.end_s) else max(0.0, now_s - reading.end_s),
        scene_demand=reading.scene_demand,
        scene_bytes=scene_bytes(world.digests.values()),
        pods=tuple(_pod_state(pod, world, pod.metadata.uid not in sick) for pod in alive),
        unhealthy=len(alive) - len(sound),
        nodes=tuple(node_state(digest, awaited[digest.node]) for digest in world.digests.values()),
        trusted=good,
        note=reading.detail if good else f"{reading.outcome}: {reading.detail}",
    )


def is_draining(pod: Pod) -> bool:
    return pod.metadata.annotation(DRAINING_ANNOTATION) == "true"


def planned_scenes(pod: Pod) -> tuple[SceneId, ...]:
    """The scenes that a pod loads before it is ready; a name that is none is left out."""
    scenes = []
    for text in pod.metadata.annotation(SCENES_ANNOTATION).split(","):
        try:
            scenes.append(parse_scene_id(text.strip()))
        except SceneIdError:
            continue
    return tuple(scenes)


def scene_bytes(digests: Iterable[NodeDigest]) -> dict[SceneId, int]:
    """What each scene takes in a pod's memory: as pods say, else as a record on a disk does.

    Bytes on the disk stand in where an exporter is too old to know better: a source alone is smaller than the scene.
    """
    sizes: dict[SceneId, int] = {}
    resident: dict[SceneId, int] = {}
    for digest in digests:
        for cached in digest.scene_cache.scenes:
            size = cached.resident_bytes or cached.bytes
            sizes[SceneId(cached.id)] = max(size, sizes.get(SceneId(cached.id), 0))
        for pod in digest.pods:
            for scene in pod.resident:
                resident[SceneId(scene.id)] = max(scene.bytes, resident.get(SceneId(scene.id), 0))
    return sizes | resident


def node_state(digest: NodeDigest, awaits: int = 0) -> NodeState:
    cache = digest.scene_cache
    on_disk = tuple(SceneId(scene.id) for scene in cache.scenes)
    return NodeState(digest.node, on_disk, cache.free_bytes, cache.fetch_bytes_per_s, awaits)


def sick_pods(digests: Iterable[NodeDigest]) -> set[str]:
    """UIDs of pods whose slice, or whose GPU, its node calls unhealthy."""
    gpus = [gpu for digest in digests for gpu in digest.gpus]
    return {cut.pod_uid for gpu in gpus for cut in gpu.slices if cut.pod_uid and not (gpu.healthy and cut.healthy)}


def _pod_state(pod: Pod, world: World, healthy: bool) -> PodState:
    name = pod.spec.node_name
    digest, node = world.digests.get(name), world.nodes.get(name)
    seen = next((found for found in digest.pods if found.uid == pod.metadata.uid), None) if digest else None
    resident = tuple(SceneId(scene.id) for scene in seen.resident) if seen is not None else ()
    return PodState(
        uid=pod.metadata.uid,
        node=name,
        ready=pod.ready and healthy,
        draining=is_draining(pod),
        healthy=healthy,
        resident=resident if pod.ready else planned_scenes(pod),  # it will hold them when it is ready
        budget_bytes=seen.budget_bytes if seen is not None else 0,
        capacity_type=capacity_type(node),
    )
