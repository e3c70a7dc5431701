"""Against a real S3 server: publish, warm a node without a pod, start a pod there; credentials, and who learns them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fleet import labels, metrics
from renderer import cpu, oracle
from renderer.camera import look_at
from renderer.catalogue import load_catalogue
from renderer.encoding import to_pixels
from renderer.pod import RendererPod
from renderer.pod_settings import PodSettings
from renderer.scene_store import FetchFailed, SceneStore
from tests.scene_path.agents import MB, REPOSITORY, TOKEN, make_scene
from tests.scene_path.conftest import StartAgent
from tests.scene_path.s3_server import ACCESS_KEY, SECRET_KEY, S3Server


def publish(path: Path, catalogue: Path, *flags: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "splatfleet", "scene", "publish", str(path), "--catalogue", str(catalogue), *flags]
    return subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


class Watcher:
    """Counts what a pod fetches and where it loads from."""

    def __init__(self) -> None:
        self.fetched_bytes = 0
        self.sources: list[str] = []

    def fetched(self, count_bytes: int) -> None:
        self.fetched_bytes += count_bytes

    def loaded(self, source: str, _seconds: float) -> None:
        self.sources.append(source)

    def looked_up(self, hit: bool) -> None: ...
    def evicted(self, scene: object, cause: object) -> None: ...
    def changed(self, resident: object, draining_bytes: int) -> None: ...
    def rendered(self, seconds: float) -> None: ...


def test_publish_warm_a_node_without_a_pod_and_start_one(
    tmp_path: Path, s3: S3Server, start_agent: StartAgent
) -> None:
    splats = make_scene(tmp_path / "ball.ply", 2_000)
    catalogue = tmp_path / "catalogue.json"
    done = publish(tmp_path / "ball.ply", catalogue, "--to", "s3://scenes/v1", environment=s3.environment())
    assert done.returncode == 0, done.stderr
    entry = load_catalogue(catalogue).get("ball")
    assert entry.uri.startswith("s3://scenes/v1/ball-")
    agent = start_agent("node-1", [entry], environment=s3.environment())
    agent.client.ask("ball", 30.0)
    agent.wait_state("ball", "stored")
    assert agent.count(metrics.AGENT_FETCHED_BYTES, source="remote") == entry.source_bytes
    watcher = Watcher()
    # No credentials here: this pod can only be ready because the scene is on its node.
    pod = RendererPod(
        PodSettings(catalogue, agent.layout.root, scenes=(entry.id,), rasterizer="cpu"), watcher
    )
    assert (watcher.fetched_bytes, watcher.sources) == (0, ["packed"])
    camera = look_at((0, 0, -4), (0, 0, 0), (0, -1, 0), 50, 96, 64)
    truth = oracle.render(splats, camera)
    frame = pod._rasterize(pod.cache.pinned(entry.id).__enter__().value, camera, (0.0, 0.0, 0.0), None,
                           frozenset({"rgb"}), _constants())  # fmt: skip
    difference = np.abs(to_pixels(frame, "rgb")[0].astype(int) - to_pixels(truth, "rgb")[0].astype(int))
    assert difference.max() <= 2
    assert to_pixels(frame, "rgb")[0].max() > 50, "the frame is black"
    assert cpu.__name__
