"""Traffic: what a trace says, what a day looks like, and that a seed fixes everything."""

from __future__ import annotations

import gzip
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.traffic import (
    DAY_S,
    RateTrace,
    TraceError,
    arrivals,
    compress,
    day_shape,
    drawn,
    fill_gaps,
    flat,
    parse_rate_trace,
    popularity_order,
    rebin,
    replay_days,
    window,
    zipf_scenes,
)


def read(path: Path) -> RateTrace:
    with gzip.open(path, "rt") as lines:
        return parse_rate_trace(lines)


@pytest.mark.data
def test_the_nasa_trace_is_read_whole(data_dir: Path) -> None:
    path = data_dir / "traces" / "rate_web_nasa_jul95.csv.gz"
    trace = read(path)
    assert (trace.bin_s, len(trace.counts)) == (60.0, 39692)
    assert trace.counts[:4].tolist() == [42, 62, 58, 69]
    assert trace.mean_per_s == pytest.approx(0.79, abs=0.01)
    with gzip.open(path, "rt") as lines:
        by_hand = sum(int(line.split(",")[1]) for line in itertools.islice(lines, 1, None))
    assert trace.counts.sum() == by_hand


@pytest.mark.data
def test_every_rate_trace_at_hand_can_be_replayed(data_dir: Path) -> None:
    paths = sorted((data_dir / "traces").glob("rate_*.csv.gz"))
    assert paths
    for path in paths:
        trace = read(path)
        replay = replay_days(fill_gaps(trace), min(1.0, trace.duration_s / DAY_S), 40.0, mean_per_s=5.0)
        assert replay.traffic.mean_per_s == pytest.approx(5.0), path.name
        assert len(arrivals(replay.traffic.rates_per_s, replay.traffic.bin_s, 1)) > 0, path.name


@pytest.mark.data
def test_gaps_stay_gaps(data_dir: Path) -> None:
    trace = read(data_dir / "traces" / "rate_websessions_r4.csv.gz")
    assert int(np.isnan(trace.counts).sum()) == 156
    hourly = rebin(trace, 3600.0)
    assert 156 / 4 - 2 <= np.isnan(hourly.counts).sum() <= 156 / 4 + 2
    assert np.isnan(drawn(trace, 1).counts).sum() == 156
    assert np.isfinite(fill_gaps(trace).counts).all()


