"""A cloud's node group: nodes join some time after pods found no place, and leave some time after the last went."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from fleet.labels import PLACEHOLDER_LABEL, POOL_LABEL
from kube.errors import KubeError
from kube.objects import PODS, Pod
from kube.reflector import Reflector, Scope
from local_fleet.kubelet.emulated_node import EmulatedNode
from local_fleet.kubelet.kubelet import TIMINGS, Kubelet
from local_fleet.kubelet.pod_spec import RunPod

LOOK_S = 0.1
RETRY_S = 1.0
SETTLE_S = 15.0  # kube-scheduler backs off up to 10 s before it looks at a waiting pod again
log = structlog.get_logger("node-group")


@dataclass(frozen=True, slots=True)
class Terms:
    """`boot_s` from the ask for a node until it joins, `idle_s` without a pod until it leaves."""

    boot_s: float
    idle_s: float
    most: int
    least: int = 0
    pods_a_node: int = 1


@dataclass(slots=True)
class Member:
    """A node that has joined, and since when it has no pod; monotonic moments."""

    joined_s: float
    idle_since_s: float | None = None


@dataclass(slots=True)
class GroupState:
    """When each node that boots is due (monotonic), and those that have joined."""

    due_s: dict[str, float] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=itertools.count)


def decide(
    state: GroupState, terms: Terms, now_s: float, waiting: int, busy: Mapping[str, int]
) -> tuple[list[str], list[str]]:
    """Names of the nodes that join now and of those that leave now; `waiting` pods have no place, `busy` by node.

    A node that has just joined still counts with its free places: the scheduler has not looked at it yet.
    """
    settling = [name for name, member in state.members.items() if now_s - member.joined_s < SETTLE_S]
    homeless = waiting - sum(max(0, terms.pods_a_node - busy.get(name, 0)) for name in settling)
    missing = math.ceil(homeless / terms.pods_a_node) - len(state.due_s)
    room = terms.most - len(state.due_s) - len(state.members)
    for _ in range(min(missing, room)):
        state.due_s[f"{next(state.numbers)}"] = now_s + terms.boot_s
    joining = [name for name, due_s in state.due_s.items() if due_s <= now_s]
    for name in joining:
        del state.due_s[name]
        state.members[name] = Member(now_s)
    leaving = []
    for name, member in list(state.members.items()):
        if name in joining or busy.get(name, 0) or waiting:
            member.idle_since_s = None
        elif member.idle_since_s is None:
            member.idle_since_s = now_s
        elif now_s - member.idle_since_s >= terms.idle_s and len(state.members) > terms.least:
            leaving.append(name)
            del state.members[name]
    return joining, leaving


class NodeGroup:
    """Adds nodes to a kubelet and takes them away, from `start` to `stop`; `make` is told the name of a node."""

    def __init__(
        self, kubelet: Kubelet, name: str, terms: Terms, make: Callable[[str], EmulatedNode], pods: Scope | None = None
    ) -> None:
        """`pods` says which pods of ours, and placeholders for them, the group is for."""
        self._kubelet, self._name, self._terms, self._make = kubelet, name, terms, make
        self._state = GroupState()
        scope = replace(pods or Scope(), field_selector="spec.nodeName=")
        self._pods: Reflector[Pod] = Reflector(kubelet.connection, PODS, scope, timings=TIMINGS)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"node-group-{name}", daemon=True)

    def start(self) -> NodeGroup:
        self._pods.start()
        self._thread.start()
        return self

    def stop(self) -> None:
        """Decide no more; nodes stay."""
        self._stopping.set()
        self._thread.join(10.0)
        self._pods.stop()

    @property
    def nodes(self) -> list[str]:
        """Those that have joined."""
        return [self._full(name) for name in self._state.members]

    def _full(self, name: str) -> str:
        return f"{self._name}-{name}"

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            waiting = sum(_is_ours(pod) and _has_no_place(pod) for pod in self._pods.items())
            busy: dict[str, int] = {}
            for worker in self._kubelet.live():
                if _is_ours(worker.pod):
                    name = worker.pod.spec.node_name.removeprefix(f"{self._name}-")
                    busy[name] = busy.get(name, 0) + 1
            joining, leaving = decide(self._state, self._terms, time.monotonic(), waiting, busy)
            for name in joining:
                self._join(name)
            for name in leaving:
                try:
                    self._kubelet.remove_node(self._full(name))
                except KubeError as error:
                    log.error("node is gone, its object is not", node=self._full(name), error=str(error))

    def _join(self, name: str) -> None:
        try:
            self._kubelet.add_node(self._make(self._full(name)))
        except KubeError as error:
            log.warning("node could not join, it tries again", node=self._full(name), error=str(error))
            del self._state.members[name]
            self._state.due_s[name] = time.monotonic() + RETRY_S


def _is_ours(pod: Pod | RunPod) -> bool:
    return any(pod.metadata.label(name) for name in (POOL_LABEL, PLACEHOLDER_LABEL))


def _has_no_place(pod: Pod) -> bool:
    """Whether kube-scheduler said that no node fits; a pod that waits behind a gate asks for no node."""
    conditions = pod.status.conditions or ()
    return not pod.terminating and any(
        found.type == "PodScheduled" and found.status == "False" and found.reason == "Unschedulable"
        for found in conditions
    )
