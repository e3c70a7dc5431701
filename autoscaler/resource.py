"""A PredictiveAutoscaler as the API server stores it, read into the Pool that is decided by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from autoscaler.pool import Override, Pool
from fleet.labels import PAUSED_ANNOTATION, PAUSED_SCALE_DOWN_ANNOTATION

GROUP = "splatfleet.io"
VERSION = "v1alpha1"
PLURAL = "predictiveautoscalers"
KIND = "PredictiveAutoscaler"
FOREVER_S = 4_102_444_800.0  # 2100-01-01: an override by annotation ends when the annotation goes

# Path in the spec -> path in the Pool.
FIELDS: dict[str, str] = {
    "minReplicas": "min_replicas",
    "maxReplicas": "max_replicas",
    "priority": "priority",
    "gpusPerPod": "gpus_per_pod",
    "objective.maxQueueWaitSeconds": "objective.max_queue_wait_s",
    "objective.violationRatio": "objective.violation_ratio",
    "demand.pool": "name",
    "demand.serviceSeconds": "service_s",
    "demand.serviceVariation": "service_cv",
    "forecast.policy": "mode",
    "forecast.quantile": "forecast.quantile",
    "forecast.seasonSeconds": "forecast.season_s",
    "forecast.averageSeconds": "forecast.average_s",
    "forecast.startupSeconds": "startup_s",
    "forecast.startupQuantile": "startup_quantile",
    "triggers.recentSeconds": "triggers.recent_s",
    "triggers.utilization": "triggers.utilization",
    "triggers.pendingPerPod": "triggers.pending_per_pod",
    "triggers.queueToComputeRatio": "triggers.queue_to_compute",
    "behavior.downWindowSeconds": "behavior.down_window_s",
    "behavior.settleSeconds": "behavior.settle_s",
    "behavior.maxReversalsPerDay": "behavior.max_reversals",
    "behavior.staleAfterSeconds": "behavior.stale_after_s",
    "behavior.blindAfterSeconds": "behavior.blind_after_s",
    "behavior.idleSeconds": "behavior.idle_s",
    "behavior.wakeProbability": "behavior.wake_probability",
    "behavior.spend": "behavior.spend",
    "behavior.headroom": "behavior.headroom",
    "behavior.maxMargin": "behavior.max_margin",
    "warmup.nodeStartupSeconds": "node_startup_s",
    "warmup.podBudgetBytes": "pod_budget_bytes",
    "warmup.scenesPerNewPod": "scenes_per_new_pod",
    "warmup.asksPerTick": "warm_asks_per_tick",
    "calendars": "calendars",
    "overrides": "overrides",
    "capacityTypes": "capacity_types",
}
ITEM_FIELDS: dict[str, dict[str, str]] = {
    "calendars": {
        "name": "name",
        "begin": "begin",
        "end": "end",
        "zone": "zone",
        "weekdays": "weekdays",
        "minReplicas": "min_replicas",
        "maxReplicas": "max_replicas",
    },
    "overrides": {
        "from": "from_s",
        "until": "until_s",
        "minReplicas": "min_replicas",
        "maxReplicas": "max_replicas",
        "paused": "paused",
        "holdScaleDown": "hold_scale_down",
        "note": "note",
    },
    "capacityTypes": {
        "name": "name",
        "pricePerHour": "price_per_hour",
        "maxReplicas": "max_replicas",
        "reserved": "reserved",
    },
}
_TARGET_FIELDS = ("apiVersion", "kind", "name")
_SECTIONS = frozenset(path.partition(".")[0] for path in FIELDS if "." in path)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Acting(StrEnum):
    """What becomes of a decision."""

    ACTIVE = "Active"  # it is carried out
    SHADOW = "Shadow"  # it is reported
    PAUSED = "Paused"  # the count is held


class ResourceError(ValueError):
    """A resource that cannot be decided by; names the field, the value and the fix."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One PredictiveAutoscaler, read and checked."""

    namespace: str
    name: str
    uid: str
    generation: int
    target: str  # name of the Deployment
    acting: Acting
    pool: Pool
    paused_until_s: float | None = None  # by annotation
    holds_scale_down: bool = False  # by annotation
    status: Mapping[str, Any] = field(default_factory=dict)  # as it was last written
    resource_version: str = ""
    created: str = ""  # the API's time, which sorts as text

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


