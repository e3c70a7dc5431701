"""extender/v1 messages and pod watch events: bytes to plain values and back.

Go's structs carry no JSON tags, so keys are capitalised field names and Go reads them in any case: both spellings are
read here, null and absent are one, unknown fields are skipped, and only capitalised keys are written. The pod is
decoded apart from the node names, so that a pod nobody can read still gets its nodes echoed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from fleet.labels import (
    CAPACITY_TYPE_LABELS,
    GPU_RESOURCE,
    MIG_RESOURCE_PREFIX,
    POOL_LABEL,
    SCENE_BYTES_ANNOTATION,
    SCENES_ANNOTATION,
)
from fleet.mig import MigError, MigProfile
from fleet.scene import SceneId, SceneIdError, parse_scene_id, parse_scene_ids
from fleet.snapshot import Pod
from scheduler_extender.preemption import Candidate

MOST_SLICES = 256  # of one pod: more than any node has, and a bound on what a hostile quantity can ask of us


class WireError(ValueError):
    """A body that says too little to answer; the text names what was wrong."""


class _Meta(msgspec.Struct):
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Resources(msgspec.Struct):
    requests: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None


class _Container(msgspec.Struct, rename="camel"):
    resources: _Resources | None = None
    restart_policy: str | None = None


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str | None = None
    priority: int | None = None
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct):
    phase: str | None = None
    conditions: list[_Condition] | None = None


class _Pod(msgspec.Struct):
    metadata: _Meta | None = None
    spec: _Spec | None = None
    status: _Status | None = None


class _NodeList(msgspec.Struct):
    items: list[msgspec.Raw] | None = None


class _NamedNode(msgspec.Struct):
    metadata: _Meta | None = None


_NULL = msgspec.Raw(b"null")


class _Args(msgspec.Struct):
    pod: msgspec.Raw = msgspec.field(name="Pod", default=_NULL)
    nodes: _NodeList | None = msgspec.field(name="Nodes", default=None)
    names: list[str] | None = msgspec.field(name="NodeNames", default=None)
    lower_pod: msgspec.Raw = msgspec.field(name="pod", default=_NULL)
    lower_nodes: _NodeList | None = msgspec.field(name="nodes", default=None)
    camel_names: list[str] | None = msgspec.field(name="nodeNames", default=None)
    lower_names: list[str] | None = msgspec.field(name="nodenames", default=None)


class _FilterResult(msgspec.Struct):
    nodes: dict[str, Any] | None = msgspec.field(name="Nodes", default=None)
    names: Sequence[str] | None = msgspec.field(name="NodeNames", default=None)
    failed: Mapping[str, str] = msgspec.field(name="FailedNodes", default_factory=dict)
    unresolvable: Mapping[str, str] = msgspec.field(name="FailedAndUnresolvableNodes", default_factory=dict)
    error: str = msgspec.field(name="Error", default="")


class _HostPriority(msgspec.Struct, gc=False):
    host: str = msgspec.field(name="Host")
    score: int = msgspec.field(name="Score")


class _Event(msgspec.Struct):
    type: str = ""
    object: _Pod | None = None
    pod: _Pod | None = None  # the same, for a sender that is no API server
    kind: str = ""
    items: list[_Pod] | None = None


_decode_args = msgspec.json.Decoder(_Args).decode
_decode_pod = msgspec.json.Decoder(_Pod).decode
_decode_node = msgspec.json.Decoder(_NamedNode).decode
_decode_events = msgspec.json.Decoder(_Event).decode_lines
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)


@dataclass(frozen=True, slots=True)
class Args:
    """One call: the pod (None where it cannot be read: `problem` says why), the nodes' names and, if sent, objects."""

    pod: Pod | None
    names: list[str]
    nodes: list[msgspec.Raw] | None = None
    problem: str = ""


def decode_args(body: bytes) -> Args:
    """Read ExtenderArgs; raises WireError where not even the nodes can be told."""
    try:
        args = _decode_args(body)
        nodes = args.nodes if args.nodes is not None else args.lower_nodes
        objects = None if nodes is None else nodes.items or []
        names = next((found for found in (args.names, args.camel_names, args.lower_names) if found is not None), None)
        if names is None:
            named = [_decode_node(item).metadata for item in objects or []]
            names = [(meta.name if meta else None) or "" for meta in named]
        else:
            objects = None
    except _UNREADABLE as error:
        names = _salvaged_names(body)
        if names is None:
            raise WireError(f"body is not ExtenderArgs: {error}") from error
        return Args(None, names, None, f"body is not ExtenderArgs: {error}")
    try:
        raw = args.pod if bytes(args.pod) != b"null" else args.lower_pod
        return Args(read_pod(_decode_pod(raw)), names, objects)
    except _UNREADABLE as error:
        return Args(None, names, objects, f"Pod cannot be read: {error}")


