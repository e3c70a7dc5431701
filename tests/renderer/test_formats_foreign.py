"""Readers on files that other projects wrote, within the step of each format's quantiser (check O5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from renderer.formats import read, read_header
from renderer.splats import Splats, resident_bytes

pytestmark = pytest.mark.data
TRIO = "scenes/conformance/metalsplatter/test-splat.3-points-from-train"
FOUR = "scenes/conformance/splat-transform"


def degrees_apart(a: Splats, b: Splats) -> float:
    """The largest angle between two scenes' rotations."""
    cosine = np.abs(np.einsum("ij,ij->i", a.quaternions.astype(float), b.quaternions.astype(float)))
    return float(np.degrees(2 * np.arccos(np.minimum(cosine, 1))).max())


@pytest.mark.parametrize(
    ("path", "name", "gaussians", "degree"),
    [
        (f"{TRIO}.spz", "spz-v3", 3, 3),
        (f"{TRIO}.splat", "splat", 3, 0),
        (f"{FOUR}/minimal-raw.spz", "spz-v2", 4, 0),
        (f"{FOUR}/minimal-v2.spz", "spz-v2", 4, 0),
        (f"{FOUR}/minimal-v3.spz", "spz-v3", 4, 0),
        (f"{FOUR}/minimal-v4.spz", "spz-v4", 4, 0),
        (f"{FOUR}/minimal.splat", "splat", 4, 0),
        (f"{FOUR}/minimal.ksplat", "ksplat", 4, 0),
        ("scenes/conformance/gsplat-rs/minimal_v4_degree0.spz", "spz-v4", 8, 0),
    ],
)
def test_the_header_alone_tells_the_exact_cost(
    path: str, name: str, gaussians: int, degree: int, data_dir: Path
) -> None:
    header = read_header(data_dir / path)
    assert (header.format, header.gaussians, header.sh_degree) == (name, gaussians, degree)
    assert header.disk_bytes == (data_dir / path).stat().st_size
    assert header.resident_bytes == resident_bytes(gaussians, degree) == read(data_dir / path).nbytes


def test_three_splats_in_spz_v3_and_in_ply(data_dir: Path) -> None:
    """These have rotations and places that a wrong frame or quaternion order cannot hide behind."""
    ply, spz = read(data_dir / f"{TRIO}.ply"), read(data_dir / f"{TRIO}.spz")
    assert np.abs(spz.means - ply.means).max() <= 2**-13 + 1e-6
    assert degrees_apart(spz, ply) <= 0.3
    assert np.abs(np.log(spz.scales) - np.log(ply.scales)).max() <= 1 / 32 + 1e-5
    assert np.abs(spz.opacities - ply.opacities).max() <= 1 / 510 + 1e-6
    assert np.abs(spz.sh[:, 0] - ply.sh[:, 0]).max() <= 0.0131 + 1e-5
    rounded = 1 / 256  # the writer rounds to 128ths before it rounds to 5 or 4 bits
    assert np.abs(spz.sh[:, 1:4] - ply.sh[:, 1:4]).max() <= 1 / 32 + rounded
    assert np.abs(spz.sh[:, 4:] - ply.sh[:, 4:]).max() <= 1 / 16 + rounded


def test_three_splats_in_splat_and_in_ply(data_dir: Path) -> None:
    ply, splat = read(data_dir / f"{TRIO}.ply"), read(data_dir / f"{TRIO}.splat")
    np.testing.assert_array_equal(splat.means, ply.means)
    np.testing.assert_allclose(splat.scales, ply.scales, rtol=1e-6)
    assert np.abs(splat.opacities - ply.opacities).max() <= 1 / 255 + 1e-6
    assert np.abs(splat.sh[:, 0] - ply.sh[:, 0]).max() * 0.28209479 <= 1 / 255 + 1e-6
    assert degrees_apart(splat, ply) <= 2  # cut to multiples of 1/128


def test_four_spheres_in_four_formats(data_dir: Path) -> None:
    """Their SPZ v2 was made in another frame (z has the other sign) and with another colour scale than v3 and v4."""
    corners = [[-1, 0, -1], [0, 0, -1], [-1, 0, 0], [0, 0, 0]]
    splat = read(data_dir / FOUR / "minimal.splat")
    np.testing.assert_array_equal(splat.means, corners)
    np.testing.assert_allclose(splat.scales, 0.1)
    np.testing.assert_allclose(splat.opacities, 230 / 255)
    colours = np.array([[0x55, 0x55, 0x80], [0xAA, 0x55, 0x80], [0x55, 0xAA, 0x80], [0xAA, 0xAA, 0x80]]) / 255
    np.testing.assert_allclose(0.5 + 0.28209479177387814 * splat.sh[:, 0], colours, atol=1e-6)

    ksplat = read(data_dir / FOUR / "minimal.ksplat")
    for name in ("means", "scales", "opacities", "sh"):
        np.testing.assert_allclose(getattr(ksplat, name), getattr(splat, name), atol=1e-7)

    for version, sign in (("raw", -1), ("v2", -1), ("v3", 1), ("v4", 1)):
        spz = read(data_dir / FOUR / f"minimal-{version}.spz")
        np.testing.assert_array_equal(spz.means, np.array(corners) * [1, 1, sign])
        assert np.abs(np.log(spz.scales) - np.log(0.1)).max() <= 1 / 32
        np.testing.assert_allclose(spz.opacities, 230 / 255, rtol=1e-6)
        assert np.abs(np.abs(spz.quaternions[:, 0]) - 1).max() < 1e-4
        assert (np.sign(spz.sh[:, 0]) == np.sign(splat.sh[:, 0])).all()
    for a, b in (("raw", "v2"), ("v3", "v4")):
        first, second = (read(data_dir / FOUR / f"minimal-{version}.spz") for version in (a, b))
        np.testing.assert_array_equal(first.sh, second.sh)
    modern = read(data_dir / FOUR / "minimal-v4.spz")
    assert np.abs(modern.sh[:, 0] - splat.sh[:, 0]).max() <= 0.0131 + 0.5 / 255 / 0.28209479


def test_eight_splats_of_another_writer_of_v4(data_dir: Path) -> None:
    splats = read(data_dir / "scenes/conformance/gsplat-rs/minimal_v4_degree0.spz")
    steps = np.arange(8)
    np.testing.assert_allclose(splats.opacities, (32 + 20 * steps) / 255, rtol=1e-6)
    np.testing.assert_allclose(splats.means[:4, 0], steps[:4] / 4)
    np.testing.assert_allclose(splats.means[:4, 2], -1 - steps[:4] / 16)
    np.testing.assert_allclose(splats.scales[:, 0], np.exp((144 + steps) / 16 - 10), rtol=1e-5)
    np.testing.assert_allclose(splats.scales[:, 2], np.exp((160 - steps) / 16 - 10), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(splats.quaternions, axis=1), 1, atol=1e-6)
