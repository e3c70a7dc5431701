"""Objects against the API server's own /openapi/v3, strictly: no unknown field, no wrong type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


class OpenApi:
    """Schemas by group, version and kind, read once each."""

    def __init__(self, request: Callable[[str, str], Any]) -> None:
        self._request = request
        self._documents: dict[str, dict[str, Any]] = {}

    def faults(self, item: dict[str, Any]) -> list[str]:
        """What is wrong with an object, each with its path."""
        version = item["apiVersion"]
        path = f"apis/{version}" if "/" in version else f"api/{version}"
        if path not in self._documents:
            self._documents[path] = self._request("GET", f"/openapi/v3/{path}")["components"]["schemas"]
        schemas = self._documents[path]
        group, _, number = version.rpartition("/")
        wanted = {"group": group, "version": number, "kind": item["kind"]}
        for schema in schemas.values():
            if wanted in schema.get("x-kubernetes-group-version-kind", ()):
                return list(_faults(schema, item, "", schemas))
        return [f"{version} {item['kind']} is unknown"]


def _faults(schema: dict[str, Any], value: Any, at: str, schemas: dict[str, Any]) -> Iterator[str]:
    schema = _resolved(schema, schemas)
    if schema.get("x-kubernetes-int-or-string") or "oneOf" in schema or value is None:
        return
    kind = schema.get("type")
    if kind and (not isinstance(value, _TYPES[kind]) or (kind in ("integer", "number") and isinstance(value, bool))):
        yield f"{at}: {value!r} is no {kind}"
        return
    if isinstance(value, list):
        for place, item in enumerate(value):
            yield from _faults(schema.get("items", {}), item, f"{at}[{place}]", schemas)
    elif isinstance(value, dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        known, others = schema.get("properties"), schema.get("additionalProperties")
        for key, item in value.items():
            here = f"{at}.{key}".lstrip(".")
            if known and key in known:
                yield from _faults(known[key], item, here, schemas)
            elif isinstance(others, dict):
                yield from _faults(others, item, here, schemas)
            elif known is not None and not others:
                yield f"{here} is no field"


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    while True:
        if "$ref" in schema:
            schema = schemas[schema["$ref"].rsplit("/", 1)[-1]]
        elif len(schema.get("allOf", ())) == 1:
            schema = schema["allOf"][0]
        else:
            return schema
