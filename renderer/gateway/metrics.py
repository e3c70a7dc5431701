"""The gateway's own metrics, one set a process; the names are those of fleet.metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fleet import metrics as names
from fleet.metrics import Metric
from renderer.gateway.wire import Refusal

UNKNOWN_SCENE = "_unknown"  # no scene id begins with `_`
MAX_SCENE_LABELS = 1000

Family = TypeVar("Family", Counter, Gauge)


@dataclass(frozen=True, slots=True)
class Taken:
    """How long a frame took, seconds."""

    frame_s: float  # from the arrival at the gateway until it was sent
    service_s: float  # render and encode, as the pod says, without a load
    wait_s: float  # the rest

    @classmethod
    def of(cls, stats: Mapping[str, Any], frame_s: float) -> Taken:
        """Out of the pod's STATS and the time that the whole took."""
        service_s = max(0.0, float(stats.get("service_s") or 0.0) - float(stats.get("load_s") or 0.0))
        return cls(frame_s, service_s, max(0.0, frame_s - service_s))


class GatewayMetrics:
    """Counters, gauges and histograms of the gateway in a registry of their own."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.requests = self._make(Counter, names.GATEWAY_REQUESTS)
        self.responses = self._make(Counter, names.GATEWAY_RESPONSES)
        self.cold_requests = self._make(Counter, names.GATEWAY_COLD_REQUESTS)
        self.pending = self._make(Gauge, names.GATEWAY_PENDING)
        self.in_flight = self._make(Gauge, names.GATEWAY_IN_FLIGHT)
        self.pods = self._make(Gauge, names.GATEWAY_PODS)
        self.sessions = self._make(Gauge, names.GATEWAY_SESSIONS)
        self.superseded = self._make(Counter, names.GATEWAY_SUPERSEDED)
        self.refusals = self._make(Counter, names.GATEWAY_REFUSALS)
        self.frame_bytes = self._make(Counter, names.GATEWAY_FRAME_BYTES)
        self.wait_s = self._histogram(names.GATEWAY_WAIT_SECONDS)
        self.frame_s = self._histogram(names.GATEWAY_FRAME_SECONDS)
        self._scene_labels: set[str] = set()

    def text(self) -> bytes:
        """The exposition of all of them."""
        return prometheus_client.generate_latest(self.registry)

    def answered(self, pool: str, taken: Taken, picture_bytes: int) -> None:
        """A frame went out."""
        self.responses.labels(pool, 200).inc()
        self.wait_s.labels(pool).observe(taken.wait_s)
        self.frame_s.labels(pool).observe(taken.frame_s)
        self.frame_bytes.labels(pool).inc(picture_bytes)

    def refused(self, pool: str, refusal: Refusal) -> None:
        """A request got no frame."""
        self.responses.labels(pool, refusal.status).inc()
        self.refusals.labels(pool, refusal.code).inc()
        if refusal.code == "superseded":
            self.superseded.labels(pool).inc()

    def scene_label(self, scene: str) -> str:
        """The scene as a label value; beyond a thousand of them the rest share one."""
        if scene not in self._scene_labels:
            if len(self._scene_labels) >= MAX_SCENE_LABELS:
                return UNKNOWN_SCENE
            self._scene_labels.add(scene)
        return scene

    def _make(self, kind: type[Family], metric: Metric) -> Family:
        return kind(metric.name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry)
