"""A cluster that nothing is done to: decisions from real demand, printed and exported, carried out by nobody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoscaler.answers import HPA_TOLERANCE
from autoscaler.decision import Decision, WarmAsk
from autoscaler.demand import DemandSource, Outcome
from autoscaler.observation import Observation
from autoscaler.pool import Pool

PATIENCE_LEADS = 2.0  # fewer pods may be ready for so long than stand; then the count is taken for another's


@dataclass(slots=True)
class _Stands:
    """The count that a target is taken to have where its ready pods alone are seen."""

    count: int
    since_s: float  # so many were ready then, or were asked for
    in_vain: int = 0  # so many were asked for and did not come: a limit that we do not see

    def see(self, ready: int, now_s: float, patience_s: float) -> None:
        """A pod that starts, or is unready for a moment, still stands."""
        if ready < self.count:
            if now_s - self.since_s <= patience_s:
                return
            self.in_vain = self.count
        elif ready > self.count:
            self.in_vain = 0
        self.count, self.since_s = ready, now_s

    def believes(self, asked: int) -> bool:
        """Whether an ask is taken for carried out: an HPA ignores a small step up until it is told a larger one."""
        return not self.count < asked <= max(self.in_vain, (1.0 + HPA_TOLERANCE) * self.count)


class ShadowCluster:
    """Implements `Cluster` over a source of demand.

    The count that a decision starts from is the pods that the gateway sees ready; where nobody counts pods, it is
    what the last decision asked for, as if it had been carried out. Where somebody carries it out, pods that are asked
    for or were ready a moment ago stand as well, so that to hold is no step down.
    """

    def __init__(self, pools: Sequence[Pool], source: DemandSource, carried_out: bool = False) -> None:
        self._pools = list(pools)
        self._source = source
        self._carried_out = carried_out
        self._stands: dict[str, _Stands] = {}
        self.outcomes: dict[str, Outcome] = {}

    def pools(self) -> Sequence[Pool]:
        return self._pools

    def observe(self, pool: Pool, now_s: float) -> Observation:
        reading = self._source.read(pool, now_s)
        self.outcomes[pool.name] = reading.outcome
        stands = self._stands.setdefault(pool.name, _Stands(pool.min_replicas, now_s))
        if self._carried_out and reading.ready is not None:
            stands.see(reading.ready, now_s, PATIENCE_LEADS * (pool.startup_s + pool.tick_s))
        ready = reading.ready if reading.ready is not None else stands.count
        good = reading.outcome in (Outcome.OK, Outcome.RESET)
        return Observation(
            pool=pool.name,
            now_s=now_s,
            bin_s=self._source.bin_s,
            demand=reading.demand,
            ready=ready,
            desired=stands.count if self._carried_out else ready,
            pending=reading.pending,
            queue_to_compute=reading.queue_to_compute,
            served=reading.served,
            late=reading.late,
            service=reading.service,
            data_age_s=0.0 if math.isnan(reading.end_s) else max(0.0, now_s - reading.end_s),
            scene_demand=reading.scene_demand,
            trusted=good,
            note=reading.detail if good else f"{reading.outcome}: {reading.detail}",
        )

    def scale(self, pool: Pool, decision: Decision) -> None:
        if not self._carried_out or self._stands[pool.name].believes(decision.replicas):
            self._stands[pool.name] = _Stands(decision.replicas, decision.now_s)

    def warm(self, pool: Pool, asks: Sequence[WarmAsk]) -> None:
        del pool, asks
