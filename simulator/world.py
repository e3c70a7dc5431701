"""One pool in a simulated cluster: pods with start-up stages behind one waiting line.

Implements `Cluster` of autoscaler/loop.py, so that the very same `tick` runs in it; rivals look at it through `Seen`
and set a count. Whoever decides meets the same arrivals, the same service times and the same start-up draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autoscaler.loop import Decision, Observation, PodState, Pool, ServiceTime, StartingPod, WarmAsk
from simulator.queue import BUSY, IN_SYSTEM, MISSED, STARTED, WAIT, RenderQueue
from simulator.traffic import Traffic

STARTS_REMEMBERED = 50
STARTS_DRAWN = 256  # at once
SCENE_STAGES = ("fetching", "loading")  # of a start-up: these bring the scenes


@dataclass(frozen=True, slots=True)
class StartUp:
    """Seconds from the ask for a pod until it is ready: log-normal, in stages of fixed shares."""

    median_s: float = 180.0
    sigma: float = 0.35
    stages: tuple[tuple[str, float], ...] = (
        ("provisioning", 0.35),
        ("image", 0.15),
        ("fetching", 0.35),
        ("loading", 0.15),
    )

    @property
    def share_before_it_runs(self) -> float:
        """Of a start, until the pod's process runs: the stages of the scenes come last."""
        return sum(share for name, share in self.stages if name not in SCENE_STAGES)

    def until_it_runs(self) -> StartUp:
        """The stages before a pod's process runs, for a world in which pods fetch and load their scenes themselves."""
        before, whole = [each for each in self.stages if each[0] not in SCENE_STAGES], self.share_before_it_runs
        return StartUp(self.median_s * whole, self.sigma, tuple((name, share / whole) for name, share in before))

    def draws_s(self, random: np.random.Generator, count: int) -> list[float]:
        drawn: list[float] = (self.median_s * np.exp(self.sigma * random.standard_normal(count))).tolist()
        return drawn

    def stage_at(self, age_s: float, total_s: float) -> str:
        """The stage that a pod of this age is in."""
        passed = 0.0
        for name, share in self.stages:
            passed += share
            if age_s < passed * total_s:
                return name
        return self.stages[-1][0]


@dataclass(slots=True, eq=False)  # each is one of its kind
class SimulatedPod:
    """A pod from the ask to its removal."""

    number: int
    asked_s: float
    ready_s: float

    @property
    def uid(self) -> str:
        return f"pod-{self.number:06d}"


@dataclass(slots=True)
class Ledger:
    """What a run cost and how restless it was."""

    pod_seconds: float = 0.0
    actions: int = 0
    reversals: int = 0
    aborted_starts: int = 0
    highest: int = 0
    seconds_at: dict[int, float] = field(default_factory=dict)  # replicas in the spec -> seconds


