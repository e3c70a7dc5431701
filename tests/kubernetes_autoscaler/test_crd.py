"""The real API server takes the definition, and its rules refuse what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest

from local_fleet.control_plane.plane import ControlPlaneError
from tests.kubernetes_autoscaler.cluster import Space


def test_a_resource_has_defaults_columns_and_a_short_name(space: Space) -> None:
    space.autoscale({"scaleTargetRef": {"name": "renderer"}})
    spec = space.resource()["spec"]
    assert spec["mode"] == "Active"
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "renderer"}
    head, line = space.plane.kubectl("get", "pa", "-n", space.namespace).splitlines()
    assert head.split() == ["NAME", "TARGET", "MODE", "MIN", "MAX", "CURRENT", "DESIRED", "FORECAST", "READY", "AGE"]
    assert line.split()[:5] == ["renderer", "renderer", "Active", "1", "10"]
    assert "REASON" in space.plane.kubectl("get", "pa", "-n", space.namespace, "-o", "wide").splitlines()[0]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"minReplicas": 11}, "minReplicas is above maxReplicas"),
        ({"minReplicas": -1}, "spec.minReplicas"),
        ({"maxReplicas": 0}, "spec.maxReplicas"),
        ({"mode": "Sleepy"}, "Unsupported value"),
        ({"scaleTargetRef": {"name": "x", "kind": "Job"}}, "Unsupported value"),
        ({"scaleTargetRef": {"name": "../x"}}, "spec.scaleTargetRef.name"),
        ({"objective": {"violationRatio": 1.0}}, "spec.objective.violationRatio"),
        ({"objective": {"maxQueueWaitSeconds": 0}}, "spec.objective.maxQueueWaitSeconds"),
        ({"demand": {"pool": "no spaces"}}, "spec.demand.pool"),
        ({"forecast": {"quantile": 0.2}}, "spec.forecast.quantile"),
        ({"calendars": [{"name": "w", "begin": "25:00", "end": "09:00", "minReplicas": 1}]}, "calendars[0].begin"),
        ({"calendars": [{"name": "w", "begin": "08:00", "end": "09:00"}]}, "gives minReplicas, maxReplicas or both"),
        (
            {"calendars": [{"name": "w", "begin": "08:00", "end": "09:00", "minReplicas": 1}] * 2},
            "Duplicate value",
        ),
        ({"overrides": [{"until": "soon", "paused": True}]}, "overrides[0].until"),
        ({"overrides": [{"until": "2027-01-01T00:00:00Z"}]}, "gives minReplicas, maxReplicas or paused"),
        (
            {"overrides": [{"from": "2028-01-01T00:00:00Z", "until": "2027-01-01T00:00:00Z", "paused": True}]},
            "until is not after from",
        ),
        ({"capacityTypes": [{"name": "r", "pricePerHour": 1, "reserved": True}]}, "says how many pods are reserved"),
        ({"unknown": 1}, "unknown field"),
    ],
)
def test_a_resource_that_contradicts_itself_is_refused(space: Space, spec: dict[str, Any], said: str) -> None:
    with pytest.raises(ControlPlaneError) as caught:
        space.autoscale(spec)
    assert said in str(caught.value)


def test_target_and_pool_may_not_change(space: Space) -> None:
    space.autoscale()
    with pytest.raises(ControlPlaneError, match="scaleTargetRef may not change"):
        space.autoscale({"scaleTargetRef": {"name": "another"}})
    with pytest.raises(ControlPlaneError, match=r"demand\.pool may not change"):
        space.autoscale({"demand": {"pool": "another"}})
    space.autoscale({"maxReplicas": 20})
