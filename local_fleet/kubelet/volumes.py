"""Volumes of a pod as folders: ConfigMaps and Secrets written out, paths of the node, empty folders."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from kube.connection import Connection
from kube.errors import KubeError, Refused
from kube.objects import Object, Resource
from local_fleet.kubelet.container_plan import Keys, PlanError
from local_fleet.kubelet.emulated_node import EmulatedNode
from local_fleet.kubelet.pod_spec import ConfigMapVolume, KeyToPath, RunPod, Volume


class _Data(Object):
    data: dict[str, str] | None = None
    binary_data: dict[str, str] | None = None


_CONFIG_MAPS: Resource[_Data] = Resource("v1", "configmaps", _Data)
_SECRETS: Resource[_Data] = Resource("v1", "secrets", _Data)


class Configuration:
    """ConfigMaps and Secrets, read when a container is about to start."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def keys(self, kind: str, namespace: str, name: str) -> Mapping[str, str] | None:
        """The keys of one; None where there is none. Raises PlanError where it cannot be read."""
        resource = _SECRETS if kind == "secrets" else _CONFIG_MAPS
        try:
            found = msgspec.json.decode(self._connection.get(resource.path(namespace, name)), type=_Data)
        except Refused as error:
            if error.absent:
                return None
            raise PlanError(f"{kind} {name}: {error}") from error
        except KubeError as error:
            raise PlanError(f"{kind} {name}: {error}") from error
        if kind == "configmaps":
            return found.data or {}
        try:
            return {key: base64.b64decode(value).decode() for key, value in (found.data or {}).items()}
        except (binascii.Error, UnicodeDecodeError) as error:
            raise PlanError(f"secret {name}: {error}") from error


def lay_volumes(pod: RunPod, node: EmulatedNode, folder: Path, keys: Keys) -> dict[str, str]:
    """A folder for each volume of a pod, filled; raises PlanError with what is missing."""
    volumes = folder / "volumes"
    return {volume.name: str(_lay(volume, node, volumes / volume.name, keys)) for volume in pod.spec.volumes or ()}


def _lay(volume: Volume, node: EmulatedNode, folder: Path, keys: Keys) -> Path:
    if volume.host_path is not None:
        found = node.host_folder(volume.host_path.path)
        found.mkdir(parents=True, exist_ok=True)
        return found
    folder.mkdir(parents=True, exist_ok=True)
    for kind, source in (("configmaps", volume.config_map), ("secrets", volume.secret)):
        if source is not None:
            name = source.name if isinstance(source, ConfigMapVolume) else source.secret_name
            values = keys(kind, name)
            if values is None and not source.optional:
                raise PlanError(f'{kind.removesuffix("s")} "{name}" not found')
            _write(values or {}, source.items, folder)
    return folder


def _write(values: Mapping[str, str], items: Sequence[KeyToPath] | None, folder: Path) -> None:
    paths = {item.key: item.path for item in items} if items is not None else {key: key for key in values}
    for key, path in paths.items():
        if key not in values:
            raise PlanError(f"volume: no key {key}, there are {', '.join(sorted(values)) or 'none'}")
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(values[key])
        file.chmod(0o600)
