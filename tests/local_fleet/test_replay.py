"""History and traffic of a demo: nothing of the replay leaks into the history, a seed fixes both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fleet.traffic import RateTrace, TraceError, parse_rate_trace
from local_fleet.calibration import rate_factor
from local_fleet.replay import demo_traffic, read_trace, write_trace


def test_the_built_in_days() -> None:
    traffic = demo_traffic(None, duration_s=120.0, mean_per_s=25.0, seed=3)
    assert traffic.day_s == 40.0
    assert len(traffic.history) == 14 * 40
    assert traffic.traffic.duration_s == pytest.approx(120.0)
    assert traffic.traffic.mean_per_s == pytest.approx(25.0)
    assert 25.0 < traffic.busiest_per_s < 100.0
    again = demo_traffic(None, duration_s=120.0, mean_per_s=25.0, seed=3)
    assert np.array_equal(traffic.history, again.history)
    assert np.array_equal(traffic.traffic.counts, again.traffic.counts)


def test_the_history_ends_where_the_replay_begins() -> None:
    counts = np.arange(6 * 24, dtype=np.float64) + 1.0  # six days of growing hours
    traffic = demo_traffic(RateTrace(3600.0, counts), duration_s=72.0, mean_per_s=100.0, seed=1)
    assert traffic.day_s == 24.0
    assert len(traffic.history) == 72
    assert float(np.mean(traffic.history[-5:])) < traffic.first_per_s


def test_gaps_stay_unknown_in_the_history_and_are_filled_in_the_traffic() -> None:
    counts = np.full(6 * 24, 50.0)
    counts[24:36] = np.nan
    counts[100:103] = np.nan
    traffic = demo_traffic(RateTrace(3600.0, counts), duration_s=72.0, mean_per_s=20.0, seed=1)
    assert np.isnan(traffic.history[24:36]).all()
    assert np.isfinite(traffic.traffic.counts).all()


def test_a_short_trace_keeps_a_quarter_as_history() -> None:
    traffic = demo_traffic(RateTrace(60.0, np.full(1440, 10.0)), duration_s=60.0, mean_per_s=5.0, seed=1)
    assert traffic.traffic.duration_s == pytest.approx(60.0)
    assert len(traffic.history) == 20


def test_a_silent_trace_is_refused() -> None:
    with pytest.raises(TraceError, match="nothing to replay"):
        demo_traffic(RateTrace(3600.0, np.zeros(6 * 24)), duration_s=60.0, mean_per_s=5.0, seed=1)


def test_the_written_trace_reads_back(tmp_path: Path) -> None:
    traffic = demo_traffic(None, duration_s=30.0, mean_per_s=5.0, seed=1).traffic
    write_trace(traffic, tmp_path / "replay.csv")
    back = parse_rate_trace((tmp_path / "replay.csv").read_text().splitlines())
    assert back.bin_s == pytest.approx(traffic.bin_s, rel=1e-4)
    assert np.allclose(back.counts, traffic.counts, atol=1e-5)


@pytest.mark.data
def test_the_real_nasa_days(data_dir: Path) -> None:
    traffic = demo_traffic(
        read_trace(data_dir / "traces" / "rate_web_nasa_jul95.csv.gz"), duration_s=120.0, mean_per_s=25.0, seed=1
    )
    assert len(traffic.history) == 14 * 40
    assert traffic.traffic.mean_per_s == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("busiest_per_s", "cost_s", "budget_s", "factor"),
    [
        (10, 0.01, 1.0, 1.0),
        (100, 0.01, 1.0, 1.0),
        (100, 0.014, 1.0, 0.7),
        (100, 0.03, 1.0, 0.25),
        (100, 1.0, 1.0, 0.25),
    ],
)
def test_the_rate_falls_in_fixed_steps(busiest_per_s: float, cost_s: float, budget_s: float, factor: float) -> None:
    assert rate_factor(busiest_per_s, cost_s, budget_s) == factor
