"""What reflectors say of themselves, as metrics of whoever holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet import metrics
from kube.reflector import Counts, Reflector


class WatchCollector(Collector):
    """One series per resource; `reflectors` is asked at each scrape, since a watch may start later."""

    def __init__(self, reflectors: Callable[[], Iterable[Reflector[Any]]]) -> None:
        self._reflectors = reflectors

    def describe(self) -> Iterable[Metric]:
        return []  # else registering would collect before there is anything

    def collect(self) -> Iterator[Metric]:
        reflectors = list(self._reflectors())
        synced = GaugeMetricFamily(metrics.WATCH_SYNCED.name, metrics.WATCH_SYNCED.help, labels=("resource",))
        age = GaugeMetricFamily(metrics.WATCH_AGE.name, metrics.WATCH_AGE.help, labels=("resource",))
        for reflector in reflectors:
            synced.add_metric([reflector.resource.plural], float(reflector.has_synced))
            age_s = reflector.event_age_s
            if age_s is not None:  # before the first list there is no age
                age.add_metric([reflector.resource.plural], age_s)
        yield synced
        yield age
        yield _counter(metrics.WATCH_FAILURES, reflectors, lambda counts: counts.failures)
        yield _counter(metrics.WATCH_EXPIRED, reflectors, lambda counts: counts.expired)
        yield _counter(metrics.WATCH_SKIPPED, reflectors, lambda counts: counts.skipped)


def _counter(metric: metrics.Metric, reflectors: list[Reflector[Any]], value: Callable[[Counts], int]) -> Metric:
    family = CounterMetricFamily(metric.name, metric.help, labels=("resource",))
    for reflector in reflectors:
        family.add_metric([reflector.resource.plural], value(reflector.counts))
    return family
