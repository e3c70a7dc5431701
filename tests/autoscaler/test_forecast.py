"""Calibration, the mixture against persistence, and histories as they come: short, broken, mostly zero."""

from __future__ import annotations

import gzip
import math
import time
from pathlib import Path

import numpy as np
import pytest

from autoscaler.conformal import Calibrators
from autoscaler.diary import Diary, of_past_days
from autoscaler.experts import HoltWinters
from autoscaler.forecast import Forecaster, Shape, round_up, shape_for
from autoscaler.mixture import Mixture
from autoscaler.past import Past
from fleet.traffic import parse_rate_trace


def score(
    counts: np.ndarray, bin_s: float, lead_s: float, season_s: tuple[float, ...], from_bin: int
) -> tuple[float, float, float]:
    """Pinball(0.9) of the mixture and of calibrated persistence, and coverage, over the bins after `from_bin`."""
    shape = shape_for(float(np.nanmean(counts)), bin_s, lead_s, season_s, 0.9, None)
    forecaster = Forecaster(shape)
    ours, persistence, covered = [], [], []
    issued: list[tuple[float, float]] = []
    rates = counts / bin_s
    width = shape.average_bins
    filled = np.where(np.isfinite(rates), rates, 0.0)
    known = np.convolve(np.isfinite(rates), np.ones(width))[: rates.size]
    averages = np.where(known > 0, np.convolve(filled, np.ones(width))[: rates.size] / np.maximum(known, 1), np.nan)
    for index, rate in enumerate(rates.tolist()):
        forecaster.update(rate)
        quantiles, reference = forecaster.quantiles(), forecaster.reference()
        assert quantiles is not None
        assert reference is not None
        issued.append((float(quantiles[shape.working]), float(reference[shape.working])))
        due = index - shape.lead_bins
        if due >= from_bin:
            actual = float(np.nanmax(averages[due + 1 : index + 1]))
            for value, losses in zip(issued[due], (ours, persistence), strict=True):
                losses.append(max(0.9 * (actual - value), -0.1 * (actual - value)))
            covered.append(actual <= issued[due][0])
    return float(np.mean(ours)), float(np.mean(persistence)), float(np.mean(covered))


def daily(days: int, day: int, mean: float, seed: int) -> np.ndarray:
    phase = 2 * np.pi * np.arange(days * day) / day
    return np.random.default_rng(seed).poisson(mean * (1 - 0.9 * np.cos(phase))).astype(float)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_conformal_covers_whatever_the_errors_are(level: float) -> None:
    """Skewed errors whose size triples half-way: coverage over each half stays within 3 points."""
    random = np.random.default_rng(1)
    errors = random.exponential(1.0, 4000) * np.where(np.arange(4000) < 2000, 1.0, 3.0)
    calibrators = Calibrators([[level]], window=500)
    met = []
    for error in errors.tolist():
        met.append(error <= calibrators.offsets()[0, 0])
        calibrators.update(np.array([error]), np.array([met[-1:]]))
    assert np.mean(met[200:2000]) == pytest.approx(level, abs=0.03)
    assert np.mean(met[2000:]) == pytest.approx(level, abs=0.03)


def test_a_random_walk_has_nothing_to_learn_and_costs_little() -> None:
    for seed in range(3):
        steps = np.random.default_rng(seed).normal(0, 8, 1500)
        counts = np.maximum(np.cumsum(steps) + 800, 50)
        ours, persistence, coverage = score(counts, 60.0, 300.0, (60.0 * 144,), 500)
        assert ours <= 1.1 * persistence
        assert coverage == pytest.approx(0.9, abs=0.04)


def test_a_daily_cycle_is_foreseen() -> None:
    ours, persistence, coverage = score(daily(10, 144, 300.0, 3), 600.0, 3600.0, (86_400.0,), 5 * 144)
    assert ours <= 0.6 * persistence
    assert coverage == pytest.approx(0.9, abs=0.04)


