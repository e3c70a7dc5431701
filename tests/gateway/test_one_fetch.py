"""A hundred clients on one scene that is nowhere: gateway and two real pods, one fetch from the source."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from fleet.scene import SceneId
from renderer.catalogue import Catalogue, CatalogueEntry, save_catalogue
from renderer.formats.ply import write as write_ply
from renderer.made import make
from renderer.scene_source import digest_of
from tests.gateway.conftest import running_gateway, write_renderers
from tests.gateway.test_gateway_triton import view_of
from tests.gateway.triton_pods import entry, start_pods, triton_backends

pytestmark = pytest.mark.triton
CLIENTS = 100
SCENE = "knot"


@contextmanager
def counting_source(file: Path) -> Iterator[tuple[str, list[int]]]:
    """The file over HTTP, and the bytes of each body that was sent."""
    sent: list[int] = []

    class Source(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(file.stat().st_size))
            self.end_headers()

        def do_GET(self) -> None:
            body = file.read_bytes()
            sent.append(len(body))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Source)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/{file.name}", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_hundred_clients_of_a_cold_scene_cause_one_fetch(tmp_path: Path) -> None:
    backends = triton_backends()
    source = tmp_path / "source.ply"
    write_ply(source, make(SCENE, 4_000))
    with counting_source(source) as (url, sent):
        cold = CatalogueEntry(SceneId(SCENE), url, digest_of(source), source.stat().st_size, resident_bytes=4_000 * 176)
        save_catalogue(Catalogue([cold]), tmp_path / "catalogue.json")
        with start_pods(tmp_path, backends, ["", ""]) as servers:
            write_renderers(tmp_path / "renderers.json", *(entry(n, server) for n, server in enumerate(servers)))
            with running_gateway(tmp_path) as gateway:
                limits = httpx2.Limits(max_connections=CLIENTS)
                async with httpx2.AsyncClient(base_url=gateway, timeout=60, trust_env=False, limits=limits) as client:
                    view = view_of(SCENE)
                    answers = await asyncio.gather(*(client.post("/v1/render", json=view) for _ in range(CLIENTS)))
    assert [answer.status_code for answer in answers] == [200] * CLIENTS
    assert sent == [source.stat().st_size]
    assert {answer.headers["x-splatfleet-cold"] for answer in answers} <= {"scene", "none", "pod"}
