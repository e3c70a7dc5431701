"""A release of the chart that runs: helm installs it into the control plane, our kubelet runs what it rendered."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml

from fleet import labels
from kube.connection import Connection
from local_fleet.child import Child, free_ports
from local_fleet.control_plane.plane import ControlPlane
from local_fleet.kubelet.emulated_node import EmulatedNode
from local_fleet.kubelet.kubelet import Kubelet, KubeletSettings
from local_fleet.kubelet.processes import starter
from renderer import made
from renderer.formats import ply
from tests.deploy import prometheus_operator
from tests.deploy.conftest import Helm, Object
from tests.deploy.foreign_crds import definitions
from tests.gateway.triton_pods import triton_backends
from tests.kubernetes.fleet import STORE, eventually, gpu

FRAME_S = 0.25  # how long a slice of these nodes takes for a frame
NODES = ("parts", "gpu-1", "gpu-2")
CAPACITY_TYPES = {"gpu-1": "reserved", "gpu-2": "on-demand"}


@dataclass(frozen=True)
class Release:
    """One installed release: its names, the way to ask about it, and where its processes write."""

    name: str
    plane: ControlPlane
    kubelet: Kubelet
    folder: Path
    values: Object
    prometheus: str
    helm: Callable[..., subprocess.CompletedProcess[str]]

    @property
    def scenes(self) -> str:
        """The namespace of the renderers."""
        apart = self.values["sceneCache"].get("type", "hostPath") == "hostPath"
        return f"{self.name}-scenes" if apart else self.name

    def ask(self, path: str) -> Any:
        return self.plane.request("GET", path)

    def pods(self, component: str, namespace: str = "") -> list[Object]:
        """Ready pods of a component."""
        selector = f"{labels.COMPONENT_LABEL}%3D{component},app.kubernetes.io/instance%3D{self.name}"
        path = f"/api/v1/namespaces/{namespace or self.name}/pods?labelSelector={selector}"
        return [pod for pod in self.ask(path)["items"] if is_ready(pod)]

    def address(self, component: str) -> str:
        return str(self.pods(component)[0]["status"]["podIP"])

    def logs(self) -> dict[str, str]:
        """Everything that the processes of pods have written, by file."""
        return {str(path.relative_to(self.folder)): path.read_text(errors="replace")
                for path in (self.folder / "kubelet").rglob("*.log")}  # fmt: skip

    def until(self, holds: Callable[[], Any], within_s: float, what: str) -> Any:
        """The first true answer; raises AssertionError with the state of everything when the time is over."""
        try:
            return eventually(holds, within_s, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.told()}") from error

    def told(self) -> str:
        """The state of all pods and the ends of their logs, for a failure."""
        ends = "\n".join(f"{name}: {text[-900:]}" for name, text in self.logs().items())
        return self.plane.kubectl("get", "pods", "-A", "-o", "wide") + ends

    def sample(self, query: str) -> list[Object]:
        """What Prometheus says now."""
        answer = httpx2.get(f"{self.prometheus}/api/v1/query", params={"query": query}, trust_env=False, timeout=10)
        found: list[Object] = answer.json()["data"]["result"]
        return found


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)


@contextlib.contextmanager
def installed(
    plane: ControlPlane, helm: Helm, prometheus: str, folder: Path, name: str, values: Object
) -> Iterator[Release]:
    """`helm install --wait` of a release with these values in a namespace of its own; all ends with the context."""
    with contextlib.ExitStack() as stack:
        (port,) = free_ports(1)
        ply.write(folder / "knot.ply", made.make("knot", 3000, seed=1))
        whole = {**values, "catalogue": {"scenes": [{"id": "knot", "uri": (folder / "knot.ply").as_uri()}]}}
        whole["autoscaler"] = {**values.get("autoscaler", {}), "prometheusUrl": f"http://127.0.0.1:{port}"}
        (folder / "values.yaml").write_text(yaml.safe_dump(whole))
        environment = os.environ | {"KUBECONFIG": str(plane.kubeconfig), "HOME": str(folder)}

        def of_release(*arguments: str) -> subprocess.CompletedProcess[str]:
            return helm.run(*arguments, "--namespace", name, environment=environment)

        plane.apply(*definitions())
        names = [f"crd/{found['metadata']['name']}" for found in definitions()]
        plane.kubectl("wait", "--for=condition=Established", *names, "--timeout=50s")
        release = Release(
            name, plane, _kubelet(stack, plane, folder, name), folder, whole, f"http://127.0.0.1:{port}", of_release
        )
        done = of_release("install", name, ".", "--create-namespace", "--values", str(folder / "values.yaml"))
        assert done.returncode == 0, done.stderr
        stack.callback(of_release, "uninstall", name)
        _wait_available(release)
        _start_prometheus(stack, release, prometheus, port)
        yield release


def _kubelet(stack: contextlib.ExitStack, plane: ControlPlane, folder: Path, name: str) -> Kubelet:
    """One node for the parts and two with slices; pods have the rights of their own tokens and no others."""
    connection = Connection.open(plane.kubeconfig)
    stack.callback(connection.close)
    nodes = []
    for short in NODES:
        node, here = f"{name}-{short}", folder / short
        device = gpu(node) if short.startswith("gpu") else None
        kind = CAPACITY_TYPES.get(short)
        told = {labels.CAPACITY_TYPE_LABELS[0]: kind} if kind else {}
        nodes.append(EmulatedNode(node, device, here, {STORE: here / "scenes"}, told))
        if device is not None:
            nodes[-1].environment[labels.FRAME_FLOOR_ENV] = str(FRAME_S)
    settings = KubeletSettings(folder / "kubelet", starter(triton_backends()), restart_first_s=1.0)
    kubelet = Kubelet(connection, nodes, settings).start()
    stack.callback(kubelet.stop)
    for node in nodes:
        stack.callback(kubelet.remove_node, node.name)
    return kubelet


def _wait_available(release: Release, within_s: float = 150.0) -> None:
    """Until every Deployment and DaemonSet of the release has all its pods ready, as `helm install --wait` would."""
    end_s = time.monotonic() + within_s
    selector = f"app.kubernetes.io/instance={release.name}"
    while True:
        found = json.loads(release.plane.kubectl("get", "deployments,daemonsets", "-A", "-l", selector, "-o", "json"))
        late = [item["metadata"]["name"] for item in found["items"] if not _available(item)]
        if found["items"] and not late:
            return
        assert time.monotonic() < end_s, f"not ready within {within_s:g} s: {late}\n{release.told()}"
        time.sleep(0.2)


def _available(item: Object) -> bool:
    status = item.get("status", {})
    if status.get("observedGeneration", 0) < item["metadata"]["generation"]:
        return False
    if item["kind"] == "DaemonSet":
        wanted: int = status["desiredNumberScheduled"]
        return wanted > 0 and status.get("numberReady", 0) == wanted
    return bool(status.get("readyReplicas", 0) == item["spec"]["replicas"])


def _start_prometheus(stack: contextlib.ExitStack, release: Release, binary: str, port: int) -> None:
    folder = release.folder
    config = prometheus_operator.configure(release.ask, release.name, folder)
    prometheus_operator.write_targets(release.ask, folder)
    command = [binary, f"--config.file={config}", f"--storage.tsdb.path={folder}/prometheus",
               f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]  # fmt: skip
    child = Child("prometheus", command, folder / "prometheus.log")
    stack.callback(child.stop)
    child.wait_listening(port)
