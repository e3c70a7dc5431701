"""Names of Services as addresses of their ready pods, since nothing here runs a DNS or a kube-proxy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from kube.objects import Object, Projection, Resource
from local_fleet.kubelet.container_plan import PlanError
from local_fleet.kubelet.pod_spec import RunPod


class ServicePort(Projection):
    port: int
    target_port: int | str | None = None
    name: str = ""


class ServiceSpec(Projection):
    selector: dict[str, str] | None = None
    ports: list[ServicePort] | None = None


class Service(Object):
    spec: ServiceSpec


SERVICES: Resource[Service] = Resource("v1", "services", Service)

_HOST = re.compile(
    r"(?P<before>://|(?<![\w./:@-]))(?P<name>[a-z][a-z0-9-]*)(?:\.(?P<namespace>[a-z0-9][a-z0-9-]*))?"
    r"(?P<svc>\.svc(?:\.cluster\.local)?\.?)?(?::(?P<port>\d+))?(?![\w.:-])"
)


def resolver(
    services: Callable[[], Iterable[Service]], pods: Callable[[], Iterable[RunPod]], namespace: str
) -> Callable[[str], str]:
    """A function that replaces names of Services in a text; it raises PlanError for one without a ready pod.

    A name counts where a URL has its host (`://name`), or where a port follows; only Services that exist do. A name
    by itself, as in a certificate, stays.
    """

    def address(match: re.Match[str]) -> str:
        if not (match["before"] == "://" or match["port"]):
            return match[0]
        wanted = (match["namespace"] or namespace, match["name"])
        for service in services():
            if (service.metadata.namespace, service.metadata.name) == wanted:
                return match["before"] + _ready_address(service, int(match["port"] or 80), pods())
        return match[0]

    return lambda text: _HOST.sub(address, text)


def _ready_address(service: Service, port: int, pods: Iterable[RunPod]) -> str:
    name = service.metadata.key
    found = next((known for known in service.spec.ports or () if known.port == port), None)
    if found is None:
        raise PlanError(f"service {name} has no port {port}")
    selector = service.spec.selector or {}
    for pod in sorted(pods, key=lambda pod: pod.metadata.name):
        labels = pod.metadata.labels or {}
        if pod.metadata.namespace != service.metadata.namespace or not selector.items() <= labels.items():
            continue
        if selector and pod.status.pod_ip and not pod.metadata.deletion_timestamp and _ready(pod):
            return f"{pod.status.pod_ip}:{_target(found, pod)}"
    raise PlanError(f"service {name} has no ready pod yet")


def _ready(pod: RunPod) -> bool:
    return any(found.type == "Ready" and found.status == "True" for found in pod.status.conditions or ())


def _target(port: ServicePort, pod: RunPod) -> int:
    if isinstance(port.target_port, str) and not port.target_port.isdecimal():
        for container in pod.spec.containers:
            for known in container.ports or ():
                if known.name == port.target_port:
                    return known.container_port
        raise PlanError(f"pod {pod.metadata.key} has no port named {port.target_port}")
    return int(port.target_port or port.port)
