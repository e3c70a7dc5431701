"""A pod whose default scene lies on no disk and comes slowly: it is alive, and says so to its liveness probe."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fleet import labels
from local_fleet.triton_server import TritonServer
from renderer.camera import look_at, matrices
from renderer.client import RendererError, RenderReply, render_once
from splatfleet.probe import COMMAND as PROBE
from tests.scene_path.fault_server import Request, fault_server
from tests.triton.conftest import MakeServer

pytestmark = [pytest.mark.triton, pytest.mark.waits]

VIEW, PROJECTION = matrices(look_at((0, -1, -4), (0, 0, 0), (0, -1, 0), 50, 16, 16))


def ask(server: TritonServer, **parameters: str) -> RenderReply:
    return render_once(server.grpc_address, VIEW, PROJECTION, {"width": 16, "height": 16, **parameters}, timeout_s=60)


def test_a_cold_default_scene_that_comes_slowly_ends_nobody(
    make_server: MakeServer, catalogue: Path, tmp_path: Path
) -> None:
    hurry = threading.Event()

    def slowly(request: Request) -> None:
        """A byte now and then, as a line that is not dead: silence alone would be given up."""
        body = request.body[request.start : request.end]
        request.handler.send_response(206 if request.handler.headers.get("range") else 200)
        request.handler.send_header("content-range", f"bytes {request.start}-{request.end - 1}/{len(request.body)}")
        request.handler.send_header("content-length", str(len(body)))
        request.handler.end_headers()
        sent = 0
        while sent < len(body):
            piece = body[sent:] if hurry.wait(0.1) else body[sent : sent + 1]
            request.handler.wfile.write(piece)
            sent += len(piece)

    document = json.loads(catalogue.read_text())
    rows = {row["id"]: row for row in document["scenes"]}
    with fault_server((catalogue.parent / "knot.ply").read_bytes(), slowly) as source:
        rows["knot"]["uri"] = source.url
        slow = tmp_path / "slow.json"
        slow.write_text(json.dumps(document | {"scenes": [rows["knot"], rows["planet"]]}))
        given = {labels.CATALOGUE_ENV: str(slow), labels.DEFAULT_SCENE_ENV: "knot"}
        server = make_server(**given)
        server.start()
        server.wait_ready()
        assert _probe(server) == 0
        assert source.asked == [], "the probe made the pod fetch its default scene"
        with ThreadPoolExecutor() as threads:
            first = threads.submit(ask, server)
            while not source.asked:
                time.sleep(0.02)
            told = tmp_path / "probe.json"
            assert _probe(server, f"--json={told}") == 0, "the probe did not outwait one frame of a cold scene"
            fetching = json.loads(told.read_text())["stats"]["fetching"]["knot"]
            assert fetching["done_bytes"] < fetching["total_bytes"] == len(source.body)
            with pytest.raises(RendererError, match="scene knot is still loading after .* ask again") as caught:
                first.result()
        assert caught.value.kind == "unavailable"
        asked = len(source.asked)
        assert ask(server, scene="planet").stats["scene"] == "planet"
        began_s = time.monotonic()
        with pytest.raises(RendererError, match="still loading"):
            ask(server)
        assert time.monotonic() - began_s < 8, "each frame holds the pod up anew"
        assert _probe(server) == 0
        hurry.set()
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s and not (stats := _stats(server)):
            pass
        assert stats["scene"] == "knot", "the load did not go on"
        assert len(source.asked) == asked, "it was fetched anew"


def _stats(server: TritonServer) -> dict[str, Any]:
    """What a frame of the default scene says; empty while it loads."""
    try:
        return ask(server).stats
    except RendererError as error:
        if error.kind != "unavailable":
            raise
        return {}


def _probe(server: TritonServer, *arguments: str) -> int:
    """Exit code of the liveness probe as the chart has it."""
    return CliRunner().invoke(PROBE, ["--grpc", server.grpc_address, "--timeout-s", "20", *arguments]).exit_code
