"""The local scheduling cycle against the real extender and real exporters."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from fleet import mig
from fleet.scene import SceneId
from local_fleet.nodes import GPU_MODEL, POD_PROFILE, LocalNode, make_nodes
from local_fleet.scheduling import ExtenderScheduler, SpreadScheduler, Unschedulable, pod_manifest
from local_fleet.stack import Stack, start_stack
from renderer.formats import ply
from renderer.made import make
from renderer.scene_folder import build_catalogue
from renderer.scene_store import SceneStore


def test_the_layouts_of_the_nodes_are_legal(tmp_path: Path) -> None:
    part = mig.find_part(GPU_MODEL)
    assert part is not None
    for node in make_nodes(tmp_path, 10_000_000, seed=1):
        occupied = 0
        for cut in node.gpu.slices:
            role = part.role_of(mig.MigProfile.parse(cut.profile))
            assert cut.start in role.starts
            mask = ((1 << role.memory_slices) - 1) << cut.start
            assert occupied & mask == 0
            occupied |= mask


def test_slices_are_named_lowest_start_first(tmp_path: Path) -> None:
    first, second, _ = make_nodes(tmp_path, 10_000_000, seed=1)
    assert [name.rpartition("@")[2] for name in first.slices(POD_PROFILE)] == list("0123456")
    assert len(second.slices(POD_PROFILE)) == 4


def test_spread_takes_the_emptiest_node() -> None:
    pod = pod_manifest("a", "renderer", POD_PROFILE, ["knot"])
    assert SpreadScheduler().place(pod, {"node-1": 2, "node-2": 1, "node-3": 1}) == "node-2"
    with pytest.raises(Unschedulable, match="no node has a free slice"):
        SpreadScheduler().place(pod, {})


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[list[LocalNode], Stack]]:
    """Three nodes with exporters, and the extender; node-3 has the scene `knot` on its disk."""
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    ply.write(scenes / "knot.ply", make("knot", 30_000, seed=1))
    catalogue, _ = build_catalogue(scenes)
    nodes = make_nodes(tmp_path / "nodes", 40_000_000, seed=1)
    SceneStore(nodes[2].store, 40_000_000, fetch_bytes_per_s_limit=20e6).ensure(catalogue.get("knot"))
    (tmp_path / "renderers.json").write_text('{"version": 1, "renderers": []}')
    (tmp_path / "catalogue.json").write_text('{"version": 1, "scenes": [{"id": "knot", "uri": "scenes/knot.ply"}]}')
    with contextlib.ExitStack() as stack:
        parts = start_stack(
            stack, tmp_path, nodes, "renderer", tmp_path / "renderers.json", tmp_path / "catalogue.json"
        )
        _wait_ready(parts.extender_url)
        yield nodes, parts


def _wait_ready(url: str) -> None:
    end_s = time.monotonic() + 20
    while httpx2.get(url + "/-/ready").status_code != 200:
        assert time.monotonic() < end_s, "the extender is not ready"
        time.sleep(0.1)


def test_the_pod_goes_where_its_scene_lies(fleet: tuple[list[LocalNode], Stack]) -> None:
    _, parts = fleet
    scheduler = ExtenderScheduler(parts.extender_url)
    pod = pod_manifest("renderer-001", "renderer", POD_PROFILE, ["knot"])
    # The emptiest node would be another one.
    load = {"node-1": 0, "node-2": 0, "node-3": 3}
    assert scheduler.place(pod, load) == "node-3"
    scheduler.expect("renderer", {SceneId("knot"): 3.0})
    unnamed = pod_manifest("renderer-002", "renderer", POD_PROFILE, [])
    assert scheduler.place(unnamed, load) == "node-3"
    explained = httpx2.get(parts.extender_url + "/explain", params={"pod": "default/renderer-002"}).json()
    assert explained["pod"]["expected_scenes"] == {"knot": 1.0}
    waits_s = {line["node"]: line["time_to_ready_s"] for line in explained["nodes"]}
    assert waits_s["node-3"] < min(waits_s["node-1"], waits_s["node-2"])
    assert scheduler.failed_calls == 0


def test_bound_pods_fill_a_node_until_the_extender_rules_it_out(fleet: tuple[list[LocalNode], Stack]) -> None:
    nodes, parts = fleet
    scheduler = ExtenderScheduler(parts.extender_url)
    for number in range(len(nodes[2].slices(POD_PROFILE))):
        bound = pod_manifest(f"bound-{number}", "renderer", POD_PROFILE, ["knot"], "node-3", "Running")
        scheduler.event("MODIFIED", bound)
    pod = pod_manifest("renderer-100", "renderer", POD_PROFILE, ["knot"])
    assert scheduler.place(pod, {"node-1": 0, "node-2": 0, "node-3": 0}) != "node-3"
    with pytest.raises(Unschedulable, match="node-3"):
        scheduler.place(pod, {"node-3": 0})
    scheduler.event("DELETED", pod_manifest("bound-0", "renderer", POD_PROFILE, ["knot"], "node-3", "Succeeded"))
    assert scheduler.place(pod, {"node-3": 0}) == "node-3"


def test_a_dead_extender_is_skipped_and_counted(fleet: tuple[list[LocalNode], Stack]) -> None:
    _, parts = fleet
    scheduler = ExtenderScheduler(parts.extender_url)
    next(child for child in parts.children if child.name == "extender").stop()
    pod = pod_manifest("renderer-001", "renderer", POD_PROFILE, ["knot"])
    assert scheduler.place(pod, {"node-1": 1, "node-2": 0, "node-3": 0}) == "node-2"
    assert scheduler.failed_calls == 2
    assert parts.dead()[0].startswith("extender ended")
