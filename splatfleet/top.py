"""`splatfleet top`: pools and GPU nodes of a cluster, live."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import MIG_RESOURCE_PREFIX, POOL_LABEL
from splatfleet.get import slices_of
from splatfleet.kubectl import Json, NamespacesSettings, cell, chosen_namespace, condition, connect, fetch_all, table
from splatfleet.settings import verb

POOL_HEAD = ["POOL", "MODE", "DEMAND/s", "FORECAST/s", "READY", "START", "DESIRED", "MAX", "OK", "REASON"]
NODE_HEAD = ["NODE", "SLICES", "USED", "PODS BY POOL"]


class TopSettings(NamespacesSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_TOP_", populate_by_name=True)

    every_s: float = Field(2.0, ge=0.5, le=3600, description="Seconds between two looks.")
    once: bool = Field(False, description="Print once and stop, as without a terminal.")


def pool_rows(items: Sequence[Json]) -> list[list[str]]:
    rows = [POOL_HEAD]
    for item in sorted(items, key=lambda found: (found["metadata"]["namespace"], found["metadata"]["name"])):
        spec, status = item.get("spec") or {}, item.get("status") or {}
        rows.append(
            [
                f"{item['metadata']['namespace']}/{item['metadata']['name']}",
                cell(spec.get("mode")),
                cell(status.get("demandPerSecond")) or "-",
                cell((status.get("forecast") or {}).get("requestsPerSecond")) or "-",
                cell(status.get("readyReplicas")) or "-",
                cell(status.get("startingReplicas")) or "-",
                cell(status.get("desiredReplicas")) or "-",
                cell(spec.get("maxReplicas")),
                {"True": "yes", "False": "NO"}.get(condition(item, "Ready").get("status", ""), "-"),
                cell(status.get("reason")) or "-",
            ]
        )
    return rows


def node_rows(nodes: Sequence[Json], pods: Sequence[Json]) -> list[list[str]]:
    """Nodes with slices or with renderer pods, the fullest first."""
    used: Counter[str] = Counter()
    pools: dict[str, Counter[str]] = defaultdict(Counter)
    for pod in pods:
        node = (pod.get("spec") or {}).get("nodeName")
        if not node or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            continue
        used[node] += slices_asked(pod)
        pool = (pod["metadata"].get("labels") or {}).get(POOL_LABEL)
        if pool:
            pools[node][pool] += 1
    rows = []
    for node in nodes:
        name, slices = node["metadata"]["name"], sum(slices_of(node).values())
        if slices or pools[name]:
            held = " ".join(f"{pool}={count}" for pool, count in sorted(pools[name].items()))
            rows.append([name, str(slices), str(used[name]), held])
    return [NODE_HEAD, *sorted(rows, key=lambda row: (-int(row[2]), row[0]))]


def slices_asked(pod: Mapping[str, Any]) -> int:
    """MIG slices that a pod asks for."""
    asked = 0
    for container in (pod.get("spec") or {}).get("containers") or ():
        requests = (container.get("resources") or {}).get("requests") or {}
        asked += sum(int(count) for name, count in requests.items() if name.startswith(MIG_RESOURCE_PREFIX))
    return asked


def run(settings: TopSettings) -> None:
    """Pools with demand, forecast and pods, and nodes with their slices; live on a terminal, else once."""
    from rich.console import Console

    connection = connect(settings)
    namespace = chosen_namespace(settings, connection)

    def look() -> str:
        from kube.objects import NODES, PODS, PREDICTIVE_AUTOSCALERS

        pools = fetch_all(connection, PREDICTIVE_AUTOSCALERS.path(namespace), settings.selector)
        pods = fetch_all(connection, PODS.path(namespace), POOL_LABEL)
        nodes = fetch_all(connection, NODES.path())
        parts = [table(rows) for rows in (pool_rows(pools), node_rows(nodes, pods)) if len(rows) > 1]
        return "\n\n".join(parts) or "no PredictiveAutoscaler and no GPU node"

    console = Console()
    if settings.once or not console.is_terminal:
        click.echo(look())
        return
    from rich.live import Live
    from rich.text import Text

    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            try:
                text = look()
            except click.ClickException as error:  # an outage passes; the picture says so meanwhile
                text = f"{time.strftime('%H:%M:%S')} {error.message}"
            live.update(Text(text, no_wrap=True), refresh=True)
            try:
                time.sleep(settings.every_s)
            except KeyboardInterrupt:
                return


COMMAND = verb("top", TopSettings, run, "splatfleet top -A\nsplatfleet top -n splats --once")
