"""Rivals that forecast: Crane, PHPA, the Faro and MArk kind, BACC and the predictive scaling of AWS.

Each keeps its own decision rule as published; `seasonal` says what stands for the forecasters.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from autoscaler.capacity import replicas_for
from autoscaler.loop import Objective, ServiceTime
from simulator.rivals.hpa import HpaBehavior
from simulator.rivals.keda import Keda
from simulator.rivals.seasonal import BIN_S, DAY, HoltWinters, PeakForecast
from simulator.world import Seen

HISTORY_DAYS = 14


class Crane(Keda):
    """gocrane/crane, EHPA: an HPA on the larger of the rate now and the forecast's highest of the next hour.

    The forecast is DSP's: where the days resemble each other, the highest of the last seven at the same time.
    """

    def __init__(self, share: float) -> None:
        super().__init__(share)
        self._due_s, self._ahead = 0.0, 0.0

    def total_per_s(self, seen: Seen) -> float:
        if seen.now_s >= self._due_s:
            self._ahead = dsp_peak(seen.history(BIN_S, 7 * DAY), round(3600.0 / BIN_S))
            self._due_s = seen.now_s + BIN_S
        return max(seen.rate_per_s(60.0), self._ahead)


def dsp_peak(history: list[float], bins: int) -> float:
    """The highest value of past days over the same times as the next `bins`; 0 where no daily period is found.

    A period is accepted where the autocorrelation at a day's lag is above 0.5.
    """
    values = np.array(history)
    if values.size < 2 * DAY or values.std() == 0.0:
        return 0.0
    if np.corrcoef(values[:-DAY], values[DAY:])[0, 1] < 0.5:
        return 0.0
    days = values.size // DAY
    starts = values.size - DAY * np.arange(1, days + 1)
    return float(max(values[start : start + bins].max() for start in starts))


class Phpa(Keda):
    """jthomperoo/predictive-horizontal-pod-autoscaler: an HPA, and Holt-Winters over the replicas it asked for; max."""

    def __init__(self, share: float) -> None:
        super().__init__(share)
        self._model: HoltWinters | None = None
        self._due_s, self._ahead = 0.0, 0

    def replicas(self, seen: Seen) -> int:
        capacity = self.share / seen.service_s
        if self._model is None:
            history = seen.history(BIN_S, HISTORY_DAYS * DAY)
            self._model = HoltWinters([math.ceil(rate / capacity) for rate in history])
            self._due_s = seen.now_s + BIN_S
        elif seen.now_s >= self._due_s:
            self._model.update(math.ceil(seen.rate_per_s(BIN_S) / capacity))
            self._ahead = math.ceil(self._model.peak(1) - 1e-9)
            self._due_s = seen.now_s + BIN_S
        return max(super().replicas(seen), min(self._ahead, seen.max_replicas))


class Hybrid:
    """The Faro and MArk kind: every 300 s the pods for a quantile of the next 7 minutes; +1 after 30 s of misses.

    Down only to the highest plan of the last 600 s.
    """

    sync_s = 10.0
    AHEAD_BINS = 2  # 7 minutes, rounded up to bins of 5

    def __init__(self, level: float, objective: Objective) -> None:
        self.level = level
        self._objective = objective
        self._forecast: PeakForecast | None = None
        self._due_s, self._extra, self._misses = 0.0, 0, 0
        self._plans: deque[tuple[float, int]] = deque()

    def replicas(self, seen: Seen) -> int:
        if seen.now_s >= self._due_s:
            self._learn(seen)
            self._plans.append((seen.now_s, self._pods(seen, self.quantile())))
            self._due_s, self._extra = seen.now_s + BIN_S, 0
        while self._plans[0][0] < seen.now_s - 600.0:
            self._plans.popleft()
        waited_s = seen.queued * seen.service_s / max(seen.ready, 1)
        self._misses = self._misses + 1 if waited_s > self._objective.max_queue_wait_s else 0
        if self._misses > 3:
            self._extra, self._misses = self._extra + 1, 0
        count = max(plan for _, plan in self._plans) + self._extra
        return max(seen.min_replicas, min(count, seen.max_replicas))

    def quantile(self) -> float:
        assert self._forecast is not None  # learned before it is asked
        return self._forecast.quantile(self.level)

    def _learn(self, seen: Seen) -> float | None:
        if self._forecast is None:
            self._forecast = PeakForecast(seen.history(BIN_S, HISTORY_DAYS * DAY), self.AHEAD_BINS)
            return None
        return self._forecast.update(seen.rate_per_s(BIN_S))

    def _pods(self, seen: Seen, rate: float) -> int:
        return replicas_for(rate, ServiceTime(seen.service_s, 1.0), self._objective, seen.max_replicas)


class Bacc(Hybrid):
    """BACC: adaptive conformal inference moves the level, and a PI controller spends the violation budget evenly."""

    RATE, PROPORTIONAL, INTEGRAL = 0.01, 0.01, 0.001

    def __init__(self, level: float, objective: Objective) -> None:
        super().__init__(level, objective)
        self._adapted, self._spent, self._integral = level, 0.0, 0.0

    def _learn(self, seen: Seen) -> float | None:
        asked = self.quantile() if self._forecast is not None else None
        error = super()._learn(seen)
        if asked is not None:
            missed = seen.rate_per_s(BIN_S) > asked
            self._adapted = min(max(self._adapted + self.RATE * (missed - (1.0 - self.level)), 0.5), 1.0)
        # The share of the budget that the last hour spent, less the share it may: above 0 too fast.
        self._spent = min(seen.violation_ratio(3600.0) / self._objective.violation_ratio - 1.0, 10.0)
        self._integral = min(max(self._integral + self._spent, -50.0), 50.0)
        return error

    def quantile(self) -> float:
        assert self._forecast is not None  # learned before it is asked
        push = self.PROPORTIONAL * self._spent + self.INTEGRAL * self._integral
        return self._forecast.quantile(min(max(self._adapted + push, 0.5), 1.0))


class AwsPredictive(Keda):
    """AWS predictive scaling: capacity for the forecast of each hour, 300 s ahead of it; max with target tracking."""

    def __init__(self, share: float) -> None:
        super().__init__(share)
        self.behavior = HpaBehavior(down_window_s=900.0)  # target tracking scales in after 15 minutes
        self._model: HoltWinters | None = None
        self._due_s, self._hours = 0.0, [0.0, 0.0]

    def total_per_s(self, seen: Seen) -> float:
        if self._model is None:
            self._model = HoltWinters(seen.history(3600.0, HISTORY_DAYS * 24), day=24)
            self._hours = [self._model.peak(1), self._model.peak(2)]
            self._due_s = seen.now_s + 3600.0
        elif seen.now_s >= self._due_s:
            self._model.update(seen.rate_per_s(3600.0))
            self._hours = [self._model.peak(1), self._model.peak(2)]
            self._due_s = seen.now_s + 3600.0
        ahead = self._hours[1] if self._due_s - seen.now_s <= 300.0 else self._hours[0]
        return max(seen.rate_per_s(60.0), ahead)
