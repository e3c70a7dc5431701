"""Inria PLY: any property order, little- or big-endian or ASCII, any scalar type, SH degree 0 to 3.

opacity is a logit, scale_i natural logarithms, rot_0..3 wxyz, f_rest channel-major (all red, all green, all blue).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from renderer.splats import (
    MAX_GAUSSIANS,
    MAX_SCALE,
    Float32,
    SceneFileError,
    Splats,
    check_values,
    coefficients,
    make_splats,
)

MAX_HEADER_BYTES = 1 << 16
MAX_PROPERTIES = 512
_TYPES = {
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
}
_ENCODINGS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_POSITION = ("x", "y", "z")
_ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
_SCALE = ("scale_0", "scale_1", "scale_2")
_COLOUR = ("f_dc_0", "f_dc_1", "f_dc_2")
_DEGREE_OF_REST = {3 * (coefficients(degree) - 1): degree for degree in range(4)}
_BLOCK = 65_536  # Gaussians converted at a time: the raw rows and one block of columns are all that is held twice


@dataclass(frozen=True, slots=True)
class PlyLayout:
    """What the header says, checked against the file's length."""

    file: Path
    gaussians: int
    sh_degree: int
    row: np.dtype[np.void]
    ascii: bool
    antialiased: bool
    header_bytes: int
    disk_bytes: int


@dataclass(slots=True)
class _Element:
    name: str
    count: int
    properties: list[tuple[str, str]]


def read_layout(path: Path) -> PlyLayout:
    """Read and check the header alone; raises SceneFileError."""
    try:
        with path.open("rb") as file:
            lines = list(_header_lines(path, file))
            header_bytes = file.tell()
            disk_bytes = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise SceneFileError(path, "file", error.strerror or error, "expected a readable PLY") from error
    encoding = _encoding(path, lines)
    elements = _elements(path, lines)
    vertex = _vertex(path, elements)
    row = np.dtype([(name, (encoding if kind[1] != "1" else "") + kind) for name, kind in vertex.properties])
    layout = PlyLayout(
        path,
        vertex.count,
        _sh_degree(path, row.names or ()),
        row,
        encoding == "",
        _antialiased(path, lines),
        header_bytes,
        disk_bytes,
    )
    _check_length(layout, alone=len(elements) == 1)
    return layout


def read(path: Path) -> Splats:
    """Load the splats; raises SceneFileError."""
    layout = read_layout(path)
    rows = _ascii_rows(layout) if layout.ascii else _binary_rows(layout)
    means = _columns(rows, _POSITION)
    rotations = _columns(rows, _ROTATION)
    with np.errstate(over="ignore", invalid="ignore"):
        scales = np.exp(_columns(rows, _SCALE))
        opacities = sigmoid(_columns(rows, ("opacity",))[:, 0])
    if np.isposinf(scales).any():
        first = int(np.isposinf(scales).any(axis=1).argmax())
        raise SceneFileError(
            path, f"scale of Gaussian {first}", "infinite after exp", f"at most {MAX_SCALE:g} is allowed"
        )
    sh = _spherical_harmonics(rows, layout.sh_degree)
    check_values(path, means, rotations, scales, {"opacity": opacities, "colour": sh})
    return make_splats(means, rotations, scales, opacities, sh, layout.antialiased)


def sigmoid(logits: Float32) -> Float32:
    """Opacity in 0..1 of a logit."""
    with np.errstate(over="ignore"):
        values: Float32 = 1 / (1 + np.exp(-logits))
    return values


def _header_lines(path: Path, file: BinaryIO) -> Iterator[list[str]]:
    while file.tell() <= MAX_HEADER_BYTES:
        line = file.readline(4096)
        if not line.endswith(b"\n"):
            raise SceneFileError(path, "header", f"{file.tell()} bytes without end_header", "the file is cut off")
        words = line.decode("ascii", "replace").split()
        if words == ["end_header"]:
            return
        if words:
            yield words
    raise SceneFileError(path, "header", f"over {MAX_HEADER_BYTES} bytes", f"at most {MAX_HEADER_BYTES} are read")


def _encoding(path: Path, lines: list[list[str]]) -> str:
    named = next((words[1] for words in lines if words[0] == "format" and len(words) > 1), "absent")
    if named not in _ENCODINGS:
        raise SceneFileError(path, "format", named, f"expected one of {', '.join(_ENCODINGS)}")
    return _ENCODINGS[named]


def _elements(path: Path, lines: list[list[str]]) -> list[_Element]:
    elements: list[_Element] = []
    for words in lines:
        match words:
            case ["element", name, count] if count.isascii() and count.isdigit() and len(count) < 19:
                elements.append(_Element(name, int(count), []))
            case ["element", *rest]:
                raise SceneFileError(path, "element", " ".join(rest), "expected a name and a count")
            case ["property", "list", *_] if elements and elements[-1].name != "vertex":
                pass
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties.append((name, _TYPES[kind]))
            case ["property", *rest]:
                raise SceneFileError(
                    path, "property", " ".join(rest), f"expected one of {', '.join(_TYPES)} and a name"
                )
    return elements


def _vertex(path: Path, elements: list[_Element]) -> _Element:
    names = [element.name for element in elements]
    if "chunk" in names:
        from renderer.formats import UnknownFormat

        raise UnknownFormat(path, "compressed PLY")
    if not names or names[0] != "vertex":
        raise SceneFileError(path, "first element", names[0] if names else "absent", "expected vertex")
    vertex = elements[0]
    have = [name for name, _ in vertex.properties]
    if len(have) > MAX_PROPERTIES or len(set(have)) != len(have):
        raise SceneFileError(path, "properties", len(have), f"at most {MAX_PROPERTIES}, each name once")
    missing = [name for name in (*_POSITION, *_COLOUR, "opacity", *_SCALE, *_ROTATION) if name not in have]
    if missing == ["scale_2"]:
        raise SceneFileError(path, "scale_2", "absent", "these are flat 2DGS splats, which have no reader yet")
    if missing:
        raise SceneFileError(path, "properties", f"without {' '.join(missing)}", "a splat needs them (a point cloud?)")
    if not 1 <= vertex.count <= MAX_GAUSSIANS:
        raise SceneFileError(path, "element vertex", vertex.count, f"1 to {MAX_GAUSSIANS} Gaussians are allowed")
    return vertex


