"""The scorecard's arithmetic, checked by hand-made requests, and what it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from local_fleet import quantities
from local_fleet.load import FrameRecord, write_records
from local_fleet.scorecard import RunTotals, Scorecard, quantile, read_records, read_scorecard, score, to_json
from local_fleet.scorecard_table import compare, render_table, spoilt, unlike, verdict
from local_fleet.timeline import DecisionView, Moment, PodView, Timeline

TOTALS = RunTotals(pod_seconds=100.0, bytes_fetched=5_000_000, seed=7)


def record(status: int = 200, wait_s: float | None = 0.01, latency_s: float = 0.2, **fields: Any) -> FrameRecord:
    return FrameRecord(1.0, "garden", status, latency_s, 0.0, wait_s=wait_s, **fields)


def timeline(stages: list[list[str]], times_s: list[float], reasons: tuple[str, ...] = ()) -> Timeline:
    """A timeline whose moments have pods in the given stages."""
    run = Timeline("hand-made", "predictive", "scenes", 10.0, 5.0, 1.0)
    for t_s, row in zip(times_s, stages, strict=True):
        pods = tuple(PodView(f"p-{n}", "node-1", stage, "", ()) for n, stage in enumerate(row))
        run.moments.append(Moment(t_s, None, None, None, 0.0, 0, 0, 0, None, None, None, t_s / 10, (), pods, None))
    run.decisions = [DecisionView(0.0, 1, reason, "") for reason in reasons]
    return run


def card(records: list[FrameRecord], totals: RunTotals = TOTALS) -> Scorecard:
    return score(records, totals, timeline([], []))


def test_a_violation_waited_too_long_failed_or_was_refused() -> None:
    records = [
        record(wait_s=0.01),
        record(wait_s=0.5),  # at the objective is not over it
        record(wait_s=0.51),
        record(503, None, 0.002),
        record(502, None, 0.1),
        record(504, None, 0.1),
        record(0, None, 3.0),
    ]
    scored = card(records)
    assert (scored.requests, scored.violations, scored.refused, scored.errors) == (7, 5, 1, 3)
    assert scored.violation_ratio == pytest.approx(5 / 7)


def test_waits_are_of_all_requests_and_frame_times_of_frames() -> None:
    records = [record(wait_s=w, latency_s=w + 1, service_s=1.0) for w in (0.0, 0.1, 0.2, 0.3)]
    records.append(record(0, None, 9.0))  # no answer: it waited all the time that it took
    scored = card(records)
    assert scored.wait_p50_s == pytest.approx(0.2)
    assert scored.wait_p99_s == pytest.approx(np.quantile([0.0, 0.1, 0.2, 0.3, 9.0], 0.99))
    assert scored.frame_p50_s == pytest.approx(1.15)
    assert scored.service_p50_s == 1.0


def test_a_frame_without_a_stated_wait_counts_with_its_latency() -> None:
    scored = card([record(wait_s=None, latency_s=0.7)])
    assert scored.violations == 1
    assert scored.wait_p50_s == pytest.approx(0.7)


def test_cold_requests_and_cache_come_from_the_answers_unless_totals_are_given() -> None:
    records = [
        record(cold="none", cache="hit"),
        record(cold="pod", cache="miss"),
        record(cold="scene", cache="miss"),
        record(cold="scene", cache="joined"),
        record(503, None, cold="pod"),
    ]
    scored = card(records)
    assert (scored.cold_requests, scored.cold_pod_requests, scored.cold_scene_requests) == (4, 2, 2)
    assert (scored.scene_hits, scored.scene_misses) == (1, 3)
    counted = card(records, replace(TOTALS, scene_hits=0, scene_misses=9))
    assert (counted.scene_hits, counted.scene_misses) == (0, 9)


def test_pods_are_weighted_with_time_and_stopped_ones_do_not_count() -> None:
    run = timeline(
        [["ready"], ["ready", "booting", "stopped"], ["ready"]], [0.0, 2.0, 10.0], ("forecast", "steady", "steady")
    )
    scored = score([record()], TOTALS, run)
    assert scored.mean_pods == pytest.approx((1 * 2 + 2 * 8) / 10)
    assert scored.peak_pods == 2
    assert scored.decisions == {"steady": 2, "forecast": 1}
    assert scored.machine_cpu_ratio_p95 == pytest.approx(np.quantile([0.0, 0.2, 1.0], 0.95))


def test_a_run_without_requests_has_no_quantiles() -> None:
    scored = card([])
    assert (scored.requests, scored.violations, scored.errors, scored.violation_ratio) == (0, 0, 0, None)
    assert (scored.wait_p50_s, scored.frame_p99_s, scored.mean_pods, scored.machine_cpu_ratio_p95) == (None,) * 4
    assert json.loads(to_json(scored))["wait_p99_s"] is None
    Console(file=open("/dev/null", "w")).print(render_table(scored), compare(scored, scored))  # noqa: SIM115


def test_quantile_leaves_out_what_is_no_number() -> None:
    assert quantile([None, float("nan"), 3.0], 0.5) == 3.0
    assert quantile([None, float("inf")], 0.5) is None


def test_json_has_the_names_that_readers_know() -> None:
    written = json.loads(to_json(card([record(cache="hit")])))
    assert written.keys() >= {
        "requests", "violations", "wait_p50_s", "wait_p99_s", "frame_p50_s", "pod_seconds", "scene_hits",
        "scene_misses", "bytes_fetched", "cold_requests", "decisions", "forecast_coverage", "machine_cpu_ratio_p95",
        "errors", "seed", "settings", "machine",
    }  # fmt: skip
    assert (written["requests"], written["violations"], written["errors"], written["pod_seconds"]) == (1, 0, 0, 100.0)
    assert isinstance(written["decisions"], dict)


def test_settings_and_machine_are_plain_json_whatever_they_held(tmp_path: Path) -> None:
    totals = replace(
        TOTALS,
        settings={"scenes": tmp_path, "rate": np.float32(0.5), "sizes": (1, np.int64(2)), "bad": float("nan")},
        machine={"cores": 2, "load_average": [0.5, 0.4, 0.3]},
        load_average_end=(1.5, 0.9, 0.4),
    )
    written = json.loads(to_json(card([record()], totals)))
    assert written["settings"] == {"scenes": str(tmp_path), "rate": 0.5, "sizes": [1, 2], "bad": None}
    assert written["machine"] == {
        "cores": 2,
        "load_average_start": [0.5, 0.4, 0.3],
        "load_average_end": [1.5, 0.9, 0.4],
    }


def test_a_scorecard_is_read_back(tmp_path: Path) -> None:
    scored = card([record(), record(503, None, 0.25)])
    path = tmp_path / "out.json"
    path.write_text(to_json(scored))
    again = read_scorecard(path)
    assert to_json(again) == path.read_text()
    assert again.refused == 1
    assert again.wait_p50_s == pytest.approx(0.13)


@pytest.mark.parametrize("content", ["{}", "not json", '{"requests": "many"}'])
def test_a_file_that_is_no_scorecard_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other\.json is no scorecard"):
        read_scorecard(path)


def test_records_of_the_load_client_are_read_back(tmp_path: Path) -> None:
    records = [record(cold="pod", cache="miss", pod="p-1"), record(0, None, error="timed out")]
    path = tmp_path / "requests.jsonl"
    with path.open("w") as file:
        write_records(records, file)
    assert read_records(path) == records


def test_side_by_side_tells_gains_and_losses() -> None:
    good, bad = card([record()] * 9 + [record(wait_s=2.0)]), card([record()] * 5 + [record(wait_s=2.0)] * 5)
    bad = replace(bad, autoscaler="reactive", placement="spread", pod_seconds=80.0)
    assert verdict(good, bad) == (
        "predictive · scenes against reactive · spread: 1 violations against 5 (0.20 ×) "
        "for 100 pod-seconds against 80 (1.25 ×)."
    )
    assert "(5.00 ×)" in verdict(bad, good)
    assert "×)" not in verdict(bad, replace(good, violations=0, pod_seconds=0.0))
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(compare(good, bad))
    text = console.export_text()
    assert "0.20 ×" in text
    assert "1.25 ×" in text
    assert "Not the same conditions" not in text


def test_runs_under_other_conditions_are_called_so() -> None:
    left = card([record()])
    right = replace(left, seed=8, settings={"frame_size": "64x48", "startup_p50_s": 3.1}, autoscaler="reactive")
    assert unlike(left, right) == ["seed 7 and 8", "frame_size None and 64x48"]
    assert unlike(left, left) == []
    assert (left.frame_size, right.frame_size) == (None, (64, 48))


def test_table_shows_figures_and_dashes() -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_table(card([record(wait_s=0.0123)])))
    lines = {
        line.split("│")[1].strip(): line.split("│")[2].strip()
        for line in console.export_text().splitlines()
        if line.count("│") == 3
    }
    assert lines["wait p50"] == "12.3 ms"
    assert lines["violations"] == "0"
    assert lines["fetched"] == "5 MB"
    assert lines["forecast coverage"] == quantities.NO_DATA


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (quantities.seconds(0.0084), "8.4 ms"),
        (quantities.seconds(0.31), "310 ms"),
        (quantities.seconds(1.25), "1.25 s"),
        (quantities.seconds(0.0), "0 ms"),
        (quantities.seconds(73.2), "73 s"),
        (quantities.clock(65.9), "1:05"),
        (quantities.data(0), "0 B"),
        (quantities.data(999_600), "1 MB"),
        (quantities.data(1.31e9), "1.31 GB"),
        (quantities.percent(0.0042), "0.42 %"),
        (quantities.percent(0.666), "67 %"),
        (quantities.percent(0.0), "0 %"),
        (quantities.rate(4.24), "4.2/s"),
        (quantities.rate(31.4), "31/s"),
        (quantities.number(2500), "2,500"),
        (quantities.number(0.127), "0.13"),
        (quantities.number(None), "–"),
    ],
)
def test_quantities_are_short_and_have_units(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("machine", "others", "said"),
    [(0.6, 0.2, ""), (0.6, None, ""), (0.9, 0.2, "over 70%"), (0.9, 0.6, "other programs used up to 60")],
)
def test_figures_of_a_busy_machine_say_so(machine: float, others: float | None, said: str) -> None:
    scored = card([record()], replace(TOTALS, machine_cpu_ratio_p95=machine, others_cpu_ratio_p95=others))
    assert said in spoilt(scored)
    assert bool(spoilt(scored)) == bool(said)
    with Console(file=StringIO(), width=200) as console, console.capture() as captured:
        console.print(compare(card([record()]), scored))
    assert said in captured.get()
