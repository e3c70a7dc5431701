"""Nodes, kubelets and pools as the tests of the real control plane set them up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleet import labels
from fleet.digest import GpuDigest, Slice
from local_fleet.control_plane.plane import ControlPlane
from local_fleet.kubelet.emulated_node import EmulatedNode

POOL_RESOURCE = f"{labels.MIG_RESOURCE_PREFIX}1g.10gb"
STORE = "/var/lib/splatfleet/scenes"


def gpu(name: str, profiles: tuple[str, ...] = ("1g.10gb",) * 2) -> GpuDigest:
    return GpuDigest(f"GPU-{name}", "H100-80", slices=tuple(Slice(found, at) for at, found in enumerate(profiles)))


def node(name: str, folder: Path, profiles: tuple[str, ...] = ("1g.10gb",) * 2, **labels_of_node: str) -> EmulatedNode:
    return EmulatedNode(
        name, gpu(name, profiles), folder / name, {STORE: folder / name / "scenes"}, {"pool": name, **labels_of_node}
    )


def pods(plane: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plane.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    return found


def ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)


def renderer_template(catalogue: Path, node_name: str = "", **changes: Any) -> dict[str, Any]:
    """A pod template of renderers; `node_name` pins them to one node through its label."""
    slice_ = {POOL_RESOURCE: "1"}
    environment = {
        labels.CATALOGUE_ENV: str(catalogue),
        labels.SCENE_CACHE_ENV: STORE,
        labels.STORE_CAPACITY_ENV: str(1 << 30),
        labels.POD_BUDGET_ENV: str(100_000_000),
        labels.RASTERIZER_ENV: "cpu",
        "SPLATFLEET_RENDER_THREADS": "1",
    }
    container = {
        "name": "renderer",
        "image": "splatfleet-renderer",
        "command": ["tritonserver"],
        "env": [
            *({"name": key, "value": value} for key, value in environment.items()),
            {
                "name": labels.SCENES_ENV,
                "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{labels.SCENES_ANNOTATION}']"}},
            },
        ],
        "ports": [
            {"name": "http", "containerPort": 8000},
            {"name": "grpc", "containerPort": 8001},
            {"name": "metrics", "containerPort": 8002},
        ],
        "volumeMounts": [{"name": "scenes", "mountPath": STORE}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": "http"}, "periodSeconds": 1},
        "resources": {"requests": slice_, "limits": slice_},
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
    }
    return {
        "metadata": {"labels": {"app": "renderer", labels.POOL_LABEL: "renderer"}},
        "spec": {
            "containers": [container],
            "volumes": [{"name": "scenes", "hostPath": {"path": STORE, "type": "DirectoryOrCreate"}}],
            "tolerations": [{"key": labels.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}],
            "terminationGracePeriodSeconds": 10,
            **({"nodeSelector": {"pool": node_name}} if node_name else {}),
            **changes,
        },
    }


def deployment(name: str, namespace: str, replicas: int, template: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "renderer"}}, "template": template},
    }


def eventually(holds: Callable[[], Any], within_s: float, what: str | Callable[[], str] = "") -> Any:
    """The first true answer; raises AssertionError when the time is over, saying what was waited for."""
    end_s = time.monotonic() + within_s
    while not (found := holds()):
        if time.monotonic() >= end_s:
            raise AssertionError(f"not within {within_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)
    return found
