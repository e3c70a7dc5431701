"""The dashboards: those of the code, by the rules of Grafana's dashboard-linter, on names that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest

from fleet.metrics import CATALOGUE
from fleet.recordings import RECORDINGS
from monitoring.alerts import ALERTS
from monitoring.boards import BOARDS
from monitoring.grafana import dashboards
from tests.conftest import REPOSITORY
from tests.monitoring.expressions import filled

FOLDER = REPOSITORY / "deploy" / "dashboards"
BY_NAME = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}

# target-job and target-instance: a recorded series is one of pools, and has neither label.
WITHOUT_TARGET = tuple(RECORDINGS)
UNITS = {"short", "s", "h", "bytes", "Bps", "reqps", "ops", "percentunit"}

every_dashboard = pytest.mark.parametrize("name", BY_NAME)


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in panels(board) for target in panel["targets"]]


def selectors(node: Any) -> Iterator[Any]:
    """Every vector selector below a node of the syntax tree."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for part in ("vector_selector", "expr", "lhs", "rhs", "param"):
        below = getattr(node, part, None)
        if below is not None and type(below).__module__.startswith("promql_parser"):
            yield from selectors(below)
    for below in getattr(node, "args", None) or ():
        yield from selectors(below)


def test_committed_dashboards_are_those_of_the_code() -> None:
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == dashboards(), "run: make deploy"


def test_there_is_one_for_every_alert() -> None:
    assert {alert.dashboard for alert in ALERTS} <= {board.name for board in BOARDS}
    assert {board["uid"] for board in BY_NAME.values()} == {f"splatfleet-{board.name}" for board in BOARDS}


@every_dashboard
def test_variables(name: str) -> None:
    variables = {item["name"]: item for item in BY_NAME[name]["templating"]["list"]}
    sources = [item for item in variables.values() if item["type"] == "datasource"]
    assert [(item["name"], item["label"]) for item in sources] == [("datasource", "Data source")]
    assert {"job", "instance"} <= variables.keys()
    for key, item in variables.items():
        if item["type"] != "query":
            continue
        assert item["label"] == key.title()
        assert item["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert item["multi"]
        assert item["allValue"] == ".+"
        assert item["refresh"] == 2, "on a change of the time range"
        query = re.fullmatch(r"label_values\((.*), \w+\)", item["query"])
        assert query is not None
        promql_parser.parse(filled(query[1]))


@every_dashboard
def test_panels(name: str) -> None:
    board = BY_NAME[name]
    assert board["editable"] is False
    assert board["schemaVersion"] >= 39
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)
    for panel in panels(board):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["targets"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert panel["type"] in ("timeseries", "stat")


@every_dashboard
def test_queries(name: str) -> None:
    counters = {metric.name for metric in CATALOGUE.values() if metric.kind == "counter"}
    for text in expressions(BY_NAME[name]):
        tree = promql_parser.parse(filled(text))
        found = list(selectors(tree))
        assert found, text
        for selector in found:
            if selector.name in counters:
                assert re.search(rf"(rate|increase)\({selector.name}\b", text), text
        for window in re.findall(r"(?:rate|irate|increase)\([^\[]*\[([^\]]+)\]", text):
            assert window == "$__rate_interval", text


@every_dashboard
def test_targets_are_matched(name: str) -> None:
    for text in expressions(BY_NAME[name]):
        for metric, matchers in re.findall(r"(splatfleet_[a-z0-9_]+)\{([^}]*)\}", text):
            if not any(metric in recorded for recorded in WITHOUT_TARGET):
                assert 'job=~"$job"' in matchers, text
                assert 'instance=~"$instance"' in matchers, text
        bare = re.findall(r"(?<![:\w])splatfleet_[a-z0-9_]+(?![{\w:])", text)
        assert bare == [], f"{text}: without matchers"


def test_every_name_exists_and_every_metric_for_dashboards_is_drawn() -> None:
    texts = [text for board in BY_NAME.values() for text in expressions(board)]
    drawn = {selector.name for text in texts for selector in selectors(promql_parser.parse(filled(text)))}
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) if name not in CATALOGUE else name for name in drawn}
    assert plain <= set(CATALOGUE) | set(RECORDINGS)
    wanted = {metric.name for metric in CATALOGUE.values() if "dashboard" in metric.read_by}
    assert wanted - plain == set()
