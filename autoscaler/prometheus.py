"""Demand from Prometheus, behind our own total deadline: prometheus-api-client has none and retries as it likes."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np

from autoscaler.buckets import over, variation
from autoscaler.demand import Outcome, Reading, judge
from autoscaler.loop import FORGET_S
from autoscaler.observation import Floats, ServiceTime
from autoscaler.pool import Pool
from autoscaler.turns import Turns
from fleet import metrics, recordings
from fleet.scene import SceneId, SceneIdError, parse_scene_id

Answer = TypeVar("Answer")
RECORDED_BIN_S = 60.0  # the window of fleet.recordings.ARRIVALS_1M
ROUNDED_S = 1.0  # the library asks in whole seconds
FUTURE_S = 5.0  # an instant answer is of the moment that was asked for
WARMUP_REQUESTS = 10
AGAIN_S = 3600.0  # bins that are younger and not known are asked for at every read
MAX_POINTS = 10_000  # of one range query; Prometheus refuses above 11,000


class PrometheusError(Exception):
    """A query that brought no answer; one line."""


def within(deadline_s: float, call: Callable[[], Answer]) -> Answer:
    """The answer of `call`, or PrometheusError after `deadline_s`.

    The call goes on in a daemon thread of its own when it is late: a server that drips bytes defeats every
    timeout between two reads.
    """
    box: list[Answer | BaseException] = []

    def work() -> None:
        try:
            box.append(call())
        except Exception as error:  # carried to the caller, who names it
            box.append(error)

    thread = threading.Thread(target=work, daemon=True, name="prometheus-query")
    thread.start()
    thread.join(deadline_s)
    if not box:
        raise PrometheusError(f"no answer within {deadline_s:g} s")
    if isinstance(box[0], BaseException):
        raise PrometheusError(_in_short(box[0])) from box[0]
    return box[0]


def _in_short(error: BaseException) -> str:
    """The cause at the bottom of a requests or urllib3 error, without the URL and its query."""
    cause: BaseException = error
    while True:
        below = getattr(cause, "reason", None) or (cause.args[0] if cause.args else None)
        if not isinstance(below, BaseException):
            break
        cause = below
    text = " ".join(str(cause).split())
    return f"{type(error).__name__}: {text if len(text) <= 160 else text[:157] + '...'}"


@dataclass
class _Kept:
    """The history that was read so far."""

    demand: Floats
    end_s: float
    unsure_s: float = math.inf  # begin of the oldest bin that was only read with a warning
    again_s: float = -math.inf  # when unsure bins from before AGAIN_S are asked for next
    pause_s: float = 0.0  # between the last two times that they were


class PrometheusDemand:
    """Range queries for the history, once; afterwards only for what is new, or of the last hour and not known."""

    def __init__(
        self,
        url: str,
        bin_s: float = 60.0,
        history_s: float = 14 * 86_400.0,
        deadline_s: float = 5.0,
        recorded: bool = False,
    ) -> None:
        """`recorded` reads the history from the recording rule of the arrivals, whose bins are minutes."""
        if recorded and bin_s != RECORDED_BIN_S:
            raise ValueError(f"recorded arrivals are those of {RECORDED_BIN_S:g} s, not of {bin_s:g} s")
        from prometheus_api_client import PrometheusConnect
        from urllib3.util.retry import Retry

        self.bin_s = bin_s
        self._url = url
        self._history_s = history_s
        self._deadline_s = deadline_s
        self._recorded = recorded
        self._again_bins = max(1, math.floor(AGAIN_S / bin_s))
        self._connect: Any = PrometheusConnect(
            url.rstrip("/"), retry=Retry(total=0, respect_retry_after_header=False), timeout=max(1, round(deadline_s))
        )
        self._listening = threading.local()
        self._connect._session.hooks["response"].append(self._hear)
        self._kept: dict[str, _Kept] = {}
        self._asked_s: dict[str, float] = {}  # pool -> when it was last read, whatever came of it
        self._turns = Turns()

    def close(self) -> None:
        self._connect._session.close()

    def read(self, pool: Pool, now_s: float) -> Reading:
        """The pool's history up to `now_s`, which names the tick for all pools; whatever else cannot be had is None."""
        kept = self._kept.get(pool.name)
        if kept is not None:
            kept = self._kept[pool.name] = _until(kept, self._end_s(now_s), self.bin_s)
        if pool.name not in self._asked_s:  # with a new pool those long gone go: each holds two weeks
            self._asked_s = {name: asked_s for name, asked_s in self._asked_s.items() if now_s - asked_s <= FORGET_S}
            self._kept = {name: old for name, old in self._kept.items() if name in self._asked_s}
        self._asked_s[pool.name] = now_s
        if refusal := self._turns.refusal(pool.name, now_s):
            return self._failed(Outcome.UNREACHABLE, refusal, kept)
        begin_s = self._begin_s(kept, now_s)
        warnings: list[str] = []
        try:
            kept = self._kept[pool.name] = within(
                self._deadline_s, self._heard(warnings, lambda: self._extend(pool, kept, begin_s, now_s))
            )
            extras = within(self._deadline_s, self._heard(warnings, lambda: self._extras(pool, now_s)))
        except (PrometheusError, ValueError) as error:
            cause = error.__cause__ if isinstance(error, PrometheusError) else error
            if _is_silence(cause):
                self._turns.unanswered(pool.name, str(error))
            else:
                self._turns.answered(pool.name)
            outcome = Outcome.BAD_VALUE if isinstance(cause, _NOT_AS_EXPECTED) else Outcome.UNREACHABLE
            return self._failed(outcome, str(error), kept)
        self._turns.answered(pool.name)
        outcome, detail = judge(kept.demand, kept.end_s, self.bin_s, now_s)
        if outcome is Outcome.NO_DATA:
            named, why = (
                _arrivals(pool),
                "is the gateway scraped (two scrapes make a rate), and does it serve this pool?",
            )
            if self._recorded:
                named, why = f"{recordings.ARRIVALS_1M.name}{{{_pool(pool)}}}", "are the recording rules loaded?"
            detail = f"Prometheus {self._url} has no two samples of {named} in {self._history_s / 86_400:g} days: {why}"
        if warnings and outcome in (Outcome.OK, Outcome.STALE):
            outcome, detail = Outcome.PARTIAL, f"Prometheus {self._url} warns: {'; '.join(dict.fromkeys(warnings))}"
        return Reading(outcome, detail, kept.demand, kept.end_s, **extras)

    def _failed(self, outcome: Outcome, why: str, kept: _Kept | None) -> Reading:
        history = (kept.demand, kept.end_s) if kept is not None else (np.zeros(0), math.nan)
        return Reading(outcome, f"Prometheus {self._url}: {why}", *history)

    def _heard(self, warnings: list[str], call: Callable[[], Answer]) -> Callable[[], Answer]:
        """`call`, with the warnings of its answers, which the library drops, in `warnings`."""

        def hearing() -> Answer:
            self._listening.warnings = warnings  # of the thread that `within` makes for this call alone
            return call()

        return hearing

    def _hear(self, response: Any, *_: object, **__: object) -> None:
        if b'"warnings"' not in response.content:  # a history is long: it is parsed once, by the library
            return
        try:
            found = response.json().get("warnings") or ()
        except ValueError:
            return  # the library says what is wrong with it
        self._listening.warnings += [str(warning)[:200] for warning in found]

    def _end_s(self, now_s: float) -> float:
        """The end of the last full bin."""
        return math.floor(now_s / self.bin_s) * self.bin_s

    def _begin_s(self, kept: _Kept | None, now_s: float) -> float:
        """Begin of the oldest bin to ask for now."""
        oldest_s = self._end_s(now_s) - math.floor(self._history_s / self.bin_s) * self.bin_s
        if kept is None:
            return oldest_s
        again_s = kept.end_s - self._again_bins * self.bin_s
        # The newest two bins are read again: their last samples may have come late.
        begin_s = min(kept.end_s - 2 * self.bin_s, max(again_s, min(kept.unsure_s, self._unknown_s(kept))))
        if kept.unsure_s < again_s and now_s >= kept.again_s:
            begin_s = kept.unsure_s
            # Said before the answer is there: a history that takes longer than the deadline must not fail every read.
            kept.pause_s = min(AGAIN_S, max(self.bin_s, 2 * kept.pause_s))
            kept.again_s = now_s + kept.pause_s
        return max(oldest_s, begin_s)

    def _unknown_s(self, kept: _Kept) -> float:
        """Begin of the oldest bin of the last AGAIN_S without a number; inf where there is none."""
        recent = kept.demand[-self._again_bins :]
        unknown = np.flatnonzero(np.isnan(recent))
        return kept.end_s - (recent.size - int(unknown[0])) * self.bin_s if unknown.size else math.inf

    def _extend(self, pool: Pool, kept: _Kept | None, begin_s: float, now_s: float) -> _Kept:
        end_s = self._end_s(now_s)
        fresh = self._history(pool, begin_s, end_s)
        warned = bool(self._listening.warnings)
        if kept is None:
            return _Kept(fresh, end_s, begin_s if warned else math.inf)
        most = math.floor(self._history_s / self.bin_s)
        new = min(most, round((end_s - kept.end_s) / self.bin_s))
        demand = np.concatenate((kept.demand, np.full(new, math.nan)))[-most:]
        known = demand[demand.size - fresh.size :]
        # A part of the arrivals is less than all of them, and what was known once is not forgotten.
        known[:] = np.fmax(known, fresh) if warned else np.where(np.isnan(fresh), known, fresh)
        oldest_s = end_s - demand.size * self.bin_s
        if warned:
            unsure_s = min(begin_s, kept.unsure_s)
        else:
            unsure_s = math.inf if begin_s <= max(oldest_s, kept.unsure_s) else kept.unsure_s
        return _Kept(demand, end_s, unsure_s, kept.again_s, kept.pause_s)

    def _history(self, pool: Pool, begin_s: float, end_s: float) -> Floats:
        """[bins] arrivals between two moments, nan where Prometheus has none."""
        bins = round((end_s - begin_s) / self.bin_s)
        counts = np.full(bins, math.nan)
        query = self._history_query(pool)
        slack = math.floor(ROUNDED_S / self.bin_s)  # bins by which the library's rounding may move the grid
        for first in range(1, bins + 1, MAX_POINTS):
            last = min(first + MAX_POINTS - 1, bins)
            series = self._connect.custom_query_range(
                query, _time(begin_s + first * self.bin_s), _time(begin_s + last * self.bin_s), f"{self.bin_s:g}s"
            )
            for time_s, text in _only(series)["values"] if series else ():
                index = round((float(time_s) - begin_s) / self.bin_s) - 1
                # What was asked for lies on a grid that ends now: anything else answers another question.
                off_s = abs(begin_s + (index + 1) * self.bin_s - float(time_s))
                if off_s > ROUNDED_S or not first - 1 - slack <= index < last + slack:
                    raise BadValue(f"a sample at {time_s} where none was asked for, up to {end_s:.0f}")
                if not 0 <= index < bins:
                    continue
                if not math.isnan(counts[index]):
                    raise BadValue(f"two samples at {time_s}")
                counts[index] = _count(text)
        return counts

    def _history_query(self, pool: Pool) -> str:
        window = f"[{self.bin_s:g}s]"
        if self._recorded:  # last_over_time: a rule that was not evaluated leaves a gap, not the value before it
            return f"sum(last_over_time({recordings.ARRIVALS_1M.name}{{{_pool(pool)}}}{window}))"
        return f"sum(increase({_arrivals(pool)}{window}))"

    def _extras(self, pool: Pool, now_s: float) -> dict[str, Any]:
        window = f"[{5 * self.bin_s:g}s]"
        labels = _pool(pool)
        compute = f"sum(increase({metrics.TRITON_COMPUTE_SECONDS.name}{{{labels}}}{window}))"
        queue = f"sum(increase({metrics.TRITON_QUEUE_SECONDS.name}{{{labels}}}{window}))"
        # The first frames of a pod compile and fill caches: pods count once they had some before the window.
        seen = f'{metrics.TRITON_REQUESTS.name}{{{labels},outcome="success"}}'
        warm = f"and on (pod, model) ({seen} offset {5 * self.bin_s:g}s >= {WARMUP_REQUESTS})"
        warm_compute = f"sum(increase({metrics.TRITON_COMPUTE_SECONDS.name}{{{labels}}}{window}) {warm})"
        done = f"sum(increase({seen}{window}) {warm})"
        pending = self._numbers(f"sum({metrics.GATEWAY_PENDING.name}{{{labels}}})", now_s)
        waiting = self._numbers(f"sum({metrics.TRITON_PENDING.name}{{{labels}}})", now_s)
        # Every gateway counts all pods: the largest count, not the sum.
        ready = self._numbers(f'max({metrics.GATEWAY_PODS.name}{{{labels},state="ready"}})', now_s)
        work = [self._numbers(query, now_s).get("") for query in (queue, compute, warm_compute, done)]
        scenes = self._numbers(f"sum by (scene) (increase({_arrivals(pool)}{window}))", now_s)
        known = [value for answer in (pending, waiting) for value in answer.values()]
        queue_s, compute_s, warm_compute_s, requests = work
        service = None
        if warm_compute_s and requests:
            renders = self._buckets(metrics.RENDERER_RENDER_SECONDS.name, labels, window, now_s)
            cv = variation(renders) or pool.service_cv
            service = ServiceTime(warm_compute_s / requests, cv, int(requests))
        waits = self._buckets(metrics.GATEWAY_WAIT_SECONDS.name, labels, window, now_s)
        late = over(waits, pool.objective.max_queue_wait_s)
        share = pool.tick_s / (5 * self.bin_s)
        return {
            "scene_demand": _scenes(scenes),
            "pending": sum(known) if known else None,
            "queue_to_compute": queue_s / compute_s if queue_s is not None and compute_s else None,
            "service": service,
            "served": None if late is None else late[0] * share,
            "late": None if late is None else late[1] * share,
            "ready": int(ready[""]) if "" in ready else None,
        }

    def _buckets(self, name: str, labels: str, window: str, now_s: float) -> dict[float, float]:
        """Upper edge -> observations up to it, over the window."""
        query = f"sum by (le) (increase({name}_bucket{{{labels}}}{window}))"
        return {float(edge): count for edge, count in self._numbers(query, now_s, "le").items() if edge}

    def _numbers(self, query: str, now_s: float, label: str = "scene") -> dict[str, float]:
        """Finite values of an instant query, by one label (empty where there is none)."""
        result = self._connect.custom_query(query, params={"time": f"{now_s:.3f}"})
        values = {row["metric"].get(label, ""): float(row["value"][1]) for row in result}
        if len(values) < len(result):
            raise BadValue(f"{len(result)} series of which two are of one {label}, expected one each")
        late = max((float(row["value"][0]) - now_s for row in result), default=0.0)
        if late > FUTURE_S:
            raise BadValue(f"a sample {late:.0f} s from now: do the clocks agree?")
        return {key: value for key, value in values.items() if math.isfinite(value)}


