"""The shapes of made scenes: surfaces sampled evenly, with normals, colours and a little shade."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Surface: TypeAlias = Callable[[Array, Array], Array]

CENTRE = (0.0, -0.5, 0.0)
_GRID = 256


@dataclass(slots=True)
class Points:
    """Surface samples before they become splats."""

    positions: Array  # [n, 3]
    normals: Array  # [n, 3] unit
    colours: Array  # [n, 3] of the material, 0..1
    size: float  # radius of a splat
    gloss: float = 0.25
    shade: Array | None = None  # [n] light that reaches the point, 0..1


def _sample(rng: np.random.Generator, surface: Surface, count: int) -> tuple[Array, Array, Array, Array, float]:
    """Area-uniform samples of a surface over [0, 1]^2: positions, unit normals, u, v and a splat radius that covers."""
    edge = (np.arange(_GRID) + 0.5) / _GRID
    u, v = (axis.reshape(-1) for axis in np.meshgrid(edge, edge, indexing="ij"))
    area = np.linalg.norm(_cross(surface, u, v), axis=1)
    cumulative = np.cumsum(area)
    picks = (np.arange(count) + rng.random(count)) / count * cumulative[-1]
    cell = np.minimum(np.searchsorted(cumulative, picks), len(area) - 1)
    u = np.clip(u[cell] + (rng.random(count) - 0.5) / _GRID, 1e-6, 1 - 1e-6)
    v = np.clip(v[cell] + (rng.random(count) - 0.5) / _GRID, 1e-6, 1 - 1e-6)
    normals = _cross(surface, u, v)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return surface(u, v), normals, u, v, math.sqrt(area.mean() / count) * 0.8


def _cross(surface: Surface, u: Array, v: Array) -> Array:
    step = 1e-4
    along_u = (surface(u + step, v) - surface(u - step, v)) / (2 * step)
    along_v = (surface(u, v + step) - surface(u, v - step)) / (2 * step)
    return np.cross(along_u, along_v)


def _palette(rng: np.random.Generator, steps: int = 5) -> Array:
    """Colours [steps, 3] that go together: a slow turn of hue (cosine palette), deep to light."""
    phase = rng.random() + np.array([0.0, 0.22, 0.42]) * rng.choice([1.0, -1.0])
    t = np.linspace(0.0, 1.0, steps)[:, None]
    colours = 0.5 + 0.42 * np.cos(2 * math.pi * (0.75 * t + phase))
    palette: Array = np.clip(colours * (0.55 + 0.5 * t), 0.03, 0.97)
    return palette


def blend(palette: Array, t: Array) -> Array:
    """Colours [n, 3] along a palette; t in 0..1 is clipped."""
    at = np.clip(t, 0, 1) * (len(palette) - 1)
    low = np.minimum(at.astype(int), len(palette) - 2)
    share = (at - low)[:, None]
    colours: Array = palette[low] * (1 - share) + palette[low + 1] * share
    return colours


def _noise(rng: np.random.Generator, points: Array, frequency: float, octaves: int = 4) -> Array:
    """Smooth noise in about -1..1: sums of randomly turned sines, each octave finer and fainter."""
    total = np.zeros(len(points))
    for octave in range(octaves):
        for _ in range(3):
            direction = rng.normal(0, 1, points.shape[1])
            direction *= frequency * 2**octave / np.linalg.norm(direction)
            total += np.sin(points @ direction + rng.uniform(0, 2 * math.pi)) * 0.5**octave
    return total / 3


def _knot(rng: np.random.Generator, count: int) -> list[Points]:
    p, q = [(2, 3), (3, 2), (2, 5), (3, 4)][int(rng.integers(4))]
    tube = 0.17 if q < 5 and p < 3 else 0.115

    def centre(u: Array) -> Array:
        a = 2 * math.pi * u
        r = 0.52 + 0.2 * np.cos(q * a)
        return np.stack([r * np.cos(p * a), -0.5 + 0.3 * np.sin(q * a), r * np.sin(p * a)], 1)

    def surface(u: Array, v: Array) -> Array:
        tangent = centre(u + 1e-4) - centre(u - 1e-4)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        side = np.cross(tangent, [0.0, 1.0, 0.0])
        side /= np.linalg.norm(side, axis=1, keepdims=True)
        b = 2 * math.pi * v
        placed: Array = centre(u) + tube * (np.cos(b)[:, None] * side + np.sin(b)[:, None] * np.cross(side, tangent))
        return placed

    positions, normals, u, v, size = _sample(rng, surface, count)
    outward = positions - centre(u)
    normals *= np.sign((normals * outward).sum(1))[:, None]
    wave = 0.5 + 0.5 * np.sin(2 * math.pi * (18 * u + 2 * v))
    colours = blend(_palette(rng), u * 0.6 + 0.4 * (wave > 0.72))
    return [Points(positions, normals, colours, size, gloss=0.55)]


def _shell(rng: np.random.Generator, count: int) -> list[Points]:
    """A nautilus: a tube whose radius and distance from the axis grow threefold a turn, so that whorls touch."""
    turns = float(rng.uniform(2.3, 2.7))
    facing = math.radians(45 + float(rng.uniform(-25, 25)))
    side, axis = np.array([math.sin(facing), 0, -math.cos(facing)]), np.array([math.cos(facing), 0, math.sin(facing)])

    def centre(u: Array) -> Array:
        a = 2 * math.pi * turns * u + 0.9
        reach = 0.5 * 3.0 ** (turns * (u - 1))
        return np.outer(reach * np.cos(a), side) + np.outer(reach * np.sin(a), [0, -1, 0]) + [0, -0.45, 0]

    def surface(u: Array, v: Array) -> Array:
        a, b = 2 * math.pi * turns * u + 0.9, 2 * math.pi * v
        tube = 0.5 * 3.0 ** (turns * (u - 1)) * 0.5 * (1 + 0.02 * np.sin(2 * math.pi * 34 * turns * u / 2))
        outward = np.outer(np.cos(a), side) + np.outer(np.sin(a), [0, -1, 0])
        placed: Array = centre(u) + tube[:, None] * (np.cos(b)[:, None] * outward + 0.85 * np.sin(b)[:, None] * axis)
        return placed

    positions, normals, u, v, size = _sample(rng, surface, count)
    normals *= np.sign((normals * (positions - centre(u))).sum(1))[:, None]
    rim = 0.5 + 0.5 * np.cos(2 * math.pi * v)  # 1 on the back of the tube, 0 towards the axis
    flames = np.sin(2 * math.pi * 7 * turns * u + 3.0 * rim + 0.8 * _noise(rng, positions, 7.0))
    cream = np.array([[0.95, 0.91, 0.84], [0.94, 0.8, 0.66], [0.76, 0.4, 0.25], [0.45, 0.18, 0.14]])
    mixed = 0.7 * cream + 0.3 * _palette(rng, 4)
    colours = blend(mixed, 0.08 + 0.85 * np.clip(3 * flames - 0.6, 0, 1) * np.clip(1.5 * rim - 0.25, 0, 1))
    return [Points(positions, normals, colours, size, gloss=0.45, shade=0.45 + 0.55 * rim)]


def _planet(rng: np.random.Generator, count: int) -> list[Points]:
    def sphere(u: Array, v: Array) -> Array:
        a, b = 2 * math.pi * u, math.pi * v
        ball: Array = np.stack([np.sin(b) * np.cos(a), np.cos(b), np.sin(b) * np.sin(a)], 1) * 0.55
        return ball

    tilt = math.radians(float(rng.uniform(15, 28)))
    turn = np.array([[math.cos(tilt), -math.sin(tilt), 0], [math.sin(tilt), math.cos(tilt), 0], [0, 0, 1]])

    def ring(u: Array, v: Array) -> Array:
        a, r = 2 * math.pi * u, 0.74 + 0.36 * v
        return np.stack([r * np.cos(a), 0 * a, r * np.sin(a)], 1)

    palette = _palette(rng, 6)
    on_ring = count * 28 // 100
    body, _, _, v, size = _sample(rng, sphere, count - on_ring)
    swirl = 0.09 * _noise(rng, body * [1, 2.2, 1], 5.0, 5) + 0.05 * _noise(rng, body, 14.0, 3)
    bands = 0.5 + 0.5 * np.sin(2 * math.pi * 4.5 * (v + swirl)) * np.cos(3 * v + 9 * swirl)
    dust, ring_normals, _, across, ring_size = _sample(rng, ring, on_ring)
    gaps = 0.5 + 0.5 * np.sin(2 * math.pi * 5 * across + 1.5 * np.sin(11 * across))
    centre = np.array(CENTRE)
    return [
        Points(body @ turn.T + centre, body / 0.55 @ turn.T, blend(palette, bands), size, 0.3),
        Points(dust @ turn.T + centre, -ring_normals @ turn.T, blend(palette, 0.35 + 0.6 * gaps), ring_size, 0.1),
    ]


def _terrain(rng: np.random.Generator, count: int) -> list[Points]:
    phase = rng.uniform(0, 100, 2)
    seeds = int(rng.integers(1 << 30))

    def height(xz: Array) -> Array:
        own = np.random.default_rng(seeds)
        ridge = 1 - np.abs(_noise(own, xz + phase, 3.2, 6))
        radius = np.linalg.norm(xz, axis=1)
        level: Array = (0.62 * ridge**2 - 0.05) * np.exp(-((radius / 0.72) ** 4)) - 0.12 * radius**2
        return level

    def land(u: Array, v: Array) -> Array:
        a, r = 2 * math.pi * u, np.sqrt(np.clip(v, 0, 1)) * 0.9
        xz = np.stack([r * np.cos(a), r * np.sin(a)], 1)
        return np.stack([xz[:, 0], -height(xz) - 0.1, xz[:, 1]], 1)

    positions, normals, _, _, size = _sample(rng, land, count * 8 // 10)
    normals *= -np.sign(normals[:, 1:2])
    up = -positions[:, 1] - 0.1
    steep = 1 + normals[:, 1]
    stops = np.array(
        [[0.80, 0.72, 0.50], [0.36, 0.52, 0.22], [0.18, 0.37, 0.17], [0.42, 0.38, 0.34], [0.94, 0.95, 0.98]]
    )
    tone = up * 2.3 + 0.06 * _noise(rng, positions, 20.0)
    colours = blend(stops, tone)
    rock = np.clip((steep - 0.22) * 4, 0, 1)[:, None] * (tone < 0.92)[:, None]
    colours = colours * (1 - rock) + rock * np.array([0.36, 0.31, 0.28])
    sea = count - len(positions)
    radius, angle = np.sqrt(rng.random(sea)) * 1.06, rng.random(sea) * 2 * math.pi
    level = -0.1 - 0.035 + 0.004 * np.sin(radius * 60)
    water = np.stack([radius * np.cos(angle), level, radius * np.sin(angle)], 1)
    upward = np.stack([0.1 * np.cos(radius * 60), -np.ones(sea), 0.1 * np.sin(angle * 40)], 1)
    upward /= np.linalg.norm(upward, axis=1, keepdims=True)
    depth = np.clip(radius - 0.55, 0, 0.5)[:, None] * 2
    blue = (1 - depth) * np.array([0.12, 0.52, 0.55]) + depth * np.array([0.03, 0.16, 0.36])
    return [
        Points(positions, normals, colours, size, gloss=0.03),
        Points(water, upward, blue, math.sqrt(math.pi * 1.06**2 / sea) * 0.8, gloss=0.7),
    ]


def _lattice(rng: np.random.Generator, count: int) -> list[Points]:
    wave = float(rng.uniform(9.0, 12.0))

    def field(p: Array) -> tuple[Array, Array]:
        """The gyroid and its gradient."""
        s, c = np.sin(wave * p), np.cos(wave * p)
        value = s[:, 0] * c[:, 1] + s[:, 1] * c[:, 2] + s[:, 2] * c[:, 0]
        slope = wave * np.stack(
            [
                c[:, 0] * c[:, 1] - s[:, 2] * s[:, 0],
                c[:, 1] * c[:, 2] - s[:, 0] * s[:, 1],
                c[:, 2] * c[:, 0] - s[:, 1] * s[:, 2],
            ],
            1,
        )
        return value, slope

    points = rng.uniform(-0.68, 0.68, (3 * count, 3))
    for _ in range(6):
        value, slope = field(points)
        points = points - (value / np.maximum((slope * slope).sum(1), 1.0))[:, None] * slope
    radius = np.linalg.norm(points, axis=1)
    points = points[(radius < 0.66) & (np.abs(field(points)[0]) < 0.01)][:count]
    normals = field(points)[1]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    radius = np.linalg.norm(points, axis=1)
    colours = blend(_palette(rng), 0.15 + 1.1 * radius + 0.1 * _noise(rng, points, 4.0))
    shade = np.clip(0.25 + 0.75 * (radius / 0.66) ** 2, 0, 1)
    area = 4 / 3 * math.pi * 0.66**3 * wave * 0.49  # a gyroid has 3.09 of area in a cell of side 2 pi / wave
    size = math.sqrt(area / max(len(points), 1)) * 0.8
    return [Points(points + CENTRE, normals, colours, size, 0.45, shade)]


def _flower(rng: np.random.Generator, count: int) -> list[Points]:
    petals = int(rng.integers(44, 60))
    palette = _palette(rng)
    golden = math.pi * (3 - math.sqrt(5))
    order = np.arange(petals)
    length = 0.36 + 0.5 * (order / petals) ** 0.8
    lift = np.radians(88 - 70 * (order / petals) ** 0.9)
    which = rng.choice(petals, count, p=length**2 / (length**2).sum())
    along, across = np.sqrt(rng.random(count)), rng.uniform(-1, 1, count)
    out, normals = _petal(along, across, length[which], lift[which])
    angle = golden * which
    cos, sin = np.cos(angle), np.sin(angle)

    def turned(p: Array) -> Array:
        return np.stack([p[:, 0] * cos - p[:, 2] * sin, p[:, 1], p[:, 0] * sin + p[:, 2] * cos], 1)

    tone = 0.2 + 0.45 * along + 0.3 * which / petals + 0.05 * np.cos(14 * across)
    shade = np.clip(0.45 + 0.75 * along, 0, 1) * (0.85 + 0.15 * which / petals)
    size = math.sqrt(0.62 * float((length**2).sum()) / count) * 0.75
    return [Points(turned(out) + np.array([0, 0.12, 0]), turned(normals), blend(palette, tone), size, 0.2, shade)]


def _petal(along: Array, across: Array, length: Array, lift: Array) -> tuple[Array, Array]:
    """Positions and normals of points on petals that leave the axis to +x; `lift` is the angle to the ground."""

    def place(a: Array, c: Array) -> Array:
        width = 0.3 * length * np.sin(math.pi * np.clip(a, 0, 1) ** 0.75) ** 0.8
        bend = lift - 0.3 + 0.35 * a**2
        rise = 0.22 * width * c**2
        return np.stack(
            [0.05 + length * a * np.cos(bend) - rise * np.sin(bend), -length * a * np.sin(bend) - rise, width * c], 1
        )

    along = np.clip(along, 0.01, 0.99)
    step = 1e-3
    normals = np.cross(
        place(along, across + step) - place(along, across - step),
        place(along + step, across) - place(along - step, across),
    )
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return place(along, across), normals * np.where(normals[:, 1:2] > 0, -1, 1)


SHAPES: dict[str, Callable[[np.random.Generator, int], list[Points]]] = {
    "knot": _knot,
    "shell": _shell,
    "planet": _planet,
    "terrain": _terrain,
    "lattice": _lattice,
    "flower": _flower,
}
