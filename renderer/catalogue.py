"""Scene id -> where it lies, its digest, its size, which way is up, whom to credit.

One JSON file, `{"version": 1, "scenes": [{"id", "uri", "digest"?, "source_bytes"?, "resident_bytes"?, "gaussians"?,
"up"?, "default_camera"?, "credit"?, "price_class"?}]}`. A `uri` is file:///…, http://…, https://…, s3://…, gs://… or
az://…, or a path relative to the catalogue's own folder; a SOG folder is named by its folder (with a `/` at the end) or
its meta.json. An address carries no user, no query and so no secret.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleet.scene import SceneId, SceneIdError, parse_digest, parse_scene_id

VERSION = 1
UP_OF_TRAINED_SCENES = (0.0, -1.0, 0.0)  # structure from motion has y down

Vector = tuple[float, float, float]


class CatalogueError(Exception):
    """A catalogue that cannot be used; every fault in it, one a line."""

    def __init__(self, source: str, faults: list[str]) -> None:
        self.faults = tuple(faults)
        super().__init__(f"catalogue {source}: " + "; ".join(faults))


class UnknownScene(Exception):
    """A scene id that the catalogue does not hold."""


@dataclass(frozen=True, slots=True)
class DefaultCamera:
    """Where a viewer starts; scene units, in the coordinates of the scene's file."""

    eye: Vector
    target: Vector
    fov_y_degrees: float = 50.0


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One scene. What is None is learnt when the scene is fetched. `up` is a hint for viewers, never applied here."""

    id: SceneId
    uri: str  # absolute
    digest: str | None = None
    source_bytes: int | None = None
    resident_bytes: int | None = None
    gaussians: int | None = None
    up: Vector = UP_OF_TRAINED_SCENES
    default_camera: DefaultCamera | None = None
    credit: str = ""
    price_class: str = ""  # what its owner pays for, as billing names it; nothing here reads it


class Catalogue:
    """The scenes of a fleet, in the order of the file."""

    def __init__(self, entries: Iterable[CatalogueEntry]) -> None:
        self.entries: Mapping[SceneId, CatalogueEntry] = {entry.id: entry for entry in entries}

    def get(self, text: str) -> CatalogueEntry:
        """The entry of a scene id; raises SceneIdError for no id at all and UnknownScene for one that is not here."""
        entry = self.entries.get(parse_scene_id(text))
        if entry is None:
            known = ", ".join(list(self.entries)[:5]) or "none"
            more = f" and {len(self.entries) - 5} more" if len(self.entries) > 5 else ""
            raise UnknownScene(f"scene {text!r} is not in the catalogue; known are {known}{more}")
        return entry


def load_catalogue(path: Path) -> Catalogue:
    """Read a catalogue whole; raises CatalogueError that lists every fault at once."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CatalogueError(str(path), [str(error)]) from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        found = document.get("version") if isinstance(document, dict) else type(document).__name__
        raise CatalogueError(str(path), [f"version is {found!r}, expected an object with version {VERSION}"])
    rows = document.get("scenes")
    if not isinstance(rows, list):
        raise CatalogueError(str(path), [f"scenes is {type(rows).__name__}, expected a list"])
    entries: list[CatalogueEntry] = []
    faults: list[str] = []
    for number, row in enumerate(rows):
        entry = _entry(row, f"scenes[{number}]", path.parent.resolve(), faults)
        if entry is not None and any(entry.id == other.id for other in entries):
            faults.append(f"scenes[{number}].id {entry.id!r} is there twice")
        elif entry is not None:
            entries.append(entry)
    if faults:
        raise CatalogueError(str(path), faults)
    return Catalogue(entries)


class LiveCatalogue:
    """A catalogue file that is read again when it changes; the last good one stays while the file is bad."""

    def __init__(self, path: Path) -> None:
        """Raises CatalogueError: there is no good one yet."""
        self.path = path
        self.fault = ""  # of the file as it is now; empty where it is good
        self._seen = _version(path)
        self._catalogue = load_catalogue(path)

    def current(self) -> Catalogue:
        """The newest good catalogue."""
        version = _version(self.path)
        if version != self._seen:
            try:
                self._catalogue, self.fault = load_catalogue(self.path), ""
            except CatalogueError as error:
                self.fault = str(error)
            self._seen = version
        return self._catalogue


