"""The verbs over HTTP. filter, prioritize and pod events take the raw body; whatever goes wrong, kube-scheduler gets an
answer that leaves it as it would be without us, and a metric says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from scheduler_extender import wire
from scheduler_extender.cluster import Cluster, Decision
from scheduler_extender.explanation import Explanations, best_lines, explain
from scheduler_extender.observability import ExtenderMetrics
from scheduler_extender.placement import FITS, REASONS
from scheduler_extender.state import DigestPoller

JSON = "application/json"
log = structlog.get_logger()


class BodyError(ValueError):
    """A body that was too large or too slow to be read."""


@dataclass(slots=True)
class Extender:
    """What the routes share."""

    cluster: Cluster
    poller: DigestPoller
    clock: Callable[[], float] = time.monotonic
    most_body_bytes: int = 16 << 20
    body_deadline_s: float = 2.0
    explanations: Explanations = field(default_factory=Explanations)
    metrics: ExtenderMetrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = ExtenderMetrics(self.cluster, self.clock)

    async def body_of(self, request: Request) -> bytes:
        """The body within its bounds; raises BodyError."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.body_deadline_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self.most_body_bytes:
                        raise BodyError(
                            f"body is over {self.most_body_bytes} bytes: set nodeCacheCapable: true, so that "
                            "kube-scheduler sends names only"
                        )
        except TimeoutError as error:
            raise BodyError(f"body did not arrive within {self.body_deadline_s} s") from error
        return bytes(body)

    def filter(self, args: wire.Args) -> bytes:
        """All nodes that fit, and a reason for each that does not; changes nothing."""
        assert args.pod is not None
        self.cluster.expire(self.clock())
        verdict = self.cluster.fit(args.pod, args.names)
        failed: dict[str, str] = {}
        unresolvable: dict[str, str] = {}
        if (verdict != FITS).any():
            for index, name in zip(verdict.tolist(), args.names, strict=True):
                if index != FITS:
                    reason = REASONS[index]
                    (failed if reason.resolvable else unresolvable)[name] = f"splatfleet {reason.label}: {reason.text}"
            for index, reason in enumerate(REASONS):
                count = int((verdict == index).sum())
                if count:
                    self.metrics.rejections.labels(reason.label).inc(count)
        return wire.encode_filter(args, failed, unresolvable)

    def prioritize(self, args: wire.Args) -> bytes:
        """A score for every node sent, and a soft reservation on the one that should win."""
        assert args.pod is not None
        started_s = time.perf_counter()
        now_s = self.clock()
        self.cluster.expire(now_s)
        decision = self.cluster.decide(args.pod, args.names, now_s)
        answer = wire.encode_scores(args.names, decision.scores.tolist())
        self.cluster.reserve(decision, now_s)
        self.explanations.keep(decision)
        self._log(decision, time.perf_counter() - started_s)
        return answer

    def apply(self, event: wire.PodEvent) -> None:
        """Take what a pod watch said, and count where bound pods found their scenes."""
        now_s = self.clock()
        match event.type:
            case "DELETED":
                for pod in event.pods:
                    self.cluster.remove_pod(pod.uid, now_s)
                return
            case "LIST":
                bound = self.cluster.set_pods(event.pods, now_s)
            case _:
                bound = [seen for pod in event.pods if (seen := self.cluster.set_pod(pod, now_s)) is not None]
        for seen in bound:
            self.metrics.placements.labels(seen.tier).inc()

    def _log(self, decision: Decision, took_s: float) -> None:
        pod = decision.pod
        log.info(
            "prioritized",
            uid=pod.uid,
            pod=f"{pod.namespace}/{pod.name}",
            pool=pod.pool,
            scenes=list(pod.scenes),
            profiles=[str(profile) for profile in pod.profiles],
            problems=list(pod.problems),
            nodes=len(decision.names),
            winner=decision.winner,
            best=best_lines(decision, 3),
            took_s=round(took_s, 6),
        )


