"""Pools out of plain mappings (a YAML or JSON file); every error names the field, the value and the fix."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec

from autoscaler.pool import Mode, Pool
from fleet.labels import POOL_PATTERN

# Fields of a pool that its settings cannot say, and what does.
TOLD_ELSEWHERE = {
    "tick_s": "--interval-s says it for all pools",
    "carried_out": "whoever carries the counts out says it",
}


def parse_pool(settings: Any) -> Pool:
    """A Pool out of a mapping, or out of a bare name. Raises ValueError."""
    if isinstance(settings, str):
        settings = {"name": settings}
    if not isinstance(settings, Mapping):
        raise ValueError(
            f"a pool is {type(settings).__name__} {settings!r:.60}, expected a name or a mapping of settings"
        )
    plain = {str(key).replace("-", "_"): value for key, value in settings.items()}
    for name, whose in TOLD_ELSEWHERE.items():
        if name in plain:
            raise ValueError(f"pool setting {name} is {plain[name]!r}, leave it out: {whose}")
    _refuse_unknown(Pool, plain, "")
    try:
        pool = msgspec.convert(plain, Pool, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(_told(plain, str(error))) from error
    if not re.fullmatch(POOL_PATTERN, pool.name):
        raise ValueError(
            f"{pool.name[:80]!r} is no name of a pool, expected at most 63 letters, digits, '-', '_' or '.', "
            'or its settings as JSON ({"name": "renderer", "max_replicas": 12})'
        )
    return pool


def _told(settings: Mapping[str, Any], error: str) -> str:
    """What msgspec says, with the value; what the pool says of itself is whole."""
    if error.startswith("pool "):
        return error.split(" - at `$", 1)[0]
    pool = f"pool {settings.get('name', '?')!r}"
    said, _, path = error.partition(" - at `$.")
    if not path:
        return f"{pool}: {error}"
    path = path.rstrip("`")
    value: Any = settings
    for part in re.findall(r"\w+", path):
        value = value[int(part)] if _is_list(value) else value.get(part) if isinstance(value, Mapping) else None
    fix = f" ({' or '.join(Mode)})" if path == "mode" else ""
    if path.startswith("calendars") and path.endswith(("begin", "end")):
        fix = ': write it in quotes, as "18:00", which YAML takes for a number without them'
    return f"{pool}: {path} is {value!r}, {said}{fix}"


def _refuse_unknown(kind: type, settings: Mapping[str, Any], path: str) -> None:
    hints = typing.get_type_hints(kind)
    known = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    ours = [name for name in known if kind is not Pool or name not in TOLD_ELSEWHERE]
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"pool setting {path}{key} does not exist; known here: {', '.join(ours)}")
        inner, items = known[key], [(f"{path}{key}", value)]
        if typing.get_origin(inner) is tuple:
            inner = typing.get_args(inner)[0]
            items = [(f"{path}{key}[{index}]", item) for index, item in enumerate(value if _is_list(value) else ())]
        if isinstance(inner, types.UnionType) or not dataclasses.is_dataclass(inner):
            continue
        for where, item in items:
            if not isinstance(item, Mapping):
                raise ValueError(f"pool setting {where} is {item!r}, expected a mapping of settings")
            _refuse_unknown(typing.cast(type, inner), item, f"{where}.")


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)
