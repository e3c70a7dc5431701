"""The kubelets of all emulated nodes in one object: every bound pod gets a worker, every node a heartbeat."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from kube.connection import Connection
from kube.errors import KubeError
from kube.reflector import Reflector, Scope, Timings
from kube.watch_store import Change
from local_fleet.kubelet.configuration import Configuration
from local_fleet.kubelet.container_plan import (
    ContainerPlan,
    Place,
    field_value,
    plan,
    service_account_volume,
    translator,
)
from local_fleet.kubelet.emulated_node import EmulatedNode
from local_fleet.kubelet.pod_spec import RUN_PODS, RunContainer, RunPod
from local_fleet.kubelet.pod_worker import PodWorker
from local_fleet.kubelet.processes import Start
from local_fleet.kubelet.second_scheduler import local_arguments
from local_fleet.kubelet.service_names import SERVICES, Service, resolver
from local_fleet.kubelet.surroundings import Addresses, Faults, Provisioning, Surroundings
from local_fleet.kubelet.volumes import lay_volumes

log = structlog.get_logger("kubelet")

# A silent API server is noticed soon, as tests have no time to wait.
TIMINGS = Timings(watch_s=20.0, slack_s=3.0, backoff_first_s=0.1, backoff_most_s=2.0)


@dataclass(frozen=True, slots=True)
class KubeletSettings:
    """How pods are run. A pod with a mounted service account has the rights of its token, and others have none."""

    folder: Path
    start: Start
    provisioning: Provisioning = field(default_factory=Provisioning)
    restart_first_s: float = 10.0
    heartbeat_s: float = 10.0
    before_end: Callable[[str], None] | None = None  # told the address of a renderer that is about to get SIGTERM


class Kubelet:
    """Runs the pods bound to its nodes. Everything ends with `stop`, and all processes with this one."""

    def __init__(self, connection: Connection, nodes: Iterable[EmulatedNode], settings: KubeletSettings) -> None:
        self.connection = connection
        self.faults = Faults()
        self.nodes: dict[str, EmulatedNode] = {node.name: node for node in nodes}
        self.workers: dict[str, PodWorker] = {}  # by UID, ended ones too
        self._settings = settings
        self._addresses = Addresses()
        self._node_ips: dict[str, str] = {}
        self._configuration = Configuration(connection)
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        scope = Scope(field_selector="spec.nodeName!=")
        self._pods: Reflector[RunPod] = Reflector(connection, RUN_PODS, scope, self._changed, TIMINGS)
        self._services: Reflector[Service] = Reflector(connection, SERVICES, timings=TIMINGS)
        self._heart = threading.Thread(target=self._beat, name="heartbeats", daemon=True)

    def start(self) -> Kubelet:
        """Join the nodes and begin to run their pods; raises KubeError."""
        for node in list(self.nodes.values()):
            self._join(node)
        self._services.start()
        self._pods.start()
        self._heart.start()
        return self

    def stop(self, deadline_s: float = 15.0) -> None:
        """Kill every process and stop watching; the API is left as it is."""
        self._stopping.set()
        self._pods.stop()
        self._services.stop()
        with self._lock:
            workers = list(self.workers.values())
        for worker in workers:
            worker.lose()
        for worker in workers:
            if not worker.join(deadline_s):
                log.error("pod did not end", pod=worker.pod.metadata.key)
        if self._heart.is_alive():
            self._heart.join(deadline_s)

    def __enter__(self) -> Kubelet:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add_node(self, node: EmulatedNode) -> None:
        """Join one more node."""
        with self._lock:
            self.nodes[node.name] = node
        self._join(node)

    def remove_node(self, name: str) -> None:
        """Take a node away as a cloud does: its processes die, its heartbeats end, its object goes."""
        self.lose_node(name)
        with self._lock:
            node = self.nodes.pop(name)
        node.deregister(self.connection)

    def lose_node(self, name: str) -> None:
        """The node falls silent: every process on it dies at once, and nobody tells the API server."""
        with self._lock:
            self.nodes[name].lost = True
            victims = [worker for worker in self.workers.values() if worker.pod.spec.node_name == name]
        for worker in victims:
            worker.lose()

    def return_node(self, name: str) -> None:
        """A node that fell silent beats again, with nothing running on it; raises KubeError."""
        node = self.nodes[name]
        node.tell_devices()
        self._join(node)
        with self._lock:
            node.lost = False
        for pod in self._pods.items():
            if pod.spec.node_name == name:
                self._changed(Change("added", pod, None))

    def live(self) -> list[PodWorker]:
        """Workers of pods that have not ended."""
        with self._lock:
            return [worker for worker in self.workers.values() if worker.stages.ended_s is None]

    def _join(self, node: EmulatedNode) -> None:
        address = self._node_ips.setdefault(node.name, self._addresses.take())
        node.register(self.connection, address)

    def _changed(self, change: Change[RunPod]) -> None:
        pod = change.object
        with self._lock:
            node = self.nodes.get(pod.spec.node_name)
            worker = self.workers.get(pod.metadata.uid)
            if self._stopping.is_set() or node is None or node.lost:
                return
            if worker is None:
                if change.kind == "deleted" or pod.status.phase in ("Succeeded", "Failed"):
                    return
                worker = PodWorker(pod, self._surroundings(pod, node))
                self.workers[pod.metadata.uid] = worker.start()
        worker.pod = pod  # its annotations may have come after its binding
        if change.kind == "deleted":
            worker.lose()  # deleted with force: nothing is left to tell
        elif pod.metadata.deletion_timestamp is not None:
            worker.delete()

    def _surroundings(self, pod: RunPod, node: EmulatedNode) -> Surroundings:
        settings = self._settings
        node_ip = self._node_ips[node.name]
        folder = settings.folder / "pods"

        def planned(container: RunContainer, pod: RunPod, pod_ip: str) -> ContainerPlan:
            return self._plan(container, pod, (pod_ip, node_ip), node)

        return Surroundings(
            connection=self.connection,
            allocate=lambda pod: node.allocate(pod, node.claimed(self.connection, pod)),
            release=node.release,
            addresses=self._addresses,
            node_ip=node_ip,
            faults=self.faults,
            restart_first_s=settings.restart_first_s,
            start=settings.start,
            plan=planned,
            pods_folder=folder,
            provisioning=settings.provisioning,
            before_end=settings.before_end,
        )

    def _plan(
        self, container: RunContainer, pod: RunPod, addresses: tuple[str, str], node: EmulatedNode
    ) -> ContainerPlan:
        """`addresses` is the pod's and its node's; raises PlanError."""
        folder = self._settings.folder / "pods" / pod.metadata.uid
        namespace = pod.metadata.namespace

        def keys(kind: str, name: str) -> Mapping[str, str] | None:
            return self._configuration.keys(kind, namespace, name)

        def of_pod(path: str) -> str:
            return field_value(path, pod, *addresses)

        volumes = lay_volumes(pod, node, folder, self._configuration, of_pod)
        account = service_account_volume(container)
        kubeconfig = ""
        if account:
            kubeconfig = str(self._configuration.write_kubeconfig(Path(volumes[account]), folder / "kubeconfig"))
        place = Place(*addresses, volumes, kubeconfig, node.environment)
        resolve = resolver(self._services.items, self._pods.items, namespace)
        made = plan(container, pod, place, keys, resolve)
        if made.program == "kube-scheduler":
            here = translator(container, place, resolve)
            return replace(made, arguments=local_arguments(made.arguments, addresses[0], kubeconfig, here))
        return made

    def _beat(self) -> None:
        while not self._stopping.wait(self._settings.heartbeat_s):
            with self._lock:
                nodes = [node for node in self.nodes.values() if not node.lost]
            for node in nodes:
                try:
                    node.beat(self.connection)
                except KubeError as error:
                    log.warning("heartbeat failed", node=node.name, error=str(error))
