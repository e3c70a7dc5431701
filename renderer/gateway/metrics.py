"""The gateway's own metrics, one set a process; the names are those of fleet.metrics."""

from __future__ import annotations

from typing import TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fleet import metrics as names
from fleet.metrics import Metric

UNKNOWN_SCENE = "_unknown"  # no scene id begins with `_`
MAX_SCENE_LABELS = 1000

Family = TypeVar("Family", Counter, Gauge)


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
        self.wait_s = self._histogram(names.GATEWAY_WAIT_SECONDS)
        self.frame_s = self._histogram(names.GATEWAY_FRAME_SECONDS)
        self._scene_labels: set[str] = set()

    def text(self) -> bytes:
        """The exposition of all of them."""
        return prometheus_client.generate_latest(self.registry)

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
