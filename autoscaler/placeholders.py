"""Pods of low priority that hold a place on a node, so that a node comes before the pods that will need it.

Whoever brings nodes (cluster-autoscaler, Karpenter) sees pods that wait for a place. A renderer pod takes the place of
one at once: its priority is higher, and the scheduler preempts. They carry no label by which anybody counts pods of a
pool. Each ends by itself (`activeDeadlineSeconds`) should nobody be left to delete it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from autoscaler.decision import PlaceAsk
from autoscaler.resource import GROUP, KIND, VERSION, Resource, ResourceError, format_time, parse_time
from fleet.labels import COMPONENT_LABEL, PLACEHOLDER_LABEL, UNTIL_ANNOTATION
from kube.connection import Connection
from kube.errors import KubeError, Refused
from kube.objects import PODS, Anything, Pod
from kube.objects import Resource as Kind
from kube.writes import create, delete, read

COMPONENT = "placeholder"
GRACE_S = 5  # pause ends at once; a grace of 0 would free devices that a node still counts as used
WRITES_A_TICK = 20
RAW_DEPLOYMENTS = Kind("apps/v1", "deployments", Anything)
_SCHEDULED_BY = ("nodeSelector", "tolerations", "schedulerName")
log = structlog.get_logger()


class NoPlaceholder(Exception):
    """A pod template that no placeholder can stand for; says why."""


@dataclass(frozen=True, slots=True)
class Style:
    """What every placeholder has: a PriorityClass below that of any renderer, and an image that does nothing."""

    priority_class: str
    image: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """The places of one pool, for the Deployment that its resource scales."""

    resource: Resource
    places: PlaceAsk


def surplus(placeholders: Iterable[Pod], wanted: Mapping[str, Wanted], now_s: float) -> list[Pod]:
    """Those to delete: too many, over, ended, or of a pool that wants none. Those without a node go first."""
    ending: list[Pod] = []
    of_pool: dict[str, list[Pod]] = {}
    for pod in placeholders:
        if pod.terminating:
            continue
        pool = pod.metadata.label(PLACEHOLDER_LABEL)
        ask = wanted.get(pool)
        if ask is None or _over(pod, now_s) or pod.metadata.namespace != ask.resource.namespace:
            ending.append(pod)
        else:
            of_pool.setdefault(pool, []).append(pod)
    for pool, pods in of_pool.items():
        pods.sort(key=lambda pod: (not pod.spec.node_name, pod.metadata.name))
        ending += pods[wanted[pool].places.count :]
    return ending


def missing(placeholders: Sequence[Pod], ask: Wanted, now_s: float) -> list[str]:
    """Names of those to create for one pool: numbers that no pod has, one that ends included."""
    whose = (ask.resource.pool.name, ask.resource.namespace)
    mine = [pod for pod in placeholders if (pod.metadata.label(PLACEHOLDER_LABEL), pod.metadata.namespace) == whose]
    alive = [pod for pod in mine if not pod.terminating and not _over(pod, now_s)]
    taken = {pod.metadata.name for pod in mine}
    free = (name for i in range(len(mine) + ask.places.count) if (name := _name(ask, i)) not in taken)
    return [name for name, _ in zip(free, range(ask.places.count - len(alive)), strict=False)]


def document(name: str, template: Mapping[str, Any], ask: Wanted, style: Style, now_s: float) -> dict[str, Any]:
    """The pod that stands for one of `template`: what it asks for and where it may go. Raises NoPlaceholder."""
    spec = template.get("spec") or {}
    if spec.get("resourceClaims"):
        raise NoPlaceholder("its pods ask for devices by claims, and a pod that has them is not preempted")
    resource, until_s = ask.resource, ask.places.until_s
    owner = {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "name": resource.name, "uid": resource.uid}
    made = {key: spec[key] for key in _SCHEDULED_BY if spec.get(key)} | {"priorityClassName": style.priority_class}
    node_affinity = (spec.get("affinity") or {}).get("nodeAffinity")
    if node_affinity:
        made["affinity"] = {"nodeAffinity": node_affinity}
    limits = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {PLACEHOLDER_LABEL: resource.pool.name, COMPONENT_LABEL: COMPONENT},
            "annotations": {
                UNTIL_ANNOTATION: format_time(until_s),
                # A node that has just come and is still empty is what consolidation looks for.
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            },
            "ownerReferences": [owner],
        },
        "spec": {
            **made,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": max(1, round(until_s - now_s)),
            "terminationGracePeriodSeconds": GRACE_S,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65535,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": f"place-{index}",
                    "image": style.image,
                    "resources": _asked(container),
                    "securityContext": limits,
                }
                for index, container in enumerate(spec.get("containers") or [])
            ],
        },
    }


def _asked(container: Mapping[str, Any]) -> dict[str, Any]:
    resources = container.get("resources") or {}
    return {key: resources[key] for key in ("requests", "limits") if resources.get(key)}


def _name(ask: Wanted, number: int) -> str:
    return f"{ask.resource.target[:200]}-place-{number}"


def _over(pod: Pod, now_s: float) -> bool:
    """Whether its time has come; one that does not say when it ends should not be."""
    try:
        return pod.finished or parse_time(UNTIL_ANNOTATION, pod.metadata.annotation(UNTIL_ANNOTATION)) <= now_s
    except ResourceError:
        return True


class Placeholders:
    """Creates and deletes them; `guard(seconds)` raises where we may not write."""

    def __init__(
        self,
        connection: Connection,
        style: Style,
        pods: Callable[[], Sequence[Pod]],
        guard: Callable[[float], object],
        write_s: float,
    ) -> None:
        """`pods` are all placeholders that the API server has."""
        self._connection = connection
        self._style = style
        self._pods = pods
        self._guard = guard
        self._write_s = write_s
        self._refused: dict[str, str] = {}  # pool -> why it has none

    def keep(self, wanted: Mapping[str, Wanted], now_s: float) -> None:
        """Bring what there is into step with `wanted`, by pool; a few writes at a time. Never raises."""
        placeholders = self._pods()
        left = WRITES_A_TICK
        for pod in surplus(placeholders, wanted, now_s)[:left]:
            left -= 1
            self._delete(pod)
        for pool, ask in wanted.items():
            names = missing(placeholders, ask, now_s)[:left]
            left -= len(names)
            if names:
                self._create(pool, ask, names, now_s)

    def _delete(self, pod: Pod) -> None:
        try:
            self._guard(self._write_s)
            delete(self._connection, PODS.path(pod.metadata.namespace, pod.metadata.name), uid=pod.metadata.uid)
            log.info("audit", action="PlaceholderDeleted", pod=pod.metadata.key, node=pod.spec.node_name)
        except KubeError as error:
            if not (isinstance(error, Refused) and (error.absent or error.conflict)):  # it went by itself
                log.warning("placeholder not deleted", pod=pod.metadata.key, error=str(error))

    def _create(self, pool: str, ask: Wanted, names: Sequence[str], now_s: float) -> None:
        namespace = ask.resource.namespace
        try:
            template = (read(self._connection, RAW_DEPLOYMENTS, ask.resource.target, namespace).spec or {})["template"]
            for name in names:
                made = document(name, template, ask, self._style, now_s)
                self._guard(self._write_s)
                create(self._connection, PODS, made, namespace)
                log.info("audit", action="PlaceholderCreated", pod=f"{namespace}/{name}", pool=pool)
            self._refused.pop(pool, None)
        except (KubeError, NoPlaceholder, KeyError) as error:
            if isinstance(error, Refused) and error.conflict:
                return  # the watch has not brought it yet
            if self._refused.get(pool) != str(error):  # once, not with every tick
                log.warning("no placeholder", pool=pool, error=str(error))
            self._refused[pool] = str(error)