def make_app(extender: Extender) -> FastAPI:
    """The application; its life is also that of the digest poller."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        polling = asyncio.create_task(extender.poller.run())
        try:
            yield
        finally:
            polling.cancel()
            with suppress(asyncio.CancelledError):
                await polling

    app = FastAPI(title="Splatfleet scheduler extender", docs_url=None, redoc_url=None, lifespan=lifespan)
    # Routes of the router itself: the verbs skip FastAPI's parameters and models.
    app.router.add_route("/filter", _verb(extender, "filter", extender.filter), methods=["POST"])
    app.router.add_route("/prioritize", _verb(extender, "prioritize", extender.prioritize), methods=["POST"])
    app.router.add_route("/v1/pod-events", _pod_events(extender), methods=["POST"])
    app.router.add_route("/explain", _explain(extender), methods=["GET", "POST"])

    # All routes are coroutines: the cluster changes on the event loop alone.
    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(extender.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/-/healthy")
    async def healthy() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/-/ready")
    async def ready() -> JSONResponse:
        """Ready once every configured digest was asked for once; a node that did not answer is cold, not an error."""
        waiting = sorted(extender.poller.urls.keys() - extender.poller.tried)
        return JSONResponse({"ready": not waiting, "waiting_for": waiting[:20]}, 503 if waiting else 200)

    return app


def _verb(
    extender: Extender, verb: str, answer: Callable[[wire.Args], bytes]
) -> Callable[[Request], Awaitable[Response]]:
    """A route that answers 200 whatever happens: kube-scheduler drops the text of any other status."""
    seconds = extender.metrics.seconds.labels(verb)

    def refused(error: Exception) -> bytes:
        return wire.encode_refusal(str(error)) if verb == "filter" else b"[]"

    def opened(args: wire.Args) -> bytes:
        return wire.encode_filter(args, {}, {}) if verb == "filter" else b"[]"

    async def route(request: Request) -> Response:
        started_s = time.perf_counter()
        outcome = "ok"
        headers = {}
        try:
            args = wire.decode_args(await extender.body_of(request))
        except (wire.WireError, BodyError) as error:
            outcome = "bad_request"
            log.warning("bad request", verb=verb, error=str(error))
            content = refused(error)
            headers = {"Connection": "close"}  # the rest of a body that we would not read may still be coming
        else:
            try:
                if args.pod is None:
                    outcome = "fail_open"
                    log.warning("pod cannot be read", verb=verb, error=args.problem)
                    content = opened(args)
                else:
                    content = answer(args)
            except Exception:
                outcome = "fail_open"
                log.exception("verb failed", verb=verb)
                content = opened(args)
        extender.metrics.requests.labels(verb, outcome).inc()
        seconds.observe(time.perf_counter() - started_s)
        return Response(content, media_type=JSON, headers=headers)

    return route


def _pod_events(extender: Extender) -> Callable[[Request], Awaitable[Response]]:
    async def route(request: Request) -> Response:
        try:
            events = wire.decode_events(await extender.body_of(request))
        except (wire.WireError, BodyError) as error:
            return JSONResponse({"error": str(error)}, 400)
        for event in events:
            extender.apply(event)
        return JSONResponse({"events": len(events)})

    return route


def _explain(extender: Extender) -> Callable[[Request], Awaitable[Response]]:
    """POST ExtenderArgs: what prioritize would answer, term by term. GET ?uid=UID: what it answered last."""

    async def route(request: Request) -> Response:
        try:
            body = await extender.body_of(request)
            if not body:
                uid = request.query_params.get("uid", "")
                kept = extender.explanations.get(uid)
                if kept is None:
                    return JSONResponse({"error": f"no decision is remembered for uid {uid[:80]!r}"}, 404)
                return JSONResponse(explain(kept, extender.cluster))
            args = wire.decode_args(body)
            if args.pod is None:
                raise wire.WireError(args.problem)
        except (wire.WireError, BodyError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(explain(extender.cluster.decide(args.pod, args.names, extender.clock()), extender.cluster))

    return route
