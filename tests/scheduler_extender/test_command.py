"""`splatfleet extender` as a user starts it: a process that says where it listens, answers and ends when told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

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
        _, errors = process.communicate(timeout=20)
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
        ((), "--node-digest is needed"),
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