def _version(path: Path) -> tuple[int, ...]:
    """Changes when the file does, also where a mounted ConfigMap swaps a link; empty where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def save_catalogue(catalogue: Catalogue, path: Path) -> None:
    """Write the file and rename it into place, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    document = {"version": VERSION, "scenes": [_row(entry) for entry in catalogue.entries.values()]}
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(path)


def _row(entry: CatalogueEntry) -> dict[str, Any]:
    row: dict[str, Any] = {"id": entry.id, "uri": entry.uri}
    for name in ("digest", "source_bytes", "resident_bytes", "gaussians"):
        if (value := getattr(entry, name)) is not None:
            row[name] = value
    row["up"] = list(entry.up)
    if entry.default_camera is not None:
        camera = entry.default_camera
        row["default_camera"] = {
            "eye": list(camera.eye),
            "target": list(camera.target),
            "fov_y_degrees": camera.fov_y_degrees,
        }
    for name in ("credit", "price_class"):
        if text := getattr(entry, name):
            row[name] = text
    return row


_FIELDS = set(CatalogueEntry.__dataclass_fields__)


def _entry(row: object, where: str, folder: Path, faults: list[str]) -> CatalogueEntry | None:
    if not isinstance(row, dict):
        faults.append(f"{where} is {type(row).__name__}, expected an object")
        return None
    before = len(faults)
    faults += [
        f"{where}.{name}: no such field; known are {', '.join(sorted(_FIELDS))}" for name in row.keys() - _FIELDS
    ]
    values: dict[str, Any] = {}
    for name, parse in _PARSERS.items():
        if name not in row and name not in ("id", "uri"):
            continue
        try:
            values[name] = parse(row[name]) if name != "uri" else _absolute(row[name], folder)
        except KeyError:
            faults.append(f"{where}.{name} is missing")
        except (ValueError, TypeError) as error:
            faults.append(f"{where}.{name}: {error}")
    return CatalogueEntry(**values) if len(faults) == before else None


def _id(value: object) -> SceneId:
    if not isinstance(value, str):
        raise SceneIdError(f"is {value!r}, expected text")
    return parse_scene_id(value)


_SCHEMES = "file:///…, http://…, https://…, s3://…, gs://…, az://…"


def _absolute(value: object, folder: Path) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"is {value!r}, expected {_SCHEMES} or a path relative to the catalogue")
    parts = urlsplit(value)
    if "@" in parts.netloc or parts.query:  # not shown: what stands there may be a secret
        raise ValueError(f"carries a user or a query, expected {_SCHEMES} without; secrets come by file or environment")
    match parts.scheme:
        case "http" | "https" | "s3" | "gs" | "az" if parts.netloc:
            return value
        case "file" if parts.path.startswith("/") and parts.netloc in ("", "localhost"):
            return value
        case "" if not value.startswith("/"):
            return (folder / value).resolve().as_uri()
    raise ValueError(f"is {value!r}, expected {_SCHEMES}, or a relative path")


def _digest(value: object) -> str:
    return parse_digest(value if isinstance(value, str) else repr(value))


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"is {value!r}, expected a whole number >= 0")
    return value


def _vector(value: object) -> Vector:
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in value)
    ):
        raise ValueError(f"is {value!r}, expected three finite numbers")
    return (float(value[0]), float(value[1]), float(value[2]))


def _camera(value: object) -> DefaultCamera:
    if not isinstance(value, dict) or not {"eye", "target"} <= value.keys() <= {"eye", "target", "fov_y_degrees"}:
        raise ValueError(f"is {value!r}, expected an object with eye, target and fov_y_degrees")
    fov_y_degrees = value.get("fov_y_degrees", 50.0)
    if not isinstance(fov_y_degrees, (int, float)) or not 0 < fov_y_degrees < 180:
        raise ValueError(f"fov_y_degrees is {fov_y_degrees!r}, expected more than 0 and less than 180")
    return DefaultCamera(_vector(value["eye"]), _vector(value["target"]), float(fov_y_degrees))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {value!r}, expected text")
    return value


_PARSERS: dict[str, Any] = {
    "id": _id,
    "uri": _absolute,
    "digest": _digest,
    "source_bytes": _count,
    "resident_bytes": _count,
    "gaussians": _count,
    "up": _vector,
    "default_camera": _camera,
    "credit": _text,
    "price_class": _text,
}
