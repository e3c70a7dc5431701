"""What is known of a cluster and of our place in it, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from autoscaler.cost import CostBook
from autoscaler.pod_stages import Startup
from fleet import metrics


class KubernetesMetrics:
    """Reads leadership and the ages of the watches when it is scraped."""

    def __init__(
        self,
        registry: CollectorRegistry,
        leads: Callable[[], bool],
        ages_s: Callable[[], dict[str, float]],
        warm_failed: Callable[[], int],
        cost: CostBook,
    ) -> None:
        self._leads = leads
        self._ages_s = ages_s
        self._warm_failed = warm_failed
        self._cost = cost
        starts = metrics.AUTOSCALER_STARTUP_SECONDS
        self._starts = Histogram(starts.name, starts.help, starts.labels, registry=registry, buckets=starts.buckets)
        registry.register(self)

    def startup(self, start: Startup) -> None:
        """One pod became ready."""
        for stage, seconds in {**start.stages(), "total": start.total_s}.items():
            self._starts.labels(start.pool, stage).observe(seconds)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        leader, age, failed = metrics.AUTOSCALER_LEADER, metrics.AUTOSCALER_WATCH_AGE, metrics.AUTOSCALER_WARM_FAILED
        yield GaugeMetricFamily(leader.name, leader.help, value=float(self._leads()))
        ages = GaugeMetricFamily(age.name, age.help, labels=age.labels)
        for resource, seconds in self._ages_s().items():
            ages.add_metric((resource,), seconds)
        yield ages
        yield CounterMetricFamily(failed.name.removesuffix("_total"), failed.help, value=float(self._warm_failed()))
        yield from self._costs()

    def _costs(self) -> Iterable[Metric]:
        found = ((metrics.COST_SLICE_SECONDS, dict(self._cost.slice_seconds)), (metrics.COST_MONEY, self._cost.money()))
        for metric, sums in found:
            family = CounterMetricFamily(metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
            for holder, total in sums.items():
                use = "allocated" if holder.pool else "idle"
                family.add_metric((use, holder.pool, holder.namespace, holder.capacity_type), total)
            yield family
