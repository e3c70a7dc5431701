"""The gateway and the load client as commands, in front of real Triton pods with the real renderer."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from fleet.scene import SceneId
from local_fleet.triton_server import TritonServer
from renderer.catalogue import Catalogue, CatalogueEntry, save_catalogue
from renderer.formats.ply import write as write_ply
from renderer.made import make
from renderer.made_shapes import SHAPES
from tests.conftest import REPOSITORY
from tests.gateway.conftest import body, running_gateway, write_renderers
from tests.gateway.triton_pods import entry, start_pods, triton_backends

pytestmark = pytest.mark.triton
SCENES = sorted(SHAPES)[:3]
COMMAND = [sys.executable, "-m", "splatfleet"]


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[list[TritonServer]]:
    """Two pods; the first holds the first scene."""
    backends = triton_backends()
    entries = []
    for scene in SCENES:
        write_ply(tmp_path / f"{scene}.ply", make(scene, 2_000))
        entries.append(CatalogueEntry(SceneId(scene), (tmp_path / f"{scene}.ply").as_uri()))
    save_catalogue(Catalogue(entries), tmp_path / "catalogue.json")
    with start_pods(tmp_path, backends, [SCENES[0], ""]) as servers:
        yield servers


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    """The URL of a gateway that runs as a command, with no pod yet."""
    write_renderers(tmp_path / "renderers.json")
    with running_gateway(tmp_path) as url:
        yield url


def load(gateway: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """Run `splatfleet load`; its summary."""
    file = folder / "load.json"
    done = subprocess.run(
        [*COMMAND, "load", "--gateway", gateway, "--json", str(file), "--size", "48x32", "--shape", "flat", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(file.read_text())
    return summary


def test_real_pods_serve_traffic_and_one_may_die(pods: list[TritonServer], gateway: str, tmp_path: Path) -> None:
    with httpx2.Client(base_url=gateway, timeout=30, trust_env=False) as client:
        held: list[httpx2.Response] = []
        early = threading.Thread(target=lambda: held.append(client.post("/v1/render", json=view_of(SCENES[0]))))
        early.start()
        time.sleep(0.3)
        write_renderers(tmp_path / "renderers.json", *(entry(n, server) for n, server in enumerate(pods)))
        early.join(20)
        answer = held[0]
        assert (answer.status_code, answer.headers["x-splatfleet-cold"]) == (200, "pod")
        picture = Image.open(io.BytesIO(answer.content))
        assert (picture.format, picture.size) == ("JPEG", (48, 32))
        assert len(picture.getcolors(48 * 32) or ()) > 10  # something is drawn
        refused = client.post("/v1/render", json=body(SCENES[0], size=[48, 32]))  # the identity is no projection
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_request")

    frames = tmp_path / "frames"
    first = load(
        gateway, tmp_path, "--duration", "4", "--mean-rate", "15", "--frames", str(frames), "--frame-every", "9"
    )
    assert first["requests"] > 30
    assert (first["errors"], first["refused"]) == (0, 0)
    assert first["frames"] == first["requests"]
    assert 0 < first["scene_misses"] < first["scene_hits"]
    assert list(frames.glob("*.jpg"))

    timer = threading.Timer(2.0, os.kill, (pods[0].pid, signal.SIGKILL))
    timer.start()
    second = load(gateway, tmp_path, "--duration", "4", "--mean-rate", "15")
    timer.join()
    assert second["frames"] == second["requests"]
    status = httpx2.get(f"{gateway}/v1/status", trust_env=False).json()["pools"]["renderer"]["pods"]
    assert {uid: pod["state"] for uid, pod in status.items()} == {"pod-0": "unready", "pod-1": "ready"}
    assert set(status["pod-1"]["resident"]) == set(SCENES)


def view_of(scene: str) -> dict[str, Any]:
    """A camera that sees the scene."""
    from local_fleet.orbits import Orbit, encode_bodies

    fields: dict[str, Any] = json.loads(encode_bodies(Orbit(scene), (48, 32), {}, poses=1)[0])
    return fields


def test_load_that_is_told_to_end_scores_what_it_has(tmp_path: Path) -> None:
    """No pod is there, so every request runs into the client's patience: no frame, and no `nan` either."""
    save_catalogue(Catalogue([CatalogueEntry(SceneId(SCENES[0]), "file:///nowhere.ply")]), tmp_path / "catalogue.json")
    write_renderers(tmp_path / "renderers.json")
    with running_gateway(tmp_path) as gateway:
        _end_early(gateway, tmp_path / "load.json")


def _end_early(gateway: str, file: Path) -> None:
    command = [*COMMAND, "load", "--gateway", gateway, "--scenes", SCENES[0], "--duration", "60", "--shape", "flat"]
    process = subprocess.Popen(
        [*command, "--mean-rate", "20", "--timeout-s", "0.2", "--json", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    end_s = time.monotonic() + 60
    while 'requests_total{pool="renderer",scene=' not in httpx2.get(f"{gateway}/metrics", trust_env=False).text:
        assert time.monotonic() < end_s, "no request came"
        time.sleep(0.1)
    time.sleep(1.0)
    process.terminate()
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert json.loads(file.read_text())["requests"] > 0
    assert "frame p50 –" in said
    assert "nan" not in said
