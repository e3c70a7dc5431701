"""The simulated cluster with scenes: what decisions and asks of the loop say of scenes is carried out here."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from autoscaler.loop import Decision, NodeState, Observation, PodState, Pool, WarmAsk
from fleet.scene import SceneId
from simulator.scene_queue import SceneQueue
from simulator.scene_requests import SCENE_BYTES, Scenes
from simulator.traffic import Traffic
from simulator.world import SimulatedPod, StartUp, World

WINDOW_BINS = 10  # over which the demand of each scene is counted, as the direct scrape does


def with_scenes(pool: Pool, scenes: Scenes) -> Pool:
    """The pool, told what one of its pods holds."""
    return replace(pool, pod_budget_bytes=scenes.setting.per_pod * SCENE_BYTES)


class SceneWorld(World):
    """Pods come to the node with the fewest; what they are told to load comes after the start-up until they run."""

    queue: SceneQueue

    def __init__(self, pool: Pool, traffic: Traffic, start_up: StartUp, seed: int, scenes: Scenes) -> None:
        self._scenes = scenes
        self._numbered = {name: number for number, name in enumerate(scenes.names)}
        self._sizes = dict.fromkeys(scenes.names, SCENE_BYTES)
        self._plans: deque[tuple[SceneId, ...]] = deque()
        self._node_of: dict[int, int] = {}  # pod -> node
        super().__init__(pool, traffic, start_up, seed)

    def _make_queue(self) -> SceneQueue:
        traffic, pool = self.traffic, self.pool
        return SceneQueue(
            traffic.arrivals, traffic.arrived, traffic.services, traffic.end_s, self._scenes,
            pool.objective.max_queue_wait_s, slots=2 * pool.max_replicas,
        )  # fmt: skip

    def begin(self, ready_pods: int) -> None:
        """Ready pods with the most popular scenes dealt out to them: whoever plays begins alike."""
        super().begin(ready_pods)
        setting = self._scenes.setting
        per_pod = min(setting.per_pod, setting.scenes)
        for at, number in enumerate(self.pods):
            dealt = [(at * per_pod + place) % setting.scenes for place in range(per_pod)]
            self.queue.begin_with(number, self._node_of[number], dealt)

    def _enqueue(self, pod: SimulatedPod) -> None:
        pods_on = Counter(self._node_of.values())
        node = min(range(self._scenes.setting.nodes), key=lambda node: (pods_on[node], node))
        self._node_of[pod.number] = node
        told = [self._numbered[scene] for scene in (self._plans.popleft() if self._plans else ())]
        self.queue.add(pod.number, pod.ready_s, node, told, pod.uid)
        pod.ready_s += len(told) * self._scenes.setting.load_s  # until it is known

    def _look_at(self, starting: Sequence[SimulatedPod]) -> None:
        for pod in starting:
            ready_s = self.queue.ready_s(pod.number)
            if ready_s is not None:
                pod.ready_s = ready_s
            elif pod.ready_s <= self.now_s:
                pod.ready_s = self.now_s + self._scenes.setting.load_s
            self._next_ready_s = min(self._next_ready_s, pod.ready_s)
        self._last_ready_s = max((pod.ready_s for pod in starting), default=0.0)

    def _remove(self, number: int) -> None:
        super()._remove(number)
        del self._node_of[number]

    def scale(self, pool: Pool, decision: Decision) -> None:
        self._plans = deque(decision.scenes)
        super().scale(pool, decision)
        self._plans.clear()

    def warm(self, pool: Pool, asks: Sequence[WarmAsk]) -> None:
        """As agents and pods take asks: a node fetches, a ready pod preloads; who is gone is asked nothing."""
        numbers = {pod.uid: pod.number for pod in self.pods.values() if pod.ready_s <= self.now_s}
        for ask in asks:
            scene = self._numbered[ask.scene]
            if ask.stage == "disk":
                self.queue.fetch(int(ask.node.removeprefix("node-")), scene)
            elif ask.pod_uid in numbers:
                self.queue.preload(numbers[ask.pod_uid], scene)

    def observe(self, pool: Pool, now_s: float) -> Observation:
        names, setting = self._scenes.names, self._scenes.setting
        counts = self.queue.asked_for(WINDOW_BINS * self.traffic.bin_s)
        nodes = tuple(
            NodeState(
                f"node-{node}",
                on_disk=tuple(names[scene] for scene in self.queue.on_disk(node)),
                free_bytes=self.queue.room_on_disk(node) * SCENE_BYTES,
                fetch_bytes_per_s=SCENE_BYTES / setting.fetch_s,
            )
            for node in range(setting.nodes)
        )
        return replace(
            super().observe(pool, now_s),
            scene_demand={name: float(count) for name, count in zip(names, counts, strict=True) if count},
            scene_bytes=self._sizes,
            nodes=nodes,
        )

    def _pod_states(self) -> tuple[PodState, ...]:
        names, setting = self._scenes.names, self._scenes.setting
        states = []
        for pod in self.pods.values():
            ready = pod.ready_s <= self.now_s
            scenes = self.queue.resident(pod.number) if ready else self.queue.told(pod.number)
            states.append(
                PodState(
                    pod.uid,
                    node=f"node-{self._node_of[pod.number]}",
                    ready=ready,
                    resident=tuple(names[scene] for scene in scenes),
                    budget_bytes=setting.per_pod * SCENE_BYTES if ready else 0,
                )
            )
        return tuple(states)
