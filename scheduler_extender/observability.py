"""The extender's metrics, with the names of fleet.metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet import metrics
from scheduler_extender.cluster import Cluster
from scheduler_extender.waiting import Waiting


class _ClusterCollector(Collector):
    """What the cluster says of itself at the moment of the scrape."""

    def __init__(self, cluster: Cluster, waiting: Waiting, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._waiting = waiting
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        return []  # else registering would collect before there is anything

    def collect(self) -> Iterable[Metric]:
        now_s = self._clock()
        self._cluster.expire(now_s)
        held = metrics.EXTENDER_RESERVATIONS
        yield GaugeMetricFamily(held.name, held.help, value=len(self._cluster.reservations))
        stranded = metrics.EXTENDER_STRANDED_SLICES
        yield GaugeMetricFamily(stranded.name, stranded.help, value=self._cluster.stranded_slices)
        without = metrics.EXTENDER_RESERVATIONS_WITHOUT_POD
        yield GaugeMetricFamily(without.name, without.help, value=self._cluster.reservations_without_pod)
        leaked = metrics.EXTENDER_RESERVATION_LEAKS
        yield CounterMetricFamily(leaked.name, leaked.help, value=self._cluster.reservations.expired)
        waiting = metrics.EXTENDER_WAITING
        yield GaugeMetricFamily(waiting.name, waiting.help, value=len(self._waiting))
        age = metrics.EXTENDER_DIGEST_AGE
        ages = GaugeMetricFamily(age.name, age.help, labels=age.labels)
        for name, row in self._cluster.table.rows.items():
            seen_s = float(self._cluster.table.seen_s[row])
            if not math.isnan(seen_s):  # a digest never seen has no age
                ages.add_metric([name], now_s - seen_s)
        yield ages


class ExtenderMetrics:
    """One registry per app, so that two apps in a process do not meet."""

    def __init__(self, cluster: Cluster, waiting: Waiting, clock: Callable[[], float]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # `_created` series would be metrics of no catalogue
        self.registry = CollectorRegistry()
        self.registry.register(_ClusterCollector(cluster, waiting, clock))
        self.seconds = Histogram(
            metrics.EXTENDER_SECONDS.name,
            metrics.EXTENDER_SECONDS.help,
            metrics.EXTENDER_SECONDS.labels,
            registry=self.registry,
            buckets=metrics.EXTENDER_SECONDS.buckets,
        )
        self.requests = self._counter(metrics.EXTENDER_REQUESTS)
        self.rejections = self._counter(metrics.EXTENDER_REJECTIONS)
        self.placements = self._counter(metrics.EXTENDER_PLACEMENTS)
        self.wakes = self._counter(metrics.EXTENDER_WAKES)

    def certificate_until(self, not_after_s: Callable[[], float]) -> None:
        """Say at each scrape when the certificate that is shown then expires."""
        metric = metrics.EXTENDER_CERTIFICATE_NOT_AFTER
        Gauge(metric.name, metric.help, registry=self.registry).set_function(not_after_s)

    def _counter(self, metric: metrics.Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)
