"""SOG: facts of foreign scenes, a file written from the description, and files that lie."""

from __future__ import annotations

import json
import math
import re
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from renderer.formats import read, read_header
from renderer.splats import SceneFileError, resident_bytes
from tests.renderer import sog_files

FACTS = {
    "playbot/0_0": (500_000, 2, "sog-v2", (-1.0307, -1.0823, -1.0383), (1.0329, 0.0497, 1.0410), 0.678, 0.00148),
    "playbot/2_0": (125_000, 2, "sog-v2", (-1.0283, -1.0816, -1.0350), (1.0311, 0.0461, 1.0368), 0.828, 0.00248),
    "playbot/6_0": (1_873, 2, "sog-v2", (-1.0226, -1.0745, -1.0236), (1.0225, 0.0374, 1.0287), 0.992, 0.0168),
    "playcanvas-logo": (307_128, 0, "sog-v1", (-1.5348, -2.7817, -0.5768), (1.5348, 0.2956, 0.5768), 0.825, 0.00182),
}


@pytest.mark.data
@pytest.mark.parametrize("path", list(FACTS))
def test_foreign_scenes_are_what_is_known_of_them(data_dir: Path, path: str) -> None:
    gaussians, degree, name, low, high, opacity, scale = FACTS[path]
    header = read_header(data_dir / "scenes" / path)
    assert (header.gaussians, header.sh_degree, header.format) == (gaussians, degree, name)
    assert header.disk_bytes == sum(f.stat().st_size for f in (data_dir / "scenes" / path).iterdir())
    splats = read(data_dir / "scenes" / path)
    assert splats.nbytes == header.resident_bytes == resident_bytes(gaussians, degree)
    np.testing.assert_allclose(splats.means.min(0), low, atol=1e-4)
    np.testing.assert_allclose(splats.means.max(0), high, atol=1e-4)
    assert np.median(splats.opacities) == pytest.approx(opacity, abs=1e-3)
    assert np.median(splats.scales) == pytest.approx(scale, rel=5e-3)


