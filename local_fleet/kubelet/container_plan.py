"""From a container of a pod to a process of this machine: words, environment, folders, addresses.

A container has its own file system and network, and a process here has not. So mount paths become folders, the
address 0.0.0.0 becomes the pod's own address in 127.0.0.0/8, and the name of a Service becomes a ready pod's address.
Nothing else differs from what the manifest says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fleet.labels import POOL_LABEL
from local_fleet.kubelet.pod_spec import EnvSource, EnvVar, RunContainer, RunPod

Program = Literal["splatfleet", "triton", "python", "kube-scheduler"]
KUBECONFIG = "KUBECONFIG"
SERVICE_ACCOUNT_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
_ANY_ADDRESS = re.compile(r"0\.0\.0\.0|\[::\]")
_REFERENCE = re.compile(r"\$(\$)?\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_FIELD_OF = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class PlanError(Exception):
    """A container that cannot be run; the text becomes the message of CreateContainerConfigError."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container runs: its pod's address, its node, the folder of each volume, and what its node gives it.

    `kubeconfig` stands for a mounted service account; `environment` is what a container runtime adds for devices.
    """

    pod_ip: str
    node_ip: str
    volumes: Mapping[str, str]
    kubeconfig: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """One process to be."""

    name: str
    program: Program
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


Keys = Callable[[str, str], Mapping[str, str] | None]  # ("configmaps" or "secrets", name) -> its keys
Resolve = Callable[[str], str]  # a text with names of Services -> with addresses of pods; raises PlanError


def plan(container: RunContainer, pod: RunPod, place: Place, keys: Keys, resolve: Resolve) -> ContainerPlan:
    """The process of a container; raises PlanError with what is missing."""
    environment: dict[str, str] = {}
    for source in container.env_from or ():
        kind, named = ("configmaps", source.config_map_ref) if source.config_map_ref else ("secrets", source.secret_ref)
        if named is not None:
            found = _keys(keys, kind, named.name, named.optional)
            environment |= {source.prefix + key: value for key, value in found.items()}
    for variable in container.env or ():
        value = _value(variable, pod, place, keys)
        if value is not None:
            environment[variable.name] = _expand(value, environment)
    here = translator(container, place, resolve)
    program, words = _program(container, pod)
    arguments = tuple(here(_expand(word, environment)) for word in words)
    environment = {**{name: here(value) for name, value in environment.items()}, **place.environment}
    if place.kubeconfig:
        environment.setdefault(KUBECONFIG, place.kubeconfig)
    return ContainerPlan(container.name, program, arguments, environment)


def translator(container: RunContainer, place: Place, resolve: Resolve) -> Resolve:
    """What turns a text that holds in a container into one that holds on this machine; raises PlanError."""
    mounts = {
        mount.mount_path.rstrip("/"): _folder(place, mount.name, mount.sub_path)
        for mount in container.volume_mounts or ()
    }
    return lambda text: resolve(_ANY_ADDRESS.sub(place.pod_ip, _moved(text, mounts)))


def service_account_volume(container: RunContainer) -> str:
    """The name of the volume that holds the container's token; empty where it has none."""
    mounts = (mount.name for mount in container.volume_mounts or () if mount.mount_path == SERVICE_ACCOUNT_FOLDER)
    return next(mounts, "")


def _moved(text: str, mounts: Mapping[str, str]) -> str:
    """Mount paths in a text as the folders that stand for them, the longest first."""
    if not mounts:
        return text
    paths = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
    return re.sub(rf"(?:(?<![\w./-])|(?<=file://))({paths})(?=/|$|[,:=\s'\"])", lambda match: mounts[match[1]], text)


def _program(container: RunContainer, pod: RunPod) -> tuple[Program, list[str]]:
    """Which program a container runs; without a command it is what our images start."""
    words = [*(container.command or ()), *(container.args or ())]
    first = words[0].rpartition("/")[2] if words and container.command else ""
    if first == "tritonserver":
        return "triton", words[1:]
    if first == "splatfleet":
        return "splatfleet", words[1:]
    if first == "python":
        return "python", words[1:]
    if first == "kube-scheduler":
        return "kube-scheduler", words[1:]
    if not container.command and "pause" in container.image:
        return "python", ["-c", "import signal; signal.pause()"]
    if not container.command:
        return ("triton" if pod.metadata.label(POOL_LABEL) and container.name == "renderer" else "splatfleet"), words
    raise PlanError(
        f"container {container.name}: {words[0]!r} is neither splatfleet, tritonserver, python nor kube-scheduler"
    )


def _value(variable: EnvVar, pod: RunPod, place: Place, keys: Keys) -> str | None:
    source = variable.value_from
    if source is None:
        return variable.value
    if source.field_ref is not None:
        return field_value(source.field_ref.field_path, pod, place.pod_ip, place.node_ip)
    return _key_value(variable.name, source, keys)


def _key_value(name: str, source: EnvSource, keys: Keys) -> str | None:
    for kind, wanted in (("configmaps", source.config_map_key_ref), ("secrets", source.secret_key_ref)):
        if wanted is not None:
            found = _keys(keys, kind, wanted.name, wanted.optional)
            if wanted.key not in found and not wanted.optional:
                raise PlanError(f"{kind} {wanted.name} has no key {wanted.key}")
            return found.get(wanted.key)
    raise PlanError(f"environment variable {name}: its source is not one that this kubelet knows")


def field_value(path: str, pod: RunPod, pod_ip: str, node_ip: str) -> str:
    """The value of a fieldRef, as the kubelet gives it; raises PlanError."""
    metadata = pod.metadata
    if match := _FIELD_OF.fullmatch(path):
        return ((metadata.labels if match[1] == "labels" else metadata.annotations) or {}).get(match[2], "")
    known = {
        "metadata.name": metadata.name,
        "metadata.namespace": metadata.namespace,
        "metadata.uid": metadata.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
        "status.hostIP": node_ip,
    }
    if path not in known:
        raise PlanError(f"fieldRef {path}: not a field that this kubelet knows")
    return known[path]


def _keys(keys: Keys, kind: str, name: str, optional: bool) -> Mapping[str, str]:
    found = keys(kind, name)
    if found is None and not optional:
        raise PlanError(f'{kind.removesuffix("s")} "{name}" not found')
    return found or {}


def _folder(place: Place, volume: str, sub_path: str) -> str:
    if volume not in place.volumes:
        raise PlanError(f"volume {volume} is not one of the pod's")
    return f"{place.volumes[volume]}/{sub_path}".rstrip("/")


def _expand(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` by its value, `$$(NAME)` by `$(NAME)`, and an unknown name as it stands."""
    return _REFERENCE.sub(lambda match: f"$({match[2]})" if match[1] else environment.get(match[2], match[0]), text)
