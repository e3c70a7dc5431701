"""What the verbs that feel like kubectl share: its flags, its tables, its ages, its outputs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import yaml
from pydantic import Field

from splatfleet.settings import UsageError, VerbSettings

if TYPE_CHECKING:
    from kube.connection import Connection
    from kube.objects import Resource

Json = dict[str, Any]


class ClusterSettings(VerbSettings):
    """Which cluster, and which namespace of it."""

    namespace: str | None = Field(
        None, description="Namespace; that of the context without it.", json_schema_extra={"short": "-n"}
    )
    context: str | None = Field(None, description="Context of the kubeconfig.")
    kubeconfig: Path | None = Field(None, description="Otherwise KUBECONFIG, or ~/.kube/config.")


class NamespacesSettings(ClusterSettings):
    """Flags of what looks at many objects."""

    all_namespaces: bool = Field(False, description="Every namespace.", json_schema_extra={"short": "-A"})
    selector: str = Field("", description="Label selector.", json_schema_extra={"short": "-l"})


class ListSettings(NamespacesSettings):
    """Flags of what lists objects."""

    output: Literal["table", "wide", "json", "yaml", "name"] = Field(
        "table", description="How to print.", json_schema_extra={"short": "-o"}
    )


def connect(settings: ClusterSettings) -> Connection:
    """The API server that the flags name; raises ClickException."""
    from kube.connection import Connection
    from kube.errors import ConfigError

    try:
        return Connection.open(settings.kubeconfig, settings.context)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error


def fetch(connection: Connection, path: str, query: Mapping[str, str] | None = None) -> Json:
    """One GET as plain values; raises ClickException with the server's own words."""
    from kube.errors import KubeError

    try:
        found: Json = json.loads(connection.get(path, query))
    except KubeError as error:
        raise click.ClickException(f"{connection.host}: {error}") from error
    return found


def fetch_all(connection: Connection, path: str, selector: str = "") -> list[Json]:
    """Every object of a collection, page by page."""
    items: list[Json] = []
    query = {"limit": "500", **({"labelSelector": selector} if selector else {})}
    while True:
        page = fetch(connection, path, query)
        items += page.get("items") or []
        again = page.get("metadata", {}).get("continue")
        if not again:
            return items
        query["continue"] = again


def chosen_namespace(settings: ClusterSettings, connection: Connection) -> str | None:
    """None is every namespace."""
    if isinstance(settings, NamespacesSettings) and settings.all_namespaces:
        if settings.namespace is not None:
            raise UsageError("--namespace and --all-namespaces: give one of them")
        return None
    return settings.namespace or connection.namespace


def one(connection: Connection, resource: Resource[Any], namespace: str, name: str) -> Json:
    """One object by name, checked before it becomes a part of a path; raises ClickException."""
    if not name or "/" in name or name.startswith("."):
        raise UsageError(f"name {name!r}: expected the name of one of {resource.plural}")
    return fetch(connection, resource.path(namespace, name))


def age(text: str | None, now_s: float | None = None) -> str:
    """Time since an API time as kubectl writes it: 45s, 12m, 3h10m, 5d."""
    from kube.objects import time_s

    at_s = time_s(text)
    if at_s is None:
        return "<unknown>"
    return duration((time.time() if now_s is None else now_s) - at_s)


def duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    if whole < 10 * 60:
        return f"{whole // 60}m{whole % 60}s" if whole % 60 else f"{whole // 60}m"
    if whole < 3 * 3600:
        return f"{whole // 60}m"
    if whole < 8 * 3600:
        minutes = whole % 3600 // 60
        return f"{whole // 3600}h{minutes}m" if minutes else f"{whole // 3600}h"
    return f"{whole // 3600}h" if whole < 48 * 3600 else f"{whole // 86400}d"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns three spaces apart, as kubectl has them; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def cell(value: Any) -> str:
    """A value of a table; what is not known is empty as kubectl has it."""
    return "" if value is None else str(value)


def condition(item: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """One condition of an object; empty where it has none."""
    conditions = (item.get("status") or {}).get("conditions") or ()
    return next((found for found in conditions if found.get("type") == kind), {})


def print_objects(items: Sequence[Json], output: str, single: bool, kind: str) -> None:
    """JSON, YAML or names; an object that was named stands alone, others in a List."""
    if output == "name":
        for item in items:
            click.echo(f"{kind}/{item['metadata']['name']}")
        return
    shown: Json = items[0] if single else {"apiVersion": "v1", "kind": "List", "items": list(items)}
    if output == "json":
        click.echo(json.dumps(shown, indent=4))
    else:
        click.echo(yaml.safe_dump(shown, sort_keys=False), nl=False)
