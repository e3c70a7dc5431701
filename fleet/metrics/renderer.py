"""Of the model inside Triton: custom metrics of the Python backend."""

from __future__ import annotations

from fleet.metrics.family import FRAME_SECONDS, LOAD_SECONDS, declare

RENDERER_RESIDENT_SCENES = declare(
    "renderer_resident_scenes", "gauge", (), "Scenes resident in the memory of this pod.", ("dashboard",)
)
RENDERER_RESIDENT_BYTES = declare(
    "renderer_resident_bytes", "gauge", (), "Bytes of scenes resident in the memory of this pod.", ("dashboard",)
)
RENDERER_SCENE_RESIDENT_BYTES = declare(
    "renderer_scene_resident_bytes",
    "gauge",
    ("scene",),
    "Bytes that one scene takes in the memory of this pod, 0 once it was evicted.",
    ("gateway", "exporter"),
)
RENDERER_BUDGET_BYTES = declare(
    "renderer_budget_bytes", "gauge", (), "Bytes that scenes may take in the memory of this pod.", ("exporter",)
)
RENDERER_SCENE_REQUESTS = declare(
    "renderer_scene_requests_total",
    "counter",
    ("result",),
    "Frames that found their scene in the memory of this pod (hit) or not (miss); loads ahead of frames do not count.",
    ("dashboard", "report"),
)
RENDERER_EVICTIONS = declare(
    "renderer_scene_evictions_total",
    "counter",
    ("cause",),
    "Scenes evicted from the memory of this pod by cause (budget, drop, memory).",
    ("dashboard",),
)
RENDERER_SCENE_LOAD_SECONDS = declare(
    "renderer_scene_load_seconds",
    "histogram",
    ("source",),
    "Seconds from the ask for a scene until it was resident, by where it lay (remote, disk, packed).",
    ("autoscaler", "dashboard"),
    LOAD_SECONDS,
)
RENDERER_RENDER_SECONDS = declare(
    "renderer_render_seconds",
    "histogram",
    (),
    "Seconds that one frame took from its start in the model to its encoded end.",
    ("autoscaler", "dashboard"),
    FRAME_SECONDS,
)
RENDERER_FETCHED_BYTES = declare(
    "renderer_fetched_bytes_total", "counter", (), "Bytes that this pod fetched from object stores.", ("report",)
)
RENDERER_PEER_BYTES = declare(
    "renderer_peer_fetched_bytes_total", "counter", (), "Bytes that this pod fetched from other nodes.", ("report",)
)
RENDERER_QUARANTINED = declare(
    "renderer_quarantined_objects_total",
    "counter",
    (),
    "Objects of the node's store that this pod found damaged and put aside.",
    ("alerts",),
)
