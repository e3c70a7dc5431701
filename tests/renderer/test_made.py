"""Made scenes: the same arguments give the same bytes, and there is something to see from every side."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from renderer import made
from renderer.camera import look_at
from renderer.constants import DEFAULT
from renderer.cpu import CpuRasterizer
from renderer.formats import ply, read
from renderer.made_shapes import SHAPES


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_shape_is_seeded_and_fills_its_frame(shape: str, tmp_path: Path) -> None:
    splats = made.make(shape, 5000, seed=3)
    assert (splats.count, splats.sh_degree) == (5000, 2)
    ply.write(tmp_path / "a.ply", splats)
    ply.write(tmp_path / "b.ply", made.make(shape, 5000, seed=3))
    ply.write(tmp_path / "c.ply", made.make(shape, 5000, seed=4))
    first = (tmp_path / "a.ply").read_bytes()
    assert first == (tmp_path / "b.ply").read_bytes()
    assert first != (tmp_path / "c.ply").read_bytes()
    np.testing.assert_allclose(read(tmp_path / "a.ply").means, splats.means)
    assert np.abs(splats.means - np.float32(made.TARGET)).max() < 1.3
    for turn in range(4):
        angle = math.pi / 2 * turn + 0.7
        camera = look_at((2.7 * math.cos(angle), -1.5, 2.7 * math.sin(angle)), made.TARGET, made.UP, 45, 96, 96)
        frame = CpuRasterizer(1)(splats, camera, (0.0, 0.0, 0.0), None, frozenset(), DEFAULT)
        assert 0.2 < frame.alpha.mean() < 0.8
        assert frame.rgb[frame.alpha > 0.9].std() > 0.05  # not one flat colour


def test_shapes_and_seeds_differ_in_colour() -> None:
    means = [made.make(shape, 1000, seed).sh[:, 0].mean(axis=0) for shape in SHAPES for seed in (0, 1)]
    apart = [np.abs(a - b).max() for i, a in enumerate(means) for b in means[:i]]
    assert min(apart) > 1e-3


@pytest.mark.parametrize(("shape", "gaussians"), [("cube", 1000), ("knot", 10)])
def test_wrong_arguments_are_named(shape: str, gaussians: int) -> None:
    with pytest.raises(ValueError, match=r"shape is 'cube'|gaussians is 10"):
        made.make(shape, gaussians)
