"""Compressed PLY: 16 bytes a Gaussian inside the bounds of its chunk of 256, and bytes for the SH bands.

Elements: chunk (float32 min and max of position and ln scale, at times of colour), vertex (four u32), sh (f_rest as
bytes, channel-major like Inria's). Position and scale take 11-10-11 bits, x highest; rotation 2 bits for the largest of
wxyz and 10 for each other; colour 8-8-8-8, alpha the opacity itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renderer.constants import SH_C0
from renderer.formats.assembly import Assembly
from renderer.formats.ply_header import Element, PlyHeader, read_ply_header
from renderer.formats.smallest_three import place_largest
from renderer.splats import MAX_GAUSSIANS, Float32, SceneFileError, Splats, coefficients

CHUNK = 256  # Gaussians
_AXES = ("x", "y", "z")
_BOUNDS = tuple(f"{side}_{part}{axis}" for part in ("", "scale_") for side in ("min", "max") for axis in _AXES)
_COLOUR_BOUNDS = tuple(f"{side}_{channel}" for side in ("min", "max") for channel in "rgb")
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_DEGREE_OF_REST = {3 * (coefficients(degree) - 1): degree for degree in range(4)}


@dataclass(frozen=True, slots=True)
class CompressedLayout:
    """What the header says, checked against the file's length."""

    file: Path
    gaussians: int
    sh_degree: int
    disk_bytes: int
    rows: dict[str, np.dtype[np.void]]  # by element
    starts: dict[str, int]  # byte offset of each element's table
    format: str = "compressed-ply"


