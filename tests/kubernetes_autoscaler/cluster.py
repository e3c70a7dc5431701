"""A namespace of the real control plane with our resource in it, the autoscaler's process, and demand at the wire."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import yaml

from autoscaler.permissions import role_rules
from fleet.labels import POOL_LABEL, SCENES_GATE
from local_fleet.control_plane.plane import ControlPlane
from tests.autoscaler.wire import Wire, serving

REPOSITORY = Path(__file__).resolve().parents[2]
CRD = REPOSITORY / "deploy/chart/crds/splatfleet.io_predictiveautoscalers.yaml"
ACCOUNT = "splatfleet-autoscaler"
NODE = "operator-node"
MERGE = "application/merge-patch+json"


def until(holds: Callable[[], Any], within_s: float = 40.0, every_s: float = 0.05) -> Any:
    """What `holds` answers once it is true; fails after `within_s` with the last answer."""
    end_s = time.monotonic() + within_s
    while not (answer := holds()):
        assert time.monotonic() < end_s, f"not so within {within_s} s: {answer!r}"
        time.sleep(every_s)
    return answer


def install(plane: ControlPlane) -> None:
    """The definition of the resource, and the autoscaler's role; as often as wanted."""
    plane.apply(yaml.safe_load(CRD.read_text()))
    plane.kubectl("wait", "--for=condition=Established", "crd/predictiveautoscalers.splatfleet.io", "--timeout=20s")
    rbac = "rbac.authorization.k8s.io"
    plane.apply(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": ACCOUNT},
            "rules": role_rules(placeholders=True),
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": ACCOUNT},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "default"}],
        },
    )


class Space:
    """One namespace: a Deployment of renderer pods and its PredictiveAutoscaler."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        until(lambda: plane.exists(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"))

    def path(self, plural: str, name: str = "", group: str = "apis/apps/v1") -> str:
        return f"/{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def deploy(
        self, name: str = "renderer", replicas: int = 1, asked: dict[str, str] | None = None, gated: bool = False
    ) -> None:
        """`asked` are the extended resources of a pod; a gated one waits until it was told its scenes."""
        labels = {POOL_LABEL: self.namespace, "app": name}
        resources = {"requests": asked or {}, "limits": asked or {}}
        ports = [{"name": "http", "containerPort": 8000}]
        container = {"name": "renderer", "image": "none", "ports": ports, "resources": resources}
        template = {
            "metadata": {"labels": labels},
            "spec": {
                "containers": [container],
                "terminationGracePeriodSeconds": 0,
                "schedulingGates": [{"name": SCENES_GATE}] if gated else [],
            },
        }
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        metadata = {"name": name, "namespace": self.namespace}
        self.plane.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})

    def autoscale(self, spec: dict[str, Any] | None = None, name: str = "renderer", **metadata: Any) -> None:
        """Make or change the resource; its pool is named like the namespace."""
        whole = {
            "scaleTargetRef": {"name": "renderer"},
            "minReplicas": 1,
            "maxReplicas": 10,
            "demand": {"pool": self.namespace, "serviceSeconds": 0.5},
            "forecast": {"startupSeconds": 2},
            "behavior": {"settleSeconds": 1},
            **(spec or {}),
        }
        self.plane.apply(
            {
                "apiVersion": "splatfleet.io/v1alpha1",
                "kind": "PredictiveAutoscaler",
                "metadata": {"name": name, "namespace": self.namespace, **metadata},
                "spec": whole,
            }
        )

    def resource(self, name: str = "renderer") -> dict[str, Any]:
        found: dict[str, Any] = self.plane.request(
            "GET", self.path("predictiveautoscalers", name, "apis/splatfleet.io/v1alpha1")
        )
        return found

    def condition(self, kind: str, name: str = "renderer") -> dict[str, Any]:
        conditions = self.resource(name).get("status", {}).get("conditions", [])
        return next((found for found in conditions if found["type"] == kind), {})

    def replicas(self, name: str = "renderer") -> int:
        return int(self.plane.request("GET", self.path("deployments", name))["spec"]["replicas"])

    def pods(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.plane.request("GET", self.path("pods", group="api/v1"))["items"]
        return items

    def events(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.plane.request("GET", self.path("events", group="api/v1"))["items"]
        return [item for item in items if item["source"].get("component") == "splatfleet-autoscaler"]

    def close(self) -> None:
        with suppress(urllib.error.HTTPError):
            self.plane.request("DELETE", f"/api/v1/namespaces/{self.namespace}")


@contextmanager
def ready_pods(space: Space, address: str = "127.0.9.9") -> Iterator[None]:
    """Does what a kubelet would do to the pods of a namespace: they run at once, and end when they are told."""
    stopping = threading.Event()

    def work() -> None:
        while not stopping.wait(0.1):
            with suppress(OSError, HTTPException):  # the API server may be away
                for pod in space.pods():
                    _settle(space, pod, address)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _settle(space: Space, pod: dict[str, Any], address: str) -> None:
    name, metadata = pod["metadata"]["name"], pod["metadata"]
    path = space.path("pods", name, "api/v1")
    if metadata.get("deletionTimestamp"):
        space.plane.request("DELETE", path, {"gracePeriodSeconds": 0})
    elif pod["spec"].get("nodeName") and pod["status"]["phase"] == "Pending":
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        conditions = [
            *(found for found in pod["status"].get("conditions", ()) if found["type"] == "PodScheduled"),
            {"type": "Ready", "status": "True", "lastTransitionTime": now},
        ]
        running = {"name": "renderer", "ready": True, "restartCount": 0, "image": "none", "imageID": "none"}
        running["state"] = {"running": {"startedAt": now}}
        status = {"phase": "Running", "podIP": address, "conditions": conditions, "containerStatuses": [running]}
        space.plane.request("PATCH", f"{path}/status", {"status": status}, MERGE)


class Demand:
    """A gateway at the wire whose counters grow at `rate_per_s`."""

    def __init__(self, wire: Wire, pool: str) -> None:
        self.rate_per_s = 0.0
        self.pending = 0
        self.wire = wire
        self._pool = pool
        self._count = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def url(self) -> str:
        return self.wire.url

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        last_s = time.monotonic()
        while not self._stopping.is_set():
            now_s = time.monotonic()
            self._count += self.rate_per_s * (now_s - last_s)
            last_s = now_s
            self.wire.pages["/metrics"] = (
                f'splatfleet_gateway_requests_total{{pool="{self._pool}",scene="ball"}} {self._count}\n'
                f'splatfleet_gateway_pending_requests{{pool="{self._pool}"}} {self.pending}\n'
            )
            self._stopping.wait(0.05)


@contextmanager
def demand_of(pool: str) -> Iterator[Demand]:
    with serving() as wire:
        made = Demand(wire, pool)
        try:
            yield made
        finally:
            made.close()


class Process:
    """`splatfleet autoscaler --kubernetes` with its output in a file."""

    def __init__(self, kubeconfig: Path, folder: Path, name: str, flags: Sequence[str]) -> None:
        self.log = folder / f"{name}.log"
        command = [sys.executable, "-m", "splatfleet", "autoscaler", "--kubernetes", "--kubeconfig", str(kubeconfig)]
        with self.log.open("w") as file:
            self._child = subprocess.Popen(
                [*command, *flags], stdout=file, stderr=subprocess.STDOUT, cwd=REPOSITORY, env=os.environ
            )

    @property
    def text(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()

    def pause(self) -> None:
        self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._child.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        self._child.send_signal(signal.SIGCONT)
        self._child.terminate()
        try:
            return self._child.wait(40)
        finally:
            if self._child.poll() is None:
                self.kill()
