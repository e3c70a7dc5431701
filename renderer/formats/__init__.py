"""Readers of scene files: which format a path holds, what loading it would cost, and the loading."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from renderer import packed
from renderer.formats import compressed_ply, ksplat, ply, sog, splat, spz
from renderer.formats.assembly import check_splats
from renderer.formats.ply_header import read_ply_header
from renderer.formats.spz_layout import GZIP, MAGIC
from renderer.splats import SceneFileError, Splats, resident_bytes

READABLE = "Inria and compressed PLY, SOG v1 and v2 (folder or .sog), SPZ v1 to v4, .splat and .ksplat"
_SNIFFED_BYTES = 2048


class Layout(Protocol):
    """What every reader's `read_layout` says of a file before any payload is read."""

    @property
    def format(self) -> str: ...
    @property
    def gaussians(self) -> int: ...
    @property
    def sh_degree(self) -> int: ...
    @property
    def disk_bytes(self) -> int: ...


_READERS: dict[str, tuple[Callable[[Path], Layout], Callable[[Path], Splats]]] = {
    "ply": (ply.read_layout, ply.read),
    "compressed-ply": (compressed_ply.read_layout, compressed_ply.read),
    "splat": (splat.read_layout, splat.read),
    "ksplat": (ksplat.read_layout, ksplat.read),
    "spz": (spz.read_layout, spz.read),
    "sog": (sog.read_meta, sog.read),
}


@dataclass(frozen=True, slots=True)
class SceneHeader:
    """What a scene says of itself before any payload is read."""

    format: str  # ply | compressed-ply | splat | ksplat | spz-v1..4 | sog-v1 | sog-v2 | packed
    gaussians: int
    sh_degree: int
    disk_bytes: int
    resident_bytes: int


class UnknownFormat(SceneFileError):
    """A format that has no reader (yet); the message names it."""

    def __init__(self, file: Path, name: str) -> None:
        super().__init__(file, "format", name, f"no reader for it; readable are {READABLE}")


def detect(path: Path) -> str:
    """`packed` or a name of _READERS; raises UnknownFormat (with the name of what it is) or SceneFileError.

    Content decides; for .splat and .ksplat, which have no magic, the suffix does, and where a store dropped that,
    whether the first rows hold plausible values.
    """
    try:
        if path.is_dir():
            return _detect_folder(path)
        if path.exists() and not path.is_file():
            raise SceneFileError(path, "file", "a device or a pipe", "expected a scene file or folder")
        with path.open("rb") as file:
            start = file.read(_SNIFFED_BYTES)
            disk_bytes = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SceneFileError(path, "file", reason or error, "expected a scene file or folder") from error
    if start[:3] == b"ply" and start[3:4] in (b"\n", b"\r"):
        return "compressed-ply" if read_ply_header(path).compressed else "ply"
    if start.startswith(packed.MAGIC):
        return "packed"
    if path.name == "meta.json" or (start.startswith(b"PK\x03\x04") and path.suffix != ".npz"):
        return "sog"
    if start.startswith((GZIP, MAGIC)):
        return "spz"
    return _without_magic(path, start, disk_bytes)


def _without_magic(path: Path, start: bytes, disk_bytes: int) -> str:
    suffix = path.suffix.lower()
    if suffix in (".splat", ".ksplat", ".spz"):
        return suffix[1:]
    if not suffix and ksplat.looks_like(start, disk_bytes):
        return "ksplat"
    if not suffix and splat.looks_like(start, disk_bytes):
        return "splat"
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
    named = {
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
    name = detect(path)
    if name == "packed":
        head = packed.read_packed_header(path)
        return _header(name, head.gaussians, head.sh_degree, path.stat().st_size)
    layout = _READERS[name][0](path)
    return _header(layout.format, layout.gaussians, layout.sh_degree, layout.disk_bytes)


def read(path: Path) -> Splats:
    """Load a scene; its header is checked before anything of its size is allocated, every value before it is used.

    Raises SceneFileError (UnknownFormat for a format without a reader) or MemoryError.
    """
    name = detect(path)
    try:
        if name != "packed":
            return _READERS[name][1](path)
        splats = packed.read(path, verify=True)
    except OSError as error:
        raise SceneFileError(path, "file", error.strerror or error, "expected a readable scene") from error
    check_splats(path, splats)
    return splats


def _header(name: str, gaussians: int, sh_degree: int, disk_bytes: int) -> SceneHeader:
    return SceneHeader(name, gaussians, sh_degree, disk_bytes, resident_bytes(gaussians, sh_degree))
