"""Regions of Triton's Python backend in /dev/shm, named so that what a crash leaves can be told from others'."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from local_fleet.spawn import started

_SHM = Path("/dev/shm")
_SHM_PREFIX = "splatfleet"

_numbers = itertools.count()


def new_prefix() -> str:
    """`splatfleet_<pid>_<start of that pid>_<n>_`: a later process can tell that its maker is dead."""
    return f"{_SHM_PREFIX}_{os.getpid()}_{started(os.getpid())}_{next(_numbers)}_"


def remove_regions(prefix: str) -> None:
    for region in _SHM.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def sweep_dead_regions() -> None:
    """Remove regions whose maker was killed before it could."""
    for region in _SHM.glob(f"{_SHM_PREFIX}_*"):
        parts = region.name.split("_")
        if len(parts) > 3 and parts[1].isdigit() and started(int(parts[1])) != parts[2]:
            region.unlink(missing_ok=True)
