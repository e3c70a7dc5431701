"""Small scenes and cameras made for tests: seeded, odd on purpose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from renderer.camera import Camera, look_at
from renderer.splats import Splats, coefficients, make_splats

SIZES = [(1, 1), (17, 31), (64, 64), (33, 16), (16, 32), (48, 65), (96, 40), (5, 70)]


def one_splat(
    mean: tuple[float, float, float] = (0.0, 0.0, 2.0),
    scale: float = 0.1,
    opacity: float = 0.6,
    colour: tuple[float, float, float] = (0.9, 0.5, 0.2),
) -> Splats:
    """A lone sphere of one colour."""
    return spheres([mean], [scale], [opacity], [colour])


def spheres(
    means: list[tuple[float, float, float]],
    scales: list[float],
    opacities: list[float],
    colours: list[tuple[float, float, float]],
) -> Splats:
    constant = (np.array(colours) - 0.5) / 0.28209479177387814
    return make_splats(
        np.array(means, np.float32),
        np.tile(np.array([1, 0, 0, 0], np.float32), (len(means), 1)),
        np.repeat(np.array(scales, np.float32)[:, None], 3, axis=1),
        np.array(opacities, np.float32),
        constant[:, None].astype(np.float32),
    )


def front_camera(width: int = 16, height: int = 16, focal: float = 20.0) -> Camera:
    """At the origin, looking along +z, off the centre of no pixel."""
    return Camera(np.eye(4), focal, focal, width / 2, height / 2, width, height)


def random_splats(rng: np.random.Generator, count: int, degree: int, antialiased: bool = False) -> Splats:
    """Splats around the origin: needles and pancakes, faint and opaque, large and sub-pixel."""
    size = np.exp(rng.uniform(-6, -0.7, (count, 1)) + rng.normal(0, 0.8, (count, 3)))
    sh = rng.normal(0, 0.15, (count, coefficients(degree), 3))
    sh[:, 0] = rng.uniform(-1.6, 1.6, (count, 3))
    return make_splats(
        rng.normal(0, 1.0, (count, 3)).astype(np.float32),
        rng.normal(0, 1.0, (count, 4)).astype(np.float32),
        size.astype(np.float32),
        rng.uniform(0.0, 1.0, count).astype(np.float32) ** 0.5,
        sh.astype(np.float32),
        antialiased,
    )


def random_camera(rng: np.random.Generator, width: int, height: int) -> Camera:
    """A view from anywhere, also from among the splats (some behind, some at the near plane), off-axis at times."""
    eye = rng.normal(0, 1, 3)
    eye *= rng.choice([0.05, 0.8, 2.5, 5.0]) / np.linalg.norm(eye)
    target = rng.normal(0, 0.3, 3)
    camera = look_at(tuple(eye), tuple(target), (0.1, -1.0, 0.2), float(rng.uniform(25, 100)), width, height)
    if rng.random() < 0.4:
        shift = rng.uniform(-0.6, 0.6, 2)
        focal_y = camera.fy * rng.uniform(0.7, 1.4)
        return Camera(
            camera.view, camera.fx, focal_y, width * (0.5 + shift[0]), height * (0.5 + shift[1]), width, height
        )
    return camera


def random_cases(count: int) -> Iterator[tuple[int, Splats, Camera]]:
    """The scenes on which the rasterizers have to agree."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        width, height = SIZES[seed % len(SIZES)]
        gaussians = int(math.exp(rng.uniform(0, math.log(300))))
        yield (
            seed,
            random_splats(rng, gaussians, seed % 4, antialiased=seed % 5 == 4),
            random_camera(rng, width, height),
        )


class Uncounted:
    """A pod's watcher that counts nothing."""

    def __getattr__(self, _event: str) -> Callable[..., None]:
        return lambda *_counted: None
