"""Fixtures that every part uses: the real data and free ports."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from fleet.labels import DATA_ENV
from local_fleet.control_plane.binaries import Binaries, BinariesError, find
from local_fleet.control_plane.plane import ControlPlane

REPOSITORY = Path(__file__).resolve().parent.parent

# How long it takes to make examples up says how busy the machine is, not what they are worth.
settings.register_profile("busy-machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy-machine")

# A shell starts background jobs with SIGINT ignored, and children inherit that: Ctrl-C could not be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For scripts/run-tests.sh: what starts Triton is `alone`, unless marked as waiting for states and nothing else.

    With `--dist loadgroup` a module stays on one process, so that its fixtures are made once. What waits more than it
    computes is a group that stays on one process and begins first, so that others are played beside its waits.
    """
    for item in items:
        if starts_triton(item) and not item.get_closest_marker("waits"):
            item.add_marker(pytest.mark.alone)
    if config.getoption("loadgroup", default=False):
        groups = {item: group_of(item) for item in items}
        items.sort(key=lambda item: groups[item] is None)
        for item, group in groups.items():
            name_group(item, group or item.nodeid.partition("::")[0])


def starts_triton(item: pytest.Item) -> bool:
    return bool(item.get_closest_marker("triton")) or "backends" in getattr(item, "fixturenames", ())


def group_of(item: pytest.Item) -> str | None:
    """Of what shares a fleet or a control plane; None of a test that computes or has servers of its own."""
    fixtures = getattr(item, "fixturenames", ())
    if item.get_closest_marker("alone"):
        return "standing-fleet" if "standing" in fixtures else "frames"
    if starts_triton(item):
        return "triton"
    return "control-plane" if "control_plane_binaries" in fixtures else None


def name_group(item: pytest.Item, group: str) -> None:
    """Write the group behind the test's id, where pytest-xdist reads it.

    pytest-xdist 3.8 does so for its mark `xdist_group`, but in an attribute that pytest 9.2 has no more: the mark is
    lost without a word.
    """
    named = f"{item.nodeid}@{group}"
    item._id = type(item.id).parse(named)
    assert item.nodeid == named


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


@pytest.fixture(scope="session")
def control_plane_binaries() -> Binaries:
    """etcd, kube-apiserver and the others; the test skips where they were not built."""
    try:
        return find()
    except BinariesError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def control_plane(control_plane_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real Kubernetes without nodes that all tests share: take names of your own, and a scheduler of your own."""
    with ControlPlane(control_plane_binaries, tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line about what the missing control plane left out; a test run of dots says no reason by itself."""
    try:
        find()
    except BinariesError as error:
        reports = terminalreporter.stats.get("skipped", ())
        left_out = sum(isinstance(at.longrepr, tuple) and str(error) in at.longrepr[2] for at in reports)
        if left_out:
            terminalreporter.write_line(f"{left_out} tests left out: {error}")