def test_a_gap_is_not_zero_and_keeps_the_rate_beside_it() -> None:
    trace = parse_rate_trace(["timestamp_s,requests", "0,10", "60,", "120,30", "180,40"])
    assert math.isnan(trace.counts[1])
    assert trace.mean_per_s == pytest.approx(80 / 3 / 60)
    halves = rebin(trace, 120.0)
    assert halves.counts.tolist() == [20.0, 70.0]  # 10 a minute over the half with data
    assert fill_gaps(trace).counts.tolist() == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["time,requests", "0,1"], "line 1 is 'time,requests'"),
        (["timestamp_s,requests", "0,1", "60,x"], "line 3 is '60,x'"),
        (["timestamp_s,requests", "0,1", "60,-1"], "line 3 is '60,-1'"),
        (["timestamp_s,requests", "0,1", "60,nan"], "line 3 is '60,nan'"),
        (["timestamp_s,requests", "0,1", "60"], "line 3 is '60'"),
        (["timestamp_s,requests", "0,1", "60,1", "180,1"], "bin 2 starts at 180 s, expected a regular grid of 60 s"),
        (["timestamp_s,requests", "60,1", "0,1"], "the second bin starts at 0 s"),
        (["timestamp_s,requests", "0,1"], "1 bins, expected at least 2"),
        ([], "line 1 is ''"),
        (["timestamp_s,requests", "0,1e9", "60,1.1e9"], "line 3 is '60,1.1e9', expected at most 1e+09 requests a bin"),
    ],
)
def test_a_wrong_trace_says_where(lines: list[str], named: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse_rate_trace(lines)
    assert named in str(caught.value)


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse_rate_trace(["\ufefftimestamp_s,requests", "0,1", "60,2"]).counts.tolist() == [1, 2]


def test_compressing_keeps_the_requests_and_shortens_the_time() -> None:
    trace = flat(2 * DAY_S, 0.01)
    fast = compress(trace, 40.0)
    assert fast.duration_s == pytest.approx(80.0)
    assert fast.counts.sum() == pytest.approx(trace.counts.sum())


def test_history_ends_where_the_replay_begins() -> None:
    counts = np.arange(1.0, 10 * 24 + 1)
    replay = replay_days(RateTrace(3600.0, counts), days=3, real_seconds_per_day=40.0)
    assert replay.history is not None
    assert np.concatenate([replay.history.counts, replay.traffic.counts]).tolist() == counts.tolist()
    assert replay.traffic.duration_s == pytest.approx(120.0)


def test_a_window_outside_the_trace_is_refused() -> None:
    with pytest.raises(ValueError, match="is empty, the trace holds 0 to 10 s"):
        window(flat(10.0, 1.0), 20.0, 5.0)


def test_the_built_in_day_has_a_low_night_a_steep_morning_and_an_evening_peak() -> None:
    trace = day_shape(14, mean_per_s=2.0, seed=3)
    assert trace.mean_per_s == pytest.approx(2.0)
    hourly = rebin(trace, 3600.0).counts.reshape(14, 24).mean(axis=0)
    assert 17 <= int(hourly.argmax()) <= 21
    assert hourly.max() > 4 * hourly[1:6].mean()
    assert hourly[9] > 3 * hourly[6]
    steepest_up, steepest_down = np.diff(hourly).max(), -np.diff(hourly).min()
    assert steepest_up > steepest_down
    days = rebin(trace, DAY_S).counts
    assert 0.03 < days.std() / days.mean() < 0.5
    assert day_shape(14, mean_per_s=2.0, seed=3).counts.tolist() == trace.counts.tolist()
    assert day_shape(14, mean_per_s=2.0, seed=4).counts.tolist() != trace.counts.tolist()


@settings(deadline=None)  # a busy machine is no fault
@given(
    rates=st.lists(st.floats(0, 50), min_size=1, max_size=40),
    bin_s=st.floats(0.01, 10.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_arrivals_are_sorted_inside_the_run_and_fixed_by_the_seed(rates: list[float], bin_s: float, seed: int) -> None:
    rates_per_s = np.array(rates)
    times = arrivals(rates_per_s, bin_s, seed)
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times <= len(rates) * bin_s)).all()
    assert times.tolist() == arrivals(rates_per_s, bin_s, seed).tolist()
    empty = rates_per_s[np.minimum((times / bin_s).astype(int), len(rates) - 1)] == 0
    assert not empty.any() or times[empty] == pytest.approx(np.round(times[empty] / bin_s) * bin_s)


def test_arrivals_are_poisson() -> None:
    counts = [len(arrivals(np.full(10, 20.0), 1.0, seed)) for seed in range(200)]
    assert np.mean(counts) == pytest.approx(200, rel=0.03)
    assert 0.7 < np.var(counts) / np.mean(counts) < 1.4


def test_arrivals_refuse_a_gap() -> None:
    with pytest.raises(ValueError, match=r"rates_per_s\[1\] is nan"):
        arrivals(np.array([1.0, math.nan]), 1.0, 1)


@pytest.mark.parametrize("rate_per_s", [1e8, 1e17, 1e300])
def test_arrivals_that_no_memory_holds_are_refused(rate_per_s: float) -> None:
    with pytest.raises(ValueError, match="too many to play one by one"):
        arrivals(np.full(100, rate_per_s), 1.0, seed=0)


def test_scenes_follow_zipf_and_a_longer_run_begins_with_the_shorter() -> None:
    picked = zipf_scenes(8, 1.0, 20_000, seed=5)
    by_rank = np.bincount(picked, minlength=8)[popularity_order(8, 5)] / 20_000
    expected = 1 / np.arange(1, 9)
    assert by_rank == pytest.approx(expected / expected.sum(), abs=0.015)
    assert zipf_scenes(8, 1.0, 100, seed=5).tolist() == picked[:100].tolist()
    assert sorted(popularity_order(8, 5).tolist()) == list(range(8))
    assert len({tuple(popularity_order(8, seed).tolist()) for seed in range(20)}) > 15
    assert np.bincount(zipf_scenes(4, 0.0, 8000, seed=1)) == pytest.approx(2000, rel=0.1)
