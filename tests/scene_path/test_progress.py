"""How far a fetch is can be seen while nobody can be asked: the pod that starts says it in its log."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fleet.scene import StoreLayout
from renderer.catalogue import Catalogue, save_catalogue
from renderer.fetch_progress import downloads
from renderer.pod import RendererPod
from renderer.pod_settings import PodSettings
from tests.renderer.scenes import Uncounted
from tests.scene_path.agents import entry_of, make_scene
from tests.scene_path.fault_server import Request, fault_server


def test_a_pod_that_starts_says_how_far_its_scenes_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("renderer.pod.TELL_EVERY_S", 0.05)
    make_scene(tmp_path / "ball.ply", 500)
    enough = threading.Event()

    def halting(request: Request) -> None:
        """A first part, and the rest once somebody has seen that it is one."""
        body = request.body[request.start : request.end]
        request.handler.send_response(206 if request.handler.headers.get("range") else 200)
        request.handler.send_header("content-range", f"bytes {request.start}-{request.end - 1}/{len(request.body)}")
        request.handler.send_header("content-length", str(len(body)))
        request.handler.end_headers()
        request.handler.wfile.write(body[: len(body) // 2])
        enough.wait(15.0)
        request.handler.wfile.write(body[len(body) // 2 :])

    with fault_server((tmp_path / "ball.ply").read_bytes(), halting) as source, ThreadPoolExecutor() as threads:
        entry = entry_of(tmp_path / "ball.ply", source.url)
        save_catalogue(Catalogue([entry]), tmp_path / "catalogue.json")
        settings = PodSettings(tmp_path / "catalogue.json", tmp_path / "store", scenes=(entry.id,), rasterizer="cpu")
        start = threads.submit(RendererPod, settings, Uncounted())
        said, end_s = "", time.monotonic() + 60.0
        wanted = re.compile(rf"splatfleet: scene ball: [0-9,]+ of {len(source.body):,} bytes fetched")
        while not wanted.search(said) and not start.done() and time.monotonic() < end_s:
            said += capsys.readouterr().out
            time.sleep(0.02)
        enough.set()
        start.result()
    assert wanted.search(said)
    assert downloads(StoreLayout(tmp_path / "store")) == {}
