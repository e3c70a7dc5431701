"""The queue against theory, the books against arithmetic, and the bounds against what is played."""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoscaler.capacity import wait_tail
from autoscaler.forecast import shape_for
from autoscaler.loop import CapacityType, Memory, Objective, Pool, ServiceTime, tick
from fleet.traffic import DAY_S, RateTrace, day_shape, flat
from simulator.comparison import best_rivals, compare, mean_over_seeds, paired_interval, pareto
from simulator.contenders import FAMILIES, Case, choose, make_player
from simulator.oracles import clairvoyant_plan, needs
from simulator.queue import RenderQueue
from simulator.report import sentence
from simulator.scaling import Row, Setting, chosen_in_training, jobs_for, money_per_hour, play_all, run, tuned_knobs
from simulator.shared_forecasts import ForecastBook
from simulator.traffic import Service, play
from simulator.world import Seen, StartUp, World

SERVICE = Service(0.25, 0.3)


def world(rate_per_s: float, duration_s: float, start_s: float = 60.0, service: Service = SERVICE) -> World:
    traffic = play(flat(duration_s, rate_per_s), service, (0.0, duration_s / DAY_S), seed=1)
    pool = Pool("pool", max_replicas=100)
    return World(pool, traffic, StartUp(start_s, 0.0), seed=1)


def test_waits_agree_with_erlang_c() -> None:
    """M/M/c: exponential service has no closed spread in the log-normal, so the variation is that of Erlang's: 1."""
    service = Service(0.25, 1.0)
    simulated = world(20.0, 20_000.0, service=service)
    simulated.begin(7)
    simulated.advance(20_000.0)
    simulated.finish()
    requests, late = simulated.queue.by_day.sum(axis=0)
    expected = wait_tail(0.5, 7, 20.0, ServiceTime(0.25, 1.0))
    assert late / requests == pytest.approx(expected, rel=0.35)


def test_agrees_with_a_plain_queue() -> None:
    """The compiled heap against a slow and obvious one, pods coming and going."""
    simulated = world(30.0, 600.0)
    simulated.begin(6)
    plain = [(0.0, pod) for pod in range(6)]
    arrivals, services = deque(simulated.traffic.arrivals.tolist()), simulated.traffic.services
    waits, served = [], 0
    for second in range(1, 601):
        while arrivals and plain:
            start = max(plain[0][0], arrivals[0])
            if start >= second:
                break
            waits.append(start - arrivals.popleft())
            heapq.heapreplace(plain, (start + float(services[served]), plain[0][1]))
            served += 1
        simulated.advance(float(second))
        if second == 100:
            simulated.resize(9)
            for pod in range(6, 9):
                heapq.heappush(plain, (160.0, pod))
        if second == 400:
            gone = {uid for _, uid in sorted(plain)[:2]}
            simulated.resize(7)
            plain = [entry for entry in plain if entry[1] not in gone]
            heapq.heapify(plain)
    simulated.finish()
    late = sum(wait > 0.5 for wait in waits) + sum(600.0 - arrival > 0.5 for arrival in arrivals)
    assert simulated.queue.by_day.sum(axis=0).tolist() == [len(waits) + len(arrivals), late]
    assert simulated.queue.wait_quantile_s(0.9) == pytest.approx(float(np.quantile(waits, 0.9)), rel=0.06)


def test_everything_costs() -> None:
    """From the ask to the end, starting and aborted pods included; a busy pod ends when it is done."""
    simulated = world(0.001, 1000.0)
    simulated.begin(1)
    simulated.advance(100.0)
    simulated.resize(3)  # two start
    simulated.advance(130.0)
    simulated.resize(2)  # one start is aborted after 30 s
    simulated.advance(1000.0)
    simulated.finish()
    assert simulated.ledger.pod_seconds == pytest.approx(1000.0 + 900.0 + 30.0, abs=1.0)
    assert (simulated.ledger.actions, simulated.ledger.reversals, simulated.ledger.aborted_starts) == (2, 0, 1)


