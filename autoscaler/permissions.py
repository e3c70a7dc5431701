"""What the autoscaler needs to be allowed in a cluster: the chart's role, doctor and the tests agree on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Permission:
    """Verbs on one resource; `subresource` is empty for the resource itself."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    subresource: str = ""

    @property
    def name(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


FOLLOW = ("get", "list", "watch")

PERMISSIONS: tuple[Permission, ...] = (
    Permission("splatfleet.io", "predictiveautoscalers", FOLLOW),
    Permission("splatfleet.io", "predictiveautoscalers", ("patch",), "status"),
    Permission("apps", "deployments", FOLLOW),
    Permission("apps", "deployments", ("get", "patch"), "scale"),
    Permission("", "pods", (*FOLLOW, "patch")),  # patch: deletion cost, draining, planned scenes
    Permission("", "nodes", FOLLOW),
    Permission("", "events", ("create", "patch")),
    Permission("autoscaling", "horizontalpodautoscalers", FOLLOW),
    Permission("keda.sh", "scaledobjects", ("list",)),
    Permission("coordination.k8s.io", "leases", ("get", "create", "update")),
)

# With --placeholders; the chart's admission policy limits both to placeholders.
PLACEHOLDERS = Permission("", "pods", ("create", "delete"))


def role_rules(placeholders: bool = False) -> list[dict[str, list[str]]]:
    """The rules of a ClusterRole."""
    needed = (*PERMISSIONS, PLACEHOLDERS) if placeholders else PERMISSIONS
    return [{"apiGroups": [found.group], "resources": [found.name], "verbs": list(found.verbs)} for found in needed]