def _sh_degree(path: Path, names: tuple[str, ...]) -> int:
    rest = sum(name.startswith("f_rest_") for name in names)
    if rest not in _DEGREE_OF_REST or any(f"f_rest_{i}" not in names for i in range(rest)):
        raise SceneFileError(path, "f_rest", f"{rest} properties", f"expected f_rest_0.. of {list(_DEGREE_OF_REST)}")
    return _DEGREE_OF_REST[rest]


def _antialiased(path: Path, lines: list[list[str]]) -> bool:
    """Brush writes `SplatRenderMode: mip`, Postshot `antialiased 1`."""
    for words in lines:
        match [word.lower() for word in words]:
            case ["comment", "splatrendermode:", "2dgs"]:
                raise SceneFileError(path, "SplatRenderMode", "2dgs", "flat 2DGS splats have no reader yet")
            case ["comment", "splatrendermode:", "mip"] | ["comment", "antialiased", "1" | "true"]:
                return True
    return False


def _check_length(layout: PlyLayout, alone: bool) -> None:
    payload = layout.disk_bytes - layout.header_bytes
    if layout.ascii:
        least = layout.gaussians * (2 * len(layout.row.names or ()) - 1)
        if payload < least:
            said = f"{layout.gaussians} Gaussians need at least {least} bytes, {payload} follow the header"
            raise SceneFileError(layout.file, "length", f"{layout.disk_bytes} bytes", said)
        return
    need = layout.gaussians * layout.row.itemsize
    if payload < need or (alone and payload != need):
        said = f"{layout.gaussians} Gaussians take {need} bytes, {payload} follow the header"
        raise SceneFileError(layout.file, "length", f"{layout.disk_bytes} bytes", said)


def _binary_rows(layout: PlyLayout) -> NDArray[np.void]:
    rows = np.fromfile(layout.file, layout.row, layout.gaussians, offset=layout.header_bytes)
    if len(rows) != layout.gaussians:
        raise SceneFileError(layout.file, "length", f"{len(rows)} Gaussians", f"the header says {layout.gaussians}")
    return rows


def _ascii_rows(layout: PlyLayout) -> NDArray[np.void]:
    names = layout.row.names or ()
    with layout.file.open("rb") as file:
        file.seek(layout.header_bytes)
        try:
            table = np.loadtxt(file, np.float64, comments=None, ndmin=2, max_rows=layout.gaussians)
        except ValueError as error:
            raise SceneFileError(layout.file, "payload", error, "expected rows of numbers") from error
    if table.shape != (layout.gaussians, len(names)):
        said = f"the header says {layout.gaussians} rows of {len(names)}"
        raise SceneFileError(layout.file, "payload", f"{table.shape[0]} rows of {table.shape[1]}", said)
    rows = np.empty(layout.gaussians, [(name, "f8") for name in names])
    for column, name in enumerate(names):
        rows[name] = table[:, column]
    return rows


def _columns(rows: NDArray[np.void], names: tuple[str, ...]) -> Float32:
    out = np.empty((len(rows), len(names)), np.float32)
    with np.errstate(over="ignore"):
        for column, name in enumerate(names):
            out[:, column] = rows[name]
    return out


def _spherical_harmonics(rows: NDArray[np.void], sh_degree: int) -> Float32:
    """[N, K, 3] out of channel-major f_rest, in blocks that stay in the processor's cache."""
    count = coefficients(sh_degree)
    sh = np.empty((len(rows), count, 3), np.float32)
    names = [f"f_rest_{i}" for i in range(3 * (count - 1))]
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        out = sh[start : start + _BLOCK]
        out[:, 0] = _columns(block, _COLOUR)
        if names:
            out[:, 1:] = _columns(block, tuple(names)).reshape(len(block), 3, count - 1).transpose(0, 2, 1)
    return sh


def write(path: Path, splats: Splats) -> None:
    """Write binary little-endian Inria PLY; opacities of exactly 0 or 1 become logits of +-16."""
    count = coefficients(splats.sh_degree)
    rest = splats.sh[:, 1:].transpose(0, 2, 1).reshape(splats.count, 3 * (count - 1))
    opacity = np.clip(splats.opacities.astype(np.float64), 1e-7, 1 - 1e-7)
    columns = [
        (_POSITION, splats.means),
        (("nx", "ny", "nz"), np.zeros_like(splats.means)),
        (_COLOUR, splats.sh[:, 0]),
        (tuple(f"f_rest_{i}" for i in range(rest.shape[1])), rest),
        (("opacity",), np.log(opacity / (1 - opacity))[:, None]),
        (_SCALE, np.log(np.maximum(splats.scales, 1e-30))),
        (_ROTATION, splats.quaternions),
    ]
    names = [name for group, _ in columns for name in group]
    table = np.concatenate([np.asarray(values, "<f4") for _, values in columns], axis=1)
    header = ["ply", "format binary_little_endian 1.0"]
    header += ["comment antialiased 1"] if splats.antialiased else []
    header += [f"element vertex {splats.count}", *(f"property float {name}" for name in names), "end_header", ""]
    path.write_bytes("\n".join(header).encode() + table.tobytes())
