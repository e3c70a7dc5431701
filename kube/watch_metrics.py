"""What reflectors say of themselves, as metrics of whoever holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet import metrics
from kube.reflector import Counts, Reflector


class WatchCollector(Collector):
    """One series per resource: of two watches of one, the worse or the sum.

    `reflectors` is asked at each scrape, since a watch may start later.
    """

    def __init__(self, reflectors: Callable[[], Iterable[Reflector[Any]]]) -> None:
        self._reflectors = reflectors

    def describe(self) -> Iterable[Metric]:
        return []  # else registering would collect before there is anything

    def collect(self) -> Iterator[Metric]:
        by_resource: dict[str, list[Reflector[Any]]] = {}
        for reflector in self._reflectors():
            by_resource.setdefault(reflector.resource.plural, []).append(reflector)
        synced = GaugeMetricFamily(metrics.WATCH_SYNCED.name, metrics.WATCH_SYNCED.help, labels=("resource",))
        age = GaugeMetricFamily(metrics.WATCH_AGE.name, metrics.WATCH_AGE.help, labels=("resource",))
        for name, watches in by_resource.items():
            synced.add_metric([name], float(all(reflector.has_synced for reflector in watches)))
            ages_s = [age_s for reflector in watches if (age_s := reflector.event_age_s) is not None]
            if ages_s:  # before the first list there is no age
                age.add_metric([name], max(ages_s))
        yield synced
        yield age
        yield _counter(metrics.WATCH_FAILURES, by_resource, lambda counts: counts.failures)
        yield _counter(metrics.WATCH_EXPIRED, by_resource, lambda counts: counts.expired)
        yield _counter(metrics.WATCH_SKIPPED, by_resource, lambda counts: counts.skipped)


def _counter(
    metric: metrics.Metric, by_resource: Mapping[str, Sequence[Reflector[Any]]], value: Callable[[Counts], int]
) -> Metric:
    family = CounterMetricFamily(metric.name, metric.help, labels=("resource",))
    for name, watches in by_resource.items():
        family.add_metric([name], sum(value(reflector.counts) for reflector in watches))
    return family