def test_every_field_is_decoded_as_described(tmp_path: Path) -> None:
    rows = sog_files.columns()
    splats = read(sog_files.write(tmp_path))
    assert (splats.count, splats.sh_degree, splats.antialiased) == (sog_files.COUNT, 1, True)
    palette = sog_files.centroids()
    for i in range(sog_files.COUNT):
        for axis in range(3):
            steps = int(rows["means_l"][i, axis]) + 256 * int(rows["means_u"][i, axis])
            low, high = sog_files.MINS[axis], sog_files.MAXS[axis]
            value = low + (high - low) * steps / 65535
            assert splats.means[i, axis] == pytest.approx(math.copysign(math.expm1(abs(value)), value), rel=1e-5)
            assert splats.scales[i, axis] == pytest.approx(
                math.exp(sog_files.CODEBOOK[rows["scales"][i, axis]]), rel=1e-5
            )
            assert splats.sh[i, 0, axis] == pytest.approx(sog_files.SH_CODEBOOK[rows["sh0"][i, axis]], abs=1e-6)
            label = int(rows["shN"][i, 0]) | int(rows["shN"][i, 1]) << 8
            for band in range(3):
                byte = palette[label // 64, label % 64 * 3 + band, axis]
                assert splats.sh[i, 1 + band, axis] == pytest.approx(sog_files.SH_CODEBOOK[byte], abs=1e-6)
        assert splats.opacities[i] == pytest.approx(rows["sh0"][i, 3] / 255)
        stored = [(int(v) / 255 * 2 - 1) / math.sqrt(2) for v in rows["quats"][i, :3]]
        largest = int(rows["quats"][i, 3]) - 252
        quaternion = [*stored[:largest], math.sqrt(1 - sum(v * v for v in stored)), *stored[largest:]]
        np.testing.assert_allclose(splats.quaternions[i], quaternion, atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "robot/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_the_folder_in_one_file(prefix: str, compression: int, tmp_path: Path) -> None:
    folder = sog_files.write(tmp_path / "folder")
    packed = sog_files.pack(folder, tmp_path / "a.sog", prefix, compression)
    np.testing.assert_array_equal(read(packed).sh, read(folder).sh)
    header = read_header(packed)
    assert (header.format, header.disk_bytes) == ("sog-v2", packed.stat().st_size)
    np.testing.assert_array_equal(read(folder / "meta.json").means, read(folder).means)


def changed(**changes: Any) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        content = sog_files.meta()
        for path, value in changes.items():
            part, _, key = path.partition("__")
            if key:
                content[part][key] = value
            else:
                content[part] = value
        (folder / "meta.json").write_text(json.dumps(content))

    return damage


def textures(**rows: Any) -> Callable[[Path], object]:
    return lambda folder: sog_files.write(folder, **rows)


def wrong_tag() -> Callable[[Path], object]:
    rows = sog_files.columns()["quats"]
    rows[3, 3] = 251
    return textures(quats=rows)


def wrong_label() -> Callable[[Path], object]:
    rows = sog_files.columns()["shN"]
    rows[2, :2] = (255, 255)
    return textures(shN=rows)


def huge_canvas(folder: Path) -> None:
    """A WebP header that claims 16384 x 16384 pixels: a gigabyte, if a decoder believes it."""
    data = bytearray((folder / "means_l.webp").read_bytes())
    at = data.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at, bits & ~0x0FFFFFFF | 0x3FFF | 0x3FFF << 14)
    if data[12:16] == b"VP8X":
        data[24:30] = b"\xff\x3f\x00\xff\x3f\x00"
    (folder / "means_l.webp").write_bytes(bytes(data))


def cut(name: str, keep: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


DAMAGED: list[tuple[Callable[[Path], object], str]] = [
    (changed(version=3), "version is 3"),
    (changed(count=0), "count is 0"),
    (changed(count=17), "size of means_l.webp is 4x4; 17 Gaussians need"),
    (changed(count=199_999_999), "size of means_l.webp is 4x4"),
    (changed(count=10**15), "count is 1000000000000000"),
    (changed(count="5"), "count is 5"),
    (changed(count=True), "count is True"),
    (changed(means=[]), "means.files is absent"),
    (changed(means__files=["means_l.webp"]), "expected at least 2 file names"),
    (changed(means__files=["../a.webp", "b.webp"]), "file name is '../a.webp'"),
    (changed(means__files=["/etc/hostname", "b.webp"]), "file name is '/etc/hostname'"),
    (changed(means__files=["absent.webp", "b.webp"]), "absent.webp is No such file"),
    (changed(means__mins=[0, 1]), "means.mins is shape (2,)"),
    (changed(means__mins=[0, 1, "x"]), "means.mins is"),
    (changed(means__maxs=[1e30, 1, 1]), "position of Gaussian"),
    (changed(scales__codebook=[0.0] * 255), "scales.codebook is shape (255,)"),
    (changed(scales__codebook=[50.0] * 256), "scale of Gaussian 0 is"),
    (changed(shN__files=["sh0.webp", "shN_labels.webp"]), "width of sh0.webp is 4"),
    (wrong_tag(), "rotation of Gaussian 3 is tag 251"),
    (wrong_label(), "SH label of Gaussian 2 is 65535; the palette has 128"),
    (huge_canvas, "size of means_l.webp is 16384x16384"),
    (cut("means_l.webp", 20), "means_l.webp is not a WebP"),
    (cut("quats.webp", 40), "quats.webp is"),
    (cut("meta.json", 50), "meta.json is"),
    (lambda folder: (folder / "meta.json").write_text("[1]"), "meta.json is list"),
    (lambda folder: (folder / "meta.json").write_text("[" * 100_000), "meta.json is"),
    (lambda folder: (folder / "meta.json").write_bytes(b"\xff\xfe{}"), "meta.json is"),
    (lambda folder: (folder / "meta.json").write_text(" " * 5_000_000), "size of meta.json is 5000000 bytes"),
    (lambda folder: (folder / "sh0.webp").unlink(), "sh0.webp is No such file"),
    (lambda folder: sog_files.save(folder / "quats.webp", np.zeros((2, 2, 4), np.uint8)), "size of quats.webp is 2x2"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGED)
def test_a_damaged_or_lying_scene_is_refused_in_one_line(
    damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = sog_files.write(tmp_path / "folder")
    damage(folder)
    tracemalloc.start()
    try:
        for path in (folder, sog_files.pack(folder, tmp_path / "a.sog")):
            with pytest.raises(SceneFileError) as caught:
                read(path)
            assert "\n" not in str(caught.value)
            if path == folder:
                assert re.search(re.escape(message), str(caught.value)), str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


def test_lossy_webp_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    folder = sog_files.write(tmp_path)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "scales.webp", "WEBP", quality=80)
    with pytest.raises(SceneFileError, match="lossy"):
        read_header(folder)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.sog"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", b" " * 4_000_000 + b"{}")
    tracemalloc.start()
    try:
        with pytest.raises(SceneFileError, match=r"size of meta.json is 4000002 bytes"):
            read_header(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    with zipfile.ZipFile(bomb, "w") as archive:
        for i in range(1000):
            archive.writestr(f"{i}.webp", b"")
    with pytest.raises(SceneFileError, match="members of the zip is 1000"):
        read(bomb)


def test_a_member_that_lies_of_its_size_is_refused(tmp_path: Path) -> None:
    """The directory of the zip says 300 bytes, the deflated stream holds 4 MB: reading stops at what was said."""
    path = tmp_path / "a.sog"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", b" " * 4_000_000)
    data = path.read_bytes().replace(struct.pack("<I", 4_000_000), struct.pack("<I", 300))
    path.write_bytes(data)
    with pytest.raises(SceneFileError, match=r"meta.json is"):
        read(path)


@pytest.mark.parametrize("keep", [3, 30, 200, -30])
def test_a_cut_off_zip_is_refused(keep: int, tmp_path: Path) -> None:
    path = sog_files.pack(sog_files.write(tmp_path / "folder"), tmp_path / "a.sog")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SceneFileError):
        read(path)