def _salvaged_names(body: bytes) -> list[str] | None:
    """The node names of a body that is JSON and otherwise wrong; None where it has none."""
    try:
        whole = msgspec.json.decode(body)
    except _UNREADABLE:
        return None
    for key, value in whole.items() if isinstance(whole, dict) else ():
        if key.lower() == "nodenames" and isinstance(value, list):
            return [name for name in value if isinstance(name, str)]
    return None


def encode_filter(args: Args, failed: Mapping[str, str], unresolvable: Mapping[str, str]) -> bytes:
    """The answer of filter in the shape of its question: names for names, objects for objects."""
    names: Sequence[str] = args.names
    nodes = None
    if failed or unresolvable:
        names = [name for name in names if name not in failed and name not in unresolvable]
    if args.nodes is not None:
        pairs = zip(args.names, args.nodes, strict=True)
        nodes = {
            "metadata": {},
            "items": [node for name, node in pairs if name not in failed and name not in unresolvable],
        }
        return _encode(_FilterResult(nodes, None, failed, unresolvable))
    return _encode(_FilterResult(None, names, failed, unresolvable))


def encode_refusal(error: str) -> bytes:
    """A filter answer that fails this scheduling attempt; kube-scheduler drops the text of any other status."""
    return _encode(_FilterResult(error=error))


def encode_scores(names: Sequence[str], scores: Sequence[int]) -> bytes:
    """The answer of prioritize: a bare array of Host and Score."""
    return _encode(list(map(_HostPriority, names, scores)))


class _NodeEvent(msgspec.Struct):
    type: str = ""
    object: _NamedNode | None = None
    items: list[_NamedNode] | None = None


_decode_node_events = msgspec.json.Decoder(_NodeEvent).decode_lines
_decode_forecast = msgspec.json.Decoder(dict[str, dict[str, float]]).decode


def decode_node_events(body: bytes) -> list[tuple[str, str]]:
    """Node names with their capacity type, of watch events (one a line) or a NodeList; raises WireError."""
    try:
        events = _decode_node_events(body)
    except _UNREADABLE as error:
        raise WireError(f"body is not a node event: {error}") from error
    found: list[tuple[str, str]] = []
    for event in events:
        nodes = event.items if event.items is not None else [event.object] if event.object is not None else []
        if not nodes and event.items is None and event.type != "BOOKMARK":
            raise WireError("node event has no object: expected a v1.Node there")
        for meta in (node.metadata for node in nodes):
            labels = (meta.labels if meta else None) or {}
            if meta is not None and meta.name and event.type not in ("DELETED", "BOOKMARK"):
                found.append((meta.name, next((labels[key] for key in CAPACITY_TYPE_LABELS if key in labels), "")))
    return found


def decode_forecast(body: bytes) -> dict[str, dict[SceneId, float]]:
    """Forecast demand by pool and scene, `{"web": {"robot": 3.5}}`; raises WireError."""
    try:
        whole = _decode_forecast(body)
        checked = {
            pool: {parse_scene_id(scene): rate for scene, rate in rates.items()} for pool, rates in whole.items()
        }
    except (*_UNREADABLE, SceneIdError) as error:
        raise WireError(f"body is not a forecast: {error}") from error
    for pool, rates in checked.items():
        for scene, rate in rates.items():
            if not 0 <= rate < math.inf:
                raise WireError(f"{pool[:80]}.{scene} is {rate}: expected a demand of 0 or more")
    return checked


@dataclass(frozen=True, slots=True)
class PreemptArgs:
    """One preempt call: the pod (None where it cannot be read: `problem` says why) and the proposed victims by node."""

    pod: Pod | None
    candidates: dict[str, Candidate]
    problem: str = ""


def decode_preempt(body: bytes) -> PreemptArgs:
    """Read ExtenderPreemptionArgs; raises WireError where not even the candidates can be told."""
    try:
        whole = msgspec.json.decode(body)
        meta, full = _field(whole, "NodeNameToMetaVictims"), _field(whole, "NodeNameToVictims")
        proposed = {**(full or {}), **(meta or {})}
        candidates = {str(name): _candidate(victims) for name, victims in proposed.items()}
    except (*_UNREADABLE, TypeError, ValueError) as error:
        raise WireError(f"body is not ExtenderPreemptionArgs: {error}") from error
    try:
        return PreemptArgs(read_pod(msgspec.convert(_field(whole, "Pod"), _Pod)), candidates)
    except _UNREADABLE as error:
        return PreemptArgs(None, candidates, f"Pod cannot be read: {error}")


def encode_preempt(candidates: Mapping[str, Candidate]) -> bytes:
    """The answer of preempt, victims by UID; a node without victims would be an error to kube-scheduler."""
    named = {
        name: {
            "Pods": [{"UID": uid} for uid in candidate.victims],
            "NumPDBViolations": candidate.disruption_violations,
        }
        for name, candidate in candidates.items()
        if candidate.victims
    }
    return _encode({"NodeNameToMetaVictims": named})


