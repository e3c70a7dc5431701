"""Seeded splat objects that are good to look at, for demos and tests that have no scenes of their own.

Scenes are y-down like trained ones. Every object stands over a round floor, about (0, -0.5, 0) and within
1.2 of it, so that one orbit shows any of them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from renderer.constants import SH_C0, SH_C1, SH_C2, SH_C3
from renderer.made_shapes import CENTRE, SHAPES, Array, Points, blend
from renderer.splats import MAX_SH_DEGREE, Splats, coefficients, make_splats

TARGET = CENTRE
EYE = (1.9, -1.5, 1.9)
UP = (0.0, -1.0, 0.0)
_LIGHT = np.array([0.45, -0.8, 0.4]) / np.linalg.norm([0.45, -0.8, 0.4])  # towards the lamp; y is down
_FLOOR_Y = 0.32
_LOBE = np.repeat([0.35, 0.55, 0.42, 0.28], [1, 3, 5, 7])  # how much of each SH coefficient the highlight has
_BLOCK = 1 << 18  # Gaussians lit at a time, so that a large scene needs little beside itself


def make(shape: str, gaussians: int, seed: int = 0, sh_degree: int = 2) -> Splats:
    """An object of about 85 % of the `gaussians` over a floor; the same arguments give the same bytes.

    Raises ValueError for a shape that is not in SHAPES, for fewer than 200 Gaussians or an SH degree above 3.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape is {shape!r}, expected one of {', '.join(SHAPES)}")
    if not 200 <= gaussians <= 5_000_000:
        raise ValueError(f"gaussians is {gaussians}, expected 200 to 5,000,000")
    if not 0 <= sh_degree <= MAX_SH_DEGREE:
        raise ValueError(f"sh_degree is {sh_degree}, expected 0 to {MAX_SH_DEGREE}")
    rng = np.random.default_rng([seed, sorted(SHAPES).index(shape)])
    on_floor = gaussians * 15 // 100
    parts = SHAPES[shape](rng, gaussians - on_floor)
    floor = _floor(rng, on_floor, np.concatenate([part.positions for part in parts]))
    return _splats(rng, [*parts, floor], sh_degree)


def _floor(rng: np.random.Generator, count: int, over: Array) -> Points:
    """A pale disc with rings and the soft shadow of what stands over it."""
    radius = np.sqrt((np.arange(count) + rng.random(count)) / count) * 1.15
    angle = math.pi * (3 - math.sqrt(5)) * np.arange(count)
    positions = np.stack([radius * np.cos(angle), np.full(count, _FLOOR_Y), radius * np.sin(angle)], 1)
    fall = (_FLOOR_Y - over[:, 1]) / -_LIGHT[1]
    shadow, edges = np.histogramdd((over + fall[:, None] * -_LIGHT)[:, [0, 2]], bins=48, range=[(-1.2, 1.2)] * 2)
    for axis in (0, 1):
        for _ in range(6):
            shadow = (np.roll(shadow, 1, axis) + 2 * shadow + np.roll(shadow, -1, axis)) / 4
    shadow /= max(float(np.quantile(shadow, 0.97)), 1e-9)
    cell = [np.clip(np.digitize(positions[:, axis], edges[0]) - 1, 0, 47) for axis in (0, 2)]
    shade = 1 - 0.75 * np.clip(shadow[cell[0], cell[1]], 0, 1)
    rings = 0.5 + 0.5 * np.sign(np.sin(radius * 38))
    colours = blend(np.array([[0.49, 0.50, 0.55], [0.56, 0.57, 0.61]]), rings)
    normals = np.tile([0.0, -1.0, 0.0], (count, 1))
    return Points(positions, normals, colours, math.sqrt(math.pi * 1.15**2 / count) * 0.8, 0.15, shade)


def _splats(rng: np.random.Generator, parts: list[Points], sh_degree: int) -> Splats:
    """Flat splats that lie on their surfaces, lit once, with the highlight of the lamp in the SH bands."""
    positions = np.concatenate([part.positions for part in parts])
    count = len(positions)
    size = np.concatenate([np.full(len(part.positions), part.size) for part in parts])
    size = size[:, None] * np.exp(rng.normal(0, 0.12, (count, 1)))
    scales = np.concatenate([size, size, 0.15 * size], axis=1)
    opacities = rng.uniform(0.86, 0.985, count)
    order = rng.permutation(count)  # a prefix of the file is a sketch of the whole
    normals, sh = _lit(parts, order, sh_degree)
    return make_splats(
        positions[order].astype(np.float32),
        _facing(normals).astype(np.float32),
        scales[order].astype(np.float32),
        opacities[order].astype(np.float32),
        sh,
    )


def _lit(parts: list[Points], order: NDArray[np.int64], sh_degree: int) -> tuple[Array, NDArray[np.float32]]:
    """Normals [n, 3] and SH [n, K, 3] in that order: sky and lamp in the constant, the lamp's mirror image in all."""
    normals = np.concatenate([part.normals for part in parts])[order]
    colours = np.concatenate([part.colours for part in parts])[order]
    gloss = np.concatenate([np.full(len(part.normals), part.gloss) for part in parts])[order]
    full = [np.ones(len(part.normals)) if part.shade is None else part.shade for part in parts]
    shade = np.concatenate(full)[order]
    sh = np.empty((len(order), coefficients(sh_degree), 3), np.float32)
    for start in range(0, len(order), _BLOCK):
        rows = slice(start, start + _BLOCK)
        sh[rows] = _coefficients(normals[rows], colours[rows], gloss[rows], shade[rows])[:, : sh.shape[1]]
    return normals, sh


def _coefficients(normals: Array, colours: Array, gloss: Array, shade: Array) -> Array:
    """SH coefficients [n, 16, 3] of lit surfaces."""
    facing = normals @ _LIGHT
    sky = 0.5 - 0.5 * normals[:, 1]
    light = (0.22 + 0.3 * sky + 0.62 * np.maximum(facing, 0)) * (0.35 + 0.65 * shade)
    mirrored = 2 * facing[:, None] * normals - _LIGHT
    strength = gloss * shade * np.clip(0.3 + facing, 0, 1)
    sh = np.repeat((_bands(-mirrored) * _LOBE * strength[:, None])[:, :, None], 3, axis=2)
    sh[:, 0] += (colours * light[:, None] - 0.5) / SH_C0
    return sh


def _bands(directions: Array) -> Array:
    """Real spherical harmonics [n, 16] of unit directions."""
    x, y, z = directions.T
    xx, yy, zz = x * x, y * y, z * z
    second = (x * y, y * z, 2 * zz - xx - yy, x * z, xx - yy)
    third = (
        y * (3 * xx - yy),
        x * y * z,
        y * (4 * zz - xx - yy),
        z * (2 * zz - 3 * xx - 3 * yy),
        x * (4 * zz - xx - yy),
        z * (xx - yy),
        x * (xx - 3 * yy),
    )
    return np.stack(
        [
            np.full_like(x, SH_C0),
            -SH_C1 * y,
            SH_C1 * z,
            -SH_C1 * x,
            *(c * p for c, p in zip(SH_C2, second, strict=True)),
            *(c * p for c, p in zip(SH_C3, third, strict=True)),
        ],
        axis=1,
    )


def _facing(normals: Array) -> Array:
    """Quaternions wxyz [n, 4] that turn the z axis into each normal."""
    x, y, z = normals.T
    quaternions = np.stack([1 + z, -y, x, np.zeros_like(x)], axis=1)
    quaternions[z < -0.9999] = [0, 1, 0, 0]
    unit: Array = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    return unit