def test_a_day_of_forty_seconds_is_a_day() -> None:
    """The demo's scale: one-second bins, few arrivals in each, a lead of six seconds, three days of history."""
    ours, persistence, coverage = score(daily(8, 40, 25.0, 4), 1.0, 6.0, (40.0,), 3 * 40)
    assert ours <= 0.7 * persistence
    assert coverage == pytest.approx(0.9, abs=0.08)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "most"), [("rate_cloud_crane09", 0.8), ("rate_web_nasa_jul95", 0.8), ("rate_web_nab_elb", 0.85)]
)
def test_recorded_traffic_is_foreseen_better_than_by_persistence(data_dir: Path, name: str, most: float) -> None:
    path = data_dir / "traces" / f"{name}.csv.gz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with gzip.open(path, "rt") as lines:
        trace = parse_rate_trace(lines)
    step = round(600 / trace.bin_s)
    counts = trace.counts[: 14 * 86_400 // int(trace.bin_s)]
    counts = counts[: counts.size // step * step].reshape(-1, step).sum(axis=1)
    ours, persistence, coverage = score(counts, 600.0, 1800.0, (86_400.0, 604_800.0), 7 * 144)
    assert ours <= most * persistence
    assert coverage == pytest.approx(0.9, abs=0.04)


def test_gaps_do_not_stop_the_forecast() -> None:
    counts = daily(8, 48, 200.0, 5)
    counts[100:130] = np.nan
    counts[200:296] = np.nan  # two whole days
    forecaster = Forecaster(shape_for(200.0, 60.0, 120.0, (48 * 60.0,), 0.9, None))
    for rate in (counts / 60.0).tolist():
        forecaster.update(rate)
    quantiles = forecaster.quantiles()
    assert quantiles is not None
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles) >= 0).all()
    assert 0.1 < quantiles[0] < 10.0


def test_only_gaps_is_no_forecast() -> None:
    forecaster = Forecaster(shape_for(0.0, 60.0, 120.0, (86_400.0,), 0.9, None))
    for _ in range(50):
        forecaster.update(math.nan)
    assert forecaster.quantiles() is None
    assert forecaster.view() is None


def test_the_first_datum_is_answered_by_persistence_with_room() -> None:
    forecaster = Forecaster(shape_for(600.0, 60.0, 120.0, (86_400.0,), 0.9, None))
    forecaster.update(10.0)
    view = forecaster.view()
    assert view is not None
    assert view.gated
    assert view.coverage is None
    assert view.quantiles[0.9] > 10.0
    assert view.weights["persistence"] == 1.0


def test_the_first_jump_is_not_overshot_while_the_history_is_short() -> None:
    """Days of a minute that jump from 2/s to 40/s: errors made at 2/s, in scales, used to ask for 340/s."""
    shape = shape_for(mean_count=2.0, bin_s=1.0, lead_s=9.0, season_s=(60.0, 420.0), quantile=0.9, average_s=None)
    forecaster = Forecaster(shape)
    highest = []
    for second in range(7 * 60):
        forecaster.update(40.0 if second % 60 >= 40 else 2.0)
        quantiles = forecaster.quantiles()
        assert quantiles is not None
        highest.append(float(quantiles[shape.working]))
    assert max(highest) <= 70.0
    assert max(highest[40:60]) >= 40.0  # what is there is held


def test_mostly_zero_stays_small_and_finite() -> None:
    random = np.random.default_rng(6)
    counts = np.where(random.uniform(size=1500) < 0.03, random.poisson(20, 1500), 0).astype(float)
    forecaster = Forecaster(shape_for(float(counts.mean()), 60.0, 240.0, (86_400.0,), 0.9, None))
    for rate in (counts / 60.0).tolist():
        forecaster.update(rate)
    quantiles = forecaster.quantiles()
    assert quantiles is not None
    assert (quantiles >= 0).all()
    assert quantiles[-1] <= counts.max() / 60.0


def test_two_forecasters_of_one_history_agree() -> None:
    rates = daily(6, 40, 30.0, 8).tolist()
    one, two = (Forecaster(shape_for(30.0, 1.0, 5.0, (40.0,), 0.95, None)) for _ in range(2))
    for rate in rates:
        one.update(rate)
        two.update(rate)
    assert one.view() == two.view()