def parse_resource(plain: Mapping[str, Any], now_s: float) -> Resource:
    """Read one object of the API server. Raises ResourceError."""
    try:
        return _parsed(plain, now_s)
    except (TypeError, AttributeError) as error:  # a type that the API server's schema keeps away
        raise ResourceError(f"metadata or spec is of another form than the schema's: {error}") from error


def _parsed(plain: Mapping[str, Any], now_s: float) -> Resource:
    metadata, spec = plain.get("metadata") or {}, plain.get("spec")
    name = metadata.get("name", "")
    if not isinstance(spec, Mapping):
        raise ResourceError(f"spec is {spec!r}, expected a mapping")
    annotations = metadata.get("annotations") or {}
    return Resource(
        namespace=metadata.get("namespace", ""),
        name=name,
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        target=_target(spec),
        acting=_acting(spec.get("mode", "Active")),
        pool=_pool(spec, name),
        paused_until_s=_paused_until(annotations.get(PAUSED_ANNOTATION), now_s),
        holds_scale_down=_switch(PAUSED_SCALE_DOWN_ANNOTATION, annotations.get(PAUSED_SCALE_DOWN_ANNOTATION)),
        status=plain.get("status") or {},
        resource_version=metadata.get("resourceVersion", ""),
        created=metadata.get("creationTimestamp") or "",
    )


def effective_pool(resource: Resource) -> Pool:
    """The pool with what mode and annotations add to its overrides."""
    extra: list[Override] = []
    if resource.acting is Acting.PAUSED:
        extra.append(Override(FOREVER_S, paused=True, note="spec.mode is Paused"))
    if resource.paused_until_s is not None:
        extra.append(Override(resource.paused_until_s, paused=True, note=f"annotation {PAUSED_ANNOTATION}"))
    if resource.holds_scale_down:
        note = f"annotation {PAUSED_SCALE_DOWN_ANNOTATION}"
        extra.append(Override(FOREVER_S, hold_scale_down=True, note=note))
    if not extra:
        return resource.pool
    return replace(resource.pool, overrides=(*resource.pool.overrides, *extra))


def _pool(spec: Mapping[str, Any], name: str) -> Pool:
    plain: dict[str, Any] = {"name": name}
    for path, value in _leaves(spec):
        target = FIELDS[path]
        section, dot, leaf = target.partition(".")
        if path in ITEM_FIELDS:
            value = [_item(path, index, item) for index, item in enumerate(_list(path, value))]
        elif path == "forecast.policy":
            value = _one_of(f"spec.{path}", value, {"Predictive": "predictive", "Reactive": "reactive"})
        if dot:
            plain.setdefault(section, {})[leaf] = value
        else:
            plain[section] = value
    if "max_replicas" not in plain:
        raise ResourceError("spec.maxReplicas is missing, expected the most pods that the pool may have")
    try:
        return msgspec.convert(plain, Pool, strict=True)
    except msgspec.ValidationError as error:
        raise ResourceError(_translated(str(error), name)) from error


