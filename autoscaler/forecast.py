"""The forecast of one pool: quantiles of the highest demand rate inside the lead window.

Every bin, each expert says the highest mean rate of the next bins; its own errors turn that into quantiles; the
mixture weighs the experts and is calibrated as a whole. Where it does not beat calibrated persistence,
persistence stands in.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from autoscaler.boosted import Boosted
from autoscaler.decision import ForecastView
from autoscaler.experts import make_experts
from autoscaler.mixture import LOSS_HALF_LIFE_DAYS, PERSISTENCE, Blend, Mixture, new_calibrators, outcome_stride
from autoscaler.observation import Floats
from autoscaler.past import Past
from autoscaler.trees import FitTask, Trees

LEARNING_LEVEL = 0.9  # experts are gated and boosted at this quantile, whichever one the pool works with
BURST_SCALES = 4.0  # demand so far above the quantile that was to hold it is a burst
# No quantile is beyond so many times the highest demand that was seen: an error made at a low level, in scales, says
# little of a high one. The first factor holds until so many days of outcomes are known.
HIGHEST_EARLY, HIGHEST, EARLY_DAYS = 1.5, 2.0, 5
BOOSTED_PRIOR = 3.0  # x another expert's, at the levels from LEARNING_LEVEL on, which the trees are fitted for
LEADS_AHEAD = (2, 4, 8, 16)  # that `later` is asked for


@dataclass(frozen=True, slots=True)
class Shape:
    """What a forecaster is built for; another shape needs another forecaster."""

    bin_s: float
    lead_bins: int
    average_bins: int  # demand is averaged over these many bins before its highest value is taken
    seasons: tuple[int, ...]  # in bins, shortest first
    quantiles: tuple[float, ...]  # ascending, 0.5 and LEARNING_LEVEL among them
    working: int  # index of the working quantile


@dataclass(slots=True)
class _Issued:
    """A forecast that waits for its outcome."""

    due: int  # bins seen when its window is over
    scale: float
    points: Floats  # [experts], nan where an expert was silent
    expert_quantiles: Floats  # [experts, quantiles]
    blend: Blend  # of the mixture, gate or no gate
    quantiles: Floats  # [quantiles] as used


class Foresight(Protocol):
    """What a decision asks of a forecaster. Other than `Forecaster` itself: one that reads what a run shared."""

    @property
    def shape(self) -> Shape: ...

    def update(self, rate: float) -> None: ...

    def quantiles(self) -> Floats | None: ...

    def later(self, leads: int) -> float | None: ...

    def view(self) -> ForecastView | None: ...

    @property
    def refit_due(self) -> bool: ...

    def refit_task(self) -> FitTask: ...

    def adopt(self, trees: Trees) -> None: ...


class Forecaster:
    """Fed bin by bin with `update`; `view` and `peak` answer for the bins that follow."""

    def __init__(self, shape: Shape, silent_bins: int = 0, sparse_bins: int = 0) -> None:
        """During the first `silent_bins` bins only the experts learn: nothing is issued and nothing calibrated.

        Until `sparse_bins` bins were seen, forecasts are issued and scored as seldom as their errors are kept, which
        halves the time that a history takes.
        """
        self.shape = shape
        self._silent_bins = silent_bins
        self._sparse_bins = sparse_bins
        day = shape.seasons[0] if shape.seasons else 60 * shape.lead_bins
        self._past = Past.of(shape.lead_bins, shape.seasons, day)
        self._experts = make_experts(shape.seasons, shape.lead_bins, shape.average_bins, self._past)
        self._boosted = Boosted(shape.lead_bins, shape.seasons, len(self._experts), self._past)
        self.names = (*(expert.name for expert in self._experts), Boosted.name)
        self._stride = outcome_stride(day)
        # Persistence stands alone where the mixture fails, so it keeps its coverage by itself. Of the others
        # the mixture as a whole does, and levels that wander would only cost them sharpness.
        adapt_days = [2.0 if index == PERSISTENCE else 0.0 for index in range(len(self.names))]
        self._calibrators = new_calibrators([shape.quantiles for _ in self.names], day, adapt_days)
        self._learning = shape.quantiles.index(LEARNING_LEVEL)
        prior = np.ones((len(self.names), len(shape.quantiles)))
        prior[-1, self._learning :] = BOOSTED_PRIOR
        self._mixture = Mixture(shape.quantiles, self._learning, prior, day)
        self._forget = 0.5 ** (1.0 / max(20.0, min(day, 1440) * LOSS_HALF_LIFE_DAYS))
        self._covered = 0.0
        self._burst_bins = 0  # for so many bins more a burst is on
        self._recent: deque[float] = deque(maxlen=max(shape.average_bins, 1))
        self._averages: deque[float] = deque(maxlen=shape.lead_bins)
        self._pending: deque[_Issued] = deque()
        self._mean = math.nan
        self._mean_forget = 1.0 / max(day, 20)
        self._outcomes_to_come = EARLY_DAYS * day
        self.seen = 0
        self._current: _Issued | None = None

    def update(self, rate: float) -> None:
        """The next bin's rate in requests/s, nan without data."""
        self.seen += 1
        self._recent.append(rate)
        known = [value for value in self._recent if value == value]
        level = sum(known) / len(known) if 2 * len(known) >= len(self._recent) and known else math.nan
        if rate == rate:
            step = max(self._mean_forget, 1.0 / self.seen)
            self._mean = rate if math.isnan(self._mean) else self._mean + step * (rate - self._mean)
        to_come = self._sparse_bins - self.seen
        self._past.add(level)
        for expert in self._experts:
            expert.update(rate, level)
        self._averages.append(level)
        outcome = self._outcome()
        self._boosted.update(self.seen, level, outcome)
        while self._pending and self._pending[0].due <= self.seen:
            self._learn(self._pending.popleft(), outcome)
        issuing = self.seen > self._silent_bins and (to_come <= 0 or self.seen % self._stride == 0)
        if issuing or self.seen % self._boosted.stride == 0:
            self._look_ahead(level, issuing)

    def _outcome(self) -> float:
        """The highest level of the lead that ends now; nan where half of it or more is not known."""
        values = [value for value in self._averages if value == value]
        return max(values) if 2 * len(values) >= self.shape.lead_bins and values else math.nan

    def _look_ahead(self, level: float, issuing: bool) -> None:
        """Ask every expert; keep the answers for the next fit, and issue a forecast where one is wanted."""
        peaks = [expert.peak(self.shape.lead_bins) for expert in self._experts]
        points = np.array([math.nan if peak is None else peak for peak in peaks])
        start = float(points[PERSISTENCE])
        if start != start:
            return
        scale = self._scale(start)
        row = self._boosted.row(self.seen, start, scale, self._mean, points)
        if self.seen % self._boosted.stride == 0:
            self._boosted.keep(self.seen, row, start, scale)
        if issuing:
            boosted = self._boosted.peak(row, start, scale)
            self._current = self._issue(np.append(points, boosted), scale)
            self._pending.append(self._current)

    def _scale(self, level: float) -> float:
        """Size of an ordinary error: that of counting Poisson arrivals and a tenth of the level, together."""
        base = max(level, 0.0) + 0.1 * max(self._mean, 0.0)
        averaged_s = self.shape.bin_s * self.shape.average_bins
        return math.sqrt(base / averaged_s + (0.1 * base) ** 2) + 1e-9

    def _issue(self, points: Floats, scale: float) -> _Issued:
        expert_quantiles = np.maximum(points[:, None] + scale * self._calibrators.offsets(), 0.0)
        # What the trees say is this quantile already; what their late errors add is believed by half.
        said = max(float(points[-1]), float(expert_quantiles[-1, 0]))
        expert_quantiles[-1, self._learning] = (expert_quantiles[-1, self._learning] + said) / 2.0
        blend = self._mixture.blend(self.seen, points, expert_quantiles, scale)
        gated = self._mixture.gated
        used = np.maximum.accumulate(expert_quantiles[PERSISTENCE]) if gated else blend.quantiles
        factor = HIGHEST_EARLY if self._outcomes_to_come > 0 else HIGHEST
        used = np.minimum(used, factor * self._past.highest + scale)
        return _Issued(self.seen + self.shape.lead_bins, scale, points, expert_quantiles, blend, used)

    def _learn(self, issued: _Issued, actual: float) -> None:
        self._burst_bins = max(0, self._burst_bins - 1)
        self._outcomes_to_come -= self._stride if self._sparse_bins > issued.due else 1
        if actual != actual:
            return
        if actual > float(issued.quantiles[self.shape.working]) + BURST_SCALES * issued.scale:
            # What lifted demand is in no expert's past, so nothing says that it will end soon.
            self._burst_bins = self.shape.lead_bins
        self._calibrators.update((actual - issued.points) / issued.scale, actual <= issued.expert_quantiles)
        then = issued.due - self.shape.lead_bins
        self._mixture.learn(then, issued.blend, issued.points, issued.expert_quantiles, issued.scale, actual)
        self._covered = self._forget * self._covered + float(actual <= issued.quantiles[self.shape.working])

    @property
    def refit_due(self) -> bool:
        """A day of rows came since the last fit was asked for, and enough of them."""
        return self._boosted.due

    def refit_task(self) -> FitTask:
        """Values for a fit of the boosted expert; whoever runs it hands the trees to `adopt`."""
        return self._boosted.task(LEARNING_LEVEL)

    def adopt(self, trees: Trees) -> None:
        """Trees of a fit, used from the next bin on."""
        self._boosted.adopt(trees)

    @property
    def skill(self) -> float | None:
        return None if self._mixture.outcomes < 10.0 else self._mixture.skill

    @property
    def coverage(self) -> float | None:
        outcomes = self._mixture.outcomes
        return None if outcomes < 10.0 else float(self._covered / outcomes)

    def quantiles(self) -> Floats | None:
        """[quantiles] requests/s, the highest inside the lead window; None before the first datum."""
        return None if self._current is None else self._current.quantiles

    def reference(self) -> Floats | None:
        """[quantiles] what calibrated persistence says of the same: the bar to beat."""
        return None if self._current is None else self._current.expert_quantiles[PERSISTENCE]

    def later(self, leads: int) -> float | None:
        """Median of the highest demand over so many leads; of two: by the time another pod could be ready."""
        issued = self._current
        if issued is None:
            return None
        middle = self.shape.quantiles.index(0.5)
        median, point = float(issued.quantiles[middle]), float(issued.blend.points[middle])
        if self._mixture.gated:
            return max(median, float(issued.points[PERSISTENCE]))
        total, weight = 0.0, 0.0
        for expert, share in zip(self._experts, self._mixture.weights[:, middle].tolist(), strict=False):
            if share > 0.01:
                value = expert.peak(leads * self.shape.lead_bins)
                if value is not None:
                    total += share * value
                    weight += share
        longer = total / weight if weight else point
        return max(median, longer + median - point)

    def view(self) -> ForecastView | None:
        """What the forecast is and how far it is to be trusted; None before the first datum."""
        issued = self._current
        if issued is None:
            return None
        gated, weights = self._mixture.gated, self._mixture.weights[:, self.shape.working]
        weights = np.eye(len(self.names))[PERSISTENCE] if gated else weights
        return ForecastView(
            quantiles={q: float(v) for q, v in zip(self.shape.quantiles, issued.quantiles, strict=True)},
            working_quantile=self.shape.quantiles[self.shape.working],
            weights={name: float(w) for name, w in zip(self.names, weights, strict=True)},
            coverage=self.coverage,
            skill=self.skill,
            gated=gated,
            burst=self._burst_bins > 0,
        )


def shape_for(
    mean_count: float, bin_s: float, lead_s: float, season_s: Sequence[float], quantile: float, average_s: float | None
) -> Shape:
    """The shape for a demand of `mean_count` arrivals a bin.

    Demand is averaged over as many bins as hold about 100 arrivals, at most half a lead: the capacity model knows
    that arrivals scatter, the forecast must not count the same scatter twice.
    """
    lead = max(1, round_up(math.ceil(lead_s / bin_s - 1e-9)))
    if average_s is None:
        wanted = math.ceil(100.0 / max(mean_count, 1e-9)) if mean_count > 0 else 1
        average = max(1, min(wanted, lead // 2))
    else:
        average = max(1, round(average_s / bin_s))
    levels = tuple(sorted({0.5, LEARNING_LEVEL, quantile}))
    seasons = tuple(bins for bins in sorted({round(s / bin_s) for s in season_s}) if bins > 2 * lead)
    return Shape(bin_s, lead + average // 2, average, seasons, levels, levels.index(quantile))


def round_up(bins: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, …, so that a lead which wanders a little keeps its forecaster."""
    step = 1
    while bins > 4 * step:
        step *= 2
    return -(-bins // step) * step
