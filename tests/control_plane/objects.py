"""Nodes and pods as tests write them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from local_fleet.control_plane.plane import ControlPlane

READY = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "posted by a test"}


def add_node(plane: ControlPlane, name: str, resources: Mapping[str, int] | None = None, **labels: str) -> None:
    """A Ready node with these extended resources, and room for any pod; pods may go there when this returns."""
    room = {"cpu": "64", "memory": "256Gi", "pods": "250"}
    room |= {key: str(count) for key, count in (resources or {}).items()}
    labels = {"kubernetes.io/hostname": name, **labels}
    plane.request("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
    status = {"capacity": room, "allocatable": room, "conditions": [READY]}
    path = f"/api/v1/nodes/{name}/status"
    plane.request("PATCH", path, {"status": status}, "application/merge-patch+json")
    end_s = time.monotonic() + 60.0  # controllers that lost the API server come back slowly
    while plane.request("GET", f"/api/v1/nodes/{name}")["spec"].get("taints"):  # not-ready, until it is seen as Ready
        assert time.monotonic() < end_s, f"{name} keeps its taints"
        time.sleep(0.05)


def pod(name: str, resources: Mapping[str, int] | None = None, scheduler: str = "", **metadata: Any) -> dict[str, Any]:
    """A pod that asks for these extended resources and never runs."""
    asked = {key: str(count) for key, count in (resources or {}).items()}
    container = {"name": "renderer", "image": "none", "resources": {"requests": asked, "limits": asked}}
    # Nothing posts heartbeats here, so no toleration may run out.
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 0}
    if scheduler:
        spec["schedulerName"] = scheduler
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}


def node_of(plane: ControlPlane, name: str, namespace: str = "default") -> str:
    """The node that a pod is bound to, empty while there is none."""
    found: dict[str, Any] = plane.request("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
    return str(found["spec"].get("nodeName", ""))
