"""The API server goes away in the middle of everything; and what new pods are told, and whose GPU time it was."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleet import metrics
from fleet.labels import SCENES_ANNOTATION
from local_fleet.control_plane.binaries import Binaries
from local_fleet.control_plane.plane import ControlPlane
from tests.autoscaler.wire import serving
from tests.control_plane.objects import add_node
from tests.kubernetes_autoscaler.cluster import ACCOUNT, Demand, Process, Space, demand_of, install, ready_pods, until

Start = Callable[..., Process]
OUTAGE_S = 12.0  # more than two leases
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def own_plane(control_plane_binaries: Binaries, tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane of this test alone, which may be killed."""
    with ControlPlane(control_plane_binaries, tmp_path / "plane") as plane:
        install(plane)
        add_node(plane, "node")
        yield plane


def test_two_leases_long_without_the_api_server(own_plane: ControlPlane, tmp_path: Path) -> None:
    """Nothing is scaled meanwhile, the process lives, and it scales again without a restart."""
    space = Space(own_plane, "outage")
    space.deploy()
    space.autoscale()
    kubeconfig = own_plane.access.service_account("default", ACCOUNT)
    with demand_of(space.namespace) as demand, ready_pods(space):
        demand.rate_per_s = 3.0
        flags = ["--gateway", demand.url, "--interval-s", "0.5", "--lease-s", "5", "--drain-s", "0"]
        process = Process(kubeconfig, tmp_path, "autoscaler", [*flags, "--lease-namespace", "default"])
        try:
            until(lambda: "follows" in process.text, 120)
            until(lambda: space.replicas() >= 3, 60)
            time.sleep(2.0)
            before, written = space.replicas(), process.text.count("] scaled ")
            os.kill(own_plane.pid("kube-apiserver"), signal.SIGKILL)
            demand.rate_per_s = 8.0
            time.sleep(OUTAGE_S)
            assert process.text.count("] scaled ") == written
            assert "does not lead" in process.text  # its lease ran out, by its own clock
            own_plane.restart_program("kube-apiserver")
            own_plane.wait_ready()
            begin_s = time.monotonic()
            until(lambda: space.replicas() > before, 60)
            took_s = time.monotonic() - begin_s
            print(f"scaled again {took_s:.1f} s after the API server was ready")
            assert process.text.count("] scaled ") > written
            assert "Traceback" not in process.text
            assert process.text.count("lease not renewed") < 4 * OUTAGE_S  # looked for again, not in a spin
            assert process.stop() == 0
        finally:
            process.stop()


@pytest.mark.usefixtures("kubelet")
def test_new_pods_are_told_what_to_load_and_their_time_is_counted(space: Space, demand: Demand, start: Start) -> None:
    add_node(space.plane, "operator-slices", {"nvidia.com/mig-1g.10gb": 7}, **{"splatfleet.io/capacity-type": "spot"})
    try:
        space.deploy(asked={"nvidia.com/mig-1g.10gb": "1"})
        space.autoscale({"maxReplicas": 5, "warmup": {"podBudgetBytes": 10_000_000}})
        with _digest() as digest:
            demand.rate_per_s = 6.0
            process = start(
                "--node-digests", f"operator-slices={digest}", "--listen", "127.0.0.1:0", "--prices", "spot=3600"
            )
            until(lambda: space.replicas() == 5, 40)
            until(lambda: any(_scenes(pod) == "ball" for pod in space.pods()), 20)
            until(lambda: sum(pod["status"]["phase"] == "Running" for pod in space.pods()) == 5, 20)
            url = process.text.partition("listens on ")[2].split()[0]
            first, begin_s = _slice_seconds(url), time.monotonic()
            time.sleep(4.0)
            second, passed_s = _slice_seconds(url), time.monotonic() - begin_s
        grown = {use: second[use] - first.get(use, 0.0) for use in second}
        assert grown["allocated"] == pytest.approx(5 * passed_s, rel=0.35)
        assert grown["idle"] == pytest.approx(2 * passed_s, rel=0.35)
        assert grown["idle"] / grown["allocated"] == pytest.approx(2 / 5, rel=1e-6)  # both of the same looks
        starts = _samples(url, metrics.AUTOSCALER_STARTUP_SECONDS.name + "_count")
        assert sum(value for labels, value in starts if labels["stage"] == "total") >= 5
        assert {labels["stage"] for labels, _ in starts} >= {"provisioning", "total"}
        assert _samples(url, metrics.AUTOSCALER_LEADER.name) == [({}, 1.0)]
    finally:
        space.plane.kubectl("delete", "node", "operator-slices")


def _scenes(pod: dict[str, Any]) -> str:
    return str(pod["metadata"].get("annotations", {}).get(SCENES_ANNOTATION, ""))


def _samples(url: str, name: str) -> list[tuple[dict[str, str], float]]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    families = text_string_to_metric_families(text)
    return [(dict(s.labels), s.value) for family in families for s in family.samples if s.name == name]


def _slice_seconds(url: str) -> dict[str, float]:
    found = _samples(url, metrics.COST_SLICE_SECONDS.name)
    return {labels["use"]: value for labels, value in found if labels["capacity_type"] == "spot"}


@contextmanager
def _digest() -> Iterator[str]:
    """An exporter at the wire whose node has the scene `ball` on its disk."""
    rates = {"fetch_bytes_per_s": 0.0, "read_bytes_per_s": 0.0}
    scene = {"id": "ball", "digest": "0" * 64, "bytes": 1000, "last_used_s": 0.0}
    cache = {"capacity_bytes": 10_000, "free_bytes": 9000, "scenes": [scene], **rates}
    digest = {"node": "operator-slices", "generation": 1, "started_at_s": 1.0, "scene_cache": cache}
    with serving() as wire:
        wire.pages["/v1/node"] = json.dumps(digest)
        yield wire.url
