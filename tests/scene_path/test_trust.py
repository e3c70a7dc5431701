"""What is not believed: sources outside the roots, objects whose bytes changed on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fleet import metrics
from renderer.catalogue import CatalogueEntry
from renderer.scene_roots import OutsideRoots, parse_roots
from renderer.scene_store import SceneStore
from renderer.splats import Splats
from tests.scene_path.agents import MB, entry_of, make_scene, wait_for
from tests.scene_path.conftest import StartAgent
from tests.scene_path.fault_server import fault_server


@pytest.mark.parametrize(
    ("uri", "root", "is_inside"),
    [
        ("s3://scenes/v1/a.ply", "s3://scenes/v1", True),
        ("s3://scenes/v1/a.ply", "s3://scenes/v1/", True),
        ("s3://scenes/v10/a.ply", "s3://scenes/v1", False),
        ("s3://other/v1/a.ply", "s3://scenes", False),
        ("gs://scenes/v1/a.ply", "s3://scenes", False),
        ("s3://scenes/v1/../secret/a.ply", "s3://scenes/v1", False),
        ("s3://scenes/v1/%2e%2e/secret/a.ply", "s3://scenes/v1", False),
        ("https://cdn.example/a.ply", "https://cdn.example", True),
        ("https://CDN.example:443/a.ply", "https://cdn.example/", True),
        ("https://cdn.example:8443/a.ply", "https://cdn.example", False),
        ("https://cdn.example.evil/a.ply", "https://cdn.example", False),
        ("http://169.254.169.254/latest/meta-data", "https://cdn.example", False),
    ],
)
def test_a_root_is_scheme_host_and_whole_folders(uri: str, root: str, is_inside: bool) -> None:
    roots = parse_roots([root, "file:///nowhere"])
    if is_inside:
        roots.check(uri)
    else:
        with pytest.raises(OutsideRoots, match=f"{root}, file:///nowhere"):
            roots.check(uri)
    parse_roots([]).check(uri)


def test_a_link_does_not_lead_out_of_a_root(tmp_path: Path) -> None:
    make_scene(tmp_path / "secret" / "a.ply")
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "a.ply").symlink_to(tmp_path / "secret" / "a.ply")
    roots = parse_roots([(tmp_path / "scenes").as_uri()])
    with pytest.raises(OutsideRoots):
        roots.check((tmp_path / "scenes" / "a.ply").as_uri())


@pytest.mark.parametrize("text", ["scenes", "ftp://x/y", "s3://", "https://user:pass@cdn.example", "s3://b/p?x=1"])
def test_what_is_no_root_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="root"):
        parse_roots([text])


def test_source_outside_the_roots_is_not_asked_for_a_byte(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "in" / "good.ply")
    make_scene(tmp_path / "ball.ply")
    with fault_server((tmp_path / "ball.ply").read_bytes()) as server:
        outside = entry_of(tmp_path / "ball.ply", server.url)
        root = (tmp_path / "in").as_uri()
        agent = start_agent("node-1", [outside, entry_of(tmp_path / "in" / "good.ply")], "--allow-root", root)
        agent.client.ask("ball", 30.0)
        agent.wait_state("ball", "failed")
        assert f"lies outside the allowed roots {root}" in agent.reason("ball")
        assert server.asked == []
        agent.client.ask("good", 30.0)
        agent.wait_state("good", "stored")


@pytest.fixture
def scene(tmp_path: Path) -> tuple[CatalogueEntry, Splats]:
    splats = make_scene(tmp_path / "ball.ply")
    return entry_of(tmp_path / "ball.ply"), splats


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_damaged_source_is_put_aside_and_fetched_again(tmp_path: Path, scene: tuple[CatalogueEntry, Splats]) -> None:
    entry, splats = scene
    counted: list[None] = []
    store = SceneStore(tmp_path / "store", 10 * MB, on_quarantined=lambda: counted.append(None))
    stored = store.ensure(entry, pack=False)
    flip(stored.source)
    read, again = store.read(entry, lambda _stored: None)
    np.testing.assert_array_equal(again.means, splats.means)
    assert (read.stage, read.fetched_bytes, len(counted)) == ("remote", entry.source_bytes, 1)
    (kept,) = store.layout.quarantine.iterdir()
    assert kept.name.startswith(str(entry.digest))
    assert "sha256 is" in json.loads((kept / "why.json").read_text())["why"]
    assert store.used_bytes() <= 10 * MB


def test_what_was_put_aside_goes_first_for_room(tmp_path: Path, scene: tuple[CatalogueEntry, Splats]) -> None:
    entry, _ = scene
    store = SceneStore(tmp_path / "store", int(2.5 * (entry.source_bytes or 0)))
    flip(store.ensure(entry, pack=False).source)
    store.read(entry, lambda _stored: None)
    make_scene(tmp_path / "other.ply", seed=2)
    store.ensure(entry_of(tmp_path / "other.ply"), pack=False)
    assert {record.id for record in store.records()} == {"ball", "other"}, "a sound scene went before a damaged one"
    assert not store.layout.quarantine.exists()


def test_damaged_packed_layout_is_made_anew(tmp_path: Path, scene: tuple[CatalogueEntry, Splats]) -> None:
    entry, splats = scene
    counted: list[None] = []
    store = SceneStore(tmp_path / "store", 10 * MB, on_quarantined=lambda: counted.append(None))
    flip(store.ensure(entry).packed)
    stored, read = store.read(entry, lambda _stored: None)
    np.testing.assert_array_equal(read.means, splats.means)
    assert (stored.record.packed_bytes, len(counted)) == (0, 1)
    assert store.ensure(entry).record.packed_bytes > 0
    assert store.read(entry, lambda _stored: None)[0].stage == "packed"


def test_a_disk_that_damages_everything_costs_a_fetch_a_read(
    tmp_path: Path, scene: tuple[CatalogueEntry, Splats]
) -> None:
    entry, splats = scene
    counted: list[None] = []
    store = SceneStore(tmp_path / "store", 10 * MB, on_quarantined=lambda: counted.append(None))
    store.ensure(entry, pack=False)
    for number in range(3):
        flip(store.layout.object_dir(str(entry.digest)) / "source")
        np.testing.assert_array_equal(store.read(entry, lambda _stored: None)[1].means, splats.means)
        assert len(counted) == number + 1
    assert len(list(store.layout.quarantine.iterdir())) == 1, "more than the last one was kept"


def test_agent_puts_a_damaged_object_aside_when_a_peer_reads_it(
    scene: tuple[CatalogueEntry, Splats], start_agent: StartAgent
) -> None:
    entry, _ = scene
    first = start_agent("node-1", [entry])
    first.client.ask("ball", 30.0)
    first.wait_state("ball", "stored")
    flip(first.layout.object_dir(str(entry.digest)) / "source")
    second = start_agent("node-2", [entry], "--peer", f"node-1={first.url}")
    second.client.ask("ball", 30.0)
    second.wait_state("ball", "stored")
    assert second.count(metrics.AGENT_FETCHED_BYTES, source="remote") == entry.source_bytes
    wait_for(lambda: first.count(metrics.AGENT_QUARANTINED) == 1)
    assert first.stored() == set()
    first.client.ask("ball", 30.0)
    wait_for(lambda: first.stored() == {"ball"})
