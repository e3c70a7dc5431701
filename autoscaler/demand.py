"""Where demand comes from: what a source answers, and the word for how good the answer is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np

from autoscaler.observation import Floats, ServiceTime
from autoscaler.pool import Pool
from fleet.scene import SceneId


class Outcome(StrEnum):
    """How a reading went. Only `ok` and `reset` bring fresh demand."""

    OK = "ok"
    RESET = "reset"  # a counter began again; what is left of the interval was counted
    NO_DATA = "no_data"  # the source answers and knows nothing of this pool
    STALE = "stale"  # the newest bin with data is over three bins old
    PARTIAL = "partial"  # the source warned that its answer may not be whole
    BAD_VALUE = "bad_value"  # negative, infinite, twice, in the future, of another shape
    UNREACHABLE = "unreachable"  # refused, timed out, an HTTP error, not the expected text


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source knows of one pool now. Demand that was read before stays in it when a reading fails."""

    outcome: Outcome
    detail: str = ""  # why not ok, in one line
    demand: Floats = field(default_factory=lambda: np.zeros(0))  # [bins] arrivals, oldest first, nan = no data
    end_s: float = math.nan  # end of the last bin, Unix seconds
    scene_demand: Mapping[SceneId, float] = field(default_factory=dict)
    pending: float | None = None
    queue_to_compute: float | None = None
    service: ServiceTime | None = None
    ready: int | None = None
    served: float | None = None  # requests whose render began since a tick ago
    late: float | None = None  # of these, how many had waited longer than the objective


class DemandSource(Protocol):
    """Prometheus, or a direct scrape of gateway and exporters."""

    bin_s: float

    def read(self, pool: Pool, now_s: float) -> Reading:
        """What is known now. Never raises for a world that misbehaves: the outcome says it."""


def judge(demand: Floats, end_s: float, bin_s: float, now_s: float) -> tuple[Outcome, str]:
    """Outcome of a history by what it holds: nothing, nothing new, or data."""
    known = np.flatnonzero(np.isfinite(demand))
    if known.size == 0:
        return Outcome.NO_DATA, "no arrivals of this pool are known"
    age_s = now_s - (end_s - (demand.size - 1 - int(known[-1])) * bin_s)
    if age_s > 3 * bin_s:
        return Outcome.STALE, f"the newest demand is {age_s:.0f} s old"
    return Outcome.OK, ""
