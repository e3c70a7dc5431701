"""The scene store as it is read from disk while others write it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from exporter import store_reader
from exporter.files import FileError, WatchedFile
from exporter.store_reader import StoreReader, StoreReading
from fleet.renderers import RenderersFile
from tests.exporter.surroundings import Store


def _ids(reading: StoreReading) -> list[str]:
    return [scene.id for scene in reading.scenes]


def test_additions_evictions_and_new_versions_are_seen(store: Store) -> None:
    reader = StoreReader(store.root)
    assert _ids(reader.read()) == []
    store.put("b", 20)
    store.put("a", 10)
    first = reader.read()
    assert [(scene.id, scene.bytes) for scene in first.scenes] == [("a", 10), ("b", 20)]
    assert first.problem == ""
    assert reader.read().scenes is first.scenes, "nothing changed, nothing is built"
    store.put("a", 11, digest="f" * 64)
    store.evict("b")
    assert [(scene.id, scene.bytes, scene.digest) for scene in reader.read().scenes] == [("a", 11, "f" * 64)]


def test_a_record_rewritten_in_place_is_seen(store: Store) -> None:
    path = store.put("a", 10)
    for index in range(5):
        store.put(f"other-{index}")
    reader = StoreReader(store.root)
    reader.read()
    time.sleep(0.06)
    reader.read()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"last_used_s": 99.0}))
    assert reader.read().scenes[0].last_used_s == 99.0


def test_a_large_store_is_checked_in_turns(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_reader, "_CHECKED_PER_READ", 3)
    paths = [store.put(f"scene-{index}") for index in range(10)]
    # A clock far ahead: the folder's mtime is old enough to be trusted.
    reader = StoreReader(store.root, clock_ns=lambda: time.time_ns() + 10**9)
    reader.read()
    for path in paths:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"last_used_s": 99.0}))
    seen = [sum(scene.last_used_s == 99.0 for scene in reader.read().scenes) for _ in range(4)]
    assert seen == [3, 6, 9, 10]


def test_broken_records_are_left_out_and_named(store: Store, tmp_path: Path) -> None:
    store.put("good")
    scenes = store.root / "scenes"
    record = (scenes / "good.json").read_text()
    secret = tmp_path / "secret.json"
    secret.write_text(record.replace('"good"', '"link"'))
    (scenes / "link.json").symlink_to(secret)
    os.mkfifo(scenes / "pipe.json")  # a plain open would hang here
    (scenes / "folder.json").mkdir()
    bad = {
        "torn": record[:40],
        "other": record,  # holds the record of another scene
        "Evil": record.replace('"good"', '"Evil"'),
        "short": record.replace(json.loads(record)["digest"], "abc"),
        "negative": record.replace('"good"', '"negative"').replace("1000", "-1000"),
        "huge": record.replace('"good"', '"huge"') + " " * 70_000,
        "wrong-type": record.replace('"good"', '"wrong-type"').replace("1000", '"many"'),
    }
    for name, text in bad.items():
        (scenes / f"{name}.json").write_text(text)
    reader = StoreReader(store.root)
    reading = reader.read()
    assert _ids(reading) == ["good"]
    assert str(scenes) in reading.problem
    for name in [*bad, "link", "pipe"]:
        (scenes / f"{name}.json").unlink()
    (scenes / "folder.json").rmdir()
    assert reader.read().problem == ""
    (scenes / "good.json").write_text("{}")
    reading = reader.read()
    assert _ids(reading) == []
    assert "good.json" in reading.problem
    store.put("good")
    reading = reader.read()
    assert (_ids(reading), reading.problem) == (["good"], "")


def test_downloads_and_their_broken_records(store: Store) -> None:
    store.fetch("coming", 10, 100)
    reader = StoreReader(store.root)
    assert [(fetch.id, fetch.done_bytes) for fetch in reader.read().fetches] == [("coming", 10)]
    (store.root / "fetching" / "x.json").write_text("not json")
    reading = reader.read()
    assert [fetch.id for fetch in reading.fetches] == ["coming"]
    assert "x.json" in reading.problem


def test_without_a_store_or_its_capacity(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no scene store yet"):
        StoreReader(tmp_path / "nowhere").read()
    store.put("a")
    (store.root / "store.json").unlink()
    reading = StoreReader(store.root).read()
    assert reading.store is None
    assert _ids(reading) == ["a"]
    assert "capacity is not known" in reading.problem


def test_a_broken_file_keeps_the_last_good_content(tmp_path: Path) -> None:
    path = tmp_path / "renderers.json"

    def refuse_version(file: RenderersFile) -> None:
        if file.version != 1:
            raise ValueError(f"version {file.version}")

    watched = WatchedFile(path, RenderersFile, refuse_version)
    assert watched.read() is None
    assert "No such file" in watched.problem
    path.write_text('{"version": 1, "renderers": [], "later": "unknown fields pass"}')
    good = watched.read()
    assert good == RenderersFile()
    for broken in (
        '{"version": 1, "renderers": [',
        '{"version": 2}',
        '{"renderers": 3}',
        '{"renderers": [{"uid": "x"}]}',
    ):
        path.write_text(broken)
        assert watched.read() is good
        assert str(path) in watched.problem
        assert watched.read() is good
        assert watched.problem, "it is still broken when it is not read again"
    path.unlink()
    assert watched.read() is good
    assert "No such file" in watched.problem
    path.write_text('{"version": 1}')
    assert watched.read() == RenderersFile()
    assert watched.problem == ""
