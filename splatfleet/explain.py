"""`splatfleet explain`: why a pod went where it went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import EXTENDER_PORT
from splatfleet import explain_autoscaler
from splatfleet.addresses import check_url
from splatfleet.settings import UsageError, VerbSettings, verb


class PodSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_EXPLAIN_", populate_by_name=True)

    pod: str = Field(description="NAMESPACE/NAME.")
    extender: str = Field(f"http://127.0.0.1:{EXTENDER_PORT}", description="URL of the extender that decided.")
    most: int = Field(20, ge=1, description="Nodes to show, cheapest first.")
    client_certificate: Path | None = Field(None, description="PEM certificate and key to show the extender.")
    ca: Path | None = Field(None, description="PEM CA of the extender's certificate.")
    json_file: Path | None = Field(None, alias="json", description="Write the explanation here, every node.")


def run(settings: PodSettings) -> None:
    """The last placement of a pod, term by term: what each node would cost, what was reserved, how old the data was."""
    namespace, slash, name = settings.pod.partition("/")
    if not (namespace and slash and name):
        raise UsageError(f"pod {settings.pod!r}: expected NAMESPACE/NAME (example: default/renderer-1)")
    check_url(settings.extender, "--extender")
    explained = _ask(settings)
    click.echo(as_text(explained, settings.most))
    if settings.json_file is not None:
        settings.json_file.write_text(json.dumps(explained, indent=1) + "\n")


def _ask(settings: PodSettings) -> dict[str, Any]:
    import ssl

    import httpx2

    context: ssl.SSLContext | bool = True
    try:
        if settings.extender.startswith("https"):
            context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
            if settings.client_certificate is not None:
                context.load_cert_chain(settings.client_certificate)
        with httpx2.Client(verify=context, timeout=10, trust_env=False) as client:
            reply = client.get(f"{settings.extender.rstrip('/')}/explain", params={"pod": settings.pod})
            explained: dict[str, Any] = reply.json()
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        raise click.ClickException(f"--extender {settings.extender}: {error}") from error
    if reply.status_code != 200:
        raise click.ClickException(str(explained.get("error", reply.status_code)))
    return explained


COLUMNS = (
    "node",
    "score",
    "total_s",
    "time_to_ready_s",
    "fragmentation_s",
    "eviction_s",
    "crowding_s",
    "node_s",
    "tier",
    "trust",
    "digest_age_s",
)


def as_text(explained: dict[str, Any], most: int) -> str:
    """A sentence and a table, the cheapest nodes first, those that do not fit last with their reason."""
    pod, nodes = explained["pod"], explained["nodes"]
    asked = [*pod["profiles"], *([f"{pod['gpus']} GPU"] if pod["gpus"] else [])]
    expected = ", ".join(f"{scene} {share:.0%}" for scene, share in pod.get("expected_scenes", {}).items())
    lines = [
        f"pod {pod['namespace']}/{pod['name']} ({pod['uid']}), pool {pod['pool'] or '-'}",
        f"asks for {', '.join(asked) or 'no GPU'}; scenes {', '.join(pod['scenes']) or 'none'}",
        *([f"priced by what its pool is expected to be asked for: {expected}"] if expected else []),
        f"{explained['why']}; reserved on {explained['reserved'] or 'no node any more'}",
        *(f"could not be read: {problem}" for problem in pod["problems"]),
    ]
    ordered = sorted(nodes, key=lambda line: (not line["fits"], line["total_s"] or 0.0))
    rows = [COLUMNS, *(tuple(_cell(line, column) for column in COLUMNS) for line in ordered[:most])]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(nodes) > most:
        lines.append(f"and {len(nodes) - most} more nodes")
    return "\n".join(lines)


def _cell(line: dict[str, Any], column: str) -> str:
    value = line[column]
    if column == "total_s" and not line["fits"]:
        return str(line["reason"])
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


COMMAND = click.Group(
    "explain",
    commands=[
        verb("pod", PodSettings, run, "splatfleet explain pod default/renderer-1", arguments=["pod"]),
        explain_autoscaler.COMMAND,
    ],
    help="Why a pod went where it went, or a pool has the count that it has.\n\n\b\nExample:\n"
    "  splatfleet explain pod default/renderer-1\n  splatfleet explain autoscaler renderer -n splats",
)
