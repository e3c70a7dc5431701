"""What a kubelet asks the API server for on behalf of a pod: ConfigMaps, Secrets, tokens, claims."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kube.connection import Connection
from kube.errors import KubeError, Refused
from kube.objects import Object, Projection, Resource
from local_fleet.kubelet.container_plan import PlanError
from local_fleet.kubelet.pod_spec import HostPath, RunPod


class _Data(Object):
    data: dict[str, str] | None = None


class _ClaimSpec(Projection):
    volume_name: str = ""


class _Claim(Object):
    spec: _ClaimSpec


class _VolumeSpec(Projection):
    host_path: HostPath | None = None


class _PersistentVolume(Object):
    spec: _VolumeSpec


class _TokenStatus(Projection):
    token: str


class _TokenRequest(msgspec.Struct):
    status: _TokenStatus


T = TypeVar("T")
_CONFIG_MAPS: Resource[_Data] = Resource("v1", "configmaps", _Data)
_SECRETS: Resource[_Data] = Resource("v1", "secrets", _Data)
_CLAIMS: Resource[_Claim] = Resource("v1", "persistentvolumeclaims", _Claim)
_VOLUMES: Resource[_PersistentVolume] = Resource("v1", "persistentvolumes", _PersistentVolume, namespaced=False)


class Configuration:
    """Read when a container is about to start, and not again."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def keys(self, kind: str, namespace: str, name: str) -> Mapping[str, str] | None:
        """The keys of a ConfigMap or a Secret; None where there is none. Raises PlanError."""
        resource = _SECRETS if kind == "secrets" else _CONFIG_MAPS
        found = self._ask("GET", resource.path(namespace, name), resource.type)
        if found is None or kind == "configmaps":
            return None if found is None else found.data or {}
        try:
            return {key: base64.b64decode(value).decode() for key, value in (found.data or {}).items()}
        except (binascii.Error, UnicodeDecodeError) as error:
            raise PlanError(f"secret {name}: {error}") from error

    def token(self, pod: RunPod, audience: str, expiration_s: int) -> str:
        """A token of the pod's service account, bound to the pod (TokenRequest); raises PlanError."""
        account = pod.spec.service_account_name or "default"
        path = f"/api/v1/namespaces/{pod.metadata.namespace}/serviceaccounts/{account}/token"
        bound = {"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid}
        spec: dict[str, Any] = {"expirationSeconds": max(600, expiration_s), "boundObjectRef": bound}
        if audience:
            spec["audiences"] = [audience]
        found = self._ask("POST", path, _TokenRequest, {"spec": spec})
        if found is None:
            raise PlanError(f"serviceaccount {account} not found")
        return found.status.token

    def host_path_of_claim(self, namespace: str, name: str) -> str:
        """Where on the node the volume of a claim lies; raises PlanError where it is not bound to such a one."""
        claim = self._ask("GET", _CLAIMS.path(namespace, name), _Claim)
        if claim is None or not claim.spec.volume_name:
            raise PlanError(f"persistentvolumeclaim {name}: not bound to a volume yet")
        volume = self._ask("GET", _VOLUMES.path(None, claim.spec.volume_name), _PersistentVolume)
        if volume is None or volume.spec.host_path is None:
            raise PlanError(f"persistentvolume {claim.spec.volume_name}: is no path of a node")
        return volume.spec.host_path.path

    def write_kubeconfig(self, account: Path, target: Path) -> Path:
        """What a client in a pod makes of its mounted service account, as a file; `account` is that mount's folder."""
        user = {"tokenFile": str(account / "token")}
        cluster = {"server": self._connection.host, "certificate-authority": str(account / "ca.crt")}
        context = {"cluster": "cluster", "user": "pod", "namespace": (account / "namespace").read_text()}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "pod",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": "pod", "user": user}],
            "contexts": [{"name": "pod", "context": context}],
        }
        target.write_text(json.dumps(document))
        return target

    def _ask(self, method: str, path: str, kind: type[T], body: Mapping[str, Any] | None = None) -> T | None:
        """None where there is no such object; raises PlanError where it cannot be had."""
        sent = msgspec.json.encode(body) if body is not None else None
        try:
            return msgspec.json.decode(self._connection.request(method, path, sent), type=kind)
        except Refused as error:
            if error.absent:
                return None
            raise PlanError(f"{path}: {error}") from error
        except (KubeError, msgspec.MsgspecError) as error:
            raise PlanError(f"{path}: {error}") from error
