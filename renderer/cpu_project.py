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

C0, C1 = np.float32(SH_C0), np.float32(SH_C1)
C2, C3 = tuple(np.float32(value) for value in SH_C2), tuple(np.float32(value) for value in SH_C3)
HALF, TWO, THREE, FOUR = (np.float32(value) for value in (0.5, 2, 3, 4))
LN_2 = math.log(2)


@kernel()
def _colour(sh: Any, at: int, degree: int, x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
    """SH + 0.5 of (red, green, blue), not yet clamped; (x, y, z) is the unit direction of view. All of it float32."""
    red, green, blue = C0 * sh[at] + HALF, C0 * sh[at + 1] + HALF, C0 * sh[at + 2] + HALF
    if degree >= 1:
        for place, basis in ((3, -C1 * y), (6, C1 * z), (9, -C1 * x)):
            k = at + place
            red, green, blue = red + basis * sh[k], green + basis * sh[k + 1], blue + basis * sh[k + 2]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        for place, basis in (
            (12, C2[0] * x * y),
            (15, C2[1] * y * z),
            (18, C2[2] * (TWO * zz - xx - yy)),
            (21, C2[3] * x * z),
            (24, C2[4] * (xx - yy)),
        ):
            k = at + place
            red, green, blue = red + basis * sh[k], green + basis * sh[k + 1], blue + basis * sh[k + 2]
        if degree >= 3:
            for place, basis in (
                (27, C3[0] * y * (THREE * xx - yy)),
                (30, C3[1] * x * y * z),
                (33, C3[2] * y * (FOUR * zz - xx - yy)),
                (36, C3[3] * z * (TWO * zz - THREE * xx - THREE * yy)),
                (39, C3[4] * x * (FOUR * zz - xx - yy)),
                (42, C3[5] * z * (xx - yy)),
                (45, C3[6] * x * (xx - THREE * yy)),
            ):
                k = at + place
                red, green, blue = red + basis * sh[k], green + basis * sh[k + 1], blue + basis * sh[k + 2]
    return red, green, blue


@kernel()
def _footprint(cov: Any, c: int, u: Any, v: Any) -> tuple[float, float, float]:
    """(xx, xy, yy) of the 2D covariance before the blur: J W C W^T J^T, u and v the rows of J W, C from c on."""
    ux, uy, uz = u
    vx, vy, vz = v
    ax = cov[c] * ux + cov[c + 1] * uy + cov[c + 2] * uz
    ay = cov[c + 1] * ux + cov[c + 3] * uy + cov[c + 4] * uz
    az = cov[c + 2] * ux + cov[c + 4] * uy + cov[c + 5] * uz
    bx = cov[c] * vx + cov[c + 1] * vy + cov[c + 2] * vz
    by = cov[c + 1] * vx + cov[c + 3] * vy + cov[c + 4] * vz
    bz = cov[c + 2] * vx + cov[c + 4] * vy + cov[c + 5] * vz
    return ux * ax + uy * ay + uz * az, ux * bx + uy * by + uz * bz, vx * bx + vy * by + vz * bz


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
    # What every Gaussian needs is read once: LLVM cannot know that no record that is written lies in the camera.
    r00, r01, r02, r10, r11, r12 = camera[0], camera[1], camera[2], camera[3], camera[4], camera[5]
    r20, r21, r22, t0, t1, t2 = camera[6], camera[7], camera[8], camera[9], camera[10], camera[11]
    fx, fy, cx, cy, width, height = camera[FX], camera[FY], camera[CX], camera[CY], camera[WIDTH], camera[HEIGHT]
    near, far, blur, threshold, floor = camera[NEAR], camera[FAR], camera[BLUR], camera[THRESHOLD], camera[FLOOR]
    eye_x, eye_y, eye_z = camera[POSITION], camera[POSITION + 1], camera[POSITION + 2]
    log2_threshold = math.log2(threshold)
    # The slopes at which the Jacobian is taken end a margin outside the picture.
    margin_x, margin_y = camera[MARGIN] * 0.5 * width / fx, camera[MARGIN] * 0.5 * height / fy
    least_x, most_x = -cx / fx - margin_x, (width - cx) / fx + margin_x
    least_y, most_y = -cy / fy - margin_y, (height - cy) / fy + margin_y
    for chunk in range(span[0], span[1]):
        found = 0
        base = chunk * CHUNK
        for i in range(base, min(base + CHUNK, total)):
            if not _is_drawn(np.int64(i), limit):
                continue
            mx, my, mz = np.float64(means[3 * i]), np.float64(means[3 * i + 1]), np.float64(means[3 * i + 2])
            z = r20 * mx + r21 * my + r22 * mz + t2
            if not (z >= near and z <= far):
                continue
            per_z = 1.0 / z
            x, y = (r00 * mx + r01 * my + r02 * mz + t0) * per_z, (r10 * mx + r11 * my + r12 * mz + t1) * per_z
            # The rows of J W.
            slope_x, slope_y = min(most_x, max(least_x, x)), min(most_y, max(least_y, y))
            scale_x, scale_y = fx * per_z, fy * per_z
            ux, uy, uz = (
                scale_x * (r00 - slope_x * r20),
                scale_x * (r01 - slope_x * r21),
                scale_x * (r02 - slope_x * r22),
            )
            vx, vy, vz = (
                scale_y * (r10 - slope_y * r20),
                scale_y * (r11 - slope_y * r21),
                scale_y * (r12 - slope_y * r22),
            )
            xx, xy, yy = _footprint(cov, 6 * i, (ux, uy, uz), (vx, vy, vz))
            xx, xy, yy = growth * xx, growth * xy, growth * yy
            sharp = xx * yy - xy * xy
            xx += blur
            yy += blur
            blurred = xx * yy - xy * xy
            if not (blurred > 0.0 and yy > 0.0):
                continue
            opacity = np.float64(opacities[i])
            if antialiased:
                opacity *= max(floor, math.sqrt(max(0.0, sharp / blurred)))
            if not opacity >= threshold:
                continue
            log2_opacity = math.log2(opacity)
            reach = 2.0 * LN_2 * (log2_opacity - log2_threshold)
            radius_x, radius_y = math.sqrt(reach * xx) * 1.00001 + 1e-3, math.sqrt(reach * yy) * 1.00001 + 1e-3
            px, py = fx * x + cx, fy * y + cy
            left, right = max(px - radius_x, 0.5), min(px + radius_x, width - 0.5)
            top, bottom = max(py - radius_y, 0.5), min(py + radius_y, height - 0.5)
            if not (left <= right and top <= bottom):
                continue
            dx, dy, dz = mx - eye_x, my - eye_y, mz - eye_z
            inverse = 1.0 / max(math.sqrt(dx * dx + dy * dy + dz * dz), 1e-30)
            red, green, blue = _colour(
                sh, i * stride, degree, np.float32(dx * inverse), np.float32(dy * inverse), np.float32(dz * inverse)
            )
            per_yy = 1.0 / yy
            at = bases[chunk] + found
            r = RECORD * at
            records[r + X] = px
            records[r + Y] = py
            records[r + SHEAR] = xy * per_yy
            records[r + ACROSS] = -0.0625 * LOG2_E * yy / blurred
            records[r + DOWN] = -0.0625 * LOG2_E * per_yy
            records[r + OFFSET] = 0.125 * log2_opacity
            records[r + RED] = max(red, np.float32(0))
            records[r + GREEN] = max(green, np.float32(0))
            records[r + BLUE] = max(blue, np.float32(0))
            records[r + DEPTH] = z
            records[r + RADIUS_X] = radius_x
            records[r + RADIUS_Y] = radius_y
            depths[at] = z
            columns = int(right) // TILE_WIDTH - int(left) // TILE_WIDTH + 1
            boxes[at] = columns * (int(bottom) // TILE_HEIGHT - int(top) // TILE_HEIGHT + 1)
            found += 1
        counts[chunk] = found
