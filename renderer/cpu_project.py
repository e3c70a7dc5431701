"""Project and cull Gaussians, colour the survivors: one pass over the scene, compiled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from renderer.constants import SH_C0, SH_C1, SH_C2, SH_C3
from renderer.cpu_records import (
    ACROSS,
    BLUE,
    CHUNK,
    DEPTH,
    DOWN,
    GREEN,
    LOG2_E,
    OFFSET,
    RADIUS_X,
    RADIUS_Y,
    RECORD,
    RED,
    SHEAR,
    TILE_HEIGHT,
    TILE_WIDTH,
    X,
    Y,
    kernel,
)
from renderer.sample import is_drawn

# Layout of the camera vector: rotation 0-8, translation 9-11, then:
FX, FY, CX, CY, WIDTH, HEIGHT, NEAR, FAR = range(12, 20)
POSITION = 20  # 3 values
MARGIN, BLUR, THRESHOLD, FLOOR = range(23, 27)
CAMERA_VALUES = 27


@kernel()
def _colour(sh: Any, at: int, degree: int, x: Any, y: Any, z: Any, channel: int) -> Any:
    """SH + 0.5 of one channel, not yet clamped; (x, y, z) is the unit direction of view."""
    at = at + channel
    value = SH_C0 * sh[at] + 0.5
    if degree >= 1:
        value += SH_C1 * (-y * sh[at + 3] + z * sh[at + 6] - x * sh[at + 9])
    if degree >= 2:
        value += SH_C2[0] * x * y * sh[at + 12] + SH_C2[1] * y * z * sh[at + 15]
        value += SH_C2[2] * (2 * z * z - x * x - y * y) * sh[at + 18]
        value += SH_C2[3] * x * z * sh[at + 21] + SH_C2[4] * (x * x - y * y) * sh[at + 24]
    if degree >= 3:
        value += SH_C3[0] * y * (3 * x * x - y * y) * sh[at + 27] + SH_C3[1] * x * y * z * sh[at + 30]
        value += SH_C3[2] * y * (4 * z * z - x * x - y * y) * sh[at + 33]
        value += SH_C3[3] * z * (2 * z * z - 3 * x * x - 3 * y * y) * sh[at + 36]
        value += SH_C3[4] * x * (4 * z * z - x * x - y * y) * sh[at + 39]
        value += SH_C3[5] * z * (x * x - y * y) * sh[at + 42] + SH_C3[6] * x * (x * x - 3 * y * y) * sh[at + 45]
    return value


@kernel()
def _footprint(camera: Any, cov: Any, i: int, x: float, y: float, z: float) -> tuple[float, float, float]:
    """(xx, xy, yy) of the 2D covariance before the blur: J W C W^T J^T."""
    margin_x = camera[MARGIN] * 0.5 * camera[WIDTH] / camera[FX]
    margin_y = camera[MARGIN] * 0.5 * camera[HEIGHT] / camera[FY]
    slope_x = min((camera[WIDTH] - camera[CX]) / camera[FX] + margin_x, max(-camera[CX] / camera[FX] - margin_x, x / z))
    slope_y = min(
        (camera[HEIGHT] - camera[CY]) / camera[FY] + margin_y, max(-camera[CY] / camera[FY] - margin_y, y / z)
    )
    fx, fy = camera[FX] / z, camera[FY] / z
    ux = fx * (camera[0] - slope_x * camera[6])
    uy = fx * (camera[1] - slope_x * camera[7])
    uz = fx * (camera[2] - slope_x * camera[8])
    vx = fy * (camera[3] - slope_y * camera[6])
    vy = fy * (camera[4] - slope_y * camera[7])
    vz = fy * (camera[5] - slope_y * camera[8])
    c = 6 * i
    ax = cov[c] * ux + cov[c + 1] * uy + cov[c + 2] * uz
    ay = cov[c + 1] * ux + cov[c + 3] * uy + cov[c + 4] * uz
    az = cov[c + 2] * ux + cov[c + 4] * uy + cov[c + 5] * uz
    bx = cov[c] * vx + cov[c + 1] * vy + cov[c + 2] * vz
    by = cov[c + 1] * vx + cov[c + 3] * vy + cov[c + 4] * vz
    bz = cov[c + 2] * vx + cov[c + 4] * vy + cov[c + 5] * vz
    return ux * ax + uy * ay + uz * az, vx * ax + vy * ay + vz * az, vx * bx + vy * by + vz * bz


_is_drawn = kernel()(is_drawn)


@kernel()
def count_in_range(means: Any, limit: Any, camera: Any, span: Any, bases: Any) -> None:
    """bases[chunk + 1]: how many Gaussians of a chunk of `span` are drawn and lie between the camera's near and far."""
    total = means.shape[0] // 3
    for chunk in range(span[0], span[1]):
        found = 0
        for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, total)):
            mx, my, mz = np.float64(means[3 * i]), np.float64(means[3 * i + 1]), np.float64(means[3 * i + 2])
            z = camera[6] * mx + camera[7] * my + camera[8] * mz + camera[11]
            if z >= camera[NEAR] and z <= camera[FAR] and _is_drawn(np.int64(i), limit):
                found += 1
        bases[chunk + 1] = found