def test_stages_and_windows_as_a_rival_sees_them() -> None:
    simulated = world(20.0, 600.0, start_s=100.0)
    simulated.begin(10)
    simulated.advance(300.0)
    simulated.resize(12)
    simulated.advance(320.0)
    seen = Seen(simulated)
    assert (seen.replicas, seen.ready, seen.starting, seen.pending_pods) == (12, 10, 2, 2)
    simulated.advance(360.0)
    seen = Seen(simulated)
    assert (seen.ready, seen.starting, seen.pending_pods) == (10, 2, 0)
    assert seen.rate_per_s(60.0) == pytest.approx(20.0, rel=0.2)
    assert seen.concurrency(60.0) == pytest.approx(5.0, rel=0.3)  # Little's law
    assert seen.duty(60.0) == pytest.approx(0.5, rel=0.3)
    assert seen.queue_to_compute(60.0) == pytest.approx(0.0, abs=0.05)
    simulated.advance(410.0)
    assert Seen(simulated).ready == 12


def test_the_loops_own_tick_runs_here() -> None:
    """Cold start at a tenth of the need: the very tick scales up, names victims on the way down, and keeps its word."""
    traffic = play(flat(4000.0, 40.0), SERVICE, (0.0, 4000.0 / DAY_S), seed=2)
    simulated = World(Pool("pool", max_replicas=60, service_s=0.25), traffic, StartUp(60.0, 0.2), seed=2)
    simulated.begin(1)
    memory = Memory()
    for second in range(0, 4000, 15):
        (decision,) = tick(simulated, memory, float(second))
        assert len(simulated.pods) == decision.replicas
        simulated.advance(second + 15.0)
    observation = simulated.observe(simulated.pool, simulated.now_s)
    assert 11 <= observation.ready <= 40
    assert observation.pending is not None
    assert observation.pending < 50
    assert all(math.exp(-1.0) * 60 < value < math.exp(1.0) * 60 for value in observation.startup_s)


def test_clairvoyant_bridges_short_gaps() -> None:
    need = np.array([1, 2, 1, 2, 1, 1, 1, 2, 1])
    plan = clairvoyant_plan(need, 100.0, 180.0)
    assert plan.intervals == ((0.0, 900.0), (100.0, 400.0), (700.0, 800.0))
    assert plan.pod_seconds(180.0) == 900.0 + 300.0 + 180.0 + 100.0 + 180.0


def test_the_plan_is_the_cheapest_by_brute_force() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        need = random.integers(0, 2, 8)
        need[0] = 1
        cost = clairvoyant_plan(need, 100.0, 150.0).pod_seconds(150.0)
        free = np.flatnonzero(need == 0)
        best = math.inf
        for choice in range(2**free.size):
            on = need.copy()
            on[free] = [(choice >> bit) & 1 for bit in range(free.size)]
            starts = int(((on[1:] == 1) & (on[:-1] == 0)).sum())
            best = min(best, 100.0 * int(on.sum()) + 150.0 * starts)
        assert cost == best


def test_needs_are_those_of_the_capacity_model() -> None:
    objective = Objective(0.5, 0.01)
    need = needs(RateTrace(60.0, np.array([0.0, 600.0, 2400.0])), SERVICE, objective)
    assert need[0] == 0
    assert wait_tail(0.5, int(need[2]), 40.0, ServiceTime(0.25, 0.3)) <= 0.01
    assert wait_tail(0.5, int(need[2]) - 1, 40.0, ServiceTime(0.25, 0.3)) > 0.01


def setting(days: int = 3, mean_pods: float = 3.0) -> Setting:
    return Setting(
        day_shape(days, seed=4), "made", mean_pods=mean_pods, test_from_day=days - 1.0, train_days=0.5, tick_s=30.0
    )


@pytest.fixture(scope="module")
def case() -> Case:
    return setting().case(seed=1)


def test_every_contender_can_be_made(case: Case) -> None:
    for policy, family in FAMILIES.items():
        for knob in family.values:
            player, _ = make_player(case, policy, knob)
            assert player.sync_s > 0.0, policy


def test_every_policy_plays(case: Case) -> None:
    """All policies at their first knob over a day: costs and violations that can be."""
    for policy, knob in {
        policy: knob for policy, knob in reversed(choose("all")) if "splatfleet" not in policy
    }.items():
        row = run(case, policy, knob)
        assert row.requests > 500_000, row
        assert 0.3 < row.cost_ratio < 20.0, row
        assert 0.0 <= row.violation_ratio < 0.99, row


