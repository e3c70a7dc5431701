"""Places on nodes for pods that are not asked for yet: the stage of the warm-up that takes longest.

A pod is asked for a lead before it is needed. Where it would also need a node, that node is asked for as much earlier
as a node takes: by the median of the highest demand until then, because a node that nobody comes to is dear.
"""

from __future__ import annotations

import numpy as np

from autoscaler.capacity import replicas_for
from autoscaler.decision import PlaceAsk, Reason
from autoscaler.evidence import Evidence, upper_quantile
from autoscaler.history import feed
from autoscaler.memory import PlaceMemory, PoolMemory
from autoscaler.observation import Floats, Observation
from autoscaler.pool import Pool

GIVE_UP = 2.0  # x the time ahead: places that no pod came to in so long are not asked for any more

# Pods are wanted that get no machine or may not be had: more places would only wait beside them.
_NO_PLACES = frozenset({Reason.STOCK_OUT, Reason.GPU_BUDGET, Reason.PAUSED, Reason.AT_MAX})


def plan_places(
    pool: Pool, observation: Observation, memory: PoolMemory, evidence: Evidence, replicas: int, reason: Reason
) -> PlaceAsk | None:
    """The places to have ready beside `replicas`, decided for `reason`; None where no more pods are foreseen."""
    if pool.node_startup_s is None:
        return None
    held, now_s = memory.places, observation.now_s
    if evidence.blind is None:
        node_s = upper_quantile(observation.node_s, pool.startup_quantile, pool.node_startup_s)
        ahead_s = evidence.lead_s + node_s
        needed = _needed(pool, observation, memory, evidence, ahead_s)
        count = min(needed, pool.max_replicas) - replicas
        if evidence.stuck or reason in _NO_PLACES:
            count = 0
        until_s = _until(held, now_s, count, replicas, GIVE_UP * ahead_s)
        held.ask = PlaceAsk(count, until_s, ahead_s) if until_s is not None else None
    return held.ask if held.ask is not None and held.ask.until_s > now_s else None


def _needed(pool: Pool, observation: Observation, memory: PoolMemory, evidence: Evidence, ahead_s: float) -> int:
    """Pods for the median of the highest demand within `ahead_s`; 0 without a forecast that beats persistence."""
    if evidence.view is None:
        return 0
    memory.ahead.allowance_bins = memory.allowance_bins
    forecaster = feed(pool, observation, memory.ahead, ahead_s)
    memory.allowance_bins = memory.ahead.allowance_bins
    quantiles = forecaster.quantiles() if forecaster is not None else None
    view = forecaster.view() if forecaster is not None else None
    if forecaster is None or quantiles is None or view is None or view.gated:
        return 0
    shape = forecaster.shape
    median = float(quantiles[shape.quantiles.index(0.5)])
    # What was never needed is no reason for a node: pods that are asked for bring theirs.
    foreseen = min(median, _highest(observation.demand, shape.average_bins) / shape.bin_s)
    return replicas_for(foreseen, evidence.service, evidence.objective, pool.max_replicas + 1)


def _highest(demand: Floats, bins: int) -> float:
    """The highest mean of so many bins of the history; bins without data count as none."""
    known = np.where(np.isfinite(demand) & (demand >= 0), demand, 0.0)
    if known.size < bins:
        return 0.0
    sums = np.concatenate((np.zeros(1), np.cumsum(known)))
    return float((sums[bins:] - sums[:-bins]).max() / bins)


def _until(memory: PlaceMemory, now_s: float, count: int, replicas: int, patience_s: float) -> float | None:
    """When the ask ends, whatever is foreseen then: a pod that came begins it anew."""
    if count <= 0:
        memory.since_s = None
        return None
    if memory.since_s is None or replicas > memory.replicas:
        memory.since_s = now_s
    memory.replicas = replicas
    return memory.since_s + patience_s


def told(places: PlaceAsk) -> str:
    """The ask in words."""
    return f"places on nodes for {places.count} more, wanted within {places.ahead_s:.3g} s"
