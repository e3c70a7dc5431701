"""SPZ v1 to v4: attribute after attribute, in one gzip stream (v1 to v3, also bare) or a zstd stream each (v4).

positions 3 float16 (v1) or 3 int24 / 2^fraction bits, alpha 255 * opacity, colour 255 * (0.15 * constant + 0.5),
scale 16 * (ln s + 10), rotation 3 bytes xyz with w >= 0 (v1, v2) or smallest three of xyzw in 32 bits, SH bytes
(u - 128) / 128, coefficient-major with RGB inside. Frame: right, up, back, unless an extension names another;
scenes are right, down, forward here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renderer.formats.assembly import Assembly
from renderer.formats.smallest_three import place_largest
from renderer.formats.spz_layout import Payload, SpzLayout, read_layout
from renderer.splats import Float32, Splats, coefficients

__all__ = ["read", "read_layout"]

_COLOUR_SCALE = np.float32(0.15)
_MAGNITUDE = np.uint32(0x1FF)
_SIGN = np.uint32(0x200)
# Whether each coefficient of bands 1 to 3 is odd in x, y and z: its sign turns with each axis that turns.
_ODD = np.array(
    [
        *([0, 1, 0], [0, 0, 1], [1, 0, 0]),
        *([1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1], [0, 0, 0]),
        *([0, 1, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]),
    ]
)


def read(path: Path) -> Splats:
    """Load the splats; raises SceneFileError."""
    layout = read_layout(path)
    scene = Assembly(path, layout.gaussians, layout.sh_degree)
    with path.open("rb") as file, np.errstate(over="ignore", under="ignore", invalid="ignore"):
        payload = Payload(layout, file)

        def fill(attribute: str, into: Float32, decode: Callable[[NDArray[np.uint8]], Float32]) -> None:
            width = layout.row_bytes[attribute]
            for rows in scene.blocks():
                raw = payload.take(attribute, (rows.stop - rows.start) * width)
                into[rows] = decode(np.frombuffer(raw, np.uint8).reshape(-1, width))

        fill("positions", scene.means, lambda raw: _positions(layout, raw))
        fill("alphas", scene.opacities, lambda raw: raw[:, 0] / np.float32(255))
        fill("colours", scene.sh[:, 0], lambda raw: (raw / np.float32(255) - np.float32(0.5)) / _COLOUR_SCALE)
        fill("scales", scene.scales, lambda raw: np.exp(raw / np.float32(16) - np.float32(10)))
        fill("rotations", scene.quaternions, lambda raw: _rotations(layout, raw))
        if layout.sh_degree:
            bands = coefficients(layout.sh_degree) - 1
            fill("sh", scene.sh[:, 1:], lambda raw: _bands(raw, bands))
        _turn(scene, payload.end())
    return scene.splats(layout.antialiased)


def _turn(scene: Assembly, flips: tuple[int, int, int]) -> None:
    """Flip axes and finish: a flip of two axes turns the quaternion's third, an SH coefficient all it is odd in."""
    x, y, z = flips
    axes = np.array(flips, np.float32)
    quaternion = np.array([1, y * z, x * z, x * y], np.float32)
    signs = np.prod(np.where(_ODD[: scene.sh.shape[1] - 1], axes, 1), axis=1, dtype=np.float32)
    for rows in scene.blocks():
        scene.means[rows] *= axes
        scene.quaternions[rows] *= quaternion
        scene.sh[rows, 1:] *= signs[:, None]
        scene.finish(rows)


def _positions(layout: SpzLayout, raw: NDArray[np.uint8]) -> Float32:
    if layout.version == 1:
        return raw.view("<f2").astype(np.float32)
    octets = raw.reshape(-1, 3, 3).astype(np.int32)
    fixed = octets[..., 0] | octets[..., 1] << 8 | octets[..., 2] << 16
    signed = fixed - ((fixed & 0x800000) << 1)
    return signed.astype(np.float32) * np.float32(2.0**-layout.fraction_bits)


def _rotations(layout: SpzLayout, raw: NDArray[np.uint8]) -> Float32:
    """wxyz [n, 4]."""
    if layout.version < 3:
        xyz = raw * np.float32(1 / 127.5) - 1
        w = np.sqrt(np.maximum(0, 1 - (xyz * xyz).sum(axis=1)))
        return np.concatenate([w[:, None], xyz], axis=1)
    words = raw.view("<u4")[:, 0]
    small = np.empty((len(words), 3), np.float32)
    for column in (2, 1, 0):
        magnitude = (words & _MAGNITUDE) * np.float32(math.sqrt(0.5) / 511)
        small[:, column] = np.where(words & _SIGN, -magnitude, magnitude)
        words = words >> np.uint32(10)
    xyzw = place_largest(small, words.astype(np.intp))
    return xyzw[:, [3, 0, 1, 2]]


def _bands(raw: NDArray[np.uint8], count: int) -> Float32:
    """[n, count, 3]; what a file of degree 4 has beyond band 3 is left out."""
    stored = raw.reshape(len(raw), -1, 3)[:, :count]
    values: Float32 = (stored - np.float32(128)) * np.float32(1 / 128)
    return values
