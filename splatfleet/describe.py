"""`splatfleet describe`: one autoscaler with its settings, its conditions and its Events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import PAUSED_ANNOTATION, PAUSED_SCALE_DOWN_ANNOTATION
from splatfleet.kubectl import ClusterSettings, Json, age, cell, connect, fetch_all, one, table
from splatfleet.settings import verb

if TYPE_CHECKING:
    from kube.connection import Connection


class DescribeSettings(ClusterSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_DESCRIBE_", populate_by_name=True)

    name: str = Field(description="Name of a PredictiveAutoscaler.")


def run(settings: DescribeSettings) -> None:
    """One autoscaler whole: settings, status, conditions and Events."""
    from kube.objects import PREDICTIVE_AUTOSCALERS

    connection = connect(settings)
    namespace = settings.namespace or connection.namespace
    item = one(connection, PREDICTIVE_AUTOSCALERS, namespace, settings.name)
    click.echo("\n".join(_lines(item, events_of(connection, item))))


def events_of(connection: Connection, item: Mapping[str, Any]) -> list[Json]:
    """Events about an object, the oldest first."""
    from kube.events import EVENTS

    metadata = item["metadata"]
    found = fetch_all(connection, EVENTS.path(metadata["namespace"]))
    mine = [event for event in found if (event.get("involvedObject") or {}).get("uid") == metadata["uid"]]
    return sorted(mine, key=lambda event: str(event.get("lastTimestamp") or ""))


def _lines(item: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    annotations = metadata.get("annotations") or {}
    held = [
        f"{name}={annotations[name]}"
        for name in (PAUSED_ANNOTATION, PAUSED_SCALE_DOWN_ANNOTATION)
        if name in annotations
    ]
    yield f"Name:       {metadata['name']}"
    yield f"Namespace:  {metadata['namespace']}"
    yield f"Target:     Deployment/{(spec.get('scaleTargetRef') or {}).get('name')}"
    yield f"Mode:       {spec.get('mode')}{'  (' + ', '.join(held) + ')' if held else ''}"
    yield f"Replicas:   {counts(item)}"
    yield "Settings:"
    rest = {key: value for key, value in spec.items() if key not in ("scaleTargetRef", "mode")}
    yield from (f"  {path}: {value}" for path, value in _leaves(rest))
    if status.get("explanation"):
        yield f"Decision:   {status['explanation']}"
    yield from condition_lines(item)
    yield from event_lines(events)


def counts(item: Mapping[str, Any]) -> str:
    """The counts of a pool in one line."""
    spec, status = item.get("spec") or {}, item.get("status") or {}
    named = (
        ("current", "currentReplicas"),
        ("ready", "readyReplicas"),
        ("starting", "startingReplicas"),
        ("desired", "desiredReplicas"),
        ("reacting alone", "reactiveFloorReplicas"),
    )
    known = [f"{status[key]} {word}" for word, key in named if key in status]
    return f"{', '.join(known) or 'nothing decided yet'} (min {spec.get('minReplicas')}, max {spec.get('maxReplicas')})"


def condition_lines(item: Mapping[str, Any]) -> Iterator[str]:
    conditions = (item.get("status") or {}).get("conditions") or ()
    yield "Conditions:"
    rows = [["  TYPE", "STATUS", "REASON", "AGE", "MESSAGE"]]
    for found in conditions:
        age_text = age(found.get("lastTransitionTime"))
        rows.append([f"  {found['type']}", found["status"], found["reason"], age_text, cell(found.get("message"))])
    yield table(rows) if conditions else "  <none>"


def event_lines(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "Events:"
    rows = [["  TYPE", "REASON", "AGE", "MESSAGE"]]
    for event in events[-20:]:
        count = event.get("count") or 1
        when = age(event.get("lastTimestamp")) + (f" (x{count})" if count > 1 else "")
        rows.append([f"  {cell(event.get('type'))}", cell(event.get("reason")), when, cell(event.get("message"))])
    yield table(rows) if events else "  <none>"


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


COMMAND = verb("describe", DescribeSettings, run, "splatfleet describe renderer -n splats", arguments=["name"])
