"""Processes that play runs beside each other."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

COLLECT_AFTER = 100_000  # what a run leaves goes by reference counts; looking through its forecasts costs a twentieth
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def usual_count() -> int:
    """Two processes, or one on a single core: each holds the arrivals of a trace."""
    return min(2, os.cpu_count() or 1)


@contextmanager
def worker_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes, started anew, that end with this one however it ends: a kill would leave them at work.

    What was not begun when the block ends is not begun any more: where a job failed nobody reads the others.
    """
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin, initargs=(os.getpid(),))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int) -> None:
    gc.set_threshold(COLLECT_AFTER)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