def test_known_orders_hold(case: Case) -> None:
    """What any faithful simulation must say: the peak never waits, the queue ratio is no target, foresight helps."""
    ours = run(case, "splatfleet", 0.95)
    ratio = run(case, "hpa-ratio", 1.0)
    peak = run(case, "static", 1.0)
    clairvoyant = run(case, "oracle-clairvoyant", 0.95)
    assert peak.violation_ratio < 0.005
    assert peak.cost_ratio > 1.2
    assert clairvoyant.cost_ratio == pytest.approx(1.0, abs=0.12)
    assert clairvoyant.violation_ratio < 0.03
    assert ratio.violation_ratio > 10 * max(ours.violation_ratio, 0.001)
    assert ours.cost_ratio < 2.0


def test_same_seed_same_row_and_training_tunes() -> None:
    small = setting(2, 1.0)
    jobs = jobs_for("keda", 1, 1, trained=("reactive",))
    rows = play_all(small, jobs)
    again = play_all(small, jobs)
    assert [(row.violation_ratio, row.cost_ratio) for row in rows] == [
        (row.violation_ratio, row.cost_ratio) for row in again
    ]
    assert [row.policy for row in rows] == ["keda"] * len(FAMILIES["keda"].values)
    assert sum(row.tuned for row in rows) == 1
    assert not any(row.training for row in rows)


def made_row(policy: str, knob: float, violations: float, cost: float, training: bool = True) -> Row:
    return Row(policy, knob, "reactive", "t", 0, violations, cost, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, training)


def test_tuning_takes_the_cheapest_that_is_good_enough() -> None:
    rows = [
        made_row("a", 0.5, 0.001, 2.0),
        made_row("a", 0.7, 0.009, 1.5),
        made_row("a", 0.9, 0.02, 1.1),
        made_row("b", 0.5, 0.05, 2.0),
        made_row("b", 0.7, 0.09, 1.0),
    ]
    assert tuned_knobs(rows, Objective()) == {"a": 0.7, "b": 0.5}
    assert chosen_in_training(rows, "reactive", Objective()) == ("a", 0.7)
    assert chosen_in_training(rows, "ours", Objective()) is None


def test_a_wrong_policy_names_those_that_are() -> None:
    with pytest.raises(ValueError, match="policy 'vpa' is not known; known are splatfleet"):
        choose("keda,vpa")
    assert {policy for policy, _ in choose("dynamo")} == {policy for policy in FAMILIES if policy.startswith("dynamo-")}


def test_pods_that_are_none_serve_nobody() -> None:
    traffic = play(flat(60.0, 5.0), SERVICE, (0.0, 60.0 / DAY_S), seed=1)
    queue = RenderQueue(traffic.arrivals, traffic.arrived, traffic.services, traffic.end_s, 0.5)
    queue.advance(60.0, 0.0)
    assert queue.queued == traffic.arrivals.size
    queue.finish()
    assert queue.by_day[0, 1] >= traffic.arrivals.size - 10


def test_the_comparison_favours_the_rival_and_tells_losses() -> None:
    rival = replace(made_row("keda", 0.7, 0.008, 1.4, False), tuned=True)
    worse = replace(made_row("kpa", 0.7, 0.002, 1.9, False), tuned=True)
    ours = [
        replace(made_row("splatfleet", q, v, c, False), kind="ours")
        for q, v, c in ((0.9, 0.001, 1.3), (0.99, 0.0, 2.0))
    ]
    comparison = compare([rival, worse, *ours])
    assert comparison is not None
    assert comparison.rival == rival
    assert comparison.violations_of_rival == pytest.approx(0.125)
    assert comparison.saved == pytest.approx(1 - 1.3 / 1.4)
    lost = compare([rival, worse, ours[1]])
    assert lost is not None
    assert (lost.violations_of_rival, lost.saved) == (None, pytest.approx(1 - 2.0 / 1.4))
    assert "Ours is nowhere so cheap" in sentence(lost)
    assert "more GPU time" in sentence(lost)
    assert [row.policy for row in best_rivals([worse, rival])] == ["keda", "kpa"]
    assert pareto([rival, worse, *ours]) == ours


def test_seeds_are_averaged() -> None:
    rows = [made_row("keda", 0.7, v, c, False) for v, c in ((0.01, 1.0), (0.03, 2.0))]
    (mean,) = mean_over_seeds(rows)
    assert (mean.violation_ratio, mean.cost_ratio) == (pytest.approx(0.02), pytest.approx(1.5))


