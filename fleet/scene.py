"""SceneId and the layout of a node's scene store: the one place that parses either."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NewType

SceneId = NewType("SceneId", str)

SCENES_PATH = "/v1/scenes"  # of a scene agent: PUT SCENES_PATH/{id} asks for a scene
SCENE_ID_PATTERN = r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?"
_SCENE_ID = re.compile(SCENE_ID_PATTERN)
_DIGEST = re.compile(r"[0-9a-f]{64}")


class SceneIdError(ValueError):
    """A text that is no scene id; says what it was and what would be valid."""


def parse_scene_id(text: str) -> SceneId:
    """Return `text` as a scene id that is safe as a file name, a label value and a URL segment.

    Raises SceneIdError for anything else, `..` inside included.
    """
    if _SCENE_ID.fullmatch(text) is None or ".." in text:
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise SceneIdError(
            f"scene id {shown!r} is not valid: 1 to 63 of a-z 0-9 . _ -, "
            "a letter or digit first and last, no '..' (example: playbot-l2)"
        )
    return SceneId(text)


def parse_scene_ids(text: str) -> tuple[SceneId, ...]:
    """Parse the comma-separated ids of the annotation `splatfleet.io/scenes`; empty text is no scene."""
    return tuple(parse_scene_id(part.strip()) for part in text.split(",") if part.strip())


def slug(text: str) -> SceneId:
    """Make a scene id out of any path or title: lower case, other characters become `-`."""
    folded = re.sub(r"[^a-z0-9._]+", "-", text.lower())
    folded = re.sub(r"\.{2,}", ".", folded).strip("-._")[:63].strip("-._")
    return parse_scene_id(folded or "scene")


def parse_digest(text: str) -> str:
    """Return a sha256 digest in lower-case hex; raises ValueError for anything else."""
    if _DIGEST.fullmatch(text) is None:
        raise ValueError(f"digest {text[:80]!r} is not 64 lower-case hex digits of a sha256")
    return text


@dataclass(frozen=True, slots=True)
class Scene:
    """An immutable splat asset."""

    id: SceneId
    digest: str  # sha256 of the source, hex
    source_bytes: int
    resident_bytes: int  # what it takes in VRAM (or RAM) once loaded
    gaussians: int


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """Where things lie in a node's scene store: the renderer writes them, the exporter reads them.

    `objects/<sha256>/source`  the bytes as fetched (a file, or a folder for formats of many files)
    `objects/<sha256>/packed`  our own layout of the same scene, made once per node
    `objects/<sha256>.lock`    flock: exclusive while writing, shared while a pod holds the object open
    `scenes/<id>.json`         SceneRecord: which digest an id stands for, its bytes, its last use
    `fetching/<sha256>.json`   FetchRecord: heartbeat of a download in flight
    `quarantine/<sha256>-…`    the last object that was found damaged, out of every reader's sight
    `store.json`               StoreRecord: capacity and measured bandwidths
    """

    root: Path

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def scenes(self) -> Path:
        return self.root / "scenes"

    @property
    def fetching(self) -> Path:
        return self.root / "fetching"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def store_file(self) -> Path:
        return self.root / "store.json"

    def object_dir(self, digest: str) -> Path:
        return self.objects / parse_digest(digest)

    def lock_file(self, digest: str) -> Path:
        return self.objects / f"{parse_digest(digest)}.lock"

    def scene_file(self, scene: SceneId) -> Path:
        return self.scenes / f"{parse_scene_id(scene)}.json"

    def fetching_file(self, digest: str) -> Path:
        return self.fetching / f"{parse_digest(digest)}.json"


@dataclass(frozen=True, slots=True)
class SceneRecord:
    """`scenes/<id>.json`: an object that lies whole on the node's disk."""

    id: str
    digest: str
    source_bytes: int
    packed_bytes: int  # 0 until the packed layout is made
    resident_bytes: int
    gaussians: int
    last_used_s: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class FetchRecord:
    """`fetching/<sha256>.json`: a download in flight; stale when `heartbeat_s` is older than 10 s."""

    id: str
    digest: str
    done_bytes: int
    total_bytes: int
    heartbeat_s: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """`store.json`: what the store may hold and how fast it was seen to fetch and read."""

    capacity_bytes: int
    fetch_bytes_per_s: float  # 0 when nothing was measured yet
    read_bytes_per_s: float  # 0 when nothing was measured yet
    peer_bytes_per_s: float = 0.0  # of downloads from other nodes; 0 when there was none yet


FETCH_STALE_AFTER_S = 10.0
