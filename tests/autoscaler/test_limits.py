"""Zero and back, calendars, overrides, money, GPUs that do not suffice, and the budget of late requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from autoscaler.capacity_types import cost_per_hour, split
from autoscaler.decision import Decision, Reason
from autoscaler.gpu_budget import share_gpus
from autoscaler.loop import Memory, tick
from autoscaler.memory import PoolMemory
from autoscaler.observation import Observation, PodState, ServiceTime
from autoscaler.pacing import HIGHEST_MARGIN, LEEWAY_PER_SPEND, Budget
from autoscaler.policy import decide
from autoscaler.pool import Behavior, Calendar, CapacityType, ForecastSettings, Mode, Override, Pool
from autoscaler.schedule import is_open, limits_at
from autoscaler.wake import is_quiet, wake_probability

DAY = 96
POOL = Pool(
    "p",
    min_replicas=0,
    max_replicas=20,
    tick_s=60.0,
    startup_s=180.0,
    forecast=ForecastSettings(season_s=(DAY * 60.0,)),
    behavior=Behavior(idle_s=600.0, settle_s=60.0),
)
SERVICE = ServiceTime(0.25, 0.3, 500)


def office(days: float) -> np.ndarray:
    """Traffic from bin 32 to bin 64 of every day, none else."""
    phase = np.arange(round(days * DAY)) % DAY
    return np.where((phase >= 32) & (phase < 64), 300.0, 0.0)


def seen(counts: np.ndarray, desired: int, **more: object) -> Observation:
    fields: dict[str, object] = {"now_s": 60.0 * counts.size, "ready": desired, "pending": 0.0, "service": SERVICE}
    return Observation(pool="p", bin_s=60.0, demand=counts, desired=desired, **(fields | more))  # type: ignore[arg-type]


def test_a_pool_sleeps_at_night_and_wakes_before_the_traffic() -> None:
    """Over one day: at zero most of the night, up before the first request, and never away from a request."""
    memory, desired, awake = PoolMemory(), 0, []
    for index in range(6 * DAY, 7 * DAY):
        decision = decide(POOL, seen(office(index / DAY), desired), memory)
        desired = decision.replicas
        awake.append(desired)
    first = next(i for i, count in enumerate(awake) if count)
    assert 32 - 6 <= first < 32
    assert min(awake[32:64]) > 0
    assert awake[-1] == 0
    assert sum(count == 0 for count in awake) >= 0.75 * (DAY - 32)


def test_a_wake_says_so() -> None:
    counts = office(6 + 30 / DAY)
    decision = decide(POOL, seen(counts, 0), PoolMemory())
    assert decision.reason is Reason.WAKE
    assert "100% of past days" in decision.explanation


def test_a_request_wakes_a_pool_that_nobody_foresaw() -> None:
    decision = decide(POOL, seen(office(6 + 5 / DAY), 0, pending=1.0), PoolMemory())
    assert decision.reason in (Reason.PENDING, Reason.BACKLOG)
    assert 1 <= decision.replicas <= 2


def test_no_data_is_not_quiet() -> None:
    assert is_quiet(np.zeros(10), 10)
    assert not is_quiet(np.full(10, math.nan), 10)
    assert not is_quiet(np.zeros(5), 10)
    gaps = np.where(np.arange(20) % 2, 0.0, math.nan)
    assert is_quiet(gaps, 10)  # ten that are known
    gaps[-1] = math.nan
    assert not is_quiet(gaps, 10)
    assert wake_probability(np.zeros(DAY - 1), DAY, 4) is None
    assert wake_probability(np.full(3 * DAY, math.nan), DAY, 4) is None


def test_the_same_weekday_counts_twice() -> None:
    counts = np.zeros(8 * DAY)
    counts[DAY : DAY + 2] = 5.0  # a week before the end
    once = wake_probability(counts, DAY, 4)
    counts[:] = 0.0
    counts[2 * DAY : 2 * DAY + 2] = 5.0  # six days before, fresher
    other = wake_probability(counts, DAY, 4)
    assert once is not None
    assert other is not None
    assert once > other


def at(text: str, zone: str = "Europe/Berlin") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def test_a_calendar_follows_the_wall_clock_over_daylight_saving() -> None:
    work = Calendar("work", "08:00", "18:00", "Europe/Berlin", (0, 1, 2, 3, 4), min_replicas=3)
    for day in ("2025-03-28", "2025-03-31"):  # Friday before and Monday after the clocks go forward
        assert not is_open(work, at(f"{day} 07:59"))
        assert is_open(work, at(f"{day} 08:00"))
        assert not is_open(work, at(f"{day} 18:00"))
    assert at("2025-03-31 08:00") - at("2025-03-28 08:00") == 3 * 86_400 - 3600
    assert not is_open(work, at("2025-03-29 10:00"))  # Saturday


def test_a_calendar_may_pass_midnight() -> None:
    night = Calendar("night", "22:00", "02:00", "Europe/Berlin", (4,), min_replicas=3)  # begins on Fridays
    assert is_open(night, at("2025-03-28 23:00"))
    assert is_open(night, at("2025-03-29 01:59"))
    assert not is_open(night, at("2025-03-29 23:00"))
    assert not is_open(night, at("2025-03-28 01:00"))


def test_limits_of_calendars_and_overrides() -> None:
    work = Calendar("work", "08:00", "18:00", min_replicas=3)
    event = Override(from_s=1000.0, until_s=2000.0, min_replicas=8, note="launch")
    pool = replace(POOL, calendars=(work,), overrides=(event,))
    day_s = 9 * 3600.0
    assert limits_at(pool, day_s).pool.min_replicas == 3
    assert limits_at(pool, 7 * 3600.0).pool is pool
    inside = limits_at(pool, 1500.0)
    assert inside.pool.min_replicas == 8
    assert "override for 500 s more (launch)" in inside.note
    for left_s, told in ((7199.0, "7199 s"), (9000.0, "2.5 h"), (4_591_728.0, "53.1 days")):
        late = limits_at(Pool("p", overrides=(Override(until_s=left_s),)), 0.0)
        assert late.note == f"override for {told} more"
    assert limits_at(pool, 2000.0).pool is pool  # it ended by itself
    crossed = replace(POOL, overrides=(Override(until_s=9e9, min_replicas=30), Override(until_s=9e9, max_replicas=5)))
    assert limits_at(crossed, 0.0).pool.max_replicas == 30


def test_a_pause_holds_until_it_ends() -> None:
    busy = np.full(200, 3000.0)
    now_s = 60.0 * busy.size
    pool = replace(POOL, overrides=(Override(until_s=now_s + 1.0, paused=True),))
    held = decide(pool, seen(busy, 2), PoolMemory())
    assert (held.reason, held.replicas, held.victims) == (Reason.PAUSED, 2, ())
    later = decide(pool, seen(busy, 2, now_s=now_s + 1.0), PoolMemory())
    assert later.replicas > 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"calendars": (Calendar("c", "8:00", "18:00"),)}, "calendars\\[c\\].begin is '8:00'"),
        ({"calendars": (Calendar("c", "08:00", "18:00", "Mars"),)}, "zone is 'Mars'"),
        ({"calendars": (Calendar("c", "08:00", "18:00", weekdays=(7,)),)}, "0 \\(Monday\\) to 6"),
        ({"overrides": (Override(until_s=math.inf),)}, "an override always ends"),
        ({"capacity_types": (CapacityType("r", 1.0, reserved=True),)}, "how many are reserved"),
        ({"behavior": Behavior(settle_s=-5.0)}, "behavior.settle_s is -5.0, expected seconds, 0 or more"),
        ({"behavior": Behavior(idle_s=math.nan)}, "behavior.idle_s is nan"),
    ],
)
def test_limits_that_make_no_sense_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(POOL, **changes)  # type: ignore[arg-type]


TYPES = (
    CapacityType("spot", 0.4, 3),
    CapacityType("on-demand", 1.0),
    CapacityType("reserved", 0.6, 4, reserved=True),
)


def test_reserved_fills_first_and_money_is_counted() -> None:
    assert split(2, TYPES) == {"reserved": 2, "spot": 0, "on-demand": 0}
    assert split(9, TYPES) == {"reserved": 4, "spot": 3, "on-demand": 2}
    assert cost_per_hour(split(0, TYPES), TYPES) == pytest.approx(2.4)  # paid whether used or not
    assert cost_per_hour(split(9, TYPES), TYPES) == pytest.approx(2.4 + 1.2 + 2.0)


def test_on_demand_leaves_first_however_warm() -> None:
    kinds = ("reserved", "on-demand", "spot", "reserved")
    pods = tuple(PodState(f"{kind}{i}", capacity_type=kind, in_flight=i) for i, kind in enumerate(kinds))
    pool = replace(POOL, capacity_types=TYPES, mode=Mode.REACTIVE, behavior=Behavior(down_window_s=0.0))
    quiet = np.full(200, 60.0)
    decision = decide(pool, seen(quiet, 4, pods=pods), PoolMemory(last_replicas=4))
    assert decision.replicas == 1
    assert decision.victims == ("on-demand1", "spot2", "reserved0")
    assert decision.capacity == {"reserved": 1, "spot": 0, "on-demand": 0}


def wish(pool: Pool, replicas: int, floor: int, reason: Reason = Reason.FORECAST) -> Decision:
    return Decision(pool.name, replicas, reason, "", floor=floor)


def test_gpus_go_by_need_first_and_by_priority_second() -> None:
    high = replace(POOL, name="high", priority=1, min_replicas=1)
    low = replace(POOL, name="low", min_replicas=1)
    pools = [low, high]
    wishes = [wish(low, 10, 4), wish(high, 10, 6)]
    assert share_gpus(pools, wishes, 20.0) == [10, 10]
    assert share_gpus(pools, wishes, 13.0) == [4, 9]  # what serves now, then what the first foresees
    assert share_gpus(pools, wishes, 7.0) == [1, 6]  # not even that: the minimum, then by priority
    assert share_gpus(pools, wishes, 1.0) == [0, 1]
    unseen = [wish(low, 9, 0, Reason.STALE), wish(high, 10, 6)]
    assert share_gpus(pools, unseen, 15.0) == [9, 6]  # a pool that cannot be seen keeps its pods


def test_slices_count_as_their_share() -> None:
    small = replace(POOL, name="small", gpus_per_pod=1 / 7)
    whole = replace(POOL, name="whole", gpus_per_pod=1.0)
    counts = share_gpus([small, whole], [wish(small, 20, 14), wish(whole, 6, 3)], 5.0)
    assert counts[0] == 14
    assert counts[1] == 3
    assert counts[0] / 7 + counts[1] <= 5.0 + 1e-9


def test_a_tick_stays_within_the_budget() -> None:
    class World:
        def __init__(self) -> None:
            self.desired = {"low": 2, "high": 2}

        def pools(self) -> Sequence[Pool]:
            return [replace(POOL, name=name, priority=int(name == "high")) for name in self.desired]

        def observe(self, pool: Pool, now_s: float) -> Observation:
            count = self.desired[pool.name]
            return replace(seen(np.full(300, 1500.0), count), pool=pool.name, now_s=now_s)

        def scale(self, pool: Pool, decision: Decision) -> None:
            self.desired[pool.name] = decision.replicas

        def warm(self, pool: Pool, asks: object) -> None:
            raise AssertionError(asks)

    world = World()
    low, high = tick(world, Memory(gpu_budget=12.0), 0.0)
    assert low.replicas + high.replicas == 12
    assert low.reason is Reason.GPU_BUDGET
    assert high.replicas > low.replicas
    assert "within the GPUs of all pools" in low.explanation
    assert len(low.scenes) == max(0, low.change)


class Fixed:
    """Pools with so many pods each, whose demand takes so many; what is decided is looked at alone."""

    def __init__(self, pools: Sequence[Pool], desired: Sequence[int], rates_per_s: Sequence[float]) -> None:
        self._pools, self._desired, self._rates = pools, desired, rates_per_s

    def pools(self) -> Sequence[Pool]:
        return self._pools

    def observe(self, pool: Pool, now_s: float) -> Observation:
        index = self._pools.index(pool)
        counts = np.full(300, 60.0 * self._rates[index])
        return replace(seen(counts, self._desired[index]), pool=pool.name, now_s=now_s)

    def scale(self, pool: Pool, decision: Decision) -> None:
        del pool, decision

    def warm(self, pool: Pool, asks: object) -> None:
        del pool, asks


def test_gpus_are_shared_by_the_limits_of_the_moment() -> None:
    launch = replace(POOL, name="launch", overrides=(Override(until_s=9e9, min_replicas=8, note="launch"),))
    busy = replace(POOL, name="busy")
    first, second = tick(Fixed([launch, busy], (2, 4), (0.5, 60.0)), Memory(gpu_budget=12.0), 0.0)
    assert (first.replicas, second.replicas) == (8, 4)


@pytest.mark.parametrize("kept", ["paused", "hold_scale_down"])
def test_what_is_held_by_hand_keeps_its_gpus(kept: str) -> None:
    held = replace(POOL, name="held", overrides=(Override(until_s=9e9, **{kept: True}),))
    busy = replace(POOL, name="busy", min_replicas=8)
    first, second = tick(Fixed([held, busy], (6, 4), (0.5, 60.0)), Memory(gpu_budget=10.0), 0.0)
    assert (first.replicas, second.replicas) == (6, 4)
    assert second.reason is Reason.GPU_BUDGET


def test_a_pool_that_nobody_carries_out_takes_no_gpu() -> None:
    trial = replace(POOL, name="trial", carried_out=False)
    live = replace(POOL, name="live")
    first, second = tick(Fixed([trial, live], (1, 6), (30.0, 28.0)), Memory(gpu_budget=12.0), 0.0)
    assert (second.replicas, second.reason) == (9, Reason.DEMAND)
    assert first.replicas == 9  # what it would have is still reported


def test_the_way_down_is_held_and_nothing_else() -> None:
    """Pods on broken slices are no reason to grow, and a calendar still raises the least."""
    hold = Override(until_s=9e9, hold_scale_down=True, note="release")
    pool, quiet = replace(POOL, min_replicas=1, overrides=(hold,)), np.full(300, 30.0)
    memory, desired = PoolMemory(), 6
    for number in range(30):
        broken = seen(quiet, desired, ready=desired - 1, unhealthy=1, now_s=18_000.0 + 60.0 * number)
        decision = decide(pool, broken, memory)
        desired = decision.replicas
    assert (desired, decision.reason) == (6, Reason.AT_MIN)
    assert "release" in decision.explanation
    work = Calendar("work", "00:00", "00:00", min_replicas=10)
    assert decide(replace(pool, calendars=(work,)), seen(quiet, 3), PoolMemory()).replicas == 10


def test_late_requests_widen_the_margin_and_a_clean_record_takes_it_back() -> None:
    budget = Budget()
    for _ in range(5000):
        budget.spend(30.0, 1000.0, 0.999)  # three times too many
        budget.pace(0.01, 0.0, 0.1)
    widened = budget.margin
    assert 1.05 < widened <= HIGHEST_MARGIN
    assert budget.leeway == 1.0
    for _ in range(20_000):
        budget.spend(0.0, 1000.0, 0.999)
        budget.pace(0.01, 0.0, 0.1)
    assert budget.margin == 1.0


def test_one_burst_of_a_clean_day_widens_nothing() -> None:
    """Ten ticks of a day in which every request is late: a third of a per cent."""
    budget = Budget()
    for number in range(2880):
        budget.spend(1000.0 if 1000 <= number < 1010 else 0.0, 1000.0, math.exp(-1 / 2880))
        budget.pace(0.01, 0.0, 0.1)
        assert budget.margin == 1.0


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_leeway_grows_until_what_may_be_spent_is_spent(share: float) -> None:
    """A world in which a pool that is sized for a ratio has a twentieth of it late, as recorded traffic has."""
    budget, late = Budget(), []
    for _ in range(8 * 2880):
        late.append(1000.0 * 0.01 * budget.leeway / 20.0)
        budget.spend(late[-1], 1000.0, math.exp(-1 / 2880))
        budget.pace(0.01, share, 0.1)
    spent = sum(late[-2880:]) / 2880 / 1000.0 / 0.01
    reach = min(1.0 + LEEWAY_PER_SPEND * share, 20.0) / 20.0
    assert spent == pytest.approx(min(max(share, 0.05), reach), rel=0.15)
    for _ in range(2880):  # a burst a tick: nothing is left to spend
        budget.spend(900.0, 1000.0, math.exp(-1 / 2880))
        budget.pace(0.01, share, 0.1)
    assert budget.leeway < 2.0


@pytest.mark.parametrize(("late", "served"), [(None, 10.0), (5.0, None), (11.0, 10.0), (-1.0, 10.0), (0.0, math.nan)])
def test_a_record_that_is_none_moves_nothing(late: float | None, served: float | None) -> None:
    budget = Budget()
    budget.spend(late, served, 0.999)
    budget.pace(0.01, 0.1, 0.5)
    assert budget == Budget()


def test_the_margin_reaches_the_count() -> None:
    random = np.random.default_rng(2)
    counts = random.poisson(60 * np.repeat(random.uniform(5, 40, 80), 6)).astype(float)
    plain = decide(POOL, seen(counts, 12), PoolMemory())
    spent = PoolMemory(budget=Budget(margin=2.0))
    wide = decide(POOL, seen(counts, 12), spent)
    assert plain.need is not None
    assert wide.need is not None
    assert wide.need > plain.need
    assert "margin x2.00" in wide.explanation


def test_leeway_takes_pods_away_and_is_said() -> None:
    counts = np.full(600, 20.0 * 60.0)
    plain = decide(POOL, seen(counts, 12), PoolMemory())
    spent = decide(POOL, seen(counts, 12), PoolMemory(budget=Budget(leeway=10.0)))
    assert plain.need is not None
    assert spent.need is not None
    assert spent.need < plain.need
    assert spent.floor < plain.floor
    assert "10.0 %" in spent.explanation
