"""The demand history of an observation, fed to the forecaster bin by bin without repeating or losing one."""

from __future__ import annotations

import numpy as np

from autoscaler.forecast import Forecaster, Shape, shape_for
from autoscaler.memory import PoolMemory
from autoscaler.observation import Floats, Observation
from autoscaler.pool import Pool


def feed(pool: Pool, observation: Observation, memory: PoolMemory, lead_s: float) -> Forecaster | None:
    """The pool's forecaster, up to date with the observation; None before there is a bin.

    A forecaster whose shape no longer fits (another bin length, a start-up that changed) is built anew from the
    history that the observation carries, so a restart loses nothing that the source of the demand still has.
    """
    rates = observation.demand / observation.bin_s
    if rates.size == 0:
        return None
    shape = _shape(pool, observation, lead_s)
    end_s = observation.now_s - observation.data_age_s
    forecaster = memory.forecaster
    if forecaster is None or not _fits(forecaster, shape):
        forecaster = _build(shape, rates)
        memory.forecaster = forecaster
    else:
        new = round((end_s - memory.fed_until_s) / shape.bin_s)
        if new > 4 * rates.size + 100:
            forecaster = memory.forecaster = _build(shape, rates)
        elif new > 0:
            lost = max(0, new - rates.size)
            for rate in [float("nan")] * lost + rates[rates.size - (new - lost) :].tolist():
                forecaster.update(rate)
    memory.fed_until_s = end_s
    return forecaster


def _shape(pool: Pool, observation: Observation, lead_s: float) -> Shape:
    known = observation.demand[np.isfinite(observation.demand)]
    day = max(1, round(min(pool.forecast.season_s, default=86_400.0) / observation.bin_s))
    settings = pool.forecast
    return shape_for(
        mean_count=float(known[-day:].mean()) if known.size else 0.0,
        bin_s=observation.bin_s,
        lead_s=lead_s + min(observation.data_age_s, observation.bin_s),
        season_s=settings.season_s,
        quantile=settings.quantile,
        average_s=settings.average_s,
    )


def _fits(forecaster: Forecaster, shape: Shape) -> bool:
    """Rebuild when the lead grew, when it shrank by a third, or when bins or seasons are others."""
    old = forecaster.shape
    if (old.bin_s, old.seasons, old.quantiles) != (shape.bin_s, shape.seasons, shape.quantiles):
        return False
    return 0.66 * old.lead_bins <= shape.lead_bins <= old.lead_bins


def _build(shape: Shape, rates: Floats) -> Forecaster:
    """Experts see the whole history, calibration its last three seasons: enough to trust, and bounded."""
    forecaster = Forecaster(shape)
    day = shape.seasons[0] if shape.seasons else 60
    silent = max(0, rates.size - max(3 * day, 300))
    for index, rate in enumerate(rates.tolist()):
        forecaster.update(rate, issue=index >= silent)
    return forecaster
