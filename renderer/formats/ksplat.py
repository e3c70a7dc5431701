""".ksplat, compression levels 0 to 2: sections of Gaussians in spatial buckets.

4,096 bytes of header, 1,024 a section header, then per section: sizes of its partial buckets (u32), centres of all
buckets (3 float32), Gaussians. A Gaussian: centre, linear scale, rotation wxyz, RGBA bytes, SH band by band and
channel-major inside a band. Level 0 is float32; above it the centre is u16 around its bucket's centre, scale and
rotation are float16; SH is float32, float16, or (level 2) a byte between two bounds of the header.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renderer.formats.assembly import Assembly, blocks
from renderer.formats.splat import opacity_and_colour
from renderer.splats import MAX_GAUSSIANS, Float32, SceneFileError, Splats, coefficients

HEADER_BYTES = 4096
SECTION_HEADER_BYTES = 1024
MAX_SECTIONS = 4096
_HEADER = struct.Struct("<BBxxI8xIH14xff")  # version, sections, Gaussians, level, bounds of SH
_SECTION = struct.Struct("<IIIIfHxxI4xIIH")
_BUCKET_BYTES = 12
_QUANTISATION_RANGE = 32767
_SH_BOUND = 1.5
_SH_KIND = ("<f4", "<f2", "u1")  # by level


@dataclass(frozen=True, slots=True)
class Section:
    """One section's header and where its parts lie in the file."""

    gaussians: int
    bucket_gaussians: int
    buckets: int
    block: float
    quantisation_range: int
    full_buckets: int
    partial_buckets: int
    sh_degree: int
    start: int  # sizes of partial buckets
    centres: int
    rows: int
    row: np.dtype[np.void]


@dataclass(frozen=True, slots=True)
class KsplatLayout:
    """What the headers say, checked against the file's length."""

    file: Path
    gaussians: int
    sh_degree: int
    disk_bytes: int
    level: int
    sh_bounds: tuple[float, float]
    sections: list[Section]
    format: str = "ksplat"


def looks_like(start: bytes, disk_bytes: int) -> bool:
    """Whether a file without a telling name begins as a .ksplat that may be whole."""
    if len(start) < _HEADER.size or disk_bytes < HEADER_BYTES + SECTION_HEADER_BYTES:
        return False
    major, minor, sections, gaussians, level, *_ = _HEADER.unpack_from(start)
    return bool(major == 0 and 1 <= minor < 16 and 1 <= sections <= MAX_SECTIONS and gaussians > 0 and level <= 2)


def read_layout(path: Path) -> KsplatLayout:
    """Read and check the headers alone; raises SceneFileError."""
    try:
        with path.open("rb") as file:
            raw = file.read(HEADER_BYTES)
            disk_bytes = os.fstat(file.fileno()).st_size
            sections, gaussians, level, *bounds = _unpack(path, raw)
            headers = file.read(sections * SECTION_HEADER_BYTES)
    except OSError as error:
        raise SceneFileError(path, "file", error.strerror or error, "expected a readable .ksplat") from error
    if len(headers) != sections * SECTION_HEADER_BYTES:
        said = f"{sections} section headers take {sections * SECTION_HEADER_BYTES} bytes after {HEADER_BYTES}"
        raise SceneFileError(path, "length", f"{disk_bytes} bytes", said)
    found = list(_sections(path, headers, level))
    if sum(section.gaussians for section in found) != gaussians:
        said = f"its sections hold {sum(section.gaussians for section in found)}"
        raise SceneFileError(path, "Gaussians", gaussians, said)
    end = found[-1].rows + found[-1].gaussians * found[-1].row.itemsize
    if disk_bytes < end:
        raise SceneFileError(path, "length", f"{disk_bytes} bytes", f"its sections reach to byte {end}")
    degree = max(section.sh_degree for section in found)
    low, high = (float(bound) or default for bound, default in zip(bounds, (-_SH_BOUND, _SH_BOUND), strict=True))
    return KsplatLayout(path, gaussians, degree, disk_bytes, level, (low, high), found)


def read(path: Path) -> Splats:
    """Load the splats; raises SceneFileError."""
    layout = read_layout(path)
    scene = Assembly(path, layout.gaussians, layout.sh_degree)
    start = 0
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for section in layout.sections:
            centres = _Centres(layout, section)
            for rows in blocks(section.gaussians):
                table = _take(path, section.row, section.rows, rows)
                into = slice(start + rows.start, start + rows.stop)
                scene.means[into] = centres.of(table["centre"], rows)
                scene.scales[into] = table["scale"]
                scene.quaternions[into] = table["rotation"]
                scene.opacities[into], scene.sh[into, 0] = opacity_and_colour(table["rgba"])
                scene.sh[into, 1:] = 0  # of a section of lower degree than the scene
                if section.sh_degree:
                    _bands(layout, table["sh"], scene.sh[into])
                scene.finish(into)
            start += section.gaussians
    return scene.splats()


