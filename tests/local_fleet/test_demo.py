"""The whole loop as a user runs it: real Triton pods, real HTTP, a scorecard, and nothing left behind."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# What issue and README promise of the scorecard's JSON.
PROMISED = {
    *("requests", "violations", "wait_p50_s", "wait_p99_s", "frame_p50_s", "pod_seconds", "scene_hits", "scene_misses"),
    *("bytes_fetched", "cold_requests", "decisions", "forecast_coverage", "machine_cpu_ratio_p95", "errors"),
}


def _demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "splatfleet", "demo", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(folder), "SPLATFLEET_DEMO_QUIET_WAIT_SECONDS": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _left_behind(folder: Path) -> list[str]:
    """Command lines of processes that mention the run's folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            text = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (process / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if process.name != str(os.getpid()) and (str(folder) in text or str(folder) in environment):
            found.append(text)
    return found


@pytest.mark.triton
def test_a_demo_reaches_its_scorecard_and_leaves_nothing(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    demo = _demo(
        run, "--duration", "15", "--rate", "6", "--provision-seconds", "1",
        "--json", str(out / "out.json"), "--report", str(out), "--visit-lead-seconds", "0",
    )  # fmt: skip
    text, _ = demo.communicate(timeout=150)
    assert demo.returncode == 0, text
    figures = json.loads((out / "out.json").read_text())
    assert figures.keys() >= PROMISED
    assert figures["requests"] > 30
    assert figures["errors"] == 0
    assert figures["pod_seconds"] > 15
    assert figures["scene_hits"] > 0
    assert figures["bytes_fetched"] > 0
    assert sum(figures["decisions"].values()) == 16
    assert 0 < figures["first_frame_s"] < 60
    assert "Scorecard" in text
    assert "decision=" in text
    page = (out / "report.html").read_text()
    assert "<html" in page
    assert (out / "frames.png").stat().st_size > 5_000
    assert _left_behind(run) == []
    assert list(run.iterdir()) == []
    assert not list(Path("/dev/shm").glob(f"splatfleet_{demo.pid}_*"))


@pytest.mark.triton
@pytest.mark.timeout(700)
def test_who_is_predicted_does_not_wait_and_who_is_not_waits_for_the_fetch(tmp_path: Path) -> None:
    demos = {}
    for warm_up in ("on", "off"):  # both at once: each waits most of its time
        run = tmp_path / f"run-{warm_up}"
        run.mkdir()
        demos[warm_up] = _demo(
            run, "--duration", "15", "--rate", "2", "--provision-seconds", "1",
            "--json", str(tmp_path / f"{warm_up}.json"), "--visit-lead-seconds", "60", "--warm-up", warm_up,
        )  # fmt: skip
    for demo in demos.values():
        text, _ = demo.communicate(timeout=300)
        assert demo.returncode == 0, text
        assert "first visitor of a predicted scene" in text
    on, off = (json.loads((tmp_path / f"{warm_up}.json").read_text()) for warm_up in demos)
    assert on["visit_fetch_s"] == pytest.approx(3.0, rel=0.1)
    for wait_s in (on["unpredicted_visit_wait_s"], off["unpredicted_visit_wait_s"], off["predicted_visit_wait_s"]):
        assert wait_s > 0.8 * on["visit_fetch_s"], "nobody had the scene, and nobody waited for it"
    assert on["predicted_visit_wait_s"] < 0.2 * on["unpredicted_visit_wait_s"]


@pytest.mark.triton
@pytest.mark.waits
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_every_process(tmp_path: Path, number: signal.Signals, code: int) -> None:
    demo = _demo(tmp_path, "--duration", "60", "--rate", "6", "--provision-seconds", "1", "--visit-lead-seconds", "0")
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("t=0s"):
            break
    os.kill(demo.pid, number)
    text, _ = demo.communicate(timeout=120)
    assert demo.returncode == code, text
    assert "interrupted" in text
    assert "Traceback" not in text
    assert _left_behind(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.triton
@pytest.mark.waits
def test_kill_9_leaves_no_process(tmp_path: Path) -> None:
    demo = _demo(tmp_path, "--duration", "60", "--rate", "6", "--provision-seconds", "1", "--visit-lead-seconds", "0")
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("t=0s"):
            break
    demo.kill()
    demo.communicate(timeout=60)
    end_s = time.monotonic() + 30
    while (left := _left_behind(tmp_path)) and time.monotonic() < end_s:
        time.sleep(0.1)
    assert left == []


@pytest.mark.parametrize(
    ("arguments", "code", "needle"),
    [
        (("--scenes", "/nowhere"), 2, "--scenes /nowhere: no such folder"),
        (("--trace", "/nowhere.csv"), 2, "--trace /nowhere.csv: no such file"),
        (("--scenes", "{empty}"), 1, "no scene that can be rendered"),
        (("--trace", "{broken}"), 1, "timestamp_s,requests"),
        (("--duration", "3"), 2, "--duration"),
        (("--trace", "{cut}"), 1, "cut.csv.gz"),
        (("--compare", "{broken}"), 1, "no scorecard"),
        (("--json", "{empty}"), 2, "is a folder"),
        (("--report", "{broken}"), 2, "expected a folder"),
    ],
)
def test_a_wrong_input_is_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], code: int, needle: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.csv").write_text("time,count\n1,2\n")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"timestamp_s,requests\n0,1\n60,2\n" * 50)[:40])
    names = {"empty": tmp_path / "empty", "broken": tmp_path / "broken.csv", "cut": tmp_path / "cut.csv.gz"}
    demo = _demo(Path(tempfile.mkdtemp(dir=tmp_path)), *(part.format(**names) for part in arguments))
    text, _ = demo.communicate(timeout=90)
    assert demo.returncode == code, text
    assert needle in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--autoscaler", "hpa"], "--autoscaler hpa: needs --kubernetes"),
        (["--placement", "default"], "--placement default: needs --kubernetes"),
        (["--kubernetes", "--placement", "spread"], "--placement spread: with --kubernetes"),
        (["--kubernetes", "--visit-lead-seconds", "30"], "--visit-lead-seconds 30: the local demo's alone"),
    ],
)
def test_what_only_kubernetes_has_is_told(flags: list[str], said: str) -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "splatfleet", "demo", *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert demo.returncode == 2
    assert said in demo.stderr