def test_a_timetable_to_the_minute_is_foreseen() -> None:
    """Demand is four times as high from one bin to the next, each day; the noise of a day's height stays."""
    day, random = 720, np.random.default_rng(11)
    heights = random.uniform(0.8, 1.0, 7)
    shape = np.where((np.arange(day) >= 300) & (np.arange(day) < 400), 400.0, 100.0)
    counts = random.poisson(np.concatenate([np.where(shape > 100.0, shape * height, shape) for height in heights]))
    forecaster = Forecaster(shape_for(150.0, 60.0, 300.0, (60.0 * day,), 0.95, None))
    asked: list[float] = []
    for index, count in enumerate(counts.tolist()):
        forecaster.update(count / 60.0)
        if index // day >= 5 and index % day in (240, 295):  # far before the jump, and when it is just in the window
            quantiles = forecaster.quantiles()
            assert quantiles is not None
            asked.append(float(quantiles[-1]) * 60.0)
    for day_number, (calm, before) in enumerate(zip(asked[::2], asked[1::2], strict=True), start=5):
        assert before >= 0.85 * 400.0 * heights[day_number]
        assert calm <= 200.0


def test_past_days_are_read_over_midnight_and_over_gaps() -> None:
    past = Past.of(lead=3, seasons=(10,), day=10)
    diary = Diary(10, past)
    for level in [*range(10), *range(100, 110), *range(200, 208)]:
        past.add(float(level))
    assert diary.peaks(2) == [109.0, 9.0]
    assert diary.peaks(5) == [202.0, 102.0]  # the day after begins: that of yesterday is today
    past.add(math.nan)
    assert diary.peaks(1) == [109.0, 9.0]
    past = Past.of(lead=3, seasons=(10,), day=10)
    one, *_ = experts = of_past_days(10, past)
    assert [expert.peak(3) for expert in experts] == [None] * len(experts)
    for level in (1.0, math.nan, *range(2, 10)):
        past.add(level)
    assert one.peak(2) is None  # a part of yesterday is not known
    past.add(5.0)
    past.add(5.0)
    assert {expert.name: expert.peak(3) for expert in experts}["sharp_day"] == 4.0


def test_every_quantile_has_weights_of_its_own() -> None:
    """Two experts, one right about the middle and one right about the edge: each is believed where it is right."""
    random = np.random.default_rng(12)
    mixture = Mixture((0.5, 0.9), 1, np.ones((3, 2)), 60)
    said = np.array([[0.0, 3.0], [0.0, 0.5], [-2.0, 1.3]])
    for index in range(400):
        actual = float(random.normal())
        blend = mixture.blend(index, said[:, 0], said, 1.0)
        mixture.learn(index, blend, said[:, 0], said, 1.0, actual)
    middle, edge = mixture.weights.T.tolist()
    assert max(middle[:2]) > 0.3 > middle[2]
    assert edge[2] == max(edge)


def test_weights_and_quantiles_of_the_view() -> None:
    forecaster = Forecaster(shape_for(300.0, 600.0, 3600.0, (86_400.0,), 0.95, None))
    for rate in (daily(8, 144, 300.0, 9) / 600.0).tolist():
        forecaster.update(rate)
    view = forecaster.view()
    assert view is not None
    assert list(view.quantiles) == [0.5, 0.9, 0.95]
    assert sum(view.weights.values()) == pytest.approx(1.0)
    assert not view.gated
    assert view.skill is not None
    assert view.skill < 0.8
    assert view.coverage == pytest.approx(0.95, abs=0.05)
    longer = forecaster.later(2)
    assert longer is not None
    assert longer >= view.quantiles[0.5]


def test_a_bin_costs_a_sliver_of_a_history() -> None:
    """14 days of minutes: the state is incremental, a new bin is at least 500 times cheaper than the history."""
    rates = (daily(14, 1440, 100.0, 10) / 60.0).tolist()
    forecaster = Forecaster(shape_for(100.0, 60.0, 240.0, (86_400.0, 604_800.0), 0.9, None), silent_bins=20_160 - 4320)
    begin = time.process_time()
    for rate in rates:
        forecaster.update(rate)
    whole = time.process_time() - begin
    begin = time.process_time()
    for rate in rates[:20]:
        forecaster.update(rate)
    assert (time.process_time() - begin) / 20 < whole / 500


def test_a_history_without_data_costs_no_more_with_a_longer_season() -> None:
    """A day of 5 s bins that is not known yet: what a tick reads of it is reckoned by bins alone."""

    def seconds_a_bin(season: int) -> float:
        expert = HoltWinters("hw", season, (0.1, 0.0, 0.2), 1.0, 3)
        for _ in range(season):
            expert.update(math.nan, math.nan)
        begun_s = time.process_time()
        for _ in range(4000):
            expert.update(math.nan, math.nan)
        return (time.process_time() - begun_s) / 4000

    assert min(seconds_a_bin(17_280) for _ in range(3)) < 10 * min(seconds_a_bin(144) for _ in range(3))


