"""Nodes of the test kubelet beside static ones: devices by claims, and a group that comes and goes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet import labels
from kube import writes
from kube.connection import Connection
from kube.objects import DEPLOYMENTS
from kube.reflector import Scope
from local_fleet.control_plane.plane import ControlPlane
from local_fleet.kubelet.emulated_node import EmulatedNode
from local_fleet.kubelet.node_group import NodeGroup, Terms
from tests.kubernetes.conftest import MakeKubelet
from tests.kubernetes.fleet import STORE, deployment, eventually, gpu, node, pods, ready, renderer_template

pytestmark = [pytest.mark.triton, pytest.mark.waits]

PROFILE = "1g.20gb"
RESOURCE = f"{labels.MIG_RESOURCE_PREFIX}{PROFILE}"
BOOT_S = 2.0


@pytest.fixture
def device_class(control_plane: ControlPlane) -> Iterator[None]:
    """Pods that ask for this resource get a claim of devices with this profile."""
    expression = f'device.driver == "gpu.nvidia.com" && device.attributes["gpu.nvidia.com"].profile == "{PROFILE}"'
    spec = {"extendedResourceName": RESOURCE, "selectors": [{"cel": {"expression": expression}}]}
    api = {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass"}
    control_plane.apply({**api, "metadata": {"name": "kubelet-test"}, "spec": spec})
    yield
    control_plane.request("DELETE", "/apis/resource.k8s.io/v1/deviceclasses/kubelet-test")


@pytest.mark.usefixtures("device_class")
def test_devices_of_a_resource_slice_are_given_by_claims(
    control_plane: ControlPlane, make_kubelet: MakeKubelet, catalogue: Path, namespace: str, tmp_path: Path
) -> None:
    """The real scheduler chooses devices, the kubelet gives those; the third pod gets the one that is freed."""
    folder = tmp_path / namespace
    dynamic = EmulatedNode(
        namespace, gpu(namespace, (PROFILE,) * 2), folder, {STORE: folder / "scenes"}, {"pool": namespace}, dynamic=True
    )
    kubelet = make_kubelet(dynamic)
    template = renderer_template(catalogue, namespace)
    template["spec"]["containers"][0]["resources"] = {"requests": {RESOURCE: "1"}, "limits": {RESOURCE: "1"}}
    control_plane.apply(deployment("renderer", namespace, 3, template))
    eventually(lambda: sum(map(ready, pods(control_plane, namespace))) == 2, 60, "two pods ready")
    running = [pod for pod in pods(control_plane, namespace) if ready(pod)]
    cuts = json.loads(kubelet.nodes[namespace].gpus_file.read_text())["gpus"][0]["slices"]
    assert {cut["pod_uid"] for cut in cuts} == {pod["metadata"]["uid"] for pod in running}

    gone = running[0]["metadata"]
    control_plane.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{gone['name']}")

    def replaced() -> bool:
        now = {pod["metadata"]["uid"] for pod in pods(control_plane, namespace) if ready(pod)}
        return len(now) == 2 and gone["uid"] not in now

    eventually(replaced, 60, "another pod has the device")
    assert not any(worker.failure for worker in kubelet.workers.values())
    assert len(kubelet.nodes[namespace].devices.history) == 3


def test_a_node_group_adds_nodes_with_a_delay_and_takes_them_away(
    control_plane: ControlPlane, connection: Connection, make_kubelet: MakeKubelet, catalogue: Path,
    namespace: str, tmp_path: Path,
) -> None:  # fmt: skip
    kubelet = make_kubelet()

    def make(name: str) -> EmulatedNode:
        made = node(name, tmp_path)
        made.labels["pool"] = namespace
        return made

    terms = Terms(boot_s=BOOT_S, idle_s=1.0, most=2, pods_a_node=2)
    group = NodeGroup(kubelet, namespace, terms, make, Scope(namespace)).start()
    try:
        template = renderer_template(catalogue, namespace)
        begun_s = time.monotonic()
        control_plane.apply(deployment("renderer", namespace, 1, template))
        eventually(
            lambda: sum(map(ready, pods(control_plane, namespace))) == 1, 60, "a node came, and the pod is ready"
        )
        assert time.monotonic() - begun_s > BOOT_S
        assert group.nodes == [f"{namespace}-0"]
        writes.ScaleTarget(DEPLOYMENTS.path(namespace, "renderer")).set(connection, 0)
        eventually(lambda: not control_plane.exists(f"/api/v1/nodes/{namespace}-0"), 40, "the node went")
        assert group.nodes == []
    finally:
        group.stop()
