"""Small scenes with the oracle's pictures of them, committed: a machine with a GPU and little else can check itself.

`python -m benchmarks.oracle_vectors` makes the file anew; a test says whether that would change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renderer.camera import Camera, look_at
from renderer.constants import CONSTANTS, Constants
from renderer.oracle import render
from renderer.rasterizer import Rasterizer
from renderer.splats import Float32, Splats, coefficients, make_splats

FILE = Path(__file__).parent / "vectors" / "oracle.npz"
BACKGROUND = (0.1, 0.2, 0.3)
_SIZES = ((40, 32), (33, 17), (16, 48), (1, 1), (31, 31), (48, 24))
_PARTS = ("means", "quaternions", "scales", "opacities", "sh")


@dataclass(frozen=True, slots=True)
class Vector:
    """A scene, a view of it, and the truth."""

    name: str
    splats: Splats
    camera: Camera
    constants: Constants
    rgb: Float32  # [h, w, 3], over BACKGROUND
    alpha: Float32  # [h, w]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a rasterizer compares with one vector."""

    name: str
    psnr_db: float
    within_3_of_255: float  # share of the values


def load(constants: str) -> Iterator[Vector]:
    """The vectors of one set of constants."""
    with np.load(FILE) as stored:
        for number in range(int(stored["count"])):
            case = {part: stored[f"{number}-{part}"] for part in (*_PARTS, "camera", "size", "antialiased")}
            means, quaternions, scales, opacities, sh = (case[part] for part in _PARTS)
            splats = make_splats(means, quaternions, scales, opacities, sh, bool(case["antialiased"]))
            camera = _camera(case["camera"], (int(case["size"][0]), int(case["size"][1])))
            rgb, alpha = stored[f"{number}-{constants}-rgb"], stored[f"{number}-{constants}-alpha"]
            yield Vector(f"case {number}", splats, camera, CONSTANTS[constants], rgb, alpha)


def compare(rasterize: Rasterizer, vector: Vector) -> Agreement:
    """Draw the vector's view; the error is taken over colours and alpha."""
    frame = rasterize(vector.splats, vector.camera, BACKGROUND, None, frozenset({"rgb"}), vector.constants)
    error = np.concatenate([(frame.rgb - vector.rgb).reshape(-1), (frame.alpha - vector.alpha).reshape(-1)])
    squared = max(float(np.mean(error.astype(np.float64) ** 2)), 1e-12)
    return Agreement(vector.name, float(10 * np.log10(1 / squared)), float(np.mean(np.abs(error) <= 3 / 255)))


def make() -> dict[str, NDArray[Any]]:
    """What the file holds."""
    made: dict[str, NDArray[Any]] = {"count": np.array(2 * len(_SIZES))}
    for number in range(2 * len(_SIZES)):
        rng = np.random.default_rng(100 + number)
        splats = _scene(rng, 10 + 9 * number, number % 4, antialiased=number % 5 == 4)
        width, height = _SIZES[number % len(_SIZES)]
        eye = rng.normal(0, 1, 3)
        eye *= (0.6, 2.5, 4.0)[number % 3] / np.linalg.norm(eye)
        camera = look_at(tuple(eye), (0.0, 0.1, 0.0), (0.1, -1.0, 0.2), float(rng.uniform(30, 90)), width, height)
        values = np.array([camera.fx, camera.fy, camera.cx + 3 * (number % 2), camera.cy, *camera.view.reshape(-1)])
        camera = _camera(values, (width, height))
        given = {"camera": values, "size": np.array([width, height]), "antialiased": np.array(splats.antialiased)}
        made |= {f"{number}-{name}": value for name, value in given.items()}
        made |= {f"{number}-{part}": getattr(splats, part) for part in _PARTS}
        for name, constants in CONSTANTS.items():
            rgb, alpha, _ = render(splats, camera, BACKGROUND, None, constants)
            made[f"{number}-{name}-rgb"] = rgb.astype(np.float32)
            made[f"{number}-{name}-alpha"] = alpha.astype(np.float32)
    return made


def _camera(values: NDArray[Any], size: tuple[int, int]) -> Camera:
    fx, fy, cx, cy = (float(value) for value in values[:4])
    return Camera(np.array(values[4:]).reshape(4, 4), fx, fy, cx, cy, *size)


def _scene(rng: np.random.Generator, count: int, degree: int, antialiased: bool) -> Splats:
    size = np.exp(rng.uniform(-5, -0.8, (count, 1)) + rng.normal(0, 0.7, (count, 3)))
    sh = rng.normal(0, 0.15, (count, coefficients(degree), 3))
    sh[:, 0] = rng.uniform(-1.6, 1.6, (count, 3))
    parts = (rng.normal(0, 1, (count, 3)), rng.normal(0, 1, (count, 4)), size, rng.uniform(0.05, 1, count), sh)
    means, quaternions, scales, opacities, colours = (part.astype(np.float32) for part in parts)
    return make_splats(means, quaternions, scales, opacities, colours, antialiased)


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **make())
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")
