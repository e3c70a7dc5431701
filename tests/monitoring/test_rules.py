"""promtool checks every rule, and runs every alert on series that fire it and on series that do not."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.metrics import CATALOGUE
from fleet.recordings import RECORDINGS
from monitoring.alerts import ALERTS
from monitoring.rules import rule_files
from tests.conftest import REPOSITORY
from tests.monitoring.alert_cases import CASES, Series, decisions, waits

RULES = REPOSITORY / "deploy" / "rules"

pytestmark = pytest.mark.prometheus


def sample(name: str, labels: Series) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def situation(series: Series, expression: str, expected: dict[str, float], at: str) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": at,
                "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
            }
        ],
    }


def without_other_alerts(text: str, alert: str) -> str:
    """The rules of a file, all recordings and one alert: the others cost most of a trial and change nothing in it."""
    groups = yaml.safe_load(text)["groups"]
    for group in groups:
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert", alert) == alert]
    return yaml.safe_dump({"groups": [group for group in groups if group["rules"]]}, sort_keys=False)


def run(promtool: str, folder: Path, tests: list[dict[str, Any]], alert: str = "") -> subprocess.CompletedProcess[str]:
    """`promtool test rules`; `alert` is the only one that is evaluated."""
    for name, text in rule_files().items():
        (folder / name).write_text(without_other_alerts(text, alert))
    body = {"rule_files": list(rule_files()), "evaluation_interval": "1m", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    return subprocess.run(
        [promtool, "test", "rules", "tests.yaml"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_committed_rules_are_those_of_the_code() -> None:
    assert {path.name: path.read_text() for path in RULES.iterdir()} == rule_files()


def test_promtool_has_nothing_to_say(prometheus_tool: Callable[[str], str]) -> None:
    files = [str(path) for path in RULES.iterdir()]
    done = subprocess.run(
        [prometheus_tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", *files],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_name_in_a_rule_exists() -> None:
    written = "\n".join(alert.expression for alert in ALERTS) + "\n".join(r.expression for r in RECORDINGS.values())
    known = set(CATALOGUE) | set(RECORDINGS)
    known |= {m.name + end for m in CATALOGUE.values() if m.kind == "histogram" for end in ("_bucket", "_count")}
    assert set(re.findall(r"[a-z_]*:?\bsplatfleet_[a-z0-9_:]+", written)) - known == set()


def test_every_alert_is_tried_and_has_its_runbook() -> None:
    names = [alert.name for alert in ALERTS]
    assert len(set(names)) == len(names)
    assert set(CASES) == set(names)
    assert all(case.silent for case in CASES.values())
    text = (REPOSITORY / "docs" / "runbooks.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S))
    assert set(sections) == set(names)
    for name, section in sections.items():
        found = re.findall(r"^\*\*(\w+)\*\*", section, flags=re.M)
        assert found == ["Meaning", "Impact", "Diagnosis", "Mitigation"], name


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_and_stays_silent(name: str, prometheus_tool: Callable[[str], str], tmp_path: Path) -> None:
    case, alert = CASES[name], next(alert for alert in ALERTS if alert.name == name)
    firing = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
    labels = {"alertname": name, "alertstate": "firing", "severity": alert.severity} | case.labels
    fires = situation(case.fires, firing, {sample("ALERTS", labels): 1}, case.at)
    silent = [situation(series, firing, {}, case.at) for series in case.silent.values()]
    done = run(prometheus_tool("promtool"), tmp_path, [fires, *silent], name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_trial_itself_can_fail(prometheus_tool: Callable[[str], str], tmp_path: Path) -> None:
    case = CASES["SplatfleetStockOut"]
    wrong = situation(case.fires, 'ALERTS{alertname="SplatfleetStockOut",alertstate="firing"}', {}, case.at)
    done = run(prometheus_tool("promtool"), tmp_path, [wrong], "SplatfleetStockOut")
    assert (done.returncode, "SplatfleetStockOut" in done.stdout + done.stderr) == (1, True)


RATIO = "pool:splatfleet_queue_seconds_per_compute_second:ratio_rate5m"
LATE = "pool:splatfleet_violations:ratio_rate5m"
QUEUED = 'splatfleet_triton_queue_seconds_total{pool="web",pod="%s"}'
COMPUTED = 'splatfleet_triton_compute_seconds_total{pool="web",pod="%s"}'
TWO_PODS = {QUEUED % "a": "0+10x60", COMPUTED % "a": "0+40x60", QUEUED % "b": "0+50x60", COMPUTED % "b": "0+20x60"}


@pytest.mark.parametrize(
    ("series", "expression", "expected"),
    [
        pytest.param(TWO_PODS, RATIO, {sample(RATIO, {"pool": "web"}): 1.0}, id="sums first, then the division"),
        pytest.param({QUEUED % "a": "0x60", COMPUTED % "a": "0x60"}, RATIO, {}, id="idle is absent"),
        pytest.param({QUEUED % "a": "0+9x60", COMPUTED % "a": "0x60"}, RATIO, {}, id="stuck is absent, not +Inf"),
        pytest.param({QUEUED % "a": "0+9x60"}, RATIO, {}, id="half is missing"),
        pytest.param(
            {QUEUED % "a": "0+10x38 0+10x20", COMPUTED % "a": "0+20x38 0+20x20"},
            f"{RATIO} >= bool 0",
            {'{pool="web"}': 1.0},
            id="a reset is no negative rate",
        ),
        pytest.param(
            {QUEUED % "a": "0+10x10 stale", COMPUTED % "a": "0+20x10 stale"}, RATIO, {}, id="a pod that left is absent"
        ),
        pytest.param(waits(60, 45), LATE, {sample(LATE, {"pool": "web"}): 0.25}, id="late over answered"),
        pytest.param(
            {'splatfleet_gateway_responses_total{pool="web",code="503"}': "0+60x60"},
            LATE,
            {sample(LATE, {"pool": "web"}): 1.0},
            id="all fail and none is served: everything is late",
        ),
        pytest.param(
            waits(45, 45) | {'splatfleet_gateway_responses_total{pool="web",code="503"}': "0+15x400"},
            LATE,
            {sample(LATE, {"pool": "web"}): 0.25},
            id="failures count",
        ),
        pytest.param(
            waits(60, 60) | {'splatfleet_gateway_responses_total{pool="web",code="404"}': "0+60x400"},
            LATE,
            {sample(LATE, {"pool": "web"}): 0.0},
            id="what the client did wrong does not",
        ),
        pytest.param(
            {f'splatfleet_gateway_pods{{pool="web",state="ready",pod="{g}"}}': "4x60" for g in "ab"},
            "pool:splatfleet_gateway_pods_ready:max",
            {sample("pool:splatfleet_gateway_pods_ready:max", {"pool": "web"}): 4.0},
            id="two gateways see the same pods",
        ),
        pytest.param(
            {
                'splatfleet_gateway_pending_requests{pool="web"}': "2x60",
                'splatfleet_triton_pending_requests{pool="web",pod="a"}': "3x60",
            },
            "pool:splatfleet_pending_requests:sum",
            {sample("pool:splatfleet_pending_requests:sum", {"pool": "web"}): 5.0},
            id="pending is in the gateway and in Triton",
        ),
    ],
)
def test_recordings(
    series: Series,
    expression: str,
    expected: dict[str, float],
    prometheus_tool: Callable[[str], str],
    tmp_path: Path,
) -> None:
    done = run(prometheus_tool("promtool"), tmp_path, [situation(series, expression, expected, "40m")])
    assert done.returncode == 0, done.stdout + done.stderr


def test_decisions_of_the_cases_are_reasons() -> None:
    from autoscaler.decision import Reason

    known = {reason.value for reason in Reason}
    written = set(re.findall(r'reason=~"([a-z_|]+)"', "\n".join(alert.expression for alert in ALERTS)))
    assert {reason for text in written for reason in text.split("|")} <= known
    assert all('reason="' in name for name in decisions(steady=1))
