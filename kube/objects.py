"""What we read of Kubernetes objects: projections that msgspec decodes; unknown fields pass and cost nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Generic, TypeVar

import msgspec

Quantity = str | int | float
Quantities = dict[str, Quantity]

_SUFFIXES: dict[str, Decimal] = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}
_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)")


def quantity(value: Quantity) -> float:
    """`"500m"` as 0.5, `"1Ki"` as 1024; raises ValueError."""
    match = _QUANTITY.fullmatch(str(value))
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"quantity {value!r}: want a number with a suffix such as m, k, Mi or none")
    try:
        return float(Decimal(match[1]) * _SUFFIXES[match[2]])
    except InvalidOperation as error:
        raise ValueError(f"quantity {value!r}: {match[1]!r} is no number") from error


def time_s(text: str | None) -> float | None:
    """Seconds since 1970 of an API time; None where there is none or it cannot be read."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


class Projection(msgspec.Struct, rename="camel"):
    """Fields in the API's camelCase; what the API may send as null is optional here."""


class Owner(Projection):
    """Who made it."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class Meta(Projection):
    """Of every object."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: float | None = None
    owner_references: list[Owner] | None = None

    @property
    def key(self) -> str:
        """`namespace/name`, or `name` alone: the key in a reflector's store."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def label(self, name: str, otherwise: str = "") -> str:
        return (self.labels or {}).get(name, otherwise)

    def annotation(self, name: str, otherwise: str = "") -> str:
        return (self.annotations or {}).get(name, otherwise)


class Object(Projection):
    """Any object by its metadata alone."""

    metadata: Meta


class Anything(Object):
    """Any object, its spec and status as plain values."""

    spec: dict[str, Any] | None = None
    status: dict[str, Any] | None = None


class Condition(Projection):
    """`status` is True, False or Unknown, as text."""

    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None
    last_heartbeat_time: str | None = None


def holds(conditions: list[Condition] | None, kind: str) -> bool:
    """Whether the condition `kind` is True."""
    return any(found.type == kind and found.status == "True" for found in conditions or ())


class Taint(Projection):
    key: str
    effect: str = ""
    value: str = ""


class NodeSpec(Projection):
    unschedulable: bool = False
    taints: list[Taint] | None = None
    provider_id: str = msgspec.field(name="providerID", default="")


class NodeAddress(Projection):
    type: str
    address: str


class NodeStatus(Projection):
    capacity: Quantities | None = None
    allocatable: Quantities | None = None
    conditions: list[Condition] | None = None
    addresses: list[NodeAddress] | None = None


class Node(Object):
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)

    @property
    def ready(self) -> bool:
        return holds(self.status.conditions, "Ready")


class Resources(Projection):
    requests: Quantities | None = None
    limits: Quantities | None = None


class ContainerPort(Projection):
    container_port: int
    name: str = ""


class Container(Projection):
    name: str = ""
    resources: Resources | None = None
    ports: list[ContainerPort] | None = None


class PodClaim(Projection):
    """A claim that a pod asks for: by name, or made for it from a template."""

    name: str
    resource_claim_name: str | None = None
    resource_claim_template_name: str | None = None


class PodSpec(Projection):
    node_name: str = ""
    scheduler_name: str = ""
    priority: int | None = None
    priority_class_name: str = ""
    termination_grace_period_seconds: float | None = None
    containers: list[Container] = []
    init_containers: list[Container] | None = None
    resource_claims: list[PodClaim] | None = None
    scheduling_gates: list[dict[str, str]] | None = None


class ContainerState(Projection):
    """The one that is set says where the container is."""

    waiting: dict[str, Any] | None = None
    running: dict[str, Any] | None = None
    terminated: dict[str, Any] | None = None


class ContainerStatus(Projection):
    name: str
    ready: bool = False
    restart_count: int = 0
    state: ContainerState | None = None


class ClaimStatus(Projection):
    name: str
    resource_claim_name: str | None = None


class PodStatus(Projection):
    phase: str = "Pending"
    reason: str = ""
    conditions: list[Condition] | None = None
    pod_ip: str = msgspec.field(name="podIP", default="")
    start_time: str | None = None
    nominated_node_name: str | None = None
    container_statuses: list[ContainerStatus] | None = None
    resource_claim_statuses: list[ClaimStatus] | None = None


class Pod(Object):
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def finished(self) -> bool:
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def ready(self) -> bool:
        return holds(self.status.conditions, "Ready")

    @property
    def terminating(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    def port(self, name: str, otherwise: int) -> int:
        """The container port of that name."""
        for container in self.spec.containers:
            for port in container.ports or ():
                if port.name == name:
                    return port.container_port
        return otherwise

    def address(self, name: str, otherwise: int) -> str:
        """`host:port` of the container port of that name, an IPv6 host in brackets; empty without a podIP."""
        host = self.status.pod_ip
        if not host:
            return ""
        return f"[{host}]:{self.port(name, otherwise)}" if ":" in host else f"{host}:{self.port(name, otherwise)}"


class Selector(Projection):
    match_labels: dict[str, str] | None = None
    match_expressions: list[dict[str, Any]] | None = None


class PodTemplate(Projection):
    metadata: dict[str, Any] | None = None
    spec: PodSpec = msgspec.field(default_factory=PodSpec)


class DeploymentSpec(Projection):
    replicas: int | None = None
    selector: Selector = msgspec.field(default_factory=Selector)
    template: PodTemplate = msgspec.field(default_factory=PodTemplate)


class DeploymentStatus(Projection):
    replicas: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    observed_generation: int = 0
    conditions: list[Condition] | None = None


class Deployment(Object):
    spec: DeploymentSpec = msgspec.field(default_factory=DeploymentSpec)
    status: DeploymentStatus = msgspec.field(default_factory=DeploymentStatus)


class ScaleSpec(Projection):
    replicas: int = 0


class ScaleStatus(Projection):
    replicas: int = 0
    selector: str = ""


class Scale(Object):
    """The subresource `/scale`: `selector` is in the text form that a list takes as labelSelector."""

    spec: ScaleSpec = msgspec.field(default_factory=ScaleSpec)
    status: ScaleStatus = msgspec.field(default_factory=ScaleStatus)


class TargetRef(Projection):
    kind: str
    name: str
    api_version: str = ""


class ScalerSpec(Projection):
    scale_target_ref: TargetRef


class Scaler(Object):
    """Whatever scales a target: a HorizontalPodAutoscaler or a ScaledObject (whose kind may be left out)."""

    spec: ScalerSpec


T = TypeVar("T", bound=Object)


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """A kind of object in the API: `group_version` is `v1` or `apps/v1`, `plural` its name in paths."""

    group_version: str
    plural: str
    type: type[T]
    namespaced: bool = True

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """The path of the collection (all namespaces without one), of an object, or of its subresource."""
        parts = ["/api" if "/" not in self.group_version else "/apis", self.group_version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


NODES = Resource("v1", "nodes", Node, namespaced=False)
PODS = Resource("v1", "pods", Pod)
DEPLOYMENTS = Resource("apps/v1", "deployments", Deployment)
HORIZONTAL_POD_AUTOSCALERS = Resource("autoscaling/v2", "horizontalpodautoscalers", Scaler)
SCALED_OBJECTS = Resource("keda.sh/v1alpha1", "scaledobjects", Anything)
PREDICTIVE_AUTOSCALERS = Resource("splatfleet.io/v1alpha1", "predictiveautoscalers", Anything)
LEASES = Resource("coordination.k8s.io/v1", "leases", Anything)
