""".splat: no header, 32 bytes a Gaussian: position and linear scale as float32, RGBA and rotation wxyz as bytes.

Colour is 0.5 + SH_C0 * constant coefficient, times 255; alpha is the opacity itself; a rotation byte is q * 128 + 128.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renderer.constants import SH_C0
from renderer.formats.assembly import Assembly, blocks
from renderer.splats import MAX_COORDINATE, MAX_GAUSSIANS, MAX_SCALE, Float32, SceneFileError, Splats
from renderer.store_files import replacing

ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])
_SNIFFED_ROWS = 64


@dataclass(frozen=True, slots=True)
class SplatLayout:
    """What the file's length says."""

    file: Path
    gaussians: int
    disk_bytes: int
    sh_degree: int = 0
    format: str = "splat"


def read_layout(path: Path) -> SplatLayout:
    """Count the rows; raises SceneFileError."""
    try:
        disk_bytes = os.stat(path).st_size
    except OSError as error:
        raise SceneFileError(path, "file", error.strerror or error, "expected a readable .splat") from error
    if disk_bytes % ROW.itemsize or not 1 <= disk_bytes // ROW.itemsize <= MAX_GAUSSIANS:
        said = f"expected 1 to {MAX_GAUSSIANS} Gaussians of {ROW.itemsize} bytes"
        raise SceneFileError(path, "length", f"{disk_bytes} bytes", said)
    return SplatLayout(path, disk_bytes // ROW.itemsize, disk_bytes)


def looks_like(start: bytes, disk_bytes: int) -> bool:
    """Whether the first rows of a file without a telling name hold what only a .splat would hold."""
    if disk_bytes % ROW.itemsize or disk_bytes == 0:
        return False
    rows = np.frombuffer(start, ROW, min(_SNIFFED_ROWS, len(start) // ROW.itemsize))
    length = np.linalg.norm(_rotations(rows["rotation"]), axis=1)
    with np.errstate(invalid="ignore"):
        return bool(
            len(rows)
            and (np.abs(rows["mean"]) <= MAX_COORDINATE).all()
            and ((rows["scale"] >= 0) & (rows["scale"] <= MAX_SCALE)).all()
            and ((length > 0.9) & (length < 1.1)).all()
        )


def read(path: Path) -> Splats:
    """Load the splats; raises SceneFileError."""
    layout = read_layout(path)
    scene = Assembly(path, layout.gaussians, 0)
    with path.open("rb") as file:
        for rows in scene.blocks():
            table = np.fromfile(file, ROW, rows.stop - rows.start)
            if len(table) != rows.stop - rows.start:
                said = f"it had {layout.disk_bytes} bytes a moment ago"
                raise SceneFileError(path, "length", f"{rows.start + len(table)} Gaussians", said)
            scene.means[rows] = table["mean"]
            scene.scales[rows] = table["scale"]
            scene.quaternions[rows] = _rotations(table["rotation"])
            scene.opacities[rows], scene.sh[rows, 0] = opacity_and_colour(table["rgba"])
            scene.finish(rows)
    return scene.splats()


def opacity_and_colour(rgba: NDArray[np.uint8]) -> tuple[Float32, Float32]:
    """Opacities [n] and constant coefficients [n, 3] of bytes [n, 4]."""
    values = rgba / np.float32(255)
    return values[:, 3], (values[:, :3] - np.float32(0.5)) * np.float32(1 / SH_C0)


def _rotations(octets: NDArray[np.uint8]) -> Float32:
    return (octets - np.float32(128)) * np.float32(1 / 128)


def write(path: Path, splats: Splats) -> None:
    """Write atomically, the largest and most opaque first; the bands above the constant colour have no place here."""
    order = np.argsort(-splats.scales.prod(axis=1) * splats.opacities, kind="stable")
    with replacing(path) as file:
        for rows in blocks(splats.count):
            few = order[rows]
            table = np.empty(len(few), ROW)
            table["mean"], table["scale"] = splats.means[few], splats.scales[few]
            colour = 0.5 + SH_C0 * splats.sh[few, 0]
            table["rgba"] = _octets(np.concatenate([colour, splats.opacities[few, None]], axis=1) * 255)
            table["rotation"] = _octets(splats.quaternions[few] * 128 + 128)
            file.write(table.tobytes())


def _octets(values: Float32) -> NDArray[np.uint8]:
    octets: NDArray[np.uint8] = np.clip(np.round(values), 0, 255).astype(np.uint8)
    return octets
