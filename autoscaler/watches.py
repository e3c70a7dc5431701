"""What the autoscaler follows of a cluster, each resource by its own list-watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from autoscaler.node_services import Addresses, NodeServices, addresses_of
from autoscaler.second_writer import Writer
from fleet.digest import NodeDigest
from fleet.labels import COMPONENT_LABEL, EXPORTER_BESIDE_LABEL, NODE_COMPONENT, PLACEHOLDER_LABEL, POOL_LABEL
from kube.connection import Connection
from kube.errors import KubeError, Refused
from kube.objects import (
    DEPLOYMENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    NODES,
    PODS,
    PREDICTIVE_AUTOSCALERS,
    SCALED_OBJECTS,
    Anything,
    Deployment,
    Node,
    Pod,
)
from kube.reflector import Reflector, Scope, Timings
from kube.watch_store import Change

SCALED_OBJECTS_EVERY_S = 30.0
# After an outage decisions must not be made for long by what was true before it.
TIMINGS = Timings(backoff_most_s=5.0)
log = structlog.get_logger()


class _ScaledObjects(msgspec.Struct):
    items: list[Anything] = []


class Watches:
    """From `start` to `close`; `namespace` limits everything but nodes to it."""

    def __init__(
        self,
        connection: Connection,
        namespace: str | None,
        given: Addresses,
        digest_poll_s: float = 5.0,
        placeholders: bool = False,
    ) -> None:
        """`placeholders` are followed only where they are made."""
        self.connection = connection
        self.on_pod: Callable[[Change[Pod]], None] | None = None
        self.on_placeholder: Callable[[Change[Pod]], None] | None = None
        self._namespace = namespace
        scope = Scope(namespace)
        self._resources = Reflector(connection, PREDICTIVE_AUTOSCALERS, scope, timings=TIMINGS)
        self._deployments = Reflector(connection, DEPLOYMENTS, scope, timings=TIMINGS)
        self._hpas = Reflector(connection, HORIZONTAL_POD_AUTOSCALERS, scope, timings=TIMINGS)
        self._nodes = Reflector(connection, NODES, timings=TIMINGS)
        self._pods = Reflector(
            connection, PODS, Scope(namespace, label_selector=POOL_LABEL), self._pod_changed, TIMINGS
        )
        self._services = Reflector(
            connection, PODS, Scope(namespace, label_selector=f"{COMPONENT_LABEL}={NODE_COMPONENT}")
        )
        self._beside = Reflector(connection, PODS, Scope(namespace, label_selector=EXPORTER_BESIDE_LABEL))
        held = Scope(namespace, label_selector=PLACEHOLDER_LABEL)
        self._placeholders = (
            Reflector(connection, PODS, held, self._placeholder_changed, TIMINGS) if placeholders else None
        )
        self.node_services = NodeServices(
            lambda: addresses_of(self._services.items(), self._beside.items(), given), digest_poll_s
        )
        self._scaled_objects: list[Writer] = []
        self._scaled_objects_s = float("-inf")

    def start(self) -> Watches:
        # Nodes before pods: a pod's start is measured with the node that it is on.
        for reflector in self._all():
            reflector.start()
        self.node_services.start()
        return self

    def close(self) -> None:
        self.node_services.close()
        for reflector in self._all():
            reflector.stop(1.0)

    def wait_synced(self, deadline_s: float) -> str:
        """Wait for the first list of everything; what is missing after that, in a line, or nothing."""
        end_s = time.monotonic() + deadline_s
        missing = []
        for reflector in self._all():
            if not reflector.wait_synced(max(0.0, end_s - time.monotonic())):
                missing.append(f"{reflector.resource.plural} ({reflector.last_error or 'no answer yet'})")
        return ", ".join(missing)

    def has_synced(self) -> bool:
        return all(reflector.has_synced for reflector in self._all())

    def ages_s(self) -> dict[str, float]:
        """Seconds since the API server was last heard, by resource; without those that it never was."""
        ages: dict[str, float] = {}
        for reflector in self._all():
            if reflector.event_age_s is not None:
                name = reflector.resource.plural
                ages[name] = max(reflector.event_age_s, ages.get(name, 0.0))
        return ages

    def check_fresh(self, most_s: float) -> None:
        """Raises LookupError where a watch was not heard of for so long, or never."""
        for reflector in self._all():
            age_s = reflector.event_age_s
            if age_s is None or age_s > most_s:
                since = "never" if age_s is None else f"for {age_s:.0f} s not"
                raise LookupError(f"the API server was {since} heard of {reflector.resource.plural}")

    def resources(self) -> list[Anything]:
        return self._resources.items()

    def deployment(self, namespace: str, name: str) -> Deployment | None:
        return self._deployments.get(name, namespace)

    def nodes(self) -> Mapping[str, Node]:
        return {node.metadata.name: node for node in self._nodes.items()}

    def node(self, name: str) -> Node | None:
        return self._nodes.get(name) if name else None

    def pods(self) -> list[Pod]:
        return self._pods.items()

    def pods_of(self, namespace: str, pool: str) -> list[Pod]:
        return [
            pod
            for pod in self._pods.items()
            if pod.metadata.namespace == namespace and pod.metadata.label(POOL_LABEL) == pool
        ]

    def placeholders(self) -> list[Pod]:
        """Pods that hold places on nodes, of every pool."""
        return self._placeholders.items() if self._placeholders is not None else []

    def digests(self) -> dict[str, NodeDigest]:
        return self.node_services.digests()

    def writers(self) -> Sequence[Writer]:
        """Whoever else scales something: HorizontalPodAutoscalers, and KEDA's ScaledObjects where KEDA is there."""
        hpas = [
            Writer(
                "HorizontalPodAutoscaler",
                found.metadata.namespace,
                found.metadata.name,
                found.spec.scale_target_ref.kind,
                found.spec.scale_target_ref.name,
            )
            for found in self._hpas.items()
        ]
        return [*hpas, *self._keda()]

    def _pod_changed(self, change: Change[Pod]) -> None:
        if self.on_pod is not None:
            self.on_pod(change)

    def _placeholder_changed(self, change: Change[Pod]) -> None:
        if self.on_placeholder is not None:
            self.on_placeholder(change)

    def _keda(self) -> list[Writer]:
        """A list now and then: a watch of a kind that is not installed would fail for ever."""
        if time.monotonic() - self._scaled_objects_s < SCALED_OBJECTS_EVERY_S:
            return self._scaled_objects
        self._scaled_objects_s = time.monotonic()
        try:
            body = self.connection.get(SCALED_OBJECTS.path(self._namespace), deadline_s=5.0)
            found = msgspec.json.decode(body, type=_ScaledObjects).items
            self._scaled_objects = [_scaled_object(item) for item in found]
        except Refused as error:
            if error.absent:
                self._scaled_objects = []
            else:
                log.warning("ScaledObjects not listed", error=str(error))
        except (KubeError, msgspec.MsgspecError) as error:
            log.warning("ScaledObjects not listed", error=str(error))
        return self._scaled_objects

    def _all(self) -> tuple[Reflector[Anything] | Reflector[Deployment] | Reflector[Node] | Reflector[Pod], ...]:
        placeholders = () if self._placeholders is None else (self._placeholders,)
        return (
            self._nodes,
            self._resources,
            self._deployments,
            self._hpas,
            self._services,
            self._beside,
            self._pods,
            *placeholders,
        )


def _scaled_object(item: Anything) -> Writer:
    target = (item.spec or {}).get("scaleTargetRef") or {}
    kind, name = target.get("kind") or "Deployment", target.get("name", "")
    return Writer("ScaledObject", item.metadata.namespace, item.metadata.name, kind, name)
