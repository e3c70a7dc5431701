"""The packed layout: round trip, damage, and a write that nobody sees half of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from renderer import packed
from renderer.formats import read, read_header
from renderer.splats import SceneFileError, Splats
from tests.renderer.scenes import random_splats

ARRAYS = ("means", "quaternions", "scales", "opacities", "sh", "covariances")


def scene(degree: int = 2) -> Splats:
    return random_splats(np.random.default_rng(degree), 33, degree, antialiased=degree == 1)


@pytest.mark.parametrize("degree", range(4))
def test_what_is_written_is_read_back_bit_for_bit(degree: int, tmp_path: Path) -> None:
    splats = scene(degree)
    packed.write(splats, tmp_path / "packed")
    again = packed.read(tmp_path / "packed", verify=True)
    for name in ARRAYS:
        assert getattr(again, name).tobytes() == getattr(splats, name).tobytes()
        assert not getattr(again, name).flags.writeable
    assert again.antialiased == splats.antialiased
    assert (tmp_path / "packed").stat().st_size == splats.nbytes + 64
    assert len({id(getattr(again, name).base) for name in ARRAYS}) == 1  # one slab: eviction gives back one block
    assert read_header(tmp_path / "packed").resident_bytes == splats.nbytes
    assert read(tmp_path / "packed").count == 33
    assert [file.name for file in tmp_path.iterdir()] == ["packed"]


def test_damage_to_the_payload_is_found_when_asked_to_verify(tmp_path: Path) -> None:
    path = tmp_path / "packed"
    packed.write(scene(), path)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    packed.read(path)
    with pytest.raises(SceneFileError, match="sha256"):
        packed.read(path, verify=True)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"X", "magic"),
        (8, b"\x09", "version is 9; this build reads 1"),
        (12, b"\x07", "SH degree is 7"),
        (24, b"\x00", "Gaussians is 0"),
        (24, b"\xff", "length is"),
        (30, b"\xff", "Gaussians is"),
    ],
)
def test_a_header_that_lies_is_refused(at: int, value: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "packed"
    packed.write(scene(), path)
    data = bytearray(path.read_bytes())
    data[at : at + 1] = value
    path.write_bytes(data)
    with pytest.raises(SceneFileError, match=message):
        packed.read(path)


@pytest.mark.parametrize("keep", [0, 10, 63, 64, 500, -1])
def test_a_cut_off_file_is_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "packed"
    packed.write(scene(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SceneFileError):
        packed.read(path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "packed"
    packed.write(scene(1), path)
    before = path.read_bytes()
    path.with_name("folder").mkdir()
    with pytest.raises(OSError):
        packed.write(scene(2), path.with_name("folder"))  # a folder cannot be replaced by a file
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "packed"]