def _leaves(spec: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Every setting of the spec with its path; refuses what nobody would read."""
    found: list[tuple[str, Any]] = []
    for key, value in spec.items():
        if key in _SECTIONS:
            if not isinstance(value, Mapping):
                raise ResourceError(f"spec.{key} is {value!r}, expected a mapping of settings")
            found += [(f"{key}.{leaf}", item) for leaf, item in value.items()]
        elif key not in ("scaleTargetRef", "mode"):
            found.append((key, value))
    for path, _ in found:
        if path not in FIELDS:
            section = path.rpartition(".")[0]
            known = sorted(p.rpartition(".")[2] for p in FIELDS if p.rpartition(".")[0] == section)
            raise ResourceError(f"spec.{path} does not exist; known there: {', '.join(known)}")
    return found


def _list(path: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ResourceError(f"spec.{path} is {value!r}, expected a list")
    return value


def _item(path: str, index: int, item: Any) -> dict[str, Any]:
    """One calendar, override or capacity type by the names of the Pool."""
    names, where = ITEM_FIELDS[path], f"spec.{path}[{index}]"
    if not isinstance(item, Mapping):
        raise ResourceError(f"{where} is {item!r}, expected a mapping of settings")
    plain: dict[str, Any] = {}
    for key, value in item.items():
        if key not in names:
            raise ResourceError(f"{where}.{key} does not exist; known there: {', '.join(sorted(names))}")
        if key in ("from", "until"):
            value = parse_time(f"{where}.{key}", value)
        elif key == "weekdays":
            value = [_one_of(f"{where}.weekdays", day, {d: i for i, d in enumerate(_WEEKDAYS)}) for day in value]
        plain[names[key]] = value
    return plain


def _one_of(where: str, value: Any, known: Mapping[str, Any]) -> Any:
    if not isinstance(value, str) or value not in known:
        raise ResourceError(f"{where} is {value!r}, expected one of {', '.join(known)}")
    return known[value]


def _acting(value: Any) -> Acting:
    return Acting(_one_of("spec.mode", value, {acting.value: acting.value for acting in Acting}))


def _target(spec: Mapping[str, Any]) -> str:
    target = spec.get("scaleTargetRef")
    if not isinstance(target, Mapping) or not isinstance(target.get("name"), str) or not target["name"]:
        raise ResourceError(f"spec.scaleTargetRef.name is missing in {target!r}, expected the name of a Deployment")
    for key, expected in (("apiVersion", "apps/v1"), ("kind", "Deployment")):
        if target.get(key, expected) != expected:
            raise ResourceError(f"spec.scaleTargetRef.{key} is {target[key]!r}, expected {expected}")
    unknown = sorted(set(target) - set(_TARGET_FIELDS))
    if unknown:
        raise ResourceError(
            f"spec.scaleTargetRef.{unknown[0]} does not exist; known there: {', '.join(_TARGET_FIELDS)}"
        )
    return str(target["name"])


def parse_time(where: str, value: Any) -> float:
    """Unix seconds of an RFC 3339 time; one without a zone is refused. Raises ResourceError."""
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ResourceError(f"{where} is {value!r}, expected a time as 2026-11-21T18:00:00Z") from error
    if time.tzinfo is None:
        raise ResourceError(f"{where} is {value!r} without a zone, expected a time as 2026-11-21T18:00:00Z")
    return time.timestamp()


def format_time(at_s: float) -> str:
    """RFC 3339 in whole seconds of UTC, as the API server takes it."""
    return datetime.fromtimestamp(int(at_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _paused_until(value: str | None, now_s: float) -> float | None:
    """When a pause by annotation ends: `true` when the annotation goes, a time then; None: no pause now."""
    if value is None or value.lower() == "false":
        return None
    if value.lower() == "true":
        return FOREVER_S
    until_s = parse_time(f"metadata.annotations[{PAUSED_ANNOTATION}]", value)
    return until_s if until_s > now_s else None


def _switch(name: str, value: str | None) -> bool:
    return bool(_one_of(f"metadata.annotations[{name}]", (value or "false").lower(), {"true": True, "false": False}))


_BY_POOL_PATH: dict[str, str] = {pool: spec for spec, pool in FIELDS.items()}
_WORD = re.compile(r"[a-z_]+(?:\[[^\]]*\])?(?:\.[a-z_]+)*")


def _translated(message: str, name: str) -> str:
    """A fault of a Pool in the words of the spec: `objective.max_queue_wait_s` is `objective.maxQueueWaitSeconds`."""
    text, _, path = message.partition(" - at `$")
    text = re.sub(r"^pool '[^']*': ", "", text)
    if path.startswith("."):
        return f"{_spec_path(path[1:].rstrip('`'))}: {text}"
    first, space, rest = text.partition(" ")
    if space and _WORD.fullmatch(first) and rest.startswith("is "):
        rest = rest.replace("min_replicas", "minReplicas").replace("from_s", "from")
        return f"{_spec_path(first)} {rest}"
    return f"spec of {name}: {message}"


def _spec_path(pool_path: str) -> str:
    """`calendars[0].min_replicas` is `spec.calendars[0].minReplicas`."""
    if pool_path in _BY_POOL_PATH:
        return f"spec.{_BY_POOL_PATH[pool_path]}"
    head, _, leaf = pool_path.partition(".")
    name, bracket, index = head.partition("[")
    spec_name = _BY_POOL_PATH.get(name, name)
    names = {pool: spec for spec, pool in ITEM_FIELDS.get(spec_name, {}).items()}
    return f"spec.{spec_name}{bracket}{index}" + (f".{names.get(leaf, leaf)}" if leaf else "")
