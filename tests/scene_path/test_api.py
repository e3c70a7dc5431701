"""The agent's API against what a generator of requests makes up: no 500, and nothing that is not written down."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tests.made_up_requests import answers, document, send
from tests.scene_path.agents import TOKEN, entry_of, make_scene
from tests.scene_path.conftest import StartAgent


def in_path(name: str, is_known: bool, *known: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"enum": list(known)} if is_known else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def api(digest: str, is_known: bool) -> dict[str, Any]:
    """What docs/scene-path.md says, as OpenAPI; `is_known` for requests that mostly hit something."""
    ask = {
        "type": "object",
        "required": ["deadline_s"],
        "properties": {"deadline_s": {"type": "number"}, "priority": {"type": "integer"}},
    }
    ranges = {"anyOf": [{"enum": ["bytes=0-9", "bytes=9-"]}, {"type": "string"}]}
    span = {"name": "range", "in": "header", "schema": ranges}
    refused = answers(400, 401, 404, 405)
    served = {**answers(200, 206, media_type="application/octet-stream"), **refused, "416": {"description": ""}}
    text = {"get": {"responses": answers(200, media_type="text/plain")}}
    digest_in_path = in_path("digest", is_known, digest)
    return document(
        {
            "/v1/scenes": {"get": {"responses": answers(200, 401)}},
            "/v1/scenes/{scene}": {
                "parameters": [in_path("scene", is_known, "ball", "nobody", "Bad..Id")],
                "put": {
                    "requestBody": {"content": {"application/json": {"schema": ask}}},
                    "responses": {**answers(202), **refused},
                },
                "delete": {"responses": {**answers(204, 409), **refused}},
            },
            "/v1/objects/{digest}": {"parameters": [digest_in_path, span], "get": {"responses": served}},
            "/v1/objects/{digest}/{name}": {
                "parameters": [digest_in_path, in_path("name", is_known, "meta.json"), span],
                "get": {"responses": served},
            },
            "/metrics": text,
            "/-/healthy": text,
            "/-/ready": text,
        }
    )


def test_made_up_requests(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "ball.ply")
    entry = entry_of(tmp_path / "ball.ply")
    agent = start_agent("node-1", [entry])
    agent.client.ask("ball", 30.0)
    agent.wait_state("ball", "stored")
    token = {"authorization": f"Bearer {TOKEN}"}
    seen = sum((send(api(str(entry.digest), known), agent.url, token) for known in (True, False)), start=Counter())
    assert {200, 202, 204, 400, 404} <= seen.keys(), f"the requests were too dull: {seen}"
    assert agent.process.poll() is None
