"""A real Triton server over made scenes, shared by the session; faults get servers of their own."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fleet import labels
from local_fleet.triton_server import TritonServer, TritonUnavailable, build_backends
from renderer import made
from renderer.catalogue import save_catalogue
from renderer.formats import ply
from renderer.scene_folder import build_catalogue
from tests.renderer.scenes import random_splats

MakeServer = Callable[..., TritonServer]


@pytest.fixture(scope="session")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build_backends(tmp_path_factory.mktemp("backends"))
    except TritonUnavailable as error:
        pytest.skip(f"no Triton here: {error}")


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes: knot and planet (handsome), noise (SH 1), and broken, whose file is cut."""
    folder = tmp_path_factory.mktemp("scenes")
    ply.write(folder / "knot.ply", made.make("knot", 3000, seed=1))
    ply.write(folder / "planet.ply", made.make("planet", 3000, seed=2))
    ply.write(folder / "noise.ply", random_splats(np.random.default_rng(0), 2000, 1))
    shutil.copy(folder / "noise.ply", folder / "broken.ply")
    found, skipped = build_catalogue(folder)
    assert skipped == []
    # Cut after the catalogue was made, and with no digest to betray it: the reader has to.
    (folder / "broken.ply").write_bytes((folder / "noise.ply").read_bytes()[:-1000])
    path = folder / "catalogue.json"
    save_catalogue(found, path)
    document = json.loads(path.read_text())
    for row in document["scenes"]:
        if row["id"] == "broken":
            del row["digest"]
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="session")
def make_session_server(
    backends: Path, catalogue: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeServer]:
    made_servers: list[TritonServer] = []

    def make(**environment: str) -> TritonServer:
        folder = tmp_path_factory.mktemp("pod")
        given = {
            labels.CATALOGUE_ENV: str(catalogue),
            labels.SCENE_CACHE_ENV: str(folder / "store"),
            labels.RASTERIZER_ENV: "cpu",
            "SPLATFLEET_RENDER_THREADS": "1",
        }
        made_servers.append(TritonServer(backends, folder, given | environment))
        return made_servers[-1]

    yield make
    for server in made_servers:
        server.stop()


@pytest.fixture
def make_server(make_session_server: MakeServer) -> Iterator[MakeServer]:
    """Servers of one test; killed at its end, which is quicker than asking."""
    mine: list[TritonServer] = []

    def make(**environment: str) -> TritonServer:
        mine.append(make_session_server(**environment))
        return mine[-1]

    yield make
    for server in mine:
        server.kill()


@pytest.fixture(scope="session")
def server(make_session_server: MakeServer) -> TritonServer:
    """One server for all tests that break nothing: knot is in memory and is the default scene."""
    made_server = make_session_server(**{labels.SCENES_ENV: "knot", labels.DEFAULT_SIZE_ENV: "48x32"})
    made_server.start()
    made_server.wait_ready()
    return made_server


_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def samples(server: TritonServer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples of a server's metrics by name and labels (without model and version)."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = {}
    for name, labels_text, value in _SAMPLE.findall(text):
        pairs = sorted(pair for pair in _LABEL.findall(labels_text) if pair[0] not in ("model", "version"))
        found[name, tuple(pairs)] = float(value)
    return found
