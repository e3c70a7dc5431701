"""`splatfleet extender` as a user starts it: a process that says where it listens, answers and ends when told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.scheduler_extender.conftest import GB, Exporter, digest, pod


def splatfleet(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "splatfleet", "extender", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def other_verb(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "splatfleet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_explain_and_replay(tmp_path: Path) -> None:
    """A decision of a running extender is told by name, and made again from its file once it has ended."""
    exporter = Exporter()
    exporter.digest = digest("gpu-1", {"scene-a": GB})
    decisions = tmp_path / "decisions.jsonl"
    told = ("--node-digest", f"gpu-1={exporter.url}", "--listen", "127.0.0.1:0", "--decisions", str(decisions))
    process = splatfleet(*told)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with httpx2.Client(base_url=url, timeout=10, trust_env=False) as client:
            while client.get("/-/ready").status_code != 200:
                pass
            body = {"Pod": pod("uid-1", "scene-a"), "Nodes": None, "NodeNames": ["gpu-1", "gpu-2"]}
            client.post("/prioritize", json=body)
        explained = other_verb("explain", "pod", "default/uid-1", "--extender", url, "--json", str(tmp_path / "e.json"))
        assert (explained.returncode, explained.stderr) == (0, "")
        assert "s less than gpu-2 (time_to_ready +" in explained.stdout
        assert "reserved on gpu-1" in explained.stdout
        assert [line.split()[0] for line in explained.stdout.splitlines()[3:]] == ["node", "gpu-1", "gpu-2"]
        assert json.loads((tmp_path / "e.json").read_text())["winner"] == "gpu-1"
        unknown = other_verb("explain", "pod", "default/nobody", "--extender", url)
        assert (unknown.returncode, "no decision is remembered" in unknown.stderr) == (1, True)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=40)
    finally:
        exporter.stop()
        process.kill()
        process.wait()
    assert other_verb("explain", "pod", "default/uid-1", "--extender", url).returncode == 1
    assert other_verb("explain", "pod", "uid-1").returncode == 2
    replayed = other_verb("replay", str(decisions), "--pod", "default/uid-1")
    assert replayed.stdout.startswith("1 decisions made again, 1 the same bit for bit, 0 differ")
    assert "s less than gpu-2 (time_to_ready +" in replayed.stdout


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_from_start_to_end(ending: signal.Signals) -> None:
    exporter = Exporter()
    exporter.digest = digest("gpu-1", {"scene-a": GB})
    process = splatfleet("--node-digest", f"gpu-1={exporter.url}", "--listen", "127.0.0.1:0", "--poll-s", "0.2")
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("extender listens on http://127.0.0.1:")
        with httpx2.Client(base_url=said.split()[-1], timeout=10, trust_env=False) as client:
            while client.get("/-/ready").status_code != 200:
                pass
            body = {"Pod": pod("uid-1", "scene-a"), "Nodes": None, "NodeNames": ["gpu-1", "gpu-2"]}
            answer = client.post("/prioritize", json=body).json()
        assert answer[0] == {"Host": "gpu-1", "Score": 10}
        process.send_signal(ending)
        _, errors = process.communicate(timeout=40)
    finally:
        exporter.stop()
        process.kill()
        process.wait()
    assert process.returncode == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    decision = next(line for line in lines if line["event"] == "prioritized")
    assert decision["winner"] == decision["best"][0]["node"] == "gpu-1"
    assert decision["best"][0]["total_s"] < decision["best"][1]["total_s"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--kubernetes (by the API server), or --node-digest"),
        (("--kubernetes", "--node-digest", "a=http://x"), "say where nodes are found"),
        (("--node-digest", "gpu-1"), "expected NAME=URL"),
        (("--node-digest", "a=http://x", "--node-digest", "a=http://y"), "given twice"),
        (("--node-digest", "a=http://x", "--listen", "here"), "expected HOST:PORT"),
        (("--node-digest", "a=http://x", "--poll-s", "0"), "--poll-s"),
        (("--node-digest", "a=http://x", "--listen", "192.0.2.1:1"), "--listen 192.0.2.1:1"),
    ],
)
def test_usage_errors_say_what_to_fix(arguments: tuple[str, ...], message: str) -> None:
    process = splatfleet(*arguments)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert message in errors
    assert "Traceback" not in errors


def test_bench_writes_the_six_figures(tmp_path: Path) -> None:
    """Over real HTTP, with digests that change meanwhile."""
    figures = tmp_path / "figures.json"
    done = other_verb("bench", "extender", "--nodes", "20", "--updates-per-s", "50", "--json", str(figures))
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads(figures.read_text())
    verbs = ("filter", "prioritize", "noop")
    assert set(written) == {f"{verb}_{percentile}_ms" for verb in verbs for percentile in ("p50", "p99")}
    assert all(0 < written[f"{verb}_p50_ms"] <= written[f"{verb}_p99_ms"] for verb in verbs)
