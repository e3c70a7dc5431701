"""Whose the machine's CPU is: what a run used itself and what other programs used is told apart."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys

import pytest

from local_fleet.cluster import believed_startup_s
from local_fleet.machine import QUIET_RATIO, CpuUse, MachineLoad, look_at_others, wait_until_quiet
from local_fleet.pods import Pod

BUSY = "import time\nwhile time.process_time() < {cpu_s}: pass\nprint(flush=True)\ninput()"


def test_what_children_use_is_ours_while_they_run_and_after() -> None:
    before = CpuUse.now()
    child = subprocess.Popen([sys.executable, "-c", BUSY.format(cpu_s=0.5)], stdin=-1, stdout=-1)
    assert child.stdout is not None
    child.stdout.readline()
    running = CpuUse.now()
    child.communicate(b"\n")
    ended = CpuUse.now()
    for later in (running, ended):
        assert later.own_s - before.own_s >= 0.45
        assert later.machine_s - before.machine_s >= 0.4


def test_what_we_did_not_use_is_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    before = CpuUse(10.0, 100.0, 5.0)
    assert before.ratios(CpuUse(12.0, 103.0, 6.0)) == pytest.approx((0.75, 0.5))
    assert before.ratios(CpuUse(12.0, 103.0, 9.0)) == pytest.approx((0.75, 0.0)), "clocks that do not quite agree"


def test_programs_that_are_no_children_are_others() -> None:
    """Their parent, a shell, has ended."""
    loop = "import time\nwhile time.process_time() < 20: pass"
    shell = 'for core in $(seq $2); do "$0" -c "$1" > /dev/null 2>&1 & echo $!; done'
    cores = str(len(os.sched_getaffinity(0)))
    told = subprocess.run(["sh", "-c", shell, sys.executable, loop, cores], capture_output=True, text=True, check=True)
    try:
        ratio, who = look_at_others()
        for pid in told.stdout.split():
            os.kill(int(pid), 0)  # raises where it has ended already: then it was not looked at
    finally:
        for pid in told.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    assert ratio > QUIET_RATIO
    assert "of a core" in who


@pytest.mark.parametrize(
    ("ratios", "quiet", "said"),
    [
        ([0.1], True, []),
        ([0.9, 0.1, 0.9, 0.1, 0.1], True, ["90% .* CPU .nightly build.: waiting up to 60 s", "quiet after"]),
    ],
)
def test_quiet_is_waited_for(ratios: list[float], quiet: bool, said: list[str]) -> None:
    notes: list[str] = []
    looks = iter(ratios)
    assert wait_until_quiet(60.0, notes.append, lambda: (next(looks), "nightly build")) is quiet
    assert len(notes) == len(said)
    for note, pattern in zip(notes, said, strict=True):
        assert re.search(pattern, note)
    assert next(looks, None) is None


def test_a_machine_that_stays_busy_is_told() -> None:
    notes: list[str] = []
    assert not wait_until_quiet(0.0, notes.append, lambda: (0.9, "nightly build"))
    assert notes == [
        "WARNING: other programs use 90% of this machine's CPU (nightly build): this run's figures will not hold"
    ]


def test_a_machine_is_starved_where_others_had_it() -> None:
    load = MachineLoad()
    assert not load.starved(0.0, 100.0), "nobody looked"
    load._looks = [(1.0, 0.1), (2.0, 0.9), (3.0, 0.9), (4.0, 0.1), (5.0, 0.1)]
    assert [load.starved(*span) for span in ((1.5, 2.5), (3.5, 6.0), (0.0, 5.0))] == [True, False, True]


def test_starts_of_a_starved_machine_are_believed_while_it_is() -> None:
    asked_and_ready = [(0.0, 5.0), (10.0, 40.0), (12.0, 44.0), (60.0, 66.0), (70.0, None)]
    pods = [Pod(str(n), (), asked_s, ready_s=ready_s) for n, (asked_s, ready_s) in enumerate(asked_and_ready)]
    bad = (8.0, 50.0)

    def starved(from_s: float, until_s: float) -> bool:
        return from_s < bad[1] and until_s > bad[0]

    assert believed_startup_s(pods, 49.0, starved) == (5.0, 30.0, 32.0, 6.0)
    assert believed_startup_s(pods, 56.0, starved) == (5.0, 6.0), "quiet again"
    assert believed_startup_s(pods, 85.0, lambda *_: True) == (6.0,), "long ago"
    assert believed_startup_s([], 80.0, starved) == ()
