"""A scene in the making: one slab of its final size, which a reader fills and which is checked block by block.

Beside the slab only one block of temporaries lives, so that a load peaks near what the scene takes once loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from renderer import packed
from renderer.splats import (
    MAX_COLOUR,
    MAX_COORDINATE,
    MAX_SCALE,
    Float32,
    SceneFileError,
    Splats,
    covariances_of,
    resident_bytes,
)

BLOCK = 8_192  # Gaussians: their rows and temporaries stay in the processor's second-level cache
MAX_EXPANSION = 200  # a payload may be this many times what lies on disk: scenes reach 10, JSON 20, a bomb 1,000
MAX_COMPONENT = 1e18  # of a quaternion: its square still fits float32
_SLACK_BYTES = 1 << 16  # for a tiny file, in which the headers of its streams weigh most
_LEAST_SQUARED_LENGTH = 1e-12
_UNIT_TOLERANCE = 1e-3
_COVARIANCE_TOLERANCE = 1e-4  # of the largest variance
_LEAST_VARIANCE = 1e-30


class Assembly:
    """Fill `means`, `quaternions` (any length), `scales`, `opacities` and `sh` of some rows, then `finish` these rows.

    Raises MemoryError where the slab cannot be allocated.
    """

    def __init__(self, file: Path, gaussians: int, sh_degree: int) -> None:
        self.file = file
        self.gaussians = gaussians
        slab = packed.new_slab(resident_bytes(gaussians, sh_degree) // 4)
        self.means, self.quaternions, self.scales, self.opacities, self.sh, self._covariances = packed.views(
            slab, gaussians, sh_degree
        )

    def blocks(self) -> Iterator[slice]:
        """All rows in blocks."""
        return blocks(self.gaussians)

    def finish(self, rows: slice) -> None:
        """Check every value, make the quaternions unit and compute the covariances; raises SceneFileError."""
        quaternions = self.quaternions[rows]
        with np.errstate(all="ignore"):  # a signalling NaN would write a line to stderr
            _check_rows(self.file, self, rows)
            squared = np.einsum("ij,ij->i", quaternions, quaternions)
            zero = squared < _LEAST_SQUARED_LENGTH
            if zero.any():
                field = f"rotation of Gaussian {rows.start + int(zero.argmax())}"
                raise SceneFileError(self.file, field, "a zero quaternion", "it has no direction")
            quaternions /= np.sqrt(squared)[:, None]
            self._covariances[rows] = covariances_of(quaternions, self.scales[rows])

    def splats(self, antialiased: bool = False) -> Splats:
        """The scene, once all rows are finished."""
        return Splats(
            self.means, self.quaternions, self.scales, self.opacities, self.sh, self._covariances, antialiased
        )


def check_splats(file: Path, splats: Splats) -> None:
    """What `finish` makes true, checked of splats that came whole; raises SceneFileError."""
    with np.errstate(all="ignore"):
        for rows in blocks(splats.count):
            _check_rows(file, splats, rows)
            quaternions, scales = splats.quaternions[rows], splats.scales[rows]
            length = np.einsum("ij,ij->i", quaternions, quaternions)
            _check(file, "squared length of rotation", length, (1 - _UNIT_TOLERANCE, 1 + _UNIT_TOLERANCE), rows.start)
            apart = np.abs(splats.covariances[rows] - covariances_of(quaternions, scales)).max(axis=1)
            share = apart / np.maximum(np.square(scales.max(axis=1)), np.float32(_LEAST_VARIANCE))
            _check(file, "error of covariance", share, (0, _COVARIANCE_TOLERANCE), rows.start)


def check_expansion(file: Path, payload_bytes: int, disk_bytes: int) -> None:
    """Refuse a file whose header promises more than any scene compresses to; raises SceneFileError."""
    most = MAX_EXPANSION * disk_bytes + _SLACK_BYTES
    if payload_bytes > most:
        said = f"its header tells of {payload_bytes} bytes of payload, at most {most} are unpacked from that"
        raise SceneFileError(file, "length", f"{disk_bytes} bytes", said)


def blocks(count: int) -> Iterator[slice]:
    """0 to `count` in slices of BLOCK."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def _check_rows(file: Path, splats: Splats | Assembly, rows: slice) -> None:
    for name, values, limits in (
        ("position", splats.means[rows], (-MAX_COORDINATE, MAX_COORDINATE)),
        ("rotation", splats.quaternions[rows], (-MAX_COMPONENT, MAX_COMPONENT)),
        ("scale", splats.scales[rows], (0.0, MAX_SCALE)),
        ("opacity", splats.opacities[rows], (0.0, 1.0)),
        ("colour", splats.sh[rows], (-MAX_COLOUR, MAX_COLOUR)),
    ):
        _check(file, name, values, limits, rows.start)


def _check(file: Path, name: str, values: Float32, limits: tuple[float, float], first_row: int) -> None:
    """Raise SceneFileError for the first value outside the limits; NaN and infinities are outside of any."""
    least, most = limits
    if values.min() >= least and values.max() <= most:  # NaN spreads into both
        return
    rows = values.reshape(len(values), -1)
    bad = ~((rows >= least) & (rows <= most))
    row = int(bad.any(axis=1).argmax())
    value = rows[row][bad[row]][0]
    raise SceneFileError(file, f"{name} of Gaussian {first_row + row}", value, f"{least:g} to {most:g} is allowed")
