"""The truth in float64: no tiles, no tables, one splat after the other over its pixels; slow on purpose.

Semantics are gsplat 1.5.3's forward pass (`cuda/csrc`: projection, spherical harmonics, rasterize_to_pixels).
A splat is looked at only where it could reach the alpha threshold, which changes no pixel: elsewhere it is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from renderer.camera import Camera
from renderer.constants import SH_C0, SH_C1, SH_C2, SH_C3, Constants
from renderer.rasterizer import Frame
from renderer.sample import is_drawn, sample_of
from renderer.splats import Splats, coefficients

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Projected:
    """Splats that the camera can see, nearest first; ties keep the order of the file."""

    centres_px: Float64  # [M, 2]
    covariances_px2: Float64  # [M, 2, 2], blur included
    opacities: Float64  # [M]
    colours: Float64  # [M, 3]
    depths: Float64  # [M]


def rasterize(
    splats: Splats,
    camera: Camera,
    background: tuple[float, float, float],
    sh_degree: int | None,
    layers: frozenset[str],
    constants: Constants,
) -> Frame:
    """Render one frame in float64 and return it as float32."""
    rgb, alpha, depth = render(splats, camera, background, sh_degree, constants)
    wanted = depth.astype(np.float32) if "depth" in layers else None
    return Frame(rgb.astype(np.float32), alpha.astype(np.float32), wanted)


def render(
    splats: Splats,
    camera: Camera,
    background: tuple[float, float, float],
    sh_degree: int | None,
    constants: Constants,
) -> tuple[Float64, Float64, Float64]:
    """(rgb [h, w, 3], alpha [h, w], expected depth [h, w]) before any rounding."""
    seen = project(splats, camera, sh_degree, constants)
    size = (camera.height, camera.width)
    transmittance, rgb, depth = np.ones(size), np.zeros((*size, 3)), np.zeros(size)
    alive = np.ones(size, bool)
    for i in range(len(seen.depths)):
        window = _window(seen, i, camera, constants)
        if window is None:
            continue
        alpha = _alpha(seen, i, window, constants)
        through = transmittance[window]
        next_through = through * (1 - alpha)
        hit = alive[window] & (alpha >= constants.alpha_threshold)
        ends = hit & (next_through <= constants.transmittance_stop)
        alive[window] &= ~ends
        weight = np.where(hit & ~ends, alpha * through, 0.0)
        rgb[window] += weight[..., None] * seen.colours[i]
        depth[window] += weight * seen.depths[i]
        transmittance[window] = np.where(hit & ~ends, next_through, through)
    alpha = 1 - transmittance
    rgb += transmittance[..., None] * np.asarray(background, np.float64)
    return rgb, alpha, np.divide(depth, alpha, out=np.zeros(size), where=alpha > 0)


def project(splats: Splats, camera: Camera, sh_degree: int | None, constants: Constants) -> Projected:
    """Cull by depth, project by the local affine approximation (EWA), colour, and sort."""
    in_camera = splats.means.astype(np.float64) @ camera.view[:3, :3].T + camera.view[:3, 3]
    depths = in_camera[:, 2]
    in_range = (depths >= camera.near) & (depths <= camera.far)
    sample = sample_of(splats.count, splats.budget)
    keep = np.flatnonzero(in_range & is_drawn(np.arange(splats.count), sample.limit))
    in_camera, depths = in_camera[keep], depths[keep]
    sharp = sample.growth * _project_covariances(splats, keep, in_camera, camera, constants)
    blurred = sharp + constants.blur_px2 * np.eye(2)
    opacities = splats.opacities[keep].astype(np.float64)
    if splats.antialiased:
        ratio = np.maximum(np.linalg.det(sharp) / np.linalg.det(blurred), constants.compensation_floor**2)
        opacities = opacities * np.sqrt(ratio)
    centres = in_camera[:, :2] / depths[:, None] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    visible = np.flatnonzero((opacities >= constants.alpha_threshold) & (np.linalg.det(blurred) > 0))
    # Every rasterizer sorts by the bits of a float32 depth.
    order = visible[np.argsort(depths[visible].astype(np.float32), kind="stable")]
    colours = _colours(splats, keep[order], camera, sh_degree)
    return Projected(centres[order], blurred[order], opacities[order], colours, depths[order])


def _project_covariances(
    splats: Splats, keep: NDArray[np.intp], in_camera: Float64, camera: Camera, constants: Constants
) -> Float64:
    """J W (R S S R^T) W^T J^T [M, 2, 2], J at a point clamped to the widened frustum."""
    w, x, y, z = splats.quaternions[keep].astype(np.float64).T
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    half = camera.view[:3, :3] @ rotation * splats.scales[keep].astype(np.float64)[:, None, :]
    margin_x = constants.frustum_margin * 0.5 * camera.width / camera.fx
    margin_y = constants.frustum_margin * 0.5 * camera.height / camera.fy
    depths = in_camera[:, 2]
    slope_x = np.clip(
        in_camera[:, 0] / depths, -camera.cx / camera.fx - margin_x, (camera.width - camera.cx) / camera.fx + margin_x
    )
    slope_y = np.clip(
        in_camera[:, 1] / depths, -camera.cy / camera.fy - margin_y, (camera.height - camera.cy) / camera.fy + margin_y
    )
    jacobian = np.zeros((len(keep), 2, 3))
    jacobian[:, 0, 0] = camera.fx / depths
    jacobian[:, 0, 2] = -camera.fx * slope_x / depths
    jacobian[:, 1, 1] = camera.fy / depths
    jacobian[:, 1, 2] = -camera.fy * slope_y / depths
    flat = jacobian @ half
    product: Float64 = flat @ flat.transpose(0, 2, 1)
    return product


def _colours(splats: Splats, keep: NDArray[np.intp], camera: Camera, sh_degree: int | None) -> Float64:
    degree = splats.sh_degree if sh_degree is None else min(sh_degree, splats.sh_degree)
    directions = splats.means[keep].astype(np.float64) - camera.position
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    directions /= np.where(length > 0, length, 1)
    basis = np.stack(list(_basis(degree, *directions.T)), axis=1)
    colours = np.einsum("nk,nkc->nc", basis, splats.sh[keep, : coefficients(degree)].astype(np.float64))
    clamped: Float64 = np.maximum(colours + 0.5, 0.0)
    return clamped


def _basis(degree: int, x: Float64, y: Float64, z: Float64) -> Iterator[Float64]:
    yield np.full_like(x, SH_C0)
    if degree >= 1:
        yield from (-SH_C1 * y, SH_C1 * z, -SH_C1 * x)
    if degree >= 2:
        polynomials = (x * y, y * z, 2 * z * z - x * x - y * y, x * z, x * x - y * y)
        yield from (c * p for c, p in zip(SH_C2, polynomials, strict=True))
    if degree >= 3:
        polynomials_3 = (
            y * (3 * x * x - y * y),
            x * y * z,
            y * (4 * z * z - x * x - y * y),
            z * (2 * z * z - 3 * x * x - 3 * y * y),
            x * (4 * z * z - x * x - y * y),
            z * (x * x - y * y),
            x * (x * x - 3 * y * y),
        )
        yield from (c * p for c, p in zip(SH_C3, polynomials_3, strict=True))


def _window(seen: Projected, i: int, camera: Camera, constants: Constants) -> tuple[slice, slice] | None:
    """Rows and columns where splat `i` can reach the threshold, one pixel wider."""
    reach = math.sqrt(2 * math.log(seen.opacities[i] / constants.alpha_threshold))
    slices = []
    for axis, size in ((1, camera.height), (0, camera.width)):
        radius = reach * math.sqrt(seen.covariances_px2[i, axis, axis]) + 1
        low = max(0.0, seen.centres_px[i, axis] - radius)
        high = min(float(size), seen.centres_px[i, axis] + radius)
        if not low < high:
            return None
        slices.append(slice(math.floor(low), math.ceil(high)))
    return slices[0], slices[1]


def _alpha(seen: Projected, i: int, window: tuple[slice, slice], constants: Constants) -> Float64:
    rows, columns = window
    dy = np.arange(rows.start, rows.stop)[:, None] + 0.5 - seen.centres_px[i, 1]
    dx = np.arange(columns.start, columns.stop)[None, :] + 0.5 - seen.centres_px[i, 0]
    (xx, xy), (_, yy) = seen.covariances_px2[i]
    # 0.5 d^T C^-1 d with the square completed: thin, long splats keep their digits.
    across = xx - xy * xy / yy
    sigma = 0.5 * ((dx - xy / yy * dy) ** 2 / across + dy * dy / yy)
    alpha: Float64 = np.minimum(constants.alpha_cap, seen.opacities[i] * np.exp(-sigma))
    return alpha
