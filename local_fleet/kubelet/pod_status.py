"""The status that a kubelet writes about a pod, from what its containers do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(slots=True)
class ContainerView:
    """One container as the API shows it; the time of its state is seconds since 1970."""

    name: str
    image: str
    state: str = "waiting"  # waiting, running or terminated
    reason: str = "ContainerCreating"
    message: str = ""
    since_s: float = 0.0
    exit_code: int = 0
    ready: bool = False
    started: bool = False
    restarts: int = 0
    last_exit: Mapping[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        state: dict[str, Any]
        match self.state:
            case "running":
                state = {"running": {"startedAt": written(self.since_s)}}
            case "terminated":
                state = {"terminated": self.termination()}
            case _:
                state = {"waiting": {"reason": self.reason, "message": self.message}}
        return {
            "name": self.name,
            "image": self.image,
            "imageID": "",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": state,
            "lastState": {"terminated": self.last_exit} if self.last_exit else {},
        }

    def termination(self) -> dict[str, Any]:
        return {
            "exitCode": self.exit_code,
            "reason": self.reason,
            "message": self.message,
            "finishedAt": written(self.since_s),
        }


@dataclass(slots=True)
class Conditions:
    """Conditions with the moment of their last change."""

    since_s: dict[str, tuple[str, float]] = field(default_factory=dict)

    def document(self, now_s: float, values: Mapping[str, tuple[bool, str]]) -> list[dict[str, Any]]:
        """`values` is (holds, reason) by type."""
        told = []
        for kind, (holds, reason) in values.items():
            status = "True" if holds else "False"
            if self.since_s.get(kind, ("", 0.0))[0] != status:
                self.since_s[kind] = (status, now_s)
            moment_s = self.since_s[kind][1]
            told.append({"type": kind, "status": status, "reason": reason, "lastTransitionTime": written(moment_s)})
        return told


def pod_status(
    conditions: Conditions,
    now_s: float,
    phase: str,
    containers: tuple[Sequence[ContainerView], Sequence[ContainerView]],
    addresses: tuple[str, str],
) -> dict[str, Any]:
    """The status of a pod; `containers` are its own and its init ones, `addresses` its own and its node's.

    The first address is empty until it has one.
    """
    views, before = containers
    ready = phase == "Running" and all(view.ready for view in views)
    why = "" if ready else "PodCompleted" if phase == "Succeeded" else "ContainersNotReady"
    pod_ip, node_ip = addresses
    created = bool(pod_ip)
    return {
        "phase": phase,
        "hostIP": node_ip,
        "podIP": pod_ip or None,
        "podIPs": [{"ip": pod_ip}] if pod_ip else None,
        "conditions": conditions.document(
            now_s,
            {
                "PodReadyToStartContainers": (created, ""),
                "Initialized": (created and all(view.started or view.state == "terminated" for view in before), ""),
                "ContainersReady": (ready, why),
                "Ready": (ready, why),
            },
        ),
        "containerStatuses": [view.document() for view in views],
        **({"initContainerStatuses": [view.document() for view in before]} if before else {}),
    }


def written(moment_s: float) -> str:
    """Seconds since 1970 as the API writes them."""
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
