"""Renderer pods and the services of nodes, found by pod watches: what the renderers file says on one machine."""

from __future__ import annotations

from collections.abc import Iterable

from fleet import labels
from fleet.renderers import Renderer
from kube.connection import Connection
from kube.objects import PODS, Pod
from kube.reflector import Reflector, Scope, Timings

READY_WITHIN_S = 10.0
# After an outage pods come and go at once: who routes by what was true before it asks pods that have ended.
TIMINGS = Timings(backoff_most_s=5.0)


def renderer_of(pod: Pod) -> Renderer | None:
    """The row of a renderer pod; None where it has no address yet, has ended, or is none."""
    pool = pod.metadata.label(labels.POOL_LABEL)
    if not pool or not pod.status.pod_ip or pod.finished:
        return None
    draining = pod.terminating or pod.metadata.annotation(labels.DRAINING_ANNOTATION) == "true"
    return Renderer(
        uid=pod.metadata.uid,
        pool=pool,
        node=pod.spec.node_name,
        grpc_address=pod.address(labels.GRPC_PORT_NAME, labels.TRITON_GRPC_PORT),
        http_address=pod.address(labels.HTTP_PORT_NAME, labels.TRITON_HTTP_PORT),
        metrics_address=pod.address(labels.METRICS_PORT_NAME, labels.TRITON_METRICS_PORT),
        ready=pod.ready and not pod.terminating,
        draining=draining,
    )


class RendererPods:
    """The renderer pods of a namespace (all without one), or of one node, as rows of the renderers file."""

    def __init__(self, connection: Connection, namespace: str | None = None, node: str = "") -> None:
        field_selector = f"spec.nodeName={node}" if node else ""
        scope = Scope(namespace, label_selector=labels.POOL_LABEL, field_selector=field_selector)
        self.reflector: Reflector[Pod] = Reflector(connection, PODS, scope, timings=TIMINGS)

    def start(self) -> RendererPods:
        """Begin to watch, and wait a moment for the first list: a reader then starts with what there is."""
        self.reflector.start().wait_synced(READY_WITHIN_S)
        return self

    def stop(self) -> None:
        self.reflector.stop()

    @property
    def synced(self) -> bool:
        return self.reflector.has_synced

    @property
    def problem(self) -> str:
        """Why what it says may be old; empty where it is current."""
        if not self.synced:
            return f"pods not listed yet: {self.reflector.last_error or 'no answer so far'}"
        age_s = self.reflector.event_age_s or 0.0
        return f"no word of pods for {age_s:.0f} s: {self.reflector.last_error}" if self.reflector.stale else ""

    def rows(self) -> tuple[Renderer, ...]:
        """Every renderer pod with an address, by UID."""
        found = (renderer_of(pod) for pod in self.reflector.items())
        return tuple(sorted((row for row in found if row is not None), key=lambda row: row.uid))


def node_urls(pods: Iterable[Pod], port_name: str, port: int) -> dict[str, str]:
    """Base URL of a service by node, from the pods of the DaemonSet that serves nodes; ready ones only."""
    return {
        pod.spec.node_name: f"http://{pod.address(port_name, port)}"
        for pod in pods
        if pod.ready and not pod.terminating and pod.status.pod_ip and pod.spec.node_name
    }


class NodePods:
    """The pods that serve nodes: exporter and scene agent of the DaemonSet, each by the name of its port.

    Where there is none, renderer pods hold exporters themselves, and any of a node's speaks for it.
    """

    def __init__(self, connection: Connection, namespace: str | None = None) -> None:
        scope = Scope(namespace, label_selector=f"{labels.COMPONENT_LABEL}={labels.NODE_COMPONENT}")
        self.reflector: Reflector[Pod] = Reflector(connection, PODS, scope, timings=TIMINGS)
        beside = Scope(namespace, label_selector=labels.EXPORTER_BESIDE_LABEL)
        self._beside: Reflector[Pod] = Reflector(connection, PODS, beside, timings=TIMINGS)

    def start(self) -> NodePods:
        """Begin to watch."""
        self.reflector.start()
        self._beside.start()
        return self

    def stop(self) -> None:
        self.reflector.stop()
        self._beside.stop()

    def exporters(self) -> dict[str, str]:
        """URL of the exporter by node."""
        pods = [*self._beside.items(), *self.reflector.items()]  # the DaemonSet's win
        return node_urls(pods, labels.EXPORTER_PORT_NAME, labels.EXPORTER_PORT)

    def scene_agents(self) -> dict[str, str]:
        """URL of the scene agent by node."""
        return node_urls(self.reflector.items(), labels.SCENE_AGENT_PORT_NAME, labels.SCENE_AGENT_PORT)
