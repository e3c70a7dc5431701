"""The compiled rasterizer agrees with the oracle, whatever the scene, the size and the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from renderer import cpu, cpu_blend, made, oracle
from renderer.camera import Camera, look_at
from renderer.constants import CONSTANTS, DEFAULT
from renderer.cpu import CpuRasterizer
from renderer.formats import read
from renderer.rasterizer import Frame, choose, to_uint8
from renderer.splats import Splats, make_splats
from tests.renderer.scenes import (
    front_camera,
    one_splat,
    random_camera,
    random_cases,
    random_splats,
    spheres,
)

BACKGROUND = (0.2, 0.4, 0.6)
ALL_LAYERS = frozenset({"rgb", "depth", "alpha"})
STEPS = 2 / 255


def frames(splats: Splats, camera: Camera, constants: str = DEFAULT.name) -> tuple[Frame, Frame]:
    named = CONSTANTS[constants]
    compiled = CpuRasterizer(1)(splats, camera, BACKGROUND, None, ALL_LAYERS, named)
    return oracle.rasterize(splats, camera, BACKGROUND, None, ALL_LAYERS, named), compiled


def assert_agree(splats: Splats, camera: Camera, constants: str = DEFAULT.name) -> Frame:
    truth, compiled = frames(splats, camera, constants)
    assert np.abs(truth.rgb - compiled.rgb).max() <= STEPS
    assert np.abs(truth.alpha - compiled.alpha).max() <= STEPS
    assert truth.depth is not None
    assert compiled.depth is not None
    nearer = np.minimum(truth.alpha, compiled.alpha)  # a faint splat more or less moves the depth by its share
    assert (np.abs(truth.depth - compiled.depth) * nearer <= 2 * STEPS * np.maximum(truth.depth, compiled.depth)).all()
    return compiled


@pytest.mark.parametrize("constants", list(CONSTANTS))
def test_agrees_with_the_oracle_on_200_random_scenes(constants: str) -> None:
    drawn = 0
    squares, values = 0.0, 0
    for seed, splats, camera in random_cases(200):
        truth, compiled = frames(splats, camera, constants)
        worst = float(np.abs(truth.rgb - compiled.rgb).max())
        assert worst <= STEPS, f"seed {seed}: off by {worst * 255:.2f} steps"
        assert np.abs(truth.alpha - compiled.alpha).max() <= STEPS
        drawn += bool(compiled.alpha.max() > 0.1)
        squares += float(((truth.rgb - compiled.rgb) ** 2).sum())
        values += truth.rgb.size
    assert drawn > 130  # the others look away or are one pixel large
    assert 10 * np.log10(values / squares) > 55


@pytest.mark.data
@pytest.mark.parametrize("eye", [(0.0, -1.0, -6.0), (3.0, -2.0, 0.0), (0.0, 0.0, 0.0)])
def test_agrees_with_the_oracle_on_a_trained_scene(data_dir: Path, eye: tuple[float, float, float]) -> None:
    splats = read(data_dir / "scenes/ply/train-1000.ply")
    frame = assert_agree(splats, look_at(eye, (0.5, 0, 1), (0, -1, 0), 60, 256, 160))
    assert frame.alpha.max() > 0.9


@pytest.mark.data
def test_agrees_with_the_oracle_on_the_robot(data_dir: Path) -> None:
    splats = read(data_dir / "scenes/playbot/5_0")
    frame = assert_agree(splats, look_at((2, -1.2, 2), (0, -0.5, 0), (0, -1, 0), 50, 160, 160))
    orange = (frame.rgb[..., 0] > 0.5) & (frame.rgb[..., 0] > 2.5 * frame.rgb[..., 2])
    assert 0.02 < orange.mean() < 0.2  # its body


def test_a_lone_opaque_splat_draws() -> None:
    frame = assert_agree(one_splat(scale=0.5, opacity=1.0), front_camera(33, 17))
    assert frame.alpha.max() == pytest.approx(0.999, abs=1e-4)


def test_needles_and_giants_keep_their_digits() -> None:
    """Long, thin and slanted: where a plain quadratic form in float32 loses the exponent."""
    rng = np.random.default_rng(3)
    count = 40
    scales = np.stack([np.full(count, 5.0), np.full(count, 1e-3), np.full(count, 1e-3)], 1)
    splats = make_splats(
        rng.normal(0, 1, (count, 3)).astype(np.float32),
        rng.normal(0, 1, (count, 4)).astype(np.float32),
        scales.astype(np.float32),
        rng.uniform(0.2, 1, count).astype(np.float32),
        rng.normal(0, 1, (count, 1, 3)).astype(np.float32),
    )
    assert_agree(splats, look_at((0, 0, -4), (0, 0, 0), (0, -1, 0), 60, 200, 150))
    far_off = replace(splats, scales=(splats.scales * np.float32(1e3)))
    frames(far_off, look_at((0, 0, -0.5), (0, 0, 0), (0, -1, 0), 170, 64, 64))  # absurd, but neither crash nor hang


def test_ties_in_depth_keep_the_order_of_the_file() -> None:
    splats = spheres([(0, 0, 2.0)] * 3, [0.5] * 3, [0.9] * 3, [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
    frame = assert_agree(splats, front_camera())
    assert frame.rgb[8, 8].argmax() == 0


def test_any_number_of_threads_gives_the_same_bytes() -> None:
    rng = np.random.default_rng(11)
    splats = random_splats(rng, 9000, 2)
    camera = random_camera(rng, 121, 77)
    results = [
        CpuRasterizer(threads)(splats, camera, BACKGROUND, None, ALL_LAYERS, DEFAULT) for threads in (1, 2, 3, 2, 1)
    ]
    for frame in results[1:]:
        assert frame.rgb.tobytes() == results[0].rgb.tobytes()
        assert frame.alpha.tobytes() == results[0].alpha.tobytes()


@pytest.mark.parametrize("threads", [1, 3])
def test_bands_of_depth_change_no_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = CpuRasterizer(threads)
    cases = [(splats, camera) for _, splats, camera in random_cases(40)]
    rng = np.random.default_rng(17)
    cases.append((random_splats(rng, 9000, 1), random_camera(rng, 70, 50)))
    cases.append(
        (spheres([(0, 0, 2.0)] * 300, [0.5] * 300, [0.4] * 300, [(1, 0, 0)] * 300), front_camera())
    )  # one depth
    whole = [draw(*case, BACKGROUND, None, ALL_LAYERS, DEFAULT) for case in cases]
    for band in (7, 100, 3000):
        monkeypatch.setattr(cpu, "BAND", band)
        for case, expected in zip(cases, whole, strict=True):
            frame = draw(*case, BACKGROUND, None, ALL_LAYERS, DEFAULT)
            assert frame.rgb.tobytes() == expected.rgb.tobytes()
            assert frame.alpha.tobytes() == expected.alpha.tobytes()
            assert frame.depth is not None
            assert expected.depth is not None
            assert frame.depth.tobytes() == expected.depth.tobytes()


def test_one_rasterizer_serves_several_callers_at_once() -> None:
    rng = np.random.default_rng(12)
    splats = random_splats(rng, 5000, 1)
    cameras = [random_camera(rng, 40 + i, 30) for i in range(6)]
    for rasterize in (CpuRasterizer(1), CpuRasterizer(2)):
        alone = [rasterize(splats, camera, BACKGROUND, None, frozenset(), DEFAULT) for camera in cameras]
        with ThreadPoolExecutor(4) as callers:
            together = list(
                callers.map(lambda c, r=rasterize: r(splats, c, BACKGROUND, None, frozenset(), DEFAULT), cameras * 3)
            )
        for i, frame in enumerate(together):
            assert frame.rgb.tobytes() == alone[i % 6].rgb.tobytes()


def test_a_frame_alone_is_drawn_by_all_threads_and_one_beside_another_by_its_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    splats, camera = random_splats(np.random.default_rng(13), 20_000, 1), front_camera(256, 256)
    rasterize = CpuRasterizer(2)
    blend, drew, first_began, second_ended = cpu_blend.blend, set[str](), threading.Event(), threading.Event()

    def watched(*arguments: Any) -> None:
        name = threading.current_thread().name
        drew.add(name)
        if name.startswith("render"):
            first_began.set()
            assert second_ended.wait(30)
        blend(*arguments)

    def frame() -> Frame:
        return rasterize(splats, camera, BACKGROUND, None, frozenset(), DEFAULT)

    monkeypatch.setattr(cpu_blend, "blend", watched)
    with ThreadPoolExecutor(1, "caller") as callers:
        first = callers.submit(frame)
        assert first_began.wait(30)
        second = frame()
        second_ended.set()
        assert first.result().rgb.tobytes() == second.rgb.tobytes()
    here = threading.current_thread().name
    assert {name for name in drew if not name.startswith("render")} == {here}


def test_nothing_in_view_is_the_background() -> None:
    for splats in (one_splat((0, 0, -3)), one_splat((50, 0, 1.0))):
        frame = assert_agree(splats, front_camera(5, 4))
        assert frame.alpha.max() == 0
        np.testing.assert_allclose(frame.rgb, np.broadcast_to(np.float32(BACKGROUND), (4, 5, 3)))
        assert frame.depth is not None
        assert frame.depth.max() == 0


def test_depth_is_there_only_when_asked_for() -> None:
    frame = CpuRasterizer(1)(one_splat(), front_camera(), BACKGROUND, None, frozenset({"rgb"}), DEFAULT)
    assert frame.depth is None
    assert (frame.rgb.shape, frame.alpha.shape) == ((16, 16, 3), (16, 16))


def test_a_cap_on_the_sh_degree_is_the_scene_without_its_higher_bands() -> None:
    rng = np.random.default_rng(7)
    splats, camera = random_splats(rng, 80, 3), random_camera(rng, 40, 40)
    cut = replace(splats, sh=np.ascontiguousarray(splats.sh[:, :4]))
    capped = CpuRasterizer(1)(splats, camera, BACKGROUND, 1, frozenset(), DEFAULT)
    np.testing.assert_array_equal(capped.rgb, CpuRasterizer(1)(cut, camera, BACKGROUND, None, frozenset(), DEFAULT).rgb)
    full = CpuRasterizer(1)(splats, camera, BACKGROUND, None, frozenset(), DEFAULT)
    assert np.abs(full.rgb - capped.rgb).max() > 0.01


def test_moving_scene_and_camera_together_changes_nothing() -> None:
    rng = np.random.default_rng(9)
    splats, camera = random_splats(rng, 120, 2), random_camera(rng, 48, 48)
    shift = np.array([8.0, -4.0, 16.0])
    moved = replace(splats, means=(splats.means + shift).astype(np.float32))
    view = camera.view.copy()
    view[:3, 3] -= view[:3, :3] @ shift
    here = CpuRasterizer(1)(splats, camera, BACKGROUND, None, frozenset(), DEFAULT)
    there = CpuRasterizer(1)(moved, replace(camera, view=view), BACKGROUND, None, frozenset(), DEFAULT)
    assert np.abs(here.rgb - there.rgb).max() <= STEPS


def test_two_off_axis_halves_join_to_the_whole() -> None:
    rng = np.random.default_rng(21)
    splats = random_splats(rng, 150, 1)
    whole = look_at((0, -1, -4), (0, 0, 0), (0, -1, 0), 50, 64, 48)
    half = replace(whole, width=32)
    right = replace(half, cx=whole.cx - 32)
    draw = CpuRasterizer(1)
    joined = np.concatenate(
        [draw(splats, part, BACKGROUND, None, frozenset(), DEFAULT).rgb for part in (half, right)], axis=1
    )
    error = joined - draw(splats, whole, BACKGROUND, None, frozenset(), DEFAULT).rgb
    assert 10 * np.log10(1 / np.mean(error**2)) > 45  # not more: the clamp of the Jacobian follows the frustum


def test_halves_of_a_scene_without_giants_join_to_55_db() -> None:
    splats = made.make("knot", 20_000)
    whole = look_at(made.EYE, made.TARGET, made.UP, 45, 256, 192)
    half = replace(whole, width=128)
    draw = CpuRasterizer(1)
    parts = [half, replace(half, cx=whole.cx - 128)]
    joined = np.concatenate([draw(splats, p, BACKGROUND, None, frozenset(), DEFAULT).rgb for p in parts], axis=1)
    error = joined - draw(splats, whole, BACKGROUND, None, frozenset(), DEFAULT).rgb
    assert 10 * np.log10(1 / np.mean(error**2)) >= 55


def test_the_order_of_the_file_changes_nothing_but_ties() -> None:
    rng = np.random.default_rng(31)
    splats, camera = random_splats(rng, 200, 1), random_camera(rng, 60, 50)
    order = rng.permutation(splats.count)
    names = ("means", "quaternions", "scales", "opacities", "sh", "covariances")
    shuffled = replace(splats, **{name: np.ascontiguousarray(getattr(splats, name)[order]) for name in names})
    draw = CpuRasterizer(1)
    here, there = (draw(scene, camera, BACKGROUND, None, frozenset(), DEFAULT).rgb for scene in (splats, shuffled))
    assert here.tobytes() == there.tobytes()  # no two of these depths are the same float32


def test_alpha_is_bounded_grows_with_splats_and_the_background_is_linear() -> None:
    draw = CpuRasterizer(1)
    for _, splats, camera in random_cases(40):
        dark, light, odd = (
            draw(splats, camera, colour, None, frozenset(), DEFAULT)
            for colour in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.25, 0.5, 0.75))
        )
        assert dark.alpha.min() >= 0
        assert dark.alpha.max() <= 1
        np.testing.assert_allclose(light.rgb - dark.rgb, np.repeat(1 - dark.alpha[..., None], 3, axis=2), atol=1e-5)
        mixed = dark.rgb + (light.rgb - dark.rgb) * np.array([0.25, 0.5, 0.75], np.float32)
        np.testing.assert_allclose(odd.rgb, mixed, atol=1e-5)
        # Light through the nearest half of the scene is never less than through all of it.
        depths = splats.means @ camera.view[2, :3].astype(np.float32) + np.float32(camera.view[2, 3])
        near = np.sort(np.argsort(depths, kind="stable")[: max(1, splats.count // 2)])
        names = ("means", "quaternions", "scales", "opacities", "sh", "covariances")
        fewer = replace(splats, **{name: np.ascontiguousarray(getattr(splats, name)[near]) for name in names})
        first = draw(fewer, camera, (0.0, 0.0, 0.0), None, frozenset(), DEFAULT)
        assert (first.alpha <= dark.alpha + 1e-5).all()


def test_a_hundred_frames_on_one_and_on_four_threads_are_the_same_bytes() -> None:
    rng = np.random.default_rng(13)
    splats, camera = random_splats(rng, 6000, 2), random_camera(rng, 90, 61)
    rasterizers = [CpuRasterizer(1), CpuRasterizer(4)]
    seen = {
        rasterizers[turn % 2](splats, camera, BACKGROUND, None, ALL_LAYERS, DEFAULT).rgb.tobytes()
        for turn in range(100)
    }
    assert len(seen) == 1


def test_threads_come_from_the_environment_and_are_named_when_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.THREADS_ENV, "3")
    assert CpuRasterizer().threads == 3
    assert CpuRasterizer(1).threads == 1
    monkeypatch.setenv(cpu.THREADS_ENV, "many")
    with pytest.raises(ValueError, match=f"{cpu.THREADS_ENV} is 'many'"):
        CpuRasterizer()
    monkeypatch.delenv(cpu.THREADS_ENV)
    assert 1 <= CpuRasterizer().threads <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "granted"),
    [({"cpu.max": "150000 100000"}, 1), ({"cpu.max": "max 100000"}, 8), ({"cpu.max": "50000 100000"}, 1), ({}, 8)],
)
def test_a_quota_of_the_cgroup_cuts_the_threads(
    files: dict[str, str], granted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cpu, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert cpu.granted_cpus() == granted


def test_auto_is_the_cpu_where_there_is_no_gpu_and_the_names_are_the_contract() -> None:
    assert choose("oracle") is oracle.rasterize
    assert isinstance(choose("cpu"), CpuRasterizer)


def test_quantising_rounds_and_clips() -> None:
    values = np.array([[[-0.1, 0.0, 0.5 / 255 - 1e-4]], [[1 / 255, 1.0, 7.0]]], np.float32)
    assert to_uint8(values).tolist() == [[[0, 0, 0]], [[1, 255, 255]]]


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    """All that `compile_kernels` left in the cache is hit by real frames of one and of two threads."""
    code = """