@kernel()
def project(scene: Any, camera: Any, degree: int, span: Any, out: Any) -> None:
    """Project the chunks `span` = (first, past the last); survivors go to the front of their chunk's segment.

    `scene` is (means, covariances, opacities, sh, antialiased, limit and growth of the sample), arrays flat; `out` is
    (records, depths, boxes, bases, counts): a survivor's float32 record, its depth, the tiles its box touches; where
    the segment of a chunk begins, and the number of survivors a chunk.
    """
    means, cov, opacities, sh, antialiased, limit, growth = scene
    records, depths, boxes, bases, counts = out
    total = opacities.shape[0]
    stride = sh.shape[0] // total
    width, height = camera[WIDTH], camera[HEIGHT]
    for chunk in range(span[0], span[1]):
        found = 0
        base = chunk * CHUNK
        for i in range(base, min(base + CHUNK, total)):
            if not _is_drawn(np.int64(i), limit):
                continue
            mx, my, mz = np.float64(means[3 * i]), np.float64(means[3 * i + 1]), np.float64(means[3 * i + 2])
            z = camera[6] * mx + camera[7] * my + camera[8] * mz + camera[11]
            if not (z >= camera[NEAR] and z <= camera[FAR]):
                continue
            x = camera[0] * mx + camera[1] * my + camera[2] * mz + camera[9]
            y = camera[3] * mx + camera[4] * my + camera[5] * mz + camera[10]
            xx, xy, yy = _footprint(camera, cov, i, x, y, z)
            xx, xy, yy = growth * xx, growth * xy, growth * yy
            sharp = xx * yy - xy * xy
            xx += camera[BLUR]
            yy += camera[BLUR]
            blurred = xx * yy - xy * xy
            if not (blurred > 0.0 and yy > 0.0):
                continue
            opacity = np.float64(opacities[i])
            if antialiased:
                opacity *= max(camera[FLOOR], math.sqrt(max(0.0, sharp / blurred)))
            if not opacity >= camera[THRESHOLD]:
                continue
            reach = 2.0 * math.log(opacity / camera[THRESHOLD])
            radius_x, radius_y = math.sqrt(reach * xx) * 1.00001 + 1e-3, math.sqrt(reach * yy) * 1.00001 + 1e-3
            px, py = camera[FX] * x / z + camera[CX], camera[FY] * y / z + camera[CY]
            left, right = max(px - radius_x, 0.5), min(px + radius_x, width - 0.5)
            top, bottom = max(py - radius_y, 0.5), min(py + radius_y, height - 0.5)
            if not (left <= right and top <= bottom):
                continue
            dx, dy, dz = mx - camera[POSITION], my - camera[POSITION + 1], mz - camera[POSITION + 2]
            inverse = 1.0 / max(math.sqrt(dx * dx + dy * dy + dz * dz), 1e-30)
            dx, dy, dz = np.float32(dx * inverse), np.float32(dy * inverse), np.float32(dz * inverse)
            at = bases[chunk] + found
            r = RECORD * at
            records[r + X] = px
            records[r + Y] = py
            records[r + SHEAR] = xy / yy
            records[r + ACROSS] = -0.0625 * LOG2_E * yy / blurred
            records[r + DOWN] = -0.0625 * LOG2_E / yy
            records[r + OFFSET] = 0.125 * math.log2(opacity)
            records[r + RED] = max(_colour(sh, i * stride, degree, dx, dy, dz, 0), 0.0)
            records[r + GREEN] = max(_colour(sh, i * stride, degree, dx, dy, dz, 1), 0.0)
            records[r + BLUE] = max(_colour(sh, i * stride, degree, dx, dy, dz, 2), 0.0)
            records[r + DEPTH] = z
            records[r + RADIUS_X] = radius_x
            records[r + RADIUS_Y] = radius_y
            depths[at] = z
            columns = int(right) // TILE_WIDTH - int(left) // TILE_WIDTH + 1
            boxes[at] = columns * (int(bottom) // TILE_HEIGHT - int(top) // TILE_HEIGHT + 1)
            found += 1
        counts[chunk] = found
