"""The agent's API against what a generator of requests makes up: no 500, and nothing that is not written down."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.scene_path.agents import TOKEN, entry_of, make_scene
from tests.scene_path.conftest import StartAgent

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance)
_ERROR = {"content": {"application/json": {"schema": {"type": "object", "required": ["error"]}}}, "description": "no"}
_TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "text"}
_JSON = {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "yes"}
_BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string"}}}, "description": "bytes"}
_EMPTY = {"description": "no body"}


def in_path(name: str, is_known: bool, *known: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"enum": list(known)} if is_known else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def api(digest: str, is_known: bool) -> dict[str, Any]:
    """What docs/scene-path.md says, as OpenAPI."""
    ask = {
        "type": "object",
        "required": ["deadline_s"],
        "properties": {"deadline_s": {"type": "number"}, "priority": {"type": "integer"}},
    }
    refusals = {"400": _ERROR, "401": _ERROR, "404": _ERROR, "405": _EMPTY}
    span = {
        "name": "range",
        "in": "header",
        "schema": {"anyOf": [{"enum": ["bytes=0-9", "bytes=9-"]}, {"type": "string"}]},
    }
    served = {"200": _BYTES, "206": _BYTES, "416": _EMPTY, **refusals}
    return {
        "openapi": "3.0.3",
        "info": {"title": "scene agent", "version": "1"},
        "paths": {
            "/v1/scenes": {"get": {"responses": {"200": _JSON, "401": _ERROR}}},
            "/v1/scenes/{scene}": {
                "parameters": [in_path("scene", is_known, "ball", "nobody", "Bad..Id")],
                "put": {
                    "requestBody": {"content": {"application/json": {"schema": ask}}},
                    "responses": {"202": _JSON, **refusals},
                },
                "delete": {"responses": {"204": _EMPTY, "409": _ERROR, **refusals}},
            },
            "/v1/objects/{digest}": {
                "parameters": [in_path("digest", is_known, digest, "0" * 64), span],
                "get": {"responses": served},
            },
            "/v1/objects/{digest}/{name}": {
                "parameters": [
                    in_path("digest", is_known, digest, "0" * 64),
                    in_path("name", is_known, "meta.json"),
                    span,
                ],
                "get": {"responses": served},
            },
            "/metrics": {"get": {"responses": {"200": _TEXT}}},
            "/-/healthy": {"get": {"responses": {"200": _TEXT}}},
            "/-/ready": {"get": {"responses": {"200": _TEXT}}},
        },
    }


def test_made_up_requests(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "ball.ply")
    entry = entry_of(tmp_path / "ball.ply")
    agent = start_agent("node-1", [entry])
    agent.client.ask("ball", 30.0)
    agent.wait_state("ball", "stored")
    seen: Counter[int] = Counter()
    schemas = [schemathesis.openapi.from_dict(api(str(entry.digest), is_known)) for is_known in (True, False)]
    for schema in schemas:
        schema.config.update(base_url=agent.url)
    for operation in itertools.chain.from_iterable(schema.get_all_operations() for schema in schemas):

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(operation.ok().as_strategy())
        def send(case: Any) -> None:
            answer = case.call(headers={"authorization": f"Bearer {TOKEN}"}, timeout=10)
            seen[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)

        send()
    assert {200, 202, 204, 400, 404} <= seen.keys(), f"the requests were too dull: {seen}"
    assert agent.process.poll() is None
