"""Labels of a node follow its disk: the scenes used last, and no others of ours; what others wrote stays."""

from __future__ import annotations

from autoscaler.scene_labels import label_changes
from fleet.digest import CachedScene
from fleet.labels import SCENE_LABEL_PREFIX


def scene(name: str, last_used_s: float) -> CachedScene:
    return CachedScene(name, f"sha-{name}", 100, last_used_s)


def test_what_came_is_set_and_what_went_is_taken_away() -> None:
    labels = {"zone": "a", f"{SCENE_LABEL_PREFIX}old": "disk", f"{SCENE_LABEL_PREFIX}kept": "disk"}
    changes = label_changes(labels, [scene("kept", 1.0), scene("new", 2.0)], most=8)
    assert changes == {f"{SCENE_LABEL_PREFIX}new": "disk", f"{SCENE_LABEL_PREFIX}old": None}


def test_only_the_scenes_used_last_are_named() -> None:
    scenes = [scene(f"scene-{number}", float(number)) for number in range(10)]
    assert set(label_changes({}, scenes, most=3)) == {f"{SCENE_LABEL_PREFIX}scene-{number}" for number in (7, 8, 9)}


def test_nothing_is_written_where_nothing_changed() -> None:
    assert label_changes({f"{SCENE_LABEL_PREFIX}a": "disk", "zone": "b"}, [scene("a", 5.0)], most=1) == {}
