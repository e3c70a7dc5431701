"""The benchmark's quick subset: two days of a recorded cycle, ours beside KEDA's rule, thresholds with slack."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.traffic import window
from simulator.comparison import compare
from simulator.contenders import Case
from simulator.scaling import Row, Setting, run
from simulator.trace_file import read_trace

DAY_S = 86_400.0


@pytest.fixture(scope="module")
def rows(data_dir: Path) -> dict[tuple[str, float], Row]:
    """Seven days of history, then two that are played, in bins and ticks of a minute."""
    trace = window(read_trace(data_dir / "traces" / "rate_cloud_crane09.csv.gz"), 0.0, 9 * DAY_S)
    setting = Setting(trace, "crane09", mean_pods=6.0, test_from_day=7.0, bin_s=60.0, tick_s=60.0)
    case: Case = setting.case(1)
    played = [("splatfleet", 0.8), ("splatfleet", 0.95), ("splatfleet-spend", 0.35), ("splatfleet-spend", 0.6)]
    played += [("keda", 0.5), ("keda", 0.7), ("keda", 0.85)]
    return {job: run(case, *job, "crane09") for job in played}


def test_a_regular_trace_costs_little_more_than_the_clairvoyant(rows: dict[tuple[str, float], Row]) -> None:
    row = rows["splatfleet", 0.95]
    assert row.violation_ratio <= 0.002
    assert row.cost_ratio <= 1.3


def test_fewer_violations_at_no_more_cost_than_the_reactive_rule(rows: dict[tuple[str, float], Row]) -> None:
    comparison = compare(list(rows.values()))
    assert comparison is not None
    assert comparison.violations_of_rival is not None
    assert comparison.violations_of_rival <= 0.5
    assert comparison.saved is not None
    assert comparison.saved >= 0.0


def test_it_is_steady(rows: dict[tuple[str, float], Row]) -> None:
    assert all(row.reversals_per_day <= 15 for (policy, _), row in rows.items() if policy == "splatfleet")
    assert all(row.highest_pods <= 30 for (policy, _), row in rows.items() if policy == "splatfleet")


def test_the_dearer_quantile_misses_less(rows: dict[tuple[str, float], Row]) -> None:
    low, high = rows["splatfleet", 0.8], rows["splatfleet", 0.95]
    assert high.cost_ratio >= low.cost_ratio
    assert high.violation_ratio <= low.violation_ratio + 0.001