def test_days_drawn_again_tell_a_win_from_luck() -> None:
    def row_of(violations: tuple[int, ...]) -> Row:
        return replace(made_row("p", 0.5, 0.01, 1.0), requests_by_day=(1000,) * 7, violations_by_day=violations)

    rival = row_of((50, 60, 40, 55, 45, 50, 60))
    clear = paired_interval(row_of((10, 12, 8, 11, 9, 10, 12)), rival)
    luck = paired_interval(row_of((0, 0, 0, 0, 0, 0, 340)), rival)
    assert clear == pytest.approx((0.2, 0.2), abs=0.01)
    assert luck is not None
    assert luck[0] < 0.2 < 1.0 < luck[1]
    assert paired_interval(rival, row_of((0,) * 7)) is None


def test_money_fills_what_is_reserved_first() -> None:
    prices = (CapacityType("reserved", 0.5, 4, reserved=True), CapacityType("on-demand", 1.0))
    assert money_per_hour({2: 100.0}, prices) == pytest.approx(2.0)  # paid whether used or not
    assert money_per_hour({4: 100.0, 8: 100.0}, prices) == pytest.approx(2.0 + 2.0)


def test_forecasts_are_shared_and_stay_the_same() -> None:
    """Two players of one traffic read one forecaster; alone each has what it would have had."""
    setting = Setting(day_shape(4, seed=3), test_from_day=3.0, mean_pods=2.0, bin_s=120.0, tick_s=120.0)
    together, alone = setting.case(1), setting.case(1)
    first = [run(together, "splatfleet", level) for level in (0.8, 0.95)]
    (again,) = [run(alone, "splatfleet", 0.95)]
    assert first[1].violations_by_day == again.violations_by_day
    assert first[1].cost_ratio == again.cost_ratio
    assert first[0].cost_ratio < first[1].cost_ratio
    assert together.forecasts.shapes == alone.forecasts.shapes


def test_what_another_process_forecast_is_found_and_can_be_gone_on_from(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    rates = (10.0 + 5.0 * np.sin(np.arange(900) / 10.0) + random.random(900)).tolist()
    shape = shape_for(600.0, 60.0, 120.0, (3600.0,), 0.9, None)

    def said(book: ForecastBook, bins: int) -> list[str]:
        reader, found = book.reader(shape, 0, 0), []
        for rate in rates[:bins]:
            reader.update(rate)
            found.append(f"{reader.quantiles()} {reader.later(2)} {reader.view()}")
        return found

    def book() -> ForecastBook:
        made = ForecastBook([0.9], history_bins=10, silent_bins=0)
        made.folder = tmp_path
        return made

    first = book()
    half = said(first, 450)
    first.save()
    other = book()
    other.load()
    assert said(other, 450) == half
    assert other.step_ms() == first.step_ms()  # nothing was forecast again
    whole = said(other, 900)
    assert whole[:450] == half
    alone = ForecastBook([0.9], history_bins=10, silent_bins=0)
    assert whole == said(alone, 900)
    first.folder = tmp_path / "full disk"  # nothing can be written there
    first.save()


def test_two_processes_play_what_one_plays() -> None:
    setting = Setting(
        day_shape(4, seed=3), "made", test_from_day=3.0, train_days=1.0, mean_pods=2.0, bin_s=120.0, tick_s=120.0
    )
    jobs = [job for job in jobs_for("splatfleet,keda", 2, 1, trained=("ours",)) if job[1] in (0.5, 0.95)]
    alone, together = play_all(setting, jobs), play_all(setting, jobs, workers=2)

    def plain(row: Row) -> Row:
        return replace(row, wall_s=0.0, decision_ms_p99=0.0)

    assert list(map(plain, alone)) == list(map(plain, together))
    assert {row.policy for row in alone} == {"splatfleet", "keda"}


def test_a_reader_that_saw_other_demand_is_refused() -> None:
    book = ForecastBook([0.9], history_bins=0, silent_bins=0)
    shape = shape_for(60.0, 60.0, 120.0, (3600.0,), 0.9, None)
    one, two = book.reader(shape, 0, 0), book.reader(shape, 0, 0)
    one.update(1.0)
    with pytest.raises(ValueError, match="bin 0 is 2.0, another player of this traffic gave 1.0"):
        two.update(2.0)
