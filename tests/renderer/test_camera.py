"""Every convention of the field gives the same camera, and what is no camera is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from renderer.camera import MAX_SIZE_PX, Camera, CameraError, camera_from_matrices, look_at, matrices

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
WIDTH, HEIGHT = 640, 360


def off_axis() -> Camera:
    """A camera that no symmetry hides a mistake of: off-axis both ways, unequal focal lengths."""
    camera = look_at((2, -1.2, 3), (0.1, -0.5, 0), (0.1, -1, 0.05), 50, WIDTH, HEIGHT)
    return replace(camera, fx=500.0, fy=430.0, cx=250.0, cy=210.0)


def opengl(camera: Camera) -> Pair:
    """WebGL's pair as a browser makes it from a frustum: looks along -z, y up, clip w = -z."""
    near, far = 0.1, 100.0
    left, right = -camera.cx / camera.fx * near, (camera.width - camera.cx) / camera.fx * near
    top, bottom = camera.cy / camera.fy * near, -(camera.height - camera.cy) / camera.fy * near
    projection = np.array(
        [
            [2 * near / (right - left), 0, (right + left) / (right - left), 0],
            [0, 2 * near / (top - bottom), (top + bottom) / (top - bottom), 0],
            [0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)],
            [0, 0, -1, 0],
        ]
    )
    return FLIP @ camera.view, projection


def vulkan(camera: Camera) -> Pair:
    view, projection = opengl(camera)
    return view, np.diag([1.0, -1, 1, 1]) @ projection


def reversed_infinite(camera: Camera) -> Pair:
    view, projection = opengl(camera)
    projection[2] = [0, 0, 0, 0.1]
    return view, projection


def transposed(make: Callable[[Camera], Pair]) -> Callable[[Camera], Pair]:
    def both(camera: Camera) -> Pair:
        view, projection = make(camera)
        return view.T, projection.T

    return both


CONVENTIONS = {
    "opencv": matrices,
    "opengl": opengl,
    "vulkan": vulkan,
    "reversed infinite z": reversed_infinite,
    "inria (opencv, transposed)": transposed(matrices),
    "opengl, transposed": transposed(opengl),
    "vulkan, transposed": transposed(vulkan),
}


def assert_same(found: Camera, wanted: Camera) -> None:
    np.testing.assert_allclose(found.view, wanted.view, atol=1e-5)
    for name in ("fx", "fy", "cx", "cy"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-5), name
    assert (found.width, found.height) == (wanted.width, wanted.height)


@pytest.mark.parametrize("convention", list(CONVENTIONS))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_convention_is_the_same_camera(convention: str, dtype: type) -> None:
    camera = off_axis()
    view, projection = CONVENTIONS[convention](camera)
    assert_same(camera_from_matrices(view.astype(dtype), projection.astype(dtype), WIDTH, HEIGHT), camera)


@pytest.mark.parametrize("convention", list(CONVENTIONS))
def test_a_camera_at_the_origin_is_told_by_its_projection(convention: str) -> None:
    camera = off_axis()
    view = camera.view.copy()
    view[:3, 3] = 0
    camera = replace(camera, view=view)
    assert_same(camera_from_matrices(*CONVENTIONS[convention](camera), WIDTH, HEIGHT), camera)


def test_a_point_lands_where_clip_space_says() -> None:
    """The reading of a foreign pair is checked by what any graphics API does with it, not by our own inverse."""
    camera = off_axis()
    point = np.array([0.3, -0.7, 0.2, 1.0])
    view, projection = opengl(camera)
    clip = projection @ view @ point
    x, y = (clip[0] / clip[3] + 1) / 2 * WIDTH, (1 - clip[1] / clip[3]) / 2 * HEIGHT
    found = camera_from_matrices(view, projection, WIDTH, HEIGHT)
    seen = found.view @ point
    assert found.fx * seen[0] / seen[2] + found.cx == pytest.approx(x)
    assert found.fy * seen[1] / seen[2] + found.cy == pytest.approx(y)


def test_doubt_is_refused() -> None:
    """At the origin, with a depth range whose entry is 1 as well, both readings are a camera."""
    turned = look_at((0, 0, 0), (1, 2, 3), (0, -1, 0), 50, WIDTH, HEIGHT)
    view, projection = opengl(turned)
    projection[2, 3] = -1.0
    with pytest.raises(CameraError, match="both readings"):
        camera_from_matrices(view, projection, WIDTH, HEIGHT)


