"""The gateway as a process that finds its pods at a real API server."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import httpx2

from fleet import labels
from local_fleet.child import free_ports
from local_fleet.control_plane.plane import ControlPlane
from local_fleet.spawn import spawn
from tests.kubernetes.fleet import eventually


def test_pods_come_drain_and_go_by_a_service_accounts_rights(control_plane: ControlPlane, tmp_path: Path) -> None:
    plane, namespace = control_plane, f"gateway-watch-{secrets.token_hex(4)}"
    plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    eventually(lambda: plane.exists(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"), 40)
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
    rbac, role = "rbac.authorization.k8s.io", {"kind": "Role", "name": "gateway"}
    here = {"name": "gateway", "namespace": namespace}
    plane.apply(
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": here, "rules": [rule]},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": here,
            "roleRef": {"apiGroup": rbac, **role},
            "subjects": [{"kind": "ServiceAccount", "name": "gateway", "namespace": namespace}],
        },
    )
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "splatfleet", "gateway", "--kubernetes", "--listen", f"127.0.0.1:{port}"]
    kubeconfig = plane.access.service_account(namespace, "gateway")
    process = spawn(command, tmp_path / "gateway.log", Path.cwd(), {**os.environ, "KUBECONFIG": str(kubeconfig)})

    def metric(name: str) -> float | None:
        try:
            text = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=2.0).text
        except httpx2.HTTPError:
            return None
        found = [line for line in text.splitlines() if line.startswith(name)]
        return float(found[0].split()[-1]) if found else None

    def pods(state: str) -> float | None:
        return metric(f'splatfleet_gateway_pods{{pool="renderer",state="{state}"}}')

    try:
        eventually(lambda: metric('splatfleet_watch_synced{resource="pods"}') == 1.0, 60, "its first list")
        path = f"/api/v1/namespaces/{namespace}/pods"
        container = {"name": "renderer", "image": "none", "ports": [{"name": "grpc", "containerPort": 9}]}
        labelled = {"name": "one", "labels": {labels.POOL_LABEL: "renderer"}}
        plane.request("POST", path, {"metadata": labelled, "spec": {"containers": [container], "nodeName": "nowhere"}})
        status = {
            "phase": "Running",
            "podIP": "127.0.0.9",
            "podIPs": [{"ip": "127.0.0.9"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        plane.request("PATCH", f"{path}/one/status", {"status": status}, "application/merge-patch+json")
        eventually(lambda: pods("ready") == 1.0, 40, "the pod is known")
        draining = {"metadata": {"annotations": {labels.DRAINING_ANNOTATION: "true"}}}
        plane.request("PATCH", f"{path}/one", draining, "application/merge-patch+json")
        eventually(lambda: pods("draining") == 1.0, 40, "it drains")
        plane.request("DELETE", f"{path}/one?gracePeriodSeconds=0")
        eventually(lambda: pods("draining") == 0.0, 40, "it is gone")
    finally:
        process.terminate()
        process.wait(30)
        plane.request("DELETE", f"/api/v1/namespaces/{namespace}")
