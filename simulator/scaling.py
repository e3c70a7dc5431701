"""Policies over recorded traffic: one row a policy, knob and seed, on traffic that no knob was tuned on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np

from autoscaler.capacity_types import cost_per_hour, split
from autoscaler.loop import CapacityType, Objective
from fleet.traffic import DAY_S, RateTrace
from simulator.contenders import FAMILIES, Case, choose, make_player
from simulator.scene_queue import SceneQueue
from simulator.scene_requests import SceneSetting
from simulator.scene_world import SceneWorld
from simulator.traffic import Service, play, scale_to_pods
from simulator.workers import worker_pool
from simulator.world import StartUp

# A third off for what is reserved, and as much is reserved as the mean demand keeps busy: a common shape of contract.
PRICES = (CapacityType("reserved", 0.65, 10, reserved=True), CapacityType("on-demand", 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What is played. Days count from the start of the trace."""

    trace: RateTrace
    name: str = ""
    service: Service = field(default_factory=Service)
    start_up: StartUp = field(default_factory=StartUp)
    objective: Objective = field(default_factory=Objective)
    mean_pods: float = 10.0
    test_from_day: float = 7.0
    train_days: float = 2.0  # before the test, for the choice of each rival's knob; 0: no choice is made
    bin_s: float = 60.0
    tick_s: float = 30.0
    prices: tuple[CapacityType, ...] = PRICES
    scenes: SceneSetting | None = None  # None: requests ask for pods alone

    def case(self, seed: int, training: bool = False) -> Case:
        """The test days, or the training days before them: arrivals drawn once, start-ups and render times by seed."""
        first, last = self.test_from_day, self.trace.duration_s / DAY_S
        days = (max(0.0, first - self.train_days), first) if training else (first, last)
        trace, drawn = scale_to_pods(self.trace, self.service, self.mean_pods), int(not training)
        traffic = play(trace, self.service, days, drawn, self.bin_s)
        scenes = self.scenes.draw(traffic.arrivals, drawn) if self.scenes is not None else None
        start_up = self.start_up if scenes is None else self.start_up.until_it_runs()
        case = Case(traffic, start_up, self.objective, drawn, self.tick_s, scenes)
        return case if seed == drawn else case.again(seed)


@dataclass(frozen=True, slots=True)
class Row:
    """One policy at one value of its knob, over the test days of one seed."""

    policy: str
    knob: float
    kind: str
    trace: str
    seed: int
    violation_ratio: float
    cost_ratio: float  # pod time / the clairvoyant's (O1)
    wait_p99_s: float
    cold_requests: int  # waited too long while a pod was starting or, with scenes, until one was loaded
    reversals_per_day: float  # up after down
    actions_per_day: float
    decision_ms_p99: float
    worst_day_violation_ratio: float
    highest_pods: int
    aborted_starts: int
    requests: int
    wall_s: float
    training: bool = False
    tuned: bool = False  # the knob that the training days chose for this policy
    money_per_hour: float = 0.0  # at the setting's prices
    requests_by_day: tuple[int, ...] = ()
    violations_by_day: tuple[int, ...] = ()
    scene_cold_requests: int = 0  # waited too long and met no ready pod with their scene
    scene_loads: int = 0  # into pods' memory
    scene_fetches: int = 0  # onto nodes' disks