import sys
import threading
import numpy as np
from renderer import cpu, cpu_bin, cpu_blend, cpu_project
from renderer.constants import DEFAULT
from renderer.formats import read
from tests.renderer.scenes import random_camera, random_splats
if sys.argv[1] == "compile":
    cpu.compile_kernels()
else:
    rng = np.random.default_rng(0)
    splats = random_splats(rng, 5000, 3, antialiased=True)
    for threads in (1, 2):
        for layers in (frozenset(), frozenset({"depth"})):
            camera = random_camera(rng, 33, 65)
            cpu.CpuRasterizer(threads)(splats, camera, (0, 0, 0), 2, layers, DEFAULT)
loops = [f for m in (cpu_project, cpu_bin, cpu_blend) for f in vars(m).values() if hasattr(f, "stats")]
print(len(loops), sum(sum(f.stats.cache_misses.values()) for f in loops), [len(f.signatures) for f in loops])
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    root = Path(__file__).resolve().parents[2]

    def loops(step: str) -> tuple[int, int, str]:
        done = subprocess.run(
            [sys.executable, "-c", code, step], env=environment, cwd=root, capture_output=True, text=True, check=True
        )
        count, misses, signatures = done.stdout.split(maxsplit=2)
        return int(count), int(misses), signatures

    compiled, warm = loops("compile"), loops("render")
    assert compiled[0] == warm[0] >= 7
    assert compiled[1] >= 7
    assert warm[1] == 0
    assert "2" not in warm[2]
