"""Inria PLY: any property order, little- or big-endian or ASCII, any scalar type, SH degree 0 to 3.

opacity is a logit, scale_i natural logarithms, rot_0..3 wxyz, f_rest channel-major (all red, all green, all blue).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from renderer.formats.assembly import Assembly, blocks
from renderer.formats.ply_header import Element, PlyHeader, read_ply_header
from renderer.splats import MAX_GAUSSIANS, Float32, SceneFileError, Splats, coefficients
from renderer.store_files import replacing

MAX_LINE_BYTES = 1 << 16  # of an ASCII row
_POSITION = ("x", "y", "z")
_ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
_SCALE = ("scale_0", "scale_1", "scale_2")
_COLOUR = ("f_dc_0", "f_dc_1", "f_dc_2")
_DEGREE_OF_REST = {3 * (coefficients(degree) - 1): degree for degree in range(4)}

Columns: TypeAlias = Callable[[tuple[str, ...]], Float32]  # names of properties -> [rows, names] of one block


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
    format: str = "ply"


def read_layout(path: Path) -> PlyLayout:
    """Read and check the header alone; raises SceneFileError."""
    header = read_ply_header(path)
    vertex = _vertex(header)
    row = header.row(vertex)
    layout = PlyLayout(
        path,
        vertex.count,
        _sh_degree(path, row.names or ()),
        row,
        header.byte_order == "",
        _antialiased(header),
        header.header_bytes,
        header.disk_bytes,
    )
    _check_length(layout, alone=len(header.elements) == 1)
    return layout


def read(path: Path) -> Splats:
    """Load the splats; raises SceneFileError."""
    layout = read_layout(path)
    scene = Assembly(path, layout.gaussians, layout.sh_degree)
    rest = coefficients(layout.sh_degree) - 1
    names = tuple(f"f_rest_{i}" for i in range(3 * rest))
    with path.open("rb") as file, np.errstate(over="ignore", under="ignore", invalid="ignore"):
        file.seek(layout.header_bytes)
        take = _ascii_rows(layout, file) if layout.ascii else _binary_rows(layout, file)
        for rows, columns in zip(scene.blocks(), take, strict=True):
            scene.means[rows] = columns(_POSITION)
            scene.quaternions[rows] = columns(_ROTATION)
            np.exp(columns(_SCALE), out=scene.scales[rows])
            scene.opacities[rows] = sigmoid(columns(("opacity",))[:, 0])
            scene.sh[rows, 0] = columns(_COLOUR)
            if rest:
                scene.sh[rows, 1:] = columns(names).reshape(-1, 3, rest).transpose(0, 2, 1)
            scene.finish(rows)
    return scene.splats(layout.antialiased)


def sigmoid(logits: Float32) -> Float32:
    """Opacity in 0..1 of a logit."""
    with np.errstate(over="ignore", under="ignore"):
        values: Float32 = 1 / (1 + np.exp(-logits))
    return values


def _vertex(header: PlyHeader) -> Element:
    path, elements = header.file, header.elements
    if not elements or elements[0].name != "vertex":
        raise SceneFileError(path, "first element", elements[0].name if elements else "absent", "expected vertex")
    vertex = elements[0]
    have = header.row(vertex).names or ()
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


def _antialiased(header: PlyHeader) -> bool:
    """Brush writes `SplatRenderMode: mip`, Postshot `antialiased 1`."""
    for words in header.comments:
        match words:
            case ["splatrendermode:", "2dgs"]:
                raise SceneFileError(header.file, "SplatRenderMode", "2dgs", "flat 2DGS splats have no reader yet")
            case ["splatrendermode:", "mip"] | ["antialiased", "1" | "true"]:
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


def _binary_rows(layout: PlyLayout, file: BinaryIO) -> Iterator[Columns]:
    """One block of rows at a time; where all are float32 of this machine, columns come out of one matrix."""
    plain = all(layout.row[name] == np.dtype("f4") for name in layout.row.names or ())
    place = {name: column for column, name in enumerate(layout.row.names or ())}
    for rows in blocks(layout.gaussians):
        table = np.fromfile(file, layout.row, rows.stop - rows.start)
        if len(table) != rows.stop - rows.start:
            said = f"the header says {layout.gaussians}"
            raise SceneFileError(layout.file, "length", f"{rows.start + len(table)} Gaussians", said)
        if plain:
            yield _of_matrix(table.view("f4").reshape(len(table), -1), place)
        else:
            yield _of_table(table)


def _of_matrix(matrix: Float32, place: dict[str, int]) -> Columns:
    def columns(names: tuple[str, ...]) -> Float32:
        first = place[names[0]]
        places = [place[name] for name in names]
        if places == list(range(first, first + len(names))):
            return matrix[:, first : first + len(names)]
        return matrix[:, places]

    return columns


def _of_table(table: NDArray[np.void]) -> Columns:
    def columns(names: tuple[str, ...]) -> Float32:
        out = np.empty((len(table), len(names)), np.float32)
        for column, name in enumerate(names):
            out[:, column] = table[name]
        return out

    return columns


def _ascii_rows(layout: PlyLayout, file: BinaryIO) -> Iterator[Columns]:
    names = layout.row.names or ()
    place = {name: column for column, name in enumerate(names)}
    lines = _ascii_lines(layout, file)
    for rows in blocks(layout.gaussians):
        few = list(itertools.islice(lines, rows.stop - rows.start))
        if len(few) != rows.stop - rows.start:
            said = f"the header says {layout.gaussians}"
            raise SceneFileError(layout.file, "payload", f"{rows.start + len(few)} rows", said)
        try:
            table: Any = np.loadtxt(few, np.float64, comments=None, ndmin=2)
        except ValueError as error:
            raise SceneFileError(layout.file, "payload", error, "expected rows of numbers") from error
        if table.shape != (len(few), len(names)):
            said = f"the header says {layout.gaussians} rows of {len(names)}"
            raise SceneFileError(layout.file, "payload", f"rows of {table.shape[1]} numbers", said)
        yield _of_matrix(table.astype(np.float32), place)


def _ascii_lines(layout: PlyLayout, file: BinaryIO) -> Iterator[str]:
    """The lines that hold something; numpy alone would read a file without line ends whole."""
    while line := file.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES:
            raise SceneFileError(layout.file, "payload", f"a line over {MAX_LINE_BYTES} bytes", "expected rows")
        if text := line.decode("latin-1").strip():
            yield text


def write(path: Path, splats: Splats) -> None:
    """Write binary little-endian Inria PLY, atomically; opacities of exactly 0 or 1 become logits of +-16."""
    rest = coefficients(splats.sh_degree) - 1
    names = [*_POSITION, "nx", "ny", "nz", *_COLOUR, *(f"f_rest_{i}" for i in range(3 * rest))]
    names += ["opacity", *_SCALE, *_ROTATION]
    header = ["ply", "format binary_little_endian 1.0"]
    header += ["comment antialiased 1"] if splats.antialiased else []
    header += [f"element vertex {splats.count}", *(f"property float {name}" for name in names), "end_header", ""]
    with replacing(path) as file:
        file.write("\n".join(header).encode())
        for rows in blocks(splats.count):
            opacity = np.clip(splats.opacities[rows].astype(np.float64), 1e-7, 1 - 1e-7)
            sh = splats.sh[rows]
            columns = (
                splats.means[rows],
                np.zeros_like(splats.means[rows]),
                sh[:, 0],
                sh[:, 1:].transpose(0, 2, 1).reshape(len(sh), 3 * rest),
                np.log(opacity / (1 - opacity))[:, None],
                np.log(np.maximum(splats.scales[rows], 1e-30)),
                splats.quaternions[rows],
            )
            file.write(np.concatenate([np.asarray(values, "<f4") for values in columns], axis=1).tobytes())
