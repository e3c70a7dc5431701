"""Which scenes are warm where before they are asked for: on a node's disk, in a pod's memory, in a new pod.

Scenes are copied over pods in proportion to the demand that is forecast for them. Nothing here displaces a scene in
use: an ask goes only where there is room, or where what would have to go is not asked for any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from autoscaler.decision import WarmAsk
from autoscaler.observation import NodeState, Observation, PodState
from autoscaler.pool import Pool
from fleet.scene import SceneId

COLD_SHARE = 0.001  # of the pool's demand: a scene below it is not warmed ahead of need
DISK_COPIES = 2  # nodes that should hold a scene in demand
FULL_SHARE = 0.5  # of a pod's time that one copy of a scene should take before it gets another


@dataclass
class WarmMemory:
    """Asks that were made and need not be repeated yet."""

    asked_s: dict[tuple[SceneId, str], float] = field(default_factory=dict)


def plan_new_pods(
    pool: Pool, observation: Observation, demand: Mapping[SceneId, float], count: int
) -> tuple[tuple[SceneId, ...], ...]:
    """What each of `count` new pods loads before it is ready: scenes by demand per copy, under the pod's budget.

    That is the least that a pod of the pool says of itself, where it is less than the settings have.
    `demand` is requests/s by scene. Every scene that is picked counts as a copy for the next pick, so hot scenes are
    spread over several pods and scenes without a copy come early.
    """
    copies = Counter(scene for pod in observation.pods if not pod.draining for scene in pod.resident)
    total = sum(demand.values())
    # A pod that is told more than it may hold does not start.
    budget_bytes = min([pool.pod_budget_bytes, *(pod.budget_bytes for pod in observation.pods if pod.budget_bytes)])
    plans = []
    for _ in range(count):
        left = budget_bytes
        plan: list[SceneId] = []
        wanted = sorted(demand, key=lambda scene: (-demand[scene] / (copies[scene] + 1), scene))
        for scene in wanted:
            size = observation.scene_bytes.get(scene)
            if len(plan) == pool.scenes_per_new_pod:
                break
            if size is None or size > left or demand[scene] <= COLD_SHARE * total:
                continue
            plan.append(scene)
            copies[scene] += 1
            left -= size
        plans.append(tuple(plan))
    return tuple(plans)


def plan_warm_asks(
    pool: Pool, observation: Observation, demand: Mapping[SceneId, float], lead_s: float, memory: WarmMemory
) -> tuple[WarmAsk, ...]:
    """At most `pool.warm_asks_per_tick` asks, hottest first; one is repeated after two leads at the earliest."""
    now_s = observation.now_s
    memory.asked_s = {ask: at for ask, at in memory.asked_s.items() if now_s - at < 2 * lead_s}
    total = sum(demand.values())
    asks: list[WarmAsk] = []
    for scene in sorted(demand, key=lambda scene: (-demand[scene], scene)):
        if demand[scene] <= COLD_SHARE * total:
            break
        for ask in (_memory_ask(pool, observation, demand, scene), _disk_ask(observation, scene)):
            if ask is None or (scene, ask.pod_uid or ask.node) in memory.asked_s:
                continue
            if len(asks) == pool.warm_asks_per_tick:
                return tuple(asks)
            memory.asked_s[scene, ask.pod_uid or ask.node] = now_s
            asks.append(WarmAsk(scene, ask.stage, now_s + lead_s, ask.node, ask.pod_uid))
    return tuple(asks)


def _memory_ask(
    pool: Pool, observation: Observation, demand: Mapping[SceneId, float], scene: SceneId
) -> WarmAsk | None:
    """One more copy in a pod's memory where the copies that exist would be too busy."""
    size = observation.scene_bytes.get(scene)
    ready = [pod for pod in observation.pods if pod.ready and not pod.draining]
    holders = sum(scene in pod.resident for pod in ready)
    service_s = observation.service.mean_s if observation.service else pool.service_s
    wanted = min(len(ready), int(demand[scene] * service_s / FULL_SHARE) + 1)
    if size is None or holders >= wanted:
        return None
    spare = [(_spare_bytes(observation, demand, pod), pod) for pod in ready if scene not in pod.resident]
    fitting = [(-room, pod.uid) for room, pod in spare if room >= size]
    return WarmAsk(scene, "memory", 0.0, pod_uid=min(fitting)[1]) if fitting else None


def _spare_bytes(observation: Observation, demand: Mapping[SceneId, float], pod: PodState) -> int:
    """Bytes that are free, or held by scenes that nobody asks for any more."""
    used = sum(observation.scene_bytes.get(scene, 0) for scene in pod.resident if demand.get(scene, 0.0) > 0.0)
    unknown = any(scene not in observation.scene_bytes for scene in pod.resident)
    return 0 if unknown else pod.budget_bytes - used


def _disk_ask(observation: Observation, scene: SceneId) -> WarmAsk | None:
    """One more node that has the scene on disk, the one with the most room."""
    holders = sum(scene in node.on_disk for node in observation.nodes)
    if holders >= min(DISK_COPIES, len(observation.nodes)):
        return None
    size = observation.scene_bytes.get(scene, 0)
    fitting = [node for node in observation.nodes if scene not in node.on_disk and node.free_bytes > size]
    if not fitting:
        return None
    best: NodeState = min(fitting, key=lambda node: (-node.free_bytes, node.name))
    return WarmAsk(scene, "disk", 0.0, node=best.name)
