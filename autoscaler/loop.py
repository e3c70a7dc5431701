"""One tick: observe, decide, act. The cluster is a Protocol, time is an argument.

Kubernetes, the simulator and the local fleet implement `Cluster`, and `tick` cannot tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from autoscaler import history
from autoscaler.decision import Decision, ForecastView, Reason, WarmAsk
from autoscaler.gpu_budget import share_gpus
from autoscaler.memory import PoolMemory
from autoscaler.observation import NodeState, Observation, PodState, ServiceTime, StartingPod
from autoscaler.policy import cut, decide
from autoscaler.pool import (
    Behavior,
    Calendar,
    CapacityType,
    ForecastSettings,
    Mode,
    Objective,
    Override,
    Pool,
    Triggers,
)
from autoscaler.schedule import limits_at

__all__ = [
    "Behavior",
    "Calendar",
    "CapacityType",
    "Cluster",
    "Decision",
    "ForecastSettings",
    "ForecastView",
    "Look",
    "Memory",
    "Mode",
    "NodeState",
    "Objective",
    "Observation",
    "Override",
    "PodState",
    "Pool",
    "Reason",
    "ServiceTime",
    "StartingPod",
    "Triggers",
    "WarmAsk",
    "choose",
    "tick",
]


class Cluster(Protocol):
    """The one seam between the decisions and a world of pods."""

    def pools(self) -> Sequence[Pool]:
        """The pools to decide for."""

    def observe(self, pool: Pool, now_s: float) -> Observation:
        """What the pool saw until now. May raise: the pool is then held."""

    def scale(self, pool: Pool, decision: Decision) -> None:
        """Make the spec say `decision.replicas`: new pods get `scenes`, `victims` drain first. Idempotent."""

    def warm(self, pool: Pool, asks: Sequence[WarmAsk]) -> None:
        """Pass the asks on. Idempotent; failing is allowed, a scene then loads when it is needed."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a pool brought: an observation, or why there is none."""

    pool: Pool
    observation: Observation | None
    error: str = ""


FORGET_S = 3600.0  # a pool that is gone for so long is forgotten
UNSEEN_S, UNSEEN_TICKS = 120.0, 3.0  # after longer than both without a look nobody knew what was wanted meanwhile
BUILD_BINS = 100_000  # of history that one tick may feed to forecasters that catch up: five times two weeks of minutes

Record = Callable[[Sequence[Look], "Memory", float, Sequence[Decision]], None]


@dataclass
class Memory:
    """What the loop remembers between ticks: one entry a pool."""

    pools: dict[str, PoolMemory] = field(default_factory=dict)
    gpu_budget: float | None = None  # GPUs that all pools may have together; None: no limit
    build_bins: int = BUILD_BINS
    record: Record | None = None  # told of every tick: what was seen and decided, before it is carried out


def tick(cluster: Cluster, memory: Memory, now_s: float) -> list[Decision]:
    """Observe, decide and act once for every pool; one pool's failure does not stop another."""
    seen = [_look(cluster, pool, now_s) for pool in cluster.pools()]
    decisions = choose(seen, memory, now_s)
    if memory.record is not None:
        memory.record(seen, memory, now_s, decisions)
    return [_act(cluster, look, decision) for look, decision in zip(seen, decisions, strict=True)]


def read_on(memory: Memory, bins: int) -> dict[str, int]:
    """Between two ticks: feed up to `bins` of histories that no tick has read to their end; how many, by pool."""
    read: dict[str, int] = {}
    for name, state in memory.pools.items():
        for feeding in (state, state.ahead):
            if bins > 0 and (fed := history.read_on(feeding, bins)):
                read[name] = read.get(name, 0) + fed
                bins -= fed
    return read


def choose(seen: Sequence[Look], memory: Memory, now_s: float) -> list[Decision]:
    """The decisions for what was seen at one moment: no clock and no cluster, so a log can be replayed."""
    decisions = []
    allowance_bins: float = memory.build_bins
    for look in seen:
        state = memory.pools.setdefault(look.pool.name, PoolMemory())
        state.blind = state.blind or now_s - state.seen_s > max(UNSEEN_S, UNSEEN_TICKS * look.pool.tick_s)
        state.seen_s, state.allowance_bins = now_s, allowance_bins
        decisions.append(_decide(look, state, now_s))
        allowance_bins = state.allowance_bins
    for name in [name for name, state in memory.pools.items() if now_s - state.seen_s > FORGET_S]:
        del memory.pools[name]
    return decisions if memory.gpu_budget is None else _within(memory.gpu_budget, seen, memory, decisions)


def _within(gpu_budget: float, seen: Sequence[Look], memory: Memory, decisions: list[Decision]) -> list[Decision]:
    """The decisions with the counts that the GPUs of all pools leave; what nobody carries out stays as it was."""
    limits = [limits_at(look.pool, decision.now_s) for look, decision in zip(seen, decisions, strict=True)]
    acting = [index for index, look in enumerate(seen) if look.pool.carried_out]
    firm = [decisions[i].current if limits[i].paused or limits[i].hold_scale_down else 0 for i in acting]
    idle = [
        look.pool.gpus_per_pod * d.current for look, d in zip(seen, decisions, strict=True) if not look.pool.carried_out
    ]
    pools = [limits[i].pool for i in acting]
    counts = share_gpus(pools, [decisions[i] for i in acting], gpu_budget - math.fsum(idle), firm)
    for index, count in zip(acting, counts, strict=True):
        look = seen[index]
        if look.observation is not None:
            decisions[index] = cut(look.pool, look.observation, memory.pools[look.pool.name], decisions[index], count)
    return decisions


def _decide(look: Look, state: PoolMemory, now_s: float) -> Decision:
    """The decision for one pool; where there is none, whatever went wrong, the count is held."""
    if look.observation is None:
        why = f"the pool could not be observed ({look.error})"
        held = state.last_replicas if state.last_replicas is not None else look.pool.min_replicas
    else:
        try:
            return decide(look.pool, look.observation, state)
        except Exception as error:  # one pool's settings or readings must not stop the others
            why = f"the decision failed ({type(error).__name__}: {error})"
            held = look.observation.desired
    state.blind = True
    return Decision(look.pool.name, held, Reason.OBSERVE_FAILED, f"hold {held}: {why}", now_s, current=held)


def _look(cluster: Cluster, pool: Pool, now_s: float) -> Look:
    try:
        return Look(pool, cluster.observe(pool, now_s))
    except Exception as error:  # a pool that cannot be seen is held, whatever went wrong
        return Look(pool, None, f"{type(error).__name__}: {error}")


def _act(cluster: Cluster, look: Look, decision: Decision) -> Decision:
    if look.observation is None:
        return decision
    try:
        if decision.replicas != look.observation.desired:
            cluster.scale(look.pool, decision)
        if decision.warm:
            cluster.warm(look.pool, decision.warm)
    except Exception as error:  # the next tick tries again
        text = f"{decision.explanation}; could not act ({type(error).__name__}: {error})"
        decision = replace(decision, reason=Reason.ACT_FAILED, explanation=text)
    return decision
