"""The real control plane with our definition and role in it, and a node for pods."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_fleet.control_plane.plane import ControlPlane
from tests.control_plane.objects import add_node
from tests.kubernetes_autoscaler.cluster import (
    ACCOUNT,
    NODE,
    Demand,
    Process,
    Space,
    demand_of,
    install,
    ready_pods,
    until,
)

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def installed(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    install(control_plane)
    add_node(control_plane, NODE)
    yield control_plane
    control_plane.kubectl("delete", "node", NODE)


@pytest.fixture
def space(installed: ControlPlane) -> Iterator[Space]:
    """A namespace of its own."""
    made = Space(installed, f"operator-{next(_numbers)}")
    yield made
    made.close()


@pytest.fixture
def kubelet(space: Space) -> Iterator[None]:
    """Pods of the namespace run at once."""
    with ready_pods(space):
        yield


@pytest.fixture
def demand(space: Space) -> Iterator[Demand]:
    """A gateway that serves the namespace's pool."""
    with demand_of(space.namespace) as made:
        yield made


@pytest.fixture
def start(space: Space, demand: Demand, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts autoscalers with the rights of their service account; they end with the test."""
    kubeconfig = space.plane.access.service_account("default", ACCOUNT)
    running: list[Process] = []

    def begin(*flags: str) -> Process:
        usual = ["--gateway", demand.url, "--namespace", space.namespace, "--lease-namespace", space.namespace]
        quick = ["--interval-s", "0.5", "--lease-s", "5", "--drain-s", "0.5"]
        process = Process(kubeconfig, tmp_path, f"autoscaler-{len(running)}", [*usual, *quick, *flags])
        running.append(process)
        until(lambda: "follows" in process.text, 120)  # a busy machine takes its time to import
        return process

    yield begin
    for process in running:
        process.stop()
