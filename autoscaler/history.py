"""The demand history of an observation, fed to the forecaster bin by bin without repeating or losing one."""

from __future__ import annotations

import math

import numpy as np

from autoscaler.forecast import Foresight, Shape, shape_for
from autoscaler.memory import Feeding
from autoscaler.observation import Floats, Observation
from autoscaler.pool import Pool

BINS_AT_ONCE = 600  # a rebuild that is longer goes on over several ticks


def feed(pool: Pool, observation: Observation, memory: Feeding, lead_s: float) -> Foresight | None:
    """The pool's forecaster, up to date with the observation; None before there is a bin.

    A forecaster whose shape no longer fits (another bin length, a start-up that changed) is built anew from the
    history that the observation carries, so a restart loses nothing that the source of the demand still has.
    """
    counts = observation.demand
    if counts.size == 0:
        return None
    end_s = observation.now_s - observation.data_age_s
    current = memory.forecaster
    inputs = (pool.forecast, pool.tick_s, lead_s, observation.bin_s)
    if (
        current is not None
        and inputs == memory.shape_inputs
        and not _new_bins(memory.fed_until_s, end_s, observation.bin_s)
    ):
        memory.fed_until_s = end_s
        return current  # most ticks bring no bin
    shape = _shape(pool, observation, lead_s)
    if current is None or current.shape.bin_s != shape.bin_s or _lost(memory.fed_until_s, end_s, counts, shape.bin_s):
        current = _succeed(None, shape, counts, end_s, memory)
    else:
        _extend(current, counts, _new_bins(memory.fed_until_s, end_s, shape.bin_s))
        current = _succeed(current, shape, counts, end_s, memory)
    memory.forecaster, memory.fed_until_s, memory.building = current, end_s, current is None
    memory.shape_inputs = inputs if memory.successor is None else None
    memory.unread = (pool, observation, lead_s) if current is None else None
    return current


def read_on(memory: Feeding, bins: int) -> int:
    """Feed up to `bins` more of a history that a tick could not feed whole; how many were.

    In whichever pieces a history is read, what comes of it is the same.
    """
    if memory.unread is None:
        return 0
    memory.allowance_bins = bins
    feed(memory.unread[0], memory.unread[1], memory, memory.unread[2])
    return bins - int(memory.allowance_bins)


def _succeed(
    current: Foresight | None, shape: Shape, counts: Floats, end_s: float, memory: Feeding
) -> Foresight | None:
    """The forecaster to use from now on, where another shape is wanted: the successor once it has caught up.

    The first one may take all that the tick allows; a later one goes slowly, beside the one that it replaces.
    """
    if current is not None and _fits(current, shape):
        memory.successor = None
        return current
    if memory.successor is None or not _fits(memory.successor, shape):
        memory.successor = _begin(shape, counts, memory)
        memory.successor_until_s = end_s - counts.size * shape.bin_s
    behind = _new_bins(memory.successor_until_s, end_s, shape.bin_s)
    step = int(min(behind, memory.allowance_bins, math.inf if current is None else BINS_AT_ONCE))
    memory.allowance_bins -= step
    _extend(memory.successor, counts, behind, step)
    memory.successor_until_s += step * shape.bin_s
    if step < behind:
        return current
    current, memory.successor = memory.successor, None
    return current


def _begin(shape: Shape, counts: Floats, memory: Feeding) -> Foresight:
    """Experts see the whole history, calibration its last three seasons: enough to trust, and bounded."""
    day = shape.seasons[0] if shape.seasons else 60
    silent = max(0, counts.size - max(3 * day, 300))
    return memory.new_forecaster(shape, silent, counts.size if silent else 0)  # of a short one every outcome is needed


def _extend(forecaster: Foresight, counts: Floats, behind: int, step: int | None = None) -> None:
    """Feed the first `step` of the last `behind` bins (all of them without it); bins before the history are nan."""
    if behind <= 0:
        return
    missing = max(0, behind - counts.size)
    bins = counts[counts.size - (behind - missing) :][: None if step is None else max(0, step - missing)]
    bin_s = forecaster.shape.bin_s
    for _ in range(missing if step is None else min(missing, step)):
        forecaster.update(math.nan)
    # A count that cannot be one (negative, infinite) is a bin without data.
    for count in bins.tolist():
        forecaster.update(count / bin_s if 0 <= count < math.inf else math.nan)


def _new_bins(until_s: float, end_s: float, bin_s: float) -> int:
    if math.isinf(until_s):
        return 0
    return max(0, round((end_s - until_s) / bin_s))


def _lost(until_s: float, end_s: float, counts: Floats, bin_s: float) -> bool:
    """So long ago that what the history holds now is worth more than what was learned then."""
    return _new_bins(until_s, end_s, bin_s) > 2 * counts.size + 100


def _shape(pool: Pool, observation: Observation, lead_s: float) -> Shape:
    day = max(1, round(pool.forecast.day_s / observation.bin_s))
    settings = pool.forecast
    return shape_for(
        mean_count=_mean(observation.demand[-day:]),
        bin_s=observation.bin_s,
        # The newest bin is up to so old when a tick looks at it. Its age itself goes up and down within each bin, and
        # a lead that follows it may begin a longer forecaster and drop it again, for ever.
        lead_s=lead_s + max(0.0, observation.bin_s - pool.tick_s),
        season_s=settings.season_s,
        quantile=settings.quantile,
        average_s=settings.average_s,
    )


def _mean(counts: Floats) -> float:
    """Of the bins that have data; 0 without one."""
    if np.minimum.reduce(counts) >= 0.0 and (total := float(np.add.reduce(counts))) < math.inf:
        return total / counts.size  # all have, as nearly always: a tick should not pay for more
    known = counts[np.isfinite(counts) & (counts >= 0)]
    return float(known.mean()) if known.size else 0.0


def _fits(forecaster: Foresight, shape: Shape) -> bool:
    """Rebuild when the lead grew, when it shrank by a third, or when bins or seasons are others."""
    old = forecaster.shape
    if (old.bin_s, old.seasons, old.quantiles) != (shape.bin_s, shape.seasons, shape.quantiles):
        return False
    return 0.66 * old.lead_bins <= shape.lead_bins <= old.lead_bins
