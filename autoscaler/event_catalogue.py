"""What each Event of the autoscaler says and what to do about it: docs/events.md is made of this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from autoscaler.status import EventReason


@dataclass(frozen=True, slots=True)
class Meaning:
    """One row of the reference; `then` is empty where nothing is to be done."""

    kind: Literal["Normal", "Warning"]
    when: str
    then: str = ""


CATALOGUE: Mapping[EventReason, Meaning] = {
    EventReason.SCALED_UP: Meaning("Normal", "`/scale` was raised; the message is the decision's line"),
    EventReason.SCALED_DOWN: Meaning("Normal", "`/scale` was lowered, after the pods that go have drained"),
    EventReason.SCALE_FAILED: Meaning(
        "Warning", "`/scale` could not be written; told once until it works again", "the role, and the API server"
    ),
    EventReason.INVALID_SPEC: Meaning(
        "Warning", "the resource cannot be read; the message names the field", "mend the field"
    ),
    EventReason.SECOND_WRITER: Meaning(
        "Warning",
        "an HPA, a ScaledObject or an older resource scales the same target: nothing is written",
        "take one of the two away, or set mode Shadow",
    ),
    EventReason.SECOND_WRITER_GONE: Meaning("Normal", "nobody else scales the target any more"),
    EventReason.METRICS_UNAVAILABLE: Meaning(
        "Warning", "there is nothing to decide by: the count is held", "Prometheus, and whether it scrapes the gateway"
    ),
    EventReason.METRICS_AVAILABLE: Meaning("Normal", "there is something to decide by again"),
    EventReason.FORECAST_TRUSTED: Meaning("Normal", "the forecast has begun to beat persistence"),
    EventReason.FORECAST_DISTRUSTED: Meaning("Normal", "it does not beat persistence, which stands in for it"),
    EventReason.SCALING_LIMITED: Meaning(
        "Warning", "more or fewer pods are wanted than limits, GPUs or machines allow", "maxReplicas, GPUs, quota"
    ),
    EventReason.PAUSED: Meaning("Normal", "the count is held by hand", "`splatfleet resume`"),
    EventReason.RESUMED: Meaning("Normal", "the count is decided again"),
    EventReason.SLICES_UNHEALTHY: Meaning(
        "Warning",
        "pods stand on slices that their nodes call unhealthy: they are counted out, and others are asked for",
        "the GPUs of the nodes that the message names (docs/runbooks.md)",
    ),
    EventReason.SLICES_HEALTHY: Meaning("Normal", "no pod is known to stand on an unhealthy slice any more"),
}
