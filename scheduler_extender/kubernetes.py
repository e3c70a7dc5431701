"""The API server as the source of state: nodes, pods, exporters, DRA devices and forecasts, brought into the cluster.

Reflectors read in threads of their own; every change is applied on the event loop, where the verbs are answered.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from fleet.digest import DIGEST_PATH
from fleet.labels import (
    COMPONENT_LABEL,
    EXPORTER_BESIDE_LABEL,
    EXPORTER_PORT,
    EXPORTER_PORT_NAME,
    FREED_ANNOTATION,
    NODE_COMPONENT,
)
from kube.connection import Connection
from kube.device_objects import (
    DEVICE_CLASSES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    DeviceClass,
    ResourceClaim,
    ResourceSlice,
)
from kube.errors import KubeError, Refused
from kube.objects import NODES, PODS, Node, Pod
from kube.reflector import Reflector, Scope, Timings
from kube.watch_store import Change
from kube.writes import annotate
from scheduler_extender.devices import DeviceKey, Served, gpus_of, holders_of, read_class, sharing_of
from scheduler_extender.fit import FITS
from scheduler_extender.forecasts import FORECASTS, FORECASTS_API, Forecast, PoolForecasts
from scheduler_extender.pods import WATCHED_PODS, WatchedPod, read_again, read_pod
from scheduler_extender.selectors import SelectorError
from scheduler_extender.wire import PodEvent, capacity_type_of

if TYPE_CHECKING:
    from scheduler_extender.app import Extender

DEVICES_API = "/apis/resource.k8s.io/v1"
LOOK_EVERY_S = 0.1  # how soon what was freed wakes a waiting pod
WAKE_EVERY_S = 1.0  # at most; one event wakes all waiting pods
RETRY_EVERY_S = 2.0
GATHER_S = 0.02  # what was decided here is held meanwhile, and what others did is as old anyway
LOOK_FOR_FORECASTS_EVERY_S = 30.0  # an autoscaler may be installed later
log = structlog.get_logger()


class _Heard:
    """Changes of one resource on their way from its thread to the loop, which is woken once for all that are there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, apply: Callable[[Change[Any]], None]) -> None:
        self._loop, self._apply = loop, apply
        self._changes: deque[Change[Any]] = deque()
        self._called = False

    def put(self, change: Change[Any]) -> None:
        """From the thread of the watch."""
        self._changes.append(change)
        if not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._called = False  # before the first is taken: what comes from now on calls again
        while self._changes:
            change = self._changes.popleft()
            try:
                self._apply(change)
            except Exception as error:
                log.exception("change not applied", name=change.object.metadata.name, error=str(error))


