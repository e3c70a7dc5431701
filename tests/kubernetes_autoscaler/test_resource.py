"""The resource's schema, its reading into a Pool, and its reference page say the same."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from autoscaler.decision import Decision, Reason
from autoscaler.memory import PoolMemory
from autoscaler.observation import Observation, PodState
from autoscaler.policy import decide
from autoscaler.pool import (
    Behavior,
    Calendar,
    CapacityType,
    ForecastSettings,
    Mode,
    Objective,
    Override,
    Pool,
    Triggers,
)
from autoscaler.resource import FIELDS, FOREVER_S, ITEM_FIELDS, Acting, ResourceError, effective_pool, parse_resource
from autoscaler.schedule import limits_at
from autoscaler.status import EventReason, Standing, news, status_of, substance
from fleet.labels import PAUSED_ANNOTATION, PAUSED_SCALE_DOWN_ANNOTATION
from fleet.scene import SceneId

REPOSITORY = Path(__file__).resolve().parents[2]
CRD = REPOSITORY / "deploy/chart/crds/splatfleet.io_predictiveautoscalers.yaml"
NOW_S = 1_795_000_000.0
SECTIONS = {"objective": Objective, "triggers": Triggers, "behavior": Behavior, "forecast": ForecastSettings}
# What a Pool has and a resource does not: the interval is the autoscaler's own.
NOT_SETTABLE = {"tick_s", "carried_out"}


def spec_schema() -> dict[str, Any]:
    version = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return schema


def leaves(schema: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, field in schema.items():
        if field["type"] == "object":
            found |= leaves(field["properties"], f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field
    return found


def resource(spec: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    target = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "renderer"}}
    return {
        "metadata": {"name": "interactive", "namespace": "splats", "uid": "u1", "generation": 3, **metadata},
        "spec": {**target, "minReplicas": 1, "maxReplicas": 12, **(spec or {})},
    }


def test_every_setting_of_the_schema_is_read_and_every_one_that_is_read_is_in_the_schema() -> None:
    known = {path for path in leaves(spec_schema()) if not path.startswith("scaleTargetRef.")} - {"mode"}
    assert known == set(FIELDS)
    for name, items in ITEM_FIELDS.items():
        assert set(spec_schema()[name]["items"]["properties"]) == set(items)


def test_every_setting_of_a_pool_can_be_set() -> None:
    paths = set()
    for field in dataclasses.fields(Pool):
        inner = SECTIONS.get(field.name)
        paths |= {f"{field.name}.{leaf.name}" for leaf in dataclasses.fields(inner)} if inner else {field.name}
    assert paths - NOT_SETTABLE == set(FIELDS.values())
    kinds = {"calendars": Calendar, "overrides": Override, "capacityTypes": CapacityType}
    for name, kind in kinds.items():
        assert {field.name for field in dataclasses.fields(kind)} == set(ITEM_FIELDS[name].values())


def test_the_defaults_that_the_schema_speaks_of_are_those_of_a_pool() -> None:
    pool = Pool("p")
    for path, schema in leaves(spec_schema()).items():
        if path not in FIELDS:
            continue
        value: Any = pool
        for part in FIELDS[path].split("."):
            value = getattr(value, part)
        said = re.search(r"Default (.+)\.$", schema["description"])
        if said is None:
            assert schema.get("default", value) == value, path
            assert value is None or value == () or path in ("minReplicas", "maxReplicas", "demand.pool"), path
        elif isinstance(value, Mode):
            assert said[1].lower() == value.value
        elif isinstance(value, tuple):
            assert tuple(float(part) for part in said[1].split(", ")) == value
        else:
            assert float(said[1]) == value, path


def test_every_field_has_a_description() -> None:
    for path, schema in leaves(spec_schema()).items():
        assert schema.get("description", "").endswith("."), path


def test_a_full_resource_becomes_the_pool_that_it_describes() -> None:
    spec = {
        "mode": "Shadow",
        "minReplicas": 2,
        "priority": 5,
        "objective": {"maxQueueWaitSeconds": 0.25, "violationRatio": 0.02},
        "demand": {"pool": "renderer", "serviceSeconds": 0.1},
        "forecast": {"policy": "Reactive", "seasonSeconds": [600], "startupSeconds": 20, "quantile": 0.95},
        "triggers": {"queueToComputeRatio": None, "utilization": 0.6},
        "behavior": {"maxReversalsPerDay": 3},
        "warmup": {"podBudgetBytes": 1000, "asksPerTick": 7},
        "calendars": [{"name": "work", "begin": "08:00", "end": "18:00", "weekdays": ["Monday"], "minReplicas": 3}],
        "overrides": [{"until": "2027-01-01T00:00:00Z", "paused": True, "note": "fair"}],
        "capacityTypes": [{"name": "reserved", "pricePerHour": 1, "reserved": True, "maxReplicas": 4}],
    }
    got = parse_resource(resource(spec), NOW_S)
    assert (got.key, got.target, got.acting, got.generation) == ("splats/interactive", "renderer", Acting.SHADOW, 3)
    assert got.pool == Pool(
        "renderer",
        min_replicas=2,
        max_replicas=12,
        priority=5,
        objective=Objective(0.25, 0.02),
        service_s=0.1,
        mode=Mode.REACTIVE,
        startup_s=20.0,
        forecast=ForecastSettings(season_s=(600.0,), quantile=0.95),
        triggers=Triggers(queue_to_compute=None, utilization=0.6),
        behavior=Behavior(max_reversals=3),
        pod_budget_bytes=1000,
        warm_asks_per_tick=7,
        calendars=(Calendar("work", "08:00", "18:00", weekdays=(0,), min_replicas=3),),
        overrides=(Override(1_798_761_600.0, paused=True, note="fair"),),
        capacity_types=(CapacityType("reserved", 1.0, 4, True),),
    )


def test_a_resource_that_names_no_pool_names_it_itself() -> None:
    assert parse_resource(resource(), NOW_S).pool == Pool("interactive", min_replicas=1, max_replicas=12)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"minReplicas": 20}, "spec.maxReplicas is 12, expected >= minReplicas"),
        ({"minReplicas": "1"}, "spec.minReplicas: Expected `int`, got `str`"),
        ({"maxReplicas": None}, "spec.maxReplicas: Expected `int`, got `null`"),
        ({"mode": "Sleepy"}, "spec.mode is 'Sleepy', expected one of Active, Shadow, Paused"),
        ({"objective": {"maxQueueWaitSeconds": 0}}, "spec.objective.maxQueueWaitSeconds is 0.0, expected above 0"),
        ({"objective": {"violationRatio": "x"}}, "spec.objective.violationRatio: Expected `float`, got `str`"),
        ({"objective": []}, "spec.objective is [], expected a mapping"),
        ({"objective": {"p99": 1}}, "spec.objective.p99 does not exist; known there: maxQueueWaitSeconds, violation"),
        ({"forecast": {"policy": "predictive"}}, "spec.forecast.policy is 'predictive', expected one of Predictive"),
        ({"forecast": {"startupSeconds": -1}}, "spec.forecast.startupSeconds is -1.0, expected 0 or more"),
        ({"behavior": {"maxMargin": 0.5}}, "spec.behavior.maxMargin is 0.5, expected 1 or more"),
        ({"calendars": [{"name": "w", "begin": "8", "end": "9:00"}]}, "spec.calendars[w].begin is '8', expected a ti"),
        (
            {"calendars": [{"name": "w", "begin": "08:00", "end": "09:00", "zone": "Mars/Base"}]},
            "spec.calendars[w].zone is 'Mars/Base', expected an IANA name",
        ),
        (
            {"calendars": [{"name": "w", "begin": "08:00", "end": "09:00", "weekdays": ["Sat"]}]},
            "spec.calendars[0].weekdays is 'Sat', expected one of Monday",
        ),
        ({"calendars": {}}, "spec.calendars is {}, expected a list"),
        ({"calendars": [{"name": "w", "begin": 8, "end": "09:00"}]}, "spec.calendars[0].begin: Expected `str`"),
        ({"overrides": [{"until": "tomorrow"}]}, "spec.overrides[0].until is 'tomorrow', expected a time as 2026"),
        ({"overrides": [{"until": "2027-01-01T00:00:00"}]}, "without a zone"),
        (
            {"overrides": [{"until": "2027-01-01T00:00:00Z", "from": "2028-01-01T00:00:00Z"}]},
            "spec.overrides.until is 1798761600.0, expected a time after from",
        ),
        ({"capacityTypes": [{"name": "r", "pricePerHour": 1, "reserved": True}]}, "spec.capacityTypes[r].maxReplicas"),
        ({"capacityTypes": [{"name": "r", "price": 1}]}, "spec.capacityTypes[0].price does not exist"),
        ({"scaleTargetRef": {"kind": "Deployment"}}, "spec.scaleTargetRef.name is missing"),
        ({"scaleTargetRef": {"kind": "Job", "name": "x"}}, "spec.scaleTargetRef.kind is 'Job', expected Deployment"),
        ({"replicas": 3}, "spec.replicas does not exist"),
    ],
)
def test_a_fault_is_named_by_its_path_in_the_spec(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse_resource(resource(spec), NOW_S)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"metadata": [1]}, {"metadata": {"annotations": {PAUSED_ANNOTATION: 5}}}, {"spec": {1: {}}}]
)
def test_a_resource_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ResourceError):
        parse_resource(resource() | changes, NOW_S)


@pytest.mark.parametrize("spec", [None, 3, []])
def test_a_resource_without_a_spec_is_refused(spec: Any) -> None:
    with pytest.raises(ResourceError, match="spec is"):
        parse_resource({"metadata": {"name": "x"}, "spec": spec}, NOW_S)


def test_a_pause_by_annotation_holds_until_its_time_and_a_held_step_down_holds_the_count() -> None:
    def pool_of(annotations: dict[str, str]) -> Pool:
        return effective_pool(parse_resource(resource(annotations=annotations), NOW_S))

    plain = pool_of({})
    assert plain.overrides == ()
    paused = limits_at(pool_of({PAUSED_ANNOTATION: "true"}), NOW_S)
    assert paused.paused
    assert f"annotation {PAUSED_ANNOTATION}" in paused.note
    assert "s more" not in paused.note
    until = pool_of({PAUSED_ANNOTATION: "2026-11-21T10:00:00Z"})
    assert limits_at(until, NOW_S).paused == (until.overrides != ())
    assert not limits_at(pool_of({PAUSED_ANNOTATION: "2020-01-01T00:00:00Z"}), NOW_S).paused
    held = limits_at(pool_of({PAUSED_SCALE_DOWN_ANNOTATION: "true"}), NOW_S)
    assert (held.hold_scale_down, held.paused, held.pool.min_replicas) == (True, False, plain.min_replicas)
    with pytest.raises(ResourceError, match=re.escape(f"metadata.annotations[{PAUSED_ANNOTATION}] is 'soon'")):
        pool_of({PAUSED_ANNOTATION: "soon"})
    assert effective_pool(parse_resource(resource({"mode": "Paused"}), NOW_S)).overrides[0].until_s == FOREVER_S


def test_the_reference_page_is_that_of_the_schema() -> None:
    made = subprocess.run(
        [sys.executable, REPOSITORY / "scripts/crd-reference.py"], capture_output=True, text=True, check=True
    ).stdout
    page = (REPOSITORY / "docs/predictiveautoscaler.md").read_text()
    assert page == made, "renew it: python scripts/crd-reference.py > docs/predictiveautoscaler.md"


def test_the_types_of_the_schema_are_those_of_a_pool() -> None:
    hints = {**typing.get_type_hints(Pool)}
    for path, schema in leaves(spec_schema()).items():
        target = FIELDS.get(path)
        if target is None or "." in target or path in ITEM_FIELDS:
            continue
        expected = {"integer": int, "number": float, "string": str}.get(schema["type"])
        hint = hints[target]
        assert hint in (expected, expected | None) or issubclass(hint, str), path


def test_the_status_tells_the_scenes_that_are_expected_and_keeps_them_over_a_moment_without_data() -> None:
    def status(shares: dict[SceneId, float], old: dict[str, Any], conflict: str = "") -> Any:
        document = resource({"maxReplicas": 5}) | {"status": old}
        decision = Decision("web", 1, Reason.STEADY, "", scene_shares=shares)
        return status_of(parse_resource(document, NOW_S), decision, None, Standing(conflict), NOW_S)

    told = status({SceneId("train"): 2 / 3, SceneId("robot"): 1 / 3}, {})
    assert told["sceneShares"] == [{"scene": "robot", "share": "0.33"}, {"scene": "train", "share": "0.67"}]
    assert substance(told) != substance({**told, "sceneShares": None})
    assert status({}, told)["sceneShares"] == told["sceneShares"]
    assert status({}, told, "another has the pool")["sceneShares"] is None
    assert status({}, {})["sceneShares"] is None


@pytest.mark.parametrize(
    ("spec", "desired", "pending", "reason"),
    [
        ({}, 2, None, Reason.NO_DATA),
        ({"mode": "Paused"}, 2, None, Reason.PAUSED),
        ({}, 2, 500.0, Reason.PENDING),
        ({"minReplicas": 4}, 2, None, Reason.AT_MIN),
        ({"maxReplicas": 1}, 2, None, Reason.AT_MAX),
    ],
)
def test_without_data_the_metrics_are_not_available_whatever_decides(
    spec: dict[str, Any], desired: int, pending: float | None, reason: Reason
) -> None:
    got = parse_resource(resource(spec), NOW_S)

    def metrics_of(demand: list[float]) -> tuple[Reason, dict[str, Any]]:
        counts = np.array(demand)
        observation = Observation("p", NOW_S, 60.0, counts, ready=desired, desired=desired, pending=pending)
        decision = decide(effective_pool(got), observation, PoolMemory())
        conditions = status_of(got, decision, observation, Standing(), NOW_S)["conditions"]
        return decision.reason, next(found for found in conditions if found["type"] == "MetricsAvailable")

    why, blind = metrics_of([])
    assert (why, blind["status"], blind["reason"]) == (reason, "False", "NoData")
    assert ("no demand data" in blind["message"]) == (reason is not Reason.NO_DATA)
    assert "no data" in blind["message"]
    assert metrics_of([60.0] * 60)[1]["reason"] == "DemandKnown"


def test_pods_on_unhealthy_slices_are_told_once_per_change() -> None:
    """A tick that sees nothing is no change, and a second sick pod is the same one."""
    sick = {name: PodState(name, node, True, healthy=False) for name, node in (("a", "gpu-1"), ("b", "gpu-2"))}

    def seen(*pods: PodState) -> Observation:
        return Observation("web", 0.0, 1.0, np.zeros(1), ready=1, desired=2, pods=pods, unhealthy=len(pods))

    status: dict[str, Any] = {}
    told = []
    ticks = [seen(), seen(sick["a"]), seen(sick["a"]), None, seen(sick["b"], sick["a"]), None, seen(), None, seen()]
    for observation in ticks:
        document = resource({"maxReplicas": 5}) | {"status": status}
        decision = Decision("web", 1, Reason.STEADY, "")
        new = status_of(parse_resource(document, NOW_S), decision, observation, Standing(), NOW_S)
        told.append([(found.reason, found.kind) for found in news(status, new)])
        status = new
        (condition,) = [found for found in new["conditions"] if found["type"] == "SlicesHealthy"]
        if observation is not None and observation.unhealthy == 2:
            assert condition["message"].endswith("unhealthy: 2 on gpu-1, gpu-2")
    assert {tick: found for tick, found in enumerate(told) if found} == {
        1: [(EventReason.SLICES_UNHEALTHY, "Warning")],
        6: [(EventReason.SLICES_HEALTHY, "Normal")],
    }
