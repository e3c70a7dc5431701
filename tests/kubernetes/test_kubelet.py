"""The test kubelet against a real API server, controllers and scheduler: its pods are real Triton processes."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import Any

import pytest

from fleet import labels
from kube import writes
from kube.connection import Connection
from kube.objects import DEPLOYMENTS, NODES, PODS
from local_fleet.control_plane.plane import ControlPlane
from tests.kubernetes.conftest import MakeKubelet
from tests.kubernetes.fleet import deployment, eventually, node, pods, ready, renderer_template

pytestmark = [pytest.mark.triton, pytest.mark.waits]


def test_a_deployment_becomes_ready_triton_processes_and_ends_without_a_trace(
    control_plane: ControlPlane, connection: Connection, make_kubelet: MakeKubelet, catalogue: Path,
    namespace: str, tmp_path: Path,
) -> None:  # fmt: skip
    """Scheduled onto slices, probed, scaled down with grace; the third of two slices waits."""
    kubelet = make_kubelet(node("k-one", tmp_path))
    template = renderer_template(catalogue, "k-one")
    template["metadata"]["annotations"] = {labels.SCENES_ANNOTATION: "knot"}
    control_plane.apply(deployment("renderer", namespace, 3, template))
    eventually(lambda: sum(map(ready, pods(control_plane, namespace))) == 2, 60, "two pods ready")

    running = [pod for pod in pods(control_plane, namespace) if ready(pod)]
    addresses = {pod["status"]["podIP"] for pod in running}
    assert len(addresses) == 2
    assert all(address.startswith("127.") for address in addresses)
    for address in addresses:
        metrics = http.client.HTTPConnection(address, 8002, timeout=5)
        metrics.request("GET", "/metrics")
        assert 'scene="knot"' in metrics.getresponse().read().decode()
    waiting = [pod for pod in pods(control_plane, namespace) if not pod["spec"].get("nodeName")]
    assert len(waiting) == 1
    holders = {cut["pod_uid"] for cut in json.loads(kubelet.nodes["k-one"].gpus_file.read_text())["gpus"][0]["slices"]}
    assert holders == {pod["metadata"]["uid"] for pod in running}

    writes.ScaleTarget(DEPLOYMENTS.path(namespace, "renderer")).set(connection, 1)
    eventually(lambda: len(pods(control_plane, namespace)) == 1, 30, "one pod left")
    live = [worker for worker in kubelet.live() if worker.pod.metadata.namespace == namespace]
    assert len(live) == 1
    control_plane.request("DELETE", f"/apis/apps/v1/namespaces/{namespace}/deployments/renderer")
    eventually(lambda: not kubelet.live(), 30, "every process ended")
    assert all(not worker.failure for worker in kubelet.workers.values())


def test_a_crash_loop_is_told_and_mends(
    control_plane: ControlPlane, make_kubelet: MakeKubelet, catalogue: Path, namespace: str, tmp_path: Path
) -> None:
    kubelet = make_kubelet(node("k-crash", tmp_path))
    kubelet.faults.crash_loop = lambda pod: pod.metadata.namespace == namespace
    control_plane.apply(deployment("renderer", namespace, 1, renderer_template(catalogue, "k-crash")))

    def status() -> Any:
        found = pods(control_plane, namespace)
        return found and found[0]["status"].get("containerStatuses", [{}])[0]

    seen = eventually(lambda: (told := status()) and told.get("restartCount", 0) >= 2 and told, 40, "two restarts")
    assert seen["lastState"]["terminated"]["exitCode"] == 137
    assert not seen["ready"]
    kubelet.faults.crash_loop = None
    eventually(lambda: any(map(ready, pods(control_plane, namespace))), 60, "ready once nothing kills it")


def test_a_node_that_is_taken_away_gives_its_pods_to_another(
    control_plane: ControlPlane, connection: Connection, make_kubelet: MakeKubelet, catalogue: Path,
    namespace: str, tmp_path: Path,
) -> None:  # fmt: skip
    kubelet = make_kubelet(node("k-lost", tmp_path, group="k-pair"), node("k-stays", tmp_path, group="k-pair"))
    template = renderer_template(catalogue, nodeSelector={"group": "k-pair"})
    control_plane.apply(deployment("renderer", namespace, 2, template))
    eventually(lambda: sum(map(ready, pods(control_plane, namespace))) == 2, 60, "two pods ready")
    lost = pods(control_plane, namespace)[0]["spec"]["nodeName"]
    kubelet.lose_node(lost)
    assert all(worker.join(30) for worker in kubelet.workers.values() if worker.pod.spec.node_name == lost)
    writes.delete(connection, NODES.path(None, lost))

    def recovered() -> bool:
        found = [pod for pod in pods(control_plane, namespace) if ready(pod) and pod["spec"]["nodeName"] != lost]
        return len(found) == 2

    for pod in pods(control_plane, namespace):  # what the pod garbage collector does within a minute
        if pod["spec"].get("nodeName") == lost:
            writes.delete(connection, PODS.path(namespace, pod["metadata"]["name"]), grace_s=0)
    eventually(recovered, 60, "two pods on the other node")


def test_a_slow_start_and_a_missing_configuration_are_seen_as_such(
    control_plane: ControlPlane, make_kubelet: MakeKubelet, catalogue: Path, namespace: str, tmp_path: Path
) -> None:
    kubelet = make_kubelet(node("k-slow", tmp_path))
    kubelet.faults.slow_start_s = 3.0
    template = renderer_template(catalogue, "k-slow")
    template["spec"]["containers"][0]["envFrom"] = [{"configMapRef": {"name": "later"}}]
    begun_s = time.monotonic()
    control_plane.apply(deployment("renderer", namespace, 1, template))

    def waits() -> Any:
        found = pods(control_plane, namespace)
        states = [told["state"] for pod in found for told in pod["status"].get("containerStatuses", ())]
        return [state["waiting"]["reason"] for state in states if "waiting" in state]

    eventually(lambda: waits() == ["ContainerCreating"], 40, "its containers are being created")
    eventually(lambda: waits() == ["CreateContainerConfigError"], 40, "its configuration is missing")
    assert time.monotonic() - begun_s > kubelet.faults.slow_start_s
    document = {"metadata": {"name": "later"}, "data": {labels.DEFAULT_SIZE_ENV: "64x64"}}
    control_plane.request("POST", f"/api/v1/namespaces/{namespace}/configmaps", document)
    eventually(lambda: any(map(ready, pods(control_plane, namespace))), 40, "ready")
