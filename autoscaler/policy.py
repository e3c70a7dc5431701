"""Observation and memory in, decision out: the larger of the reactive floor and the forecast's need.

Up at once and by as many pods as are needed; down only when the forecast, the recent past and a what-if agree.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from autoscaler.backlog import backlog
from autoscaler.capacity import wait_tail
from autoscaler.capacity_types import split
from autoscaler.decision import Decision, Reason
from autoscaler.evidence import Evidence, gather
from autoscaler.explain import explain
from autoscaler.forecast import LEADS_AHEAD
from autoscaler.memory import PoolMemory
from autoscaler.observation import Observation
from autoscaler.places import plan_places, told
from autoscaler.pool import Mode, Pool
from autoscaler.scenes import SceneShares
from autoscaler.schedule import limits_at
from autoscaler.victims import choose_victims
from autoscaler.warmup import plan_new_pods, plan_warm_asks
from fleet.scene import SceneId

SETTLE_STARTUPS, SETTLE_DAYS = 6.0, 1.0 / 72.0  # measured: docs/decisions/0030


def decide(pool: Pool, observation: Observation, memory: PoolMemory) -> Decision:
    """The count for one pool, with its reason; updates `memory`."""
    limits = limits_at(pool, observation.now_s)
    if memory.last_desired is not None:
        memory.flaps.moved(observation.now_s, observation.desired - memory.last_desired)
    memory.last_desired = observation.desired
    whole, lost = observation, min(observation.unhealthy, observation.desired)
    pool = _without(limits.pool, lost)
    if lost:
        observation = replace(observation, desired=observation.desired - lost)
    evidence = gather(pool, observation, memory)
    want, reason = _choose(pool, observation, memory, evidence)
    replicas, reason = _clamp(pool, want, reason)
    if evidence.stuck and replicas > observation.desired:
        replicas, reason = observation.desired, Reason.STOCK_OUT
    if limits.paused:
        replicas, reason = observation.desired, Reason.PAUSED
    held = replicas == observation.desired
    replicas = whole.desired if held else min(replicas + lost, limits.pool.max_replicas)
    if limits.hold_scale_down and replicas < whole.desired:
        replicas, reason = whole.desired, Reason.AT_MIN
    memory.last_replicas = replicas
    explanation = explain(limits, whole, evidence, replicas, want + lost, reason)
    scenes = scene_demand(observation, evidence, memory)
    warm = plan_warm_asks(pool, observation, scenes, evidence.lead_s, memory.warm)
    predictive = pool.mode is Mode.PREDICTIVE
    places = plan_places(pool, observation, memory, evidence, replicas, reason) if predictive else None
    if places is not None:
        explanation = f"{explanation}; {told(places)}"
    change = replicas - whole.desired
    return Decision(
        pool=pool.name,
        replicas=replicas,
        reason=reason,
        explanation=explanation,
        now_s=whole.now_s,
        current=whole.desired,
        floor=evidence.floor,
        need=evidence.need,
        lead_s=evidence.lead_s,
        demand_per_s=evidence.rate_per_s,
        forecast=evidence.view,
        margin=evidence.margin,
        leeway=evidence.objective.violation_ratio / pool.objective.violation_ratio,
        capacity=split(replicas, pool.capacity_types),
        scenes=plan_new_pods(pool, observation, scenes, max(0, change)),
        victims=choose_victims(whole, max(0, -change), pool.capacity_types),
        warm=warm if predictive else (),
        places=places,
        scene_shares=memory.shares.most_wanted() if memory.shares is not None else {},
        blind=evidence.blind,
    )


def _without(pool: Pool, lost: int) -> Pool:
    """The pool's limits for the pods that can serve: those on unhealthy slices stand beside the count, not in it."""
    most = max(1, pool.max_replicas - lost)
    return replace(pool, max_replicas=most, min_replicas=min(pool.min_replicas, most)) if lost else pool


def cut(pool: Pool, observation: Observation, memory: PoolMemory, decision: Decision, count: int) -> Decision:
    """The decision with the count that the GPUs of all pools leave for it."""
    if count == decision.replicas:
        return decision
    memory.last_replicas = count
    text = f"{decision.explanation}; {count} of {decision.replicas} within the GPUs of all pools"
    return replace(
        decision,
        replicas=count,
        reason=Reason.GPU_BUDGET,
        explanation=text,
        scenes=decision.scenes[: max(0, count - observation.desired)],
        victims=choose_victims(observation, max(0, observation.desired - count), pool.capacity_types),
        places=None,
        capacity=split(count, pool.capacity_types),
    )


def scene_demand(observation: Observation, evidence: Evidence, memory: PoolMemory) -> dict[SceneId, float]:
    """Requests/s by scene: the forecast total (else the recent one) times each scene's decaying share."""
    if memory.shares is None:
        memory.shares = SceneShares(half_life_s=4 * evidence.lead_s)
    memory.shares.update(observation.scene_demand, observation.now_s)
    view = evidence.view
    total = view.quantiles[view.working_quantile] if view is not None else evidence.rate_per_s
    return memory.shares.forecast(total or 0.0)


