"""A folder of scene files as a catalogue: ids, sizes and digests are read, not asked for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fleet.scene import SceneId, slug
from renderer import formats
from renderer.catalogue import Catalogue, CatalogueEntry
from renderer.credits import credit_beside
from renderer.scene_source import digest_of, local_files
from renderer.splats import SceneFileError

MANIFEST_FILE = "manifest.json"
SMALLEST_SCENE_GAUSSIANS = 1_000
SUFFIXES = {".packed", ".ply", ".splat", ".ksplat", ".spz", ".sog", ".npz", ".glb", ".gltf"}


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    name: str  # as the manifest or the path has it, not yet a scene id
    credit: str = ""


def build_catalogue(folder: Path, include_all: bool = False) -> tuple[Catalogue, list[str]]:
    """The scenes of a folder, and one line for each that was skipped.

    Ids come from manifest.json where there is one (a list of {"id", "path", …}), else from the path. A format without
    a reader, a broken file and a scene below 1,000 Gaussians (unless `include_all`) are skipped.
    Raises ValueError for a folder that is none or a manifest that cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder with scenes")
    entries: dict[SceneId, CatalogueEntry] = {}
    skipped: list[str] = []
    for found in _find(folder.resolve()):
        try:
            entry = _entry(found, folder.resolve())
        except (SceneFileError, ValueError, OSError) as error:
            skipped.append(f"{found.name}: skipped, {error}")
            continue
        if entry.id in entries:
            skipped.append(f"{found.name}: skipped, its id {entry.id} is that of {entries[entry.id].uri}")
        elif not include_all and (entry.gaussians or 0) < SMALLEST_SCENE_GAUSSIANS:
            skipped.append(
                f"{found.name}: skipped, {entry.gaussians} Gaussians are fewer than {SMALLEST_SCENE_GAUSSIANS}"
            )
        else:
            entries[entry.id] = entry
    return Catalogue(entries.values()), skipped


def _entry(found: _Found, root: Path) -> CatalogueEntry:
    header = formats.read_header(found.path)
    return CatalogueEntry(
        id=slug(found.name),
        uri=found.path.as_uri(),
        digest=digest_of(found.path),
        source_bytes=sum(path.stat().st_size for path in local_files(found.path).values()),
        resident_bytes=header.resident_bytes,
        gaussians=header.gaussians,
        credit=credit_beside(found.path, root) or found.credit,
    )


def _find(folder: Path) -> Iterator[_Found]:
    manifest = folder / MANIFEST_FILE
    if manifest.is_file():
        yield from _in_manifest(manifest)
        return
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        if path.name == "meta.json" and path.parent != folder:
            yield _Found(path.parent, str(inside.parent))
        elif path.name == "meta.json":
            yield _Found(folder, folder.name)
        elif path.suffix.lower() in SUFFIXES or path.name == "lod-meta.json":
            name = inside.parent if path.name == "lod-meta.json" else inside.with_suffix("")
            yield _Found(path, str(name))


def _in_manifest(manifest: Path) -> Iterator[_Found]:
    try:
        rows = json.loads(manifest.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{manifest}: {error}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{manifest}: holds {type(rows).__name__}, expected a list of scenes with id and path")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not isinstance(row.get("path"), str):
            raise ValueError(f"{manifest}: entry {number} has no id and path")
        path = (manifest.parent / row["path"]).resolve()
        if not path.is_relative_to(manifest.parent):
            raise ValueError(f"{manifest}: entry {number}: path {row['path']!r} lies outside the folder")
        yield _Found(path, row["id"], _credit(row))


def _credit(row: dict[str, Any]) -> str:
    if isinstance(row.get("credit"), str):
        return str(row["credit"])
    return ", ".join(str(row[name]) for name in ("licence", "license", "repo") if row.get(name))
