"""The autoscaler's process with its own rights on the real control plane."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fleet.labels import DRAINING_ANNOTATION
from tests.kubernetes_autoscaler.cluster import Demand, Process, Space, until

Start = Callable[..., Process]
pytestmark = pytest.mark.usefixtures("kubelet")


def test_a_deployment_is_scaled_up_and_down_and_the_resource_says_why(
    space: Space, demand: Demand, start: Start
) -> None:
    space.deploy()
    space.autoscale()
    demand.rate_per_s = 6.0  # of frames of half a second: three pods at the very least
    process = start()
    until(lambda: space.replicas() >= 4, 40)
    until(lambda: space.condition("Ready").get("status") == "True")
    status = space.resource()["status"]
    assert status["observedGeneration"] == 1
    assert status["desiredReplicas"] >= 4
    assert space.condition("ScalingActive")["status"] == "True"
    assert "ScaledUp" in {event["reason"] for event in space.events()}
    demand.rate_per_s = 0.01
    until(lambda: space.replicas() == 1, 60)
    until(lambda: len(space.pods()) == 1)
    assert DRAINING_ANNOTATION not in space.pods()[0]["metadata"].get("annotations", {})
    assert "ScaledDown" in {event["reason"] for event in space.events()}
    assert process.stop() == 0
    assert "forbidden" not in process.text
