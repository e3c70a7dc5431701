"""What kube-scheduler does not call, against made-up requests; the hot verbs have the golden and the hostile bodies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.made_up_requests import answers, document, send
from tests.scheduler_extender.conftest import GB, Rig, digest, pod

POD = {
    "type": "object",
    "properties": {
        "metadata": {
            "type": "object",
            "properties": {
                "uid": {"type": "string"},
                "name": {"type": "string"},
                "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
        "spec": {"type": "object"},
        "status": {"type": "object"},
    },
}
KINDS = {"type": "string", "enum": ["ADDED", "MODIFIED", "DELETED"]}
EVENT = {"type": "object", "properties": {"type": KINDS, "object": POD}, "required": ["type", "object"]}
LIST = {
    "type": "object",
    "properties": {"type": {"enum": ["LIST"]}, "items": {"type": "array", "items": POD}},
    "required": ["type", "items"],
}
ARGS = {
    "type": "object",
    "properties": {"Pod": POD, "NodeNames": {"type": "array", "items": {"enum": ["near", "far"]}}},
    "required": ["Pod", "NodeNames"],
}
FORECAST = {
    "type": "object",
    "additionalProperties": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}},
}


def body(*schemas: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"anyOf": list(schemas)}}}}


def api() -> dict[str, Any]:
    asked = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in ("uid", "pod")]
    return document(
        {
            "/explain": {
                "get": {"parameters": asked, "responses": answers(200, 400, 404)},
                "post": {"requestBody": body(ARGS, {}), "responses": answers(200, 400, 404)},
            },
            "/v1/pod-events": {"post": {"requestBody": body(EVENT, LIST, {}), "responses": answers(200, 400)}},
            "/v1/node-events": {"post": {"requestBody": body({"type": "object"}, {}), "responses": answers(200, 400)}},
            "/v1/forecast": {"put": {"requestBody": body(FORECAST, {}), "responses": answers(200, 400)}},
            "/metrics": {"get": {"responses": answers(200, media_type="text/plain")}},
            "/-/healthy": {"get": {"responses": answers(200)}},
            "/-/ready": {"get": {"responses": answers(200, 503)}},
        }
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_made_up_requests(rig: Callable[..., Rig]) -> None:
    started = rig(near=digest("near", {"scene-a": GB}), far=digest("far"))
    seen: Counter[int] = send(api(), str(started.client.base_url), {})
    assert {200, 400, 404} <= seen.keys(), f"the requests were too dull: {seen}"
    # What was made up is forgotten by the next list of all pods, and a real pod is answered as before.
    assert started.client.post("/v1/pod-events", json={"type": "LIST", "items": []}).status_code == 200
    assert started.prioritize(pod("uid-1", "scene-a"), ["near", "far"])["near"] == 10
