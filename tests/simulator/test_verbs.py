"""The verbs as a user calls them: figures in the file, one line for what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleet.traffic import day_shape
from simulator.report import plot
from simulator.scaling import Row
from splatfleet.__main__ import main


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five made days in bins of 5 minutes, about 12 requests/s."""
    made = day_shape(5, seed=1, mean_per_s=12.0)
    rows = [f"{index * made.bin_s:g},{count:.0f}" for index, count in enumerate(made.counts)]
    path = tmp_path_factory.mktemp("traces") / "made.csv"
    path.write_text("timestamp_s,requests\n" + "\n".join(rows) + "\n")
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_scaling_writes_rows_table_and_plot(trace: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "rows.json", tmp_path / "report"
    result = call(
        *("simulate", "scaling", "--trace", trace, "--policies", "splatfleet-reactive,keda,static,oracle"),
        *("--mean-pods", 1, "--test-from-day", 4, "--train-days", 0.5, "--jobs", 1, "--json", out, "--report", report),
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())["rows"]
    keys = {"policy", "knob", "violation_ratio", "cost_ratio", "wait_p99_s", "cold_requests", "reversals_per_day"}
    assert keys | {"actions_per_day", "decision_ms_p99"} <= set(rows[0])
    assert {row["policy"] for row in rows} == {
        "splatfleet-reactive", "keda", "static", "oracle-clairvoyant", "oracle-forecast",
    }  # fmt: skip
    assert all(row["trace"] == "made" for row in rows)
    text = (report / "scaling.md").read_text()
    assert text.count("\n| ") == len(rows) + 1  # the head too
    assert (report / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_leaves_out_no_row(tmp_path: Path) -> None:
    def row(policy: str, kind: str, cost: float) -> Row:
        return Row(policy, 1.0, kind, "made", 1, 0.01, cost, 0.1, 0, 1.0, 1.0, 0.1, 0.01, 9, 0, 100, 1.0)

    path = tmp_path / "plot.svg"
    plot(
        [row("splatfleet", "ours", 7.0), row("hpa-ratio", "reactive", 19.0), row("keda", "reactive", 0.5)], path, "made"
    )
    points = re.findall(
        r'<use xlink:href="#m\S+" x="(\S+)" y="(\S+)" style="fill: #(?:d97a1e|2d6cdf)', path.read_text()
    )
    places = sorted({float(x) for x, _ in points})
    assert len(places) == 3
    assert 45.0 < places[0] < places[1] < places[2] < 620.0  # of a picture that is 720 wide


def test_forecast_rows(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    result = call("simulate", "forecast", "--trace", trace, "--horizons", "60,1800", "--json", out)
    assert result.exit_code == 0, result.output
    assert "below one bin: 300 s" in result.output
    rows = json.loads(out.read_text())["rows"]
    ours = {row["horizon_s"]: row for row in rows if row["method"] == "splatfleet"}
    naive = {row["horizon_s"]: row for row in rows if row["method"] == "persistence"}
    assert set(ours) == {60.0, 1800.0}
    assert naive[1800.0]["pinball_relative"] == 1.0
    assert ours[1800.0]["pinball_relative"] < 0.8
    assert 0.8 < ours[1800.0]["coverage"] < 0.97


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scaling", "--trace", "none.csv"), "--trace none.csv: No such file"),
        (("scaling", "--trace", "{trace}", "--policies", "vpa"), "--policies: policy 'vpa' is not known"),
        (("scaling", "--trace", "{trace}", "--test-from-day", "9"), "--test-from-day 9: the trace has 5 days"),
        (
            ("scaling", "--trace", "{trace}", "--scenes", "5", "--scene-popularity", "nan"),
            "--scene-popularity nan: exp",
        ),
        (("scaling", "--trace", "{trace}", "--scenes", "5", "--scene-popularity", "-3"), "--scene-popularity -3: exp"),
        (("scaling", "--trace", "{trace}", "--scenes", "5", "--scene-popularity", "no.csv"), "neither an exponent nor"),
        (("forecast", "--trace", "{trace}", "--horizons", "soon"), "--horizons 'soon': expected seconds"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(trace: Path, arguments: tuple[str, ...], message: str) -> None:
    result = call("simulate", *(part.format(trace=trace) for part in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output
