"""Feeding the forecaster: no bin twice, none lost, and a new shape without a stalled tick."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoscaler.history import BINS_AT_ONCE, feed
from autoscaler.memory import PoolMemory
from autoscaler.observation import Observation
from autoscaler.pool import ForecastSettings, Pool

POOL = Pool("p", tick_s=15.0, forecast=ForecastSettings(season_s=(86_400.0,)))
COUNTS = np.random.default_rng(1).poisson(600.0, 4000).astype(float)


def seen(end_bin: int, bins: int, age_s: float = 0.0) -> Observation:
    """The last `bins` minutes before minute `end_bin`, looked at `age_s` later."""
    return Observation("p", 60.0 * end_bin + age_s, 60.0, COUNTS[end_bin - bins : end_bin], 1, 1, data_age_s=age_s)


def fed(pool: Pool, observation: Observation, memory: PoolMemory, lead_s: float = 100.0) -> int:
    forecaster = feed(pool, observation, memory, lead_s)
    assert forecaster is not None
    return forecaster.seen


def test_each_bin_is_fed_once_however_often_it_is_seen() -> None:
    memory = PoolMemory()
    assert fed(POOL, seen(500, 300), memory) == 300
    assert fed(POOL, seen(500, 300, age_s=15.0), memory) == 300
    assert fed(POOL, seen(501, 300), memory) == 301
    assert fed(POOL, seen(504, 300), memory) == 304


def test_the_same_forecast_bin_by_bin_and_at_once() -> None:
    slow = PoolMemory()
    for end in range(400, 421):
        feed(POOL, seen(end, end), slow, 100.0)
    fast = PoolMemory()
    feed(POOL, seen(420, 420), fast, 100.0)
    assert slow.forecaster is not None
    assert fast.forecaster is not None
    one, two = slow.forecaster.quantiles(), fast.forecaster.quantiles()
    assert one is not None
    assert two is not None
    assert one == pytest.approx(two, rel=0.02)  # a history is scored sparsely, so the margins differ a little


def test_bins_that_the_source_lost_are_gaps() -> None:
    memory = PoolMemory()
    fed(POOL, seen(500, 300), memory)
    assert fed(POOL, seen(530, 20), memory) == 330


def test_after_a_long_absence_it_starts_from_what_the_source_has() -> None:
    memory = PoolMemory()
    fed(POOL, seen(500, 300), memory)
    assert fed(POOL, seen(3000, 100), memory) == 100


def test_a_longer_start_up_gets_a_successor_in_steps() -> None:
    """3,000 bins of history are not worked off in one tick; the old forecaster answers meanwhile."""
    memory = PoolMemory()
    first = feed(POOL, seen(3000, 3000), memory, 100.0)
    assert first is not None
    slow = replace(POOL, startup_s=900.0)
    leads = []
    for end in range(3001, 3009):
        current = feed(slow, seen(end, 3000), memory, 900.0)
        assert current is not None
        leads.append(current.shape.lead_bins)
        if memory.successor is not None:
            assert memory.successor.seen <= BINS_AT_ONCE * len(leads)
    assert leads[0] == first.shape.lead_bins
    assert leads[-1] == 16  # 900 s are 15 bins
    assert leads.index(16) == 3000 // BINS_AT_ONCE
    assert memory.successor is None


def test_a_lead_that_wanders_a_little_changes_nothing() -> None:
    memory = PoolMemory()
    first = feed(POOL, seen(500, 300), memory, 170.0)
    for lead_s in (175.0, 160.0, 180.0, 130.0):
        assert feed(POOL, seen(500, 300), memory, lead_s) is first


def test_the_age_of_the_newest_bin_begins_no_other_forecaster() -> None:
    """It goes up and down within each minute; 203 s are 4 minutes, and 45 s more were 6."""
    memory = PoolMemory()
    for minute in range(3):
        for age_s in (45.0, 0.0, 15.0, 30.0):
            fed(POOL, seen(1000 + minute + (age_s < 45.0), 900, age_s), memory, lead_s=203.0)
            assert memory.successor is None
    first = memory.forecaster
    assert first is not None
    assert first.shape.lead_bins == 6


def test_no_bins_no_forecaster() -> None:
    assert feed(POOL, seen(500, 0), PoolMemory(), 100.0) is None