def spoiled(which: int, change: Callable[[NDArray[np.float64]], object]) -> Pair:
    pair = matrices(off_axis())
    change(pair[which])
    return pair


REFUSED = [
    (spoiled(0, lambda v: v.__setitem__((0, 0), np.nan)), "view matrix: holds NaN"),
    (spoiled(1, lambda p: p.__setitem__((0, 0), np.inf)), "projection matrix: holds NaN"),
    (spoiled(0, lambda v: v.__imul__(1.1)), "view matrix: last row"),
    (spoiled(0, lambda v: v[:3, :3].__imul__(1.01)), "not orthonormal"),
    (spoiled(0, lambda v: v[0].__imul__(-1)), "mirrored"),
    (spoiled(1, lambda p: p.__setitem__(3, [0, 0, 0, 1])), "orthographic"),
    (spoiled(1, lambda p: p.__setitem__(3, [0.3, 0.1, 0.9, 2])), "not view x projection"),
    (spoiled(1, lambda p: p.__setitem__((0, 0), -1.0)), "focal lengths"),
    (spoiled(1, lambda p: p.__setitem__((1, 1), 0.0)), "focal lengths"),
    (spoiled(1, lambda p: p.__setitem__((0, 1), 0.2)), "must be 0"),
    ((np.eye(3), np.eye(4)), r"view matrix: shape is \[3, 3\]"),
]


@pytest.mark.parametrize(("pair", "message"), REFUSED)
def test_what_is_no_camera_is_refused(pair: Pair, message: str) -> None:
    with pytest.raises(CameraError, match=message):
        camera_from_matrices(*pair, WIDTH, HEIGHT)


@pytest.mark.parametrize("size", [(0, 10), (10, -1), (MAX_SIZE_PX + 1, 1)])
def test_a_size_outside_the_limit_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(CameraError, match=f"expected 1 to {MAX_SIZE_PX}"):
        camera_from_matrices(*matrices(off_axis()), *size)


def test_look_at_puts_the_target_in_the_middle_and_up_up() -> None:
    camera = look_at((2, -1.2, 2), (0, -0.5, 0), (0, -1, 0), 50, 512, 256)
    target = camera.view @ [0, -0.5, 0, 1]
    np.testing.assert_allclose(target[:2], 0, atol=1e-12)
    assert target[2] > 0
    assert (camera.view @ [0, -1.5, 0, 1])[1] < 0  # y of a picture points down
    np.testing.assert_allclose(camera.position, [2, -1.2, 2])
    edge = np.tan(np.radians(25)) * target[2]
    assert camera.fy * edge / target[2] + camera.cy == pytest.approx(256)
    with pytest.raises(CameraError, match="up must not"):
        look_at((0, 0, 0), (0, 1, 0), (0, -1, 0), 50, 8, 8)
    with pytest.raises(CameraError, match="fov_y is 180"):
        look_at((0, 0, 0), (0, 0, 1), (0, -1, 0), 180, 8, 8)


coordinate = st.floats(-50, 50)


@settings(max_examples=60, deadline=None)
@given(
    eye=st.tuples(coordinate, coordinate, coordinate),
    fov=st.floats(5, 150),
    size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    convention=st.sampled_from(sorted(CONVENTIONS)),
)
def test_any_view_survives_any_convention(
    eye: tuple[float, float, float], fov: float, size: tuple[int, int], convention: str
) -> None:
    if abs(eye[0]) + abs(eye[2]) < 0.1:
        return  # above or below the target, where up has no meaning
    camera = look_at(eye, (0.0, 0.0, 0.0), (0.0, -1.0, 0.0), fov, *size)
    view, projection = CONVENTIONS[convention](camera)
    found = camera_from_matrices(view.astype(np.float32), projection.astype(np.float32), *size)
    np.testing.assert_allclose(found.view, camera.view, atol=1e-4)
    assert found.fx == pytest.approx(camera.fx, rel=1e-5)
    assert found.cy == pytest.approx(camera.cy, rel=1e-5)
