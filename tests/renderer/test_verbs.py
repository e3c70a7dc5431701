"""`splatfleet render`, `scene` and `bench renderer` as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from renderer import packed
from renderer.formats import ply
from splatfleet import bench, render, scene
from tests.conftest import REPOSITORY
from tests.renderer.scenes import one_splat


def call(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])  # type: ignore[arg-type]


@pytest.fixture
def knot(tmp_path: Path) -> Path:
    path = tmp_path / "knot.ply"
    made = call(scene.COMMAND, "make", path, "--shape", "knot", "--gaussians", 2000, "--seed", 5)
    assert made.exit_code == 0, made.output
    return path


def test_pictures_of_every_suffix_are_of_the_same_frame(knot: Path, tmp_path: Path) -> None:
    view = [
        "--eye",
        "-2,-1.5,2",
        "--target",
        "0,-0.5,0",
        "--fov-y",
        "45",
        "--size",
        "80x60",
        "--background",
        "0.1,0.2,0.9",
    ]
    for name in ("a.npy", "a.png", "a.jpg", "a.webp"):
        done = call(render.COMMAND, knot, *view, "--rasterizer", "cpu", "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
    floats = np.load(tmp_path / "a.npy")
    assert (floats.shape, floats.dtype) == ((60, 80, 3), np.float32)
    png = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.abs(png - np.clip(floats, 0, 1) * 255).max() <= 0.51
    assert png[0, 0].tolist() == [26, 51, 230]  # the background, rounded
    assert np.abs(np.asarray(Image.open(tmp_path / "a.jpg")).astype(int) - png).mean() < 8
    oracle = call(render.COMMAND, knot, *view, "--rasterizer", "oracle", "--out", tmp_path / "o.npy")
    assert oracle.exit_code == 0, oracle.output
    assert np.abs(np.load(tmp_path / "o.npy") - floats).max() <= 2 / 255


def test_fov_y_is_in_degrees_and_the_principal_point_in_the_middle(tmp_path: Path) -> None:
    """A splat on the upper edge of the field of view lies half on the first row."""
    splats = one_splat((0.0, -1.0, 2.0), scale=0.01, opacity=0.99)  # y points down: above the axis
    packed.write(splats, tmp_path / "one")
    fov = 2 * np.degrees(np.arctan(0.5))
    done = call(
        render.COMMAND, tmp_path / "one", "--eye", "0,0,0", "--target", "0,0,1", "--fov-y", fov,
        "--size", "65x40", "--out", tmp_path / "a.npy",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    row, column = np.unravel_index(np.load(tmp_path / "a.npy").sum(axis=2).argmax(), (40, 65))
    assert (row, column) == (0, 32)


@pytest.mark.data
def test_the_robot_of_the_readme(data_dir: Path, tmp_path: Path) -> None:
    """As a process of its own, from the command line to the picture."""
    command = [
        sys.executable, "-m", "splatfleet", "render", str(data_dir / "scenes/playbot/3_0"), "--eye", "2,-1.2,2",
        "--target", "0,-0.5,0", "--up", "0,-1,0", "--fov-y", "50", "--size", "128x128", "--background", "0,0,0",
        "--rasterizer", "auto", "--out", str(tmp_path / "robot.png"), "--json", str(tmp_path / "robot.json"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (0, "")
    picture = np.asarray(Image.open(tmp_path / "robot.png")).astype(int)
    body = picture[35:60, 55:75]
    assert body[..., 0].mean() > 1.5 * body[..., 2].mean()  # its orange body
    assert picture[:15].max() == 0
    figures = json.loads((tmp_path / "robot.json").read_text())
    assert figures["gaussians"] == 31000
    assert 0.25 < figures["covered_ratio"] < 0.4


FAILURES = [
    (["/nowhere.ply"], 1, "No such file"),
    (["{knot}", "--size", "0x10"], 2, "width is 0"),
    (["{knot}", "--size", "big"], 2, "--size is 'big'"),
    (["{knot}", "--eye", "1,2"], 2, "--eye is '1,2'"),
    (["{knot}", "--background", "1,2,nan"], 2, "--background is '1,2,nan'"),
    (["{knot}", "--background", "0,0,1.5"], 2, "--background is '0,0,1.5', expected three numbers from 0 to 1"),
    (["{knot}", "--gaussian-budget", "0"], 2, "--gaussian-budget"),
    (["{knot}", "--eye", "0,0,0", "--target", "0,0,0"], 2, "up must not"),
    (["{knot}", "--fov-y", "180"], 2, "fov_y is 180"),
    (["{knot}", "--out", "a.bmp"], 2, "expected a name that ends in"),
    (["{knot}", "--out", "/nowhere/a.png"], 1, "--out /nowhere/a.png"),
    (["{knot}", "--rasterizer", "magic"], 2, "magic"),
    (["{cut}"], 1, "length is"),
    (["{spz}"], 1, "magic is"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), FAILURES)
def test_a_wrong_call_is_one_line_and_its_exit_code(
    arguments: list[str], code: int, said: str, knot: Path, tmp_path: Path
) -> None:
    (tmp_path / "cut.ply").write_bytes(knot.read_bytes()[:5000])
    (tmp_path / "a.spz").write_bytes(b"\x1f\x8b")
    names = {"knot": knot, "cut": tmp_path / "cut.ply", "spz": tmp_path / "a.spz"}
    filled = [argument.format(**names) for argument in arguments]
    if "--out" not in filled:
        filled += ["--out", str(tmp_path / "a.png")]
    done = call(render.COMMAND, *filled)
    assert done.exit_code == code
    error = [line for line in done.output.splitlines() if line.startswith("Error")]
    assert len(error) == 1
    assert said in error[0]
    assert "Traceback" not in done.output


def test_budget_degree_and_constants_change_the_picture(knot: Path, tmp_path: Path) -> None:
    opaque = tmp_path / "opaque.ply"
    ply.write(opaque, one_splat((0, -0.5, 0), 0.6, 1.0))

    def picture(path: Path, *flags: object) -> tuple[np.ndarray, int]:
        out, figures = tmp_path / "a.npy", tmp_path / "a.json"
        done = call(render.COMMAND, path, "--size", "96x96", "--out", out, "--json", figures, *flags)
        assert done.exit_code == 0, done.output
        return np.load(out), json.loads(figures.read_text())["drawn_gaussians"]

    whole, drawn = picture(knot)
    sampled, drawn_of_sample = picture(knot, "--gaussian-budget", 500)
    assert (drawn, drawn_of_sample) == (2000, 500)
    assert 0.001 < np.abs(sampled - whole).mean() < 0.1
    assert np.abs(picture(knot, "--sh-degree", 0)[0] - whole).max() > 0.01
    capped = picture(opaque, "--constants", "main")[0]
    assert capped.max() / picture(opaque)[0].max() == pytest.approx(0.99 / 0.999, abs=1e-4)


def test_scene_info_and_validate(knot: Path, tmp_path: Path) -> None:
    told = call(scene.COMMAND, "info", knot, "--format", "json")
    assert json.loads(told.output) == {
        "format": "ply",
        "gaussians": 2000,
        "sh_degree": 2,
        "disk_bytes": knot.stat().st_size,
        "resident_bytes": 352_000,
    }
    assert "2,000" in call(scene.COMMAND, "info", knot).output
    assert call(scene.COMMAND, "validate", knot).exit_code == 0
    knot.write_bytes(knot.read_bytes()[:-3])
    refused = call(scene.COMMAND, "validate", knot)
    assert refused.exit_code == 1
    assert "length is" in refused.output
    assert call(scene.COMMAND, "info", tmp_path / "absent").exit_code == 1


def test_scene_convert_goes_both_ways(knot: Path, tmp_path: Path) -> None:
    assert call(scene.COMMAND, "convert", knot, tmp_path / "knot.packed").exit_code == 0
    assert call(scene.COMMAND, "convert", tmp_path / "knot.packed", tmp_path / "again.ply").exit_code == 0
    again = call(scene.COMMAND, "info", tmp_path / "again.ply", "--format", "json")
    assert json.loads(again.output)["gaussians"] == 2000


def test_bench_says_on_what_it_measured(tmp_path: Path) -> None:
    done = call(
        bench.COMMAND, "renderer", "--scenes", tmp_path, "--frames", 3, "--size", "64x48", "--threads", 1,
        "--gaussians", 2000, "--json", tmp_path / "b.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "b.json").read_text())
    assert figures["machine"]["cpus"] >= 1
    assert figures["calibration_ms"] > 0
    (row,) = figures["rows"]
    assert (row["scene"], row["gaussians"], row["threads"], row["size"]) == ("made-knot-40k", 40_000, 1, "64x48")
    assert 0 < row["frame_ms_best"] <= row["frame_ms_p50"] <= row["frame_ms_p99"]
    assert row["fps"] == pytest.approx(1e3 / row["frame_ms_p50"])
    assert {"ply", "packed", "splat"} <= set(figures["load_ms"])
    assert min(figures["load_ms"].values()) > 0
    assert len(figures["store"]) == 6
    if figures["overhead"] is not None:  # a Triton runs here
        assert 0 < figures["overhead_ms_p50"] < figures["overhead"]["frame_ms_p50"]
    assert "calibration loop" in done.output


def test_a_benchmark_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "splatfleet", "bench", "renderer", "--scenes", str(tmp_path), "--frames", "3"]
    process = subprocess.Popen(
        [*command, "--size", "64x48", "--gaussians", "400000"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith(("loads:", "overhead:")):
        assert line, "it ended by itself"
    time.sleep(0.5)
    assert list(tmp_path.glob("splatfleet-bench-*"))
    process.terminate()
    assert process.wait(30) == 143
    assert not list(tmp_path.glob("splatfleet-bench-*"))
    process.stderr.close()