class ClusterWatch:
    """Follows one API server; `most_silent_s` without a word about a resource makes the extender not ready."""

    def __init__(self, connection: Connection, most_silent_s: float = 120.0, timings: Timings | None = None) -> None:
        self._connection = connection
        self._most_silent_s = most_silent_s
        self._timings = timings or Timings(gather_s=GATHER_S)
        self._settled = False  # whether the API server was asked which resources it has
        self._devices_of: dict[str, dict[str, ResourceSlice]] = {}  # node -> name -> slice
        self._classes: dict[str, Served] = {}
        self._holders: dict[DeviceKey, str] = {}
        self._claims: dict[str, tuple[DeviceKey, ...]] = {}  # claim -> what it was given
        self._pool_nodes: dict[str, str] = {}  # resource pool -> node
        self._exporters: dict[str, dict[str, str]] = {}  # node -> pod -> URL
        self._forecasts = PoolForecasts()
        self.reflectors: list[Reflector[Any]] = []
        self._optional: list[Reflector[Any]] = []  # of these, the ones without which the state is whole

    def lacking(self) -> list[str]:
        """What keeps the state from being whole and fresh, in words."""
        problems = [] if self._settled else ["API server: not reached yet"]
        for reflector in self.reflectors:
            if reflector in self._optional:
                continue
            age_s = reflector.event_age_s
            if age_s is None or not reflector.has_synced:
                problems.append(f"{reflector.resource.plural}: not listed yet {reflector.last_error}".rstrip())
            elif age_s > self._most_silent_s:
                problems.append(
                    f"{reflector.resource.plural}: no word for {age_s:.0f} s {reflector.last_error}".rstrip()
                )
        return problems

    async def run(self, extender: Extender) -> None:
        """Follow until cancelled."""
        loop = asyncio.get_running_loop()
        with self._following(extender, loop):
            await asyncio.gather(
                self._wake_for_ever(extender), self._find_devices(extender, loop), self._find_forecasts(extender, loop)
            )

    @contextmanager
    def _following(self, extender: Extender, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        exporters = Scope(label_selector=f"{COMPONENT_LABEL}={NODE_COMPONENT}")
        self._follow(loop, NODES, Scope(), lambda change: self._node(extender, change))
        self._follow(loop, WATCHED_PODS, Scope(), lambda change: _pod(extender, change))
        for scope in (exporters, Scope(label_selector=EXPORTER_BESIDE_LABEL)):
            self._follow(loop, PODS, scope, lambda change: self._exporter(extender, change))
        try:
            yield
        finally:
            for reflector in self.reflectors:
                reflector.stop(deadline_s=1.0)

    def _follow(
        self, loop: asyncio.AbstractEventLoop, resource: Any, scope: Scope, apply: Callable[[Change[Any]], None]
    ) -> Reflector[Any]:
        heard = _Heard(loop, apply)
        followed: Reflector[Any] = Reflector(self._connection, resource, scope, heard.put, self._timings)
        self.reflectors.append(followed.start())
        return followed

    async def _find_devices(self, extender: Extender, loop: asyncio.AbstractEventLoop) -> None:
        """Follow DRA devices where the API server has them."""
        if await self._serves(DEVICES_API):
            self._follow(loop, DEVICE_CLASSES, Scope(), lambda change: self._class(extender, change))
            self._follow(loop, RESOURCE_SLICES, Scope(), lambda change: self._slice(extender, change))
            self._follow(loop, RESOURCE_CLAIMS, Scope(), lambda change: self._claim(extender, change))
        else:
            log.info("no dynamic resource allocation here: digests alone say what GPUs a node has")
        self._settled = True

    async def _find_forecasts(self, extender: Extender, loop: asyncio.AbstractEventLoop) -> None:
        """Follow what the autoscaler expects, once its resource is installed. Nothing waits for it: it is a price."""
        while not await self._serves(FORECASTS_API):
            await asyncio.sleep(LOOK_FOR_FORECASTS_EVERY_S)
        followed = self._follow(loop, FORECASTS, Scope(), lambda change: self._forecast(extender, change))
        self._optional.append(followed)

    async def _serves(self, api: str) -> bool:
        """Whether the API server has a group and version; asked until it answers."""
        while True:
            try:
                await asyncio.to_thread(self._connection.get, api)
            except Refused as error:
                if error.absent:
                    return False
            except KubeError:
                pass
            else:
                return True
            await asyncio.sleep(RETRY_EVERY_S)

    async def _wake_for_ever(self, extender: Extender) -> None:
        due: set[str] = set()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            due |= extender.cluster.take_freed()
            node = extender.waiting.wakes(
                due, lambda pod, names: [fit == FITS for fit in extender.cluster.fit(pod, names).tolist()]
            )
            if not node:
                due.clear()
                continue
            waiting = extender.waiting.uids
            freed = {FREED_ANNOTATION: str(time.time_ns() // 1_000_000)}  # any text that was not there before
            try:
                await asyncio.to_thread(annotate, self._connection, NODES, node, None, freed)
            except KubeError as error:
                extender.metrics.wakes.labels("failed").inc()
                log.warning("waiting pods could not be woken", node=node, waiting=len(waiting), error=str(error))
                if isinstance(error, Refused) and error.absent:
                    due.discard(node)
            else:
                extender.metrics.wakes.labels("ok").inc()
                log.info("waiting pods are tried again", node=node, waiting=len(waiting))
                due.clear()
                for uid in waiting:
                    extender.waiting.forget(uid)
            await asyncio.sleep(WAKE_EVERY_S)

    def _node(self, extender: Extender, change: Change[Node]) -> None:
        name = change.object.metadata.name
        if change.kind == "deleted":
            extender.poller.set_url(name, "")
            extender.cluster.remove_node(name)
            extender.contest.set_avoided(name, False)
            return
        taints = change.object.spec.taints or ()
        extender.contest.set_avoided(name, any(taint.effect == "PreferNoSchedule" for taint in taints))
        if name not in extender.cluster.nodes:
            extender.cluster.add_node(name)
            self._ask(extender, name)
        before, now = (
            capacity_type_of(seen.metadata.labels or {}) if seen else "" for seen in (change.before, change.object)
        )
        if now != before:
            extender.cluster.set_capacity_type(name, now)
        shared_before, shared_now = (
            sharing_of(seen.metadata.labels or {}) if seen else None for seen in (change.before, change.object)
        )
        if shared_now != shared_before:
            extender.cluster.set_sharing(name, shared_now)

    def _exporter(self, extender: Extender, change: Change[Pod]) -> None:
        pod = change.object
        node = pod.spec.node_name
        if not node:
            return
        urls = self._exporters.setdefault(node, {})
        urls.pop(pod.metadata.uid, None)
        if change.kind != "deleted" and pod.status.pod_ip and not pod.finished:
            urls[pod.metadata.uid] = f"http://{pod.address(EXPORTER_PORT_NAME, EXPORTER_PORT)}{DIGEST_PATH}"
        if not urls:
            del self._exporters[node]
        self._ask(extender, node)

    def _ask(self, extender: Extender, node: str) -> None:
        """Have the digest of a node that exists polled at its newest exporter, while it has one."""
        urls = list(self._exporters.get(node, {}).values())
        if node in extender.cluster.nodes:
            extender.poller.set_url(node, urls[-1] if urls else "")

    def _class(self, extender: Extender, change: Change[DeviceClass]) -> None:
        name = change.object.metadata.name
        self._classes.pop(name, None)
        if change.kind != "deleted":
            try:
                self._classes[name] = read_class(change.object)
            except SelectorError as error:
                log.warning("DeviceClass is not understood, so not simulated", name=name, error=str(error))
        self._set_inventory(extender, set(self._devices_of))

    def _slice(self, extender: Extender, change: Change[ResourceSlice]) -> None:
        found = change.object
        node = found.spec.node_name
        if not node:
            return
        of_node = self._devices_of.setdefault(node, {})
        if change.kind == "deleted":
            of_node.pop(found.metadata.name, None)
        else:
            of_node[found.metadata.name] = found
            self._pool_nodes[found.spec.pool.name] = node
        self._set_inventory(extender, {node})

    def _claim(self, extender: Extender, change: Change[ResourceClaim]) -> None:
        key = change.object.metadata.key
        changed = set(self._claims.pop(key, ()))
        for device in changed:
            self._holders.pop(device, None)
        if change.kind != "deleted":
            holders = holders_of(change.object)
            self._holders |= holders
            self._claims[key] = tuple(holders)
            changed |= holders.keys()
        self._set_inventory(extender, {node for pool, _ in changed if (node := self._pool_nodes.get(pool))})

    def _forecast(self, extender: Extender, change: Change[Forecast]) -> None:
        for pool, shares in self._forecasts.changed(change):
            extender.cluster.set_forecast(pool, shares)

    def _set_inventory(self, extender: Extender, nodes: set[str]) -> None:
        for node in nodes:
            classes = [self._classes[name] for name in sorted(self._classes)]
            gpus = gpus_of(self._devices_of.get(node, {}).values(), self._holders, classes)
            extender.cluster.set_inventory(node, gpus)


def _pod(extender: Extender, change: Change[WatchedPod]) -> None:
    known = extender.cluster.pods.get(change.object.metadata.uid)
    pod = (
        read_pod(change.object)
        if known is None or change.before is None
        else read_again(known, change.before, change.object)
    )
    if change.kind == "deleted":
        extender.apply(PodEvent("DELETED", (pod,)))
    elif known != pod:  # most changes of a status are none to us
        extender.apply(PodEvent("MODIFIED", (pod,)))
