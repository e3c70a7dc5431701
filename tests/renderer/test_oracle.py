"""The oracle against closed forms worked by hand: everything else is compared with the oracle."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from renderer.camera import Camera
from renderer.constants import CONSTANTS, DEFAULT, SH_C0, SH_C1
from renderer.oracle import _basis, project, render
from renderer.splats import Splats, make_splats
from tests.renderer.scenes import front_camera, one_splat, random_camera, random_splats, spheres

BACKGROUND = (0.1, 0.2, 0.3)
EXACT = 1e-9


def draw(splats: Splats, camera: Camera, **changes: float) -> tuple[NDArray[np.float64], ...]:
    return render(splats, camera, BACKGROUND, None, replace(DEFAULT, **changes))


def pixel_offsets(camera: Camera, x: float, y: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances of every pixel's centre, which lies at +0.5, from (x, y)."""
    rows, columns = np.mgrid[0 : camera.height, 0 : camera.width] + 0.5
    return columns - x, rows - y


def sphere_alpha(splats: Splats, camera: Camera, i: int = 0) -> NDArray[np.float64]:
    """Alpha of a sphere on the axis of view: a round Gaussian of variance (f s / z)^2 + 0.3 pixels^2."""
    z, scale, opacity = float(splats.means[i, 2]), float(splats.scales[i, 0]), float(splats.opacities[i])
    variance = (camera.fx * scale / z) ** 2 + 0.3
    dx, dy = pixel_offsets(camera, camera.cx, camera.cy)
    alpha = np.minimum(opacity * np.exp(-(dx * dx + dy * dy) / (2 * variance)), 0.999)
    return np.where(alpha < 1 / 255, 0.0, alpha)


def colour(splats: Splats, i: int = 0) -> NDArray[np.float64]:
    return np.maximum(0.5 + SH_C0 * splats.sh[i, 0].astype(np.float64), 0)