def run(
    case: Case,
    policy: str,
    knob: float,
    name: str = "",
    training: bool = False,
    prices: Sequence[CapacityType] = PRICES,
) -> Row:
    """Play one contender to the end."""
    began_s = time.perf_counter()
    player, pool = make_player(case, policy, knob)
    world = case.world(pool)
    end_s = case.traffic.end_s
    spent_ms = []
    now_s = 0.0
    while now_s < end_s:
        before_s = time.perf_counter()
        player.act(world)
        spent_ms.append((time.perf_counter() - before_s) * 1e3)
        now_s = min(now_s + player.sync_s, end_s)
        world.advance(now_s)
    world.finish()
    days = world.queue.by_day
    span_days = end_s / DAY_S
    requests = int(days[:, 0].sum())
    row = Row(
        policy=policy,
        knob=knob,
        kind=FAMILIES[policy].kind,
        trace=name,
        seed=case.seed,
        violation_ratio=float(days[:, 1].sum() / max(requests, 1)),
        cost_ratio=world.ledger.pod_seconds / case.bound_pod_seconds,
        wait_p99_s=world.queue.wait_quantile_s(0.99),
        cold_requests=world.queue.cold_requests,
        reversals_per_day=world.ledger.reversals / span_days,
        actions_per_day=world.ledger.actions / span_days,
        decision_ms_p99=float(np.quantile(spent_ms, 0.99)),
        worst_day_violation_ratio=float((days[:, 1] / days[:, 0]).max(initial=0.0)),
        highest_pods=world.ledger.highest,
        aborted_starts=world.ledger.aborted_starts,
        requests=requests,
        wall_s=time.perf_counter() - began_s,
        money_per_hour=money_per_hour(world.ledger.seconds_at, prices),
        requests_by_day=tuple(days[:, 0].tolist()),
        violations_by_day=tuple(days[:, 1].tolist()),
        training=training,
    )
    return replace(row, **scene_counts(world.queue)) if isinstance(world, SceneWorld) else row


def scene_counts(queue: SceneQueue) -> dict[str, Any]:
    """The columns that only a world with scenes has."""
    names = ("scene_cold_requests", "scene_loads", "scene_fetches")
    return {name: getattr(queue, name) for name in names}


def money_per_hour(seconds_at: Mapping[int, float], prices: Sequence[CapacityType]) -> float:
    """Mean price of an hour; `seconds_at`: how long the spec asked for so many pods. Reserved ones are paid always."""
    total_s = sum(seconds_at.values())
    spent = sum(seconds * cost_per_hour(split(count, prices), prices) for count, seconds in seconds_at.items())
    return spent / total_s if total_s else 0.0


Job = tuple[str, float, int, bool]  # policy, knob, seed, training


def jobs_for(names: str, seeds: int, seeds_of_rivals: int, trained: Container[str]) -> list[Job]:
    """What is to be played: `seeds` for ours, `seeds_of_rivals` for the rest.

    The kinds that are `trained` play the training days too, with one seed.
    """
    jobs: list[Job] = []
    for policy, knob in choose(names):
        kind = FAMILIES[policy].kind
        count = seeds if kind == "ours" else seeds_of_rivals
        jobs += [(policy, knob, seed, False) for seed in range(1, count + 1)]
        if kind in trained:
            jobs.append((policy, knob, 0, True))
    return sorted(jobs, key=lambda job: (job[3], job[2], FAMILIES[job[0]].kind != "ours"))


_cases: dict[tuple[str, int, bool], Case] = {}  # of this process: of one setting's test or training days, by seed


def _case(setting: Setting, seed: int, training: bool) -> Case:
    """The case, with the arrivals and forecasts of another seed that is at hand."""
    key = (setting.name, seed, training)
    if key not in _cases:
        same = next((case for (name, _, of), case in _cases.items() if (name, of) == (setting.name, training)), None)
        if same is None:
            _cases.clear()  # one week of arrivals is 200 MB
        _cases[key] = setting.case(seed, training) if same is None else same.again(seed)
    return _cases[key]


def _play(setting: Setting, jobs: Sequence[Job], log: Path | None, forecasts: Path) -> list[Row]:
    """`forecasts`: the folder where processes, and cases that were dropped meanwhile, find those of the test days."""
    rows = []
    for policy, knob, seed, training in jobs:
        case = _case(setting, seed, training)
        if FAMILIES[policy].pool is not None and not training:
            case.forecasts.folder = forecasts
            case.forecasts.load()
        rows.append(run(case, policy, knob, setting.name, training, setting.prices))
        case.forecasts.save()
        if log is not None:
            with log.open("a") as file:  # a line is written whole, so processes may share the file
                file.write(json.dumps(asdict(rows[-1])) + "\n")
    return rows


