"""Every reason reached by a table of observations, and what holds for all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.decision import Decision, Reason
from autoscaler.flaps import Flaps
from autoscaler.memory import PoolMemory
from autoscaler.observation import Observation, PodState, ServiceTime, StartingPod
from autoscaler.policy import decide, settle_s
from autoscaler.pool import Behavior, ForecastSettings, Mode, Objective, Pool, Triggers
from fleet.scene import SceneId

POOL = Pool(
    "p",
    min_replicas=1,
    max_replicas=20,
    tick_s=1.0,
    service_s=0.15,
    service_cv=0.2,
    startup_s=5.0,
    forecast=ForecastSettings(season_s=(40.0,)),
    behavior=Behavior(down_window_s=6.0, stale_after_s=10.0, blind_after_s=60.0),
)
REACTIVE = replace(POOL, mode=Mode.REACTIVE)
MEASURED = ServiceTime(0.15, 0.2, 500)
SINUS = 30.0 - 25.0 * np.cos(2 * np.pi * np.arange(400) / 40)  # arrivals a second; lowest at multiples of 40


def seen(demand: float | np.ndarray, desired: int, **more: object) -> Observation:
    """A pool whose demand was the same for two minutes, or was the array."""
    history = np.full(120, demand) if isinstance(demand, float) else demand
    fields: dict[str, object] = {"ready": desired, "service": MEASURED, "pending": 0.0, "now_s": 1000.0} | more
    return Observation(pool="p", bin_s=1.0, demand=history, desired=desired, **fields)  # type: ignore[arg-type]


def ask(pool: Pool, observation: Observation, memory: PoolMemory | None = None) -> Decision:
    # A memory that decided before: one that just began holds what it finds until it has settled.
    before = PoolMemory(last_replicas=observation.desired, wanted_s=observation.now_s - pool.tick_s)
    return decide(pool, observation, memory or before)


def test_forecast_adds_pods_before_the_demand_is_there() -> None:
    decision = ask(POOL, seen(SINUS[:292], 3))  # 8 s after the trough, rising
    assert decision.reason is Reason.FORECAST
    assert decision.replicas > decision.floor
    assert "forecast q0.9" in decision.explanation
    assert f"needs {decision.need}" in decision.explanation


def test_a_share_of_the_demand_is_kept_free() -> None:
    plain = ask(POOL, seen(40.0, 1))
    for share in (0.25, 0.5, 1.0):
        roomy = ask(replace(POOL, behavior=replace(POOL.behavior, headroom=share)), seen(40.0, 1))
        assert roomy.need is not None
        assert plain.need is not None
        # Busy at most 1 / (1 + share) of the time: 40 x 0.15 = 6 pods' worth of work.
        assert roomy.need >= (1 + share) * 6.0
        assert plain.need <= roomy.need <= (1 + share) * plain.need + 1
        assert roomy.reason is Reason.HEADROOM
        assert f"{share:.0%} of the demand kept free" in roomy.explanation
    with pytest.raises(ValueError, match=r"behavior.headroom is -0.1, expected 0 to 4"):
        replace(POOL, behavior=replace(POOL.behavior, headroom=-0.1))


def test_a_sudden_rise_is_met_with_the_share_on_top() -> None:
    """The share counts from what is seen where the forecast was overtaken, and a forecast that rises says so."""
    step = np.concatenate((np.full(200, 10.0), np.full(5, 80.0)))
    pool = replace(POOL, max_replicas=60, behavior=replace(POOL.behavior, headroom=0.5))
    assert ask(pool, seen(step, 3)).replicas >= 1.5 * 80.0 * 0.15
    rising = ask(pool, seen(SINUS[:292], 3))
    assert rising.reason is Reason.FORECAST


def test_demand_adds_pods_in_one_step() -> None:
    decision = ask(REACTIVE, seen(40.0, 1))
    assert (decision.reason, decision.replicas) == (Reason.DEMAND, 9)  # 40 x 0.15 / 0.7 = 8.6


def test_pods_on_unhealthy_slices_are_counted_out() -> None:
    """Nine are needed: the broken come on top, as far as the maximum goes, and on the way down they go first."""
    pods = tuple(PodState(f"pod-{number}", healthy=number < 9, ready=number < 9) for number in range(11))
    decision = ask(REACTIVE, seen(40.0, 11, ready=9, unhealthy=2, pods=pods))
    assert (decision.replicas, decision.current) == (11, 11)
    assert "2 on unhealthy slices" in decision.explanation
    assert ask(REACTIVE, seen(40.0, 9, ready=7, unhealthy=2)).replicas == 11
    assert ask(replace(REACTIVE, max_replicas=10), seen(40.0, 9, ready=7, unhealthy=2)).replicas == 10
    assert ask(replace(REACTIVE, max_replicas=1), seen(40.0, 1, ready=0, unhealthy=1)).replicas == 1
    quick = replace(REACTIVE, behavior=replace(REACTIVE.behavior, down_window_s=0.0))
    decision = ask(quick, seen(30.0, 11, ready=9, unhealthy=2, pods=pods))  # 7 are needed
    assert decision.replicas == 9
    assert decision.victims == ("pod-9", "pod-10")
    assert ask(quick, seen(30.0, 11, ready=11)).replicas == 7, "that is what is needed of sound ones"


def test_pending_adds_pods() -> None:
    """300 wait; in 5 s one pod renders 33 of them and 5 new ones come: 271 x 0.15 s within a lead of 6 s."""
    decision = ask(REACTIVE, seen(1.0, 1, pending=300.0))
    assert (decision.reason, decision.replicas) == (Reason.PENDING, 8)


def test_a_line_that_is_gone_before_a_pod_could_be_ready_asks_for_none() -> None:
    assert ask(REACTIVE, seen(1.0, 1, pending=20.0)).replicas == 1


def test_a_line_that_grows_while_pods_start_does_not_ask_again_for_what_starts() -> None:
    """Demand doubles over what serves: the ask stays that of the demand and its line, however long the line gets."""
    asked, line = [3], 0.0
    for second in range(5):
        line += 20.0
        starting = tuple(StartingPod(f"s{i}", float(second)) for i in range(asked[-1] - 3))
        observation = seen(40.0, asked[-1], ready=3, starting=starting, pending=line, now_s=1000.0 + second)
        asked.append(ask(replace(REACTIVE, max_replicas=500), observation).replicas)
    assert max(asked) <= 2 * 9  # 40 x 0.15 / 0.7 = 9


def test_queue_ratio_adds_one_pod_unless_one_starts() -> None:
    decision = ask(REACTIVE, seen(1.0, 3, queue_to_compute=1.5, pending=2.0))
    assert (decision.reason, decision.replicas) == (Reason.QUEUE_RATIO, 4)
    starting = seen(1.0, 4, ready=3, queue_to_compute=1.5, pending=2.0, starting=(StartingPod("s", 1.0),))
    assert ask(REACTIVE, starting).reason is not Reason.QUEUE_RATIO


def test_backlog_is_drained_on_top_of_the_demand() -> None:
    calm = ask(POOL, seen(20.0, 4))
    loaded = ask(POOL, seen(20.0, 4, pending=90.0))  # 4 pods render 133 in 5 s, 100 come: 53 x 0.15 s within 6 s
    assert calm.need is not None
    assert loaded.need == calm.need + 2
    assert loaded.reason in (Reason.BACKLOG, Reason.PENDING)


def test_steady_and_starting() -> None:
    need = ask(POOL, seen(20.0, 1)).replicas
    assert ask(POOL, seen(20.0, need)).reason is Reason.STEADY
    waiting = seen(20.0, need, ready=need - 1, starting=(StartingPod("s", 1.0),))
    decision = ask(POOL, waiting)
    assert (decision.reason, decision.replicas) == (Reason.STARTING, need)
    assert "1 starting" in decision.explanation


def test_surplus_goes_once_it_has_settled() -> None:
    memory = PoolMemory()
    reasons = []
    for second in range(10):
        demand = np.concatenate((np.full(120, 20.0), np.full(second, 2.0)))
        reasons.append(ask(REACTIVE, seen(demand, 5, now_s=1000.0 + second), memory).reason)
    assert Reason.SETTLING in reasons
    assert reasons[-1] is Reason.SURPLUS
    assert reasons.index(Reason.SURPLUS) >= 6  # the down window


@given(st.lists(st.floats(0.0, 60.0), min_size=1, max_size=40))
def test_the_first_that_is_remembered_is_the_most_that_was_wanted(demands: list[float]) -> None:
    memory, wanted = PoolMemory(last_replicas=5, wanted_s=999.0), []
    for second, demand in enumerate(demands):
        ask(REACTIVE, seen(np.full(10, demand), 5, now_s=1000.0 + second), memory)
        wanted.append(memory.wants[-1][1])
        assert memory.wants[0][1] == max(wanted[-7:])  # a down window of six seconds, and its first


@pytest.mark.parametrize(
    ("startup_s", "day_s", "settles_s"),
    [(30.0, 86_400.0, 180.0), (180.0, 86_400.0, 1080.0), (420.0, 86_400.0, 1200.0), (5.0, 40.0, 5.0)],
)
def test_a_surplus_settles_for_six_start_ups_and_a_72nd_of_the_day_at_most(
    startup_s: float, day_s: float, settles_s: float
) -> None:
    pool = Pool("p", startup_s=startup_s, forecast=ForecastSettings(season_s=(day_s,)))
    assert settle_s(pool, startup_s) == pytest.approx(settles_s)
    told = replace(pool, behavior=Behavior(settle_s=0.0))
    assert settle_s(told, startup_s) == 0.0


def test_a_pod_needed_again_within_a_start_up_is_kept() -> None:
    """At the end of a short dip the forecast wants the pod back before a new one would have paid."""
    shape = np.tile(np.concatenate((np.full(24, 40.0), np.full(16, 4.0))), 8)
    pool = replace(POOL, behavior=replace(POOL.behavior, settle_s=0.0), startup_s=4.0)
    decision = ask(pool, seen(shape[: 7 * 40 + 33], 7))  # 7 s before the demand is back, lead 5 s
    assert decision.reason is Reason.KEEP
    assert decision.replicas == 7
    assert "needed again" in decision.explanation
    later = ask(pool, seen(shape[: 7 * 40 + 25], 7))  # 15 s before: not worth keeping
    assert later.reason is Reason.SURPLUS


def test_what_if_keeps_pods_while_those_that_serve_are_too_few() -> None:
    observation = seen(20.0, 12, ready=2, starting=tuple(StartingPod(f"s{i}", 1.0) for i in range(10)))
    decision = ask(POOL, observation)
    assert (decision.reason, decision.replicas) == (Reason.WHAT_IF, 12)


def test_a_spent_flap_budget_delays_steps_down_and_never_freezes() -> None:
    day = ForecastSettings(season_s=(400.0,))
    pool = replace(POOL, behavior=replace(POOL.behavior, settle_s=0.0), forecast=day)
    waited = {}
    for surplus, spent in ((1, 0), (1, 12), (7, 12)):
        memory = PoolMemory()
        memory.flaps.belief = 0.0  # what is held decides alone
        for second in range(spent):
            memory.flaps.moved(float(second), -1)
            memory.flaps.moved(float(second), 1)
        memory.flaps.direction = 1
        need = ask(pool, seen(10.0, 1)).replicas
        for second in range(200):
            decision = ask(pool, seen(10.0, need + surplus, now_s=1000.0 + second), memory)
            if decision.change < 0:
                break
            assert decision.reason in (Reason.FLAP_BUDGET, Reason.SETTLING)
        waited[surplus, spent] = second
    assert waited[1, 0] <= 2 < waited[7, 12] < waited[1, 12] < 199
    memory = PoolMemory()
    memory.flaps.price = 0.5
    assert ask(pool, seen(40.0, 1), memory).replicas > 1  # up at once, whatever was spent


def test_a_foreseen_valley_is_taken_at_once_as_far_as_forecasts_came_true() -> None:
    flaps = Flaps(direction=-1, belief=0.5)
    for saved, belief in ((1.0, 0.6), (0.0, 0.48)):  # a fifth of the way to what came true
        flaps.direction = -1
        flaps.promise(10, 300.0)
        for _ in range(10):
            flaps.save(10 if saved == 0.0 else 9, 30.0)
        flaps.moved(0.0, 1)
        assert flaps.belief == pytest.approx(belief)
    flaps.moved(0.0, -1)
    flaps.moved(0.0, 1)  # held long enough without a promise: nothing to learn
    assert flaps.belief == pytest.approx(0.48)


def test_what_is_usual_is_known_from_as_long_as_there_is_and_not_from_the_first_moment() -> None:
    flaps, day_s = Flaps(), 86_400.0
    flaps.need(8, 1.0, day_s)
    for _ in range(9):
        flaps.need(1, 1.0, day_s)
    assert flaps.usual == pytest.approx(1.7)
    for _ in range(3):
        flaps.need(1, day_s, day_s)
    assert flaps.usual == 1.0


def test_restless_days_keep_to_the_budget() -> None:
    """A pool that could always save ten times what is usual: the price climbs out of its reach."""
    flaps, day_s = Flaps(direction=1, usual=10.0), 86_400.0
    for tick in range(3 * 2880):
        if flaps.direction == 1:
            flaps.hold(100, 30.0)
            if flaps.held_pod_s >= flaps.price_pod_s(30.0 * tick, day_s, 10, 1):
                flaps.moved(30.0 * tick, -1)
        else:
            flaps.moved(30.0 * tick, 1)
    assert 3 <= len(flaps.reversals) <= 10


def test_noise_of_one_pod_is_sat_out_at_the_price_that_reversals_find() -> None:
    """Up and down by one pod each tenth of an hour: about as many reversals a day as the budget has."""
    flaps, day_s, up, made = Flaps(), 86_400.0, 0.0, []
    for tick in range(4 * 2880):
        now_s = 30.0 * tick
        if flaps.direction == 1:
            flaps.hold(1, 30.0)
        price = flaps.price_pod_s(now_s, day_s, 10, 10)
        if flaps.direction == 1 and flaps.held_pod_s >= price:
            flaps.moved(now_s, -1)
            up = now_s + 360.0
        elif flaps.direction != 1 and now_s >= up:
            made.append(now_s)
            flaps.moved(now_s, 1)
    last_day = sum(at_s >= 3 * day_s for at_s in made)
    assert 5 <= last_day <= 10


def test_at_max_says_what_was_wanted() -> None:
    decision = ask(replace(POOL, max_replicas=4), seen(100.0, 2))
    assert (decision.reason, decision.replicas) == (Reason.AT_MAX, 4)
    assert "wanted, max 4" in decision.explanation


def test_at_min() -> None:
    decision = ask(replace(POOL, min_replicas=3), seen(0.0, 3))
    assert (decision.reason, decision.replicas) == (Reason.AT_MIN, 3)


def test_no_traffic_is_zero_where_zero_is_allowed() -> None:
    decision = ask(replace(POOL, min_replicas=0), seen(0.0, 2))
    assert (decision.reason, decision.replicas) == (Reason.SURPLUS, 0)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        (seen(np.zeros(0), 7), Reason.NO_DATA),
        (seen(np.full(60, np.nan), 7), Reason.NO_DATA),
        (seen(np.concatenate((np.full(60, 1.0), np.full(5, np.nan))), 7), Reason.NO_DATA),
        (seen(1.0, 7, data_age_s=20.0), Reason.STALE),
        (seen(1.0, 7, trusted=False, note="unreachable: refused"), Reason.STALE),
        (seen(1.0, 7, data_age_s=120.0), Reason.BLIND),
        (seen(90.0, 7, data_age_s=120.0), Reason.BLIND),
    ],
)
def test_without_good_data_the_count_is_held(mode: Mode, observation: Observation, reason: Reason) -> None:
    decision = ask(replace(POOL, mode=mode), observation)
    assert (decision.reason, decision.replicas) == (reason, 7)
    if observation.note:
        assert observation.note in decision.explanation


def test_a_queue_that_waits_adds_pods_even_without_demand_data() -> None:
    decision = ask(POOL, seen(np.zeros(0), 2, pending=30.0))
    assert (decision.reason, decision.replicas) == (Reason.PENDING, 3)  # 28 x 0.15 s within 6 s, on top of what serves


def test_missing_bins_in_a_known_history_are_not_zero() -> None:
    history = np.full(120, 20.0)
    history[60:115] = np.nan
    assert ask(POOL, seen(history, 4)).replicas == 4


def test_an_unmeasured_service_time_is_said() -> None:
    decision = ask(POOL, seen(20.0, 6, service=None))
    assert "configured, not measured" in decision.explanation
    assert "configured" not in ask(POOL, seen(20.0, 6)).explanation


def test_measured_start_ups_make_the_lead() -> None:
    decision = ask(POOL, seen(20.0, 6, startup_s=(2.0,) * 10))
    assert decision.lead_s == pytest.approx(3.0)
    assert ask(POOL, seen(20.0, 6)).lead_s == pytest.approx(6.0)


def test_start_ups_that_triple_are_believed_within_ten_starts() -> None:
    decision = ask(POOL, seen(20.0, 6, startup_s=(2.0,) * 40 + (6.0,) * 10))
    assert decision.lead_s == pytest.approx(7.0)


def test_waiting_beyond_the_model_costs_pods_slowly() -> None:
    memory = PoolMemory()
    first = ask(POOL, seen(20.0, 6, queue_to_compute=2.0), memory)
    for second in range(60):
        last = ask(POOL, seen(20.0, 6, queue_to_compute=2.0, now_s=1001.0 + second), memory)
    assert first.need is not None
    assert last.need is not None
    assert first.need < last.need <= 2 * first.need


def test_the_coldest_pods_go_first_and_starting_ones_before_them() -> None:
    hot, cold = SceneId("hot"), SceneId("cold")
    pods = (
        PodState("a", resident=(hot,)),
        PodState("b", resident=(cold,)),
        PodState("c", resident=(hot, cold)),
        PodState("d", ready=False),
    )
    observation = seen(
        1.0, 4, ready=3, pods=pods, starting=(StartingPod("d", 1.0),), scene_demand={hot: 90.0, cold: 10.0}
    )
    decision = ask(POOL, observation)
    assert decision.victims == ("d", "b", "a")[: -decision.change]
    assert decision.change < -1


@pytest.mark.parametrize("utilization", [0.5, 0.7, 0.9])
def test_reactive_is_the_textbook_rule(utilization: float) -> None:
    """ceil(rate x service / utilization), no more and no less, while nothing waits."""
    pool = replace(REACTIVE, triggers=Triggers(utilization=utilization), max_replicas=200)
    for rate in (0.5, 7.0, 33.3, 120.0):
        assert ask(pool, seen(rate, 0)).replicas == max(1, int(np.ceil(rate * 0.15 / utilization - 1e-9)))


numbers = st.floats(0, 300)


@settings(max_examples=150, deadline=None)
@given(
    demand=st.lists(st.one_of(numbers, st.just(float("nan"))), max_size=90),
    desired=st.integers(0, 25),
    starting=st.integers(0, 4),
    pending=st.one_of(st.none(), st.floats(0, 100)),
    ratio=st.one_of(st.none(), st.floats(0, 50)),
    data_age_s=st.sampled_from([0.0, 0.5, 20.0, 100.0]),
    mode=st.sampled_from(list(Mode)),
)
def test_whatever_is_seen(
    demand: list[float],
    desired: int,
    starting: int,
    pending: float | None,
    ratio: float | None,
    data_age_s: float,
    mode: Mode,
) -> None:
    """Within the limits, never below the floor, never down while blind, the same every time."""
    pool = replace(POOL, mode=mode, min_replicas=2, objective=Objective(0.5, 0.02))
    observation = seen(
        np.array(demand, dtype=np.float64),
        desired,
        ready=max(0, desired - starting),
        starting=tuple(StartingPod(str(i), float(i)) for i in range(min(starting, desired))),
        pending=pending,
        queue_to_compute=ratio,
        data_age_s=data_age_s,
    )
    decision = ask(pool, observation)
    assert pool.min_replicas <= decision.replicas <= pool.max_replicas
    assert decision.replicas >= min(decision.floor, pool.max_replicas)
    if decision.reason in (Reason.NO_DATA, Reason.STALE, Reason.BLIND):
        assert decision.replicas >= min(desired, pool.max_replicas)
    assert len(decision.victims) <= max(0, -decision.change)
    assert decision == ask(pool, observation)
