"""Who else would write the count of a target: two writers undo each other, so one of them must not write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoscaler.resource import Resource


@dataclass(frozen=True, slots=True)
class Writer:
    """Something that scales one target."""

    kind: str  # HorizontalPodAutoscaler, ScaledObject
    namespace: str
    name: str
    target_kind: str
    target: str


def other_writers(resource: Resource, writers: Iterable[Writer]) -> list[str]:
    """`HorizontalPodAutoscaler renderer`, … for each that scales the same Deployment."""
    return sorted(
        f"{writer.kind} {writer.name}"
        for writer in writers
        if (writer.namespace, writer.target) == (resource.namespace, resource.target)
        and writer.target_kind == "Deployment"
    )


def double_claims(resources: Sequence[Resource]) -> dict[str, str]:
    """By key, why a resource is refused: an older one has its target or its pool. The oldest of several is kept."""
    refused: dict[str, str] = {}
    targets: dict[tuple[str, str], Resource] = {}
    pools: dict[str, Resource] = {}
    for resource in sorted(resources, key=lambda found: (found.created, found.key)):
        target = (resource.namespace, resource.target)
        if target in targets:
            refused[resource.key] = f"PredictiveAutoscaler {targets[target].name} scales Deployment {resource.target}"
        elif resource.pool.name in pools:
            refused[resource.key] = (
                f"PredictiveAutoscaler {pools[resource.pool.name].key} has pool {resource.pool.name}"
            )
        else:
            targets[target] = pools[resource.pool.name] = resource
    return refused
