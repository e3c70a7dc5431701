"""Readers on files of our own writers where no foreign file exists: every field, and the same picture (O5, O6).

Made here and not foreign: compressed PLY, .ksplat with SH and of levels 1 and 2, SPZ v1, SPZ with SH, SPZ extensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from renderer.camera import look_at
from renderer.constants import DEFAULT
from renderer.cpu import CpuRasterizer
from renderer.formats import ply, read, read_header, splat
from renderer.scene_folder import build_catalogue
from renderer.splats import Splats, coefficients, make_splats, resident_bytes
from tests.renderer import format_files as files
from tests.renderer.test_formats_foreign import degrees_apart


def scene(count: int = 300, degree: int = 3, seed: int = 0, antialiased: bool = False) -> Splats:
    """Within the range of every format: colours 0 to 1, SH below 0.8, places within 4."""
    rng = np.random.default_rng(seed)
    sh = np.clip(rng.normal(0, 0.2, (count, coefficients(degree), 3)), -0.8, 0.8)
    sh[:, 0] = rng.uniform(-1.7, 1.7, (count, 3))
    return make_splats(
        rng.uniform(-4, 4, (count, 3)).astype(np.float32),
        rng.normal(0, 1, (count, 4)).astype(np.float32),
        np.exp(rng.uniform(-6, -1, (count, 3))).astype(np.float32),
        rng.uniform(0, 1, count).astype(np.float32),
        sh.astype(np.float32),
        antialiased,
    )


def within(a: Splats, b: Splats, **most: float) -> None:
    """Position, ln scale, opacity, colour (constant coefficient), bands, and rotation in degrees."""
    assert (a.count, a.sh_degree) == (b.count, b.sh_degree)
    found = {
        "position": np.abs(a.means - b.means).max(),
        "scale": np.abs(np.log(a.scales) - np.log(b.scales)).max(),
        "opacity": np.abs(a.opacities - b.opacities).max(),
        "colour": np.abs(a.sh[:, 0] - b.sh[:, 0]).max(),
        "bands": np.abs(a.sh[:, 1:] - b.sh[:, 1:]).max(initial=0),
        "rotation": degrees_apart(a, b),
    }
    assert {name: round(float(found[name]), 5) for name, limit in most.items() if found[name] > limit * 1.001} == {}


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("colour_bounds", [True, False])
@pytest.mark.parametrize("count", [1, 256, 257])
def test_compressed_ply(degree: int, colour_bounds: bool, count: int, tmp_path: Path) -> None:
    splats = scene(count, degree)
    path = files.write_compressed_ply(tmp_path / "a.ply", splats, colour_bounds)
    header = read_header(path)
    assert (header.format, header.gaussians, header.sh_degree) == ("compressed-ply", count, degree)
    assert header.resident_bytes == resident_bytes(count, degree)
    # 8 / 1023 / 2 of the box; sqrt(1/2) / 1023 a component; 8-bit colour; a 256th of -4..4.
    within(
        read(path), splats, position=8 / 2046, scale=5 / 2046, opacity=1 / 510, colour=3.55 / 510, bands=1 / 64,
        rotation=0.3,
    )  # fmt: skip


def test_sh_bytes_of_compressed_ply_at_their_ends(tmp_path: Path) -> None:
    path = files.write_compressed_ply(tmp_path / "a.ply", scene(2, 1))
    data = bytearray(path.read_bytes())
    data[-18:] = bytes([0, 255, 128] * 6)
    path.write_bytes(data)
    bands = read(path).sh[:, 1:]
    assert bands[0, :, 0].tolist() == [-4, 4, (128.5 / 256 - 0.5) * 8]  # channel-major: the first three are red's


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("degree", range(4))
def test_ksplat(level: int, degree: int, tmp_path: Path) -> None:
    splats = scene(77, degree)
    path = files.write_ksplat(tmp_path / "a.ksplat", splats, level, sections=3)
    header = read_header(path)
    assert (header.format, header.gaussians, header.sh_degree) == ("ksplat", 77, degree)
    order = np.argsort(splats.means[:, 0], kind="stable")
    expected = make_splats(
        splats.means[order], splats.quaternions[order], splats.scales[order], splats.opacities[order], splats.sh[order]
    )
    bands = [1e-6, 1e-3, 1.6 / 510 * 1.01][level]
    step = [1e-6, 8 / 32767, 8 / 32767][level]
    within(
        read(path), expected, position=step, scale=[1e-5, 1e-3, 1e-3][level], opacity=1 / 510, colour=3.55 / 510,
        bands=bands, rotation=0.1,
    )  # fmt: skip


def test_sections_of_ksplat_may_differ_in_degree(tmp_path: Path) -> None:
    """The scene takes the highest; the others' bands are zero."""
    one, two = (files.write_ksplat(tmp_path / f"{d}.ksplat", scene(5, d), 1).read_bytes() for d in (2, 0))
    header = bytearray(one[:4096])
    header[4:8] = header[8:12] = (2).to_bytes(4, "little")
    header[12:20] = (10).to_bytes(4, "little") * 2
    joined = tmp_path / "a.ksplat"
    joined.write_bytes(header + one[4096:5120] + two[4096:5120] + one[5120:] + two[5120:])
    splats = read(joined)
    assert (splats.count, splats.sh_degree) == (10, 2)
    assert np.abs(splats.sh[:5, 1:]).min() >= 0
    assert np.abs(splats.sh[:5, 1:]).max() > 0.1
    assert not splats.sh[5:, 1:].any()


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("degree", range(4))
def test_spz(version: int, degree: int, tmp_path: Path) -> None:
    splats = scene(300, degree, antialiased=degree == 1)
    path = files.write_spz(tmp_path / "a.spz", splats, version)
    header = read_header(path)
    assert (header.format, header.gaussians, header.sh_degree) == (f"spz-v{version}", 300, degree)
    again = read(path)
    assert again.antialiased == splats.antialiased
    within(
        again, splats, position=2**-10 if version == 1 else 2**-13, scale=1 / 32, opacity=1 / 510, colour=0.0131,
        bands=1 / 16 + 1 / 256, rotation=12.5 if version < 3 else 0.3,
    )  # fmt: skip
    assert np.abs(again.sh[:, 1:4] - splats.sh[:, 1:4]).max(initial=0) <= 1 / 32 + 1 / 256


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("system", range(1, 9))
def test_spz_in_other_axes(version: int, system: int, tmp_path: Path) -> None:
    """An extension names left or right, down or up, back or front; mirrored frames are among them."""
    bits = system - 1
    axes = (1 if bits & 1 else -1, -1 if bits & 2 else 1, 1 if bits & 4 else -1)
    splats = scene(50)
    extensions = b"\x02\x00\xbe\xad\x03\x00\x00\x00abc" + files.coordinate_system(system)  # an unknown record first
    again = read(files.write_spz(tmp_path / "a.spz", splats, version, extensions, axes))
    within(again, splats, position=2**-13, rotation=0.3, bands=1 / 16 + 1 / 256)


