"""One tick: observe, decide, act. The cluster is a Protocol, time is an argument.

Kubernetes, the simulator and the local fleet implement `Cluster`, and `tick` cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from autoscaler.decision import Decision, ForecastView, Reason, WarmAsk
from autoscaler.memory import PoolMemory
from autoscaler.observation import NodeState, Observation, PodState, ServiceTime, StartingPod
from autoscaler.policy import decide
from autoscaler.pool import Behavior, ForecastSettings, Mode, Objective, Pool, Triggers

__all__ = [
    "Behavior",
    "Cluster",
    "Decision",
    "ForecastSettings",
    "ForecastView",
    "Memory",
    "Mode",
    "NodeState",
    "Objective",
    "Observation",
    "PodState",
    "Pool",
    "Reason",
    "ServiceTime",
    "StartingPod",
    "Triggers",
    "WarmAsk",
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


@dataclass
class Memory:
    """What the loop remembers between ticks: one entry a pool."""

    pools: dict[str, PoolMemory] = field(default_factory=dict)


def tick(cluster: Cluster, memory: Memory, now_s: float) -> list[Decision]:
    """Observe, decide and act once for every pool; one pool's failure does not stop another."""
    decisions = []
    for pool in cluster.pools():
        state = memory.pools.setdefault(pool.name, PoolMemory())
        decisions.append(_tick_pool(cluster, pool, state, now_s))
    return decisions


def _tick_pool(cluster: Cluster, pool: Pool, state: PoolMemory, now_s: float) -> Decision:
    try:
        observation = cluster.observe(pool, now_s)
    except Exception as error:  # a pool that cannot be seen is held, whatever went wrong
        held = state.last_replicas if state.last_replicas is not None else pool.min_replicas
        text = f"hold {held}: the pool could not be observed ({type(error).__name__}: {error})"
        return Decision(pool.name, held, Reason.OBSERVE_FAILED, text, now_s, current=held)
    decision = decide(pool, observation, state)
    try:
        if decision.replicas != observation.desired:
            cluster.scale(pool, decision)
        if decision.warm:
            cluster.warm(pool, decision.warm)
    except Exception as error:  # the next tick tries again
        text = f"{decision.explanation}; could not act ({type(error).__name__}: {error})"
        decision = replace(decision, reason=Reason.ACT_FAILED, explanation=text)
    return decision
