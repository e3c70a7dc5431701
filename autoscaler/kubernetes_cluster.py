"""A Kubernetes cluster as a `Cluster`: PredictiveAutoscalers in, `/scale`, Events, status and warm-up out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import structlog

from autoscaler.cost import CostBook, moment_of
from autoscaler.decision import Decision, Reason, WarmAsk
from autoscaler.demand import DemandSource
from autoscaler.kubernetes_view import World, observation_of
from autoscaler.observation import Observation
from autoscaler.placeholders import Placeholders, Wanted
from autoscaler.pod_stages import Startup, StartupBook
from autoscaler.pool import Pool
from autoscaler.resource import (
    GROUP,
    KIND,
    VERSION,
    Acting,
    Resource,
    ResourceError,
    effective_pool,
    format_time,
    parse_resource,
)
from autoscaler.scene_labels import SceneLabels
from autoscaler.second_writer import Writer, double_claims, other_writers
from autoscaler.status import EventReason, Standing, invalid_status, is_news, news, ready_reason, status_of
from autoscaler.target import Writes, is_gated
from autoscaler.warm_calls import WarmCalls
from autoscaler.watches import Watches
from fleet.labels import HTTP_PORT_NAME, PLACEHOLDER_LABEL, POOL_LABEL, TRITON_HTTP_PORT
from kube.errors import KubeError
from kube.events import EventRecorder, Reference
from kube.objects import PREDICTIVE_AUTOSCALERS, Anything, Pod
from kube.watch_store import Change

STALE_WATCH_S = 120.0  # a watch that was silent for so long shows the past: nothing is decided by it
log = structlog.get_logger()


@dataclass(slots=True)
class _Seen:
    """What the last tick knew of one resource."""

    resource: Resource
    standing: Standing
    observation: Observation | None = None


class LiveCluster:
    """Implements `Cluster`; `report` is called after each tick with its decisions.

    A standby observes and decides as the leader does, so that it knows all it needs when it takes over, and writes
    nothing: `leads` says whether we may, and every write asks the guard inside `writes` again.
    """

    def __init__(
        self,
        watches: Watches,
        source: DemandSource,
        writes: Writes,
        events: EventRecorder,
        leads: Callable[[], bool],
        tick_s: float,
    ) -> None:
        self.book = StartupBook()
        self.warm_calls: WarmCalls | None = None  # None: no ask is carried out
        self.cost = CostBook()
        self.scene_labels: SceneLabels | None = None  # None: nodes are not labelled
        self.shadows_count = False  # somebody else, KEDA, carries out what is decided in Shadow
        self.placeholders: Placeholders | None = None  # None: no node is asked for ahead of pods
        self.on_startup: Callable[[Startup], None] | None = None
        self._watches = watches
        self._source = source
        self._writes = writes
        self._events = events
        self._leads = leads
        self._tick_s = tick_s
        self._lock = threading.Lock()  # of the book, which the watch writes
        self._seen: dict[str, _Seen] = {}  # by pool
        self._wanted: dict[str, Wanted] = {}  # places by pool, of the last tick
        self._written: dict[str, tuple[dict[str, Any], float]] = {}  # by resource: status and when, monotonic
        self._scaled: dict[str, str] = {}  # by resource: when we last changed the count, RFC 3339
        watches.on_pod = self._pod_changed
        watches.on_placeholder = self._placeholder_changed

    def pools(self) -> Sequence[Pool]:
        """The pools of every resource that can be read and has its target and pool to itself."""
        now_s = time.time()
        resources, everything = [], self._watches.resources()
        self._forget_all_but({found.metadata.uid for found in everything})
        for found in everything:
            try:
                resource = parse_resource(msgspec.to_builtins(found), now_s)
                resources.append(replace(resource, status=self._old(resource.uid, resource.status)))
            except ResourceError as error:
                self._refuse(found, str(error), now_s)
        refused = double_claims(resources)
        writers = self._watches.writers()
        before, self._seen = self._seen, {}
        pools = []
        for resource in resources:
            if resource.key in refused:
                self._refuse_claim(resource, refused[resource.key], now_s)
                continue
            pool = self._effective(resource)
            standing = _standing(resource, pool, writers, now_s)
            self._seen[pool.name] = _Seen(resource, standing)
            idle = standing.conflict or (resource.acting is Acting.SHADOW and not self.shadows_count)
            pools.append(replace(pool, carried_out=False) if idle else pool)
        for name in before.keys() - self._seen.keys():
            log.info("pool is no longer decided for", pool=name)
        return pools

    def observe(self, pool: Pool, now_s: float) -> Observation:
        """Raises LookupError without the target and while a watch is stale, whatever the source raises."""
        resource = self._seen[pool.name].resource
        self._watches.check_fresh(STALE_WATCH_S)
        deployment = self._watches.deployment(resource.namespace, resource.target)
        if deployment is None:
            raise LookupError(f"Deployment {resource.namespace}/{resource.target} does not exist")
        replicas = deployment.spec.replicas if deployment.spec.replicas is not None else 1
        pods = self._watches.pods_of(resource.namespace, pool.name)
        world = World(pods, self._watches.nodes(), self._watches.digests(), self._watches.placeholders())
        reading = self._source.read(pool, now_s)
        with self._lock:
            observation = observation_of(pool, now_s, self._source.bin_s, replicas, reading, world, self.book)
        self._seen[pool.name].observation = observation
        return observation

    def scale(self, pool: Pool, decision: Decision) -> None:
        """Patch `/scale`; on the way down the victims drain first, and the patch follows when they have."""
        seen = self._seen[pool.name]
        resource = seen.resource
        if not self._may_act(seen):
            return
        found = self._watches.pods_of(resource.namespace, pool.name)
        pods = [pod for pod in found if not (pod.terminating or pod.finished)]
        absent = max(0, decision.current - len(pods))
        if decision.replicas > decision.current:
            self._writes.plan(pool.name, decision.scenes, absent)
            self._set(resource, decision, decision.replicas, EventReason.SCALED_UP)
            return
        # Replicas without a pod go first, they serve nobody. A victim that went meanwhile is one of them, or has a
        # successor that the next tick chooses.
        drained = absent + self._writes.drain(pods, decision.victims)
        lowest = max(decision.replicas, decision.current - drained)
        if lowest < decision.current:
            self._set(resource, decision, lowest, EventReason.SCALED_DOWN)

    def warm(self, pool: Pool, asks: Sequence[WarmAsk]) -> None:
        if self.warm_calls is not None and self._may_act(self._seen[pool.name]):
            self.warm_calls.ask(asks)

    def pod_url(self, uid: str) -> str | None:
        """Where a ready pod's Triton answers over HTTP."""
        for pod in self._watches.pods():
            if pod.metadata.uid == uid and pod.ready and pod.status.pod_ip:
                return f"http://{pod.address(HTTP_PORT_NAME, TRITON_HTTP_PORT)}"
        return None

    def report(self, decisions: Sequence[Decision]) -> None:
        """Write status and Events of one tick, and take back drains that nobody wants any more. Never raises."""
        now_s = time.time()
        if self.scene_labels is not None and self._leads():
            self.scene_labels.write()
        if self._leads():
            self.cost.advance(time.monotonic(), moment_of(self._watches.nodes().values(), self._watches.pods()))
        else:
            self.cost.pause()  # the leader counts
            self._forget_all_but(set())  # and it writes: by what we wrote before we would undo that
        self._open_gates()
        self._keep_places(decisions, now_s)
        for decision in decisions:
            seen = self._seen.get(decision.pool)
            if seen is None or not self._leads():
                continue
            pods = self._watches.pods_of(seen.resource.namespace, decision.pool)
            try:
                if seen.observation is not None and self._may_act(seen):
                    self._writes.keep(pods, decision.victims)
            except KubeError as error:
                log.warning("draining not taken back", pool=decision.pool, error=str(error))
            if decision.reason is Reason.ACT_FAILED and ready_reason(seen.resource.status) != "ScaleFailed":
                self._tell(seen.resource, EventReason.SCALE_FAILED, decision.explanation, "Warning")
            status = status_of(seen.resource, decision, seen.observation, seen.standing, now_s)
            if seen.resource.uid in self._scaled:
                status["lastScaleTime"] = self._scaled[seen.resource.uid]
            self._write(seen.resource, status)

    def _open_gates(self) -> None:
        """Those that were not opened when their pods came: nobody led then, or the API server was away."""
        if self._leads():
            for pod in self._watches.pods():
                if is_gated(pod):
                    self._writes.pod_came(pod.metadata.label(POOL_LABEL), pod)

    def _keep_places(self, decisions: Sequence[Decision], now_s: float) -> None:
        """A pool that could not be observed keeps what it had asked for, until that is over."""
        wanted: dict[str, Wanted] = {}
        for decision in decisions:
            seen, before = self._seen.get(decision.pool), self._wanted.get(decision.pool)
            if seen is None or not self._may_act(seen):
                continue
            if seen.observation is None and before is not None and before.places.until_s > now_s:
                wanted[decision.pool] = before
            elif decision.places is not None:
                wanted[decision.pool] = Wanted(seen.resource, decision.places)
        self._wanted = wanted
        if self.placeholders is not None and self._leads():
            self.placeholders.keep(wanted, now_s)

    def _may_act(self, seen: _Seen) -> bool:
        return self._leads() and seen.resource.acting is not Acting.SHADOW and not seen.standing.conflict

    def _set(self, resource: Resource, decision: Decision, replicas: int, reason: EventReason) -> None:
        self._writes.scale(resource.namespace, resource.target, decision.current, replicas)
        self._scaled[resource.uid] = format_time(time.time())
        log.info("scaled", target=f"{resource.namespace}/{resource.target}", was=decision.current, now=replicas)
        self._tell(resource, reason, decision.explanation, "Normal")

    def _effective(self, resource: Resource) -> Pool:
        pool = replace(effective_pool(resource), tick_s=self._tick_s)
        return pool if self.placeholders is not None else replace(pool, node_startup_s=None)

    def _pod_changed(self, change: Change[Pod]) -> None:
        """From the thread of the watch."""
        pod = change.object
        pool = pod.metadata.label(POOL_LABEL)
        if change.kind == "deleted":
            with self._lock:
                self.book.forget(pod)
            self._writes.pod_went(pod.metadata.uid)
            return
        with self._lock:
            start = self.book.saw(pod, pool, self._watches.node(pod.spec.node_name), time.time())
        if start is not None and self.on_startup is not None:
            self.on_startup(start)
        seen = self._seen.get(pool)
        if (change.kind == "added" and seen is not None and self._may_act(seen)) or (is_gated(pod) and self._leads()):
            self._writes.pod_came(pool, pod)

    def _placeholder_changed(self, change: Change[Pod]) -> None:
        """From the thread of the watch."""
        pod = change.object
        if change.kind != "deleted" and pod.spec.node_name:
            with self._lock:
                self.book.placed(pod, pod.metadata.label(PLACEHOLDER_LABEL), self._watches.node(pod.spec.node_name))

    def _refuse(self, found: Anything, fault: str, now_s: float) -> None:
        """A resource that cannot be read keeps the last count, and says why."""
        meta, old = found.metadata, self._old(found.metadata.uid, found.status or {})
        status = invalid_status(meta.name, meta.generation, old, fault, now_s)
        reference = Reference(f"{GROUP}/{VERSION}", KIND, meta.name, meta.namespace, meta.uid)
        if self._put(reference, old, status):
            self._events.record(reference, EventReason.INVALID_SPEC, fault, "Warning")

    def _refuse_claim(self, resource: Resource, why: str, now_s: float) -> None:
        held = Decision(resource.pool.name, 0, Reason.OBSERVE_FAILED, f"refused: {why}", now_s)
        status = status_of(resource, held, None, Standing(conflict=why), now_s)
        del status["desiredReplicas"]
        self._write(resource, status)

    def _write(self, resource: Resource, status: dict[str, Any]) -> None:
        if self._put(_reference(resource), resource.status, status):
            for told in news(resource.status, status):
                self._tell(resource, told.reason, told.message, told.kind)

    def _forget_all_but(self, uids: Set[str]) -> None:
        for of_resources in (self._written, self._scaled):
            for uid in of_resources.keys() - uids:
                del of_resources[uid]

    def _old(self, uid: str, status: Mapping[str, Any]) -> Mapping[str, Any]:
        """The status as it stands: what we wrote last may not have come back over the watch yet."""
        mine, _ = self._written.get(uid, ({}, 0.0))
        return {**status, **mine}

    def _put(self, about: Reference, old: Mapping[str, Any], status: dict[str, Any]) -> bool:
        """Write a status that is news; whether it was written."""
        if not self._leads():
            self._forget_all_but(set())  # another one writes now
            return False
        _, at_s = self._written.get(about.uid, ({}, float("-inf")))
        if not is_news(old, status, time.monotonic() - at_s):
            return False
        try:
            self._writes.status(PREDICTIVE_AUTOSCALERS, about.name, about.namespace, status)
        except KubeError as error:
            log.warning("status not written", resource=f"{about.namespace}/{about.name}", error=str(error))
            return False
        self._written[about.uid] = (status, time.monotonic())
        return True

    def _tell(self, resource: Resource, reason: EventReason, message: str, kind: Any) -> None:
        log.info("audit", resource=f"{resource.namespace}/{resource.name}", action=str(reason), message=message)
        self._events.record(_reference(resource), reason, message, kind)


def _reference(resource: Resource) -> Reference:
    return Reference(f"{GROUP}/{VERSION}", KIND, resource.name, resource.namespace, resource.uid)


def _standing(resource: Resource, pool: Pool, writers: Sequence[Writer], now_s: float) -> Standing:
    others = other_writers(resource, writers) if resource.acting is not Acting.SHADOW else []
    paused = next((o.note for o in pool.overrides if o.paused and o.from_s <= now_s < o.until_s), None)
    conflict = f"Deployment {resource.target} is scaled by {' and '.join(others)} as well" if others else ""
    return Standing(conflict, "" if paused is None else paused or "an override says so")
