"""The decisions as Prometheus metrics, by the names of fleet.metrics, and the HTTP front that serves them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from autoscaler.decision import Decision, Reason
from fleet import metrics


class DecisionMetrics:
    """A registry of its own, so that two autoscalers in one process do not mix."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would be metrics of no catalogue
        self.registry = CollectorRegistry()
        self._gauges = {
            metric.name: Gauge(metric.name, metric.help, metric.labels, registry=self.registry)
            for metric in (
                metrics.AUTOSCALER_DESIRED,
                metrics.AUTOSCALER_CURRENT,
                metrics.AUTOSCALER_FLOOR,
                metrics.AUTOSCALER_FORECAST,
                metrics.AUTOSCALER_DEMAND,
                metrics.AUTOSCALER_COVERAGE,
                metrics.AUTOSCALER_SKILL,
                metrics.AUTOSCALER_WEIGHT,
                metrics.AUTOSCALER_LEAD,
            )
        }
        self._decisions = _counter(metrics.AUTOSCALER_DECISIONS, self.registry)
        self._asks = _counter(metrics.AUTOSCALER_WARM_ASKS, self.registry)
        self._places: dict[str, int] = {}  # on nodes, by pool, that the last decision asked for
        tick = metrics.AUTOSCALER_TICK_SECONDS
        self._tick = Histogram(tick.name, tick.help, registry=self.registry, buckets=tick.buckets)

    def record(self, decisions: Sequence[Decision], tick_s: float) -> None:
        """Take over the decisions of one tick; what is not known, and pools that are gone, are removed, never 0."""
        self._tick.observe(tick_s)
        for decision in decisions:
            for reason in Reason:  # every known label value from the start
                self._decisions.labels(decision.pool, reason.value)
            self._decisions.labels(decision.pool, decision.reason.value).inc()
            for ask in decision.warm:
                self._asks.labels(decision.pool, ask.stage).inc()
            places, before = decision.places.count if decision.places else 0, self._places.get(decision.pool, 0)
            if places > before:
                self._asks.labels(decision.pool, "node").inc(places - before)
            self._places[decision.pool] = places
        self._record_gauges(decisions)
        self._forget_all_but({decision.pool for decision in decisions})

    def _record_gauges(self, decisions: Sequence[Decision]) -> None:
        """Set every series that is known, and remove all others."""
        known: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in self._gauges}
        for decision in decisions:
            for metric, value, *labels in _numbers(decision):
                if value is not None:
                    known[metric.name][decision.pool, *labels] = value
        for name, gauge in self._gauges.items():
            for series, value in known[name].items():
                gauge.labels(*series).set(value)
            for gone in gauge._metrics.keys() - known[name].keys():
                gauge.remove(*gone)

    def _forget_all_but(self, pools: set[str]) -> None:
        for counter in (self._decisions, self._asks):
            for series in [series for series in counter._metrics if series[0] not in pools]:
                counter.remove(*series)
        for pool in self._places.keys() - pools:
            del self._places[pool]


def _numbers(decision: Decision) -> Iterator[tuple[metrics.Metric, float | None, *tuple[str, ...]]]:
    """Each number of a decision with its metric and the labels beside the pool; None: not known."""
    view = decision.forecast
    yield metrics.AUTOSCALER_DESIRED, decision.replicas
    yield metrics.AUTOSCALER_CURRENT, decision.current
    yield metrics.AUTOSCALER_FLOOR, decision.floor
    yield metrics.AUTOSCALER_LEAD, decision.lead_s
    yield metrics.AUTOSCALER_DEMAND, decision.demand_per_s
    if view is None:
        return
    yield metrics.AUTOSCALER_COVERAGE, view.coverage
    yield metrics.AUTOSCALER_SKILL, view.skill
    for level, value in view.quantiles.items():
        yield metrics.AUTOSCALER_FORECAST, value, f"{level:g}"
    for expert, weight in view.weights.items():
        yield metrics.AUTOSCALER_WEIGHT, weight, expert


def _counter(metric: metrics.Metric, registry: CollectorRegistry) -> Counter:
    return Counter(metric.name.removesuffix("_total"), metric.help, metric.labels, registry=registry)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a probe that gave up is no news
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class StatusServer:
    """`/metrics`, `/-/healthy` (the loop ticks) and `/-/ready` (there was a tick), in a thread of its own."""

    def __init__(
        self,
        address: tuple[str, int],
        registry: CollectorRegistry,
        healthy: Callable[[], bool],
        ready: Callable[[], bool],
    ) -> None:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                    self._send(200, encode(registry), content_type)
                elif path in ("/-/healthy", "/-/ready"):
                    good = healthy() if path == "/-/healthy" else ready()
                    self._send(200 if good else 503, b"ok\n" if good else b"not yet\n", "text/plain; charset=utf-8")
                else:
                    self._send(404, b"see /metrics, /-/healthy, /-/ready\n", "text/plain; charset=utf-8")

            def _send(self, status: int, body: bytes, content_type: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                del format, args  # a scrape every few seconds is no news

        self._server = _Server(address, Answer)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True, name="status-server")
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
