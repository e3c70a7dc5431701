"""The verbs over HTTP. filter, prioritize and pod events take the raw body; whatever goes wrong, kube-scheduler gets an
answer that leaves it as it would be without us, and a metric says so."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Generic, TypeVar

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from kube.watch_metrics import WatchCollector
from scheduler_extender import wire
from scheduler_extender.cluster import Cluster
from scheduler_extender.contest import Contest
from scheduler_extender.decision import Decision
from scheduler_extender.explanation import Explanations, best_lines, explain
from scheduler_extender.fit import FITS, REASONS
from scheduler_extender.hot_routes import HotRoutes, Route
from scheduler_extender.kubernetes import ClusterWatch
from scheduler_extender.names import kept
from scheduler_extender.observability import ExtenderMetrics
from scheduler_extender.preemption import choose
from scheduler_extender.state import DigestPoller
from scheduler_extender.waiting import Waiting

JSON = "application/json"
NODE_BOUNDS = {"100": 100, "1000": 1000, "5000": 5000}  # label -> the most nodes of a call that bears it
MORE_NODES = "more"
LOG_AFTER_S = 0.05
log = structlog.get_logger()
Args = TypeVar("Args", wire.Args, wire.PreemptArgs)


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
    watch: ClusterWatch | None = None
    contest: Contest = field(default_factory=Contest)
    explanations: Explanations = field(default_factory=Explanations)
    waiting: Waiting = field(default_factory=Waiting)
    last_call_s: float = 0.0  # on `clock`
    _decided: list[tuple[Decision, float]] = field(default_factory=list)  # and the seconds that it took
    metrics: ExtenderMetrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = ExtenderMetrics(self.cluster, self.waiting, self.clock)
        if self.watch is not None:
            watch = self.watch
            self.metrics.registry.register(WatchCollector(lambda: watch.reflectors))

    async def body_of(self, request: Request) -> bytes:
        """The body within its bounds; raises BodyError."""
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced[:18]) > self.most_body_bytes:
            raise BodyError(self._too_large())
        body = bytearray()
        try:
            async with asyncio.timeout(self.body_deadline_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self.most_body_bytes:
                        raise BodyError(self._too_large())
        except TimeoutError as error:
            raise BodyError(f"body did not arrive within {self.body_deadline_s} s") from error
        return bytes(body)

    def _too_large(self) -> str:
        return (
            f"body is over {self.most_body_bytes} bytes: set nodeCacheCapable: true, so that kube-scheduler sends "
            "names only"
        )

    def filter(self, args: wire.Args) -> bytes:
        """All nodes that fit and can win, and a reason for each that does not fit.

        Changes nothing that a decision follows from.
        """
        assert args.pod is not None
        now_s = self.clock()
        self.cluster.expire(now_s)
        verdict = self.cluster.fit(args.pod, args.names)
        failed: dict[str, str] = {}
        unresolvable: dict[str, str] = {}
        fits, left = verdict == FITS, args.names
        if not fits.all():
            left = kept(left, fits)
            for index, reason in enumerate(REASONS):
                refused = list(compress(args.names, (verdict == index).tolist()))
                if refused:
                    told = f"splatfleet {reason.label}: {reason.text}"
                    (failed if reason.resolvable else unresolvable).update(dict.fromkeys(refused, told))
                    self.metrics.rejections.labels(reason.label).inc(len(refused))
        if args.names and not left:
            self.waiting.refuse(args.pod, args.names)
        else:
            self.waiting.forget(args.pod.uid)
        if args.nodes is None and self.contest.narrows(args.pod, len(left)):
            decision = self.cluster.foresee(args.pod, left, now_s)
            contenders = self.contest.contenders(decision.scores)
            if contenders is not None:
                left = self.cluster.narrow(decision, contenders)
        elif len(left) > 1:  # else nobody will ask for scores
            # While kube-scheduler reads the answer and asks its own plugins, prices are made.
            asyncio.get_running_loop().call_soon(self.cluster.foresee, args.pod, left, now_s)
        return wire.encode_filter(args, left, failed, unresolvable)

    def prioritize(self, args: wire.Args) -> bytes:
        """A score for every node sent, and a soft reservation on the one that should win."""
        assert args.pod is not None
        started_s = time.perf_counter()
        now_s = self.clock()
        self.cluster.expire(now_s)
        decision = self.cluster.decide(args.pod, args.names, now_s)
        answer = wire.encode_scores(args.names, decision.named_scores)
        self.cluster.reserve(decision, decision.now_s)
        self.explanations.keep(decision)
        # What nobody waits for comes after the answer, and lines of the log together: the second costs half the first.
        loop = asyncio.get_running_loop()
        loop.call_soon(self.cluster.settle)
        if not self._decided:
            loop.call_later(LOG_AFTER_S, self.log_decisions)
        self._decided.append((decision, time.perf_counter() - started_s))
        return answer

    def preempt(self, args: wire.PreemptArgs) -> bytes:
        """The nodes where the pod would fit, with the victims that lose the fewest warm bytes; changes nothing."""
        assert args.pod is not None
        self.cluster.expire(self.clock())
        chosen = choose(args.pod, args.candidates, self.cluster)
        log.info(
            "preempt",
            uid=args.pod.uid,
            pod=f"{args.pod.namespace}/{args.pod.name}",
            proposed=len(args.candidates),
            chosen={name: list(candidate.victims) for name, candidate in chosen.items()},
        )
        return wire.encode_preempt(chosen)

    def apply(self, event: wire.PodEvent) -> None:
        """Take what a pod watch said, and count where bound pods found their scenes."""
        now_s = self.clock()
        for pod in event.pods:
            if event.type == "DELETED" or pod.node:
                self.waiting.forget(pod.uid)
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

    def log_decisions(self) -> None:
        """Write the lines of decisions that have none yet."""
        decided, self._decided = self._decided, []
        for decision, took_s in decided:
            self._log(decision, took_s)

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
            named=len(decision.named_scores),
            winner=decision.winner,
            best=best_lines(decision, 3),
            took_s=round(took_s, 6),
        )


def make_app(extender: Extender) -> HotRoutes:
    """The application; its life is also that of the digest poller."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(extender.poller.run())]
        if extender.watch is not None:
            tasks.append(asyncio.create_task(extender.watch.run(extender)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            extender.log_decisions()

    app = HotRoutes(title="Splatfleet scheduler extender", docs_url=None, redoc_url=None, lifespan=lifespan)
    for name, route in _verbs(extender):
        app.add_hot_route(f"/{name}", route)
    # Routes of the router itself: no FastAPI parameters and models.
    app.router.add_route("/v1/pod-events", _pod_events(extender), methods=["POST"])
    app.router.add_route("/v1/node-events", _node_events(extender), methods=["POST"])
    app.router.add_route("/v1/forecast", _forecast(extender), methods=["PUT"])
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
        """Ready once every digest was asked for once, and while the API server's word is fresh.

        A node that did not answer is cold, not an error.
        """
        waiting = extender.watch.lacking() if extender.watch is not None else []
        waiting += sorted(extender.poller.urls.keys() - extender.poller.tried)
        return JSONResponse({"ready": not waiting, "waiting_for": waiting[:20]}, 503 if waiting else 200)

    return app


@dataclass(frozen=True, slots=True)
class Verb(Generic[Args]):
    """One hot verb: how its body is read, answered, and answered where it cannot be."""

    name: str
    decode: Callable[[bytes], Args]
    answer: Callable[[Args], bytes]
    opened: Callable[[Args], bytes]  # as if we did not exist
    refused: Callable[[str], bytes]  # where nothing could be read


def _verbs(extender: Extender) -> Iterator[tuple[str, Route]]:
    filtering = Verb(
        "filter",
        wire.decode_args,
        extender.filter,
        lambda args: wire.encode_filter(args, args.names, {}, {}),
        wire.encode_refusal,
    )
    scoring = Verb("prioritize", wire.decode_args, extender.prioritize, lambda _: b"[]", lambda _: b"[]")
    preempting = Verb(
        "preempt",
        wire.decode_preempt,
        extender.preempt,
        lambda args: wire.encode_preempt(args.candidates),
        lambda _: wire.encode_preempt({}),
    )
    yield "filter", _route(extender, filtering)
    yield "prioritize", _route(extender, scoring)
    yield "preempt", _route(extender, preempting)


def _route(extender: Extender, verb: Verb[Args]) -> Route:
    """A route that answers 200 whatever happens: kube-scheduler drops the text of any other status."""
    seconds = {bound: extender.metrics.seconds.labels(verb.name, bound) for bound in ("", *NODE_BOUNDS, MORE_NODES)}
    answered = extender.metrics.requests.labels(verb.name, "ok")

    async def route(request: Request) -> Response:
        started_s = time.perf_counter()
        extender.last_call_s = extender.clock()
        outcome = "ok"
        nodes = ""
        headers = {}
        try:
            args = verb.decode(await extender.body_of(request))
        except (wire.WireError, BodyError) as error:
            outcome = "bad_request"
            log.warning("bad request", verb=verb.name, error=str(error))
            content = verb.refused(str(error))
            headers = {"Connection": "close"}  # the rest of a body that we would not read may still be coming
        else:
            nodes = next((bound for bound, most in NODE_BOUNDS.items() if len(args.names) <= most), MORE_NODES)
            try:
                if args.pod is None:
                    outcome = "fail_open"
                    log.warning("pod cannot be read", verb=verb.name, error=args.problem)
                    content = verb.opened(args)
                else:
                    content = verb.answer(args)
            except Exception:
                outcome = "fail_open"
                log.exception("verb failed", verb=verb.name)
                content = verb.opened(args)
        (answered if outcome == "ok" else extender.metrics.requests.labels(verb.name, outcome)).inc()
        seconds[nodes].observe(time.perf_counter() - started_s)
        return Response(content, media_type=JSON, headers=headers)

    return route


def _pod_events(extender: Extender) -> Route:
    async def route(request: Request) -> Response:
        try:
            events = wire.decode_events(await extender.body_of(request))
        except (wire.WireError, BodyError) as error:
            return JSONResponse({"error": str(error)}, 400)
        for event in events:
            extender.apply(event)
        return JSONResponse({"events": len(events)})

    return route


def _node_events(extender: Extender) -> Route:
    async def route(request: Request) -> Response:
        try:
            nodes = wire.decode_node_events(await extender.body_of(request))
        except (wire.WireError, BodyError) as error:
            return JSONResponse({"error": str(error)}, 400)
        for name, capacity_type in nodes:
            extender.cluster.set_capacity_type(name, capacity_type)
        return JSONResponse({"nodes": len(nodes)})

    return route


def _forecast(extender: Extender) -> Route:
    """PUT `{POOL: {SCENE: demand}}`: it replaces what was said of each pool that it names."""

    async def route(request: Request) -> Response:
        try:
            forecast = wire.decode_forecast(await extender.body_of(request))
        except (wire.WireError, BodyError) as error:
            return JSONResponse({"error": str(error)}, 400)
        for pool, demand in forecast.items():
            extender.cluster.set_forecast(pool, demand)
        return JSONResponse({"pools": len(forecast)})

    return route


def _explain(extender: Extender) -> Route:
    """POST ExtenderArgs: what prioritize would answer, term by term. GET ?uid= or ?pod=NAMESPACE/NAME: the last one."""

    async def route(request: Request) -> Response:
        try:
            body = await extender.body_of(request)
            if not body:
                asked = request.query_params
                uid, (namespace, _, name) = asked.get("uid", ""), asked.get("pod", "").partition("/")
                kept = extender.explanations.get(uid) if uid else extender.explanations.of_pod(namespace, name)
                if kept is None:
                    wanted = f"uid {uid[:80]!r}" if uid else f"pod {namespace[:80]}/{name[:80]}"
                    return JSONResponse({"error": f"no decision is remembered for {wanted}"}, 404)
                return JSONResponse(_told(explain(kept, extender.cluster)))
            args = wire.decode_args(body)
            if args.pod is None:
                raise wire.WireError(args.problem)
        except (wire.WireError, BodyError) as error:
            return JSONResponse({"error": str(error)}, 400)
        decision = extender.cluster.decide(args.pod, args.names, extender.clock())
        return JSONResponse(_told(explain(decision, extender.cluster)))

    return route


def _told(value: Any) -> Any:
    """The same with null for the numbers that JSON does not know: infinities and NaN."""
    if isinstance(value, dict):
        return {key: _told(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_told(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
