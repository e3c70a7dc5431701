"""Requests that a generator makes up from an OpenAPI document, and what may not come of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance)


def document(paths: Mapping[str, Any]) -> dict[str, Any]:
    return {"openapi": "3.0.3", "info": {"title": "under test", "version": "1"}, "paths": dict(paths)}


def answers(*codes: int, media_type: str = "application/json") -> dict[str, Any]:
    """Responses of an operation, each with a body of `media_type`; 204, 304 and 405 without."""
    content = {"content": {media_type: {"schema": {}}}}
    return {str(code): {"description": "", **({} if code in (204, 304, 405) else content)} for code in codes}


def send(api: Mapping[str, Any], base_url: str, headers: Mapping[str, str], examples: int = 40) -> Counter[int]:
    """Send many requests of each operation, every answer checked; how often each status code came."""
    schema = schemathesis.openapi.from_dict(dict(api))
    schema.config.update(base_url=base_url)
    seen: Counter[int] = Counter()
    for operation in schema.get_all_operations():

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(operation.ok().as_strategy())
        def ask(case: Any) -> None:
            answer = case.call(headers=dict(headers), timeout=10)
            seen[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)

        ask()
    return seen
