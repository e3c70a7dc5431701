"""What a decision stands on: service time, lead, recent demand, the reactive floor and the forecast's need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoscaler.backlog import backlog_ahead, drain_replicas
from autoscaler.capacity import corrected, expected_queue_to_compute, replicas_for
from autoscaler.decision import ForecastView, Reason
from autoscaler.forecast import Foresight
from autoscaler.history import feed
from autoscaler.memory import PoolMemory
from autoscaler.observation import Floats, Observation, ServiceTime
from autoscaler.pool import Mode, Objective, Pool
from autoscaler.wake import is_quiet, wake_probability

MIN_SERVICE_SAMPLES = 20
FAILING = "failing"  # a stage of pods that start
LATEST_STARTUPS = 6.0  # after so many a pod that starts is counted on no more
DRAIN_SHARE = 1.0  # of a lead: the line that will have formed is to be worked off within it


@dataclass(slots=True)
class Evidence:
    """What the decision stands on, in one place: filled by `gather`, read by all others."""

    objective: Objective  # of one moment: the pool's, with the leeway that its late requests leave
    service: ServiceTime
    measured: bool  # the service time was measured, not configured
    startup_s: float
    lead_s: float
    rate_per_s: float | None  # recent demand; None: no data
    floor: int
    floor_reason: Reason
    blind: Reason | None  # why the demand cannot be decided by
    need: int | None = None
    need_reason: Reason = Reason.FORECAST
    keep: int = 0
    view: ForecastView | None = None
    margin: float = 1.0
    wake: float | None = None  # share of past days with traffic about now; None: not at stake or not known
    quiet: bool = False  # nothing arrived for so long that a pool which may be at zero may go there
    building: bool = False  # the history is still being read: no step down
    stuck: int = 0  # pods that were asked for long ago and got no machine
    drain: int = 0  # pods on top of those for new arrivals, for the requests that wait
    standing: int = 0  # pods that a line keeps busy which does not shrink though nobody is said to arrive


def gather(pool: Pool, observation: Observation, memory: PoolMemory) -> Evidence:
    """Everything that the choice needs, from what was seen and what is remembered."""
    observation = _plausible(observation)
    startup_s = startup_quantile(pool, observation)
    lead_s = startup_s + pool.tick_s
    rate = recent_rate(pool, observation, lead_s)
    margin, objective = _paced(pool, observation, memory, lead_s)
    service, measured = _service(pool, objective, observation, memory, lead_s, rate)
    blind = _blindness(pool, observation, rate)
    if blind is Reason.BLIND:
        rate = None  # so old that it says nothing about now: the queue alone may speak
    standing = memory.line.look(observation, rate, service.mean_s)
    joining = standing / service.mean_s if standing else rate
    waiting = backlog_ahead(observation, joining, service.mean_s, startup_s)
    drain = drain_replicas(waiting, service.mean_s, DRAIN_SHARE * lead_s)
    demanded = _demanded(pool, objective, service, rate)
    busy = observation.ready if rate is None else max(demanded, standing)
    floor, floor_reason = _floor(pool, observation, service, (demanded, busy + drain), startup_s)
    evidence = Evidence(
        objective,
        service,
        measured,
        startup_s,
        lead_s,
        rate,
        floor,
        floor_reason,
        blind,
        margin=margin,
        stuck=_stuck(observation, startup_s),
        drain=drain,
        standing=standing,
    )
    if pool.mode is Mode.REACTIVE or blind is not None:
        return evidence
    forecaster = feed(pool, observation, memory, lead_s)
    quantiles = forecaster.quantiles() if forecaster is not None else None
    if forecaster is None or quantiles is None:
        evidence.building = memory.building
        return evidence
    _look_at_zero(pool, observation, evidence)
    _look_ahead(pool, evidence, forecaster, quantiles)
    return evidence


def _look_ahead(pool: Pool, evidence: Evidence, forecaster: Foresight, quantiles: Floats) -> None:
    """What the forecast asks for now and would keep."""
    shape = forecaster.shape
    median = shape.quantiles.index(0.5)
    middle, working = float(quantiles[median]), float(quantiles[shape.working])
    highest = middle + evidence.margin * (working - middle)
    limit = pool.max_replicas + 1
    need, reason = replicas_for(highest, evidence.service, evidence.objective, limit), Reason.FORECAST
    if pool.behavior.headroom > 0:  # on top of what is seen as well as of what is foreseen
        reason = Reason.FORECAST if need > evidence.floor else Reason.HEADROOM
        roomy = max(highest, evidence.rate_per_s or 0.0) * (1.0 + pool.behavior.headroom)
        need = replicas_for(roomy, evidence.service, evidence.objective, limit)
    if evidence.drain:
        need, reason = min(need + evidence.drain, limit), Reason.BACKLOG
    evidence.need, evidence.need_reason, evidence.view = need, reason, forecaster.view()
    evidence.keep = replicas_for(forecaster.later(2) or 0.0, evidence.service, evidence.objective, limit)


def _plausible(observation: Observation) -> Observation:
    """A queue or a ratio that is negative or not finite is not known."""
    seen = (observation.pending, observation.queue_to_compute)
    pending, ratio = (value if value is not None and 0 <= value < math.inf else None for value in seen)
    if (pending, ratio) == seen:
        return observation
    return replace(observation, pending=pending, queue_to_compute=ratio)


def _look_at_zero(pool: Pool, observation: Observation, evidence: Evidence) -> None:
    """What speaks for and against zero, where zero is allowed."""
    if pool.min_replicas > 0 or observation.pending or evidence.rate_per_s:
        return
    if not is_quiet(observation.demand, max(1, math.ceil(pool.behavior.idle_s / observation.bin_s))):
        return
    day = max(1, round(pool.forecast.day_s / observation.bin_s))
    # A pod that runs is kept where it would have to be started again within a start-up.
    ahead_s = evidence.lead_s + (evidence.startup_s if observation.desired > 0 else 0.0)
    ahead = max(1, math.ceil(ahead_s / observation.bin_s))
    evidence.quiet, evidence.wake = True, wake_probability(observation.demand, day, ahead)


def _paced(pool: Pool, observation: Observation, memory: PoolMemory, lead_s: float) -> tuple[float, Objective]:
    """The forecast's margin and the objective of one moment after what was late; 1 and the pool's without a count."""
    day_s = pool.forecast.day_s
    objective, budget = pool.objective, memory.budget
    if budget.spend(observation.late, observation.served, math.exp(-pool.tick_s / day_s)):
        budget.pace(objective.violation_ratio, pool.behavior.spend, min(pool.tick_s / lead_s, 1.0))
    if budget.leeway > 1.0:
        objective = replace(objective, violation_ratio=objective.violation_ratio * budget.leeway)
    return min(budget.margin, pool.behavior.max_margin), objective


def _stuck(observation: Observation, startup_s: float) -> int:
    """Pods that wait for a machine for over two start-ups: there is none to be had."""
    return sum(p.stage in ("", "provisioning") and p.age_s > 2 * startup_s for p in observation.starting)


def _service(
    pool: Pool, objective: Objective, observation: Observation, memory: PoolMemory, lead_s: float, rate: float | None
) -> tuple[ServiceTime, bool]:
    """The service time to count with, and whether it was measured."""
    seen = observation.service
    measured = seen is not None and seen.samples >= MIN_SERVICE_SAMPLES and seen.mean_s > 0
    plain = seen if measured and seen is not None else ServiceTime(pool.service_s, pool.service_cv)
    if rate and observation.ready > 0 and not _starting(observation, lead_s - pool.tick_s):
        share = min(pool.tick_s / lead_s, 1.0)
        foreseen = expected_queue_to_compute(observation.ready, rate, plain)
        adequate = replicas_for(rate, plain, objective, pool.max_replicas + 1)
        tolerated = expected_queue_to_compute(adequate, rate, plain) or 0.0
        seen_ratio = observation.queue_to_compute
        memory.correction = corrected(memory.correction, seen_ratio, foreseen, tolerated, share)
    return ServiceTime(plain.mean_s * memory.correction, plain.cv, plain.samples), measured


def startup_quantile(pool: Pool, observation: Observation) -> float:
    """The start-up time that `pool.startup_quantile` of recent starts stayed under; the configured one before 3."""
    return upper_quantile(observation.startup_s, pool.startup_quantile, pool.startup_s)


def upper_quantile(seconds: Sequence[float], quantile: float, configured_s: float) -> float:
    """A quantile of the newest 20; before there are three, the configured time and no less than any of them."""
    recent = [value for value in seconds[-50:] if value >= 0]
    if len(recent) < 3:
        return max([configured_s, *recent])
    ordered = sorted(recent[-20:])
    place = quantile * (len(ordered) - 1)
    low = int(place)
    above = ordered[min(low + 1, len(ordered) - 1)]
    return ordered[low] + (place - low) * (above - ordered[low])


def recent_rate(pool: Pool, observation: Observation, lead_s: float) -> float | None:
    """Mean demand over the recent window in requests/s; None where half of its bins or more have no data."""
    window_s = pool.triggers.recent_s
    if window_s is None:
        window_s = min(lead_s / 3.0, 60.0)
    bins = max(1, round(window_s / observation.bin_s))
    recent: list[float] = observation.demand[-bins:].tolist()
    known = [count for count in recent if 0 <= count < math.inf]
    if not known or 2 * len(known) < len(recent):
        return None
    return sum(known) / len(known) / observation.bin_s


def _demanded(pool: Pool, objective: Objective, service: ServiceTime, rate: float | None) -> int:
    """Pods that the recent demand takes; 0 where it is not known."""
    if rate is None:
        return 0
    limit = pool.max_replicas + 1
    if pool.mode is Mode.REACTIVE:
        return min(math.ceil(rate * service.mean_s / pool.triggers.utilization - 1e-9), limit)
    return replicas_for(rate, service, objective, limit)


def _starting(observation: Observation, startup_s: float) -> bool:
    """Whether a pod is on its way; one that fails, or takes six times as long as most, is not."""
    return any(p.stage != FAILING and p.age_s <= LATEST_STARTUPS * startup_s for p in observation.starting)


def _floor(
    pool: Pool, observation: Observation, service: ServiceTime, counts: tuple[int, int], startup_s: float
) -> tuple[int, Reason]:
    """What reacting alone asks for: the largest of the triggers.

    `counts` are what the demand takes, and that with what the line needs to drain. Requests that wait never ask for
    more than the latter: while pods start the line grows, and a count in proportion to it alone runs away.
    """
    limit = pool.max_replicas + 1
    (floor, most), reason = counts, Reason.DEMAND
    if observation.pending:
        per_pod = pool.triggers.pending_per_pod or pool.objective.max_queue_wait_s / service.mean_s
        asked = min(math.ceil(observation.pending / max(per_pod, 1.0) - 1e-9), most, limit)
        if asked > floor:
            floor, reason = asked, Reason.PENDING
    threshold = pool.triggers.queue_to_compute
    ratio = observation.queue_to_compute
    if threshold is not None and ratio is not None and ratio > threshold and not _starting(observation, startup_s):
        asked = min(observation.ready + 1, limit)
        if asked > floor and observation.pending != 0:
            floor, reason = asked, Reason.QUEUE_RATIO
    return floor, reason


def _blindness(pool: Pool, observation: Observation, rate: float | None) -> Reason | None:
    demand = observation.demand
    # The newest bins mostly settle it; two weeks of them are read only where these are unknown.
    newest = float(demand[-1]) if demand.size else math.nan
    if not (math.isfinite(newest) or np.isfinite(demand[-60:]).any() or np.isfinite(demand).any()):
        return Reason.NO_DATA
    if observation.data_age_s > max(pool.behavior.blind_after_s, 3 * observation.bin_s):
        return Reason.BLIND
    if not observation.trusted or observation.data_age_s > max(pool.behavior.stale_after_s, 3 * observation.bin_s):
        return Reason.STALE
    return Reason.NO_DATA if rate is None else None
