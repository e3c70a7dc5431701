"""A v1.Pod as placement reads it: bytes or a projection in, a plain `fleet.snapshot.Pod` out.

Null and absent are one, unknown fields are skipped, and what cannot be read becomes a problem in words.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec

from fleet.labels import (
    ANY_SLICE_ANNOTATION,
    DEVICE_CLASS_RESOURCE_PREFIX,
    GPU_RESOURCE,
    GPU_SHARED_RESOURCE,
    MIG_RESOURCE_PREFIX,
    PACKING_ANNOTATION,
    POD_BUDGET_ENV,
    POOL_LABEL,
    SCENE_BYTES_ANNOTATION,
    SCENES_ANNOTATION,
)
from fleet.mig import MigError, MigProfile
from fleet.scene import SceneId, SceneIdError, parse_scene_id, parse_scene_ids
from fleet.snapshot import Pod
from kube.objects import Object, Resource

MOST_NAME_CHARACTERS = 320  # of a resource: a domain and a label are at most 253 + 1 + 63
MOST_SLICES = 256  # of one pod: more than any node has, and a bound on what a hostile quantity can ask of us


class Meta(msgspec.Struct):
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Resources(msgspec.Struct):
    requests: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None


class EnvironmentVariable(msgspec.Struct):
    name: str | None = None
    value: str | None = None


class Container(msgspec.Struct, rename="camel"):
    resources: Resources | None = None
    env: list[EnvironmentVariable] | None = None
    restart_policy: str | None = None


class NodeAffinity(msgspec.Struct, rename="camel"):
    preferred_during_scheduling_ignored_during_execution: list[msgspec.Raw] | None = None


class Affinity(msgspec.Struct, rename="camel"):
    node_affinity: NodeAffinity | None = None


class Volume(msgspec.Struct, rename="camel"):
    persistent_volume_claim: dict[str, msgspec.Raw] | None = None
    ephemeral: dict[str, msgspec.Raw] | None = None


class Spec(msgspec.Struct, rename="camel"):
    node_name: str | None = None
    priority: int | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None
    affinity: Affinity | None = None
    resource_claims: list[msgspec.Raw] | None = None
    volumes: list[Volume] | None = None


class Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class Status(msgspec.Struct):
    phase: str | None = None
    conditions: list[Condition] | None = None


class PodObject(msgspec.Struct):
    metadata: Meta | None = None
    spec: Spec | None = None
    status: Status | None = None


class WatchedPod(Object):
    """The same of a list-watch, whose objects have a name and a version."""

    spec: Spec | None = None
    status: Status | None = None


WATCHED_PODS = Resource("v1", "pods", WatchedPod)


def read_pod(raw: PodObject | WatchedPod) -> Pod:
    """The pod as placement sees it; whatever cannot be read becomes a problem in words, never an error."""
    meta, spec = raw.metadata or Meta(), raw.spec or Spec()
    problems: list[str] = []
    annotations = meta.annotations or {}
    asked = _requests(spec, problems)
    finished, ready = _state(raw.status)
    return Pod(
        uid=meta.uid or "",
        name=meta.name or "",
        namespace=meta.namespace or "",
        node=spec.node_name or "",
        pool=(meta.labels or {}).get(POOL_LABEL, ""),
        profiles=_profiles(asked, problems),
        gpus=min(MOST_SLICES, asked.get(GPU_RESOURCE, 0) + asked.get(GPU_SHARED_RESOURCE, 0)),
        devices=_other_devices(asked),
        packing=_packing(annotations.get(PACKING_ANNOTATION, ""), problems),
        any_slice_gb=_any_slice_gb(annotations.get(ANY_SLICE_ANNOTATION, ""), problems),
        gpu_memory_bytes=sum(_budget_bytes(container, problems) for container in spec.containers or ()),
        scenes=_scenes(annotations.get(SCENES_ANNOTATION, ""), problems),
        scene_bytes=_scene_bytes(annotations.get(SCENE_BYTES_ANNOTATION, ""), problems),
        finished=finished,
        ready=ready,
        problems=tuple(problems),
        priority=spec.priority or 0,
        has_wishes=_has_wishes(spec),
    )


def read_again(known: Pod, before: WatchedPod, now: WatchedPod) -> Pod:
    """The pod as `read_pod` reads `now`, where `known` is what it read of `before`.

    Most changes bind a pod or move its status, and leave what is costly to read as it was.
    """
    spec, then = now.spec or Spec(), before.spec or Spec()
    same = (
        now.metadata.uid == before.metadata.uid == known.uid
        and now.metadata.labels == before.metadata.labels
        and now.metadata.annotations == before.metadata.annotations
        and msgspec.structs.replace(then, node_name=spec.node_name) == spec
    )
    if not same:
        return read_pod(now)
    finished, ready = _state(now.status)
    return replace(known, node=spec.node_name or "", finished=finished, ready=ready)


def _state(status: Status | None) -> tuple[bool, bool]:
    """Whether it is finished, and whether it is ready."""
    told = status or Status()
    phase = told.phase or ""
    ready = next((item.status == "True" for item in told.conditions or () if item.type == "Ready"), None)
    return phase in ("Succeeded", "Failed"), phase == "Running" if ready is None else ready


def _has_wishes(spec: Spec) -> bool:
    """Whether NodeAffinity, DynamicResources or VolumeBinding can add points for it."""
    nodes = spec.affinity.node_affinity if spec.affinity else None
    return bool(
        (nodes and nodes.preferred_during_scheduling_ignored_during_execution)
        or spec.resource_claims
        or any(volume.persistent_volume_claim or volume.ephemeral is not None for volume in spec.volumes or ())
    )


def _requests(spec: Spec, problems: list[str]) -> dict[str, int]:
    """Devices of a pod by resource: its containers together, or its greediest init container if that is more.

    An init container that restarts always is a sidecar and runs beside the rest (Kubernetes, "Resource sharing
    within containers").
    """
    init = spec.init_containers or []
    total: dict[str, int] = {}
    together = (spec.containers or []) + [container for container in init if container.restart_policy == "Always"]
    for container in together:
        for name, count in _devices(container, problems).items():
            total[name] = total.get(name, 0) + count
    for container in init:
        for name, count in _devices(container, problems).items():
            total[name] = max(total.get(name, 0), count)
    return total


def _profiles(asked: dict[str, int], problems: list[str]) -> tuple[MigProfile, ...]:
    profiles: list[MigProfile] = []
    for name in sorted(asked):
        try:
            profile = _profile_of(name)
        except MigError as error:
            problems.append(f"resource {name[:80]}: {error}")
            continue
        if profile is not None:
            profiles += [profile] * min(asked[name], MOST_SLICES - len(profiles))
    return tuple(profiles)


_profile_of = lru_cache(4096)(MigProfile.from_resource)  # texts of others: bounded


def _other_devices(asked: dict[str, int]) -> tuple[str, ...]:
    devices: list[str] = []
    for name in sorted(asked):
        if name not in (GPU_RESOURCE, GPU_SHARED_RESOURCE) and not name.startswith(MIG_RESOURCE_PREFIX):
            devices += [name] * min(asked[name], MOST_SLICES - len(devices))
    return tuple(devices)


def _devices(container: Container, problems: list[str]) -> dict[str, int]:
    """Extended resources alone: their names have a domain, and it is none of Kubernetes' own but DeviceClasses'."""
    resources = container.resources or Resources()
    found: dict[str, int] = {}
    # Requests and limits of an extended resource are equal; a limit alone stands for both.
    for name, quantity in {**(resources.requests or {}), **(resources.limits or {})}.items():
        domain, slash, _ = name.partition("/")
        native = domain.endswith("kubernetes.io") and not name.startswith(DEVICE_CLASS_RESOURCE_PREFIX)
        if not slash or native or len(name) > MOST_NAME_CHARACTERS:
            continue
        count = _whole(quantity)
        if count is None:
            problems.append(f"resource {name[:80]}: quantity {str(quantity)[:40]!r} is not a whole number from 0")
        elif count:
            found[name] = count
    return found


def _any_slice_gb(text: str, problems: list[str]) -> int:
    digits = text.strip()
    if not digits:
        return 0
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 4 and int(digits)):
        problems.append(f"annotation {ANY_SLICE_ANNOTATION}: {text[:40]!r} is not a whole number of GB above 0")
        return 0
    return int(digits)


def _packing(text: str, problems: list[str]) -> str:
    word = text.strip()
    if word not in ("", "pack", "spread"):
        problems.append(f"annotation {PACKING_ANNOTATION}: {text[:40]!r} is neither pack nor spread")
        return ""
    return word


def _budget_bytes(container: Container, problems: list[str]) -> int:
    """What the container may fill of its GPU, as its environment says; 0 where it does not."""
    text = next((item.value or "" for item in container.env or () if item.name == POD_BUDGET_ENV), "").strip()
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        problems.append(f"environment {POD_BUDGET_ENV}: {text[:40]!r} is not a whole number of bytes")
        return 0
    return int(text)


def _whole(quantity: object) -> int | None:
    """The whole number of a Kubernetes quantity (`2`, `"2"`, `"1k"`), bounded; None for anything else."""
    if isinstance(quantity, bool) or not isinstance(quantity, int | str):
        return None
    text = str(quantity).strip()
    scale = {"k": 1_000, "M": 1_000_000}.get(text[-1:], 1)
    digits = text[:-1] if scale > 1 else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):
        return None
    return min(int(digits) * scale, MOST_SLICES)


def _scenes(text: str, problems: list[str]) -> tuple[SceneId, ...]:
    try:
        return tuple(dict.fromkeys(parse_scene_ids(text)))
    except SceneIdError as error:
        problems.append(f"annotation {SCENES_ANNOTATION}: {error}")
        return ()


def _scene_bytes(text: str, problems: list[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        scene, _, number = part.partition("=")
        try:
            scene_id = parse_scene_id(scene.strip())
        except SceneIdError as error:
            problems.append(f"annotation {SCENE_BYTES_ANNOTATION}: {error}")
            continue
        digits = number.strip()
        if digits.isascii() and digits.isdigit() and len(digits) <= 15 and int(digits) > 0:
            sizes[scene_id] = int(digits)
        else:
            problems.append(f"annotation {SCENE_BYTES_ANNOTATION}: {part[:80]!r} is not id=bytes with bytes above 0")
    return sizes
