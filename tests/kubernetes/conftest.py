"""A kubelet on the shared control plane, its pods real Triton processes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kube.connection import Connection
from local_fleet.control_plane.binaries import BinariesError, find
from local_fleet.control_plane.plane import ControlPlane
from local_fleet.kubelet.emulated_node import EmulatedNode
from local_fleet.kubelet.kubelet import Kubelet, KubeletSettings
from local_fleet.kubelet.processes import starter
from local_fleet.kubernetes.prometheus import NoPrometheus, program
from renderer import made
from renderer.catalogue import save_catalogue
from renderer.formats import ply
from renderer.scene_folder import build_catalogue
from tests.gateway.triton_pods import triton_backends
from tests.kubernetes.fleet import eventually
from tests.kubernetes.standing import Standing, stand_up

MakeKubelet = Callable[..., Kubelet]


@pytest.fixture
def connection(control_plane: ControlPlane) -> Iterator[Connection]:
    found = Connection.open(control_plane.kubeconfig)
    yield found
    found.close()


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Any:
    name = f"k-{secrets.token_hex(4)}"  # a test that is played again finds the last one still ending
    control_plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    eventually(lambda: control_plane.exists(f"/api/v1/namespaces/{name}/serviceaccounts/default"), 40)
    yield name
    control_plane.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def make_kubelet(connection: Connection, tmp_path: Path) -> Iterator[MakeKubelet]:
    """Kubelets that end with the test; their nodes are taken away."""
    made: list[Kubelet] = []
    backends = triton_backends()

    def make(*nodes: EmulatedNode, restart_first_s: float = 0.5) -> Kubelet:
        settings = KubeletSettings(tmp_path / "kubelet", starter(backends), restart_first_s=restart_first_s)
        made.append(Kubelet(connection, nodes, settings).start())
        return made[-1]

    yield make
    for kubelet in made:
        for name in list(kubelet.nodes):
            kubelet.remove_node(name)
        kubelet.stop()


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """A whole fleet, Prometheus included, for every test of the loop: half a minute of two cores, once."""
    try:
        find(), program("prometheus"), program("promtool")
    except (BinariesError, NoPrometheus) as error:
        pytest.skip(str(error))
    with stand_up(tmp_path_factory.mktemp("standing"), triton_backends()) as made:
        yield made


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two made scenes, knot and planet."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed, name in enumerate(("knot", "planet")):
        ply.write(folder / f"{name}.ply", made.make(name, 3000, seed=seed))
    path = folder / "catalogue.json"
    save_catalogue(build_catalogue(folder)[0], path)
    return path