def test_a_lone_sphere_on_the_axis_is_its_closed_form() -> None:
    splats, camera = one_splat(), front_camera(17, 31)
    rgb, alpha, depth = draw(splats, camera)
    expected = sphere_alpha(splats, camera)
    assert 0.3 < expected.max() < 0.61
    assert (expected == 0).any()
    np.testing.assert_allclose(alpha, expected, atol=EXACT)
    np.testing.assert_allclose(
        rgb, expected[..., None] * colour(splats) + (1 - expected[..., None]) * np.array(BACKGROUND), atol=EXACT
    )
    np.testing.assert_allclose(depth[expected > 0], 2.0, atol=EXACT)
    assert (depth[expected == 0] == 0).all()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_of_two_covers_the_other_in_any_order_of_the_file(order: tuple[int, int]) -> None:
    both = [((0.0, 0.0, 2.0), 0.1, 0.6, (0.9, 0.1, 0.2)), ((0.0, 0.0, 3.0), 0.3, 0.8, (0.1, 0.7, 0.9))]
    means, scales, opacities, colours = (list(column) for column in zip(*(both[i] for i in order), strict=True))
    splats, camera = spheres(means, scales, opacities, colours), front_camera()
    near, far = order.index(0), order.index(1)
    first, second = sphere_alpha(splats, camera, near), sphere_alpha(splats, camera, far)
    rgb, alpha, depth = draw(splats, camera)
    light = (1 - first) * (1 - second)
    expected = (
        first[..., None] * colour(splats, near)
        + ((1 - first) * second)[..., None] * colour(splats, far)
        + light[..., None] * np.array(BACKGROUND)
    )
    np.testing.assert_allclose(alpha, 1 - light, atol=EXACT)
    np.testing.assert_allclose(rgb, expected, atol=EXACT)
    middle = (camera.height // 2, camera.width // 2)
    weights = first[middle], ((1 - first) * second)[middle]
    assert depth[middle] == pytest.approx((2 * weights[0] + 3 * weights[1]) / sum(weights), abs=EXACT)


@pytest.mark.parametrize("mean", [(0.8, -0.4, 4.0), (4.0, 0.0, 4.0)], ids=["inside", "clamped"])
def test_off_the_axis_the_jacobian_is_taken_inside_the_widened_frustum(mean: tuple[float, float, float]) -> None:
    splats, camera = one_splat(mean, scale=1.5), front_camera(24, 20, 18.0)
    x, y, z = mean
    limit_x = camera.width / 2 / camera.fx * 1.3  # half the frustum and 0.3 of it more
    limit_y = camera.height / 2 / camera.fy * 1.3
    slope_x, slope_y = np.clip(x / z, -limit_x, limit_x), np.clip(y / z, -limit_y, limit_y)
    assert (slope_x == x / z) == (x < 2)
    j = camera.fx / z * np.array([[1, 0, -slope_x], [0, 1, -slope_y]])
    covariance = 1.5**2 * j @ j.T + 0.3 * np.eye(2)
    inverse = np.linalg.inv(covariance)
    dx, dy = pixel_offsets(camera, camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy)
    sigma = 0.5 * (inverse[0, 0] * dx * dx + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy * dy)
    alpha = float(splats.opacities[0]) * np.exp(-sigma)
    expected = np.where(alpha < 1 / 255, 0, alpha)
    assert expected.max() > 0.02
    np.testing.assert_allclose(draw(splats, camera)[1], expected, atol=EXACT)


def test_a_quaternion_is_wxyz_and_turns_the_scales() -> None:
    """A needle along x, turned 90 degrees about z, is a needle along y."""
    camera = front_camera(21, 21)
    scales = np.array([[0.3, 0.02, 0.02]], np.float32)
    half = math.sqrt(0.5)
    means, one = np.array([[0, 0, 2]], np.float32), np.ones(1, np.float32)

    def needle(quaternion: list[float]) -> NDArray[np.float64]:
        return draw(
            make_splats(means, np.array([quaternion], np.float32), scales, one, np.ones((1, 1, 3), np.float32)), camera
        )[1]

    along_x, along_y = needle([1, 0, 0, 0]), needle([half, 0, 0, half])
    np.testing.assert_allclose(along_y, along_x.T, atol=1e-6)
    assert along_x[10].sum() > 3 * along_x[:, 10].sum()
    np.testing.assert_allclose(needle([half, half, 0, 0]), along_x, atol=1e-6)  # about its own axis: nothing changes


@pytest.mark.parametrize(("constants", "cap"), [("gsplat-1.5.3", 0.999), ("main", 0.99)])
def test_alpha_is_capped_so_an_opaque_lone_splat_still_draws(constants: str, cap: float) -> None:
    splats, camera = one_splat(scale=2.0, opacity=1.0), front_camera(9, 9)
    rgb, alpha, _ = render(splats, camera, BACKGROUND, None, CONSTANTS[constants])
    assert alpha[4, 4] == pytest.approx(cap, abs=EXACT)
    np.testing.assert_allclose(rgb[4, 4], cap * colour(splats) + (1 - cap) * np.array(BACKGROUND), atol=EXACT)


def test_a_pixel_stops_before_the_splat_that_would_leave_too_little_light() -> None:
    """Caps of 0.991: after two, 8e-5 of light would be left, below 1e-4; the second must not be drawn."""
    splats = spheres([(0, 0, 2.0), (0, 0, 3.0), (0, 0, 4.0)], [3.0] * 3, [1.0, 1.0, 0.5], [(0.9, 0.1, 0.1)] * 3)
    _, alpha, _ = draw(splats, front_camera(3, 3), alpha_cap=0.991)
    assert alpha[1, 1] == pytest.approx(0.991, abs=EXACT)  # and the third, faint enough to pass, is not reached
    _, alpha, _ = draw(splats, front_camera(3, 3), alpha_cap=0.98)
    assert alpha[1, 1] == pytest.approx(1 - 0.02 * 0.02 * 0.5, abs=1e-6)


def test_near_and_far_cull_by_depth() -> None:
    camera = front_camera()
    for z, seen in ((0.0099, False), (0.011, True), (50.0, True)):
        splats = one_splat((0, 0, z), scale=z / 10)
        assert (draw(splats, camera)[1].max() > 0) == seen
    assert draw(one_splat((0, 0, -2.0)), camera)[1].max() == 0
    assert draw(one_splat((0, 0, 50.0), scale=5), replace(camera, far=49.0))[1].max() == 0


def test_a_faint_splat_is_skipped_where_alpha_is_below_one_255th() -> None:
    assert draw(one_splat(opacity=0.0039), front_camera())[1].max() == 0
    assert draw(one_splat(scale=1.0, opacity=0.0041), front_camera())[1].max() > 0.0039


def test_antialiased_scenes_lose_opacity_to_the_blur() -> None:
    splats = one_splat(scale=0.02)
    variance = (20 * float(splats.scales[0, 0]) / 2) ** 2
    expected = float(splats.opacities[0]) * variance / (variance + 0.3)  # sqrt of a ratio of determinants, both squares
    assert project(replace(splats, antialiased=True), front_camera(), None, DEFAULT).opacities[0] == pytest.approx(
        expected, abs=EXACT
    )
    speck = replace(one_splat(scale=1e-5, opacity=1.0), antialiased=True)
    assert len(project(speck, front_camera(), None, DEFAULT).opacities) == 0
    floor = project(speck, front_camera(), None, CONSTANTS["main"]).opacities
    assert floor[0] == pytest.approx(0.005, abs=EXACT)


def test_colour_follows_the_direction_of_view_and_is_clamped_below_only() -> None:
    """Band 1 is C1 (-y, z, -x) of the direction from the camera to the splat."""
    sh = np.zeros((1, 4, 3), np.float32)
    sh[0, 1:, 0], sh[0, 1:, 1], sh[0, 1:, 2] = (1, 2, 4), (-9, -9, -9), (9, 9, 9)
    one = np.ones((1, 3), np.float32)
    splats = make_splats(np.array([[0, 0, 2]], np.float32), np.array([[1, 0, 0, 0]], np.float32), one, one[:, 0], sh)
    seen = project(splats, front_camera(), None, DEFAULT).colours[0]
    np.testing.assert_allclose(seen, [0.5 + SH_C1 * 2, 0.0, 0.5 + SH_C1 * 9], atol=EXACT)
    aside = replace(front_camera(), view=np.array([[1, 0, 0, -3.0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]))
    direction = np.array([-3.0, 0, 4]) / 5  # the camera stands at (3, 0, -2)
    expected = 0.5 + SH_C1 * (2 * direction[2] - 4 * direction[0])
    assert project(splats, aside, None, DEFAULT).colours[0, 0] == pytest.approx(expected, abs=EXACT)
    assert project(splats, aside, 0, DEFAULT).colours[0, 0] == pytest.approx(0.5, abs=EXACT)


def test_the_sh_basis_is_orthonormal() -> None:
    """By a quadrature that is exact for polynomials of degree 6: Gauss-Legendre in z, even steps in the angle."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    angles = (np.arange(16) + 0.5) / 16 * 2 * math.pi
    z, angle = (axis.reshape(-1) for axis in np.meshgrid(nodes, angles, indexing="ij"))
    r = np.sqrt(1 - z * z)
    basis = np.stack(list(_basis(3, r * np.cos(angle), r * np.sin(angle), z)))
    measure = np.repeat(weights, 16) * 2 * math.pi / 16
    np.testing.assert_allclose(basis * measure @ basis.T, np.eye(16), atol=1e-9)


def test_looking_only_where_a_splat_can_be_seen_changes_no_pixel() -> None:
    """The same compositing over all pixels of all splats, written as the definition reads."""
    rng = np.random.default_rng(5)
    splats, camera = random_splats(rng, 60, 2), random_camera(rng, 19, 23)
    seen = project(splats, camera, None, DEFAULT)
    rows, columns = np.mgrid[0:23, 0:19] + 0.5
    at = np.stack([columns, rows], -1)
    light, alive, rgb = np.ones((23, 19)), np.ones((23, 19), bool), np.zeros((23, 19, 3))
    for i in range(len(seen.depths)):
        d = at - seen.centres_px[i]
        sigma = 0.5 * np.einsum("hwi,ij,hwj->hw", d, np.linalg.inv(seen.covariances_px2[i]), d)
        alpha = np.minimum(0.999, seen.opacities[i] * np.exp(-sigma))
        hit = alive & (alpha >= 1 / 255)
        alive &= ~(hit & (light * (1 - alpha) <= 1e-4))
        hit &= alive
        rgb += np.where(hit, alpha * light, 0)[..., None] * seen.colours[i]
        light = np.where(hit, light * (1 - alpha), light)
    assert light.min() < 0.5
    np.testing.assert_allclose(draw(splats, camera)[0], rgb + light[..., None] * np.array(BACKGROUND), atol=1e-7)
