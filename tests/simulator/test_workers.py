"""Processes of a run are gone when it is, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from simulator.workers import worker_pool

RUN = """
import os, sys, time
from pathlib import Path
from simulator.workers import worker_pool

def work() -> None:
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(60.0)

if __name__ == "__main__":
    with worker_pool(2) as pool:
        for job in [pool.submit(work) for _ in range(4)]:
            job.result()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_run(end: signal.Signals, tmp_path: Path) -> None:
    script, seen = tmp_path / "run.py", tmp_path / "seen"
    script.write_text(RUN)
    seen.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.Popen([sys.executable, script, seen], env=environment)
    try:
        _until(lambda: len(list(seen.iterdir())) == 2)
        workers = [psutil.Process(int(path.name)) for path in seen.iterdir()]
    finally:
        run.send_signal(end)
        run.wait(10)
    _until(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers))


def test_a_job_that_fails_does_not_keep_the_others_waiting() -> None:
    began_s = time.monotonic()
    with worker_pool(1) as pool:
        failing = pool.submit(float, "no number")
        others = [pool.submit(time.sleep, 5.0) for _ in range(20)]
        assert isinstance(failing.exception(), ValueError)
    assert time.monotonic() - began_s < 50.0
    assert others[-1].cancelled()


def _until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end_s, "did not happen in time"
        time.sleep(0.05)
