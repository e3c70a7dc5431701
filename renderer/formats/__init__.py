"""Readers of scene files: which format a path holds, what loading it would cost, and the loading."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from renderer import packed
from renderer.splats import SceneFileError, Splats, resident_bytes

READABLE = "Inria PLY, SOG v1 and v2 (folder or .sog)"


@dataclass(frozen=True, slots=True)
class SceneHeader:
    """What a scene says of itself before any payload is read."""

    format: str  # ply | sog-v1 | sog-v2 | packed
    gaussians: int
    sh_degree: int
    disk_bytes: int
    resident_bytes: int


class UnknownFormat(SceneFileError):
    """A format that has no reader (yet); the message names it."""

    def __init__(self, file: Path, name: str) -> None:
        super().__init__(file, "format", name, f"no reader for it; readable are {READABLE}")


def detect(path: Path) -> str:
    """`ply`, `sog` or `packed`; raises UnknownFormat (with the name of what it is) or SceneFileError."""
    try:
        if path.is_dir():
            return _detect_folder(path)
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise SceneFileError(path, "file", error.strerror or error, "expected a scene file or folder") from error
    if start[:3] == b"ply" and start[3:4] in (b"\n", b"\r"):
        return "ply"
    if start.startswith(packed.MAGIC):
        return "packed"
    if path.name == "meta.json" or (start.startswith(b"PK\x03\x04") and path.suffix != ".npz"):
        return "sog"
    raise UnknownFormat(path, _name_unknown(path, start))


def _detect_folder(path: Path) -> str:
    if (path / "meta.json").is_file():
        return "sog"
    if (path / "lod-meta.json").is_file():
        raise UnknownFormat(path, "streamed SOG (lod-meta.json)")
    raise UnknownFormat(path, "a folder without meta.json")


def _name_unknown(path: Path, start: bytes) -> str:
    if path.name == "lod-meta.json":
        return "streamed SOG (lod-meta.json)"
    if start.startswith((b"\x1f\x8b", b"NGSP")) or path.suffix == ".spz":
        return "SPZ"
    named = {
        ".splat": ".splat",
        ".ksplat": ".ksplat",
        ".npz": "numpy archive (.npz)",
        ".glb": "glTF",
        ".gltf": "glTF",
        ".ply": "a file that does not start as PLY",
        ".sog": "a file that does not start as a zip",
    }
    return named.get(path.suffix.lower(), f"unknown (starts with {start[:8]!r})")


def read_header(path: Path) -> SceneHeader:
    """Read what the header says and check it against the file's size; no payload is decoded.

    Raises SceneFileError (UnknownFormat for a format without a reader).
    """
    match detect(path):
        case "ply":
            from renderer.formats import ply

            layout = ply.read_layout(path)
            return _header("ply", layout.gaussians, layout.sh_degree, layout.disk_bytes)
        case "packed":
            head = packed.read_packed_header(path)
            return _header("packed", head.gaussians, head.sh_degree, path.stat().st_size)
        case _:
            from renderer.formats import sog

            meta = sog.read_meta(path)
            return _header(f"sog-v{meta.version}", meta.gaussians, meta.sh_degree, meta.disk_bytes)


def read(path: Path) -> Splats:
    """Load a scene; everything is checked before anything of its size is allocated.

    Raises SceneFileError (UnknownFormat for a format without a reader).
    """
    match detect(path):
        case "ply":
            from renderer.formats import ply

            return ply.read(path)
        case "packed":
            return packed.read(path, verify=True)
        case _:
            from renderer.formats import sog

            return sog.read(path)


def _header(name: str, gaussians: int, sh_degree: int, disk_bytes: int) -> SceneHeader:
    return SceneHeader(name, gaussians, sh_degree, disk_bytes, resident_bytes(gaussians, sh_degree))