class World:
    """The pool's pods and their line; `advance` plays, `resize` and `scale` set the count."""

    def __init__(self, pool: Pool, traffic: Traffic, start_up: StartUp, seed: int) -> None:
        self.pool, self.traffic, self.start_up = pool, traffic, start_up
        self.queue = self._make_queue()
        self.ledger = Ledger()
        self.pods: dict[int, SimulatedPod] = {}
        self._random = np.random.default_rng((seed, 0x57A7))
        self._started: list[float] = []
        self._starting: list[SimulatedPod] = []
        self._next_ready_s, self._last_ready_s = math.inf, 0.0  # of those: until the first all of them start
        self._draws_s: list[float] = []  # of starts to come
        self._states: tuple[PodState, ...] = ()
        self._states_of = (-1, -1, -1)  # pods ever made, pods now and ready ones that the states are of
        self._numbers = 0
        self._direction = 0
        self._told = (0.0, 0.0)  # renders begun and those that were late, until the last observation

    def _make_queue(self) -> RenderQueue:
        traffic, max_wait_s = self.traffic, self.pool.objective.max_queue_wait_s
        return RenderQueue(traffic.arrivals, traffic.arrived, traffic.services, traffic.end_s, max_wait_s)

    @property
    def now_s(self) -> float:
        return self.queue.now_s

    @property
    def starting(self) -> list[SimulatedPod]:
        now_s = self.queue.now_s
        if now_s >= self._next_ready_s:
            self._starting = [pod for pod in self._starting if pod.ready_s > now_s]
            self._next_ready_s = min((pod.ready_s for pod in self._starting), default=math.inf)
        return self._starting

    def begin(self, ready_pods: int) -> None:
        """Pods that are ready from the first second on."""
        for _ in range(ready_pods):
            self._add(0.0)

    def advance(self, until_s: float) -> None:
        """Play until `until_s`."""
        starting, asked = self.starting, len(self.pods)
        self.ledger.seconds_at[asked] = self.ledger.seconds_at.get(asked, 0.0) + until_s - self.now_s
        self.queue.advance(until_s, self._last_ready_s if starting else 0.0)
        self._look_at(starting)
        if until_s >= self._next_ready_s:
            self._started += [pod.ready_s - pod.asked_s for pod in starting if pod.ready_s <= until_s]

    def resize(self, replicas: int, victims: Sequence[str] = ()) -> None:
        """Set the count: new pods start; the named victims go first, then the youngest that start, then the idle."""
        change = replicas - len(self.pods)
        if change == 0:
            return
        direction = 1 if change > 0 else -1
        self.ledger.actions += 1
        self.ledger.reversals += direction == 1 and self._direction == -1
        self._direction = direction
        for _ in range(change):
            self._add(self._draw_s())
        for number in self._victims(-change, victims):
            self._remove(number)
        self.ledger.highest = max(self.ledger.highest, len(self.pods))

    def finish(self) -> None:
        """Close the books: requests that still wait, pods that still run."""
        self.queue.finish()
        for number in list(self.pods):
            self.ledger.pod_seconds += self.now_s - self.pods.pop(number).asked_s

    def _add(self, delay_s: float) -> None:
        self._numbers += 1
        pod = SimulatedPod(self._numbers, self.now_s, self.now_s + delay_s)
        self.pods[pod.number] = pod
        self._enqueue(pod)
        if delay_s > 0:
            self._starting.append(pod)
            self._next_ready_s = min(self._next_ready_s, pod.ready_s)
            self._last_ready_s = max(self._last_ready_s, pod.ready_s)

    def _draw_s(self) -> float:
        if not self._draws_s:
            self._draws_s = self.start_up.draws_s(self._random, STARTS_DRAWN)[::-1]
        return self._draws_s.pop()

    def _enqueue(self, pod: SimulatedPod) -> None:
        self.queue.add(pod.number, pod.ready_s)

    def _look_at(self, starting: Sequence[SimulatedPod]) -> None:
        """Where a start depends on more than its draw, learn how far it is."""

    def _victims(self, count: int, named: Sequence[str]) -> list[int]:
        if count <= 0:
            return []
        numbers = {pod.uid: pod.number for pod in self.pods.values()} if named else {}
        chosen = [numbers[uid] for uid in named if uid in numbers]
        if len(chosen) < count:
            chosen += [pod.number for pod in sorted(self.starting, key=lambda pod: -pod.asked_s)]
        if len(chosen) < count:
            free = self.queue.free_times()
            chosen += sorted(free, key=lambda number: free[number])
        return list(dict.fromkeys(chosen))[:count]

    def _remove(self, number: int) -> None:
        """A pod that renders goes when it is done; until then it costs."""
        pod = self.pods.pop(number)
        free_s = self.queue.remove(number)
        starting = pod.ready_s > self.now_s
        if starting:
            self._starting.remove(pod)
            if pod.ready_s >= self._last_ready_s:
                self._last_ready_s = max((pod.ready_s for pod in self._starting), default=0.0)
        self.ledger.aborted_starts += starting
        self.ledger.pod_seconds += (self.now_s if starting else max(self.now_s, free_s)) - pod.asked_s

    # `Cluster`, as the loop knows it.

    def pools(self) -> Sequence[Pool]:
        return [self.pool]

    def observe(self, pool: Pool, now_s: float) -> Observation:
        """What an exporter, a gateway and a pod watch would show now."""
        traffic, starting = self.traffic, self.starting
        started, _ = self.queue.window(STARTED, 300.0)
        begun, late = self.queue.total(STARTED), self.queue.total(MISSED)
        (begun_before, late_before), self._told = self._told, (begun, late)
        return Observation(
            pool=pool.name,
            now_s=now_s,
            bin_s=traffic.bin_s,
            demand=traffic.seen(now_s),
            ready=len(self.pods) - len(starting),
            desired=len(self.pods),
            starting=tuple(
                StartingPod(
                    pod.uid,
                    now_s - pod.asked_s,
                    self.start_up.stage_at(now_s - pod.asked_s, pod.ready_s - pod.asked_s),
                )
                for pod in starting
            ),
            pending=float(self.queue.queued),
            queue_to_compute=Seen(self).queue_to_compute(60.0),
            service=ServiceTime(traffic.service.mean_s, traffic.service.cv, int(started)),
            startup_s=tuple(self._started[-STARTS_REMEMBERED:]),
            data_age_s=now_s % traffic.bin_s,
            pods=self._pod_states(),
            served=begun - begun_before,
            late=late - late_before,
        )

    def _pod_states(self) -> tuple[PodState, ...]:
        """The pods as a watch shows them; made anew when a pod came, went or became ready."""
        now = (self._numbers, len(self.pods), len(self.pods) - len(self.starting))
        if now != self._states_of:
            self._states_of = now
            self._states = tuple(PodState(pod.uid, ready=pod.ready_s <= self.now_s) for pod in self.pods.values())
        return self._states

    def scale(self, pool: Pool, decision: Decision) -> None:
        self.resize(decision.replicas, decision.victims)

    def warm(self, pool: Pool, asks: Sequence[WarmAsk]) -> None:
        """Scenes are not played here: every pod holds what it is asked for."""


