"""Every metric that Splatfleet writes: name, type, labels, help, who reads it.

A name exists here and nowhere else; rules, dashboards, docs and code take it from this table.
Base units; `_total` on counters; ratios are 0-1. Names follow the Prometheus naming guide, so that
`promtool check metrics` has nothing to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. `read_by` names who decides or draws by it."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    read_by: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


CATALOGUE: dict[str, Metric] = {}


def _metric(
    name: str,
    kind: Kind,
    labels: tuple[str, ...],
    help: str,
    read_by: tuple[str, ...] = (),
    buckets: tuple[float, ...] = (),
) -> Metric:
    metric = Metric(f"splatfleet_{name}", kind, labels, help, read_by, buckets)
    if metric.name in CATALOGUE:
        raise ValueError(f"metric {metric.name} is declared twice")
    CATALOGUE[metric.name] = metric
    return metric


_FRAME_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_WAIT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_HTTP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

# The model inside Triton (custom metrics of the Python backend).
RENDERER_RESIDENT_SCENES = _metric(
    "renderer_resident_scenes", "gauge", (), "Scenes resident in the memory of this pod.", ("dashboard",)
)
RENDERER_RESIDENT_BYTES = _metric(
    "renderer_resident_bytes", "gauge", (), "Bytes of scenes resident in the memory of this pod.", ("dashboard",)
)
RENDERER_SCENE_RESIDENT_BYTES = _metric(
    "renderer_scene_resident_bytes",
    "gauge",
    ("scene",),
    "Bytes that one scene takes in the memory of this pod, 0 once it was evicted.",
    ("gateway", "exporter"),
)
RENDERER_BUDGET_BYTES = _metric(
    "renderer_budget_bytes", "gauge", (), "Bytes that scenes may take in the memory of this pod.", ("exporter",)
)
RENDERER_SCENE_REQUESTS = _metric(
    "renderer_scene_requests_total",
    "counter",
    ("result",),
    "Frames that found their scene in the memory of this pod (hit) or not (miss); loads ahead of frames do not count.",
    ("dashboard", "report"),
)
RENDERER_EVICTIONS = _metric(
    "renderer_scene_evictions_total",
    "counter",
    ("cause",),
    "Scenes evicted from the memory of this pod by cause (budget, drop, memory).",
    ("dashboard",),
)
RENDERER_SCENE_LOAD_SECONDS = _metric(
    "renderer_scene_load_seconds",
    "histogram",
    ("source",),
    "Seconds from the ask for a scene until it was resident, by where it lay (remote, disk, packed).",
    ("autoscaler", "dashboard"),
    _LOAD_SECONDS,
)
RENDERER_RENDER_SECONDS = _metric(
    "renderer_render_seconds",
    "histogram",
    (),
    "Seconds that one frame took from its start in the model to its encoded end.",
    ("autoscaler", "dashboard"),
    _FRAME_SECONDS,
)
RENDERER_FETCHED_BYTES = _metric(
    "renderer_fetched_bytes_total", "counter", (), "Bytes that this pod fetched from object stores.", ("report",)
)
RENDERER_PEER_BYTES = _metric(
    "renderer_peer_fetched_bytes_total", "counter", (), "Bytes that this pod fetched from other nodes.", ("report",)
)
RENDERER_QUARANTINED = _metric(
    "renderer_quarantined_objects_total",
    "counter",
    (),
    "Objects of the node's store that this pod found damaged and put aside.",
    ("alerts",),
)

# The gateway: demand is counted here, so it is valid at zero replicas.
GATEWAY_REQUESTS = _metric(
    "gateway_requests_total",
    "counter",
    ("pool", "scene"),
    "Frame requests that arrived, by pool and scene, whatever became of them.",
    ("autoscaler", "dashboard"),
)
GATEWAY_RESPONSES = _metric(
    "gateway_responses_total",
    "counter",
    ("pool", "code"),
    "Frame requests answered, by pool and HTTP status code.",
    ("dashboard", "alerts"),
)
GATEWAY_PENDING = _metric(
    "gateway_pending_requests",
    "gauge",
    ("pool",),
    "Frame requests that wait in the gateway for a pod or for a scene.",
    ("autoscaler", "dashboard"),
)
GATEWAY_IN_FLIGHT = _metric(
    "gateway_in_flight_requests",
    "gauge",
    ("pool",),
    "Frame requests handed to a pod and not answered yet.",
    ("autoscaler",),
)
GATEWAY_WAIT_SECONDS = _metric(
    "gateway_wait_seconds",
    "histogram",
    ("pool",),
    "Seconds from the arrival of a request until its render started, waiting for a pod or a scene included.",
    ("autoscaler", "dashboard", "alerts"),
    _WAIT_SECONDS,
)
GATEWAY_FRAME_SECONDS = _metric(
    "gateway_frame_seconds",
    "histogram",
    ("pool",),
    "Seconds from the arrival of a request until its frame was sent.",
    ("dashboard",),
    _WAIT_SECONDS,
)
GATEWAY_COLD_REQUESTS = _metric(
    "gateway_cold_requests_total",
    "counter",
    ("pool", "cause"),
    "Requests that met a cold fleet, by cause (pod: no pod was ready; scene: no ready pod held the scene).",
    ("report", "dashboard"),
)
GATEWAY_PODS = _metric(
    "gateway_pods",
    "gauge",
    ("pool", "state"),
    "Pods that the gateway knows, by state (ready, draining, unready).",
    ("dashboard",),
)
GATEWAY_FRAME_BYTES = _metric(
    "gateway_frame_bytes_total", "counter", ("pool",), "Bytes of pictures sent, by pool.", ("dashboard",)
)
GATEWAY_REFUSALS = _metric(
    "gateway_refusals_total",
    "counter",
    ("pool", "error"),
    "Requests and streamed cameras that got no frame, by pool and stable error code.",
    ("dashboard", "alerts"),
)
GATEWAY_SUPERSEDED = _metric(
    "gateway_superseded_frames_total",
    "counter",
    ("pool",),
    "Cameras of a session that a newer one replaced before their frame was rendered.",
    ("dashboard",),
)
GATEWAY_SESSIONS = _metric(
    "gateway_sessions", "gauge", ("pool",), "Streaming sessions that are open, by pool.", ("dashboard",)
)

# The exporter.
SOURCE_UP = _metric(
    "exporter_source_up",
    "gauge",
    ("source", "target"),
    "1 where the last scrape of a source (triton, scene_cache, gpus, dcgm, renderers) worked, else 0.",
    ("alerts",),
)
SOURCE_SECONDS = _metric(
    "exporter_source_duration_seconds", "gauge", ("source", "target"), "Seconds that the last scrape of a source took."
)
TRITON_QUEUE_SECONDS = _metric(
    "triton_queue_seconds_total",
    "counter",
    ("pod", "pool", "model"),
    "Seconds that completed requests spent in Triton's queue.",
    ("rules", "dashboard"),
)
TRITON_COMPUTE_SECONDS = _metric(
    "triton_compute_seconds_total",
    "counter",
    ("pod", "pool", "model"),
    "Seconds that completed requests spent in compute (input, inference and output).",
    ("rules", "autoscaler"),
)
TRITON_PENDING = _metric(
    "triton_pending_requests",
    "gauge",
    ("pod", "pool", "model"),
    "Requests that wait in Triton, without the one that runs; fresh where the queue counters lag.",
    ("autoscaler", "rules"),
)
TRITON_REQUESTS = _metric(
    "triton_requests_total",
    "counter",
    ("pod", "pool", "model", "outcome"),
    "Requests completed by Triton, by outcome (success, backend, canceled, rejected, other).",
    ("rules", "dashboard"),
)
TRITON_QUEUE_TO_COMPUTE = _metric(
    "triton_queue_to_compute_ratio",
    "gauge",
    ("pod", "pool", "model"),
    "Queue seconds over compute seconds in the exporter's window; absent where nothing was computed.",
    ("autoscaler", "dashboard"),
)
GPU_DUTY = _metric(
    "gpu_duty_ratio",
    "gauge",
    ("gpu", "slice"),
    "Share of time that a GPU or a slice was busy; absent without a GPU.",
    ("dashboard",),
)
GPU_MEMORY_USED = _metric(
    "gpu_memory_used_bytes",
    "gauge",
    ("gpu", "slice"),
    "Memory in use on a GPU or a slice; absent without a GPU.",
    ("dashboard",),
)
GPU_MEMORY_TOTAL = _metric(
    "gpu_memory_total_bytes",
    "gauge",
    ("gpu", "slice"),
    "Memory of a GPU or a slice; absent without a GPU.",
    ("dashboard",),
)
SCENE_CACHE_CAPACITY = _metric(
    "scene_cache_capacity_bytes", "gauge", (), "Bytes that the node's scene store may hold.", ("rules", "dashboard")
)
SCENE_CACHE_FREE = _metric(
    "scene_cache_free_bytes",
    "gauge",
    (),
    "Bytes still free in the node's scene store.",
    ("rules", "dashboard", "alerts"),
)
SCENE_CACHE_SCENE_BYTES = _metric(
    "scene_cache_scene_bytes",
    "gauge",
    ("scene",),
    "Bytes of one scene that lies whole in the node's scene store.",
    ("dashboard",),
)
SCENE_CACHE_FETCHING_BYTES = _metric(
    "scene_cache_fetching_bytes",
    "gauge",
    ("scene",),
    "Bytes fetched so far of a scene whose download is in flight.",
    ("dashboard",),
)
MIG_SLICES = _metric(
    "mig_slices",
    "gauge",
    ("gpu_model", "profile", "state"),
    "MIG slices that exist on the node, by state (free, used, unhealthy).",
    ("dashboard",),
)
MIG_LARGEST_PLACEABLE = _metric(
    "mig_largest_placeable_memory_slices",
    "gauge",
    ("gpu",),
    "Memory slices of the largest profile that could still be placed on a GPU, 0 where it is full.",
    ("dashboard",),
)
DIGEST_GENERATION = _metric(
    "exporter_digest_generation", "gauge", (), "Generation of the node digest; it moves when the contents do."
)

# The scene agent of a node.
AGENT_ASKS = _metric(
    "scene_agent_asks",
    "gauge",
    ("state",),
    "Scenes asked for and not on the node's disk yet, by state (queued, fetching).",
    ("dashboard",),
)
AGENT_FETCHED_BYTES = _metric(
    "scene_agent_fetched_bytes_total",
    "counter",
    ("source",),
    "Bytes that the agent fetched ahead of need, by source (remote, peer).",
    ("report", "dashboard"),
)
AGENT_FETCHES = _metric(
    "scene_agent_fetches_total",
    "counter",
    ("outcome",),
    "Fetches ended, by outcome (stored, failed, paused for a more urgent one, dropped).",
    ("dashboard", "alerts"),
)
AGENT_FETCH_SECONDS = _metric(
    "scene_agent_fetch_seconds",
    "histogram",
    (),
    "Seconds from the ask for a scene until it lay on disk, packed.",
    ("dashboard",),
    _LOAD_SECONDS,
)
AGENT_DEADLINES = _metric(
    "scene_agent_deadlines_total",
    "counter",
    ("outcome",),
    "Deadlines of asks, by outcome (met, missed).",
    ("report", "alerts"),
)
AGENT_SERVED_BYTES = _metric(
    "scene_agent_served_bytes_total", "counter", (), "Bytes of objects served to other nodes.", ("dashboard",)
)
AGENT_QUARANTINED = _metric(
    "scene_agent_quarantined_objects_total",
    "counter",
    (),
    "Objects of the node's store that the agent found damaged and put aside.",
    ("alerts",),
)
AGENT_PRELOADS = _metric(
    "scene_agent_preloads_total",
    "counter",
    (),
    "Scenes that the agent asked itself for, because the fleet wants them and it was idle.",
    ("dashboard",),
)
AGENT_REQUESTS = _metric(
    "scene_agent_requests_total",
    "counter",
    ("verb", "code"),
    "Requests to the agent by verb (ask, drop, list, object) and HTTP status code.",
    ("alerts",),
)

# The scheduler extender.
EXTENDER_SECONDS = _metric(
    "extender_request_duration_seconds",
    "histogram",
    ("verb", "nodes"),
    "Seconds that one call of kube-scheduler took, by verb and nodes that it named (up to 100, 1000, 5000, more).",
    ("alerts", "dashboard"),
    _HTTP_SECONDS,
)
EXTENDER_REQUESTS = _metric(
    "extender_requests_total",
    "counter",
    ("verb", "outcome"),
    "Calls of kube-scheduler by verb and outcome (ok, fail_open, bad_request).",
    ("alerts",),
)
EXTENDER_REJECTIONS = _metric(
    "extender_node_rejections_total",
    "counter",
    ("reason",),
    "Nodes that a filter call ruled out, by reason.",
    ("dashboard",),
)
EXTENDER_PLACEMENTS = _metric(
    "extender_placements_total",
    "counter",
    ("tier",),
    "Pods bound, by where their scenes lay on the node (resident, disk, fetching, peer, remote, none).",
    ("dashboard",),
)
EXTENDER_STRANDED_SLICES = _metric(
    "extender_stranded_memory_slices",
    "gauge",
    (),
    "Free memory slices of MIG GPUs that are of no use to what pods asked for lately.",
)
EXTENDER_RESERVATIONS = _metric(
    "extender_reservations", "gauge", (), "Decisions in flight: reserved and neither confirmed, released nor expired."
)
EXTENDER_RESERVATIONS_WITHOUT_POD = _metric(
    "extender_reservations_without_pod",
    "gauge",
    (),
    "Reservations whose pod nobody named, or that has ended: 0 after the time to live, whatever was missed.",
)
EXTENDER_RESERVATION_LEAKS = _metric(
    "extender_reservations_expired_total", "counter", (), "Reservations that ran out without a pod event.", ("alerts",)
)
EXTENDER_DIGEST_AGE = _metric(
    "extender_node_digest_age_seconds",
    "gauge",
    ("node",),
    "Seconds since the digest of a node was last seen.",
    ("alerts",),
)
EXTENDER_CERTIFICATE_NOT_AFTER = _metric(
    "extender_certificate_not_after_timestamp_seconds",
    "gauge",
    (),
    "Time at which the certificate that the extender shows expires; absent without TLS.",
    ("alerts",),
)

KEDA_CERTIFICATE_NOT_AFTER = _metric(
    "autoscaler_keda_certificate_not_after_timestamp_seconds",
    "gauge",
    (),
    "Time at which the certificate that the autoscaler shows KEDA expires; absent without TLS.",
    ("alerts",),
)
EXTENDER_WAITING = _metric(
    "extender_waiting_pods", "gauge", (), "Pods that did not fit any node they were offered.", ("dashboard",)
)
EXTENDER_WAKES = _metric(
    "extender_wakes_total",
    "counter",
    ("outcome",),
    "Node annotations written so that kube-scheduler tries waiting pods again, by outcome (ok, failed).",
)

# Whoever follows the API server.
WATCH_SYNCED = _metric("watch_synced", "gauge", ("resource",), "1 once the first list of a resource was read.")
WATCH_AGE = _metric(
    "watch_event_age_seconds",
    "gauge",
    ("resource",),
    "Seconds since the API server last said anything about a resource, bookmarks too.",
    ("alerts",),
)
WATCH_FAILURES = _metric(
    "watch_failures_total", "counter", ("resource",), "Lists and watches that ended in an error.", ("alerts",)
)
WATCH_EXPIRED = _metric(
    "watch_expired_total", "counter", ("resource",), "Watches that the API server forgot, so that all was listed again."
)
WATCH_SKIPPED = _metric(
    "watch_skipped_objects_total", "counter", ("resource",), "Objects that could not be read.", ("alerts",)
)

# The autoscaler.
AUTOSCALER_DESIRED = _metric(
    "autoscaler_desired_replicas", "gauge", ("pool",), "Replicas that the last decision asked for.", ("dashboard",)
)
AUTOSCALER_CURRENT = _metric(
    "autoscaler_current_replicas", "gauge", ("pool",), "Replicas seen at the last decision.", ("dashboard",)
)
AUTOSCALER_FLOOR = _metric(
    "autoscaler_reactive_floor_replicas",
    "gauge",
    ("pool",),
    "Replicas that reacting alone would have asked for.",
    ("dashboard",),
)
AUTOSCALER_FORECAST = _metric(
    "autoscaler_forecast_requests_per_second",
    "gauge",
    ("pool", "level"),
    "Forecast of the highest demand inside the lead window, by quantile level.",
    ("dashboard",),
)
AUTOSCALER_DEMAND = _metric(
    "autoscaler_demand_requests_per_second",
    "gauge",
    ("pool",),
    "Demand over the last bin as the autoscaler saw it.",
    ("dashboard",),
)
AUTOSCALER_COVERAGE = _metric(
    "autoscaler_forecast_coverage_ratio",
    "gauge",
    ("pool",),
    "Share of past forecasts of the working quantile that the demand stayed under.",
    ("alerts", "dashboard"),
)
AUTOSCALER_SKILL = _metric(
    "autoscaler_forecast_skill_ratio",
    "gauge",
    ("pool",),
    "Pinball loss of the mixture over that of persistence; below 1 the forecast helps.",
    ("dashboard",),
)
AUTOSCALER_WEIGHT = _metric(
    "autoscaler_expert_weight_ratio",
    "gauge",
    ("pool", "expert"),
    "Weight of one expert in the mixture.",
    ("dashboard",),
)
AUTOSCALER_LEAD = _metric(
    "autoscaler_lead_seconds",
    "gauge",
    ("pool",),
    "Lead window: the measured start-up quantile plus one tick.",
    ("dashboard",),
)
AUTOSCALER_DECISIONS = _metric(
    "autoscaler_decisions_total",
    "counter",
    ("pool", "reason"),
    "Decisions by reason, a closed list.",
    ("dashboard", "alerts"),
)
AUTOSCALER_TICK_SECONDS = _metric(
    "autoscaler_tick_duration_seconds", "histogram", (), "Seconds that one tick took.", ("alerts",), _HTTP_SECONDS
)
AUTOSCALER_LEADER = _metric(
    "autoscaler_leader", "gauge", (), "1 where this autoscaler leads and writes, 0 where it stands by.", ("alerts",)
)
AUTOSCALER_WATCH_AGE = _metric(
    "autoscaler_watch_age_seconds",
    "gauge",
    ("resource",),
    "Seconds since the API server was last heard of a resource; absent before the first list.",
    ("alerts",),
)
AUTOSCALER_STARTUP_SECONDS = _metric(
    "autoscaler_pod_startup_seconds",
    "histogram",
    ("pool", "stage"),
    "Seconds that pods took to start, by stage (provisioning, fetching, loading) and in whole (total).",
    ("dashboard",),
    (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1200.0),
)
AUTOSCALER_WARM_FAILED = _metric(
    "autoscaler_warm_asks_failed_total",
    "counter",
    (),
    "Asks for a scene that neither a scene agent nor a pod took.",
    ("alerts",),
)
COST_SLICE_SECONDS = _metric(
    "cost_slice_seconds_total",
    "counter",
    ("use", "pool", "pool_namespace", "capacity_type"),
    "Compute slices of GPUs times seconds, allocated to a pool or idle; a whole GPU is 7 slices.",
    ("dashboard",),
)
COST_MONEY = _metric(
    "cost_money_total",
    "counter",
    ("use", "pool", "pool_namespace", "capacity_type"),
    "What the slice-seconds cost, in the money of the price table; absent for capacity types without a price.",
    ("dashboard",),
)
AUTOSCALER_KEDA_REQUESTS = _metric(
    "autoscaler_keda_requests_total",
    "counter",
    ("verb", "code"),
    "Calls of KEDA to the external scaler by verb and gRPC status code; an error where nothing is known.",
    ("dashboard", "alerts"),
)
AUTOSCALER_WARM_ASKS = _metric(
    "autoscaler_warm_asks_total",
    "counter",
    ("pool", "stage"),
    "Scenes asked to be warmed ahead of need, by stage (disk, memory), and places on nodes (node).",
    ("dashboard",),
)