class BadValue(ValueError):
    """A sample that is no count of arrivals, or that was not asked for."""


_NOT_AS_EXPECTED = (BadValue, KeyError, IndexError, TypeError, AttributeError)  # JSON of another shape


def _is_silence(cause: BaseException | None) -> bool:
    """Nobody answered in time (no cause: our own deadline); an HTTP status and nonsense are answers."""
    return cause is None or (isinstance(cause, OSError) and not isinstance(cause, ValueError))


def _until(kept: _Kept, end_s: float, bin_s: float) -> _Kept:
    """What is kept, without bins beyond `end_s`: those were read while the clock was ahead."""
    beyond = min(round((kept.end_s - end_s) / bin_s), kept.demand.size)
    if beyond <= 0:
        return kept
    # What the kept bins pushed out is asked for again where it is more than a trifle.
    unsure_s = -math.inf if beyond * bin_s > AGAIN_S else kept.unsure_s
    return _Kept(np.concatenate((np.full(beyond, math.nan), kept.demand))[: kept.demand.size], end_s, unsure_s)


def _only(series: list[Any]) -> Any:
    """The one series of a sum."""
    if len(series) > 1:
        raise BadValue(f"{len(series)} series for one sum, expected one")
    return series[0]


def _count(text: str) -> float:
    value = float(text)
    if math.isinf(value) or value < 0:
        raise BadValue(f"an increase of {text!r} arrivals, expected a finite number of 0 or more")
    return value


def _arrivals(pool: Pool) -> str:
    """The selector of the arrivals of a pool."""
    return f"{metrics.GATEWAY_REQUESTS.name}{{{_pool(pool)}}}"


def _pool(pool: Pool) -> str:
    escaped = pool.name.replace("\\", "\\\\").replace('"', '\\"')
    return f'pool="{escaped}"'


def _time(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, tz=UTC)


def _scenes(values: dict[str, float]) -> dict[SceneId, float]:
    scenes: dict[SceneId, float] = {}
    for text, count in values.items():
        try:
            scenes[parse_scene_id(text)] = count
        except SceneIdError:
            continue
    return scenes
