"""A new autoscaler on a cluster that still has an older definition of its resource, and the upgrade beneath it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml

from local_fleet.control_plane.binaries import Binaries
from local_fleet.control_plane.plane import ControlPlane
from tests.control_plane.objects import add_node
from tests.kubernetes_autoscaler.cluster import (
    ACCOUNT,
    CRD,
    NODE,
    Process,
    Space,
    demand_of,
    install,
    ready_pods,
    until,
)

LATER = {
    "spec": ("objective", "triggers", "warmup", "calendars", "overrides", "capacityTypes", "priority", "gpusPerPod"),
    "status": ("reactiveFloorReplicas", "demandPerSecond", "forecast", "lastScaleTime"),
}


def test_an_older_definition_works_and_is_upgraded_beneath_the_loop(
    control_plane_binaries: Binaries, tmp_path: Path
) -> None:
    """helm upgrades no definitions, so a new release meets the old one: what it does not know is left out."""
    with ControlPlane(control_plane_binaries, tmp_path / "plane") as plane:
        install(plane)
        plane.apply(_older(yaml.safe_load(CRD.read_text())))
        until(lambda: "forecast" not in _known(plane)["status"])
        add_node(plane, NODE)
        space = Space(plane, "older")
        with demand_of("older") as demand, ready_pods(space):
            space.deploy()
            space.autoscale()
            assert "objective" not in space.resource()["spec"], "this is no older definition"
            account = plane.access.service_account("default", ACCOUNT)
            flags = ["--gateway", demand.url, "--namespace=older", "--lease-namespace=older", "--interval-s=0.5"]
            process = Process(account, tmp_path, "autoscaler", [*flags, "--lease-s=5", "--drain-s=0.5"])
            try:
                demand.rate_per_s = 6.0
                until(lambda: space.replicas() > 3, 120)
                until(lambda: space.condition("Ready").get("status") == "True", 60)
                until(lambda: len([pod for pod in space.pods() if pod["status"]["phase"] == "Running"]) > 3, 60)
                assert "demandPerSecond" not in space.resource()["status"]
                until(lambda: _states_in(space, 4.0) <= 2, 60)  # ticks are 0.5 s: what is left out is no news at each
                install(plane)  # the new definition
                until(lambda: "demandPerSecond" in space.resource()["status"], 120)
                space.autoscale({"objective": {"maxQueueWaitSeconds": 2.0}})
                assert space.resource()["spec"]["objective"]["maxQueueWaitSeconds"] == 2.0
                demand.rate_per_s = 0.1
                until(lambda: space.replicas() == 1, 120)
                assert "Traceback" not in process.text
            finally:
                process.stop()


def _older(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition before some of its fields were there; their rules and columns go with them."""
    (version,) = definition["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    for part, names in LATER.items():
        schema[part].pop("x-kubernetes-validations", None)
        for name in names:
            del schema[part]["properties"][name]
    gone = {f".{part}.{name}" for part, names in LATER.items() for name in names}
    version["additionalPrinterColumns"] = [
        column
        for column in version.get("additionalPrinterColumns", ())
        if not any(column["jsonPath"].startswith(path) for path in gone)
    ]
    return definition


def _known(plane: ControlPlane) -> dict[str, Any]:
    """The fields that the API server's definition has, by part."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/predictiveautoscalers.splatfleet.io"
    (version,) = plane.request("GET", path)["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    return {part: schema[part]["properties"] for part in LATER}


def _states_in(space: Space, seconds: float) -> int:
    """States that the resource takes within some seconds, as often as we look."""
    seen, end_s = set(), time.monotonic() + seconds
    while time.monotonic() < end_s:
        seen.add(space.resource()["metadata"]["resourceVersion"])
        time.sleep(0.05)
    return len(seen)
