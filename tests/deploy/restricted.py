"""Pod Security "restricted" (with what "baseline" holds), as a list of what a pod spec violates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ALLOWED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"} | {
    "persistentVolumeClaim"
}


def violations(spec: dict[str, Any]) -> list[str]:
    """Each in a few words, by container or volume."""
    return [*_pod(spec), *(text for one in _containers(spec) for text in _container(one, spec))]


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", ()), *spec["containers"], *spec.get("ephemeralContainers", ())]


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    for volume in spec.get("volumes", ()):
        kind = next(key for key in volume if key != "name")
        if kind not in ALLOWED_VOLUMES:
            yield f"volume {volume['name']} is a {kind}"
    security = spec.get("securityContext", {})
    if security.get("sysctls"):
        yield "sysctls"
    if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile"


def _container(one: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    name, own, pod = one["name"], one.get("securityContext", {}), spec.get("securityContext", {})
    if own.get("privileged"):
        yield f"{name}: privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation"
    if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
        yield f"{name}: runAsNonRoot"
    if own.get("runAsUser", pod.get("runAsUser", 1)) == 0:
        yield f"{name}: runAsUser is 0"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()):
        yield f"{name}: capabilities are not dropped"
    for added in set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"{name}: adds {added}"
    for port in one.get("ports", ()):
        if port.get("hostPort"):
            yield f"{name}: hostPort"
    if own.get("procMount", "Default") != "Default":
        yield f"{name}: procMount"