def _field(value: Any, name: str) -> Any:
    """A field of a Go struct in whatever case it is spelled; None where it is absent."""
    if not isinstance(value, dict):
        raise WireError(f"expected an object with {name}, got {type(value).__name__}")
    return value[name] if name in value else {key.lower(): item for key, item in value.items()}.get(name.lower())


def _candidate(victims: Any) -> Candidate:
    """Victims as UIDs alone (MetaPod) or as whole pods."""
    uids: list[str] = []
    pods: dict[str, Pod] = {}
    for item in _field(victims, "Pods") or ():
        uid = _field(item, "UID")
        if uid is None:
            pod = read_pod(msgspec.convert(item, _Pod))
            pods[pod.uid] = pod
            uid = pod.uid
        if not isinstance(uid, str) or not uid:
            raise WireError(f"UID of a victim is {str(uid)[:40]!r}: expected a text")
        uids.append(uid)
    violations = _field(victims, "NumPDBViolations")
    return Candidate(tuple(uids), violations if isinstance(violations, int) else 0, pods)


@dataclass(frozen=True, slots=True)
class PodEvent:
    """What a watch says: one pod came, changed or went, or (`LIST`) these pods are all there are."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "LIST"]
    pods: tuple[Pod, ...]


def decode_events(body: bytes) -> list[PodEvent]:
    """Read a watch event, several of them one a line, or a PodList; raises WireError naming what is wrong.

    `{"type": "ADDED", "object": {v1.Pod}}`, where `pod` may stand for `object`; bookmarks are skipped.
    """
    try:
        events = _decode_events(body)
    except _UNREADABLE as error:
        raise WireError(f"body is not a pod event: {error}") from error
    if not events:
        raise WireError('body is empty: expected {"type": "ADDED", "object": {...}}')
    return [read for event in events if (read := _read_event(event)) is not None]


def _read_event(event: _Event) -> PodEvent | None:
    if event.items is not None:
        return PodEvent("LIST", tuple(_with_uid(pod) for pod in event.items))
    if event.type == "BOOKMARK":
        return None
    pod = event.object if event.object is not None else event.pod
    if pod is None:
        raise WireError("pod event has neither object nor pod: expected a v1.Pod there")
    match event.type:
        case "ADDED" | "MODIFIED" | "DELETED":
            return PodEvent(event.type, (_with_uid(pod),))
    raise WireError(f"type {event.type[:40]!r} is not valid: expected ADDED, MODIFIED, DELETED or BOOKMARK")


def _with_uid(raw: _Pod) -> Pod:
    pod = read_pod(raw)
    if not pod.uid:
        raise WireError(f"metadata.uid is missing in the event of pod {pod.name!r}: reservations are kept by it")
    return pod


def read_pod(raw: _Pod) -> Pod:
    """The pod as placement sees it; whatever cannot be read becomes a problem in words, never an error."""
    meta, spec, status = raw.metadata or _Meta(), raw.spec or _Spec(), raw.status or _Status()
    problems: list[str] = []
    annotations = meta.annotations or {}
    profiles, gpus = _requests(spec, problems)
    phase = status.phase or ""
    ready = next((item.status == "True" for item in status.conditions or () if item.type == "Ready"), None)
    return Pod(
        uid=meta.uid or "",
        name=meta.name or "",
        namespace=meta.namespace or "",
        node=spec.node_name or "",
        pool=(meta.labels or {}).get(POOL_LABEL, ""),
        profiles=profiles,
        gpus=gpus,
        scenes=_scenes(annotations.get(SCENES_ANNOTATION, ""), problems),
        scene_bytes=_scene_bytes(annotations.get(SCENE_BYTES_ANNOTATION, ""), problems),
        finished=phase in ("Succeeded", "Failed"),
        ready=phase == "Running" if ready is None else ready,
        problems=tuple(problems),
        priority=spec.priority or 0,
    )


def _requests(spec: _Spec, problems: list[str]) -> tuple[tuple[MigProfile, ...], int]:
    """Slices and whole GPUs of a pod: its containers together, or its greediest init container if that is more.

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
    profiles: list[MigProfile] = []
    for name in sorted(total):
        if name == GPU_RESOURCE:
            continue
        try:
            profile = MigProfile.from_resource(name)
        except MigError as error:
            problems.append(f"resource {name[:80]}: {error}")
            continue
        if profile is not None:
            profiles += [profile] * min(total[name], MOST_SLICES - len(profiles))
    return tuple(profiles), total.get(GPU_RESOURCE, 0)


def _devices(container: _Container, problems: list[str]) -> dict[str, int]:
    resources = container.resources or _Resources()
    found: dict[str, int] = {}
    # Requests and limits of an extended resource are equal; a limit alone stands for both.
    for name, quantity in {**(resources.requests or {}), **(resources.limits or {})}.items():
        if name != GPU_RESOURCE and not name.startswith(MIG_RESOURCE_PREFIX):
            continue
        count = _whole(quantity)
        if count is None:
            problems.append(f"resource {name[:80]}: quantity {str(quantity)[:40]!r} is not a whole number from 0")
        elif count:
            found[name] = count
    return found


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
