"""What a kubelet reads of a pod to run it."""

from __future__ import annotations

from typing import Any

import msgspec

from kube.objects import Container, Object, PodSpec, PodStatus, Projection, Resource


class KeyRef(Projection):
    """One key of a ConfigMap or a Secret."""

    name: str
    key: str
    optional: bool = False


class FieldRef(Projection):
    field_path: str


class EnvSource(Projection):
    field_ref: FieldRef | None = None
    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None
    resource_field_ref: dict[str, Any] | None = None


class EnvVar(Projection):
    name: str
    value: str = ""
    value_from: EnvSource | None = None


class NameRef(Projection):
    name: str
    optional: bool = False


class EnvFrom(Projection):
    prefix: str = ""
    config_map_ref: NameRef | None = None
    secret_ref: NameRef | None = None


class Mount(Projection):
    name: str
    mount_path: str
    sub_path: str = ""


class HttpProbe(Projection):
    port: int | str
    path: str = "/"
    scheme: str = "HTTP"


class PortProbe(Projection):
    port: int | str


class ExecProbe(Projection):
    command: list[str] = msgspec.field(default_factory=list)


class Probe(Projection):
    """`period_seconds` and the others as the API defaults them."""

    http_get: HttpProbe | None = None
    tcp_socket: PortProbe | None = None
    exec: ExecProbe | None = None
    grpc: PortProbe | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    failure_threshold: int = 3
    success_threshold: int = 1


class Sleep(Projection):
    seconds: int = 0


class Hook(Projection):
    sleep: Sleep | None = None
    exec: ExecProbe | None = None


class Lifecycle(Projection):
    pre_stop: Hook | None = None


class RunContainer(Container):
    """A container with all that its process needs."""

    image: str = ""
    command: list[str] | None = None
    args: list[str] | None = None
    env: list[EnvVar] | None = None
    env_from: list[EnvFrom] | None = None
    volume_mounts: list[Mount] | None = None
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    restart_policy: str = ""  # of an init container: `Always` makes it a sidecar


class KeyToPath(Projection):
    key: str
    path: str


class ConfigMapVolume(Projection):
    name: str
    items: list[KeyToPath] | None = None
    optional: bool = False


class SecretVolume(Projection):
    secret_name: str
    items: list[KeyToPath] | None = None
    optional: bool = False


class HostPath(Projection):
    path: str


class TokenSource(Projection):
    path: str
    audience: str = ""
    expiration_seconds: int = 3600


class FieldPath(Projection):
    path: str
    field_ref: FieldRef | None = None


class DownwardSource(Projection):
    items: list[FieldPath] | None = None


class NamedSource(Projection):
    """A ConfigMap or a Secret among the sources of a projected volume."""

    name: str
    items: list[KeyToPath] | None = None
    optional: bool = False


class ProjectedSource(Projection):
    service_account_token: TokenSource | None = None
    config_map: NamedSource | None = None
    secret: NamedSource | None = None
    downward_api: DownwardSource | None = msgspec.field(default=None, name="downwardAPI")


class Projected(Projection):
    sources: list[ProjectedSource] | None = None


class Claim(Projection):
    claim_name: str


class Volume(Projection):
    """A volume of a kind that is not listed here is an empty folder."""

    name: str
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    host_path: HostPath | None = None
    projected: Projected | None = None
    persistent_volume_claim: Claim | None = None
    ephemeral: dict[str, Any] | None = None  # its claim has the name of the pod and of the volume


class RunSpec(PodSpec):
    containers: list[RunContainer] = msgspec.field(default_factory=list)  # type: ignore[assignment]
    init_containers: list[RunContainer] | None = None  # type: ignore[assignment]
    volumes: list[Volume] | None = None
    service_account_name: str = ""
    restart_policy: str = "Always"


class RunPod(Object):
    spec: RunSpec = msgspec.field(default_factory=RunSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def grace_s(self) -> float:
        """Seconds between SIGTERM and SIGKILL, as the deletion or the pod says."""
        told = self.metadata.deletion_grace_period_seconds
        spec = self.spec.termination_grace_period_seconds
        return told if told is not None else 30.0 if spec is None else spec


RUN_PODS: Resource[RunPod] = Resource("v1", "pods", RunPod)
