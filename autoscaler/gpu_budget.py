"""More GPUs are wanted than there are: who gets them, by priority, without taking what serves today's demand."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoscaler.decision import Decision, Reason
from autoscaler.pool import Pool

HELD = frozenset({Reason.NO_DATA, Reason.STALE, Reason.BLIND, Reason.OBSERVE_FAILED})


def share_gpus(
    pools: Sequence[Pool], decisions: Sequence[Decision], budget: float, firm: Sequence[int] = ()
) -> list[int]:
    """Replicas for each pool within `budget` GPUs: minimums, then what reacting needs, then what is foreseen.

    Inside a step a higher priority is served first, equal ones in turn, one pod each. A pool that is held because it
    cannot be seen keeps what it has before any other pool grows. `firm` [pools] is had whatever the budget says.
    """
    wanted = [max(decision.replicas, 0) for decision in decisions]
    given = list(firm) or [0] * len(pools)
    if sum(pool.gpus_per_pod * max(each) for pool, *each in zip(pools, wanted, given, strict=True)) <= budget + 1e-9:
        return wanted
    held = [d.replicas if d.reason in HELD else 0 for d in decisions]
    steps = (
        [min(pool.min_replicas, want) for pool, want in zip(pools, wanted, strict=True)],
        held,
        [min(decision.floor, want) for decision, want in zip(decisions, wanted, strict=True)],
        wanted,
    )
    left = budget - math.fsum(pool.gpus_per_pod * count for pool, count in zip(pools, given, strict=True))
    for step in steps:
        for priority in sorted({pool.priority for pool in pools}, reverse=True):
            members = [index for index, pool in enumerate(pools) if pool.priority == priority]
            left = _fill(pools, members, step, given, left)
    return given


def _fill(pools: Sequence[Pool], members: Sequence[int], goal: Sequence[int], given: list[int], left: float) -> float:
    """Give `members` their goal, all by the same share where it does not suffice; answers what is left."""
    while True:
        short = [i for i in members if given[i] < goal[i] and pools[i].gpus_per_pod <= left + 1e-9]
        if not short:
            return left
        # A whole round at once where it fits: a thousand pods must not take a thousand rounds.
        cost = math.fsum(pools[i].gpus_per_pod for i in short)
        rounds = max(1, min(int(left // cost), *(goal[i] - given[i] for i in short)))
        for i in short:
            if pools[i].gpus_per_pod * rounds <= left + 1e-9:
                given[i] += rounds
                left -= pools[i].gpus_per_pod * rounds
