"""The autoscaler's process with its own rights on the real control plane."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest

from autoscaler.status import substance
from autoscaler.target import ScaleMoved, Writes
from fleet.labels import (
    DELETION_COST_ANNOTATION,
    DRAINING_ANNOTATION,
    PAUSED_ANNOTATION,
    PAUSED_SCALE_DOWN_ANNOTATION,
)
from kube.connection import Connection
from kube.writes import patch
from splatfleet.autoscaler_kubernetes import LEASE
from tests.kubernetes_autoscaler.cluster import Demand, Process, Space, until

Start = Callable[..., Process]
pytestmark = [pytest.mark.usefixtures("kubelet"), pytest.mark.timeout(400)]


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
    lease = space.plane.request("GET", space.path("leases", LEASE, "apis/coordination.k8s.io/v1"))
    assert not lease["spec"].get("holderIdentity")  # released, so that another one leads at once


def test_a_count_that_somebody_changed_meanwhile_is_not_overwritten(space: Space) -> None:
    space.deploy(replicas=2)
    connection = Connection.open(space.plane.kubeconfig)
    writes = Writes(connection, float, write_s=4.0, drain_s=0.0)
    with pytest.raises(ScaleMoved, match="has 2 replicas, 1 were observed"):
        writes.scale(space.namespace, "renderer", 1, 5)
    assert space.replicas() == 2
    writes.scale(space.namespace, "renderer", 2, 3)
    assert space.replicas() == 3
    connection.close()


def test_a_count_is_written_though_the_object_moved_between_the_read_and_the_write(space: Space) -> None:
    space.deploy(replicas=2)
    connection = Connection.open(space.plane.kubeconfig)
    path = space.path("deployments", "renderer")
    moves = itertools.count()

    def somebody_annotates(_write_s: float) -> None:  # the guard stands between the read and the write
        if (count := next(moves)) < 3:
            patch(connection, path, {"metadata": {"annotations": {"example.com/moved": str(count)}}})

    Writes(connection, somebody_annotates, write_s=4.0, drain_s=0.0).scale(space.namespace, "renderer", 2, 3)
    assert space.replicas() == 3
    assert next(moves) >= 4  # three writes were refused

    def somebody_scales(_write_s: float) -> None:
        patch(connection, f"{path}/scale", {"spec": {"replicas": 7}})

    with pytest.raises(ScaleMoved, match="has 7 replicas, 3 were observed"):
        Writes(connection, somebody_scales, write_s=4.0, drain_s=0.0).scale(space.namespace, "renderer", 3, 1)
    assert space.replicas() == 7
    connection.close()


def annotations(space: Space) -> dict[str, dict[str, str]]:
    return {pod["metadata"]["name"]: pod["metadata"].get("annotations", {}) for pod in space.pods()}


def marked(space: Space) -> set[str]:
    """Names of the pods that the autoscaler drains."""
    return {name for name, found in annotations(space).items() if found.get(DRAINING_ANNOTATION) == "true"}


def test_victims_drain_before_the_count_is_lowered_and_are_the_ones_that_go(
    space: Space, demand: Demand, start: Start
) -> None:
    space.deploy(replicas=4)
    space.autoscale({"minReplicas": 2})
    until(lambda: sum(pod["status"]["phase"] == "Running" for pod in space.pods()) == 4)
    demand.rate_per_s = 0.01
    start("--drain-s", "6")
    draining = until(lambda: len(found := marked(space)) == 2 and found, 40)  # marked one after the other
    assert space.replicas() == 4
    costs = {name: int(found.get(DELETION_COST_ANNOTATION, "0")) for name, found in annotations(space).items()}
    assert max(costs[name] for name in draining) < min(cost for name, cost in costs.items() if name not in draining)
    # Demand is back before they went: nobody goes, nobody drains.
    demand.rate_per_s = 5.0
    until(lambda: not any(DRAINING_ANNOTATION in found for found in annotations(space).values()), 20)
    assert space.replicas() >= 4
    demand.rate_per_s = 0.01
    until(lambda: any(DRAINING_ANNOTATION in found for found in annotations(space).values()), 60)
    until(lambda: space.replicas() == 2, 60)
    left = until(lambda: len(space.pods()) == 2 and annotations(space))
    assert not any(found.get(DRAINING_ANNOTATION) for found in left.values())


def test_shadow_reports_pause_holds_and_a_second_writer_is_refused(space: Space, demand: Demand, start: Start) -> None:
    space.deploy()
    space.autoscale({"mode": "Shadow"})
    demand.rate_per_s = 6.0
    start()
    until(lambda: space.resource().get("status", {}).get("desiredReplicas", 0) >= 4, 40)
    assert (space.condition("ScalingActive")["status"], space.condition("ScalingActive")["reason"]) == (
        "False",
        "Shadow",
    )
    assert space.replicas() == 1

    target = {"type": "Utilization", "averageUtilization": 80}
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "rival", "namespace": space.namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "renderer"},
            "minReplicas": 1,
            "maxReplicas": 2,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }
    space.plane.apply(hpa)
    space.autoscale({"mode": "Active"})
    until(lambda: space.condition("Conflict").get("status") == "True", 20)
    assert "HorizontalPodAutoscaler rival" in space.condition("Conflict")["message"]
    assert space.condition("Ready")["status"] == "False"
    assert "SecondWriter" in {event["reason"] for event in space.events()}
    assert space.replicas() == 1

    paused = {"annotations": {PAUSED_ANNOTATION: "true"}}
    space.autoscale({"mode": "Active"}, **paused)
    until(lambda: space.condition("Paused").get("status") == "True", 20)
    space.plane.kubectl("delete", "hpa", "rival", "-n", space.namespace)
    until(lambda: space.condition("Conflict").get("status") == "False", 20)
    assert space.replicas() == 1
    space.autoscale({"mode": "Active"}, annotations={PAUSED_SCALE_DOWN_ANNOTATION: "true"})
    until(lambda: space.replicas() >= 4, 30)
    count = space.replicas()
    demand.rate_per_s = 0.01
    until(lambda: space.resource()["status"]["reason"] == "at_min", 40)
    assert space.replicas() >= count, "it may still have risen; it never falls"
    assert space.condition("ScalingLimited")["reason"] == "TooFewReplicas"


def test_a_resource_that_cannot_be_read_or_claims_what_another_has_is_told_so(
    space: Space, demand: Demand, start: Start
) -> None:
    space.deploy()
    space.autoscale()
    until(space.resource, 5)
    calendar = {"name": "w", "begin": "08:00", "end": "09:00", "zone": "Mars/Base", "minReplicas": 2}
    space.autoscale({"calendars": [calendar], "demand": {"pool": "martian"}}, name="martian")
    time.sleep(1.1)  # the older one is kept, and the API counts whole seconds
    space.autoscale(name="younger")
    space.autoscale({"scaleTargetRef": {"name": "nothing"}, "demand": {"pool": "lonely"}}, name="lonely")
    demand.rate_per_s = 1.0
    start()
    until(lambda: space.condition("Ready").get("status") == "True", 40)
    ready = until(lambda: space.condition("Ready", "martian"))
    assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec")
    assert "spec.calendars[w].zone is 'Mars/Base'" in ready["message"]
    conflict = until(lambda: space.condition("Conflict", "younger"))
    assert conflict["status"] == "True"
    assert "PredictiveAutoscaler renderer scales Deployment renderer" in conflict["message"]
    missing = until(lambda: space.condition("Ready", "lonely"))
    assert missing["reason"] == "NotObserved"
    assert "Deployment" in missing["message"]
    assert {"InvalidSpec", "SecondWriter"} <= {event["reason"] for event in space.events()}


def test_status_is_written_on_change_alone(space: Space, demand: Demand, start: Start) -> None:
    space.deploy(replicas=2)
    space.autoscale({"minReplicas": 2, "maxReplicas": 2})
    demand.rate_per_s = 1.0
    start()
    until(lambda: space.condition("MetricsAvailable").get("status") == "True", 40)
    seen = [space.resource()]
    end_s = time.monotonic() + 5.0  # ten ticks
    while time.monotonic() < end_s:
        found = space.resource()
        if found["metadata"]["resourceVersion"] != seen[-1]["metadata"]["resourceVersion"]:
            seen.append(found)
        time.sleep(0.05)
    assert len(seen) < 8
    for before, after in itertools.pairwise(seen):
        assert substance(before["status"]) != substance(after["status"])


def test_when_the_leader_dies_or_hangs_another_one_leads_and_the_old_one_writes_nothing(
    space: Space, demand: Demand, start: Start
) -> None:
    def writers() -> dict[str, list[str]]:
        """Times of the scale Events by who wrote them."""
        found: dict[str, list[str]] = {}
        for event in sorted(space.events(), key=lambda event: str(event["firstTimestamp"])):
            if event["reason"].startswith("Scaled"):
                found.setdefault(event["reportingInstance"], []).append(event["firstTimestamp"])
        return found

    def identity(process: Process) -> str:
        return str(process.text.partition(" as ")[2].split()[0])

    space.deploy()
    space.autoscale()
    demand.rate_per_s = 3.0
    first = start()
    until(lambda: space.replicas() >= 2, 40)
    second = start()
    assert set(writers()) == {identity(first)}

    first.pause()  # hangs, with the lease in its hand
    until(lambda: " leads " in second.text, 30)
    demand.rate_per_s = 7.0
    until(lambda: identity(second) in writers(), 30)
    written = writers()[identity(first)]
    first.resume()
    time.sleep(3.0)
    assert writers()[identity(first)] == written
    assert "does not lead" in first.text

    second.kill()
    demand.rate_per_s = 0.01
    count = space.replicas()
    until(lambda: space.replicas() < count, 60)
    assert len(writers()[identity(first)]) > len(written)
