"""Of the scheduler extender."""

from __future__ import annotations

from fleet.metrics.family import HTTP_SECONDS, declare

EXTENDER_SECONDS = declare(
    "extender_request_duration_seconds",
    "histogram",
    ("verb", "nodes"),
    "Seconds that one call of kube-scheduler took, by verb and nodes that it named (up to 100, 1000, 5000, more).",
    ("alerts", "dashboard"),
    HTTP_SECONDS,
)
EXTENDER_REQUESTS = declare(
    "extender_requests_total",
    "counter",
    ("verb", "outcome"),
    "Calls of kube-scheduler by verb and outcome (ok, fail_open, bad_request).",
    ("alerts",),
)
EXTENDER_REJECTIONS = declare(
    "extender_node_rejections_total",
    "counter",
    ("reason",),
    "Nodes that a filter call ruled out, by reason.",
    ("dashboard",),
)
EXTENDER_PLACEMENTS = declare(
    "extender_placements_total",
    "counter",
    ("tier",),
    "Pods bound, by where their scenes lay on the node (resident, disk, fetching, peer, remote, none).",
    ("dashboard",),
)
EXTENDER_STRANDED_SLICES = declare(
    "extender_stranded_memory_slices",
    "gauge",
    (),
    "Free memory slices of MIG GPUs that are of no use to what pods asked for lately.",
)
EXTENDER_RESERVATIONS = declare(
    "extender_reservations", "gauge", (), "Decisions in flight: reserved and neither confirmed, released nor expired."
)
EXTENDER_RESERVATIONS_WITHOUT_POD = declare(
    "extender_reservations_without_pod",
    "gauge",
    (),
    "Reservations whose pod nobody named, or that has ended: 0 after the time to live, whatever was missed.",
)
EXTENDER_RESERVATION_LEAKS = declare(
    "extender_reservations_expired_total", "counter", (), "Reservations that ran out without a pod event.", ("alerts",)
)
EXTENDER_DIGEST_AGE = declare(
    "extender_node_digest_age_seconds",
    "gauge",
    ("node",),
    "Seconds since the digest of a node was last seen.",
    ("alerts",),
)
EXTENDER_CERTIFICATE_NOT_AFTER = declare(
    "extender_certificate_not_after_timestamp_seconds",
    "gauge",
    (),
    "Time at which the certificate that the extender shows expires; absent without TLS.",
    ("alerts",),
)

KEDA_CERTIFICATE_NOT_AFTER = declare(
    "autoscaler_keda_certificate_not_after_timestamp_seconds",
    "gauge",
    (),
    "Time at which the certificate that the autoscaler shows KEDA expires; absent without TLS.",
    ("alerts",),
)
EXTENDER_WAITING = declare(
    "extender_waiting_pods", "gauge", (), "Pods that did not fit any node they were offered.", ("dashboard",)
)
EXTENDER_WAKES = declare(
    "extender_wakes_total",
    "counter",
    ("outcome",),
    "Node annotations written so that kube-scheduler tries waiting pods again, by outcome (ok, failed).",
)
