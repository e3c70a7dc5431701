"""Events about objects, as `kubectl describe` shows them: told once, then counted."""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from kube.connection import Connection
from kube.errors import KubeError, Refused
from kube.objects import Object, Resource
from kube.writes import create, patch

EVENTS = Resource("v1", "events", Object)
SAME_WITHIN_S = 600.0
KEPT_MOST = 4096
DEADLINE_S = 3.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reference:
    """What an Event is about."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""
    uid: str = ""

    def document(self) -> dict[str, str]:
        fields = {"apiVersion": self.api_version, "kind": self.kind, "name": self.name}
        return fields | {key: value for key, value in (("namespace", self.namespace), ("uid", self.uid)) if value}


@dataclass(slots=True)
class _Told:
    name: str
    count: int
    last_s: float


class EventRecorder:
    """Writes Events in the name of `component`. A write that fails is counted and logged; the caller goes on."""

    def __init__(self, connection: Connection, component: str, instance: str = "") -> None:
        self.failed = 0
        self._connection = connection
        self._component = component
        self._instance = instance or component
        self._told: OrderedDict[tuple[Reference, str, str], _Told] = OrderedDict()
        self._lock = threading.Lock()

    def record(
        self, about: Reference, reason: str, message: str, kind: Literal["Normal", "Warning"] = "Normal"
    ) -> None:
        """One Event; the same words about the same object within ten minutes raise its count instead."""
        namespace = about.namespace or "default"
        with self._lock:
            try:
                self._record(namespace, about, reason, message, kind)
            except KubeError as error:
                self.failed += 1
                log.warning("event not written", reason=reason, about=about.name, error=str(error))

    def _record(self, namespace: str, about: Reference, reason: str, message: str, kind: str) -> None:
        key, now_s = (about, reason, message), time.monotonic()
        told = self._told.get(key)
        if told is not None and now_s - told.last_s < SAME_WITHIN_S:
            told.count, told.last_s = told.count + 1, now_s
            try:
                change = {"count": told.count, "lastTimestamp": _now()}
                patch(self._connection, EVENTS.path(namespace, told.name), change, DEADLINE_S)
                return
            except Refused as error:
                if not error.absent:  # the server forgets Events after an hour
                    raise
        name = f"{about.name}.{uuid.uuid4().hex[:16]}"
        create(self._connection, EVENTS, self._document(name, namespace, about, (reason, message, kind)), namespace)
        self._told[key] = _Told(name, 1, now_s)
        self._told.move_to_end(key)
        while len(self._told) > KEPT_MOST:
            self._told.popitem(last=False)

    def _document(self, name: str, namespace: str, about: Reference, words: tuple[str, str, str]) -> dict[str, Any]:
        reason, message, kind = words
        now = _now()
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": about.document(),
            "reason": reason,
            "message": message[:1024],  # the API's own bound
            "type": kind,
            "source": {"component": self._component, "host": self._instance},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
