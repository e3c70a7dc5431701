"""A decision as the status and the conditions of its resource, and what of a change is told as an Event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from autoscaler.decision import Decision, Reason
from autoscaler.observation import Observation
from autoscaler.reasons import WORDS
from autoscaler.resource import Acting, Resource, format_time

REFRESH_S = 60.0  # numbers that change with every tick are written so often at most

State = Literal["True", "False", "Unknown"]


class EventReason(StrEnum):
    """Every Event that the autoscaler writes; `event_catalogue` explains each."""

    SCALED_UP = "ScaledUp"
    SCALED_DOWN = "ScaledDown"
    SCALE_FAILED = "ScaleFailed"
    INVALID_SPEC = "InvalidSpec"
    SECOND_WRITER = "SecondWriter"
    SECOND_WRITER_GONE = "SecondWriterGone"
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    METRICS_AVAILABLE = "MetricsAvailable"
    FORECAST_TRUSTED = "ForecastTrusted"
    FORECAST_DISTRUSTED = "ForecastDistrusted"
    SCALING_LIMITED = "ScalingLimited"
    PAUSED = "Paused"
    RESUMED = "Resumed"
    SLICES_UNHEALTHY = "SlicesUnhealthy"
    SLICES_HEALTHY = "SlicesHealthy"


@dataclass(frozen=True, slots=True)
class Standing:
    """What beside the decision says whether it is carried out."""

    conflict: str = ""  # who else writes the count; empty: nobody
    paused: str = ""  # why the count is held by hand; empty: it is not


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition before it has a time."""

    type: str
    status: State
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Told:
    """An Event to write."""

    reason: EventReason
    message: str
    kind: Literal["Normal", "Warning"]


_BLIND = {
    Reason.NO_DATA: "NoData",
    Reason.STALE: "Stale",
    Reason.BLIND: "Blind",
    Reason.OBSERVE_FAILED: "NotObserved",
}
_LIMITS = {
    Reason.AT_MAX: "TooManyReplicas",
    Reason.AT_MIN: "TooFewReplicas",
    Reason.GPU_BUDGET: "GpuBudget",
    Reason.STOCK_OUT: "StockOut",
}


def invalid_status(
    resource_name: str, generation: int, old: Mapping[str, Any], fault: str, now_s: float
) -> dict[str, Any]:
    """The status of a resource that cannot be read: nothing is scaled by it."""
    found = (
        Condition("Ready", "False", "InvalidSpec", f"{resource_name}: {fault}"),
        Condition("ScalingActive", "False", "InvalidSpec", "the last count stays"),
    )
    return {"observedGeneration": generation, "conditions": _dated(found, old, generation, now_s)}


def status_of(
    resource: Resource, decision: Decision, observation: Observation | None, standing: Standing, now_s: float
) -> dict[str, Any]:
    """What is reported of one decision; what is not known is null, which a merge patch takes away."""
    view = decision.forecast
    forecast = None
    if view is not None:
        forecast = {
            "neededReplicas": decision.need,
            "requestsPerSecond": _number(view.quantiles.get(view.working_quantile)),
            "quantile": _number(view.working_quantile),
            "leadSeconds": _number(decision.lead_s),
            "coverage": _number(view.coverage),
            "skill": _number(view.skill),
        }
    status: dict[str, Any] = {
        "observedGeneration": resource.generation,
        "desiredReplicas": decision.replicas,
        "reason": str(decision.reason),
        "explanation": decision.explanation,
        "demandPerSecond": _number(decision.demand_per_s),
        "forecast": forecast,
        "lastScaleTime": resource.status.get("lastScaleTime"),
        # What is not known for once is not unlearned; a pool that is another's is not ours to speak of.
        "sceneShares": _shares(decision) or (None if standing.conflict else resource.status.get("sceneShares")),
        "conditions": _dated(
            _conditions(resource, decision, observation, standing), resource.status, resource.generation, now_s
        ),
    }
    if observation is not None:
        status |= {
            "currentReplicas": observation.desired,
            "readyReplicas": observation.ready,
            "startingReplicas": len(observation.starting),
            "reactiveFloorReplicas": decision.floor,
        }
    return status


