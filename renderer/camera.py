"""A pinhole camera, and the contract that turns any of the field's matrix pairs into one or refuses it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_SIZE_PX = 8192
NEAR = 0.01
FAR = 1e10
_GL_TO_CV = np.diag([1.0, -1.0, -1.0, 1.0])
_LAST_ROW = (0.0, 0.0, 0.0, 1.0)
_CLIP_ROW = (0.0, 0.0, 1.0, 0.0)  # but for the sign
_ORTHONORMAL_TOLERANCE = 1e-3
_TOLERANCE = 1e-5  # matrices arrive as float32


class CameraError(ValueError):
    """A pair of matrices that is no camera, or could be two; names the entry and what is expected."""


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A pinhole camera in the OpenCV frame: x right, y down, z forward; pixel centres at +0.5."""

    view: NDArray[np.float64]  # [4, 4] world to camera
    fx: float  # pixels
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    near: float = NEAR
    far: float = FAR

    @property
    def position(self) -> NDArray[np.float64]:
        """Where the camera stands in the scene, [3]."""
        position: NDArray[np.float64] = -self.view[:3, :3].T @ self.view[:3, 3]
        return position


def camera_from_matrices(
    view: ArrayLike, projection: ArrayLike, width: int, height: int, near: float = NEAR, far: float = FAR
) -> Camera:
    """Decide by content which convention a pair follows: OpenGL/WebGL, Vulkan, OpenCV/Inria, either one transposed.

    Both are [4, 4], world to camera and camera to clip. Rows 2 of the projection (depth range) do not matter.
    Raises CameraError where the pair is no pinhole camera or its convention is in doubt.
    """
    check_size(width, height)
    v, p = _matrix("view", view), _matrix("projection", projection)
    if _is_transposed(v, p):
        v, p = v.T, p.T
    if not _is_row(v[3], _LAST_ROW):
        raise CameraError(f"view matrix: last row is {v[3].tolist()}, expected 0 0 0 1 (or its transpose)")
    _check_rotation(v[:3, :3])
    _check_projection(p)
    cx, cy = p[0, 2], p[1, 2]
    fy = p[1, 1]
    if p[3, 2] < 0:  # OpenGL: looks along -z, y up
        v = _GL_TO_CV @ v
        cx = -cx
        if fy < 0:  # Vulkan: clip space has y down
            fy, cy = -fy, -cy
    if p[0, 0] <= 0 or fy <= 0:
        raise CameraError(f"projection matrix: P[0,0] = {p[0, 0]:g}, P[1,1] = {p[1, 1]:g}; focal lengths must be > 0")
    return Camera(
        np.ascontiguousarray(v),
        fx=float(p[0, 0] * width / 2),
        fy=float(fy * height / 2),
        cx=float((1 + cx) * width / 2),
        cy=float((1 + cy) * height / 2),
        width=width,
        height=height,
        near=near,
        far=far,
    )


def check_size(width: int, height: int) -> None:
    """Raise CameraError unless both are in 1..MAX_SIZE_PX."""
    for name, value in (("width", width), ("height", height)):
        if not 1 <= value <= MAX_SIZE_PX:
            raise CameraError(f"{name} is {value}, expected 1 to {MAX_SIZE_PX} pixels")


