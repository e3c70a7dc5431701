"""Every query of every dashboard has an answer from a fleet that runs, and the panels are drawn to be looked at."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.gateway.triton_pods import triton_backends
from tests.monitoring.expressions import filled
from tests.monitoring.live_fleet import LiveFleet, live_fleet

pytestmark = [pytest.mark.prometheus, pytest.mark.triton]

BOARDS = sorted((REPOSITORY / "deploy" / "dashboards").glob("*.json"))
# What a fleet without Kubernetes has no series of, each with its reason.
NOT_HERE = {
    "Start-up": "pods are started by Kubernetes alone",
    "KEDA": "nobody asks the external scaler",
    "Slices by use and capacity type": "the cost of nodes is counted on Kubernetes alone",
    "Money an hour by namespace": "the cost of nodes is counted on Kubernetes alone",
    "Scenes asked ahead": "alone the autoscaler sees no node that it could ask",
}


@pytest.fixture(scope="module")
def fleet(prometheus_tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with live_fleet(folder, triton_backends(), prometheus_tool("prometheus")) as running:
        yield running


def _panels() -> list[Any]:
    return [
        pytest.param(panel, id=f"{path.stem}: {panel['title']}")
        for path in BOARDS
        for panel in json.loads(path.read_text())["panels"]
        if panel["type"] != "row"
    ]


@pytest.mark.parametrize("panel", _panels())
def test_a_query_has_data(fleet: LiveFleet, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        text = filled(target["expr"], window_s=10, range_s=30)
        found = fleet.ask("query_range", query=text, start=fleet.begin_s, end=fleet.end_s, step=1)
        numbers = [float(value) for row in found for _, value in row["values"]]
        finite = [value for value in numbers if value == value and abs(value) != float("inf")]
        assert bool(finite) != (panel["title"] in NOT_HERE), f"{target['expr']}: {found}"


def test_the_panels_are_drawn(fleet: LiveFleet, tmp_path: Path) -> None:
    from tests.monitoring.drawing import draw_board

    out = Path(os.environ.get("SPLATFLEET_DASHBOARD_PICTURES", tmp_path))
    for path in BOARDS:
        picture = draw_board(json.loads(path.read_text()), fleet, out / f"{path.stem}.png")
        assert picture.stat().st_size > 20_000