def _choose(pool: Pool, observation: Observation, memory: PoolMemory, evidence: Evidence) -> tuple[int, Reason]:
    """Wanted count before the limits, and why."""
    current = observation.desired
    blind = evidence.blind
    if blind is not None:
        memory.blind = True
        # A queue that is seen to wait may still add pods; nothing takes one away.
        if evidence.floor > current:
            return evidence.floor, evidence.floor_reason
        return current, blind
    want, reason = evidence.floor, evidence.floor_reason
    if evidence.need is not None and evidence.need > want:
        want, reason = evidence.need, evidence.need_reason
    if evidence.quiet:
        awake = evidence.wake is not None and evidence.wake >= pool.behavior.wake_probability
        want, reason = (max(1, evidence.need or 0), Reason.WAKE) if awake else (0, Reason.SURPLUS)
    _settle(pool, observation, memory, evidence, want)
    memory.flaps.need(want, pool.tick_s, pool.forecast.day_s)
    memory.flaps.save(current, pool.tick_s)
    if want > current:
        return want, reason
    if want == current:
        if reason is Reason.WAKE:
            return current, reason
        return current, Reason.STARTING if observation.starting else Reason.STEADY
    return _down(pool, observation, memory, evidence, want)


def _down(
    pool: Pool, observation: Observation, memory: PoolMemory, evidence: Evidence, want: int
) -> tuple[int, Reason]:
    """The lowest count that every rule against a step down allows."""
    current = observation.desired
    if evidence.building or (evidence.view is not None and evidence.view.burst):
        return current, Reason.SETTLING
    lowest, reason = want, Reason.SURPLUS
    if evidence.quiet and want == 0:
        return 0, reason
    settled = memory.wants[0][1]
    if settled > lowest:
        lowest, reason = settled, Reason.SETTLING
    if pool.mode is Mode.PREDICTIVE:
        if evidence.keep > lowest:
            lowest, reason = evidence.keep, Reason.KEEP
        safe = _what_if(pool, observation, evidence, min(lowest, current))
        if safe > lowest:
            lowest, reason = safe, Reason.WHAT_IF
        if lowest < current and _must_hold(pool, observation, memory, evidence, lowest):
            lowest, reason = current, Reason.FLAP_BUDGET
    return (current, reason) if lowest >= current else (lowest, Reason.SURPLUS)


def _settle(pool: Pool, observation: Observation, memory: PoolMemory, evidence: Evidence, want: int) -> None:
    """Remember what was wanted for as long as it keeps pods; a want is forgotten once a later one is as high."""
    wants, now_s, window_s = memory.wants, observation.now_s, settle_s(pool, evidence.startup_s)
    if memory.wanted_s is None:
        # Just started: what the past wanted is not known, so the count that stands is taken for it.
        if window_s > 0 and observation.desired > want:
            wants.append((now_s, observation.desired))
    elif memory.blind:
        # Time in which nobody could say what was wanted settles nothing.
        blind_s = max(0.0, now_s - memory.wanted_s - pool.tick_s)
        memory.wants = wants = deque((then_s + blind_s, count) for then_s, count in wants)
    memory.wanted_s, memory.blind = now_s, False
    while wants and wants[-1][1] <= want:
        wants.pop()
    wants.append((now_s, want))
    while wants[0][0] < now_s - window_s:
        wants.popleft()


def settle_s(pool: Pool, startup_s: float) -> float:
    """How long a pod must have been superfluous before it goes: what starts in a moment is let go of as quickly."""
    if pool.mode is Mode.REACTIVE:
        return pool.behavior.down_window_s
    if pool.behavior.settle_s is not None:
        return pool.behavior.settle_s
    return max(startup_s, min(SETTLE_STARTUPS * startup_s, SETTLE_DAYS * pool.forecast.day_s))


def _must_hold(pool: Pool, observation: Observation, memory: PoolMemory, evidence: Evidence, lowest: int) -> bool:
    """The day's reversals make a step down to `lowest` dearer than what was held and what will be saved.

    What is foreseen to be saved until then counts as far as it came true before.
    """
    flaps, day_s = memory.flaps, pool.forecast.day_s
    surplus = observation.desired - lowest
    flaps.hold(surplus, pool.tick_s)
    price = flaps.price_pod_s(observation.now_s, day_s, pool.behavior.max_reversals, lowest)
    if price == 0.0:
        return False
    saving = surplus * _until_needed_s(evidence, memory, observation.desired)
    if flaps.held_pod_s + flaps.belief * saving < price:
        return True
    flaps.promise(observation.desired, saving)
    return False


def _until_needed_s(evidence: Evidence, memory: PoolMemory, count: int) -> float:
    """Seconds until the forecast's median wants `count` pods again, as far as it looks; 0 where none is trusted."""
    forecaster = memory.forecaster
    if forecaster is None or evidence.view is None or evidence.view.gated:
        return 0.0
    free = 0
    for leads in LEADS_AHEAD:
        rate = forecaster.later(leads)
        if rate is None or not _suffices(count - 1, rate, evidence):
            break
        free = leads
    return free * evidence.lead_s


def _what_if(pool: Pool, observation: Observation, evidence: Evidence, lowest: int) -> int:
    """The lowest count from `lowest` up at which those who serve now would still meet the objective.

    Asked of the demand of this moment and its queue, one pod at a time: starting pods do not serve yet.
    """
    rate = (evidence.rate_per_s or 0.0) + backlog(observation) / max(evidence.lead_s, pool.tick_s)
    for count in range(lowest, observation.desired):
        if _suffices(min(observation.ready, count), rate, evidence):
            return count
    return observation.desired


def _suffices(serving: int, rate_per_s: float, evidence: Evidence) -> bool:
    """Whether so many pods meet the objective of this moment."""
    tail = wait_tail(evidence.objective.max_queue_wait_s, serving, rate_per_s, evidence.service)
    return tail <= evidence.objective.violation_ratio


def _clamp(pool: Pool, want: int, reason: Reason) -> tuple[int, Reason]:
    if want > pool.max_replicas:
        return pool.max_replicas, Reason.AT_MAX
    if want < pool.min_replicas:
        return pool.min_replicas, Reason.AT_MIN
    return want, reason
