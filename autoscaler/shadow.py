"""A cluster that nothing is done to: decisions from real demand, printed and exported, carried out by nobody."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoscaler.decision import Decision, WarmAsk
from autoscaler.demand import DemandSource, Outcome
from autoscaler.observation import Observation
from autoscaler.pool import Pool


class ShadowCluster:
    """Implements `Cluster` over a source of demand.

    The count that a decision starts from is the pods that the gateway sees ready; where nobody counts pods, it is
    what the last decision asked for, as if it had been carried out.
    """

    def __init__(self, pools: Sequence[Pool], source: DemandSource) -> None:
        self._pools = list(pools)
        self._source = source
        self._asked: dict[str, int] = {}
        self.outcomes: dict[str, Outcome] = {}

    def pools(self) -> Sequence[Pool]:
        return self._pools

    def observe(self, pool: Pool, now_s: float) -> Observation:
        reading = self._source.read(pool, now_s)
        self.outcomes[pool.name] = reading.outcome
        count = reading.ready if reading.ready is not None else self._asked.get(pool.name, pool.min_replicas)
        good = reading.outcome in (Outcome.OK, Outcome.RESET)
        return Observation(
            pool=pool.name,
            now_s=now_s,
            bin_s=self._source.bin_s,
            demand=reading.demand,
            ready=count,
            desired=count,
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
        self._asked[pool.name] = decision.replicas

    def warm(self, pool: Pool, asks: Sequence[WarmAsk]) -> None:
        del pool, asks