def _conditions(
    resource: Resource, decision: Decision, observation: Observation | None, standing: Standing
) -> Iterator[Condition]:
    line = decision.explanation
    yield _ready(decision, standing)
    yield _metrics_available(decision)
    yield _forecasting(decision)
    yield _scaling(resource, decision, standing)
    limit = _LIMITS.get(decision.reason)
    if limit is None:
        yield Condition("ScalingLimited", "False", "WithinLimits", "the count is what is needed")
    else:
        yield Condition("ScalingLimited", "True", limit, line)
    if standing.conflict:
        yield Condition("Conflict", "True", "SecondWriter", f"{standing.conflict}; remove it or this resource")
    else:
        yield Condition("Conflict", "False", "OnlyWriter", "nobody else scales the target")
    if standing.paused:
        yield Condition("Paused", "True", "ByHand", standing.paused)
    else:
        yield Condition("Paused", "False", "Running", "the count is decided")
    yield from _slices(resource, observation)


def _slices(resource: Resource, observation: Observation | None) -> Iterator[Condition]:
    """What was seen last stays where the pool could not be observed."""
    if observation is None:
        for was in resource.status.get("conditions") or ():
            if was.get("type") == "SlicesHealthy":
                yield Condition("SlicesHealthy", was["status"], was["reason"], was["message"])
    elif observation.unhealthy:
        nodes = ", ".join(sorted({pod.node for pod in observation.pods if not pod.healthy}))
        line = f"counted out, being on slices that their nodes call unhealthy: {observation.unhealthy} on {nodes}"
        yield Condition("SlicesHealthy", "False", "PodsCountedOut", line)
    else:
        yield Condition("SlicesHealthy", "True", "NoneUnhealthy", "no pod is known to be on an unhealthy slice")


def _ready(decision: Decision, standing: Standing) -> Condition:
    if standing.conflict:
        return Condition("Ready", "False", "SecondWriter", standing.conflict)
    if decision.reason is Reason.OBSERVE_FAILED:
        return Condition("Ready", "False", "NotObserved", decision.explanation)
    if decision.reason is Reason.ACT_FAILED:
        return Condition("Ready", "False", "ScaleFailed", decision.explanation)
    return Condition("Ready", "True", "Deciding", "decisions are made")


def _metrics_available(decision: Decision) -> Condition:
    """Without data a pause, a limit or a queue may be the decision's reason, and its line does not say it then."""
    blind = decision.blind or decision.reason
    if blind not in _BLIND:
        return Condition("MetricsAvailable", "True", "DemandKnown", "demand is known and fresh")
    line = decision.explanation if blind is decision.reason else f"{WORDS[blind]}; {decision.explanation}"
    return Condition("MetricsAvailable", "False", _BLIND[blind], line)


def _forecasting(decision: Decision) -> Condition:
    view = decision.forecast
    if view is None:
        return Condition("Forecasting", "False", "NoForecast", "the reactive floor alone decides")
    if view.gated:
        return Condition("Forecasting", "False", "Distrusted", "the mixture does not beat persistence, which stands in")
    return Condition("Forecasting", "True", "Trusted", "the mixture beats persistence")


def _scaling(resource: Resource, decision: Decision, standing: Standing) -> Condition:
    if standing.conflict:
        return Condition("ScalingActive", "False", "SecondWriter", standing.conflict)
    if resource.acting is Acting.SHADOW:
        return Condition(
            "ScalingActive", "False", "Shadow", "spec.mode is Shadow: decided and reported, not carried out"
        )
    if standing.paused:
        return Condition("ScalingActive", "False", "Paused", standing.paused)
    if decision.reason is Reason.ACT_FAILED:
        return Condition("ScalingActive", "False", "ScaleFailed", decision.explanation)
    return Condition("ScalingActive", "True", "Active", "decisions are carried out")


