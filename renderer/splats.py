"""One scene's Gaussians as a structure of arrays, and the error of a file that cannot become one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32: TypeAlias = NDArray[np.float32]

MAX_SH_DEGREE = 3
MAX_GAUSSIANS = 200_000_000
MAX_COORDINATE = 1e7  # scene units; beyond it float32 has no sub-unit precision left
MAX_SCALE = 1e6  # scene units
MAX_COLOUR = 1e6  # of an SH coefficient: a trained one is below 100
_FLOATS_WITHOUT_SH = 3 + 4 + 3 + 1 + 6


class SceneFileError(Exception):
    """A scene file that cannot be used; one line that names the file, the field, its value and what is allowed."""

    def __init__(self, file: Path | str, field: str, value: object, limit: str) -> None:
        self.file = str(file)
        self.field = field
        self.value = value
        self.limit = limit
        shown = f"{self.file}: {field[:120]} is {' '.join(str(value).split())[:120]}; {limit}"
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown))


def coefficients(sh_degree: int) -> int:
    """Number of SH coefficients of a colour channel, the constant one included."""
    return (sh_degree + 1) ** 2


def resident_bytes(gaussians: int, sh_degree: int) -> int:
    """Bytes that a scene takes once loaded; exact, from its header alone."""
    return gaussians * 4 * (_FLOATS_WITHOUT_SH + 3 * coefficients(sh_degree))


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Splats:
    """Gaussians in scene coordinates; float32, C-contiguous and read-only (numba compiles for exactly that type)."""

    means: Float32  # [N, 3]
    quaternions: Float32  # [N, 4] wxyz, unit
    scales: Float32  # [N, 3] standard deviations, linear
    opacities: Float32  # [N] in 0..1
    sh: Float32  # [N, K, 3], K = (degree + 1)^2, the constant coefficient first
    covariances: Float32  # [N, 6] xx xy xz yy yz zz
    antialiased: bool = False  # trained with the mip filter: opacity is compensated for the 2D blur
    budget: int | None = None  # at most so many of them are drawn (renderer.sample)

    def __post_init__(self) -> None:
        count = self.means.shape[0]
        shapes = {"means": (3,), "quaternions": (4,), "scales": (3,), "opacities": (), "covariances": (6,)}
        for name, tail in shapes.items():
            _freeze(name, getattr(self, name), (count, *tail))
        known = {coefficients(degree) for degree in range(MAX_SH_DEGREE + 1)}
        if self.sh.ndim != 3 or self.sh.shape[1] not in known:
            raise ValueError(f"sh has shape {self.sh.shape}, expected [N, K, 3] with K of {sorted(known)}")
        _freeze("sh", self.sh, (count, self.sh.shape[1], 3))

    @property
    def count(self) -> int:
        return int(self.means.shape[0])

    @property
    def sh_degree(self) -> int:
        return math.isqrt(self.sh.shape[1]) - 1

    @property
    def nbytes(self) -> int:
        return resident_bytes(self.count, self.sh_degree)


def _freeze(name: str, array: Float32, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.float32 or not array.flags.c_contiguous:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, expected C-contiguous float32 {shape}")
    array.setflags(write=False)


def covariances_of(quaternions: Float32, scales: Float32) -> Float32:
    """Upper triangles R S S R^T [N, 6] of the 3D covariances; quaternions wxyz of unit length."""
    w, x, y, z = (quaternions[:, i] for i in range(4))
    rotation = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    variances = [scales[:, i] * scales[:, i] for i in range(3)]
    packed = np.empty((len(scales), 6), np.float32)
    for column, (i, j) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
        packed[:, column] = sum(rotation[i][k] * rotation[j][k] * variances[k] for k in range(3))
    return packed


def make_splats(
    means: Float32,
    quaternions: Float32,
    scales: Float32,
    opacities: Float32,
    sh: Float32,
    antialiased: bool = False,
) -> Splats:
    """Splats out of raw arrays: quaternions are made unit, covariances computed; values are taken as checked."""
    unit = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    unit = np.ascontiguousarray(unit, np.float32)
    scales = np.ascontiguousarray(scales, np.float32)
    return Splats(
        np.ascontiguousarray(means, np.float32),
        unit,
        scales,
        np.ascontiguousarray(opacities, np.float32),
        np.ascontiguousarray(sh, np.float32),
        covariances_of(unit, scales),
        antialiased,
    )
