"""The mixture of experts: weighed by their recent pinball loss, each quantile by its own, and calibrated as a whole.

Who foresees the middle of what may come is not who foresees its edge, so every quantile has weights of its own. Where
the mixture does not beat calibrated persistence, persistence stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from autoscaler.conformal import Calibrators
from autoscaler.observation import Floats
from autoscaler.volatility import Volatility

PERSISTENCE = 0  # index of the expert that is always a member
WEIGHT_RATE = 15.0  # an expert that loses a fifteenth more of persistence's loss gets e^-1 of the weight
LOSS_HALF_LIFE_DAYS = 1.0
GATE_HALF_LIFE_DAYS = 7.0  # of the gate's second memory: five mornings foreseen outweigh a false alarm on Saturday
MARGIN_RATE = 40.0  # the same for the two margins of the mixture, which differ less
MOST_LOSS = 20.0  # x persistence's mean: what one outcome can cost an expert
# Of the loss of ordinary errors, which that mean is not taken to be below: where nights are empty persistence loses
# next to nothing, and to miss every morning must cost more than to foresee it within a tenth.
LEAST_LOSS = 0.2
FEWEST_OUTCOMES = 20  # before the mixture's own errors say anything
CALIBRATED = 0.7  # share of the mixture's own errors in its margin; the rest is what the experts' quantiles say
# What the mixture's coverage lacks is answered by a sum of all misses, slowly, and by those of the last hours.
SLOW_DAYS, GAIN, GAIN_MEMORY_DAYS = 0.5, 1.5, 0.33


@dataclass(frozen=True, slots=True)
class Blend:
    """What the mixture says of one window."""

    points: Floats  # [levels] the experts' points, by the weights of each level
    spreads: Floats  # [2] scale of the margin: the same all day, by time of day
    margins: Floats  # [2, levels] quantiles by either
    quantiles: Floats  # [levels]


class Mixture:
    """Fed with what every expert said and what came of it; all values of one window come with its scale."""

    def __init__(self, levels: Sequence[float], learning: int, prior: Floats, day: int) -> None:
        """`learning` is the index of the level whose loss opens and closes the gate, `day` is in bins.

        `prior` [experts, levels]: how much each expert is believed where all lose as much.
        """
        self._levels = np.asarray(levels, dtype=np.float64)
        self._learning = learning
        rows = [[level] for _ in range(2) for level in levels]  # of either margin
        self._calibrators = Calibrators(
            rows, _window(day), _gamma(day, SLOW_DAYS), outcome_stride(day), GAIN, GAIN_MEMORY_DAYS * day
        )
        self._volatility = Volatility(day)
        self._forget = 0.5 ** (1.0 / max(20.0, min(day, 1440) * LOSS_HALF_LIFE_DAYS))
        self._gate_forget = self._forget ** (LOSS_HALF_LIFE_DAYS / GATE_HALF_LIFE_DAYS)
        normal = NormalDist()
        self._least = MOST_LOSS * LEAST_LOSS * np.array([normal.pdf(normal.inv_cdf(level)) for level in levels])
        self._prior = prior
        self._losses = np.zeros(prior.shape)
        self._margin_losses = np.zeros((2, len(levels)))  # the same all day or by time of day
        self._loss = np.zeros(len(levels))
        self._week_loss = self._week_persistence = 0.0  # at the learning level
        self.outcomes = 0.0  # that are remembered
        self.weights: Floats = np.zeros(prior.shape)  # [experts, levels]
        self.weights[PERSISTENCE] = 1.0
        self.gated = True

    @property
    def skill(self) -> float:
        """Pinball loss over persistence's."""
        return float(self._loss[self._learning] / (self._losses[PERSISTENCE, self._learning] + 1e-12))

    def blend(self, bin_index: int, points: Floats, quantiles: Floats, scale: float) -> Blend:
        """`points` [experts] and `quantiles` [experts, levels], nan where an expert is silent; persistence is not."""
        alive = np.isfinite(points)
        weights = self.weights[alive]
        weights = weights / weights.sum(axis=0)
        point: Floats = points[alive] @ weights
        blend = (weights * quantiles[alive]).sum(axis=0)
        # Two estimates of the same quantiles: the experts' own, blended, and the blended point with its own errors.
        # The first is sharper where experts differ in spread, the second keeps the coverage.
        spreads = np.array([1.0, self._volatility.ratio(bin_index)])
        if self._calibrators.samples >= FEWEST_OUTCOMES:
            offsets = self._calibrators.offsets().reshape(2, -1)
            calibrated = point + scale * spreads[:, None] * offsets
        else:
            calibrated = np.stack((blend, blend))
        margins = CALIBRATED * calibrated + (1.0 - CALIBRATED) * (point + spreads[:, None] * (blend - point))
        margins = np.maximum.accumulate(np.maximum(margins, 0.0), axis=1)
        # Whichever margin lost less of late counts more.
        behind = self._margin_losses - self._margin_losses.min(axis=0)
        trust = np.exp(-MARGIN_RATE * behind / (self._loss + 1e-12))
        mixed = (trust * margins).sum(axis=0) / trust.sum(axis=0)
        return Blend(point, scale * spreads, margins, np.maximum.accumulate(mixed))

    def learn(
        self, bin_index: int, blend: Blend, points: Floats, quantiles: Floats, scale: float, actual: float
    ) -> None:
        """What came of a blend that was made after bin `bin_index`."""
        residuals = (actual - blend.points) / blend.spreads[:, None]
        self._calibrators.update(residuals.ravel(), actual <= blend.margins.reshape(-1, 1))
        self._volatility.learn(bin_index, (actual - float(blend.points[self._learning])) / scale)
        losses = self._pinball(actual, quantiles) / scale
        # A silent expert is charged what persistence lost and half more, so that it enters humbly.
        losses = np.where(np.isnan(losses), 1.5 * losses[PERSISTENCE], losses)
        loss, margin_losses = (
            self._pinball(actual, blend.quantiles) / scale,
            self._pinball(actual, blend.margins) / scale,
        )
        # One burst that nobody could foresee must not outweigh a day of ordinary bins.
        if self.outcomes > 30.0:
            most = np.maximum(MOST_LOSS * self._losses[PERSISTENCE] / self.outcomes, self._least)
            losses, loss = np.minimum(losses, most), np.minimum(loss, most)
            margin_losses = np.minimum(margin_losses, most)
        self._losses = self._forget * self._losses + losses
        self._margin_losses = self._forget * self._margin_losses + margin_losses
        self._loss = self._forget * self._loss + loss
        self._week_loss = self._gate_forget * self._week_loss + float(loss[self._learning])
        lost = float(losses[PERSISTENCE, self._learning])
        self._week_persistence = self._gate_forget * self._week_persistence + lost
        self.outcomes = self._forget * self.outcomes + 1.0
        self._reweigh()

    def _reweigh(self) -> None:
        reference = self._losses[PERSISTENCE] + 1e-12
        # Confidence grows with the outcomes seen: a weight is never won on a handful of bins.
        rate = WEIGHT_RATE * min(1.0, self.outcomes / 30.0)
        weights = self._prior * np.exp(-rate * (self._losses - self._losses.min(axis=0)) / reference)
        weights[PERSISTENCE] = np.maximum(weights[PERSISTENCE], 0.02 * weights.sum(axis=0))
        self.weights = weights / weights.sum(axis=0)
        week = self._week_loss / (self._week_persistence + 1e-12)
        # Over a day or over a week: where weekends are empty a day's memory knows on Monday of Saturday alone.
        self.gated = min(self.skill, week) > (1.0 if self.gated else 1.03)

    def _pinball(self, actual: float, forecast: Floats) -> Floats:
        error = actual - forecast
        result: Floats = np.maximum(self._levels * error, (self._levels - 1.0) * error)
        return result


def new_calibrators(levels: Sequence[Sequence[float]], day: int, adapt_days: Sequence[float]) -> Calibrators:
    """Of the errors of about three days of `day` bins, as many of them as say enough.

    About so many days' worth of outcomes, for each forecaster, move a level across; with 0 its levels stay.
    """
    return Calibrators(levels, _window(day), [_gamma(day, days) for days in adapt_days], outcome_stride(day))


def _gamma(day: int, adapt_days: float) -> float:
    """Bounded, as fast levels waste sharpness where days are long."""
    return min(max(adapt_days / max(day, 1), 0.0025 * adapt_days), 0.025 * adapt_days)


def _window(day: int) -> int:
    return max(60, min(3 * day, 1200))


def outcome_stride(day: int) -> int:
    """Each so many-th outcome's error is kept."""
    return max(1, 3 * day // 1200)