def _dated(
    conditions: Iterator[Condition] | tuple[Condition, ...], old: Mapping[str, Any], generation: int, now_s: float
) -> list[dict[str, Any]]:
    """Conditions as the API has them; the time is that of the last change of status."""
    before = {condition.get("type"): condition for condition in old.get("conditions") or ()}
    dated = []
    for condition in conditions:
        was = before.get(condition.type, {})
        same = was.get("status") == condition.status and was.get("lastTransitionTime")
        dated.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message[:32_000],
                "observedGeneration": generation,
                "lastTransitionTime": was["lastTransitionTime"] if same else format_time(now_s),
            }
        )
    return dated


def _shares(decision: Decision) -> list[dict[str, str]]:
    """By the names: two scenes that are wanted alike are no news each time they change places."""
    return [{"scene": scene, "share": f"{share:.2g}"} for scene, share in sorted(decision.scene_shares.items())]


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"


def is_news(old: Mapping[str, Any], new: Mapping[str, Any], since_written_s: float) -> bool:
    """Whether a status is worth a write: counts and conditions at once, numbers and words once a minute."""
    if substance(old) != substance(new):
        return True
    return since_written_s >= REFRESH_S and _present(old) != _present(new)


def substance(status: Mapping[str, Any]) -> list[object]:
    """What of a status is written as soon as it changes."""
    counts = ("currentReplicas", "readyReplicas", "startingReplicas", "desiredReplicas")
    keys = ("observedGeneration", *counts, "lastScaleTime", "reason")
    conditions = sorted((c.get("type"), c.get("status"), c.get("reason")) for c in status.get("conditions") or ())
    return [*(status.get(key) for key in keys), bool(status.get("sceneShares")), conditions]


def _present(value: Any) -> Any:
    """Without what is null: the API server keeps none of it."""
    if isinstance(value, Mapping):
        return {key: _present(item) for key, item in value.items() if item is not None}
    return value


def ready_reason(status: Mapping[str, Any]) -> str:
    """Reason of the condition Ready; empty before the first one."""
    return next((str(c.get("reason")) for c in status.get("conditions") or () if c.get("type") == "Ready"), "")


_NEWS: dict[tuple[str, str], tuple[EventReason, Literal["Normal", "Warning"]]] = {
    ("Conflict", "True"): (EventReason.SECOND_WRITER, "Warning"),
    ("Conflict", "False"): (EventReason.SECOND_WRITER_GONE, "Normal"),
    ("MetricsAvailable", "False"): (EventReason.METRICS_UNAVAILABLE, "Warning"),
    ("MetricsAvailable", "True"): (EventReason.METRICS_AVAILABLE, "Normal"),
    ("Forecasting", "True"): (EventReason.FORECAST_TRUSTED, "Normal"),
    ("Forecasting", "False"): (EventReason.FORECAST_DISTRUSTED, "Normal"),
    ("ScalingLimited", "True"): (EventReason.SCALING_LIMITED, "Warning"),
    ("Paused", "True"): (EventReason.PAUSED, "Normal"),
    ("Paused", "False"): (EventReason.RESUMED, "Normal"),
    ("SlicesHealthy", "False"): (EventReason.SLICES_UNHEALTHY, "Warning"),
    ("SlicesHealthy", "True"): (EventReason.SLICES_HEALTHY, "Normal"),
}


def news(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Told]:
    """Events for the conditions that changed; what was never seen before is told only where it is bad."""
    before = {condition.get("type"): condition.get("status") for condition in old.get("conditions") or ()}
    for condition in new.get("conditions") or ():
        kind, status = condition["type"], condition["status"]
        if before.get(kind) == status or (kind, status) not in _NEWS:
            continue
        reason, weight = _NEWS[kind, status]
        if kind in before or weight == "Warning" or reason is EventReason.PAUSED:
            yield Told(reason, condition["message"], weight)
