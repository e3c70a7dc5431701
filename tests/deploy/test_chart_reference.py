"""The reference of the chart's values is the schema's, and the schema says something of every value."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from typing import Any

import yaml

from tests.conftest import REPOSITORY
from tests.deploy.conftest import CHART


def test_the_page_is_made_from_the_schema() -> None:
    script = runpy.run_path(str(REPOSITORY / "scripts" / "chart-values.py"))
    assert (REPOSITORY / "docs" / "chart-values.md").read_text() == script["page"](), "run: make deploy"


def test_every_default_is_in_the_schema_and_everything_is_described() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert list(undescribed(schema, "")) == []
    assert schema["additionalProperties"] is False
    assert set(yaml.safe_load((CHART / "values.yaml").read_text())) == set(schema["properties"])


def undescribed(schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, below in schema.get("properties", {}).items():
        if not below.get("description", "").endswith((".", ";")):
            yield f"{path}.{name}"
        yield from undescribed(below, f"{path}.{name}")