class Seen:
    """What a rival may see now: its own counts, and windows over the past as a metrics pipeline would show them."""

    def __init__(self, world: World) -> None:
        self._world = world
        starting = world.starting
        self.now_s = world.now_s
        self.replicas = len(world.pods)  # of the spec
        self.ready = self.replicas - len(starting)
        self.starting = len(starting)
        self.max_replicas = world.pool.max_replicas
        self.min_replicas = world.pool.min_replicas
        self.service_s = world.traffic.service.mean_s

    @property
    def pending_pods(self) -> int:
        """Pods without a container yet, in phase Pending; those that fetch and load run, and export no metric yet."""
        now_s, share = self.now_s, self._world.start_up.share_before_it_runs
        starts = self._world.starting
        return sum([now_s - pod.asked_s < share * (pod.ready_s - pod.asked_s) for pod in starts])

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self._world.queue.queued

    def rate_per_s(self, window_s: float) -> float:
        """Arrivals a second over the window."""
        return self._world.traffic.rate_per_s(self.now_s, window_s)

    def answered_per_s(self, window_s: float) -> float:
        """Renders begun a second over the window."""
        started, seconds = self._world.queue.window(STARTED, window_s)
        return started / seconds if seconds else 0.0

    def concurrency(self, window_s: float) -> float:
        """Mean requests in the system, waiting or rendering, by samples a second apart."""
        total, seconds = self._world.queue.window(IN_SYSTEM, window_s)
        return total / seconds if seconds else 0.0

    def queue_to_compute(self, window_s: float) -> float | None:
        """Queue seconds over compute seconds of what was started in the window; None without any."""
        waited, _ = self._world.queue.window(WAIT, window_s)
        busy, _ = self._world.queue.window(BUSY, window_s)
        return waited / busy if busy > 0 else None

    def violation_ratio(self, window_s: float) -> float:
        """Share of the renders begun in the window that had waited too long; 0 without any."""
        started, _ = self._world.queue.window(STARTED, window_s)
        missed, _ = self._world.queue.window(MISSED, window_s)
        return missed / started if started else 0.0

    def duty(self, window_s: float) -> float | None:
        """Share of the ready pods' time that they rendered; None without a ready pod."""
        busy, seconds = self._world.queue.window(BUSY, window_s)
        return min(busy / seconds / self.ready, 1.0) if seconds and self.ready else None

    def history(self, bin_s: float, bins: int) -> list[float]:
        """Requests/s of at most the last `bins` whole bins, oldest first, the days before the start included."""
        step = max(1, round(bin_s / self._world.traffic.bin_s))
        counts = self._world.traffic.seen(self.now_s, bins * step * self._world.traffic.bin_s)
        whole = counts[counts.size % step :].reshape(-1, step)[-bins:]
        known = np.maximum(np.count_nonzero(~np.isnan(whole), axis=1), 1)  # bins that nobody recorded count as none
        rates = np.nansum(whole, axis=1) / known / self._world.traffic.bin_s
        return [float(rate) for rate in rates]
