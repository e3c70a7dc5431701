"""Seeded splat objects that are good to look at, for demos and tests that have no scenes of their own.

Scenes are y-down like trained ones. Every object stands over a round floor, about (0, -0.5, 0) and within
1.2 of it, so that one orbit shows any of them.
"""

from __future__ import annotations

import math

import numpy as np

from renderer.constants import SH_C0, SH_C1, SH_C2
from renderer.made_shapes import CENTRE, SHAPES, Array, Points, blend
from renderer.splats import Splats, make_splats

TARGET = CENTRE
EYE = (1.9, -1.5, 1.9)
UP = (0.0, -1.0, 0.0)
_LIGHT = np.array([0.45, -0.8, 0.4]) / np.linalg.norm([0.45, -0.8, 0.4])  # towards the lamp; y is down
_FLOOR_Y = 0.32


def make(shape: str, gaussians: int, seed: int = 0) -> Splats:
    """An object of about 85 % of the `gaussians` over a floor; the same arguments give the same bytes.

    Raises ValueError for a shape that is not in SHAPES or for fewer than 200 Gaussians.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape is {shape!r}, expected one of {', '.join(SHAPES)}")
    if not 200 <= gaussians <= 5_000_000:
        raise ValueError(f"gaussians is {gaussians}, expected 200 to 5,000,000")
    rng = np.random.default_rng([seed, sorted(SHAPES).index(shape)])
    on_floor = gaussians * 15 // 100
    parts = SHAPES[shape](rng, gaussians - on_floor)
    floor = _floor(rng, on_floor, np.concatenate([part.positions for part in parts]))
    return _splats(rng, [*parts, floor])


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


def _splats(rng: np.random.Generator, parts: list[Points]) -> Splats:
    """Flat splats that lie on their surfaces, lit once, with the highlight of the lamp in the SH bands."""
    positions = np.concatenate([part.positions for part in parts])
    normals = np.concatenate([part.normals for part in parts])
    size = np.concatenate([np.full(len(part.positions), part.size) for part in parts])
    size = size[:, None] * np.exp(rng.normal(0, 0.12, (len(size), 1)))
    scales = np.concatenate([size, size, 0.15 * size], axis=1)
    sh = np.concatenate([_lit(part) for part in parts])
    opacities = rng.uniform(0.86, 0.985, len(positions))
    order = rng.permutation(len(positions))  # a prefix of the file is a sketch of the whole
    return make_splats(
        *(array[order].astype(np.float32) for array in (positions, _facing(normals), scales, opacities, sh))
    )


def _lit(part: Points) -> Array:
    """SH coefficients [n, 9, 3]: sky and lamp in the constant, the lamp's mirror image in bands 1 and 2."""
    facing = part.normals @ _LIGHT
    shade = np.ones(len(facing)) if part.shade is None else part.shade
    sky = 0.5 - 0.5 * part.normals[:, 1]
    light = (0.22 + 0.3 * sky + 0.62 * np.maximum(facing, 0)) * (0.35 + 0.65 * shade)
    base = part.colours * light[:, None]
    mirrored = 2 * facing[:, None] * part.normals - _LIGHT
    strength = part.gloss * shade * np.clip(0.3 + facing, 0, 1)
    lobe = _bands(-mirrored) * np.array([0.35] + [0.55] * 3 + [0.42] * 5)
    sh = np.repeat((lobe * strength[:, None])[:, :, None], 3, axis=2)
    sh[:, 0] += (base - 0.5) / SH_C0
    return sh


def _bands(directions: Array) -> Array:
    """Real spherical harmonics [n, 9] of unit directions."""
    x, y, z = directions.T
    second = (x * y, y * z, 2 * z * z - x * x - y * y, x * z, x * x - y * y)
    return np.stack(
        [
            np.full_like(x, SH_C0),
            -SH_C1 * y,
            SH_C1 * z,
            -SH_C1 * x,
            *(c * p for c, p in zip(SH_C2, second, strict=True)),
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
