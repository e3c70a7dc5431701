"""The backtest from a CSV and from a Prometheus at the wire, and what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from autoscaler.config import parse_pool
from autoscaler.loop import Mode
from autoscaler.prometheus import PrometheusError
from fleet.traffic import RateTrace, day_shape
from simulator.backtest import most_replicas, played_days, settings_of
from simulator.prometheus_history import read_history
from simulator.traffic import Service
from splatfleet.__main__ import main
from tests.autoscaler.wire import Wire, serving


def test_a_counter_is_told_from_a_rate(prometheus: Wire) -> None:
    now_s = time.time()
    moments = [now_s // 60 * 60.0 - 60.0 * back for back in range(300)][::-1]
    counter = [(at_s, str(100 * index if index < 200 else 100 * (index - 200))) for index, at_s in enumerate(moments)]
    answer(prometheus, counter)
    result = call("--prometheus", prometheus.url, "--query", "sum(http_requests_total)", "--days", 1)
    assert result.exit_code == 2
    assert "only grows, a counter: ask for its rate" in result.output
    answer(prometheus, [(at_s, "3") for at_s, _ in counter])
    assert read_history(prometheus.url, "x", now_s, 1.0, 60.0).mean_per_s == pytest.approx(3.0)


@pytest.fixture
def prometheus() -> Iterator[Wire]:
    with serving() as wire:
        yield wire


def answer(wire: Wire, *series: list[tuple[float, str]]) -> None:
    rows = [{"metric": {"pod": str(number)}, "values": values} for number, values in enumerate(series)]
    wire.pages["/api/v1/query_range"] = json.dumps(
        {"status": "success", "data": {"resultType": "matrix", "result": rows}}
    )


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["backtest", *(str(argument) for argument in arguments)])


def write(made: RateTrace, path: Path) -> Path:
    rows = [f"{index * made.bin_s:g},{count:.0f}" for index, count in enumerate(made.counts)]
    path.write_text("timestamp_s,requests\n" + "\n".join(rows) + "\n")
    return path


def test_recommends_settings_from_a_csv(tmp_path: Path) -> None:
    made, out = day_shape(2, seed=2, mean_per_s=2.0), tmp_path / "out.json"
    path = write(made, tmp_path / "demand.csv")
    result = call("--trace", path, "--service", 1.0, "--max-wait", 1.0, "--json", out)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["days"] == pytest.approx(1.0)
    chosen = report["recommended"]["forecast"]["quantile"]
    ours = {row["knob"]: row for row in report["rows"] if row["policy"] == "splatfleet"}
    assert ours[chosen]["violation_ratio"] <= 0.01
    assert all(
        row["cost_ratio"] >= ours[chosen]["cost_ratio"] for row in ours.values() if row["violation_ratio"] <= 0.01
    )
    assert "# recommended\npools:\n- name: renderer" in result.output


def test_where_no_setting_is_enough_the_nearest_is_recommended(tmp_path: Path) -> None:
    made, out = day_shape(2, seed=2, mean_per_s=2.0), tmp_path / "out.json"
    counts = made.counts.copy()
    counts[-600::60] = 40 * counts.max()  # a minute each hour that no pod is there for
    path = write(replace(made, counts=counts), tmp_path / "demand.csv")
    result = call("--trace", path, "--service", 1.0, "--violation-ratio", 0.0001, "--json", out)
    assert (result.exit_code, "the one that misses it least" in result.output) == (1, True), result.output
    report = json.loads(out.read_text())
    ours = [row for row in report["rows"] if row["kind"] == "ours"]
    least = min(ours, key=lambda row: row["violation_ratio"])
    assert settings_of(least["policy"], least["knob"]).items() <= report["recommended"].items()
    assert "mode" not in report["recommended"]
    assert f"with {100 * least['violation_ratio']:.3f} %, is recommended" in result.output


def test_of_a_short_history_the_reactive_mode_is_played_and_recommended(tmp_path: Path) -> None:
    path, out = write(day_shape(1, seed=2, mean_per_s=2.0), tmp_path / "demand.csv"), tmp_path / "out.json"
    result = call("--trace", path, "--service", 1.0, "--violation-ratio", 1e-9, "--json", out)
    report = json.loads(out.read_text())
    assert report["recommended"]["mode"] == "reactive"
    (row,) = (row for row in report["rows"] if row["policy"] == "splatfleet-reactive")
    assert "of less than two days of history nothing but the reactive mode is recommended" in result.output
    said = (
        f"the reactive mode did not keep violations within 1e-07 %; it, with {100 * row['violation_ratio']:.3f} %, is"
    )
    assert (result.exit_code, said in result.output) == (1, True), result.output


def test_of_a_short_history_the_reactive_mode_is_recommended_and_said_to_be(tmp_path: Path) -> None:
    counts, out = np.full(180, 30.0), tmp_path / "out.json"
    counts[130] = 9000.0  # that nothing foretells
    path = write(RateTrace(240.0, counts), tmp_path / "burst.csv")
    result = call("--trace", path, "--json", out)
    assert result.exit_code == 1, result.output
    assert "nothing but the reactive mode is recommended" in result.output
    assert "misses it least" not in result.output
    assert parse_pool(json.loads(out.read_text())["recommended"]).mode is Mode.REACTIVE


def test_no_more_pods_are_recommended_than_a_pool_may_have() -> None:
    flood = RateTrace(60.0, np.array([60.0, 6000.0]))
    assert most_replicas(3, flood, Service(0.25)) == 50
    assert most_replicas(40, flood, Service(0.25)) == 80
    parse_pool({"name": "p", "max_replicas": most_replicas(3, flood, Service(3600.0))})


@pytest.mark.parametrize(
    ("policy", "knob", "told"),
    [
        ("splatfleet", 0.99, {"forecast": {"quantile": 0.99}}),
        ("splatfleet-headroom", 0.3, {"forecast": {"quantile": 0.9}, "behavior": {"headroom": 0.3}}),
        ("splatfleet-settle", 3600.0, {"forecast": {"quantile": 0.95}, "behavior": {"settle_s": 3600.0}}),
    ],
)
def test_a_pool_is_told_what_the_row_was_played_with(policy: str, knob: float, told: dict[str, object]) -> None:
    assert settings_of(policy, knob) == told


@pytest.mark.parametrize(
    ("days", "mean_per_s", "played"),
    [(14, 10.0, 3.0), (4, 10.0, 2.0), (14, 600.0, 1.93), (14, 2000.0, 1.0), (14, 9000.0, 0.32), (1, 1e3, 0.5)],
)
def test_days_that_are_played(days: int, mean_per_s: float, played: float) -> None:
    trace = RateTrace(3600.0, np.full(24 * days, 3600.0 * mean_per_s))
    assert played_days(trace) == pytest.approx(played, abs=0.01)


def test_history_from_prometheus_keeps_gaps(prometheus: Wire) -> None:
    end_s = 1_700_000_040.0
    answer(prometheus, [(end_s - 180, "2"), (end_s - 120, "NaN"), (end_s - 60, "3"), (end_s, "4")])
    trace = read_history(prometheus.url, "sum(rate(x[1m]))", end_s, 0.5, 60.0)
    np.testing.assert_equal(trace.counts, [120.0, np.nan, 180.0, 240.0])  # bins before the first sample are no gap


def test_many_bins_are_asked_in_parts(prometheus: Wire) -> None:
    answer(prometheus, [(1_700_000_040.0, "1")])
    read_history(prometheus.url, "x", 1_700_000_040.0, 14.0, 60.0)
    assert len([path for path in prometheus.asked if "query_range" in path]) == 3  # 20,160 bins


def test_what_prometheus_answers_wrong_is_said(prometheus: Wire) -> None:
    answer(prometheus, [(time.time() - 300, "1")], [(time.time() - 300, "2")])
    result = call("--prometheus", prometheus.url, "--query", "rate(x[1m])")
    assert (result.exit_code, "2 series, expected one: wrap it in sum" in result.output) == (2, True), result.output
    answer(prometheus, [(time.time() - 300, "-1")])
    assert "expected requests/s of 0 or more" in call("--prometheus", prometheus.url).output
    answer(prometheus)
    with pytest.raises(PrometheusError, match=r"no sample of 'x' .* window of a rate hold two scrapes"):
        read_history(prometheus.url, "x", time.time(), 1.0, 60.0)
    prometheus.status = 500
    result = call("--prometheus", prometheus.url)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1, result.output


def test_one_source_is_needed(tmp_path: Path) -> None:
    assert call().exit_code == 2
    assert call("--prometheus", "http://x", "--trace", "y").exit_code == 2
    assert "is no URL" in call("--prometheus", "localhost").output
    short = tmp_path / "short.csv"
    short.write_text("timestamp_s,requests\n0,5\n60,7\n120,6\n")
    result = call("--trace", short)
    assert (result.exit_code, "hours of history, expected at least 12" in result.output) == (1, True)
