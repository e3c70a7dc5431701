#!/usr/bin/env python3
"""Write docs/chart-values.md from the chart's schema and its defaults: `scripts/chart-values.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
CHART = REPOSITORY / "deploy" / "chart"
PAGE = REPOSITORY / "docs" / "chart-values.md"
HEAD = """# Values of the chart

Made from `deploy/chart/values.schema.json` by `scripts/chart-values.py`; a test compares the two. What is not in here
is refused by `helm install`. Examples: `deploy/chart/examples`.

| value | default | allowed | |
|---|---|---|---|
"""


def page() -> str:
    """The reference as Markdown."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = _rows(schema, defaults, "", schema["definitions"])
    pool = schema["definitions"]["pool"]
    return HEAD + "".join(rows) + "".join(_rows(pool, {}, "pools.NAME", schema["definitions"]))


def _rows(schema: dict[str, Any], default: Any, path: str, definitions: dict[str, Any]) -> Iterator[str]:
    for name, below in schema.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        value = default.get(name) if isinstance(default, dict) else None
        whole = _whole(below, definitions)
        if whole.get("properties") and below.get("allOf") is None:
            yield from _rows(whole, value, here, definitions)
        else:
            text = (below.get("description") or whole.get("description", "")).replace("|", "\\|")
            given = isinstance(default, dict) and name in default
            yield f"| `{here}` | {_shown(value) if given else ''} | {_allowed(whole)} | {text} |\n"


def _whole(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "allOf" in schema:
        found: dict[str, Any] = definitions[schema["allOf"][0]["$ref"].rsplit("/", 1)[-1]]
        return found
    return schema


def _shown(value: Any) -> str:
    return "" if value in ("", None, {}, []) else f"`{json.dumps(value)}`".replace("|", "\\|")


def _allowed(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{item}`" for item in schema["enum"] if item != "")
    kinds = schema.get("type", "any")
    text = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    for word, sign in (("minimum", "≥"), ("maximum", "≤")):
        if word in schema:
            text += f" {sign} {schema[word]:,}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
