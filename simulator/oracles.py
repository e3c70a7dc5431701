"""Bounds that know the future: what the demand costs at least, and what a perfect forecast would do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoscaler.capacity import replicas_for
from autoscaler.loop import Objective, ServiceTime
from fleet.traffic import RateTrace
from simulator.traffic import Service
from simulator.world import Seen

Counts = NDArray[np.int64]


def needs(rates: RateTrace, service: Service, objective: Objective) -> Counts:
    """[bins] the fewest pods that meet the objective at the true rate of each bin."""
    known: dict[float, int] = {}
    time = ServiceTime(service.mean_s, service.cv)
    result = np.zeros(len(rates.counts), dtype=np.int64)
    for index, rate in enumerate(rates.rates_per_s.tolist()):
        rounded = float(f"{rate:.3g}")
        if rounded not in known:
            known[rounded] = replicas_for(rounded, time, objective)
        result[index] = known[rounded]
    return result


@dataclass(frozen=True, slots=True)
class Plan:
    """When each pod is on, in seconds, its start not included."""

    intervals: tuple[tuple[float, float], ...]

    def pod_seconds(self, start_up_s: float) -> float:
        """What the plan costs, each start paid; those on from second 0 began before."""
        return sum(end - begin + (start_up_s if begin > 0 else 0.0) for begin, end in self.intervals)


def clairvoyant_plan(need: Counts, bin_s: float, start_up_s: float) -> Plan:
    """The cheapest plan that always has `need` pods: level by level, a gap is bridged where a start costs more.

    Optimal for each level, because pods of one level are interchangeable and gaps are independent.
    """
    intervals = []
    for level in range(1, int(need.max(initial=0)) + 1):
        on = np.concatenate(([0], (need >= level).astype(np.int8), [0]))
        begins, ends = np.flatnonzero(np.diff(on) == 1) * bin_s, np.flatnonzero(np.diff(on) == -1) * bin_s
        begin = float(begins[0])
        for index in range(len(ends)):
            last = index == len(ends) - 1
            if last or begins[index + 1] - ends[index] > start_up_s:
                intervals.append((begin, float(ends[index])))
                begin = 0.0 if last else float(begins[index + 1])
    return Plan(tuple(intervals))


class Clairvoyant:
    """Plays the cheapest plan, asking for each pod so early that 95 % of the starts are in time."""

    sync_s = 15.0

    def __init__(self, plan: Plan, start_up_p95_s: float) -> None:
        self._changes = sorted(
            [(begin - start_up_p95_s, 1) for begin, _ in plan.intervals] + [(end, -1) for _, end in plan.intervals]
        )
        self._next = self._count = 0

    def replicas(self, seen: Seen) -> int:
        while self._next < len(self._changes) and self._changes[self._next][0] <= seen.now_s:
            self._count += self._changes[self._next][1]
            self._next += 1
        return max(seen.min_replicas, min(self._count, seen.max_replicas))


class PerfectForecast:
    """The true highest need inside the lead window, sized as our own policy sizes; no keep rule."""

    sync_s = 15.0

    def __init__(self, need: Counts, bin_s: float, lead_s: float) -> None:
        self._need, self._bin_s, self._lead_s = need, bin_s, lead_s

    def replicas(self, seen: Seen) -> int:
        first = int(seen.now_s / self._bin_s)
        last = math.ceil((seen.now_s + self._lead_s) / self._bin_s)
        count = int(self._need[first : max(last, first + 1)].max(initial=0))
        return max(seen.min_replicas, min(count, seen.max_replicas))


class Static:
    """The same count always."""

    sync_s = 60.0

    def __init__(self, count: int) -> None:
        self._count = count

    def replicas(self, seen: Seen) -> int:
        return max(seen.min_replicas, min(self._count, seen.max_replicas))