def test_an_expert_begins_with_the_first_season_of_which_half_is_known() -> None:
    expert = HoltWinters("hw", 8, (0.1, 0.0, 0.2), 1.0, 1)
    for rate in [math.nan] * 9 + [1.0, 2.0, math.nan, 3.0]:
        expert.update(rate, rate)
        assert expert.peak(1) is None
    expert.update(4.0, 4.0)
    assert expert.peak(8) == pytest.approx(4.0)


def test_shapes() -> None:
    assert [round_up(bins) for bins in (1, 2, 3, 4, 5, 7, 9, 13, 17)] == [1, 2, 3, 4, 6, 8, 12, 16, 24]
    dense = shape_for(5000.0, 60.0, 200.0, (604_800.0, 86_400.0), 0.9, None)
    assert dense == Shape(60.0, 4, 1, (1440, 10_080), (0.5, 0.9), 1)
    sparse = shape_for(20.0, 1.0, 6.0, (40.0,), 0.95, None)
    assert (sparse.average_bins, sparse.lead_bins, sparse.quantiles) == (3, 7, (0.5, 0.9, 0.95))
    assert shape_for(20.0, 1.0, 30.0, (40.0,), 0.9, None).seasons == ()  # a day shorter than two leads is noise


def test_a_morning_after_an_empty_night_is_foreseen() -> None:
    """The night takes nothing from persistence, so what it loses every morning must count."""
    day = 288
    minutes = 5 * (np.arange(6 * day) % day)
    counts = np.where((minutes >= 480) & (minutes < 1080), np.random.default_rng(3).poisson(6000.0, 6 * day), 0)
    forecaster = Forecaster(shape_for(float(counts.mean()), 300.0, 900.0, (86_400.0,), 0.9, None))
    mornings = []
    for index, count in enumerate(counts):
        forecaster.update(count / 300.0)
        if index % day == 8 * 12 - 1:  # the last empty bin
            view = forecaster.view()
            assert view is not None
            mornings.append(view.quantiles[0.9])
    assert min(mornings[4:]) > 19.0, mornings
    assert max(mornings[4:]) < 24.0, mornings


def test_a_monday_after_an_empty_weekend_is_foreseen() -> None:
    """Saturday's false alarm, the last thing that happened, must not close the gate for the week."""
    day = 144
    index = np.arange(22 * day)
    office = (index % day >= 48) & (index % day < 108) & (index // day % 7 < 5)
    counts = np.where(office, np.random.default_rng(3).poisson(12000.0, index.size), 0)
    shape = shape_for(float(counts.mean()), 600.0, 1800.0, (86_400.0, 7 * 86_400.0), 0.9, None)
    forecaster = Forecaster(shape)
    mornings = []
    for at, count in enumerate(counts):
        forecaster.update(count / 600.0)
        if at % day == 47:  # the last empty bin
            view = forecaster.view()
            assert view is not None
            mornings.append(view.quantiles[0.9])
    mondays, weekend_days = mornings[14::7], [mornings[13], mornings[20]]
    assert min(mondays) > 15.0, mornings
    assert max(weekend_days) < 2.0, mornings


def test_a_series_that_is_mostly_zero_keeps_its_coverage() -> None:
    """Spells of a few bins in office hours, nine bins of ten empty: quantiles hold, and foreseeing still pays."""
    random = np.random.default_rng(1)
    counts = np.zeros(14 * 288)
    index = 0
    while index < counts.size:
        hour = index % 288 / 12
        if random.random() < (0.06 if 8 < hour < 19 else 0.01):
            spell = min(int(random.integers(2, 7)), counts.size - index)
            counts[index : index + spell] += random.poisson(25, spell)
            index += spell
        index += 1
    assert (counts == 0).mean() > 0.8
    ours, persistence, covered = score(counts, 300.0, 1800.0, (86_400.0, 604_800.0), counts.size // 2)
    assert 0.86 < covered < 0.94
    assert ours < 0.95 * persistence