def _turns(jobs: Sequence[Job]) -> tuple[list[list[Job]], ...]:
    """Three turns of jobs, each in groups that one process should play one after another.

    Ours share their forecasts: the first on the test days makes nearly all, and the others, whose turn is the last,
    find them. Those of the training days stay together, as their arrivals are others.
    """
    ours = [job for job in jobs if FAMILIES[job[0]].pool is not None]
    test, training = [[job] for job in ours if not job[3]], [job for job in ours if job[3]]
    rivals = [[job] for job in jobs if FAMILIES[job[0]].pool is None]
    return [*test[:1], *([training] if training else ())], rivals, test[1:]


Batch = tuple[Setting, Sequence[Job], Path | None]  # the last: every row is a line of it at once


def stream(batches: Sequence[Batch], workers: int = 1) -> Iterator[Row]:
    """Play the jobs of several settings, in so many processes; rows as they come, those of the training days too.

    Settings are told apart by their names. The first of ours begins, and the others come last and find its forecasts.
    """
    dealt = [(setting, _turns(jobs), log) for setting, jobs, log in batches]
    groups = [(setting, group, log) for turn in range(3) for setting, turns, log in dealt for group in turns[turn]]
    _cases.clear()
    with TemporaryDirectory(prefix="splatfleet-forecasts-") as folder:
        folders = {name: Path(mkdtemp(dir=folder)) for name in {setting.name for setting, _, _ in groups}}
        if workers <= 1:
            for setting, group, log in groups:
                yield from _play(setting, group, log, folders[setting.name])
            _cases.clear()
            return
        with worker_pool(workers) as pool:
            for done in as_completed([pool.submit(_play, *group, folders[group[0].name]) for group in groups]):
                yield from done.result()


def play_all(
    setting: Setting,
    jobs: Sequence[Job],
    workers: int = 1,
    report: Callable[[Row], None] = lambda _: None,
) -> list[Row]:
    """Play the jobs, in so many processes; the rows of the test days, the tuned ones marked.

    `report` is called with every row as it comes, those of the training days too.
    """
    rows = []
    for row in stream([(setting, jobs, None)], workers):
        report(row)
        rows.append(row)
    order = {job: number for number, job in enumerate(jobs)}
    rows.sort(key=lambda row: order[row.policy, row.knob, row.seed, row.training])
    tuned = tuned_knobs(rows, setting.objective)
    return [replace(row, tuned=tuned.get(row.policy) == row.knob) for row in rows if not row.training]


def chosen_in_training(rows: Sequence[Row], kind: str, objective: Objective) -> tuple[str, float] | None:
    """Policy and knob, of all of a kind, that the training days choose; None where none of them played there."""
    trained = [row for row in rows if row.training and row.kind == kind]
    best = min(trained, key=lambda row: preference(row, objective), default=None)
    return None if best is None else (best.policy, best.knob)


def tuned_knobs(rows: Sequence[Row], objective: Objective) -> dict[str, float]:
    """Policy -> the knob that was cheapest on the training days within the objective, else missed it least."""
    chosen: dict[str, Row] = {}
    for row in rows:
        if row.training:
            best = chosen.get(row.policy)
            if best is None or preference(row, objective) < preference(best, objective):
                chosen[row.policy] = row
    return {policy: row.knob for policy, row in chosen.items()}


def preference(row: Row, objective: Objective) -> tuple[float, float]:
    """Least for the cheapest row within the objective, else for the one that misses it least."""
    missed = max(0.0, row.violation_ratio - objective.violation_ratio)
    return (missed, row.cost_ratio if missed == 0.0 else math.inf)
