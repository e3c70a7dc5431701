"""Which scenes are warm where before they are asked for: on a node's disk, in a pod's memory, in a new pod.

Scenes are copied over pods in proportion to the demand that is forecast for them. Nothing here displaces a scene in
use: an ask goes only where there is room, or where what would have to go is not asked for any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from autoscaler.decision import WarmAsk, WarmReason
from autoscaler.observation import Observation, PodState
from autoscaler.pool import Pool
from fleet.scene import SceneId

COLD_SHARE = 0.001  # of the pool's demand: a scene below it is not warmed ahead of need
DISK_COPIES = 2  # nodes that should hold a scene in demand
TOLD_SHARE = 0.25  # of a new pod's memory that it fills before it is ready, beside pods that hold scenes
FULL_SHARE = 0.5  # of a pod's time that one copy of a scene should take before it gets another


@dataclass
class WarmMemory:
    """Asks that were made and need not be repeated yet; their bytes are spoken for until then."""

    asked_s: dict[tuple[SceneId, str], float] = field(default_factory=dict)

    def promised_bytes(self, where: str, there: tuple[SceneId, ...], sizes: Mapping[SceneId, int]) -> int:
        """What is on its way to a node or a pod that holds the scenes `there`."""
        coming = (scene for scene, asked in self.asked_s if asked == where and scene not in there)
        return sum(sizes.get(scene, 0) for scene in coming)


def plan_new_pods(
    pool: Pool, observation: Observation, demand: Mapping[SceneId, float], count: int
) -> tuple[tuple[SceneId, ...], ...]:
    """What each of `count` new pods loads before it is ready: scenes by demand per copy, under the pod's budget.

    That is the least that a pod of the pool says of itself, where it is less than the settings have.
    `demand` is requests/s by scene. Every scene that is picked counts as a copy for the next pick, so hot scenes are
    spread over several pods and scenes without a copy come early. Where pods hold scenes already, a new one is told
    the first and what fits into `TOLD_SHARE` of its memory: the gateway puts a copy of what is waited for only where
    there is room, and knows better than a forecast what that is.
    """
    if count <= 0:
        return ()
    held = any(pod.resident for pod in observation.pods if not pod.draining)
    return _dealt(pool, observation, demand, count, TOLD_SHARE if held else 1.0)


def _dealt(
    pool: Pool, observation: Observation, demand: Mapping[SceneId, float], count: int, share: float
) -> tuple[tuple[SceneId, ...], ...]:
    """Scenes for `count` pods that have none, filling `share` of the memory of each; one scene is always told."""
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
            if plan and left - size < (1.0 - share) * budget_bytes:
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
    if not demand:
        return ()
    total = sum(demand.values())
    asks = _awaited_asks(pool, observation, demand, lead_s, memory)
    for scene in sorted(demand, key=lambda scene: (-demand[scene], scene)):
        if demand[scene] <= COLD_SHARE * total:
            break
        for plan in (_memory_ask, _disk_ask):
            ask = plan(pool, observation, demand, scene, memory)
            if ask is None or (scene, ask.pod_uid or ask.node) in memory.asked_s:
                continue
            if len(asks) == pool.warm_asks_per_tick:
                return tuple(asks)
            memory.asked_s[scene, ask.pod_uid or ask.node] = now_s
            asks.append(replace(ask, by_s=now_s + lead_s))
    return tuple(asks)


def _awaited_asks(
    pool: Pool, observation: Observation, demand: Mapping[SceneId, float], lead_s: float, memory: WarmMemory
) -> list[WarmAsk]:
    """Scenes that pods will load, for the disks of nodes where places are kept for them: needed soonest of all."""
    asks: list[WarmAsk] = []
    sizes = observation.scene_bytes
    for node in sorted(observation.nodes, key=lambda node: node.name):
        plans = (
            _dealt(pool, observation, demand, node.awaits, 1.0) if node.awaits else ()
        )  # a disk has what its pods will come to load, too
        for scene in dict.fromkeys(scene for plan in plans for scene in plan):
            room = node.free_bytes - memory.promised_bytes(node.name, node.on_disk, sizes)
            known = scene in node.on_disk or (scene, node.name) in memory.asked_s
            if known or room <= sizes[scene] or len(asks) == pool.warm_asks_per_tick:
                continue
            memory.asked_s[scene, node.name] = observation.now_s
            by_s = observation.now_s + lead_s
            asks.append(WarmAsk(scene, "disk", by_s, node=node.name, reason=WarmReason.AWAITED))
    return asks


def _memory_ask(
    pool: Pool, observation: Observation, demand: Mapping[SceneId, float], scene: SceneId, memory: WarmMemory
) -> WarmAsk | None:
    """One more copy in a pod's memory where the copies that exist would be too busy.

    The cheapest pod is one whose node has the scene on disk already: it only loads. Of these, or of all where there is
    none, the one with the most room.
    """
    size = observation.scene_bytes.get(scene)
    ready = [pod for pod in observation.pods if pod.ready and not pod.draining]
    holders = sum(scene in pod.resident or (scene, pod.uid) in memory.asked_s for pod in ready)
    service_s = observation.service.mean_s if observation.service else pool.service_s
    wanted = min(len(ready), int(demand[scene] * service_s / FULL_SHARE) + 1)
    if size is None or holders >= wanted:
        return None
    near = {node.name for node in observation.nodes if scene in node.on_disk}
    spare = [(_spare_bytes(observation, demand, pod, memory), pod) for pod in ready if scene not in pod.resident]
    fitting = [(pod.node not in near, -room, pod.uid) for room, pod in spare if room >= size]
    if not fitting:
        return None
    return WarmAsk(scene, "memory", 0.0, pod_uid=min(fitting)[2], reason=_why(holders))


def _why(holders: int) -> WarmReason:
    return WarmReason.BUSY if holders else WarmReason.COLD


def _spare_bytes(observation: Observation, demand: Mapping[SceneId, float], pod: PodState, memory: WarmMemory) -> int:
    """Bytes that are free and not spoken for, or held by scenes that nobody asks for any more."""
    sizes = observation.scene_bytes
    used = sum(sizes.get(scene, 0) for scene in pod.resident if demand.get(scene, 0.0) > 0.0)
    unknown = any(scene not in sizes for scene in pod.resident)
    return 0 if unknown else pod.budget_bytes - used - memory.promised_bytes(pod.uid, pod.resident, sizes)


def _disk_ask(
    pool: Pool, observation: Observation, demand: Mapping[SceneId, float], scene: SceneId, memory: WarmMemory
) -> WarmAsk | None:
    """One more node that has the scene on disk, the one with the most room that is not spoken for."""
    del pool, demand  # the same question for every pool
    sizes = observation.scene_bytes
    holders = sum(scene in node.on_disk for node in observation.nodes)
    if any((scene, node.name) in memory.asked_s for node in observation.nodes if scene not in node.on_disk):
        return None  # one at a time: a first copy of the next scene is worth more than a second of this one
    if holders >= min(DISK_COPIES, len(observation.nodes)):
        return None
    # The node of a pod that was asked to load the scene gets it on the way.
    coming = {pod.node for pod in observation.pods if (scene, pod.uid) in memory.asked_s}
    rooms = [
        (node.free_bytes - memory.promised_bytes(node.name, node.on_disk, sizes), node.name)
        for node in observation.nodes
        if scene not in node.on_disk and node.name not in coming
    ]
    fitting = [(-room, name) for room, name in rooms if room > sizes.get(scene, 0)]
    return WarmAsk(scene, "disk", 0.0, node=min(fitting)[1], reason=WarmReason.SPREAD) if fitting else None
