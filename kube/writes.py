"""Writes to the API server, each of one object, none of them retried here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from kube.connection import DEADLINE_S, Connection
from kube.errors import Refused
from kube.objects import Object, Resource, Scale, TargetRef

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

T = TypeVar("T", bound=Object)
Json = Mapping[str, Any]


def read(
    connection: Connection, resource: Resource[T], name: str, namespace: str | None = None, subresource: str = ""
) -> T:
    """One object as it is now; raises Refused (404 where there is none) and Unreachable."""
    body = connection.get(resource.path(namespace, name, subresource))
    return msgspec.json.decode(body, type=resource.type)


def create(connection: Connection, resource: Resource[T], document: Json, namespace: str | None = None) -> T:
    """Make an object; raises Refused 409 where it exists."""
    body = connection.request("POST", resource.path(namespace), msgspec.json.encode(document))
    return msgspec.json.decode(body, type=resource.type)


def patch(
    connection: Connection,
    path: str,
    change: Json | Sequence[Json],
    deadline_s: float = DEADLINE_S,
    content_type: str | None = None,
) -> bytes:
    """Patch what lies at `path` (see `Resource.path`): a mapping is a merge patch, a list a JSON patch.

    `metadata.resourceVersion` in a merge patch makes it fail with 409 where somebody wrote in between.
    """
    kind = content_type or (MERGE_PATCH if isinstance(change, Mapping) else JSON_PATCH)
    return connection.request("PATCH", path, msgspec.json.encode(change), kind, deadline_s=deadline_s)


def patch_status(
    connection: Connection, resource: Resource[T], name: str, namespace: str | None, status: Json
) -> bytes:
    """Merge `status` into the status subresource of an object; lists are replaced whole."""
    return patch(connection, resource.path(namespace, name, "status"), {"status": status})


def annotate(
    connection: Connection,
    resource: Resource[T],
    name: str,
    namespace: str | None,
    annotations: Mapping[str, str | None],
) -> bytes:
    """Set annotations, and remove those that are None."""
    return patch(connection, resource.path(namespace, name), {"metadata": {"annotations": dict(annotations)}})


def delete(connection: Connection, path: str, grace_s: float | None = None, uid: str = "") -> bytes:
    """Delete what lies at `path`; with `uid` only that very object (409 where the name has a successor)."""
    options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
    if grace_s is not None:
        options["gracePeriodSeconds"] = round(grace_s)
    if uid:
        options["preconditions"] = {"uid": uid}
    return connection.request("DELETE", path, msgspec.json.encode(options))


@dataclass(frozen=True, slots=True)
class ScaleTarget:
    """The `/scale` of one object; `path` is that of the object itself."""

    path: str

    def get(self, connection: Connection) -> Scale:
        return msgspec.json.decode(connection.get(f"{self.path}/scale"), type=Scale)

    def set(
        self,
        connection: Connection,
        replicas: int,
        resource_version: str = "",
        deadline_s: float = DEADLINE_S,
    ) -> Scale:
        """Ask for `replicas`; with `resource_version` only where nobody wrote since (409 otherwise)."""
        change: dict[str, Any] = {"spec": {"replicas": replicas}}
        if resource_version:
            change["metadata"] = {"resourceVersion": resource_version}
        return msgspec.json.decode(patch(connection, f"{self.path}/scale", change, deadline_s), type=Scale)


class _ApiResource(msgspec.Struct):
    name: str
    kind: str = ""


class _ApiResources(msgspec.Struct):
    resources: list[_ApiResource] = []


def scale_target(connection: Connection, target: TargetRef, namespace: str) -> ScaleTarget:
    """Where a scaleTargetRef is scaled, by discovery; raises Refused 404 where the kind is unknown or has no /scale."""
    group_version = target.api_version or "apps/v1"
    root = f"/api{'s' if '/' in group_version else ''}/{group_version}"
    found = msgspec.json.decode(connection.get(root), type=_ApiResources)
    plurals = {resource.name for resource in found.resources}
    for resource in found.resources:
        if resource.kind == target.kind and f"{resource.name}/scale" in plurals:
            return ScaleTarget(f"{root}/namespaces/{namespace}/{resource.name}/{target.name}")
    raise Refused(404, "NotFound", f"{group_version} has no kind {target.kind!r} with a subresource scale")
