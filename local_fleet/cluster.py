"""The local fleet as a `Cluster`: it observes gateway and exporters over HTTP, and what it scales are processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx2
import msgspec
import numpy as np
import structlog

from autoscaler.decision import Decision, WarmAsk
from autoscaler.demand import DemandSource, Outcome, Reading
from autoscaler.observation import Floats, NodeState, Observation, PodState, StartingPod
from autoscaler.pool import Pool
from autoscaler.warmup import plan_new_pods
from fleet import metrics
from fleet.digest import DIGEST_PATH, NodeDigest
from fleet.scene import SceneId
from local_fleet.pods import STARTING, Pod, Pods
from renderer.agent_client import AgentClient, AgentError
from renderer.catalogue import Catalogue
from renderer.client import RendererError, render_once

log = structlog.get_logger()

STARVED_LOOK_S = 5.0
STARVED_HOLD_S = 20.0  # half a day of the demo
_IDENTITY = np.eye(4, dtype=np.float32)


@dataclass(slots=True)
class WarmTotals:
    """What was brought to disks ahead of need."""

    remote_bytes: int = 0
    peer_bytes: int = 0
    deadlines_met: int = 0
    deadlines_missed: int = 0


def warm_totals(agents: Mapping[str, AgentClient]) -> WarmTotals:
    """What these agents did, by node, from their own metrics; one that does not answer counts as nothing."""
    totals = WarmTotals()
    for node, agent in agents.items():
        try:
            totals.remote_bytes += int(agent.counter(metrics.AGENT_FETCHED_BYTES, source="remote"))
            totals.peer_bytes += int(agent.counter(metrics.AGENT_FETCHED_BYTES, source="peer"))
            totals.deadlines_met += int(agent.counter(metrics.AGENT_DEADLINES, outcome="met"))
            totals.deadlines_missed += int(agent.counter(metrics.AGENT_DEADLINES, outcome="missed"))
        except AgentError as error:
            log.warning("no agent metrics", node=node, reason=str(error))
    return totals


def believed_startup_s(
    pods: Sequence[Pod], clock_s: float, starved: Callable[[float, float], bool]
) -> tuple[float, ...]:
    """Seconds from ask to ready, oldest first. Those of a machine that was starved hold while it is, and not for long.

    Nothing else would take them back: who believes that a start takes most of a day keeps the day's pods, starts none,
    and never sees that they start quickly again.
    """
    starts = sorted((pod.ready_s, pod.asked_s) for pod in pods if pod.ready_s is not None)
    since_s = clock_s - STARVED_HOLD_S if starved(clock_s - STARVED_LOOK_S, clock_s) else clock_s
    return tuple(
        ready_s - asked_s for ready_s, asked_s in starts if ready_s >= since_s or not starved(asked_s, ready_s)
    )


class LocalCluster:
    """One pool of local pods. `clock` gives seconds since the replay began; `history` lies before them."""

    def __init__(
        self,
        pool: Pool,
        pods: Pods,
        source: DemandSource,
        digest_urls: Mapping[str, str],
        catalogue: Catalogue,
        history: Floats,
        agents: Mapping[str, AgentClient] | None = None,
        starved: Callable[[float, float], bool] = lambda _from_s, _until_s: False,
    ) -> None:
        """`agents` by node; None is a fleet without warm-up: no ask of the autoscaler is carried out.

        `starved` says of two moments of the pods' clock whether other programs had the machine between them.
        """
        self.digests: dict[str, NodeDigest] = {}
        self.reading: Reading | None = None
        self.desired = 0
        self._pool = pool
        self._pods = pods
        self._source = source
        self._digest_urls = dict(digest_urls)
        self._catalogue = catalogue
        self._history = history
        self._scene_bytes = {scene: entry.resident_bytes or 0 for scene, entry in catalogue.entries.items()}
        self._client = httpx2.Client(timeout=1.0)
        self._agents = agents
        self._starved = starved
        self._warmers = ThreadPoolExecutor(max_workers=3, thread_name_prefix="warm")
        self._now_s = 0.0
        self._asked: set[tuple[SceneId, str]] = set()
        self._lock = threading.Lock()

    def begin(self, count: int, shares: Mapping[str, float]) -> None:
        """Start the first pods, scenes spread over them by their shares of the demand, and wait until all are ready."""
        shares_by_id = {SceneId(scene): share for scene, share in shares.items()}
        nothing_seen = Observation(
            self._pool.name, 0.0, self._source.bin_s, np.zeros(0), 0, 0, scene_bytes=self._scene_bytes
        )
        plans = plan_new_pods(self._pool, nothing_seen, shares_by_id, count)
        self.desired = count
        self._pods.expect(shares_by_id)
        others = len(self._pods.listing())
        started = [self._pods.start(plan) for plan in plans]
        for future in started:
            future.result()
        if not all(pod.stage == "ready" for pod in self._pods.listing()[others:]):
            raise RuntimeError("the first pods did not become ready; see the notes above")

    def pools(self) -> Sequence[Pool]:
        return (self._pool,)

    def observe(self, pool: Pool, now_s: float) -> Observation:
        """Read gateway and exporters, and what is known of the pods' start-up."""
        self._now_s = now_s
        reading = self.reading = self._source.read(pool, now_s)
        self._refresh_digests()
        pods = self._pods.listing()
        clock_s = self._pods.now_s()
        end_s = reading.end_s if reading.demand.size else 0.0
        unseen = max(0, round(end_s / self._source.bin_s) - reading.demand.size)  # before the first scrape
        demand = np.concatenate([self._history, np.full(unseen, np.nan), reading.demand])
        return Observation(
            pool=pool.name,
            now_s=now_s,
            bin_s=self._source.bin_s,
            demand=demand,
            ready=sum(pod.stage == "ready" for pod in pods),
            desired=self.desired,
            starting=tuple(
                StartingPod(pod.uid, clock_s - pod.asked_s, pod.stage) for pod in pods if pod.stage in STARTING
            ),
            pending=reading.pending,
            queue_to_compute=reading.queue_to_compute,
            service=reading.service,
            startup_s=believed_startup_s(pods, clock_s, self._starved),
            data_age_s=max(0.0, now_s - end_s),
            trusted=reading.outcome in (Outcome.OK, Outcome.RESET) or now_s < 2 * self._source.bin_s,
            note=reading.detail,
            scene_demand=reading.scene_demand,
            scene_bytes=self._scene_bytes,
            pods=tuple(self._pod_state(pod) for pod in pods if pod.stage != "stopped"),
            nodes=tuple(self._node_state(digest) for digest in self.digests.values()),
        )

    def scale(self, pool: Pool, decision: Decision) -> None:
        """Start or drain pods until as many are alive as the decision says."""
        self.desired = decision.replicas
        if decision.scene_shares:  # none yet is no reason to unlearn what was told at the start
            self._pods.expect(decision.scene_shares)
        alive = [pod for pod in self._pods.listing() if pod.alive]
        missing = decision.replicas - len(alive)
        for index in range(missing):
            self._pods.start(decision.scenes[index] if index < len(decision.scenes) else ())
        if missing < 0:
            # Victims first; a pod that still starts goes before one that works.
            named = {uid: rank for rank, uid in enumerate(decision.victims)}
            order = sorted(alive, key=lambda pod: (named.get(pod.uid, len(named)), pod.stage == "ready", -pod.asked_s))
            for pod in order[:-missing]:
                self._pods.stop(pod.uid)

    def warm(self, pool: Pool, asks: Sequence[WarmAsk]) -> None:
        """Hand each ask to a thread: a disk is filled by its node's scene agent, memory by the pod's `warm` action."""
        if self._agents is None:
            return
        for ask in asks:
            key = (ask.scene, ask.node or ask.pod_uid)
            with self._lock:
                if key in self._asked:
                    continue
                self._asked.add(key)
            work: Callable[[WarmAsk], None] = self._warm_disk if ask.stage == "disk" else self._warm_memory
            self._warmers.submit(self._ask, work, ask, key)

    def has_on_disk(self, node: str, scene: SceneId) -> bool:
        """Whether a scene lies whole on a node's disk, as its agent says; False where that does not answer."""
        try:
            listing = (self._agents or {})[node].listing()
        except (AgentError, KeyError):
            return False
        return any(stored["id"] == scene for stored in listing["scenes"])

    def is_resident(self, pod: Pod, scene: SceneId) -> bool:
        """Whether a pod holds a scene in memory, as its node's exporter says now."""
        self._refresh_digests()
        return scene in self._pod_state(pod).resident

    def warmed(self) -> WarmTotals:
        """What the agents did."""
        return warm_totals(self._agents or {})

    def close(self) -> None:
        self._warmers.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _ask(self, work: Callable[[WarmAsk], None], ask: WarmAsk, key: tuple[SceneId, str]) -> None:
        try:
            work(ask)
        except (RendererError, AgentError, OSError, ValueError) as error:
            log.warning("warm failed", scene=ask.scene, stage=ask.stage, where=key[1], reason=str(error))
        finally:
            with self._lock:
                self._asked.discard(key)

    def _warm_disk(self, ask: WarmAsk) -> None:
        assert self._agents is not None
        self._agents[ask.node].ask(ask.scene, deadline_s=ask.by_s - self._now_s)

    def _warm_memory(self, ask: WarmAsk) -> None:
        pod = self._pods.all[ask.pod_uid]
        if pod.stage == "ready" and pod.server is not None:
            asked: dict[str, str | bool] = {"action": "warm", "preload": True, "scene": str(ask.scene)}
            render_once(pod.server.grpc_address, _IDENTITY, _IDENTITY, asked, timeout_s=2.0)

    def _refresh_digests(self) -> None:
        for node, url in self._digest_urls.items():
            try:
                answer = self._client.get(url + DIGEST_PATH)
                answer.raise_for_status()
                self.digests[node] = msgspec.json.decode(answer.content, type=NodeDigest)
            except (httpx2.HTTPError, msgspec.MsgspecError) as error:
                # The last digest stays: a node does not lose its disk when its exporter does not answer.
                log.warning("no digest", node=node, reason=str(error))

    def _pod_state(self, pod: Pod) -> PodState:
        resident: tuple[SceneId, ...] = ()
        budget_bytes = self._pods.settings.budget_bytes
        digest = self.digests.get(pod.node)
        for seen in digest.pods if digest is not None else ():
            if seen.uid == pod.uid:
                resident = tuple(SceneId(scene.id) for scene in seen.resident)
        if pod.stage in STARTING:
            resident = tuple(SceneId(scene) for scene in pod.scenes)  # it will hold them when it is ready
        return PodState(pod.uid, pod.node, pod.stage == "ready", pod.stage == "draining", resident, budget_bytes)

    @staticmethod
    def _node_state(digest: NodeDigest) -> NodeState:
        cache = digest.scene_cache
        return NodeState(
            digest.node, tuple(SceneId(scene.id) for scene in cache.scenes), cache.free_bytes, cache.fetch_bytes_per_s
        )