def read_layout(path: Path) -> CompressedLayout:
    """Read and check the header alone; raises SceneFileError."""
    header = read_ply_header(path)
    if not header.byte_order:
        raise SceneFileError(path, "format", "ascii", "a compressed PLY is binary")
    elements = {element.name: element for element in header.elements}
    known = {"chunk", "vertex"} <= set(elements) <= {"chunk", "vertex", "sh"}
    if not known or len(elements) != len(header.elements):
        raise SceneFileError(path, "elements", " ".join(e.name for e in header.elements), "expected chunk, vertex, sh")
    gaussians = elements["vertex"].count
    if not 1 <= gaussians <= MAX_GAUSSIANS:
        raise SceneFileError(path, "element vertex", gaussians, f"1 to {MAX_GAUSSIANS} Gaussians are allowed")
    _require(header, elements["chunk"], _BOUNDS, "f4", -(-gaussians // CHUNK))
    _require(header, elements["vertex"], _PACKED, "u4", gaussians)
    degree = _sh_degree(header, elements.get("sh"), gaussians)
    rows = {element.name: header.row(element) for element in header.elements}
    starts, end = {}, header.header_bytes
    for element in header.elements:
        starts[element.name] = end
        end += element.count * rows[element.name].itemsize
    if end != header.disk_bytes:
        said = f"{gaussians} Gaussians take {end - header.header_bytes} bytes, {header.payload_bytes} follow the header"
        raise SceneFileError(path, "length", f"{header.disk_bytes} bytes", said)
    return CompressedLayout(path, gaussians, degree, header.disk_bytes, rows, starts)


def read(path: Path) -> Splats:
    """Load the splats; raises SceneFileError."""
    layout = read_layout(path)
    bounds = _bounds(layout)
    scene = Assembly(path, layout.gaussians, layout.sh_degree)
    rest = coefficients(layout.sh_degree) - 1
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for rows in scene.blocks():
            table = _take(layout, "vertex", rows)
            chunk = np.arange(rows.start, rows.stop) // CHUNK
            scene.means[rows] = _lerp(_bits(table["packed_position"], (11, 10, 11)), bounds, chunk, 0)
            np.exp(_lerp(_bits(table["packed_scale"], (11, 10, 11)), bounds, chunk, 6), out=scene.scales[rows])
            scene.quaternions[rows] = _rotations(table["packed_rotation"])
            rgba = _bits(table["packed_color"], (8, 8, 8, 8))
            colour = _lerp(rgba[:, :3], bounds, chunk, 12) if bounds.shape[1] > 12 else rgba[:, :3]
            scene.sh[rows, 0] = (colour - np.float32(0.5)) * np.float32(1 / SH_C0)
            scene.opacities[rows] = rgba[:, 3]
            if rest:
                octets = _take(layout, "sh", rows)
                for i in range(3 * rest):
                    scene.sh[rows, 1 + i % rest, i // rest] = _BAND_OF_BYTE[octets[f"f_rest_{i}"]]
            scene.finish(rows)
    return scene.splats()


def _require(header: PlyHeader, element: Element, names: tuple[str, ...], kind: str, count: int) -> None:
    kinds = dict(element.properties)
    if any(kinds.get(name) != kind for name in names):
        said = f"expected {', '.join(names)} of type {kind}"
        raise SceneFileError(header.file, f"properties of {element.name}", " ".join(kinds), said)
    if element.count != count:
        raise SceneFileError(header.file, f"element {element.name}", element.count, f"expected {count}")


def _sh_degree(header: PlyHeader, element: Element | None, gaussians: int) -> int:
    if element is None:
        return 0
    rest = len(element.properties)
    if rest not in _DEGREE_OF_REST:
        raise SceneFileError(header.file, "properties of sh", rest, f"expected one of {list(_DEGREE_OF_REST)}")
    _require(header, element, tuple(f"f_rest_{i}" for i in range(rest)), "u1", gaussians)
    return _DEGREE_OF_REST[rest]


def _take(layout: CompressedLayout, element: str, rows: slice) -> NDArray[np.void]:
    row = layout.rows[element]
    count = rows.stop - rows.start
    table = np.fromfile(layout.file, row, count, offset=layout.starts[element] + rows.start * row.itemsize)
    if len(table) != count:
        raise SceneFileError(layout.file, "length", f"{element} {rows.start + len(table)}", "the file became shorter")
    return table


def _bounds(layout: CompressedLayout) -> Float32:
    """Minimum and maximum of position, ln scale and perhaps colour, [chunks, 12 or 18]."""
    row = layout.rows["chunk"]
    chunks = -(-layout.gaussians // CHUNK)
    table = _take(layout, "chunk", slice(0, chunks))
    names = _BOUNDS + (_COLOUR_BOUNDS if set(_COLOUR_BOUNDS) <= set(row.names or ()) else ())
    bounds = np.stack([table[name].astype(np.float32) for name in names], axis=1)
    bad = ~np.isfinite(bounds)
    if bad.any():
        at = int(bad.any(axis=1).argmax())
        raise SceneFileError(layout.file, f"bounds of chunk {at}", bounds[at][bad[at]][0], "all must be finite")
    return bounds


def _lerp(parts: Float32, bounds: Float32, chunk: NDArray[np.intp], first: int) -> Float32:
    low, high = bounds[chunk, first : first + 3], bounds[chunk, first + 3 : first + 6]
    values: Float32 = low * (1 - parts) + high * parts
    return values


def _bits(words: NDArray[np.uint32], widths: tuple[int, ...]) -> Float32:
    """Fractions 0..1 [n, parts] of the bit fields of a word, the highest first."""
    out = np.empty((len(words), len(widths)), np.float32)
    shift = sum(widths)
    for column, width in enumerate(widths):
        shift -= width
        most = (1 << width) - 1
        out[:, column] = (words >> np.uint32(shift) & np.uint32(most)) / np.float32(most)
    return out


def _rotations(words: NDArray[np.uint32]) -> Float32:
    small = (_bits(words & np.uint32((1 << 30) - 1), (10, 10, 10)) - np.float32(0.5)) * np.float32(math.sqrt(2))
    return place_largest(small, (words >> np.uint32(30)).astype(np.intp))


def _band_of_byte() -> Float32:
    """-4..4; 0 and 255 stand for the ends, the rest for the middle of its 256th."""
    fractions = (np.arange(256, dtype=np.float32) + np.float32(0.5)) / 256
    fractions[0], fractions[255] = 0, 1
    values: Float32 = (fractions - np.float32(0.5)) * 8
    return values


_BAND_OF_BYTE = _band_of_byte()
