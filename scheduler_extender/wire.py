"""extender/v1 messages and pod watch events: bytes to plain values and back.

Go's structs carry no JSON tags, so keys are capitalised field names and Go reads them in any case: both spellings are
read here, null and absent are one, unknown fields are skipped, and only capitalised keys are written. The pod is
decoded apart from the node names, so that a pod nobody can read still gets its nodes echoed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fleet.labels import CAPACITY_TYPE_LABELS
from fleet.scene import SceneId, SceneIdError, parse_scene_id
from fleet.snapshot import Pod
from scheduler_extender.names import Names
from scheduler_extender.pods import Meta, PodObject, read_pod
from scheduler_extender.preemption import Candidate


class WireError(ValueError):
    """A body that says too little to answer; the text names what was wrong."""


class _NodeList(msgspec.Struct):
    items: list[msgspec.Raw] | None = None


class _NamedNode(msgspec.Struct):
    metadata: Meta | None = None


_NULL = msgspec.Raw(b"null")


class _Args(msgspec.Struct):
    pod: msgspec.Raw = msgspec.field(name="Pod", default=_NULL)
    nodes: _NodeList | None = msgspec.field(name="Nodes", default=None)
    names: msgspec.Raw = msgspec.field(name="NodeNames", default=_NULL)
    lower_pod: msgspec.Raw = msgspec.field(name="pod", default=_NULL)
    lower_nodes: _NodeList | None = msgspec.field(name="nodes", default=None)
    camel_names: msgspec.Raw = msgspec.field(name="nodeNames", default=_NULL)
    lower_names: msgspec.Raw = msgspec.field(name="nodenames", default=_NULL)


class _FilterResult(msgspec.Struct):
    nodes: dict[str, Any] | None = msgspec.field(name="Nodes", default=None)
    names: Sequence[str] | msgspec.Raw | None = msgspec.field(name="NodeNames", default=None)
    failed: Mapping[str, str] = msgspec.field(name="FailedNodes", default_factory=dict)
    unresolvable: Mapping[str, str] = msgspec.field(name="FailedAndUnresolvableNodes", default_factory=dict)
    error: str = msgspec.field(name="Error", default="")


class _HostPriority(msgspec.Struct, gc=False):
    host: str = msgspec.field(name="Host")
    score: int = msgspec.field(name="Score")


class _Event(msgspec.Struct):
    type: str = ""
    object: PodObject | None = None
    pod: PodObject | None = None  # the same, for a sender that is no API server
    kind: str = ""
    items: list[PodObject] | None = None


_decode_args = msgspec.json.Decoder(_Args).decode
_decode_pod = msgspec.json.Decoder(PodObject).decode
_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_node = msgspec.json.Decoder(_NamedNode).decode
_decode_events = msgspec.json.Decoder(_Event).decode_lines
_encode = msgspec.json.Encoder().encode
MOST_REMEMBERED_BYTES = 64 << 10  # of a pod
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)


@dataclass(frozen=True, slots=True)
class Args:
    """One call: the pod (None where it cannot be read: `problem` says why), the nodes' names and, if sent, objects."""

    pod: Pod | None
    names: Sequence[str]  # Names, or a list where they are not plain or come with their objects
    nodes: list[msgspec.Raw] | None = None
    problem: str = ""


def decode_args(body: bytes) -> Args:
    """Read ExtenderArgs; raises WireError where not even the nodes can be told."""
    try:
        args = _decode_args(body)
        nodes = args.nodes if args.nodes is not None else args.lower_nodes
        objects = None if nodes is None else nodes.items or []
        names = _names(args)
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
        raw = bytes(args.pod)
        raw = raw if raw != b"null" else bytes(args.lower_pod)
        return Args(_read_again(raw) if len(raw) < MOST_REMEMBERED_BYTES else _read(raw), names, objects)
    except _UNREADABLE as error:
        return Args(None, names, objects, f"Pod cannot be read: {error}")


def _names(args: _Args) -> Sequence[str] | None:
    for found in (args.names, args.camel_names, args.lower_names):
        raw = bytes(found)
        if raw != b"null":
            return Names.read(raw) or _decode_names(raw)
    return None


def _read(raw: bytes) -> Pod:
    return read_pod(_decode_pod(raw))


_read_again = lru_cache(8)(_read)  # prioritize sends the very pod that filter sent


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


def encode_filter(args: Args, left: Sequence[str], failed: Mapping[str, str], unresolvable: Mapping[str, str]) -> bytes:
    """The answer of filter in the shape of its question: names for names, objects for objects."""
    if args.nodes is None:
        told = msgspec.Raw(left.raw) if isinstance(left, Names) else left
        return _encode(_FilterResult(None, told, failed, unresolvable))
    pairs = zip(args.names, args.nodes, strict=True)
    items = [node for name, node in pairs if name not in failed and name not in unresolvable]
    return _encode(_FilterResult({"metadata": {}, "items": items}, None, failed, unresolvable))


def encode_refusal(error: str) -> bytes:
    """A filter answer that fails this scheduling attempt; kube-scheduler drops the text of any other status."""
    return _encode(_FilterResult(error=error))


def encode_scores(names: Sequence[str], scores: NDArray[np.int64]) -> bytes:
    """The answer of prioritize: a bare array of Host and Score, which are 0 to 10."""
    if isinstance(names, Names):
        return names.scored(scores)
    return _encode(list(map(_HostPriority, names, scores.tolist())))


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
            if meta is not None and meta.name and event.type not in ("DELETED", "BOOKMARK"):
                found.append((meta.name, capacity_type_of(meta.labels or {})))
    return found


def capacity_type_of(labels: Mapping[str, str]) -> str:
    """`reserved`, `on-demand` or `spot` as a node's labels say, empty where they do not."""
    return next((labels[key] for key in CAPACITY_TYPE_LABELS if key in labels), "")


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

    @property
    def names(self) -> list[str]:
        """The nodes that are proposed."""
        return list(self.candidates)


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
        return PreemptArgs(read_pod(msgspec.convert(_field(whole, "Pod"), PodObject)), candidates)
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
            pod = read_pod(msgspec.convert(item, PodObject))
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


def _with_uid(raw: PodObject) -> Pod:
    pod = read_pod(raw)
    if not pod.uid:
        raise WireError(f"metadata.uid is missing in the event of pod {pod.name!r}: reservations are kept by it")
    return pod
