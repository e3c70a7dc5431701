"""The exporter's API against made-up requests: header fields are all that a caller can choose."""

from __future__ import annotations

from pathlib import Path

from tests.exporter.surroundings import Exporter, Store
from tests.made_up_requests import answers, document, send


def test_made_up_requests(tmp_path: Path, store: Store) -> None:
    store.set_capacity(10_000)
    store.put("ball")
    (tmp_path / "renderers.json").write_text('{"renderers": []}')
    flags = ["--renderers-file", str(tmp_path / "renderers.json"), "--node", "n", "--scene-cache", str(store.root)]
    exporter = Exporter(flags, tmp_path / "exporter.log")
    try:

        def header(name: str) -> dict[str, object]:
            return {"name": name, "in": "header", "schema": {"type": "string"}}

        text = answers(200, media_type="text/plain")
        api = document(
            {
                "/metrics": {"get": {"parameters": [header("accept")], "responses": text_of_any_kind()}},
                "/v1/node": {"get": {"parameters": [header("if-none-match")], "responses": answers(200, 304)}},
                "/-/healthy": {"get": {"responses": text}},
                "/-/ready": {"get": {"responses": text}},
                "/": {"get": {"responses": answers(200, media_type="text/html")}},
            }
        )
        seen = send(api, exporter.url, {})
        assert seen.keys() <= {200, 304}
        assert sum(seen.values()) > 40
        assert exporter.process.poll() is None
    finally:
        assert exporter.stop() == 0


def text_of_any_kind() -> dict[str, object]:
    """Prometheus text or OpenMetrics, as the Accept header asks."""
    kinds = ("text/plain", "application/openmetrics-text")
    return {"200": {"description": "", "content": {kind: {"schema": {}} for kind in kinds}}}
