"""Demand by direct scrape: the gateway's counters, and queue and compute seconds from the exporters."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import httpx2
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from autoscaler.buckets import over
from autoscaler.counters import CounterBook, DemandLog
from autoscaler.demand import Outcome, Reading, judge
from autoscaler.loop import FORGET_S
from autoscaler.observation import ServiceTime
from autoscaler.pool import Pool
from fleet import metrics
from fleet.scene import SceneId, SceneIdError, parse_scene_id

WINDOW_BINS = 10  # scenes' demand and the ratio are taken over so many bins
KEPT_LOOKS = 10  # a pod whose exporter was missing for so many looks is still compared with what it had before
MAX_BODY_BYTES = 32 * 2**20


class ScrapeError(Exception):
    """A target that could not be read; one line."""


@dataclass
class _PoolState:
    requests: CounterBook[str] = field(default_factory=CounterBook)  # by scene
    # By metric, pod and model.
    work: CounterBook[tuple[str, str, str]] = field(default_factory=lambda: CounterBook(KEPT_LOOKS))
    log: DemandLog = field(default_factory=lambda: DemandLog(60.0))
    scenes: deque[tuple[float, dict[str, float]]] = field(default_factory=deque)
    # time, queue s, compute s, and of warm pods alone: compute s, requests
    sums: deque[tuple[float, float, float, float, float]] = field(default_factory=deque)
    looked_s: float = -math.inf  # when the exporters were last asked
    worked_s: float = -math.inf  # when all of them last answered
    waits: CounterBook[float] = field(default_factory=CounterBook)  # of the gateway, by upper edge of the bucket
    last_s: float | None = None
    read_s: float = -math.inf


class DirectScrape:
    """One GET of each target a tick, no retry; a target that fails is named in the reading's detail."""

    def __init__(
        self,
        gateway: str,
        exporters: Sequence[str] | Callable[[], Sequence[str]],
        bin_s: float,
        deadline_s: float = 2.0,
        client: httpx2.Client | None = None,
    ) -> None:
        self.bin_s = bin_s
        self._gateway = _metrics_url(gateway)
        self._exporters = exporters if callable(exporters) else lambda: exporters
        self._client = client or httpx2.Client(timeout=deadline_s, follow_redirects=False)
        self._pools: dict[str, _PoolState] = {}

    def close(self) -> None:
        self._client.close()

    def read(self, pool: Pool, now_s: float) -> Reading:
        """What the pool's arrivals are now, read from the gateway; pods' work is read beside it and may be missing."""
        state = self._state(pool, now_s)
        problems: list[str] = []
        outcome, pending, ready, late = Outcome.OK, None, None, None
        try:
            samples = self._get(self._gateway)
            named = {sample.labels["pool"] for sample in samples if "pool" in sample.labels}
            if pool.name in named:
                outcome = self._count(pool, state, samples, now_s)
                waits = state.waits.increments(_edges(samples, metrics.GATEWAY_WAIT_SECONDS.name, pool.name))
                late = over(waits, pool.objective.max_queue_wait_s) if waits else None
            else:  # a gateway has series of every pool that it serves: this one is none of them, which is no zero
                outcome = Outcome.NO_DATA
                problems.append(f"the gateway knows no pool {pool.name!r}, only {', '.join(sorted(named)) or 'none'}")
            pending = _gauge(samples, metrics.GATEWAY_PENDING.name, pool.name)
            ready = _gauge(
                [s for s in samples if s.labels.get("state") == "ready"], metrics.GATEWAY_PODS.name, pool.name
            )
        except (ScrapeError, ValueError) as error:
            outcome = Outcome.UNREACHABLE if isinstance(error, ScrapeError) else Outcome.BAD_VALUE
            problems.append(str(error))
        waiting = self._work(pool, state, now_s, problems)
        demand, end_s = state.log.full_bins()
        if outcome is Outcome.OK:
            outcome, why = judge(demand, end_s, self.bin_s, now_s)
            problems += [why] if why else []
        known = [value for value in (pending, waiting) if value is not None]
        ratio, service = _ratio_and_service(pool, state.sums)
        return Reading(
            outcome=outcome,
            detail="; ".join(problems),
            demand=demand,
            end_s=end_s,
            scene_demand=_sum_scenes(state.scenes),
            pending=sum(known) if known else None,
            queue_to_compute=ratio,
            service=service,
            ready=None if ready is None else int(ready),
            served=None if late is None else late[0],
            late=None if late is None else late[1],
        )

    def _state(self, pool: Pool, now_s: float) -> _PoolState:
        """What is kept of the pool, without what is too old to be of now; with a new pool, those long gone go."""
        state = self._pools.get(pool.name)
        if state is None:
            self._pools = {name: known for name, known in self._pools.items() if now_s - known.read_s <= FORGET_S}
            state = self._pools[pool.name] = _PoolState(log=DemandLog(self.bin_s))
        state.read_s = now_s
        while state.scenes and state.scenes[0][0] < now_s - WINDOW_BINS * self.bin_s:
            state.scenes.popleft()
        return state

    def _get(self, url: str) -> list[Sample]:
        try:
            answer = self._client.get(url)
            answer.raise_for_status()
            if len(answer.content) > MAX_BODY_BYTES:
                raise ScrapeError(f"{url}: {len(answer.content)} bytes of metrics, at most {MAX_BODY_BYTES} are read")
            return [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ScrapeError(f"{url}: {type(error).__name__}: {error}") from error
        except (ValueError, KeyError, IndexError) as error:
            raise ScrapeError(f"{url}: not the text of Prometheus metrics ({error})") from error

    def _count(self, pool: Pool, state: _PoolState, samples: Iterable[Sample], now_s: float) -> Outcome:
        name = metrics.GATEWAY_REQUESTS.name
        values: dict[str, float] = {}
        for sample in samples:
            if sample.name == name and sample.labels.get("pool") == pool.name:
                scene = sample.labels.get("scene", "")
                values[scene] = values.get(scene, 0.0) + sample.value
        resets = state.requests.resets
        grown = state.requests.increments(values)
        if grown is not None and state.last_s is not None:
            state.log.add(state.last_s, now_s, sum(grown.values()))
            state.scenes.append((now_s, grown))
        state.last_s = now_s
        return Outcome.RESET if state.requests.resets > resets else Outcome.OK

    def _work(self, pool: Pool, state: _PoolState, now_s: float, problems: list[str]) -> float | None:
        """Read the exporters into the window of sums; returns the requests that wait in Triton."""
        # First of all: whatever fails below, what is old is no ratio of now.
        begin_s = now_s - WINDOW_BINS * self.bin_s
        while state.sums and state.sums[0][0] < begin_s:
            state.sums.popleft()
        if state.worked_s < min(begin_s, state.looked_s):
            # What grew while exporters failed for more than the window is not the window's.
            state.work = CounterBook(KEPT_LOOKS)
        state.looked_s = now_s
        values: dict[tuple[str, str, str], float] = {}
        waiting: list[float] = []
        for url in map(_metrics_url, self._exporters()):
            try:
                samples = [sample for sample in self._get(url) if sample.labels.get("pool") == pool.name]
            except ScrapeError as error:
                problems.append(str(error))
                return None  # a part of the pods is no sum of the pods
            for sample in samples:
                if sample.name == metrics.TRITON_PENDING.name and math.isfinite(sample.value):
                    waiting.append(sample.value)
                elif sample.name in _WORK and sample.labels.get("outcome", "success") == "success":
                    key = (sample.name, sample.labels.get("pod", ""), sample.labels.get("model", ""))
                    values[key] = sample.value
        try:
            grown = state.work.increments(values) if values else None
        except ValueError as error:
            problems.append(str(error))
            return sum(waiting) if waiting else None
        state.worked_s = now_s if values else state.worked_s
        if grown is not None:
            for key in state.work.appeared:
                if key[0] != _WORK[2]:  # seconds of a pod's whole life; of its requests `_is_warm` takes care
                    grown[key] = 0.0
            queue_s, compute_s, _ = (sum(value for key, value in grown.items() if key[0] == name) for name in _WORK)
            warm = [key[1:] for key, value in grown.items() if key[0] == _WORK[2] and _is_warm(values[key], value)]
            warm_compute_s, requests = (sum(grown.get((name, *pod), 0.0) for pod in warm) for name in _WORK[1:])
            state.sums.append((now_s, queue_s, compute_s, warm_compute_s, requests))
        return sum(waiting) if waiting else None


# The first frames of a pod compile, load and fill caches: they say nothing of the frames that follow.
WARMUP_REQUESTS = 10

_WORK = (metrics.TRITON_QUEUE_SECONDS.name, metrics.TRITON_COMPUTE_SECONDS.name, metrics.TRITON_REQUESTS.name)


def _is_warm(total: float, grown: float) -> bool:
    """Whether a pod had its first frames behind it before it served the last ones."""
    return total - grown >= WARMUP_REQUESTS


def _metrics_url(url: str) -> str:
    return url if url.rstrip("/").endswith("/metrics") else url.rstrip("/") + "/metrics"


def _gauge(samples: Iterable[Sample], name: str, pool: str) -> float | None:
    values = [s.value for s in samples if s.name == name and s.labels.get("pool") == pool and math.isfinite(s.value)]
    return float(np.sum(values)) if values else None


def _edges(samples: Iterable[Sample], name: str, pool: str) -> dict[float, float]:
    """Upper edge -> count of a histogram's buckets."""
    found = [s for s in samples if s.name == f"{name}_bucket" and s.labels.get("pool") == pool]
    return {float(sample.labels["le"]): sample.value for sample in found}


def _sum_scenes(window: Iterable[tuple[float, dict[str, float]]]) -> dict[SceneId, float]:
    total: dict[SceneId, float] = {}
    for _, grown in window:
        for text, count in grown.items():
            try:
                scene = parse_scene_id(text)
            except SceneIdError:
                continue  # the gateway counts what it was asked for, a name that is no scene included
            total[scene] = total.get(scene, 0.0) + count
    return total


def _ratio_and_service(
    pool: Pool, sums: Iterable[tuple[float, float, float, float, float]]
) -> tuple[float | None, ServiceTime | None]:
    rows = list(sums)
    queue_s, compute_s, warm_compute_s, requests = (sum(row[column] for row in rows) for column in (1, 2, 3, 4))
    ratio = queue_s / compute_s if compute_s > 0 else None
    service = (
        ServiceTime(warm_compute_s / requests, pool.service_cv, int(requests))
        if requests > 0 and warm_compute_s > 0
        else None
    )
    return ratio, service
