"""A whole fleet under a real Kubernetes on this machine: control plane, nodes, our components, Prometheus, one pool."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fleet import labels
from kube.connection import Connection
from local_fleet.child import Child, free_ports
from local_fleet.control_plane.binaries import find
from local_fleet.control_plane.plane import ControlPlane
from local_fleet.kubelet.emulated_node import EmulatedNode
from local_fleet.kubelet.kubelet import Kubelet, KubeletSettings
from local_fleet.kubelet.processes import starter
from local_fleet.kubelet.surroundings import Provisioning
from local_fleet.kubernetes import manifests, prometheus
from local_fleet.kubernetes.ledger import Ledger
from local_fleet.kubernetes.manifests import NAMESPACE, PoolSpec
from local_fleet.nodes import LocalNode
from scheduler_extender import scheduler_config

CRD = Path(__file__).resolve().parents[2] / "deploy/chart/crds/splatfleet.io_predictiveautoscalers.yaml"
COMPONENTS_READY_S = 180.0


@dataclass(frozen=True, slots=True)
class Flags:
    """What each component is told beside the usual."""

    exporter: Sequence[str] = ()
    scene_agent: Sequence[str] = ()
    gateway: Sequence[str] = ()
    # Scenes of a local fleet come in a tenth of a second, those that a slice's price is for in seconds.
    extender: Sequence[str] = (
        "--poll-s=1",
        "--fragmentation-s-per-slice=0.02",
        f"--weight={scheduler_config.DEFAULT_WEIGHT}",
    )
    autoscaler: Sequence[str] = ()
    controllers: Sequence[str] = ()  # of kube-controller-manager


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """The fleet beside its pool. `before_end` is told the address of a renderer that is about to end."""

    folder: Path
    backends: Path
    nodes: Sequence[LocalNode]
    provisioning: Provisioning
    flags: Flags = field(default_factory=Flags)
    extender: bool = True  # else kube-scheduler places as it does by itself
    autoscaler: bool = True
    before_end: Callable[[str], None] | None = None
    note: Callable[[str], None] = lambda _: None


class KubernetesFleet:
    """Started as a context manager; everything has ended when it is left, also after an error."""

    def __init__(self, settings: FleetSettings) -> None:
        self.settings = settings
        self.folder = settings.folder / "kubernetes"
        self.folder.mkdir(parents=True, exist_ok=True)
        flags = {"kube-controller-manager": list(settings.flags.controllers)}
        self.plane = ControlPlane(find(), self.folder / "control-plane", flags)
        self._stack = contextlib.ExitStack()
        self.prometheus: Child | None = None
        self._prometheus_port = free_ports(1)[0]
        self.prometheus_url = f"http://127.0.0.1:{self._prometheus_port}"

    def __enter__(self) -> KubernetesFleet:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        settings, begun_s = self.settings, time.monotonic()
        self._stack.enter_context(self.plane)
        settings.note(f"kube-apiserver, scheduler and controller-manager ready in {time.monotonic() - begun_s:.1f} s")
        self.connection = Connection.open(self.plane.kubeconfig)
        self._stack.callback(self.connection.close)
        self.agent_token = secrets.token_urlsafe(32)
        self.plane.apply(*manifests.foundations(self.agent_token), yaml.safe_load(CRD.read_text()))
        self.ledger = Ledger(self.connection, NAMESPACE).start()
        self._stack.callback(self.ledger.stop)
        self.kubelet = self._start_kubelet()
        self._start_components()

    def _start_kubelet(self) -> Kubelet:
        settings = KubeletSettings(
            folder=self.folder / "kubelet",
            start=starter(self.settings.backends),
            provisioning=self.settings.provisioning,
            restart_first_s=1.0,
            heartbeat_s=2.0,
            before_end=self.settings.before_end,
        )
        nodes = [emulated(node) for node in self.settings.nodes]
        system = EmulatedNode("system", None, self.folder / "system", {}, {manifests.NODE_ROLE_LABEL: "system"})
        kubelet = Kubelet(self.connection, [*nodes, system], settings)
        self._stack.enter_context(kubelet)
        return kubelet

    def _start_components(self) -> None:
        """Our pods, then the scheduler that asks one of them."""
        settings, flags, begun_s = self.settings, self.settings.flags, time.monotonic()
        made = [manifests.node_daemon(flags.exporter, flags.scene_agent), manifests.gateway(flags.gateway)]
        wanted = {"gateway": 1, labels.NODE_COMPONENT: len(settings.nodes)}
        if settings.extender:
            made.append(manifests.extender(flags.extender))
            wanted["extender"] = 1
        if settings.autoscaler:
            source = [f"--prometheus={self.prometheus_url}", f"--namespace={NAMESPACE}"]
            made.append(manifests.autoscaler([*source, f"--lease-namespace={NAMESPACE}", *flags.autoscaler]))
            wanted["autoscaler"] = 1
        self.plane.apply(*made)
        self._wait_components(wanted)
        if settings.extender:
            self._start_scheduler()
        settings.note(f"{sum(wanted.values())} pods of our components ready in {time.monotonic() - begun_s:.1f} s")

    def start_prometheus(self, past: Iterator[str] | None = None) -> None:
        """Start it with this past (OpenMetrics); late, so that the past may end now. Raises RuntimeError."""
        if past is not None:
            prometheus.write_past(self.folder / "prometheus", past)
        targets = prometheus.Targets(self.connection, NAMESPACE, self.folder).start()
        self._stack.callback(targets.stop)
        self._targets = targets
        self._stack.callback(self._stop_prometheus)
        self.restart_prometheus()

    def restart_prometheus(self) -> None:
        """Start it again over the same data, whether it runs, was stopped or killed."""
        self._stop_prometheus()
        log = self.folder / "prometheus.log"
        self.prometheus = prometheus.start(self.folder, self._targets, self._prometheus_port, log)

    def add_past(self, past: Iterator[str]) -> None:
        """Give the Prometheus that runs a past (OpenMetrics): it is away for a second or two meanwhile."""
        self._stop_prometheus()
        prometheus.write_past(self.folder / "prometheus", past)
        self.restart_prometheus()

    def _stop_prometheus(self) -> None:
        if self.prometheus is not None:
            self.prometheus.stop()

    def _start_scheduler(self) -> None:
        """A second kube-scheduler whose profile asks the extender, as the chart installs it."""
        url = f"http://{self.address('extender')}:{labels.EXTENDER_PORT}"
        resource = f"{labels.MIG_RESOURCE_PREFIX}{manifests.PROFILE}"
        wanted = scheduler_config.Wanted(url, manifests.PLACEMENT_SCHEDULER)
        self.plane.start_scheduler(scheduler_config.generate({resource}, wanted), manifests.PLACEMENT_SCHEDULER)

    def _wait_components(self, wanted: Mapping[str, int]) -> None:
        end_s = time.monotonic() + COMPONENTS_READY_S
        while True:
            missing = {name: count - len(self.ready_pods(name)) for name, count in wanted.items()}
            late = {name: count for name, count in missing.items() if count > 0}
            if not late:
                return
            self.plane.check()
            if time.monotonic() > end_s:
                raise RuntimeError(f"not ready after {COMPONENTS_READY_S:.0f} s: {self._why(late)}")
            time.sleep(0.2)

    def _why(self, late: Mapping[str, int]) -> str:
        """Each late component with the last words of its containers."""
        said = []
        for name in late:
            states = [
                f"{status.get('state')} {status.get('lastState') or ''}"
                for pod in self._pods(name)
                for status in pod["status"].get("containerStatuses", ())
                if not status.get("ready")
            ]
            said.append(f"{name}: {'; '.join(states)[:400] or 'no pod'}")
        return ", ".join(said)

    def _pods(self, component: str) -> list[dict[str, Any]]:
        selector = f"labelSelector={labels.COMPONENT_LABEL}%3D{component}"
        found: list[dict[str, Any]] = self.plane.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods?{selector}")[
            "items"
        ]
        return found

    def ready_pods(self, component: str) -> list[dict[str, Any]]:
        """The ready pods of one of our components, as the API server has them."""

        def ready(pod: dict[str, Any]) -> bool:
            conditions = pod["status"].get("conditions", ())
            return any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)

        return [pod for pod in self._pods(component) if ready(pod) and not pod["metadata"].get("deletionTimestamp")]

    def address(self, component: str) -> str:
        """Pod IP of a component's ready pod; raises RuntimeError where there is none."""
        for pod in self.ready_pods(component):
            return str(pod["status"]["podIP"])
        raise RuntimeError(f"no pod of {component} is ready")

    @property
    def gateway_url(self) -> str:
        return f"http://{self.address('gateway')}:{labels.GATEWAY_PORT}"

    def exporter_urls(self) -> dict[str, str]:
        """URL of the exporter by node."""
        return self._node_urls(labels.EXPORTER_PORT)

    def agent_urls(self) -> dict[str, str]:
        """URL of the scene agent by node."""
        return self._node_urls(labels.SCENE_AGENT_PORT)

    def _node_urls(self, port: int) -> dict[str, str]:
        pods = self.ready_pods(labels.NODE_COMPONENT)
        return {pod["spec"]["nodeName"]: f"http://{pod['status']['podIP']}:{port}" for pod in pods}

    def start_pool(self, spec: PoolSpec, ready_within_s: float = 120.0) -> None:
        """Create the pool and wait for its first pods; raises RuntimeError. Nothing scales it yet."""
        self.plane.apply(manifests.pool(spec))
        end_s = time.monotonic() + ready_within_s
        while sum(life.ready and life.pool == spec.name for life in self.ledger.alive()) < spec.replicas:
            self.plane.check()
            if time.monotonic() > end_s:
                raise RuntimeError(f"the first pods were not ready after {ready_within_s:.0f} s: {self.explain_pods()}")
            time.sleep(0.1)

    def explain_pods(self) -> str:
        """The pods of the pools and the latest warnings about them, in one line."""
        stages = [f"{life.name} {life.stage}" for life in self.ledger.alive()]
        try:
            events = self.plane.request("GET", f"/api/v1/namespaces/{NAMESPACE}/events")["items"]
        except OSError:
            events = []
        warnings = [event["message"] for event in events if event.get("type") == "Warning"]
        return f"{', '.join(stages)}; {' | '.join(warnings[-3:])}"

    def replicas(self, pool: str) -> int:
        """What the Deployment is asked for now; raises KubeError."""
        found = self.plane.request("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{pool}")
        return int(found["spec"].get("replicas", 1))


def emulated(node: LocalNode) -> EmulatedNode:
    """A node of the local fleet as one of Kubernetes: the same folders, store and GPU layout."""
    paths = {manifests.SCENE_STORE: node.store, manifests.RUN_FOLDER: node.folder}
    return EmulatedNode(node.name, node.gpu, node.folder, paths, {manifests.NODE_ROLE_LABEL: "gpu"})
