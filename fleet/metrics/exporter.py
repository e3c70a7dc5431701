"""Of the exporter of a node."""

from __future__ import annotations

from fleet.metrics.family import declare

SOURCE_UP = declare(
    "exporter_source_up",
    "gauge",
    ("source", "target"),
    "1 where the last scrape of a source (triton, scene_cache, gpus, dcgm, renderers) worked, else 0.",
    ("alerts",),
)
SOURCE_SECONDS = declare(
    "exporter_source_duration_seconds", "gauge", ("source", "target"), "Seconds that the last scrape of a source took."
)
TRITON_QUEUE_SECONDS = declare(
    "triton_queue_seconds_total",
    "counter",
    ("pod", "pool", "model"),
    "Seconds that completed requests spent in Triton's queue.",
    ("rules", "dashboard"),
)
TRITON_COMPUTE_SECONDS = declare(
    "triton_compute_seconds_total",
    "counter",
    ("pod", "pool", "model"),
    "Seconds that completed requests spent in compute (input, inference and output).",
    ("rules", "autoscaler"),
)
TRITON_PENDING = declare(
    "triton_pending_requests",
    "gauge",
    ("pod", "pool", "model"),
    "Requests that wait in Triton, without the one that runs; fresh where the queue counters lag.",
    ("autoscaler", "rules"),
)
TRITON_REQUESTS = declare(
    "triton_requests_total",
    "counter",
    ("pod", "pool", "model", "outcome"),
    "Requests completed by Triton, by outcome (success, backend, canceled, rejected, other).",
    ("rules", "dashboard"),
)
TRITON_QUEUE_TO_COMPUTE = declare(
    "triton_queue_to_compute_ratio",
    "gauge",
    ("pod", "pool", "model"),
    "Queue seconds over compute seconds in the exporter's window; absent where nothing was computed.",
    ("autoscaler", "dashboard"),
)
GPU_DUTY = declare(
    "gpu_duty_ratio",
    "gauge",
    ("gpu", "slice"),
    "Share of time that a GPU or a slice was busy; absent without a GPU.",
    ("dashboard",),
)
GPU_MEMORY_USED = declare(
    "gpu_memory_used_bytes",
    "gauge",
    ("gpu", "slice"),
    "Memory in use on a GPU or a slice; absent without a GPU.",
    ("dashboard",),
)
GPU_MEMORY_TOTAL = declare(
    "gpu_memory_total_bytes",
    "gauge",
    ("gpu", "slice"),
    "Memory of a GPU or a slice; absent without a GPU.",
    ("dashboard",),
)
SCENE_CACHE_CAPACITY = declare(
    "scene_cache_capacity_bytes", "gauge", (), "Bytes that the node's scene store may hold.", ("rules", "dashboard")
)
SCENE_CACHE_FREE = declare(
    "scene_cache_free_bytes",
    "gauge",
    (),
    "Bytes still free in the node's scene store.",
    ("rules", "dashboard", "alerts"),
)
SCENE_CACHE_SCENE_BYTES = declare(
    "scene_cache_scene_bytes",
    "gauge",
    ("scene",),
    "Bytes of one scene that lies whole in the node's scene store.",
    ("dashboard",),
)
SCENE_CACHE_FETCHING_BYTES = declare(
    "scene_cache_fetching_bytes",
    "gauge",
    ("scene",),
    "Bytes fetched so far of a scene whose download is in flight.",
    ("dashboard",),
)
MIG_SLICES = declare(
    "mig_slices",
    "gauge",
    ("gpu_model", "profile", "state"),
    "MIG slices that exist on the node, by state (free, used, unhealthy).",
    ("dashboard",),
)
MIG_LARGEST_PLACEABLE = declare(
    "mig_largest_placeable_memory_slices",
    "gauge",
    ("gpu",),
    "Memory slices of the largest profile that could still be placed on a GPU, 0 where it is full.",
    ("dashboard",),
)
DIGEST_GENERATION = declare(
    "exporter_digest_generation", "gauge", (), "Generation of the node digest; it moves when the contents do."
)
