"""`splatfleet get`: autoscalers, renderer pods and GPU nodes as kubectl lists things."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import (
    CAPACITY_TYPE_LABELS,
    DRAINING_ANNOTATION,
    GPU_RESOURCE,
    MIG_RESOURCE_PREFIX,
    POOL_LABEL,
    SCENES_ANNOTATION,
)
from splatfleet.kubectl import (
    Json,
    ListSettings,
    age,
    cell,
    chosen_namespace,
    condition,
    connect,
    fetch_all,
    one,
    print_objects,
    table,
)
from splatfleet.settings import UsageError, verb

if TYPE_CHECKING:
    from kube.objects import Resource


class GetSettings(ListSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_GET_", populate_by_name=True)

    kind: str = Field(description="autoscalers (pa), pods or nodes.")
    name: str | None = Field(None, description="One of them.")


@dataclass(frozen=True, slots=True)
class Listing:
    """How a kind is listed; wide columns come after the others."""

    resource: Resource[Any]
    kind: str
    columns: tuple[str, ...]
    wide: tuple[str, ...]
    row: Callable[[Mapping[str, Any]], list[str]]
    selector: str = ""


def listing(word: str) -> Listing:
    """The kind that a word names; raises UsageError."""
    from kube.objects import NODES, PODS, PREDICTIVE_AUTOSCALERS

    if word in ("pa", "autoscaler", "autoscalers", "predictiveautoscaler", "predictiveautoscalers"):
        columns = ("TARGET", "MODE", "MIN", "MAX", "CURRENT", "DESIRED", "FORECAST", "READY", "AGE")
        wide = ("REASON", "DEMAND", "EXPLANATION")
        name = "predictiveautoscaler.splatfleet.io"
        return Listing(PREDICTIVE_AUTOSCALERS, name, columns, wide, autoscaler_row)
    if word in ("pod", "pods", "po"):
        of_pods = ("POOL", "READY", "STATUS", "DRAINING", "AGE")
        return Listing(PODS, "pod", of_pods, ("IP", "NODE", "SCENES"), pod_row, POOL_LABEL)
    if word in ("node", "nodes", "no"):
        return Listing(NODES, "node", ("READY", "GPUS", "SLICES", "CAPACITY", "AGE"), ("PROFILES",), node_row)
    raise UsageError(f"kind {word!r}: expected autoscalers (pa), pods or nodes")


def autoscaler_row(item: Mapping[str, Any]) -> list[str]:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    forecast = status.get("forecast") or {}
    return [
        cell((spec.get("scaleTargetRef") or {}).get("name")),
        cell(spec.get("mode", "Active")),
        cell(spec.get("minReplicas")),
        cell(spec.get("maxReplicas")),
        cell(status.get("currentReplicas")),
        cell(status.get("desiredReplicas")),
        cell(forecast.get("neededReplicas")),
        cell(condition(item, "Ready").get("status")),
        age(item["metadata"].get("creationTimestamp")),
        cell(status.get("reason")),
        cell(status.get("demandPerSecond")),
        cell(status.get("explanation")),
    ]


def pod_row(item: Mapping[str, Any]) -> list[str]:
    metadata, status = item["metadata"], item.get("status") or {}
    annotations = metadata.get("annotations") or {}
    containers = (item.get("spec") or {}).get("containers") or ()
    ready = sum(bool(found.get("ready")) for found in status.get("containerStatuses") or ())
    state = "Terminating" if metadata.get("deletionTimestamp") else status.get("phase")
    return [
        cell((metadata.get("labels") or {}).get(POOL_LABEL)),
        f"{ready}/{len(containers)}",
        cell(state),
        "yes" if annotations.get(DRAINING_ANNOTATION) == "true" else "",
        age(metadata.get("creationTimestamp")),
        cell(status.get("podIP")),
        cell((item.get("spec") or {}).get("nodeName")),
        cell(annotations.get(SCENES_ANNOTATION)),
    ]


def slices_of(item: Mapping[str, Any]) -> dict[str, int]:
    """MIG slices of a node by profile."""
    allocatable = (item.get("status") or {}).get("allocatable") or {}
    found = {
        name.removeprefix(MIG_RESOURCE_PREFIX): int(count)
        for name, count in allocatable.items()
        if name.startswith(MIG_RESOURCE_PREFIX)
    }
    return {profile: count for profile, count in sorted(found.items()) if count}


def node_row(item: Mapping[str, Any]) -> list[str]:
    labels = item["metadata"].get("labels") or {}
    allocatable = (item.get("status") or {}).get("allocatable") or {}
    slices = slices_of(item)
    return [
        cell(condition(item, "Ready").get("status")),
        cell(allocatable.get(GPU_RESOURCE, "0")),
        str(sum(slices.values())),
        next((labels[name] for name in CAPACITY_TYPE_LABELS if name in labels), ""),
        age(item["metadata"].get("creationTimestamp")),
        ",".join(f"{profile}={count}" for profile, count in slices.items()),
    ]


def run(settings: GetSettings) -> None:
    """List autoscalers, renderer pods or nodes, as kubectl does."""
    kind = listing(settings.kind)
    connection = connect(settings)
    namespace = chosen_namespace(settings, connection)
    if settings.name is not None:
        if namespace is None:
            raise UsageError("--all-namespaces: a name is of one namespace")
        items = [one(connection, kind.resource, namespace, settings.name)]
    else:
        selector = ",".join(filter(None, (kind.selector, settings.selector)))
        items = fetch_all(connection, kind.resource.path(namespace), selector)
        items.sort(key=lambda item: (item["metadata"].get("namespace", ""), item["metadata"]["name"]))
    if settings.output in ("json", "yaml", "name"):
        print_objects(items, settings.output, settings.name is not None, kind.kind)
    elif not items:
        where = f" in {namespace} namespace" if namespace and kind.resource.namespaced else ""
        click.echo(f"No resources found{where}.", err=True)
    else:
        click.echo(_as_table(items, kind, namespace is None and kind.resource.namespaced, settings.output == "wide"))


def _as_table(items: Sequence[Json], kind: Listing, namespaced: bool, wide: bool) -> str:
    shown = len(kind.columns) + (len(kind.wide) if wide else 0)
    rows = [[*(("NAMESPACE",) if namespaced else ()), "NAME", *(kind.columns + kind.wide)[:shown]]]
    for item in items:
        metadata = item["metadata"]
        head = [metadata.get("namespace", "")] if namespaced else []
        rows.append([*head, metadata["name"], *kind.row(item)[:shown]])
    return table(rows)


COMMAND = verb(
    "get",
    GetSettings,
    run,
    "splatfleet get pa -A -o wide\nsplatfleet get pods -n splats\nsplatfleet get nodes",
    arguments=["kind", "name"],
)
