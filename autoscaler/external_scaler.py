"""KEDA's external scaler: decisions over gRPC, to be carried out by the HPA that KEDA makes.

KEDA turns a value that is nan or negative into 0, and a 0 that nobody meant takes every pod away; so what is not
known is a gRPC error here, on which an HPA holds and KEDA's fallback acts.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, Counter, Gauge

from autoscaler.answers import HPA_TOLERANCE, METRIC, TARGET, Answers, NoAnswer, served_replicas
from autoscaler.decision import Decision
from autoscaler.keda import externalscaler_pb2 as messages
from autoscaler.keda import externalscaler_pb2_grpc as service
from autoscaler.keda.certificates import reloading_credentials
from fleet import metrics
from kube.tls import TlsFiles

SERVICE = "externalscaler.ExternalScaler"
OWN_KEYS = frozenset({"pool", "tolerance"})
KEDA_KEYS = frozenset({"scalerAddress", "enableTLS", "unsafeSsl", "caCert", "tlsClientCert", "tlsClientKey"})
HEALTH_EVERY_S = 1.0
MAX_MESSAGE_BYTES = 256 * 1024

_CODES = {
    "not_ready": grpc.StatusCode.UNAVAILABLE,
    "stale": grpc.StatusCode.UNAVAILABLE,
    "no_data": grpc.StatusCode.UNAVAILABLE,
    "unknown_pool": grpc.StatusCode.NOT_FOUND,
}


class BadMetadata(ValueError):
    """Trigger metadata that cannot be used; names the key, the value and the fix."""


class _Scaler(service.ExternalScalerServicer):
    """Answers from memory; `changed` is set and replaced whenever something was posted."""

    def __init__(self, answers: Answers, requests: Counter) -> None:
        self._answers = answers
        self._requests = requests
        self.changed = asyncio.Event()

    async def IsActive(
        self, request: messages.ScaledObjectRef, context: grpc.aio.ServicerContext
    ) -> messages.IsActiveResponse:
        decision, _ = await self._decide("IsActive", request, context)
        return messages.IsActiveResponse(result=decision.replicas > 0)

    async def StreamIsActive(
        self, request: messages.ScaledObjectRef, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[messages.IsActiveResponse]:
        """The state at once and whenever it changes; while it is not known nothing is sent."""
        told: bool | None = None
        while True:
            changed = self.changed
            try:
                pool, _ = read_metadata(request.scalerMetadata)
                active = self._answers.decision(pool, time.monotonic()).replicas > 0
            except BadMetadata as error:
                await self._abort("StreamIsActive", context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except NoAnswer as error:
                if error.cause == "unknown_pool":
                    await self._abort("StreamIsActive", context, _CODES[error.cause], str(error))
            else:
                if active != told:
                    self._requests.labels("StreamIsActive", "OK").inc()
                    yield messages.IsActiveResponse(result=active)
                    told = active
            await changed.wait()

    async def GetMetricSpec(
        self, request: messages.ScaledObjectRef, context: grpc.aio.ServicerContext
    ) -> messages.GetMetricSpecResponse:
        await self._check("GetMetricSpec", request, context)
        self._requests.labels("GetMetricSpec", "OK").inc()
        return _spec()

    async def StreamMetricSpec(
        self, request: messages.ScaledObjectRef, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[messages.GetMetricSpecResponse]:
        """The target at once; it never changes, so the stream then stays open."""
        await self._check("StreamMetricSpec", request, context)
        self._requests.labels("StreamMetricSpec", "OK").inc()
        yield _spec()
        await asyncio.Event().wait()

    async def GetMetrics(
        self, request: messages.GetMetricsRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetMetricsResponse:
        if request.metricName != METRIC:
            text = f"metricName is {request.metricName!r}, expected {METRIC}"
            await self._abort("GetMetrics", context, grpc.StatusCode.INVALID_ARGUMENT, text)
        decision, tolerance = await self._decide("GetMetrics", request.scaledObjectRef, context)
        count = served_replicas(decision.replicas, decision.current, tolerance)
        value = messages.MetricValue(metricName=METRIC, metricValue=count, metricValueFloat=float(count))
        return messages.GetMetricsResponse(metricValues=[value])

    async def _check(
        self, verb: str, request: messages.ScaledObjectRef, context: grpc.aio.ServicerContext
    ) -> tuple[str, float]:
        try:
            return read_metadata(request.scalerMetadata)
        except BadMetadata as error:
            await self._abort(verb, context, grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _decide(
        self, verb: str, request: messages.ScaledObjectRef, context: grpc.aio.ServicerContext
    ) -> tuple[Decision, float]:
        pool, tolerance = await self._check(verb, request, context)
        try:
            decision = self._answers.decision(pool, time.monotonic())
        except NoAnswer as error:
            await self._abort(verb, context, _CODES[error.cause], str(error))
        self._requests.labels(verb, "OK").inc()
        return decision, tolerance

    async def _abort(self, verb: str, context: grpc.aio.ServicerContext, code: grpc.StatusCode, text: str) -> NoReturn:
        self._requests.labels(verb, code.name).inc()
        await context.abort(code, text)
        raise AssertionError("abort raises")


def read_metadata(plain: Mapping[str, str]) -> tuple[str, float]:
    """Pool and tolerance of a trigger; raises BadMetadata. KEDA sends its own keys as well."""
    unknown = sorted(set(plain) - OWN_KEYS - KEDA_KEYS)
    if unknown:
        known = ", ".join(sorted(OWN_KEYS))
        raise BadMetadata(f"metadata {unknown[0]} does not exist; known: {known}")
    pool = plain.get("pool", "")
    if not pool:
        raise BadMetadata("metadata pool is missing, expected the name of the pool as on its metrics (pool: renderer)")
    text = plain.get("tolerance", str(HPA_TOLERANCE))
    try:
        tolerance = float(text)
    except ValueError:
        tolerance = -1.0
    if not 0.0 <= tolerance < 1.0:
        raise BadMetadata(f"metadata tolerance is {text!r}, expected the HPA's own, 0 or more and below 1 (0.1)")
    return pool, tolerance


def _spec() -> messages.GetMetricSpecResponse:
    spec = messages.MetricSpec(metricName=METRIC, targetSize=TARGET, targetSizeFloat=float(TARGET))
    return messages.GetMetricSpecResponse(metricSpecs=[spec])


class ExternalScalerServer:
    """The gRPC server in a thread and a loop of its own; `post` may come from any thread."""

    def __init__(
        self,
        listen: tuple[str, int],
        fresh_s: float,
        registry: CollectorRegistry,
        certificates: TlsFiles | None = None,
    ) -> None:
        """Raises TlsError, and OSError where the address cannot be had."""
        self._answers = Answers(fresh_s)
        metric = metrics.AUTOSCALER_KEDA_REQUESTS
        self._requests = Counter(metric.name.removesuffix("_total"), metric.help, metric.labels, registry=registry)
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._scaler: _Scaler | None = None
        self.port = 0
        credentials = None
        if certificates is not None:
            credentials = reloading_credentials(certificates)
            expiry = metrics.KEDA_CERTIFICATE_NOT_AFTER
            Gauge(expiry.name, expiry.help, registry=registry).set_function(certificates.not_after_s)
        started: list[BaseException | None] = []
        ready = threading.Event()

        def report(error: BaseException | None) -> None:
            started.append(error)
            ready.set()

        self._thread = threading.Thread(
            target=lambda: self._loop.run_until_complete(self._serve(listen, credentials, report)),
            daemon=True,
            name="external-scaler",
        )
        self._thread.start()
        ready.wait()
        if started[0] is not None:
            self._thread.join()
            raise started[0]

    def post(self, decisions: Sequence[Decision]) -> None:
        """Take over the decisions of one tick."""
        self._answers.post(decisions, time.monotonic())
        self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """Refuse new calls, end the streams, and wait."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout=5.0)

    def _wake(self) -> None:
        if self._scaler is not None:
            before, self._scaler.changed = self._scaler.changed, asyncio.Event()
            before.set()

    async def _serve(
        self,
        listen: tuple[str, int],
        credentials: grpc.ServerCredentials | None,
        report: Callable[[BaseException | None], None],
    ) -> None:
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        self._scaler = _Scaler(self._answers, self._requests)
        service.add_ExternalScalerServicer_to_server(self._scaler, server)  # type: ignore[no-untyped-call]
        healths = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healths, server)
        await self._tell_health(healths)
        host, port = listen
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            add = server.add_secure_port if credentials is not None else server.add_insecure_port
            self.port = add(*((address, credentials) if credentials is not None else (address,)))
            await server.start()
        except RuntimeError as error:
            report(OSError(f"{address} cannot be listened on: {error}"))
            return
        report(None)
        while not self._stopping.is_set():
            await self._tell_health(healths)
            try:
                await asyncio.wait_for(self._stopping.wait(), HEALTH_EVERY_S)
            except TimeoutError:
                continue
        await server.stop(grace=0.2)

    async def _tell_health(self, healths: health.aio.HealthServicer) -> None:
        good = self._answers.fresh(time.monotonic())
        status = health_pb2.HealthCheckResponse.SERVING if good else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            await healths.set(name, status)
