"""A Gaussian budget draws an even sample, grown, and the same one on every rasterizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from renderer import oracle
from renderer.camera import look_at
from renderer.constants import DEFAULT
from renderer.cpu import CpuRasterizer
from renderer.formats import read
from renderer.sample import is_drawn, sample_of
from renderer.splats import Splats
from tests.renderer.scenes import random_cases

BLACK = (0.0, 0.0, 0.0)


def drawn(count: int, budget: int) -> np.ndarray:
    return np.flatnonzero(is_drawn(np.arange(count), sample_of(count, budget).limit))


@pytest.mark.parametrize("count", [7, 1000, 4099, 250_000])
def test_a_budget_is_met_from_below_and_evenly(count: int) -> None:
    for budget in {1, 5, count // 100 + 1, count // 3, count - 1}:
        found = drawn(count, budget)
        assert budget - 7 <= len(found) <= budget
        assert len(found) > 0
        if len(found) > 50:  # no stretch of the file is left out
            assert np.diff(found).max() <= 3 * count / len(found)


def test_no_budget_and_one_that_is_large_enough_change_nothing() -> None:
    _, splats, camera = next(random_cases(1))
    whole = CpuRasterizer(1)(splats, camera, BLACK, None, frozenset(), DEFAULT).rgb.tobytes()
    for budget in (splats.count, 10**8):
        cut = replace(splats, budget=budget)
        assert CpuRasterizer(1)(cut, camera, BLACK, None, frozenset(), DEFAULT).rgb.tobytes() == whole


def only(splats: Splats, budget: int) -> Splats:
    """What the budget draws, as a scene of its own."""
    keep = drawn(splats.count, budget)
    growth = sample_of(splats.count, budget).growth
    names = ("means", "quaternions", "scales", "opacities", "sh", "covariances")
    cut = replace(splats, **{name: np.ascontiguousarray(getattr(splats, name)[keep]) for name in names})
    return replace(cut, scales=cut.scales * np.float32(growth**0.5), covariances=(cut.covariances * np.float32(growth)))


def test_every_rasterizer_draws_the_same_sample() -> None:
    differ = 0
    for _, splats, camera in random_cases(60):
        if splats.count < 20:
            continue
        budget = splats.count // 2
        alone, cut = only(splats, budget), replace(splats, budget=budget)
        frames = [
            rasterize(scene, camera, BLACK, None, frozenset(), DEFAULT).rgb
            for rasterize in (CpuRasterizer(1), oracle.rasterize)
            for scene in (cut, alone)
        ]
        for frame in frames[1:]:
            assert np.abs(frame - frames[0]).max() <= 2 / 255
        differ += (
            np.abs(oracle.rasterize(splats, camera, BLACK, None, frozenset(), DEFAULT).rgb - frames[0]).max() > 0.1
        )
    assert differ > 15


@pytest.mark.data
@pytest.mark.parametrize(("share", "least_db"), [(2, 27), (4, 24), (8, 21.5)])
def test_a_grown_sample_is_closer_to_the_picture_than_the_largest_gaussians(
    share: int, least_db: float, data_dir: Path
) -> None:
    splats = read(data_dir / "scenes/playbot/3_0")
    camera = look_at((2, -1.2, 2), (0, -0.5, 0), (0, -1, 0), 50, 256, 256)
    draw = CpuRasterizer(1)
    whole = np.clip(draw(splats, camera, BLACK, None, frozenset(), DEFAULT).rgb, 0, 1)

    def quality_db(scene: Splats) -> float:
        error = np.clip(draw(scene, camera, BLACK, None, frozenset(), DEFAULT).rgb, 0, 1) - whole
        return float(10 * np.log10(1 / np.mean(error**2)))

    budget = splats.count // share
    weight = splats.opacities * np.sort(splats.scales, axis=1)[:, 1:].prod(axis=1)
    keep = np.sort(np.argsort(-weight)[:budget])
    names = ("means", "quaternions", "scales", "opacities", "sh", "covariances")
    largest = replace(splats, **{name: np.ascontiguousarray(getattr(splats, name)[keep]) for name in names})
    found = quality_db(replace(splats, budget=budget))
    assert found > least_db
    assert found > quality_db(largest)
