"""The parts of the GPU script that need no GPU: its vectors, its checks, its times."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_renderer, oracle_vectors
from renderer.constants import CONSTANTS
from renderer.cpu import CpuRasterizer
from renderer.rasterizer import Frame


def test_the_committed_vectors_are_what_the_oracle_draws() -> None:
    with np.load(oracle_vectors.FILE) as stored:
        again = oracle_vectors.make()
        assert set(stored.files) == set(again)
        for name in again:
            np.testing.assert_allclose(stored[name], again[name], atol=1e-6, err_msg=name)
    assert oracle_vectors.FILE.stat().st_size < 400_000


@pytest.mark.parametrize("constants", list(CONSTANTS))
def test_the_cpu_passes_and_a_wrong_rasterizer_does_not(constants: str) -> None:
    draw = CpuRasterizer(1)
    assert gpu_renderer.check(draw, constants)["failed"] == []

    def shifted(*arguments: object) -> Frame:
        frame = draw(*arguments)  # type: ignore[arg-type]
        return Frame(np.roll(frame.rgb, 1, axis=1), frame.alpha)

    assert len(gpu_renderer.check(shifted, constants)["failed"]) > 6


def test_the_whole_run_on_the_cpu(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    asked = ["--rasterizer", "cpu", "--gaussians", "2000", "--frames", "3", "--json", str(file)]
    assert gpu_renderer.main(asked) == 0
    report = json.loads(file.read_text())
    assert [row["size"] for row in report["rows"]] == ["512x512", "1280x720", "1920x1080"]
    assert all(row["frame_ms_p50"] > 0 for row in report["rows"])


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is here")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_renderer.main([]) == 1
    assert capsys.readouterr().out.startswith("not run: rasterizer gpu needs")