def test_spz_of_degree_4_is_read_without_its_last_band(tmp_path: Path) -> None:
    """Scenes hold three bands; the file is whole, and its header tells of what will be loaded."""
    splats = scene(20, 3)
    streams = files.spz_streams(splats, 3)
    rows = np.frombuffer(streams[5], "u1").reshape(20, 45)
    streams[5] = np.concatenate([rows, np.full((20, 27), 200, "u1")], axis=1).tobytes()
    path = tmp_path / "a.spz"
    path.write_bytes(files.spz_header(3, 20, 4) + b"".join(streams))
    assert read_header(path).sh_degree == 3
    within(read(path), splats, bands=1 / 16 + 1 / 256, rotation=0.3)


def test_splat(tmp_path: Path) -> None:
    splats = scene(99, 0)
    within(
        read(files.write_splat(tmp_path / "a.splat", splats)), splats, position=0, scale=1e-6, opacity=1 / 510,
        colour=3.55 / 510, rotation=2.0,
    )  # fmt: skip


def test_our_writer_of_splat_puts_the_largest_first(tmp_path: Path) -> None:
    splats = scene(99, 2)
    splat.write(tmp_path / "a.splat", splats)
    again = read(tmp_path / "a.splat")
    order = np.argsort(-splats.scales.prod(axis=1) * splats.opacities, kind="stable")
    np.testing.assert_array_equal(again.means, splats.means[order])
    assert np.abs(again.sh[:, 0] - splats.sh[order, 0]).max() <= 3.55 / 510


