"""`splatfleet explain autoscaler`: why a pool has the count that it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.describe import counts, event_lines, events_of
from splatfleet.kubectl import ClusterSettings, Json, age, condition, connect, one
from splatfleet.settings import verb


class AutoscalerSettings(ClusterSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_EXPLAIN_AUTOSCALER_", populate_by_name=True)

    name: str = Field(description="Name of a PredictiveAutoscaler.")


def run(settings: AutoscalerSettings) -> None:
    """The last decision about a pool: what was seen and foreseen, what limits it, whether it is carried out."""
    from kube.objects import PREDICTIVE_AUTOSCALERS

    connection = connect(settings)
    item = one(connection, PREDICTIVE_AUTOSCALERS, settings.namespace or connection.namespace, settings.name)
    scalings = [event for event in events_of(connection, item) if str(event.get("reason")).startswith("Scal")]
    click.echo("\n".join([*_lines(item), *event_lines(scalings[-5:])]))


def _lines(item: Json) -> Iterator[str]:
    from autoscaler.decision import Reason
    from autoscaler.reasons import WORDS

    status = item.get("status") or {}
    name, reason = item["metadata"]["name"], status.get("reason")
    if reason is None:
        ready = condition(item, "Ready")
        why = ready.get("message") or "is an autoscaler running? `splatfleet doctor` looks"
        yield f"{name}: nothing was decided yet; {why}"
        return
    words = WORDS[Reason(reason)] if reason in {known.value for known in Reason} else "a reason of another version"
    yield f"{name} should have {status.get('desiredReplicas')} replicas ({reason}): {words}"
    yield f"  seen            {counts(item)}"
    yield f"  demand          {status.get('demandPerSecond', 'no data')}/s"
    yield f"  foreseen        {_foreseen(status.get('forecast'))}"
    yield f"  in one line     {status.get('explanation')}"
    scaling = condition(item, "ScalingActive")
    carried = "yes" if scaling.get("status") == "True" else f"no: {scaling.get('message', 'not known')}"
    yield f"  carried out     {carried}"
    for kind in ("Conflict", "Paused", "ScalingLimited"):
        found = condition(item, kind)
        if found.get("status") == "True":
            since = age(found.get("lastTransitionTime"))
            yield f"  {kind.lower():<15} for {since}: {found.get('message')}"
    metrics = condition(item, "MetricsAvailable")
    if metrics.get("status") == "False":
        yield f"  no demand       for {age(metrics.get('lastTransitionTime'))}: {metrics.get('message')}"
    slices = condition(item, "SlicesHealthy")
    if slices.get("status") == "False":
        yield f"  sick slices     for {age(slices.get('lastTransitionTime'))}: {slices.get('message')}"


def _foreseen(forecast: Mapping[str, Any] | None) -> str:
    if not forecast:
        return "nothing: the reactive floor alone decides"
    known = [f"{forecast.get('requestsPerSecond')}/s at the {forecast.get('quantile')} quantile"]
    known.append(f"within {forecast.get('leadSeconds')} s needs {forecast.get('neededReplicas')}")
    known += [f"{word} {forecast[word]}" for word in ("coverage", "skill") if word in forecast]
    return ", ".join(known)


COMMAND = verb(
    "autoscaler", AutoscalerSettings, run, "splatfleet explain autoscaler renderer -n splats", arguments=["name"]
)
