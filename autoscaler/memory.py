"""What is remembered of one pool between two ticks."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from autoscaler.backlog import StandingLine
from autoscaler.decision import PlaceAsk
from autoscaler.flaps import Flaps
from autoscaler.forecast import Forecaster, Foresight, Shape
from autoscaler.observation import Observation
from autoscaler.pacing import Budget
from autoscaler.pool import ForecastSettings, Pool
from autoscaler.scenes import SceneShares
from autoscaler.warmup import WarmMemory


@dataclass
class PlaceMemory:
    """What is remembered of the places that a pool has on nodes ahead of its pods."""

    since_s: float | None = None  # since when some are asked for and no pod came; None: none are
    replicas: int = 0  # count at that time
    ask: PlaceAsk | None = None  # the last one, which holds while nothing is known


@dataclass
class Feeding:
    """A forecaster, how far it was fed, and what is to follow it."""

    forecaster: Foresight | None = None
    new_forecaster: Callable[[Shape, int, int], Foresight] = Forecaster  # shape, silent and sparse bins
    fed_until_s: float = -math.inf  # end of the last bin that the forecaster was fed
    successor: Foresight | None = None  # of another shape, still catching up with the history
    successor_until_s: float = -math.inf
    # What the forecaster's shape followed from, its mean demand apart; None while another one is on its way.
    shape_inputs: tuple[ForecastSettings, float, float, float] | None = None
    building: bool = False  # the first forecaster is not done: nothing is known of the hours ahead
    allowance_bins: float = math.inf  # that may be fed to forecasters that catch up, in this tick
    unread: tuple[Pool, Observation, float] | None = None  # with the lead: a history of which the first forecaster
    # has read a part


@dataclass
class PoolMemory(Feeding):
    """What the policy remembers of one pool between ticks, the forecaster of its lead first."""

    ahead: Feeding = field(default_factory=Feeding)  # looks as much further as a node takes, where nodes are asked for
    correction: float = 1.0  # of the service time, learned from the waiting that was observed
    # (now_s, count wanted) of the settling window: each count with none as high after it, so the first is the highest.
    wants: deque[tuple[float, int]] = field(default_factory=deque)
    wanted_s: float | None = None  # when it was last known what is wanted; None: never yet
    blind: bool = False  # and not since
    line: StandingLine = field(default_factory=StandingLine)
    flaps: Flaps = field(default_factory=Flaps)
    last_replicas: int | None = None
    seen_s: float = -math.inf  # when the pool was last decided for
    last_desired: int | None = None  # replicas in the spec a tick ago
    shares: SceneShares | None = None
    budget: Budget = field(default_factory=Budget)  # of late requests
    places: PlaceMemory = field(default_factory=PlaceMemory)
    warm: WarmMemory = field(default_factory=WarmMemory)