@pytest.mark.parametrize("name", ["splat", "ksplat", "spz", "compressed-ply"])
def test_a_store_may_drop_the_name(name: str, tmp_path: Path) -> None:
    """A node's store calls every file `source`: content alone has to tell."""
    splats = scene(64, 0)
    path = tmp_path / "source"
    WRITERS[name](path, splats)
    assert read_header(path).format.startswith(name)
    assert read(path).count == 64


WRITERS: dict[str, Callable[[Path, Splats], object]] = {
    "compressed-ply": files.write_compressed_ply,
    "splat": files.write_splat,
    "ksplat": lambda path, splats: files.write_ksplat(path, splats, 1),
    "ksplat-2": lambda path, splats: files.write_ksplat(path, splats, 2),
    "spz": lambda path, splats: files.write_spz(path, splats, 3),
    "spz-v4": lambda path, splats: files.write_spz(path, splats, 4),
    "ply": ply.write,
}


def test_a_folder_lists_every_format_from_1000_gaussians_on(tmp_path: Path) -> None:
    suffixes = {"compressed-ply": "ply", "ksplat-2": "ksplat", "spz-v4": "spz"}
    for name, write in WRITERS.items():
        for size, count in (("big", 1000), ("small", 999)):
            write(tmp_path / f"{size}-{name}.{suffixes.get(name, name)}", scene(count, 0))
    catalogue, skipped = build_catalogue(tmp_path)
    assert sorted(catalogue.entries) == sorted(f"big-{name}" for name in WRITERS)
    assert {entry.resident_bytes for entry in catalogue.entries.values()} == {80_000}
    assert len(skipped) == len(WRITERS)
    assert all("999 Gaussians are fewer than 1000" in line for line in skipped)


def db(a: np.ndarray, b: np.ndarray) -> float:  # type: ignore[type-arg]
    return -10 * math.log10(float(np.square(np.clip(a, 0, 1) - np.clip(b, 0, 1)).mean()) + 1e-12)


@pytest.mark.data
@pytest.mark.parametrize("name", list(WRITERS))
def test_the_same_scene_in_two_formats_is_the_same_picture(name: str, data_dir: Path, tmp_path: Path) -> None:
    """A foreign SOG of 3,000 Gaussians and SH 2, written in another format and read again: at least 40 dB (O6)."""
    splats = read(data_dir / "scenes/playbot/5_0")
    if name == "splat":  # it has no bands
        splats = make_splats(splats.means, splats.quaternions, splats.scales, splats.opacities, splats.sh[:, :1])
    WRITERS[name](tmp_path / "a", splats)
    again = read(tmp_path / "a")
    rasterizer = CpuRasterizer(1)
    for eye in ((2.0, -1.2, 2.0), (-1.5, -0.3, 1.8)):
        camera = look_at(eye, (0, -0.5, 0), (0, -1, 0), 50, 160, 160)
        first, second = (
            rasterizer(each, camera, (0.2, 0.3, 0.4), None, frozenset(), DEFAULT).rgb for each in (splats, again)
        )
        assert first.std() > 0.1
        assert db(first, second) >= 40, name
