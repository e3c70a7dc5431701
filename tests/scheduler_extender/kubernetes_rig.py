"""An extender that follows a real API server behind a real kube-scheduler; exporters of nodes are faked at the wire."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from fleet.digest import NodeDigest
from fleet.labels import COMPONENT_LABEL, EXPORTER_PORT_NAME, NODE_COMPONENT, POOL_LABEL, SCENES_ANNOTATION
from kube.connection import Connection
from kube.reflector import Timings
from local_fleet.control_plane.plane import ControlPlane
from scheduler_extender.app import Extender
from scheduler_extender.cluster import Cluster
from scheduler_extender.kubernetes import ClusterWatch
from scheduler_extender.prices import Prices
from scheduler_extender.scheduler_config import Wanted, generate
from scheduler_extender.server import Server, listen_on
from scheduler_extender.state import DigestPoller
from tests.control_plane.objects import add_node, node_of, pod
from tests.scheduler_extender.conftest import Exporter

SLICE = "nvidia.com/mig-1g.10gb"
SCHEDULER = "splatfleet"
ACCOUNT = ("default", "splatfleet-extender")
RULES = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {
        "apiGroups": ["resource.k8s.io"],
        "resources": ["resourceslices", "resourceclaims", "deviceclasses"],
        "verbs": ["list", "watch"],
    },
    {"apiGroups": ["splatfleet.io"], "resources": ["predictiveautoscalers"], "verbs": ["get", "list", "watch"]},
]
TIMINGS = Timings(watch_s=20.0, slack_s=2.0, backoff_first_s=0.1, backoff_most_s=1.0)


def allow_extender(plane: ControlPlane) -> Path:
    """The extender's role, bound to its service account; a kubeconfig of that account."""
    api, (namespace, name) = "rbac.authorization.k8s.io", ACCOUNT
    plane.apply(
        {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": RULES},
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    )
    return plane.access.service_account(namespace, name)


@dataclass
class KubernetesRig:
    """The parts, and the words of the tests."""

    plane: ControlPlane
    reservation_s: float = 30.0
    exporters: dict[str, Exporter] = field(default_factory=dict)
    ends: list[Callable[[], None]] = field(default_factory=list)

    def start(self) -> KubernetesRig:
        connection = Connection.open(allow_extender(self.plane))
        self.watch = ClusterWatch(connection, most_silent_s=60.0, timings=TIMINGS)
        cluster = Cluster([], Prices(), self.reservation_s)
        poller = DigestPoller(cluster, {}, 0.2, 1.0, time.monotonic)
        self.extender = Extender(cluster, poller, time.monotonic, watch=self.watch)
        server, listener = Server(self.extender), listen_on(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.client = httpx2.Client(base_url=url, timeout=10, trust_env=False)

        def end() -> None:
            server.should_exit = True
            thread.join(10)
            self.client.close()
            connection.close()

        self.ends.append(end)
        self.until(lambda: self.client.get("/-/ready").status_code == 200)
        self.plane.start_scheduler(generate([SLICE], Wanted(url, SCHEDULER)), name=SCHEDULER)
        return self

    def stop(self) -> None:
        self.plane.stop_program(SCHEDULER)
        for end in reversed(self.ends):
            end()

    def add_node(self, name: str, said: NodeDigest | None, slices: int = 7, **labels: str) -> None:
        """A node, and the pod of its exporter, which answers at an address of this machine."""
        add_node(self.plane, name, {SLICE: slices}, **labels)
        if said is None:
            return
        self.exporters[name] = exporter = Exporter()
        exporter.digest = said
        self.ends.append(exporter.stop)
        _, port = self.address_of(exporter)
        document = pod(f"exporter-{name}", labels={COMPONENT_LABEL: NODE_COMPONENT})
        document["spec"] |= {"nodeName": name, "tolerations": [{"operator": "Exists"}]}
        document["spec"]["containers"][0]["ports"] = [{"name": EXPORTER_PORT_NAME, "containerPort": port}]
        pods = "/api/v1/namespaces/default/pods"
        self.plane.request("POST", pods, document)
        status = {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
        path = f"{pods}/exporter-{name}/status"
        self.plane.request("PATCH", path, {"status": status}, "application/merge-patch+json")
        self.until(lambda: self.seen(name))

    @staticmethod
    def address_of(exporter: Exporter) -> tuple[str, int]:
        host, _, port = exporter.url.split("/")[2].partition(":")
        return host, int(port)

    def seen(self, name: str) -> bool:
        node = self.extender.cluster.snapshot.nodes.get(name)
        return node is not None and node.seen_s is not None

    def run_pod(self, name: str, scenes: str = "", selector: dict[str, str] | None = None, pool: str = "") -> str:
        """Create a renderer pod; answers its UID."""
        annotations = {SCENES_ANNOTATION: scenes} if scenes else {}
        document = pod(name, {SLICE: 1}, SCHEDULER, annotations=annotations, labels={POOL_LABEL: pool} if pool else {})
        if selector:
            document["spec"]["nodeSelector"] = selector
        made: dict[str, Any] = self.plane.request("POST", "/api/v1/namespaces/default/pods", document)
        return str(made["metadata"]["uid"])

    def delete_pod(self, name: str) -> None:
        self.plane.request("DELETE", f"/api/v1/namespaces/default/pods/{name}", {"gracePeriodSeconds": 0})

    def node_of(self, name: str) -> str:
        return node_of(self.plane, name)

    def refused(self, uid: str) -> bool:
        return uid in self.extender.waiting.uids

    def expected(self, pool: str) -> dict[str, float]:
        """The scenes that stand for those that a pod of the pool does not name."""
        asked = {
            "metadata": {"uid": "asked", "name": "asked", "labels": {POOL_LABEL: pool}},
            "spec": {"containers": []},
        }
        answer = self.client.post("/explain", json={"Pod": asked, "NodeNames": ["gpu-0"]})
        shares: dict[str, float] = answer.json()["pod"]["expected_scenes"]
        return shares

    def metric(self, line_start: str) -> float:
        text = self.client.get("/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(line_start))

    def until(self, holds: Callable[[], bool], within_s: float = 40.0) -> None:
        end_s = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < end_s, f"did not happen within {within_s} s"
            time.sleep(0.05)
