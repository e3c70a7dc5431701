"""A release that shares nothing: every renderer has a volume and an exporter of its own, and these are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from fleet import labels
from fleet.digest import DIGEST_PATH
from local_fleet.control_plane.plane import ControlPlane
from tests.deploy.conftest import Helm
from tests.deploy.release import Release, installed
from tests.deploy.test_install import CAMERA

pytestmark = [pytest.mark.triton, pytest.mark.prometheus, pytest.mark.timeout(290)]

NAME = "alone"
GB = 10**9
VALUES: dict[str, Any] = {
    "gpuPreset": "h100",
    "scaling": {"mode": "hpa"},
    "scheduler": {"mode": "none"},
    "extender": {"replicas": 1},
    "gateway": {"replicas": 1, "holdSeconds": 30},
    "sceneCache": {"type": "ephemeral", "capacityBytes": GB},
    "renderer": {"rasterizer": "cpu", "cpu": "100m", "memory": "256Mi", "drainSeconds": 1, "gracePeriodSeconds": 15},
    "pools": {"renderer": {"minReplicas": 1, "maxReplicas": 1, "budgetBytes": 100_000_000, "scenes": ["knot"]}},
}


@pytest.fixture(scope="module")
def release(
    control_plane: ControlPlane,
    helm: Helm,
    prometheus_tool: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Release]:
    """Installed where a volume lies ready for the claim that the renderer's pod makes."""
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{NAME}-volume"},
        "spec": {
            "capacity": {"storage": str(2 * GB)},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/srv/volume"},
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }
    control_plane.apply(volume)
    folder = tmp_path_factory.mktemp("ephemeral")
    with installed(control_plane, helm, prometheus_tool("prometheus"), folder, NAME, VALUES) as running:
        yield running
    control_plane.kubectl("delete", "persistentvolume", volume["metadata"]["name"], "--wait=false")  # type: ignore[index]


def test_the_exporter_beside_a_renderer_is_found_by_who_needs_it(release: Release) -> None:
    pod = release.pods("renderer-renderer")[0]
    address, node = pod["status"]["podIP"], pod["spec"]["nodeName"]
    digest = httpx2.get(f"http://{address}:{labels.EXPORTER_PORT}{DIGEST_PATH}", trust_env=False, timeout=10).json()
    assert digest["node"] == node
    assert [found["uid"] for found in digest["pods"]] == [pod["metadata"]["uid"]]
    assert digest["scene_cache"]["scenes"] == [], "what lies in a pod's own volume is of no use to another pod"
    aged = f'splatfleet_extender_node_digest_age_seconds{{node="{node}"}}'
    seen = release.until(lambda: release.sample(aged), 30, "the extender has a digest of the node")
    assert float(seen[0]["value"][1]) < 60
    own = f'splatfleet_scene_cache_capacity_bytes{{job=~".*renderer/exporter",instance=~"{address}:.*"}}'
    assert float(release.until(lambda: release.sample(own), 30, own)[0]["value"][1]) == GB


def test_a_frame_comes_from_a_volume_of_its_own(release: Release) -> None:
    url = f"http://{release.address('gateway')}:{labels.GATEWAY_PORT}/v1/render"
    answer = httpx2.post(url, json={"scene": "knot", **CAMERA}, trust_env=False, timeout=60)
    assert answer.status_code == 200, answer.text
    node = release.pods("renderer-renderer")[0]["spec"]["nodeName"].removeprefix(f"{NAME}-")
    assert list((release.folder / node / "root" / "srv" / "volume" / "scenes").glob("knot.json"))
