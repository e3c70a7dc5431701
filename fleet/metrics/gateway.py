"""Of the gateway: demand is counted here, so it is valid at zero replicas."""

from __future__ import annotations

from fleet.metrics.family import WAIT_SECONDS, declare

GATEWAY_REQUESTS = declare(
    "gateway_requests_total",
    "counter",
    ("pool", "scene"),
    "Frame requests that arrived, by pool and scene, whatever became of them.",
    ("autoscaler", "dashboard"),
)
GATEWAY_RESPONSES = declare(
    "gateway_responses_total",
    "counter",
    ("pool", "code"),
    "Frame requests answered, by pool and HTTP status code.",
    ("dashboard", "alerts"),
)
GATEWAY_PENDING = declare(
    "gateway_pending_requests",
    "gauge",
    ("pool",),
    "Frame requests that wait in the gateway for a pod or for a scene.",
    ("autoscaler", "dashboard"),
)
GATEWAY_IN_FLIGHT = declare(
    "gateway_in_flight_requests",
    "gauge",
    ("pool",),
    "Frame requests handed to a pod and not answered yet.",
    ("autoscaler",),
)
GATEWAY_WAIT_SECONDS = declare(
    "gateway_wait_seconds",
    "histogram",
    ("pool",),
    "Seconds from the arrival of a request until its render started, waiting for a pod or a scene included.",
    ("autoscaler", "dashboard", "alerts"),
    WAIT_SECONDS,
)
GATEWAY_FRAME_SECONDS = declare(
    "gateway_frame_seconds",
    "histogram",
    ("pool",),
    "Seconds from the arrival of a request until its frame was sent.",
    ("dashboard",),
    WAIT_SECONDS,
)
GATEWAY_COLD_REQUESTS = declare(
    "gateway_cold_requests_total",
    "counter",
    ("pool", "cause"),
    "Requests that met a cold fleet, by cause (pod: no pod was ready; scene: no ready pod held the scene).",
    ("report", "dashboard"),
)
GATEWAY_PODS = declare(
    "gateway_pods",
    "gauge",
    ("pool", "state"),
    "Pods that the gateway knows, by state (ready, draining, unready).",
    ("dashboard",),
)
GATEWAY_FRAME_BYTES = declare(
    "gateway_frame_bytes_total", "counter", ("pool",), "Bytes of pictures sent, by pool.", ("dashboard",)
)
GATEWAY_REFUSALS = declare(
    "gateway_refusals_total",
    "counter",
    ("pool", "error"),
    "Requests and streamed cameras that got no frame, by pool and stable error code.",
    ("dashboard", "alerts"),
)
GATEWAY_SUPERSEDED = declare(
    "gateway_superseded_frames_total",
    "counter",
    ("pool",),
    "Cameras of a session that a newer one replaced before their frame was rendered.",
    ("dashboard",),
)
GATEWAY_SESSIONS = declare(
    "gateway_sessions", "gauge", ("pool",), "Streaming sessions that are open, by pool.", ("dashboard",)
)