def _matrix(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        matrix = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise CameraError(f"{name} matrix: {error}") from error
    if matrix.shape != (4, 4):
        raise CameraError(f"{name} matrix: shape is {list(matrix.shape)}, expected [4, 4]")
    if not np.isfinite(matrix).all():
        raise CameraError(f"{name} matrix: holds NaN or infinity")
    return matrix


def _is_transposed(view: NDArray[np.float64], projection: NDArray[np.float64]) -> bool:
    """Whether the pair is for row vectors (Inria, DirectX style): the view decides, else the projection."""
    by_row, by_column = _is_row(view[3], _LAST_ROW), _is_row(view[:, 3], _LAST_ROW)
    if by_row != by_column:
        return by_column
    # A camera at the origin has no translation to tell by.
    plain, turned = _is_clip_row(projection[3]), _is_clip_row(projection.T[3])
    if plain and turned and not (np.allclose(view, view.T) and np.allclose(projection, projection.T)):
        raise CameraError(
            "view and projection matrix: both readings (column vectors, row vectors) are a camera; "
            "move the near plane or the camera by a little"
        )
    return turned and not plain


def _is_clip_row(row: NDArray[np.float64]) -> bool:
    return _is_row(np.abs(row), _CLIP_ROW)


def _is_row(row: NDArray[np.float64], expected: Sequence[float]) -> bool:
    """As numpy.allclose, but for four numbers, of which it takes a tenth of a millisecond a frame."""
    return all(abs(a - b) <= _TOLERANCE * (1 + abs(b)) for a, b in zip(row.tolist(), expected, strict=True))


def _check_rotation(rotation: NDArray[np.float64]) -> None:
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if error > _ORTHONORMAL_TOLERANCE:
        raise CameraError(
            f"view matrix: rotation is not orthonormal (off by {error:.2g}); take scale or shear out of it"
        )
    if np.linalg.det(rotation) < 0:
        raise CameraError("view matrix: rotation is mirrored (determinant -1); a left-handed world is not supported")


def _check_projection(p: NDArray[np.float64]) -> None:
    if _is_row(p[3], _LAST_ROW):
        raise CameraError("projection matrix: it is orthographic (last row 0 0 0 1); only perspective is supported")
    if not _is_clip_row(p[3]):
        raise CameraError(
            f"projection matrix: last row is {p[3].tolist()}, expected 0 0 -1 0 (OpenGL) or 0 0 1 0 (OpenCV); "
            "pass the projection alone, not view x projection"
        )
    stray = float(np.abs(p[[0, 0, 1, 1], [1, 3, 0, 3]]).max())
    if stray > 1e-4 * float(np.abs(p[0, 0]) + np.abs(p[1, 1])):
        raise CameraError(f"projection matrix: P[0,1], P[0,3], P[1,0], P[1,3] must be 0, largest is {stray:g}")


def look_at(
    eye: Sequence[float],
    target: Sequence[float],
    up: Sequence[float],
    fov_y_degrees: float,
    width: int,
    height: int,
) -> Camera:
    """A camera at `eye` that looks at `target`; square pixels, principal point at the centre.

    Scenes are y-down as trained, so their `up` is (0, -1, 0). Raises CameraError where no such camera exists.
    """
    check_size(width, height)
    if not 0 < fov_y_degrees < 180:
        raise CameraError(f"fov_y is {fov_y_degrees} degrees, expected more than 0 and less than 180")
    forward = np.asarray(target, np.float64) - np.asarray(eye, np.float64)
    right = np.cross(forward, np.asarray(up, np.float64))
    if not np.isfinite(right).all() or np.linalg.norm(right) < 1e-9:
        raise CameraError(f"eye {list(eye)}, target {list(target)}, up {list(up)}: up must not point along the view")
    forward /= np.linalg.norm(forward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    view = np.eye(4)
    view[:3, :3] = rotation
    view[:3, 3] = -rotation @ np.asarray(eye, np.float64)
    focal = 0.5 * height / math.tan(math.radians(fov_y_degrees) / 2)
    return Camera(view, focal, focal, width / 2, height / 2, width, height)


def matrices(camera: Camera) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The OpenCV-style (view, projection) pair that `camera_from_matrices` maps back to the same camera."""
    near, far = camera.near, camera.far
    projection = np.zeros((4, 4))
    projection[0, 0] = 2 * camera.fx / camera.width
    projection[1, 1] = 2 * camera.fy / camera.height
    projection[0, 2] = 2 * camera.cx / camera.width - 1
    projection[1, 2] = 2 * camera.cy / camera.height - 1
    projection[2, 2] = far / (far - near)
    projection[2, 3] = -far * near / (far - near)
    projection[3, 2] = 1.0
    return camera.view.copy(), projection
