"""Processes that play runs beside each other."""

from __future__ import annotations

import ctypes
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def worker_pool(count: int) -> ProcessPoolExecutor:
    """So many processes, started anew, that end with this one however it ends: a kill would leave them at work."""
    return ProcessPoolExecutor(count, get_context("spawn"), initializer=_end_with, initargs=(os.getpid(),))


def _end_with(parent: int) -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
