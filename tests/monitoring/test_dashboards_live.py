"""Every query of every dashboard has an answer from a fleet that runs, and the panels are drawn to be looked at."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
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


def test_what_prometheus_holds(fleet: LiveFleet) -> None:
    """The series that the sizing table of docs/operations.md counts with: of a part, and of a scene in it."""
    of_part = _counts(fleet, 'count by (job) ({job=~"splatfleet-.+"})', "job")
    of_scene = _counts(fleet, 'max by (job) (count by (job, scene) ({job=~"splatfleet-.+", scene!=""}))', "job")
    sizes = {"part": of_part, "scene": of_scene}
    if os.environ.get("SPLATFLEET_SIZING"):
        names = 'count by (job, __name__) ({job=~"splatfleet-.+", scene!=""})'
        rows = fleet.ask("query", query=names, time=fleet.end_s)
        sizes["names"] = {f"{row['metric']['job']} {row['metric']['__name__']}": float(row["value"][1]) for row in rows}
        own = httpx2.get(f"{fleet.prometheus}/metrics", trust_env=False, timeout=10).text.splitlines()
        wanted = ("prometheus_tsdb_head_series ", "prometheus_tsdb_head_chunks ", "process_resident_memory_bytes ")
        sizes["tsdb"] = {line.split()[0]: float(line.split()[1]) for line in own if line.startswith(wanted)}
        Path(os.environ["SPLATFLEET_SIZING"]).write_text(json.dumps(sizes, indent=1))
    assert set(of_part) == {f"splatfleet-{part}" for part in
                            ("gateway", "exporter", "scene-agent", "extender", "autoscaler", "renderer")}  # fmt: skip
    assert all(count < 600 for count in of_part.values()), of_part
    assert all(count <= 40 for count in of_scene.values()), of_scene


def _counts(fleet: LiveFleet, query: str, label: str) -> dict[str, float]:
    rows = fleet.ask("query", query=query, time=fleet.end_s)
    return {row["metric"][label]: float(row["value"][1]) for row in rows}
