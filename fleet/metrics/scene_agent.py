"""Of the scene agent of a node."""

from __future__ import annotations

from fleet.metrics.family import LOAD_SECONDS, declare

AGENT_ASKS = declare(
    "scene_agent_asks",
    "gauge",
    ("state",),
    "Scenes asked for and not on the node's disk yet, by state (queued, fetching).",
    ("dashboard",),
)
AGENT_FETCHED_BYTES = declare(
    "scene_agent_fetched_bytes_total",
    "counter",
    ("source",),
    "Bytes that the agent fetched ahead of need, by source (remote, peer).",
    ("report", "dashboard"),
)
AGENT_FETCHES = declare(
    "scene_agent_fetches_total",
    "counter",
    ("outcome",),
    "Fetches ended, by outcome (stored, failed, paused for a more urgent one, dropped).",
    ("dashboard", "alerts"),
)
AGENT_FETCH_SECONDS = declare(
    "scene_agent_fetch_seconds",
    "histogram",
    (),
    "Seconds from the ask for a scene until it lay on disk, packed.",
    ("dashboard",),
    LOAD_SECONDS,
)
AGENT_DEADLINES = declare(
    "scene_agent_deadlines_total",
    "counter",
    ("outcome",),
    "Deadlines of asks, by outcome (met, missed).",
    ("report", "alerts"),
)
AGENT_SERVED_BYTES = declare(
    "scene_agent_served_bytes_total", "counter", (), "Bytes of objects served to other nodes.", ("dashboard",)
)
AGENT_QUARANTINED = declare(
    "scene_agent_quarantined_objects_total",
    "counter",
    (),
    "Objects of the node's store that the agent found damaged and put aside.",
    ("alerts",),
)
AGENT_PRELOADS = declare(
    "scene_agent_preloads_total",
    "counter",
    (),
    "Scenes that the agent asked itself for, because the fleet wants them and it was idle.",
    ("dashboard",),
)
AGENT_REQUESTS = declare(
    "scene_agent_requests_total",
    "counter",
    ("verb", "code"),
    "Requests to the agent by verb (ask, drop, list, object) and HTTP status code.",
    ("alerts",),
)
