"""The scene catalogue and what makes one out of a folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from fleet.scene import SceneId, SceneIdError
from renderer.catalogue import (
    Catalogue,
    CatalogueEntry,
    CatalogueError,
    DefaultCamera,
    UnknownScene,
    load_catalogue,
    save_catalogue,
)
from renderer.formats import ply
from renderer.scene_folder import build_catalogue
from renderer.scene_source import digest_of
from tests.renderer.scenes import random_splats


def written(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_round_trip(tmp_path: Path) -> None:
    camera = DefaultCamera((1.0, 2.0, 3.0), (0.0, 0.0, 0.0), 40.0)
    full = CatalogueEntry(SceneId("a"), "http://h/a.ply", "0" * 64, 1, 2, 3, (0.0, 1.0, 0.0), camera, "CC0")
    least = CatalogueEntry(SceneId("b"), "file:///b.ply")
    save_catalogue(Catalogue([full, least]), tmp_path / "c.json")
    assert list(load_catalogue(tmp_path / "c.json").entries.values()) == [full, least]


def test_relative_uri_is_relative_to_the_catalogue(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", {"version": 1, "scenes": [{"id": "a", "uri": "scenes/a b.ply"}]})
    assert load_catalogue(path).get("a").uri == (tmp_path / "scenes" / "a b.ply").as_uri()


def test_every_fault_is_listed_at_once(tmp_path: Path) -> None:
    rows = [
        {"id": "Bad Id", "uri": "file:///a"},
        {"id": "a", "uri": "https://ada:sesame@host/a", "colour": 1},
        {"id": "b", "uri": "file:///b", "digest": "xyz", "gaussians": -1, "up": [0, 1]},
        {"id": "c", "uri": "/absolute", "default_camera": {"eye": [0, 0, 0], "target": [1, 1, 1], "fov_y_degrees": 0}},
        {"uri": "file:///d"},
        {"id": "e", "uri": "file:///e"},
        {"id": "e", "uri": "file:///f"},
        7,
    ]
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(written(tmp_path / "c.json", {"version": 1, "scenes": rows}))
    expected = [
        "scenes[0].id: scene id 'Bad Id'",
        "scenes[1].colour: no such field",
        "scenes[1].uri: carries a user or a query",
        "scenes[2].digest: digest 'xyz'",
        "scenes[2].gaussians: is -1",
        "scenes[2].up: is [0, 1]",
        "scenes[3].uri: is '/absolute'",
        "scenes[3].default_camera: fov_y_degrees is 0",
        "scenes[4].id is missing",
        "scenes[6].id 'e' is there twice",
        "scenes[7] is int",
    ]
    assert len(caught.value.faults) == len(expected)
    for start in expected:
        assert any(fault.startswith(start) for fault in caught.value.faults), (start, caught.value.faults)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2, "scenes": []}', '{"version": 1}'])
def test_no_catalogue_at_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(CatalogueError, match=r"c.json"):
        load_catalogue(tmp_path / "c.json")


def test_unknown_id_and_path_as_id() -> None:
    catalogue = Catalogue([CatalogueEntry(SceneId(f"s{n}"), "file:///x") for n in range(7)])
    with pytest.raises(
        UnknownScene, match="scene 'nope' is not in the catalogue; known are s0, s1, s2, s3, s4 and 2 more"
    ):
        catalogue.get("nope")
    for path in ("../../etc/passwd", "/etc/passwd", "a/b", "a..b", ""):
        with pytest.raises(SceneIdError, match="is not valid"):
            catalogue.get(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "scenes"
    (root / "Deep Down").mkdir(parents=True)
    random = np.random.default_rng(0)
    ply.write(root / "Deep Down" / "Big One.ply", random_splats(random, 1200, 0))
    ply.write(root / "tiny.ply", random_splats(random, 10, 0))
    (root / "other.spz").write_bytes(b"\x1f\x8b" + bytes(30))
    (root / "broken.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 5\n")
    (root / "notes.txt").write_text("no scene")
    (root / ".hidden.ply").write_bytes(b"")
    return root


def test_folder_without_manifest(folder: Path) -> None:
    catalogue, skipped = build_catalogue(folder)
    assert list(catalogue.entries) == ["deep-down-big-one"]
    entry = catalogue.get("deep-down-big-one")
    path = folder / "Deep Down" / "Big One.ply"
    assert (entry.gaussians, entry.source_bytes) == (1200, path.stat().st_size)
    assert (entry.digest, entry.uri) == (digest_of(path), path.as_uri())
    assert sorted(line.split(":")[0] for line in skipped) == ["broken", "other", "tiny"]
    assert any("10 Gaussians are fewer than 1000" in line for line in skipped)
    assert "tiny" in build_catalogue(folder, include_all=True)[0].entries


def test_manifest_gives_ids_and_credit(folder: Path) -> None:
    rows = [
        {"id": "one", "path": "Deep Down/Big One.ply", "licence": "CC0"},
        {"id": "ONE", "path": "Deep Down/Big One.ply"},
        {"id": "gone", "path": "gone.ply"},
    ]
    written(folder / "manifest.json", rows)
    catalogue, skipped = build_catalogue(folder)
    assert [(entry.id, entry.credit) for entry in catalogue.entries.values()] == [("one", "CC0")]
    assert len(skipped) == 2
    written(folder / "manifest.json", [{"id": "evil", "path": "../secret.ply"}])
    with pytest.raises(ValueError, match="lies outside the folder"):
        build_catalogue(folder)


def test_real_scenes(data_dir: Path) -> None:
    catalogue, skipped = build_catalogue(data_dir / "scenes")
    assert {"playbot-l0", "playbot-l6", "playcanvas-logo", "train-1000"} <= set(catalogue.entries)
    assert catalogue.get("playbot-l2").gaussians == 125_000
    assert any(line.startswith("test-garden: skipped") for line in skipped)
    again = {entry.id: dataclasses.astuple(entry) for entry in build_catalogue(data_dir / "scenes")[0].entries.values()}
    assert again == {entry.id: dataclasses.astuple(entry) for entry in catalogue.entries.values()}
