"""Volumes of a pod as folders: ConfigMaps, Secrets and tokens written out, paths of the node, empty folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from local_fleet.kubelet.container_plan import PlanError
from local_fleet.kubelet.emulated_node import EmulatedNode
from local_fleet.kubelet.pod_spec import ConfigMapVolume, KeyToPath, Projected, ProjectedSource, RunPod, Volume


class Contents(Protocol):
    """Where the contents of volumes come from; every method raises PlanError where it cannot read."""

    def keys(self, kind: str, namespace: str, name: str) -> Mapping[str, str] | None: ...

    def token(self, pod: RunPod, audience: str, expiration_s: int) -> str: ...

    def host_path_of_claim(self, namespace: str, name: str) -> str: ...


Field = Callable[[str], str]  # the path of a field of the pod -> its value; raises PlanError


def lay_volumes(pod: RunPod, node: EmulatedNode, folder: Path, contents: Contents, field: Field) -> dict[str, str]:
    """A folder for each volume of a pod, filled; raises PlanError with what is missing."""
    laid = {}
    for volume in pod.spec.volumes or ():
        path = _host_path(volume, pod, contents)
        if path:
            found = node.host_folder(path)
            found.mkdir(parents=True, exist_ok=True)
        else:
            found = folder / "volumes" / volume.name
            found.mkdir(parents=True, exist_ok=True)
            _fill(volume, pod, found, contents, field)
        laid[volume.name] = str(found)
    return laid


def _host_path(volume: Volume, pod: RunPod, contents: Contents) -> str:
    """Where on the node it lies; empty where it is the pod's own."""
    if volume.host_path is not None:
        return volume.host_path.path
    claim = volume.persistent_volume_claim.claim_name if volume.persistent_volume_claim is not None else ""
    if volume.ephemeral is not None:
        claim = f"{pod.metadata.name}-{volume.name}"
    return contents.host_path_of_claim(pod.metadata.namespace, claim) if claim else ""


def _fill(volume: Volume, pod: RunPod, folder: Path, contents: Contents, field: Field) -> None:
    for kind, source in (("configmaps", volume.config_map), ("secrets", volume.secret)):
        if source is not None:
            name = source.name if isinstance(source, ConfigMapVolume) else source.secret_name
            _write(_values(contents, kind, pod, name, source.optional), source.items, folder)
    for projected in (volume.projected or Projected()).sources or ():
        _project(projected, pod, folder, contents, field)


def _project(source: ProjectedSource, pod: RunPod, folder: Path, contents: Contents, field: Field) -> None:
    for kind, named in (("configmaps", source.config_map), ("secrets", source.secret)):
        if named is not None:
            _write(_values(contents, kind, pod, named.name, named.optional), named.items, folder)
    for item in (source.downward_api.items if source.downward_api is not None else None) or ():
        if item.field_ref is not None:
            _write_file(folder / item.path, field(item.field_ref.field_path))
    wanted = source.service_account_token
    if wanted is not None and not (folder / wanted.path).exists():  # one for the life of a pod: no test outlives it
        _write_file(folder / wanted.path, contents.token(pod, wanted.audience, wanted.expiration_seconds))


def _values(contents: Contents, kind: str, pod: RunPod, name: str, optional: bool) -> Mapping[str, str]:
    values = contents.keys(kind, pod.metadata.namespace, name)
    if values is None and not optional:
        raise PlanError(f'{kind.removesuffix("s")} "{name}" not found')
    return values or {}


def _write(values: Mapping[str, str], items: Sequence[KeyToPath] | None, folder: Path) -> None:
    paths = {item.key: item.path for item in items} if items is not None else {key: key for key in values}
    for key, path in paths.items():
        if key not in values:
            raise PlanError(f"volume: no key {key}, there are {', '.join(sorted(values)) or 'none'}")
        _write_file(folder / path, values[key])


def _write_file(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o600)
