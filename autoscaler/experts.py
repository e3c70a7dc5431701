"""The experts: each follows the demand rate bin by bin and says the highest mean rate of the next bins.

An expert holds state and is fed in order; `update` costs microseconds. A bin without data is nan: the expert moves on
in time and learns nothing. `peak` is None while the expert has not seen enough.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoscaler.diary import of_past_days
from autoscaler.observation import Floats
from autoscaler.past import Past


class Expert(Protocol):
    """One way to look ahead."""

    name: str

    def update(self, rate: float, level: float) -> None:
        """The next bin: its rate (nan without data) and the recent mean rate."""

    def peak(self, bins: int) -> float | None:
        """Highest mean rate over the next `bins` bins."""


class Persistence:
    """It stays as it is."""

    def __init__(self) -> None:
        self.name = "persistence"
        self._level = math.nan

    def update(self, rate: float, level: float) -> None:
        if level == level:
            self._level = level

    def peak(self, bins: int) -> float | None:
        return None if math.isnan(self._level) else self._level


class DampedTrend:
    """Holt's level and trend with a damped trend; `memory_bins` is the half-life of the level.

    With `trend_bins` 0 it is a plain exponentially weighted level.
    """

    def __init__(self, name: str, memory_bins: float, trend_bins: float = 0.0, damping: float = 0.9) -> None:
        self.name = name
        self._alpha = 1.0 - 0.5 ** (1.0 / max(memory_bins, 0.5))
        self._beta = 1.0 - 0.5 ** (1.0 / trend_bins) if trend_bins else 0.0
        self._damping = damping
        self._level = math.nan
        self._trend = 0.0

    def update(self, rate: float, level: float) -> None:
        if math.isnan(self._level):
            self._level = rate
            return
        ahead = self._level + self._damping * self._trend
        if rate != rate:
            self._level, self._trend = ahead, self._damping * self._trend
            return
        error = rate - ahead
        self._level = ahead + self._alpha * error
        self._trend = self._damping * self._trend + self._alpha * self._beta * error

    def peak(self, bins: int) -> float | None:
        if math.isnan(self._level):
            return None
        d = self._damping
        rise = self._trend * d * (1.0 - d**bins) / (1.0 - d) if d < 1.0 else self._trend * bins
        return max(self._level, self._level + rise, 0.0)


class SeasonalNaive:
    """The same time one season ago, averaged over neighbouring bins; `relative` scales it to today's level."""

    def __init__(self, name: str, season: int, width: int, relative: bool) -> None:
        self.name = name
        self._season = season
        self._width = width
        self._relative = relative
        self._past = np.full(season, math.nan, dtype=np.float32)  # [season] by phase, averaged over neighbours
        self._phase = -1
        self._seen = 0
        self._level = math.nan
        self._recent: list[float] = []
        self._scale = 1.0

    def update(self, rate: float, level: float) -> None:
        self._phase = (self._phase + 1) % self._season
        self._seen += 1
        if self._relative and self._seen > self._season and level == level:
            before = float(self._past[self._phase])
            if before == before:
                # Pulled towards 1, so that an empty hour yesterday does not blow up today.
                pull = 0.25 * before + 1e-9
                self._scale += 0.2 * (min((level + pull) / (before + pull), 5.0) - self._scale)
        self._recent.append(rate)
        width = self._width
        if len(self._recent) > width:
            self._recent.pop(0)
        mean = sum(self._recent) / len(self._recent)
        if mean != mean:
            known = [value for value in self._recent if value == value]
            mean = sum(known) / len(known) if known else math.nan
        # A centred mean lags by half its width: it belongs to the phase in its middle.
        self._past[(self._phase - width // 2) % self._season] = mean

    def peak(self, bins: int) -> float | None:
        if self._seen <= self._season:
            return None
        # The newest width // 2 phases are not written yet and still hold last season's values: right for this use.
        start = (self._phase + 1) % self._season
        highest = float(np.fmax.reduce(_ahead(self._past, start, min(bins, self._season))))
        if highest != highest:
            return None
        return highest * (self._scale if self._relative else 1.0)


class HoltWinters:
    """Additive level and damped trend with one season or two, in error-correction form.

    l = l + phi b + alpha e, b = phi b + alpha beta e, s[phase] += gamma e, with e the one-bin-ahead error
    (Hyndman, Koehler, Ord, Snyder, "Forecasting with Exponential Smoothing", 2008, the damped A,Ad,A form).
    The seasonal step is spread over neighbouring phases, because counts of single bins are noisy. A second, longer
    season takes up what the first leaves over (Taylor, "Short-term electricity demand forecasting using double
    seasonal exponential smoothing", 2003).
    """

    def __init__(
        self, name: str, season: int, rates: tuple[float, float, float], damping: float, width: int, longer: int = 0
    ) -> None:
        self.name = name
        self._season = season
        self._alpha, self._beta, gamma = rates
        self._damping = damping
        half = min(width // 2, max(0, (season - 1) // 2))
        kernel = 1.0 - np.abs(np.arange(-half, half + 1)) / (half + 1.0)
        self._half = half
        self._kernel: Floats = gamma * kernel / kernel.sum() * (1.0 if half == 0 else 1.5)
        self._first: deque[float] = deque(maxlen=season)  # the newest bins until a season of them is known well enough
        self._known = 0  # of these
        self._shape: Floats | None = None  # [season] by phase
        self._level = 0.0
        self._trend = 0.0
        self._phase = -1
        self._damps: dict[int, Floats] = {}
        self._rest = np.zeros(longer, dtype=np.float32)  # [longer] what the longer season adds, by its phase
        self._seen = 0

    def update(self, rate: float, level: float) -> None:
        self._phase = (self._phase + 1) % self._season
        self._seen += 1
        if self._shape is None:
            self._await(rate)
            return
        ahead = self._level + self._damping * self._trend
        self._trend *= self._damping
        self._level = ahead
        if rate != rate:
            return
        error = rate - ahead - float(self._shape[self._phase])
        if self._rest.size:
            phase = self._seen % self._rest.size
            error -= float(self._rest[phase])
            _spread(self._rest, phase, self._half, self._kernel * error)
        self._level += self._alpha * error
        self._trend += self._alpha * self._beta * error
        _spread(self._shape, self._phase, self._half, self._kernel * error)

    def _await(self, rate: float) -> None:
        """Begin once half of a season is known; until then a bin costs the same however long the season is."""
        whole = len(self._first) == self._season
        self._known += math.isfinite(rate) - (whole and math.isfinite(self._first[0]))
        self._first.append(rate)
        if len(self._first) == self._season <= 2 * self._known:
            self._begin()

    def _begin(self) -> None:
        first = np.asarray(self._first)
        known = np.isfinite(first)
        filled = np.interp(np.arange(first.size), np.flatnonzero(known), first[known], period=first.size)
        width = 2 * self._half + 1
        wrapped = np.concatenate((filled[-self._half :], filled, filled[: self._half])) if self._half else filled
        smooth = np.convolve(wrapped, np.ones(width) / width, mode="valid")
        self._level = float(smooth.mean())
        self._shape = np.roll(smooth - self._level, self._phase + 1)
        self._first.clear()

    def peak(self, bins: int) -> float | None:
        if self._shape is None or self._seen < 2 * self._rest.size:
            return None  # one week tells nothing of what weeks have in common
        damps = self._damps.get(bins)
        if damps is None:
            damps = self._damps[bins] = np.cumsum(self._damping ** np.arange(1, bins + 1))
        season = _ahead(self._shape, self._phase + 1, bins)
        if self._rest.size:
            season = season + _ahead(self._rest, self._seen % self._rest.size + 1, bins)
        return max(float((season + self._trend * damps).max()) + self._level, 0.0)


def _spread(shape: Floats | NDArray[np.float32], phase: int, half: int, step: Floats) -> None:
    low, high = phase - half, phase + half + 1
    if low >= 0 and high <= shape.size:
        shape[low:high] += step
    else:
        shape[np.arange(low, high) % shape.size] += step


def _ahead(shape: Floats | NDArray[np.float32], start: int, bins: int) -> Floats | NDArray[np.float32]:
    if start + bins <= shape.size:
        return shape[start : start + bins]
    wrapped: Floats | NDArray[np.float32] = shape[np.arange(start, start + bins) % shape.size]
    return wrapped


def make_experts(seasons: Sequence[int], bins: int, width: int, past: Past) -> list[Expert]:
    """The panel for seasons given in bins (shortest first), a lead of `bins` and averages over `width` bins."""
    experts: list[Expert] = [
        Persistence(),
        DampedTrend("level", memory_bins=bins),
        DampedTrend("trend", memory_bins=max(1.0, bins / 2), trend_bins=bins, damping=0.5 ** (1.0 / (2 * bins))),
    ]
    for index, season in enumerate(seasons):
        name = ("day", "week")[index] if index < 2 else f"season{index}"
        odd = 2 * (max(width, season // 60 if index == 0 else width) // 2) + 1
        if index == 0:  # of a week ago the scaled one says more
            experts.append(SeasonalNaive(f"naive_{name}", season, odd, relative=False))
        experts.append(SeasonalNaive(f"scaled_{name}", season, odd, relative=True))
        for label, rates, damping in _HOLT_WINTERS:
            if index == 0:
                experts.append(HoltWinters(f"{label}_{name}", season, rates, damping, odd))
        if index == 0:
            experts += of_past_days(season, past)
        if index == 1:
            _, rates, damping = _HOLT_WINTERS[1]
            odd = 2 * (max(width, seasons[0] // 60) // 2) + 1
            experts.append(HoltWinters("hw_day_week", seasons[0], rates, damping, odd, longer=season))
    return experts


_HOLT_WINTERS: tuple[tuple[str, tuple[float, float, float], float], ...] = (
    ("hw_slow", (0.02, 0.0, 0.25), 1.0),
    ("hw", (0.15, 0.02, 0.25), 0.95),
    ("hw_fast", (0.45, 0.05, 0.25), 0.95),
)
