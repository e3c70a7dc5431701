"""Scenes on disks and in memory."""

from __future__ import annotations

from fleet import metrics as m
from monitoring.board import Board, Panel, Query, added, by_label, quantile, rate, select

HIT = 'result="hit"'

SCENE_CACHE = Board(
    "scene-cache",
    "Splatfleet / Scene cache",
    "What lies on disks and in memory, and how it got there.",
    (
        (
            "Disks of the nodes",
            (
                Panel(
                    "Store",
                    "Bytes that a node's store may hold and that are free.",
                    "bytes",
                    (
                        Query(added("instance", select(m.SCENE_CACHE_CAPACITY)), "{{instance}} capacity"),
                        Query(added("instance", select(m.SCENE_CACHE_FREE)), "{{instance}} free"),
                    ),
                ),
                Panel(
                    "Largest scenes",
                    "Bytes over all nodes of the twelve scenes that take most.",
                    "bytes",
                    by_label(f"topk(12, {added('scene', select(m.SCENE_CACHE_SCENE_BYTES))})", "scene"),
                    "stacked",
                ),
                Panel(
                    "In flight",
                    "Bytes fetched so far of scenes under way.",
                    "bytes",
                    by_label(added("scene", select(m.SCENE_CACHE_FETCHING_BYTES)), "scene"),
                ),
            ),
        ),
        (
            "Scene agents",
            (
                Panel(
                    "Asks",
                    "Scenes asked for and not on disk yet.",
                    "short",
                    by_label(added("state", select(m.AGENT_ASKS)), "state"),
                    "stacked",
                ),
                Panel(
                    "Fetched and served",
                    "Bytes by source, and bytes served to other nodes.",
                    "Bps",
                    (
                        Query(rate("source", select(m.AGENT_FETCHED_BYTES)), "from {{source}}"),
                        Query(rate("", select(m.AGENT_SERVED_BYTES)), "to peers"),
                    ),
                ),
                Panel(
                    "Fetches by outcome",
                    "What became of them.",
                    "ops",
                    by_label(rate("outcome", select(m.AGENT_FETCHES)), "outcome"),
                    "stacked",
                ),
                Panel(
                    "Time to disk",
                    "Seconds from the ask until the scene lay packed on disk.",
                    "s",
                    (
                        Query(quantile(0.5, "", m.AGENT_FETCH_SECONDS), "p50"),
                        Query(quantile(0.95, "", m.AGENT_FETCH_SECONDS), "p95"),
                    ),
                ),
                Panel(
                    "Deadlines",
                    "Asks that were on disk in time, or not.",
                    "ops",
                    by_label(rate("outcome", select(m.AGENT_DEADLINES)), "outcome"),
                    "stacked",
                ),
                Panel(
                    "Asked by itself",
                    "Scenes that agents asked themselves for, because the fleet wants them and they were idle.",
                    "ops",
                    by_label(rate("instance", select(m.AGENT_PRELOADS)), "instance"),
                ),
                Panel(
                    "Denied",
                    "Requests to agents that were refused (401, 403), by verb.",
                    "reqps",
                    (Query(rate("verb, code", select(m.AGENT_REQUESTS, 'code=~"4.."')), "{{verb}} {{code}}"),),
                ),
            ),
        ),
        (
            "Memory of the pods",
            (
                Panel(
                    "Resident",
                    "Bytes of scenes in memory over all pods, and what they may take.",
                    "bytes",
                    (
                        Query(added("", select(m.RENDERER_RESIDENT_BYTES)), "resident"),
                        Query(added("", select(m.RENDERER_BUDGET_BYTES)), "budget"),
                    ),
                ),
                Panel(
                    "Hits",
                    "Share of look-ups that met the scene in memory.",
                    "percentunit",
                    (
                        Query(
                            f"{rate('', select(m.RENDERER_SCENE_REQUESTS, HIT))} / "
                            f"({rate('', select(m.RENDERER_SCENE_REQUESTS))} > 0)",
                            "hits",
                        ),
                    ),
                ),
                Panel(
                    "Loads",
                    "Seconds until a scene was resident, by where it lay; the slowest twentieth.",
                    "s",
                    by_label(quantile(0.95, "source", m.RENDERER_SCENE_LOAD_SECONDS), "source"),
                ),
                Panel(
                    "Scenes in memory",
                    "Scenes resident in each pod.",
                    "short",
                    by_label(select(m.RENDERER_RESIDENT_SCENES), "instance"),
                ),
                Panel(
                    "Thrown out",
                    "Scenes evicted from memory, by cause.",
                    "ops",
                    by_label(rate("cause", select(m.RENDERER_EVICTIONS)), "cause"),
                    "stacked",
                ),
            ),
        ),
    ),
)
