"""Of the autoscaler."""

from __future__ import annotations

from fleet.metrics.family import HTTP_SECONDS, declare

AUTOSCALER_DESIRED = declare(
    "autoscaler_desired_replicas", "gauge", ("pool",), "Replicas that the last decision asked for.", ("dashboard",)
)
AUTOSCALER_CURRENT = declare(
    "autoscaler_current_replicas", "gauge", ("pool",), "Replicas seen at the last decision.", ("dashboard",)
)
AUTOSCALER_FLOOR = declare(
    "autoscaler_reactive_floor_replicas",
    "gauge",
    ("pool",),
    "Replicas that reacting alone would have asked for.",
    ("dashboard",),
)
AUTOSCALER_FORECAST = declare(
    "autoscaler_forecast_requests_per_second",
    "gauge",
    ("pool", "level"),
    "Forecast of the highest demand inside the lead window, by quantile level.",
    ("dashboard",),
)
AUTOSCALER_DEMAND = declare(
    "autoscaler_demand_requests_per_second",
    "gauge",
    ("pool",),
    "Demand over the last bin as the autoscaler saw it.",
    ("dashboard",),
)
AUTOSCALER_COVERAGE = declare(
    "autoscaler_forecast_coverage_ratio",
    "gauge",
    ("pool",),
    "Share of past forecasts of the working quantile that the demand stayed under.",
    ("alerts", "dashboard"),
)
AUTOSCALER_SKILL = declare(
    "autoscaler_forecast_skill_ratio",
    "gauge",
    ("pool",),
    "Pinball loss of the mixture over that of persistence; below 1 the forecast helps.",
    ("dashboard",),
)
AUTOSCALER_WEIGHT = declare(
    "autoscaler_expert_weight_ratio",
    "gauge",
    ("pool", "expert"),
    "Weight of one expert in the mixture.",
    ("dashboard",),
)
AUTOSCALER_LEAD = declare(
    "autoscaler_lead_seconds",
    "gauge",
    ("pool",),
    "Lead window: the measured start-up quantile plus one tick.",
    ("dashboard",),
)
AUTOSCALER_DECISIONS = declare(
    "autoscaler_decisions_total",
    "counter",
    ("pool", "reason"),
    "Decisions by reason, a closed list.",
    ("dashboard", "alerts"),
)
AUTOSCALER_TICK_SECONDS = declare(
    "autoscaler_tick_duration_seconds", "histogram", (), "Seconds that one tick took.", ("alerts",), HTTP_SECONDS
)
AUTOSCALER_LEADER = declare(
    "autoscaler_leader", "gauge", (), "1 where this autoscaler leads and writes, 0 where it stands by.", ("alerts",)
)
AUTOSCALER_WATCH_AGE = declare(
    "autoscaler_watch_age_seconds",
    "gauge",
    ("resource",),
    "Seconds since the API server was last heard of a resource; absent before the first list.",
    ("alerts",),
)
AUTOSCALER_STARTUP_SECONDS = declare(
    "autoscaler_pod_startup_seconds",
    "histogram",
    ("pool", "stage"),
    "Seconds that pods took to start, by stage (provisioning, fetching, loading) and in whole (total).",
    ("dashboard",),
    (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1200.0),
)
AUTOSCALER_WARM_FAILED = declare(
    "autoscaler_warm_asks_failed_total",
    "counter",
    (),
    "Asks for a scene that neither a scene agent nor a pod took.",
    ("alerts",),
)
COST_SLICE_SECONDS = declare(
    "cost_slice_seconds_total",
    "counter",
    ("use", "pool", "pool_namespace", "capacity_type"),
    "Compute slices of GPUs times seconds, allocated to a pool or idle; a whole GPU is 7 slices.",
    ("dashboard",),
)
COST_MONEY = declare(
    "cost_money_total",
    "counter",
    ("use", "pool", "pool_namespace", "capacity_type"),
    "What the slice-seconds cost, in the money of the price table; absent for capacity types without a price.",
    ("dashboard",),
)
AUTOSCALER_KEDA_REQUESTS = declare(
    "autoscaler_keda_requests_total",
    "counter",
    ("verb", "code"),
    "Calls of KEDA to the external scaler by verb and gRPC status code; an error where nothing is known.",
    ("dashboard", "alerts"),
)
AUTOSCALER_WARM_ASKS = declare(
    "autoscaler_warm_asks_total",
    "counter",
    ("pool", "stage"),
    "Scenes asked to be warmed ahead of need, by stage (disk, memory), and places on nodes (node).",
    ("dashboard",),
)
