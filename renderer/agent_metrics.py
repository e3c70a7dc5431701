"""The scene agent's own metrics; the names are those of fleet.metrics."""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fleet import metrics as names
from fleet.metrics import Metric


class AgentMetrics:
    """Counters and gauges of one agent in a registry of their own; every series is there from the start."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        seconds = names.AGENT_FETCH_SECONDS
        self.fetch_s = Histogram(seconds.name, seconds.help, buckets=seconds.buckets, registry=self.registry)
        self.asks = Gauge(*_words(names.AGENT_ASKS), registry=self.registry)
        self.fetched_bytes = Counter(*_words(names.AGENT_FETCHED_BYTES), registry=self.registry)
        self.fetches = Counter(*_words(names.AGENT_FETCHES), registry=self.registry)
        self.deadlines = Counter(*_words(names.AGENT_DEADLINES), registry=self.registry)
        self.served_bytes = Counter(*_words(names.AGENT_SERVED_BYTES), registry=self.registry)
        self.requests = Counter(*_words(names.AGENT_REQUESTS), registry=self.registry)
        self.quarantined = Counter(*_words(names.AGENT_QUARANTINED), registry=self.registry)
        self.preloads = Counter(*_words(names.AGENT_PRELOADS), registry=self.registry)
        for family, values in (
            (self.fetched_bytes, ("remote", "peer")),
            (self.fetches, ("stored", "failed", "paused", "dropped")),
            (self.deadlines, ("met", "missed")),
        ):
            for value in values:
                family.labels(value)

    def text(self) -> bytes:
        """The exposition of all of them."""
        return prometheus_client.generate_latest(self.registry)


def _words(metric: Metric) -> tuple[str, str, tuple[str, ...]]:
    return (metric.name, metric.help, metric.labels)
