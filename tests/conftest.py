"""Fixtures that every part uses: the real data and free ports."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.labels import DATA_ENV

REPOSITORY = Path(__file__).resolve().parent.parent

# A shell starts background jobs with SIGINT ignored, and children inherit that: Ctrl-C could not be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with real scenes and traces; the test skips where it is absent."""
    folder = Path(os.environ.get(DATA_ENV, REPOSITORY / ".." / "shared")).resolve()
    if not (folder / "scenes").is_dir():
        pytest.skip(f"no real data at {folder} (set {DATA_ENV})")
    return folder


@pytest.fixture
def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def prometheus_tool() -> Callable[[str], str]:
    """The path of `prometheus` or `promtool`; skips where neither .tools/prometheus nor PATH has it."""

    def find(name: str) -> str:
        local = REPOSITORY / ".tools" / "prometheus" / name
        found = str(local) if os.access(local, os.X_OK) else shutil.which(name)
        if found is None:
            pytest.skip(f"no {name}: run scripts/install-prometheus.sh .tools/prometheus")
        return found

    return find