def _unpack(path: Path, raw: bytes) -> tuple[int, int, int, float, float]:
    if len(raw) < HEADER_BYTES:
        raise SceneFileError(path, "length", f"{len(raw)} bytes", f"a .ksplat begins with {HEADER_BYTES} of header")
    major, minor, sections, gaussians, level, low, high = _HEADER.unpack_from(raw)
    for name, value, known in (
        ("version", f"{major}.{minor}", major == 0 and minor >= 1),
        ("compression level", level, level <= 2),
        ("sections", sections, 1 <= sections <= MAX_SECTIONS),
        ("Gaussians", gaussians, 1 <= gaussians <= MAX_GAUSSIANS),
        ("bounds of SH", f"{low} {high}", math.isfinite(low) and math.isfinite(high)),
    ):
        if not known:
            said = f"0.1 on; level 0 to 2; 1 to {MAX_SECTIONS} sections; 1 to {MAX_GAUSSIANS} Gaussians; finite bounds"
            raise SceneFileError(path, name, value, said)
    return sections, gaussians, level, low, high


def _sections(path: Path, headers: bytes, level: int) -> Iterator[Section]:
    """Sections lie one after another; each takes room for its greatest count, used or not."""
    at = HEADER_BYTES + len(headers)
    for number in range(len(headers) // SECTION_HEADER_BYTES):
        fields = _SECTION.unpack_from(headers, number * SECTION_HEADER_BYTES)
        count, most, capacity, buckets, block, bucket_bytes, quantisation, full, partial, degree = fields
        centres = at + 4 * partial
        row_at = centres + bucket_bytes * buckets
        for name, value, good, said in (
            ("Gaussians", count, count <= most <= MAX_GAUSSIANS, f"at most {min(most, MAX_GAUSSIANS)}, its own limit"),
            ("SH degree", degree, degree <= 3, "0 to 3 are allowed"),
            ("buckets", f"{full} + {partial}", level == 0 or full + partial <= buckets, f"it has {buckets}"),
            ("bucket bytes", bucket_bytes, level == 0 or bucket_bytes == _BUCKET_BYTES, f"expected {_BUCKET_BYTES}"),
            ("block size", block, level == 0 or math.isfinite(block), "expected a finite length"),
        ):
            if not good:
                raise SceneFileError(path, f"{name} of section {number}", value, said)
        row, steps = _row(level, degree), quantisation or _QUANTISATION_RANGE
        yield Section(count, capacity, buckets, block, steps, full, partial, degree, at, centres, row_at, row)
        at = row_at + most * row.itemsize


def _row(level: int, sh_degree: int) -> np.dtype[np.void]:
    kind, centre = ("<f2", "<u2") if level else ("<f4", "<f4")
    fields = [("centre", centre, 3), ("scale", kind, 3), ("rotation", kind, 4), ("rgba", "u1", 4)]
    if sh_degree:
        fields.append(("sh", _SH_KIND[level], 3 * (coefficients(sh_degree) - 1)))
    return np.dtype(fields)


class _Centres:
    """Turns the centres of a section's rows into scene coordinates."""

    def __init__(self, layout: KsplatLayout, section: Section) -> None:
        self._level = layout.level
        if layout.level == 0:
            return
        sizes = _take(layout.file, np.dtype("<u4"), section.start, slice(0, section.partial_buckets))
        full = np.full(section.full_buckets, section.bucket_gaussians, np.int64)
        self._ends = np.cumsum(np.concatenate([full, sizes.astype(np.int64)]))
        if section.gaussians > (self._ends[-1] if len(self._ends) else 0):
            said = f"its section has {section.gaussians} Gaussians"
            raise SceneFileError(layout.file, "room in buckets", self._ends[-1] if len(self._ends) else 0, said)
        table = _take(layout.file, np.dtype("<f4"), section.centres, slice(0, 3 * section.buckets))
        self._buckets = table.reshape(-1, 3)
        self._range = np.float32(section.quantisation_range)
        self._step = np.float32(section.block / 2 / section.quantisation_range)

    def of(self, stored: NDArray[Any], rows: slice) -> Float32:
        """[n, 3] of the rows' stored centres."""
        values: Float32 = stored.astype(np.float32)
        if self._level == 0:
            return values
        bucket = np.searchsorted(self._ends, np.arange(rows.start, rows.stop), side="right")
        moved: Float32 = (values - self._range) * self._step + self._buckets[bucket]
        return moved


def _bands(layout: KsplatLayout, stored: NDArray[Any], sh: Float32) -> None:
    """Fill [n, 1:, 3] from band by band, channel-major inside a band."""
    values: Float32 = stored.astype(np.float32)
    if layout.level == 2:
        low, high = layout.sh_bounds
        values = np.float32(low) + values * np.float32((high - low) / 255)
    at, first = 0, 1
    for band in range(1, 4):
        width = 2 * band + 1
        if at == values.shape[1]:
            break
        part = values[:, at : at + 3 * width].reshape(-1, 3, width)
        sh[:, first : first + width] = part.transpose(0, 2, 1)
        at, first = at + 3 * width, first + width


def _take(path: Path, kind: np.dtype[Any], start: int, rows: slice) -> NDArray[Any]:
    count = rows.stop - rows.start
    table = np.fromfile(path, kind, count, offset=start + rows.start * kind.itemsize)
    if len(table) != count:
        raise SceneFileError(path, "length", f"{len(table)} of {count} rows at byte {start}", "the file became shorter")
    return table
