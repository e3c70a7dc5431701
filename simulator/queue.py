"""One waiting line before c pods, event by event: who waited how long, while pods come, start and go.

Compiled, because a week at 40 requests/s is 24 million requests. First come, first served; a pod renders one frame at
a time; a pod that starts is a server whose first free moment is the moment it is ready.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY_S = 86_400.0
_HISTOGRAM_BINS = 500  # of the waits: 50 a decade from a millisecond on
_TAIL_S = 3_600  # seconds after the end in which renders that began before may finish

# Columns of the running sums that windows are read from: seconds waited and rendered, renders begun, those of them
# that waited too long, requests waiting or rendering.
WAIT, BUSY, STARTED, MISSED, IN_SYSTEM = 0, 1, 2, 3, 4


@numba.njit(cache=True)
def _sift_down(free: Any, pods: Any, size: int, parent: int) -> None:
    """Restore the heap after the value at `parent` grew."""
    key, pod = free[parent], pods[parent]
    while True:
        child = 2 * parent + 1
        if child >= size:
            break
        if child + 1 < size and free[child + 1] < free[child]:
            child += 1
        if free[child] >= key:
            break
        free[parent], pods[parent] = free[child], pods[child]
        parent = child
    free[parent], pods[parent] = key, pod


@numba.njit(cache=True)
def _sift_up(free: Any, pods: Any, at: int) -> None:
    key, pod = free[at], pods[at]
    while at > 0:
        parent = (at - 1) // 2
        if free[parent] <= key:
            break
        free[at], pods[at] = free[parent], pods[parent]
        at = parent
    free[at], pods[at] = key, pod


@numba.njit(cache=True)
def _take_out(free: Any, pods: Any, size: int, pod: int) -> float:
    """Remove a pod; returns when it is free. Raises IndexError where it is not there."""
    at = 0
    while at < size and pods[at] != pod:
        at += 1
    if at == size:
        raise IndexError("no such pod")
    free_s, last = free[at], size - 1
    if at != last:
        free[at], pods[at] = free[last], pods[last]
        _sift_down(free, pods, last, at)
        _sift_up(free, pods, at)
    return float(free_s)


@numba.njit(cache=True)
def _replace_first(free: Any, pods: Any, size: int, key: float) -> None:
    """Let the pod at the top be free at `key` instead: down to a leaf and up again, as nearly all keys are late."""
    pod, at, child = pods[0], 0, 1
    while child + 1 < size:
        child += free[child + 1] < free[child]
        free[at], pods[at] = free[child], pods[child]
        at, child = child, 2 * child + 1
    if child < size:
        free[at], pods[at] = free[child], pods[child]
        at = child
    while at > 0:
        parent = (at - 1) >> 1
        if free[parent] < key:
            break
        free[at], pods[at] = free[parent], pods[parent]
        at = parent
    free[at], pods[at] = key, pod


@numba.njit(cache=True)
def _serve(
    arrivals: Any, services: Any, free: Any, pods: Any, size: int, head: int, until_s: float, starting_until_s: float,
    max_wait_s: float, seconds: Any, days: Any, histogram: Any,
) -> tuple[int, int]:  # fmt: skip
    """Start every request that can start before `until_s`; returns the next request and the cold ones."""
    count, last = arrivals.size, seconds.shape[0] - 1
    turn = head % services.size
    day, day_end_s = -1, 0.0
    cold = 0
    while head < count and size > 0:
        arrival = arrivals[head]
        start = max(free[0], arrival)
        if start >= until_s:
            break
        service = services[turn]
        turn += 1
        if turn == services.size:
            turn = 0
        wait = start - arrival
        _replace_first(free, pods, size, start + service)
        second = int(start)
        seconds[second, 0] += wait
        seconds[second, 1] += service
        seconds[second, 2] += 1.0
        seconds[min(int(start + service), last), 4] += 1.0
        if arrival >= day_end_s:
            day = int(arrival / 86_400.0)
            day_end_s = (day + 1) * 86_400.0
        days[day, 0] += 1
        if wait > max_wait_s:
            days[day, 1] += 1
            seconds[second, 3] += 1.0
            if arrival < starting_until_s:
                cold += 1
        if wait > 1e-3:
            histogram[min(int((np.log10(wait) + 3.0) * 50.0) + 1, histogram.size - 1)] += 1
        else:
            histogram[0] += 1
        head += 1
    return head, cold


@numba.njit(cache=True)
def _sum_up(seconds: Any, sums: Any, arrived: Any, first: int, end: int, completed: float) -> float:
    """Extend the running sums over the seconds [first, end); returns the requests completed before `end`."""
    for second in range(first, end):
        completed += seconds[second, 4]
        for column in range(4):
            sums[second + 1, column] = sums[second, column] + seconds[second, column]
        sums[second + 1, 4] = sums[second, 4] + arrived[second + 1] - completed
    return completed


class RenderQueue:
    """The line and its pods. Times are seconds since the start of the arrivals."""

    def __init__(self, arrivals: Floats, arrived: Floats, services: Floats, end_s: float, max_wait_s: float) -> None:
        """`arrivals` [n] sorted; `arrived` [seconds + 1] requests before each second; `services` [m] used in turn."""
        self._arrivals, self._arrived, self._services = arrivals, arrived, services
        self._end = int(np.ceil(end_s))
        self._max_wait_s = max_wait_s
        self._free = np.zeros(64)
        self._pods = np.zeros(64, dtype=np.int64)
        self._size = 0
        self._head = 0
        self._summed = 0
        self._completed = 0.0
        self._seconds = np.zeros((self._end + _TAIL_S, 5))
        self._sums = np.zeros((self._end + 1, 5))
        self._days = np.zeros((int(end_s // DAY_S) + 2, 2), dtype=np.int64)
        self._histogram = np.zeros(_HISTOGRAM_BINS, dtype=np.int64)
        self.now_s = 0.0
        self.cold_requests = 0

    def add(self, pod: int, ready_s: float) -> None:
        """A pod that is free from `ready_s` on."""
        if self._size == self._free.size:
            self._free = np.concatenate((self._free, np.zeros(self._size)))
            self._pods = np.concatenate((self._pods, np.zeros(self._size, dtype=np.int64)))
        self._free[self._size], self._pods[self._size] = ready_s, pod
        _sift_up(self._free, self._pods, self._size)
        self._size += 1

    def remove(self, pod: int) -> float:
        """Take the pod away; returns the end of what it renders (the past where it is idle)."""
        free_s: float = _take_out(self._free, self._pods, self._size, pod)
        self._size -= 1
        return free_s

    def advance(self, until_s: float, starting_until_s: float) -> None:
        """Play until `until_s`; `starting_until_s` is when the last of the starting pods will be ready."""
        self._head, cold = _serve(
            self._arrivals, self._services, self._free, self._pods, self._size, self._head, until_s,
            starting_until_s, self._max_wait_s, self._seconds, self._days, self._histogram,
        )  # fmt: skip
        self.cold_requests += cold
        self._sum_until(until_s)

    def _sum_until(self, until_s: float) -> None:
        end = min(int(until_s), self._end)
        self._completed = _sum_up(self._seconds, self._sums, self._arrived, self._summed, end, self._completed)
        self._summed, self.now_s = end, until_s

    def free_times(self) -> dict[int, float]:
        """Pod -> when it is free next (the past: idle; the time it is ready: starting)."""
        return dict(zip(self._pods[: self._size].tolist(), self._free[: self._size].tolist(), strict=True))

    @property
    def queued(self) -> int:
        """Requests that have arrived and wait."""
        second = int(self.now_s)
        if second == self.now_s and second <= self._end:
            return max(0, int(self._arrived[second]) - self._head)
        return max(0, int(np.searchsorted(self._arrivals, self.now_s)) - self._head)

    def window(self, column: int, seconds: float) -> tuple[float, float]:
        """Sum of a column over the last `seconds`, and the seconds that it covers (fewer at the start)."""
        first = max(0, self._summed - round(seconds))
        return self._sums.item(self._summed, column) - self._sums.item(first, column), float(self._summed - first)

    def total(self, column: int) -> float:
        """Sum of a column since the start."""
        return self._sums.item(self._summed, column)

    def finish(self) -> None:
        """Count those who never started as having waited until the end."""
        arrivals = self._arrivals[self._head :]
        self._head = self._arrivals.size
        self._count_unserved(self.now_s - arrivals, arrivals)

    def _count_unserved(self, waits: Floats, arrivals: Floats) -> None:
        days = (arrivals / DAY_S).astype(np.int64)
        np.add.at(self._days[:, 0], days, 1)
        np.add.at(self._days[:, 1], days[waits > self._max_wait_s], 1)
        bins = ((np.log10(np.maximum(waits, 1e-3)) + 3.0) * 50.0).astype(np.int64) + 1
        np.add.at(self._histogram, np.minimum(bins, _HISTOGRAM_BINS - 1), 1)

    @property
    def by_day(self) -> NDArray[np.int64]:
        """[days, 2] requests and violations by the day of their arrival."""
        return self._days[self._days[:, 0] > 0]

    def wait_quantile_s(self, quantile: float) -> float:
        """A wait that `quantile` of the requests stayed under, to 5 %."""
        below = np.cumsum(self._histogram)
        at = int(np.searchsorted(below, quantile * below[-1]))
        return 0.0 if at == 0 else float(10.0 ** (at / 50.0 - 3.0))
